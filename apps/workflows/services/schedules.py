"""A workflow's schedule, from what a draft or a version says to its timetable."""

from __future__ import annotations

import json
import zoneinfo
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from apps.core.errors import FieldFault, Invalid
from apps.engine.timetable import NotATimetable, Timetable
from apps.workflows.models import Workflow, WorkflowVersion

_known_zones = cache(zoneinfo.available_timezones)  # it reads a folder of 600 files


def zone_named(name: str) -> zoneinfo.ZoneInfo:
    """Raises Invalid if there is no such zone."""
    if name not in _known_zones():
        raise Invalid(f"{name!r} is no time zone; use an IANA name such as Europe/Berlin", "zone")
    return zoneinfo.ZoneInfo(name)


def read_schedule(said: Mapping[str, Any], zone: str) -> Timetable:
    """The timetable of a schedule.

    Raises Invalid with every fault, those of a schedule at `schedule.<field>`.
    """
    here = zone_named(zone)
    try:
        return Timetable.read(said, here)
    except NotATimetable as error:
        raise Invalid(
            [
                FieldFault(f"schedule.{fault.field}".removesuffix("."), fault.message)
                for fault in error.faults
            ]
        ) from None


def timetable_of(what: Workflow | WorkflowVersion) -> Timetable | None:
    """What a draft or a version says; None: by hand alone. Raises Invalid for a lost zone."""
    if isinstance(what, Workflow):
        said, zone, workspace = what.schedule, what.zone, what.workspace
    else:
        settings = what.graph["settings"]  # older versions have neither
        said, zone = settings.get("schedule"), settings.get("zone")
        workspace = what.workflow.workspace
        if said is not None:
            return frozen_timetable(said, zone or workspace.zone)
    return None if said is None else read_schedule(said, zone or workspace.zone)


def frozen_timetable(said: Mapping[str, Any], zone: str) -> Timetable:
    """The timetable of a version's schedule: that never changes, and every run asks for it."""
    return _frozen(json.dumps(said), zone)


@lru_cache(maxsize=10_000)
def _frozen(said: str, zone: str) -> Timetable:
    return read_schedule(json.loads(said), zone)
