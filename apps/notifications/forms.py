from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms

from apps.core.forms import Form
from apps.engine.states import Severity
from apps.nodes.forms import LinesField
from apps.notifications.models import Channel, ChannelKind, Rule
from apps.notifications.services.rules import Match, read_match
from apps.notifications.services.silences import MAX_REASON
from apps.notifications.services.subscriptions import own_addresses
from apps.notifications.services.watching import MAX_MINUTES, Watched, watch_of
from apps.notifications.webhook import new_secret
from apps.workflows.models import Workflow
from apps.workflows.services.ownership import MAX_OWNER
from apps.workspaces.forms import Unshown


class AddressesForm(Form):
    """Whom a workflow's failure is told."""

    #: Those that speak of this workflow besides, to look at.
    rules: Sequence[Rule] = ()

    addresses = forms.CharField(
        required=False,
        max_length=10_000,
        label="Failure notification",
        help_text="E-mail addresses and channels (as channel:ops), by commas. One message when the "
        "workflow begins to fail, one when it has recovered. They count at once and are in no "
        "version. Where nobody is named, the workspace's default channel is told.",
        widget=forms.TextInput(
            {"autocomplete": "off", "placeholder": "the default channel, if there is one"}
        ),
    )

    @staticmethod
    def values_of(workflow: Workflow) -> dict[str, str]:
        return {"addresses": ", ".join(own_addresses(workflow))}


def _minutes(label: str) -> forms.IntegerField:
    return forms.IntegerField(
        label=label,
        required=False,
        min_value=1,
        max_value=MAX_MINUTES,
        widget=forms.NumberInput({"autocomplete": "off"}),
    )


class WatchForm(Form):
    """What of a workflow is told though nothing has failed."""

    start_within_minutes = _minutes("Started within (minutes)")
    done_within_minutes = _minutes("Done within (minutes)")
    done_by = forms.TimeField(
        label="Done by",
        required=False,
        help_text="In the workflow's zone.",
        widget=forms.TimeInput({"type": "time"}, format="%H:%M"),
    )
    values = LinesField(
        label="Numbers",
        required=False,
        help_text="As in load.rows < 1: told when a node leaves such a number in $RUNYARD_OUTPUT, "
        "or none.",
    )
    slow = forms.BooleanField(
        required=False,
        label="Slow: a run takes longer than 1.5 times what nine in ten of its last 30 took",
    )

    @staticmethod
    def values_of(workflow: Workflow) -> dict[str, Any]:
        return vars(watch_of(workflow))

    def said(self) -> Watched:
        return Watched(**self.cleaned_data)


class RuleForm(Form):
    """Which workflows a rule speaks of, and whom it tells."""

    tag = forms.CharField(
        required=False,
        max_length=129,
        help_text="As in team=finance, or team for any value.",
        widget=forms.TextInput(
            {"class": "oc-code-line", "autocomplete": "off", "placeholder": "any"}
        ),
    )
    owner = forms.CharField(
        required=False,
        max_length=MAX_OWNER,
        widget=forms.TextInput({"autocomplete": "off", "placeholder": "anybody"}),
    )
    severity = forms.ChoiceField(
        required=False,
        choices=[("", "any"), *((each.value, each.value) for each in Severity)],
    )
    addresses = forms.CharField(
        required=False,
        max_length=10_000,
        label="Tell",
        help_text="E-mail addresses and channels (as channel:ops), by commas.",
        widget=forms.TextInput(
            {"inputmode": "email", "autocomplete": "off", "placeholder": "name@example.com"}
        ),
    )

    @staticmethod
    def values_of(rule: Rule) -> dict[str, str]:
        return {
            "tag": rule.tag,
            "owner": rule.owner,
            "severity": rule.severity,
            "addresses": ", ".join(rule.addresses),
        }

    def match(self) -> Match:
        """Raises Invalid with every fault."""
        data = self.cleaned_data
        return read_match(data["tag"], data["owner"], data["severity"])


class TestMessageForm(Form):
    address = forms.CharField(
        max_length=254,
        label="Send to",
        widget=forms.TextInput({"inputmode": "email", "placeholder": "name@example.com"}),
    )


class ChannelForm(Form):
    """One channel; `kind` says which of its fields there are."""

    name = forms.CharField(
        max_length=64,
        help_text="Workflows name it as channel:ops.",
        widget=forms.TextInput(
            {"class": "oc-code-line", "autocomplete": "off", "placeholder": "ops"}
        ),
    )
    addresses = forms.CharField(
        required=False,
        max_length=10_000,
        label="E-mail addresses",
        help_text="By commas.",
        widget=forms.TextInput({"autocomplete": "off", "placeholder": "data-team@example.com"}),
    )
    url = forms.CharField(
        required=False,
        strip=True,
        max_length=2_000,
        label="URL",
        widget=Unshown({"class": "oc-unshown", "rows": 2, "autocomplete": "off"}),
    )
    secret = forms.CharField(
        required=False,
        max_length=200,
        widget=forms.TextInput({"class": "oc-code-line", "autocomplete": "off"}),
    )
    is_default = forms.BooleanField(
        required=False,
        label="Default channel: told of workflows that name nobody",
    )

    def __init__(self, kind: str, row: Channel | None, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        kept = " Not shown again, to anybody." if row is None else " Empty: it stays as it is."
        if kind == ChannelKind.MAIL:
            del self.fields["url"]
        else:
            del self.fields["addresses"]
            self.fields["url"].required = row is None
        if kind != ChannelKind.WEBHOOK:
            del self.fields["secret"]
        if kind == ChannelKind.WEBHOOK:
            self.fields["url"].help_text = f"Each message is posted there as JSON.{kept}"
            self.fields["secret"].help_text = (
                "What the receiver checks the signature with. Copy it now: it is not shown again."
                if row is None
                else "Empty: it stays as it is."
            )
            if row is None:
                self.initial.setdefault("secret", new_secret())
        if kind == ChannelKind.APPRISE:
            self.fields["url"].help_text = (
                "As apprise has it: slack://…, msteams://…, dingtalk://…, feishu://…, "
                f"pagerduty://….{kept}"
            )
        if row is not None:
            self.fields["name"].disabled = True
            self.fields["name"].help_text = "A channel's name stays: workflows name it."

    @staticmethod
    def values_of(row: Channel) -> dict[str, object]:
        values = {"name": row.name, "is_default": row.is_default}
        return values | ({"addresses": row.address} if row.kind == ChannelKind.MAIL else {})


class SilenceForm(Form):
    minutes = forms.TypedChoiceField(
        label="For",
        coerce=int,
        initial=240,
        choices=[
            (60, "1 hour"),
            (240, "4 hours"),
            (480, "8 hours"),
            (1440, "1 day"),
            (4320, "3 days"),
            (10080, "1 week"),
            (43200, "30 days"),
        ],
        help_text="From now on. What has failed meanwhile and still does is told once it is over.",
    )
    reason = forms.CharField(
        max_length=MAX_REASON,
        required=False,
        help_text="Shown with it, and told afterwards.",
        widget=forms.TextInput({"autocomplete": "off"}),
    )


class HeartbeatForm(Form):
    url = forms.CharField(
        max_length=2_000,
        label="URL",
        help_text="It is called each minute. Not shown again, to anybody.",
        widget=Unshown({"class": "oc-unshown", "rows": 2, "autocomplete": "off"}),
    )
