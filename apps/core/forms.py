"""The base of every form: our classes on the widgets, our errors on the fields."""

from __future__ import annotations

from typing import Any

from django import forms

from apps.core.errors import Invalid


class Form(forms.Form):
    """A form in the console's look. Templates draw each field by core/_field.html."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("label_suffix", "")
        super().__init__(*args, **kwargs)
        self.dress()

    def dress(self) -> None:
        """Put our classes on the widgets; again, where fields were added."""
        for field in self.fields.values():
            widget = field.widget
            if isinstance(widget, forms.CheckboxInput | forms.RadioSelect):
                continue
            if isinstance(widget, forms.CheckboxSelectMultiple):
                continue
            old = widget.attrs.get("class", "")
            if "oc-input" not in old:
                widget.attrs["class"] = f"oc-input {old}".strip()

    def show_only(self) -> None:
        """For who may look and not change."""
        for field in self.fields.values():
            field.disabled = True

    def add_faults(self, error: Invalid) -> None:
        """Show each fault at its field, or above the form where it has none here."""
        for fault in error.faults:
            self.add_error(fault.field if fault.field in self.fields else None, fault.message)
