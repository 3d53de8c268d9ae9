"""What the time variables of a run are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from apps.engine.timetable import Timetable
from apps.engine.timevars import Moment
from apps.workflows.services.schedules import frozen_timetable

#: Days from a cycle's date back to the date of its data, where a version says nothing.
DATA_OFFSET = 1

#: How far back the point before a cycle is looked for, the nearest first: most lie near.
_LOOKS = [timedelta(hours=1), timedelta(days=1), timedelta(days=32), timedelta(days=800)]


def moment_of(cycle: datetime, settings: Mapping[str, Any], zone: str) -> Moment:
    """The moment of a cycle (aware), the same whatever starts its run.

    `settings` are those of the workflow's version, {} for a job run by itself; `zone` is the
    run's, an IANA name.
    """
    schedule = settings.get("schedule")
    previous = None
    if schedule is not None:
        previous = _point_before(cycle, frozen_timetable(schedule, zone))
    return Moment(cycle, ZoneInfo(zone), settings.get("data_offset", DATA_OFFSET), previous)


def zone_of(settings: Mapping[str, Any], workspace_zone: str) -> str:
    """The IANA name of the zone of a run that is launched with these settings."""
    return settings.get("zone") or workspace_zone


def _point_before(cycle: datetime, timetable: Timetable) -> datetime | None:
    """The pattern's last point before a cycle, whenever the schedule began; None: none for long."""
    pattern = replace(timetable, started_at=None, ends_on=None)
    until = cycle - timedelta(microseconds=1)
    for back in _LOOKS:
        if points := list(pattern.points(cycle - back, until)):
            return points[-1]
    return None
