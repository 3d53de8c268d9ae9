from __future__ import annotations

from collections.abc import Sequence

from django import forms

from apps.core.forms import Form
from apps.engine.states import Severity
from apps.notifications.models import Rule
from apps.notifications.services.rules import Match, read_match
from apps.notifications.services.subscriptions import own_addresses
from apps.workflows.models import Workflow
from apps.workflows.services.ownership import MAX_OWNER


class AddressesForm(Form):
    """Whom a workflow's failure is told."""

    #: Those that speak of this workflow besides, to look at.
    rules: Sequence[Rule] = ()

    addresses = forms.CharField(
        required=False,
        max_length=10_000,
        label="Failure notification",
        help_text="E-mail addresses, by commas. One mail when the workflow begins to fail, one "
        "when it has recovered. They count at once and are in no version.",
        widget=forms.TextInput(
            {"inputmode": "email", "autocomplete": "off", "placeholder": "nobody is told"}
        ),
    )

    @staticmethod
    def values_of(workflow: Workflow) -> dict[str, str]:
        return {"addresses": ", ".join(own_addresses(workflow))}


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
        help_text="E-mail addresses, by commas.",
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
