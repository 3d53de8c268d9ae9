"""The fields of a form that say when a workflow is due."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms

from apps.core.errors import FieldFault, Invalid
from apps.core.forms import Form
from apps.engine.states import Missed
from apps.engine.timetable import LAST, WEEKDAYS, Kind, Timetable
from apps.workflows.models import Workflow
from apps.workflows.services.schedules import read_schedule, timetable_of, zone_named
from apps.workspaces.models import Workspace

_AT = "%Y-%m-%dT%H:%M"
_OFF = {"autocomplete": "off"}


class _WordsField(forms.Field):
    """Words with commas or spaces between them."""

    def to_python(self, value: Any) -> list[str]:
        return str(value or "").replace(",", " ").split()

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, list) else value


def _clock(label: str) -> forms.CharField:
    return forms.CharField(
        label=label, required=False, widget=forms.TextInput({"type": "time", **_OFF})
    )


class ScheduleForm(Form):
    """A schedule and its zone. Which fields count, the kind says; the page shows only those."""

    schedule_kind = forms.ChoiceField(
        label="Scheduling type",
        required=False,
        choices=[
            ("", "None (Manual)"),
            (Kind.DAYS.value, "Days: every day at a time"),
            (Kind.HOURS.value, "Hours: every N hours in a window"),
            (Kind.MINUTES.value, "Minutes: every N minutes in a window"),
            (Kind.WEEKLY.value, "Weekly: on days of the week"),
            (Kind.MONTHLY.value, "Monthly: on days of the month"),
            (Kind.CRON.value, "Cron"),
        ],
    )
    schedule_time = _clock("At")
    schedule_every = forms.IntegerField(
        label="Every", required=False, min_value=1, max_value=59, widget=forms.NumberInput(_OFF)
    )
    schedule_from = _clock("From")
    schedule_to = _clock("To")
    schedule_weekdays = forms.MultipleChoiceField(
        label="Days of the week",
        required=False,
        choices=[(day, day.capitalize()) for day in WEEKDAYS],
        widget=forms.CheckboxSelectMultiple,
    )
    schedule_month_days = _WordsField(
        label="Days of the month",
        required=False,
        help_text="As in: 1, 15, last.",
        widget=forms.TextInput(_OFF),
    )
    schedule_cron = forms.CharField(
        label="Cron expression",
        required=False,
        max_length=100,
        help_text="Minute, hour, day of the month, month, day of the week. As in: 30 2 * * 1-5.",
        widget=forms.TextInput({"class": "oc-code-line", **_OFF}),
    )
    schedule_started_at = forms.CharField(
        label="Scheduling started at",
        required=False,
        help_text="In the workflow's zone. Empty: now.",
        widget=forms.TextInput({"type": "datetime-local", **_OFF}),
    )
    schedule_ends_on = forms.CharField(
        label="Last date",
        required=False,
        help_text="Empty: no end.",
        widget=forms.TextInput({"type": "date", **_OFF}),
    )
    schedule_calendar = forms.ChoiceField(
        label="Calendar",
        required=False,
        choices=[
            ("", "all of its dates"),
            ("left_out", "leaves dates out"),
            ("instead", "takes other dates instead"),
        ],
    )
    schedule_dates = _WordsField(
        label="Dates",
        required=False,
        help_text="As in: 2026-12-24, 2026-12-25.",
        widget=forms.TextInput({"class": "oc-code-line", **_OFF}),
    )
    schedule_missed = forms.ChoiceField(
        label="Missed cycles: after a time when nothing could start",
        required=False,
        choices=[
            (Missed.LATEST.value, "the latest is run"),
            (Missed.ALL.value, "all are run"),
            (Missed.NONE.value, "none is run"),
        ],
    )
    zone = forms.CharField(
        label="Time zone", required=False, max_length=64, widget=forms.TextInput(_OFF)
    )

    def __init__(self, workspace: Workspace, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.workspace = workspace
        self.fields["zone"].widget.attrs["placeholder"] = f"{workspace.zone}, from workspace"
        self.fields["zone"].help_text = "As in: Europe/Berlin."

    @staticmethod
    def schedule_values(workflow: Workflow) -> dict[str, Any]:
        """What the fields show of a draft."""
        said, values = workflow.schedule, {"zone": workflow.zone}
        timetable = timetable_of(workflow)
        if said is None or timetable is None:
            return values
        days = "month_days" if said["kind"] == Kind.MONTHLY else "weekdays"
        calendar = "instead" if said["instead"] is not None else "left_out"
        fields = {
            **{name: said.get(name) for name in ("kind", "time", "every", "from", "to", "cron")},
            "ends_on": said["ends_on"] or "",
            "missed": said["missed"],
            "dates": said[calendar] or [],
            "calendar": calendar if said[calendar] else "",
            days: said.get("days"),
        }
        if timetable.started_at is not None:
            fields["started_at"] = timetable.started_at.astimezone(timetable.zone).strftime(_AT)
        return {**values, **{f"schedule_{name}": value for name, value in fields.items()}}

    def schedule(self) -> dict[str, Any] | None:
        """What was typed, as a draft has it; fields of other kinds are left aside."""
        data = {
            name.removeprefix("schedule_"): value
            for name, value in self.cleaned_data.items()
            if name.startswith("schedule_")
        }
        kind = data["kind"]
        if not kind:
            return None
        said: dict[str, Any] = {"kind": kind, "missed": data["missed"], "ends_on": data["ends_on"]}
        if kind in (Kind.DAYS, Kind.WEEKLY, Kind.MONTHLY):
            said["time"] = data["time"]
        if kind in (Kind.HOURS, Kind.MINUTES):
            said |= {name: data[name] for name in ("every", "from", "to")}
        if kind == Kind.WEEKLY:
            said["days"] = data["weekdays"]
        if kind == Kind.MONTHLY:
            said["days"] = [_number_or_word(day) for day in data["month_days"]]
        if kind == Kind.CRON:
            said["cron"] = data["cron"]
        if data["calendar"]:
            said[data["calendar"]] = data["dates"]
        if data["started_at"]:
            said["started_at"] = self._with_offset(data["started_at"])
        return said

    def timetable(self) -> Timetable | None:
        """Of the form as it stands; None: by hand alone. Raises Invalid."""
        said = self.schedule()
        zone = self.cleaned_data["zone"].strip() or self.workspace.zone
        return None if said is None else read_schedule(said, zone)

    def _with_offset(self, text: str) -> str:
        """A wall-clock time with its zone's offset; what is none stays, and is refused later."""
        try:
            at = datetime.fromisoformat(text)
            zone = zone_named(self.cleaned_data["zone"].strip() or self.workspace.zone)
        except (ValueError, Invalid):
            return text
        return at.replace(tzinfo=zone).isoformat()

    def add_faults(self, error: Invalid) -> None:
        super().add_faults(Invalid([_at_its_field(self, fault) for fault in error.faults]))


def _number_or_word(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else LAST if text == LAST else text


def _at_its_field(form: ScheduleForm, fault: FieldFault) -> FieldFault:
    """A fault of a schedule at the field of this form where it was typed."""
    part, _, name = fault.field.partition(".")
    if part != "schedule":
        return fault
    if name == "days":
        monthly = form.data.get("schedule_kind") == Kind.MONTHLY
        name = "month_days" if monthly else "weekdays"
    if name in ("left_out", "instead"):
        name = "dates"
    return FieldFault(f"schedule_{name or 'kind'}", fault.message)
