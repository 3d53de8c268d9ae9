"""Forms of what a person may do to a node of a run."""

from __future__ import annotations

from django import forms

from apps.core.forms import Form


class SuccessForm(Form):
    reason = forms.CharField(
        label="Reason",
        max_length=1000,
        widget=forms.Textarea({"rows": 3}),
        help_text="Stays with the node, under your name.",
        error_messages={"required": "say why the node counts as succeeded"},
    )


class RerunForm(Form):
    scope = forms.ChoiceField(
        label="What runs again",
        choices=[("node", "This node alone"), ("downstream", "This node and all downstream")],
        initial="downstream",
        widget=forms.RadioSelect,
    )
