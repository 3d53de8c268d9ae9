"""Forms of workspaces, their resource queues, holds and secrets."""

from __future__ import annotations

from decimal import Decimal
from zoneinfo import available_timezones

from django import forms
from django.contrib.auth.forms import AuthenticationForm

from apps.core.forms import Form
from apps.engine.states import Missed
from apps.workspaces.logging_in import log_in
from apps.workspaces.models import ResourceQueue


class LoginForm(AuthenticationForm):
    def clean(self) -> dict[str, object]:
        """Raises TooMany."""
        name, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if name and password and self.request:
            self.user_cache = log_in(self.request, name, password)
            if self.user_cache is None:
                raise self.get_invalid_login_error()
            self.confirm_login_allowed(self.user_cache)
        return self.cleaned_data


class WorkspaceForm(Form):
    name = forms.CharField(
        max_length=64,
        help_text="It stands in every address: letters, digits, '-' and '_'.",
        widget=forms.TextInput({"autofocus": True, "autocomplete": "off"}),
    )
    zone = forms.ChoiceField(
        label="Time zone",
        help_text="Times on its pages, and the default of its workflows' schedules.",
        initial="UTC",
    )

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        zones = ["UTC", *sorted(zone for zone in available_timezones() if "/" in zone)]
        self.fields["zone"].choices = [(zone, zone) for zone in zones]  # type: ignore[attr-defined]


class QueueForm(Form):
    name = forms.CharField(max_length=64, widget=forms.TextInput({"autocomplete": "off"}))
    description = forms.CharField(max_length=200, required=False)
    capacity = forms.DecimalField(
        label="Capacity (CU)",
        min_value=Decimal("0.25"),
        max_value=1_000_000,
        decimal_places=3,
        max_digits=10,
        help_text="1 CU = 1 core and 4 GiB. Nodes beyond it wait.",
    )
    environments = forms.MultipleChoiceField(
        label="For",
        choices=[("development", "Development"), ("production", "Production")],
        widget=forms.CheckboxSelectMultiple,
        help_text="Production runs need a production queue, runs of drafts a development one.",
    )
    spark_master = forms.CharField(
        label="Spark master",
        max_length=200,
        initial="local",
        help_text="local, spark://host:port, yarn or k8s://https://host:port",
        widget=forms.TextInput({"class": "oc-code-line", "autocomplete": "off"}),
    )

    @classmethod
    def values_of(cls, queue: ResourceQueue) -> dict[str, object]:
        return {
            "name": queue.name,
            "description": queue.description,
            "capacity": Decimal(queue.capacity) / 1000,
            "environments": [
                name for name in ("development", "production") if getattr(queue, name)
            ],
            "spark_master": queue.spark_master,
        }

    def settings(self) -> dict[str, object]:
        """What was typed, as the queue's columns."""
        data = self.cleaned_data
        return {
            "name": data["name"],
            "description": data["description"],
            "capacity": int(data["capacity"] * 1000),
            "development": "development" in data["environments"],
            "production": "production" in data["environments"],
            "spark_master": data["spark_master"],
        }


class Unshown(forms.Textarea):
    """A text that is sent and never shown: dots while it is typed, empty after a fault."""

    def format_value(self, value: object) -> str:
        return ""


class SecretForm(Form):
    name = forms.CharField(
        max_length=64,
        help_text="The environment variable that jobs find it in, such as WAREHOUSE_PASSWORD.",
        widget=forms.TextInput({"class": "oc-code-line", "autocomplete": "off"}),
    )
    value = forms.CharField(
        strip=False,
        help_text="From 6 characters on, just as typed. It is not shown again, to anybody.",
        widget=Unshown({"class": "oc-unshown", "rows": 3, "autocomplete": "off"}),
    )

    def clean_value(self) -> str:
        """With the line breaks that were pasted: browsers send others."""
        return str(self.cleaned_data["value"]).replace("\r\n", "\n")


class VariableForm(Form):
    name = forms.CharField(
        max_length=64,
        help_text="Jobs use it as ${name}, scripts as an environment variable.",
        widget=forms.TextInput({"class": "oc-code-line", "autocomplete": "off"}),
    )
    value = forms.CharField(
        strip=False,
        required=False,
        help_text="It may use others, as in /data/${region}/$[yyyyMMdd-1]. Everyone here can read "
        "it: passwords belong into secrets.",
        widget=forms.TextInput({"class": "oc-code-line", "autocomplete": "off"}),
    )


class HoldForm(Form):
    """What to hold: the whole workspace, one of its queues, or a tag of its workflows."""

    on = forms.ChoiceField(label="Hold")
    tag = forms.CharField(
        max_length=129,
        required=False,
        help_text="Where workflows with a tag are held: key=value, or key for any value.",
        widget=forms.TextInput({"class": "oc-code-line", "autocomplete": "off"}),
    )
    reason = forms.CharField(
        max_length=200,
        required=False,
        help_text="Shown with the hold, to whoever wonders why nothing starts.",
        widget=forms.TextInput({"autocomplete": "off"}),
    )

    def __init__(self, queues: list[ResourceQueue], *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.queues = {str(queue.pk): queue for queue in queues}
        self.fields["on"].choices = [  # type: ignore[attr-defined]
            ("workspace", "The whole workspace"),
            *((pk, f"Queue {queue.name}") for pk, queue in self.queues.items()),
            ("tag", "Workflows with a tag"),
        ]

    def clean(self) -> dict[str, object]:
        data = self.cleaned_data
        if data.get("on") == "tag" and not data.get("tag"):
            self.add_error("tag", "name the tag that is to be held")
        if data.get("on") not in (None, "tag") and data.get("tag"):
            self.add_error("tag", "take it out, or choose to hold workflows with a tag")
        return data

    def what(self) -> dict[str, object]:
        """What was chosen, as `hold` takes it."""
        data = self.cleaned_data
        queue = self.queues.get(data["on"])
        return {"queue": queue, "tag": data["tag"], "reason": data["reason"]}


class ReleaseForm(Form):
    missed = forms.ChoiceField(
        label="Cycles that fell due meanwhile",
        choices=[
            (Missed.LATEST.value, "run the latest of each schedule"),
            (Missed.ALL.value, "run all of them"),
            (Missed.NONE.value, "run none of them"),
        ],
        help_text="What a schedule would have started while the hold stood.",
    )
