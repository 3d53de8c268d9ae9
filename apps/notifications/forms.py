from __future__ import annotations

from django import forms

from apps.core.forms import Form
from apps.notifications.services.subscriptions import addresses_of
from apps.workflows.models import Workflow


class AddressesForm(Form):
    """Whom a workflow's failure is told."""

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
        return {"addresses": ", ".join(addresses_of(workflow))}


class TestMessageForm(Form):
    address = forms.CharField(
        max_length=254,
        label="Send to",
        widget=forms.TextInput({"inputmode": "email", "placeholder": "name@example.com"}),
    )
