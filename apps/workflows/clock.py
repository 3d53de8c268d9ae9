"""What the time variables of a run are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from apps.core.errors import Invalid
from apps.engine.timetable import Timetable
from apps.engine.timevars import Moment
from apps.workflows.services.schedules import frozen_timetable

#: Days from a cycle's date back to the date of its data, where a version says nothing.
DATA_OFFSET = 1

#: Years of a data date that a person may give: any offset from them stays in the calendar.
FIRST_YEAR, LAST_YEAR = 1900, 2999

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
        previous = point_before(cycle, frozen_timetable(schedule, zone))
    return Moment(cycle, ZoneInfo(zone), settings.get("data_offset", DATA_OFFSET), previous)


def cycle_of(data_date: date, settings: Mapping[str, Any], zone: str) -> datetime:
    """The cycle whose data is of this date (aware, UTC), for a run by hand.

    That of the schedule's first point on the day to which the data offset leads, whenever the
    schedule began or ends; of a day without one, its midnight. Arguments as `moment_of` has them.

    Raises Invalid for a date that is too far away, or that the zone does not have.
    """
    check_year(data_date, "data_date")
    here = ZoneInfo(zone)
    day = data_date + timedelta(days=settings.get("data_offset", DATA_OFFSET))
    begin, end = (
        datetime.combine(each, time.min, here).astimezone(UTC)
        for each in (day, day + timedelta(days=1))
    )
    cycle = begin
    if (schedule := settings.get("schedule")) is not None:
        pattern = replace(frozen_timetable(schedule, zone), started_at=None, ends_on=None)
        just = timedelta(microseconds=1)
        cycle = next(pattern.points(begin - just, end - just), begin)
    if moment_of(cycle, settings, zone).data.date() != data_date:
        raise Invalid(f"{day} is no day in {zone}; choose another", "data_date")
    return cycle


def check_year(day: date, field: str) -> None:
    """Raise Invalid, at `field`, for a day from which an offset could leave the calendar."""
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise Invalid(f"{day} is out of reach; give a date from {FIRST_YEAR} to {LAST_YEAR}", field)


def zone_of(settings: Mapping[str, Any], workspace_zone: str) -> str:
    """The IANA name of the zone of a run that is launched with these settings."""
    return settings.get("zone") or workspace_zone


def point_before(cycle: datetime, timetable: Timetable) -> datetime | None:
    """The pattern's last point before a cycle, whenever the schedule began; None: none for long."""
    pattern = replace(timetable, started_at=None, ends_on=None)
    until = cycle - timedelta(microseconds=1)
    for back in _LOOKS:
        if points := list(pattern.points(cycle - back, until)):
            return points[-1]
    return None
