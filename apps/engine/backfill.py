"""Which cycles a backfill is made of, and in which order.

    pattern = pattern_of(timetable, zone)
    list(of_dates(pattern, 1, date(2026, 3, 1), date(2026, 3, 7)))    # by data dates
    list(of_times(pattern, since, until))                             # by cycle times

A data date is the local date of a cycle less the workflow's data offset, so that one date has
as many cycles as the schedule has points on the day after it. Both ends of a range belong to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from apps.engine.timetable import Kind, Timetable

#: Cycles that one backfill may have.
MOST = 20_000
#: More than so many are asked for twice.
MANY = 1_000
#: Runs of one backfill that may be under way at once.
MOST_AT_ONCE = 1_000
#: Dates that can be asked for.
YEARS = range(1900, 2200)

_DAY = timedelta(days=1)
#: A local date lies within this of the same date in UTC, wherever it is and was.
_AROUND = 2 * _DAY
#: Named dates that are so near are looked for together.
_NEAR = 7 * _DAY


class Order(StrEnum):
    """Which cycle starts first."""

    OLDEST = "oldest"
    NEWEST = "newest"


class Which(StrEnum):
    """Which of the cycles are run."""

    ALL = "all"
    MISSING = "missing"  # no run of the cycle has succeeded
    FAILED = "failed"  # the newest run of the cycle has failed


class Standing(StrEnum):
    """Where a person finds a backfill."""

    RUNNING = "running"
    PAUSED = "paused"
    ENDING = "ending"  # cancelled, and something of it still runs
    SUCCEEDED = "succeeded"  # every cycle has
    FAILED = "failed"  # it is over, and a cycle has failed or was stopped
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Counts:
    """The cycles of a backfill by how they stand now."""

    total: int
    #: No run of theirs was made yet; of one that was cancelled, none will be.
    to_come: int = 0
    #: They have a run of which nothing has started.
    waiting: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    stopped: int = 0

    @property
    def under_way(self) -> int:
        return self.waiting + self.running

    @property
    def over(self) -> int:
        return self.succeeded + self.failed + self.stopped


def standing(counts: Counts, *, paused: bool, cancelled: bool) -> Standing:
    """Where a backfill stands. A cycle whose run is rerun in place is under way again."""
    if cancelled:
        return Standing.ENDING if counts.under_way else Standing.CANCELLED
    if counts.under_way or counts.to_come:
        return Standing.PAUSED if paused else Standing.RUNNING
    return Standing.SUCCEEDED if counts.succeeded == counts.total else Standing.FAILED


class Act(StrEnum):
    """What a person may do to a backfill."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"  # of one that is cancelled: stop what still runs


def acts(*, over: bool, paused: bool, cancelled: bool, stop_running: bool) -> list[Act]:
    """What a person may do to it now."""
    if over or (cancelled and stop_running):
        return []
    if cancelled:
        return [Act.CANCEL]
    return [Act.RESUME if paused else Act.PAUSE, Act.CANCEL]


def pattern_of(timetable: Timetable | None, zone: ZoneInfo) -> Timetable:
    """The pattern that a backfill follows: a schedule's without its bounds, else every midnight.

    Started At and the end date bind the scheduler alone; a calendar is part of the pattern.
    """
    if timetable is None:
        return Timetable(Kind.DAYS, zone, at=time())
    return replace(timetable, started_at=None, ends_on=None)


def data_date(cycle: datetime, zone: ZoneInfo, offset: int) -> date:
    """The date of a cycle's data: what `${ds}` says."""
    return cycle.astimezone(zone).date() - offset * _DAY


def of_dates(pattern: Timetable, offset: int, first: date, last: date) -> Iterator[datetime]:
    """The cycles whose data date is from `first` to `last`, ascending, aware, in UTC."""
    begin = datetime.combine(first + offset * _DAY, time(), UTC) - _AROUND
    end = datetime.combine(last + offset * _DAY, time(), UTC) + _AROUND
    for cycle in pattern.points(begin, end):
        if first <= data_date(cycle, pattern.zone, offset) <= last:
            yield cycle


def of_each_date(pattern: Timetable, offset: int, dates: Iterable[date]) -> Iterator[datetime]:
    """The cycles of each of these data dates, aware, in UTC."""
    chosen = set(dates)
    for first, last in _stretches(sorted(chosen)):
        for cycle in of_dates(pattern, offset, first, last):
            if data_date(cycle, pattern.zone, offset) in chosen:
                yield cycle


def _stretches(days: list[date]) -> Iterator[tuple[date, date]]:
    """First and last of days that lie near each other: to ask for each alone costs more."""
    first = last = None
    for day in days:
        if first is not None and last is not None and day - last > _NEAR:
            yield first, last
            first = day
        first, last = first or day, day
    if first is not None and last is not None:
        yield first, last


def of_times(pattern: Timetable, since: datetime, until: datetime) -> Iterator[datetime]:
    """The cycles from `since` to `until` (aware), ascending, in UTC."""
    return pattern.points(since - timedelta(microseconds=1), until)
