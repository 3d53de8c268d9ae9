"""Forms of jobs and files. A job's form is made of what its kind declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from apps.core.forms import Form
from apps.nodes.kinds.base import Kind
from apps.nodes.kinds.fields import Field, Type
from apps.workspaces.models import ResourceQueue

_LINE = {"class": "oc-code-line", "autocomplete": "off", "spellcheck": "false"}
_TEXT = {"spellcheck": "false", "autocapitalize": "off", "autocomplete": "off"}
_SEVERAL = {Type.LINES, Type.FILES, Type.NAMES, Type.SETTINGS}


class LinesField(forms.CharField):
    """A list of strings, one a line."""

    syntax = "one a line"

    def __init__(self, **kwargs: Any) -> None:
        attrs = {**_TEXT, "rows": 2, "class": "oc-code-line", "placeholder": self.syntax}
        hint = f"{self.syntax.capitalize()}. {kwargs.pop('help_text', '')}".strip()
        super().__init__(widget=forms.Textarea(attrs), strip=False, help_text=hint, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> list[str]:
        return [line for line in super().clean(value).splitlines() if line.strip()]


class PairsField(LinesField):
    """Names and strings, one `name=value` a line."""

    syntax = "one name=value a line"

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return "\n".join(f"{name}={text}" for name, text in value.items())
        return value

    def clean(self, value: Any) -> dict[str, str]:  # type: ignore[override]
        pairs: dict[str, str] = {}
        for line in super().clean(value):
            name, equals, text = line.partition("=")
            if not equals:
                raise ValidationError(f"{line!r} is no pair; write name=value")
            if name.strip() in pairs:
                raise ValidationError(f"{name.strip()} is set twice; take one out")
            pairs[name.strip()] = text
        return pairs


def form_field(declared: Field) -> forms.Field:
    """The form field for a kind's field. A draft may be incomplete, so that none is required."""
    common: dict[str, Any] = {
        "label": declared.label,
        "help_text": declared.help,
        "required": False,
    }
    default = "" if declared.default is None else str(declared.default)
    match declared.type:
        case Type.TEXT:
            attrs = {**_TEXT, "rows": 18, "class": "oc-code", "wrap": "off"}
            return forms.CharField(widget=forms.Textarea(attrs), strip=False, **common)
        case Type.LINES | Type.FILES:
            return LinesField(**common)
        case Type.NAMES | Type.SETTINGS:
            return PairsField(**common)
        case Type.INTEGER:
            return forms.IntegerField(
                min_value=declared.minimum,
                max_value=declared.maximum,
                widget=forms.NumberInput({"placeholder": default, "autocomplete": "off"}),
                **common,
            )
        case _ if declared.choices:
            blank = f"{default} (default)" if default else "–"
            choices = [("", blank), *((choice, choice) for choice in declared.choices)]
            return forms.ChoiceField(choices=choices, **common)
        case _:
            attrs = {**_LINE, "placeholder": default}
            if declared.type is Type.FILE:
                attrs["list"] = "oc-files"
            return forms.CharField(widget=forms.TextInput(attrs), **common)


class SpecForm(Form):
    """A job's draft: the fields of its kind, and the queue it runs in by itself."""

    revision = forms.IntegerField(widget=forms.HiddenInput)
    queue = forms.ModelChoiceField(
        ResourceQueue.objects.none(),
        required=False,
        label="Resource queue",
        empty_label="as each workflow says",
        help_text="Default of the nodes that use this job.",
    )

    def __init__(
        self, kind: Kind, queues: Iterable[ResourceQueue], *args: Any, **kwargs: Any
    ) -> None:
        self.kind = kind
        self.declared = {declared.name: declared for declared in kind.fields}
        super().__init__(*args, **kwargs)
        self.fields |= {name: form_field(each) for name, each in self.declared.items()}
        self.dress()
        self.fields["queue"].queryset = queues  # type: ignore[attr-defined]
        # The text stands in the form element, the settings beside it.
        for field in self.fields.values():
            field.widget.attrs["form"] = "oc-draft"

    def show_only(self) -> None:
        super().show_only()
        for field in self.fields.values():
            if isinstance(field, LinesField):
                del field.widget.attrs["placeholder"]  # an empty list, not one to be typed

    @property
    def text(self) -> forms.BoundField | None:
        """The field that is the job itself: the one with many lines."""
        names = (d.name for d in self.kind.fields if d.type is Type.TEXT)
        name = next(names, None)
        return self[name] if name else None

    @property
    def sections(self) -> list[tuple[str, list[tuple[forms.BoundField, bool]]]]:
        """(title, fields and whether each is wide) of everything but the text."""
        found: dict[str, list[tuple[forms.BoundField, bool]]] = {}
        for name, declared in self.declared.items():
            if declared.type is Type.TEXT:
                continue
            title = name.partition(".")[0].title() if "." in name else ""
            wide = declared.type not in (Type.INTEGER, Type.MEMORY)
            found.setdefault(title, []).append((self[name], wide))
        return list(found.items())

    def spec(self) -> dict[str, Any]:
        """What was typed, as a spec; what was left empty is left out."""
        spec: dict[str, Any] = {}
        for name in self.declared:
            value = self.cleaned_data.get(name)
            if value in (None, "", [], {}):
                continue
            if self.declared[name].type is Type.TEXT:
                value = value.replace("\r\n", "\n")
            section, _, last = name.rpartition(".")
            (spec.setdefault(section, {}) if section else spec)[last] = value
        return spec

    @staticmethod
    def values_of(kind: Kind, spec: Mapping[str, Any]) -> dict[str, Any]:
        """A spec as the form's initial values: what is set, without defaults."""
        values: dict[str, Any] = {}
        for declared in kind.fields:
            section, _, last = declared.name.rpartition(".")
            place = (spec.get(section) or {}) if section else spec
            values[declared.name] = place.get(last)
        return values


class CreateJobForm(Form):
    path = forms.CharField(
        max_length=255,
        help_text="Folders and a name, such as etl/clean_flights.",
        widget=forms.TextInput({**_LINE, "autofocus": True, "list": "oc-folders"}),
    )
    kind = forms.ChoiceField(widget=forms.RadioSelect)

    def __init__(self, kinds: Iterable[Kind], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["kind"].choices = [  # type: ignore[attr-defined]
            (kind.name, kind.label) for kind in kinds
        ]


class RemarksForm(Form):
    """What a person says about a version."""

    remarks = forms.CharField(
        required=False,
        max_length=2000,
        label="Remarks",
        help_text="What changed, and why. Shown in the list of versions.",
        widget=forms.Textarea({"rows": 3, "autofocus": True}),
    )


class MoveForm(Form):
    path = forms.CharField(
        max_length=255, label="New path", widget=forms.TextInput({**_LINE, "autofocus": True})
    )


class UploadForm(Form):
    # Empty ones too: an `__init__.py` often is.
    content = forms.FileField(label="File", allow_empty_file=True)
    path = forms.CharField(
        max_length=255,
        required=False,
        label="Path in the workspace",
        help_text="Such as jars/etl.jar. Left empty: the file's own name. A path that is taken "
        "gets the new content.",
        widget=forms.TextInput(_LINE),
    )
