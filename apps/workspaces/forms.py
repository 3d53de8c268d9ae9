"""Forms of workspaces and their resource queues."""

from __future__ import annotations

from decimal import Decimal
from zoneinfo import available_timezones

from django import forms
from django.contrib.auth.forms import AuthenticationForm

from apps.core.forms import Form
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
