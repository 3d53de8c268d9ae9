"""When a workflow is due: from a schedule to points in time.

    timetable = Timetable.read({"kind": "days", "time": "02:00"}, ZoneInfo("Europe/Berlin"))
    list(timetable.points(after, until))       # aware, UTC, in (after, until]
    timetable.following(now, 5)                # the next five

A pattern is written in wall-clock time of its zone; what becomes of it where the clock changes
depends on what it says:

- A fixed time (days, weekly, monthly, cron with a fixed hour) comes once a day. Where the clock
  skips it, at the first instant after the gap; where it comes twice, at the first.
- Hours, and cron whose hour begins with `*`, are every real hour that reads so: two where the
  time comes twice, none where it is skipped.
- Minutes are time that elapses, counted from the first instant of the window's start; those that
  read within the window.
- A date that does not exist (Apia, 2011-12-30) has no points, and two points on one instant are
  one.

The rule on fixed times is ours, after Debian's cron; the product that we follow has none.
"""

from __future__ import annotations

import calendar
import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from apps.engine.states import Missed

_T = TypeVar("_T")
_Word = TypeVar("_Word", bound=StrEnum)


class Kind(StrEnum):
    DAYS = "days"  # every day at a time
    HOURS = "hours"  # every N hours in a window of the day
    MINUTES = "minutes"  # every N minutes in a window of the day
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    CRON = "cron"


WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
#: Among the days of a month: its last.
LAST = "last"
MAX_DATES = 1_000
MAX_CRON = 100

#: Patterns whose next point lies further ahead are taken for such as never come.
HORIZON = timedelta(days=3660)

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
#: No zone is further from UTC, not even before there was any.
_FARTHEST = timedelta(hours=16)
#: Any date; cron's times of day are the same on each.
_SOME_DAY = datetime(2001, 1, 1)  # noqa: DTZ001 -- wall-clock time

_WHOLE_DAY = (time(), time(23, 59))
#: That a schedule may name.
_YEARS = range(1900, 2200)
_LONG_AGO = date(2000, 1, 1)

#: What a schedule of each kind says besides what every schedule does.
_OWN = {
    Kind.DAYS: ("time",),
    Kind.HOURS: ("every", "from", "to"),
    Kind.MINUTES: ("every", "from", "to"),
    Kind.WEEKLY: ("days", "time"),
    Kind.MONTHLY: ("days", "time"),
    Kind.CRON: ("cron",),
}
_OF_ALL = ("kind", "started_at", "ends_on", "left_out", "instead", "missed")
#: Every name that a schedule of some kind has.
FIELDS = (*_OF_ALL, *dict.fromkeys(name for names in _OWN.values() for name in names))


@dataclass(frozen=True)
class Fault:
    """What is wrong with a schedule; `field` is one of FIELDS, or "" for the whole."""

    field: str
    message: str


class NotATimetable(ValueError):
    """A schedule that cannot be, with everything that is wrong with it."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = tuple(faults)


@dataclass(frozen=True)
class Timetable:
    """A pattern in a zone, and from when to when it holds.

    `started_at` is aware, and a point equal to it counts; `ends_on` is the last date, in the
    zone, on which a point may lie. None: no bound.
    """

    kind: Kind
    zone: ZoneInfo
    at: time = time()
    every: int = 1
    window: tuple[time, time] = _WHOLE_DAY
    weekdays: frozenset[int] = frozenset()  # Monday is 0
    month_days: frozenset[int | str] = frozenset()
    cron: str = ""
    left_out: frozenset[date] = frozenset()
    #: In the place of the dates that the pattern has.
    instead: frozenset[date] | None = None
    started_at: datetime | None = None
    ends_on: date | None = None
    missed: Missed = Missed.LATEST

    @classmethod
    def read(cls, data: Mapping[str, Any], zone: ZoneInfo) -> Timetable:
        """A schedule as drafts and REST have it. Times are "HH:MM", dates "YYYY-MM-DD".

        Raises NotATimetable with every fault.
        """
        return _Reading(data).timetable(zone)

    def write(self) -> dict[str, Any]:
        """As JSON that `read` takes; equal for what is equal."""
        said: dict[str, Any] = {
            "kind": self.kind.value,
            "time": f"{self.at:%H:%M}",
            "every": self.every,
            "from": f"{self.window[0]:%H:%M}",
            "to": f"{self.window[1]:%H:%M}",
            "cron": self.cron,
        }
        if self.kind is Kind.WEEKLY:
            said["days"] = [WEEKDAYS[day] for day in sorted(self.weekdays)]
        else:
            said["days"] = sorted(self.month_days, key=lambda day: (isinstance(day, str), day))
        own = {name: said[name] for name in ("kind", *_OWN[self.kind])}
        return own | {
            "started_at": None
            if self.started_at is None
            else f"{self.started_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "ends_on": self.ends_on.isoformat() if self.ends_on else None,
            "left_out": sorted(day.isoformat() for day in self.left_out),
            "instead": None
            if self.instead is None
            else sorted(day.isoformat() for day in self.instead),
            "missed": self.missed.value,
        }

    def in_words(self) -> str:
        """The pattern, without its zone and bounds: "every day at 02:00"."""
        at = f"at {self.at:%H:%M}"
        opens, closes = self.window
        within = "" if (opens, closes) == _WHOLE_DAY else f" from {opens:%H:%M} to {closes:%H:%M}"
        if self.kind is Kind.CRON:
            words = f"by cron {self.cron}"
        elif self.kind in (Kind.HOURS, Kind.MINUTES):
            unit = self.kind.value.removesuffix("s")
            count = f" {self.every}" if self.every > 1 else ""
            words = f"every{count} {unit}{'s' if self.every > 1 else ''}{within}"
        elif self.kind is Kind.WEEKLY:
            days = ", ".join(WEEKDAYS[day].capitalize() for day in sorted(self.weekdays))
            words = f"every {days} {at}"
        elif self.kind is Kind.MONTHLY:
            words = f"monthly on day {', '.join(map(str, self.write()['days']))} {at}"
        else:
            words = f"every day {at}"
        if self.instead is not None:
            return f"{words}, on {_dates_in_words(len(self.instead))} instead"
        if self.left_out:
            return f"{words}, but for {_dates_in_words(len(self.left_out))}"
        return words

    def following(self, after: datetime, count: int) -> list[datetime]:
        """The next points after an instant, as far as `HORIZON` ahead; fewer where it ends."""
        begin = after if self.started_at is None else max(after, self.started_at)
        return list(islice(self.points(after, begin + HORIZON), count))

    def points(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Points in (after, until], ascending, each once, as aware UTC datetimes.

        The half-open end makes consecutive calls meet without gap or double: the scheduler asks
        for (last, now], the editor for (now, now + HORIZON].
        """
        if self.started_at is not None:
            after = max(after, self.started_at - timedelta(microseconds=1))
        last = None
        for point in self._merged(after, until):
            if point > until:
                return
            if self.ends_on is not None and self._read_at(point).date() > self.ends_on:
                continue  # a window past midnight goes on; another date's points may come first
            if point > after and point != last:
                last = point
                yield point

    def _merged(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Points of all dates that may have one in (after, until], ascending, not yet cut.

        A clock that goes back at midnight makes dates overlap, hence the heap.
        """
        open_dates: list[tuple[datetime, int, Iterator[datetime]]] = []

        def until_then(bound: datetime) -> Iterator[datetime]:
            while open_dates and open_dates[0][0] < bound:
                point, n, rest = open_dates[0]
                yield point
                following = next(rest, None)
                if following is None:
                    heapq.heappop(open_dates)
                else:
                    heapq.heapreplace(open_dates, (following, n, rest))

        first = self._read_at(after).date() - 2 * _DAY
        end = min(self.ends_on, date.max - 3 * _DAY) if self.ends_on else date.max - 3 * _DAY
        for n, day in enumerate(self._dates(first)):
            earliest = _midnight(day).replace(tzinfo=UTC) - _FARTHEST
            if day > end or earliest > until:
                break
            yield from until_then(earliest)
            if self._last(_midnight(day + 2 * _DAY)) < after or not self._exists(day):
                continue
            points = self._points_of(day, after)
            head = next(points, None)
            if head is not None:
                heapq.heappush(open_dates, (head, n, points))
        yield from until_then(until + _SECOND)

    def _dates(self, first: date) -> Iterator[date]:
        """Dates that the pattern has, from this one on."""
        if self.instead is not None:
            found: Iterator[date] = iter(sorted(day for day in self.instead if day >= first))
        elif self.kind is Kind.CRON:
            days = " ".join(self.cron.split()[2:])
            found = (at.date() for at in CronSim(f"0 0 {days}", _midnight(first) - _SECOND))
        else:
            every_day = (first + n * _DAY for n in range((date.max - first).days))
            found = filter(self._has, every_day)
        return (day for day in found if day not in self.left_out)

    def _has(self, day: date) -> bool:
        if self.kind is Kind.WEEKLY:
            return day.weekday() in self.weekdays
        if self.kind is Kind.MONTHLY:
            last = calendar.monthrange(day.year, day.month)[1]
            return day.day in self.month_days or (LAST in self.month_days and day.day == last)
        return True

    def _points_of(self, day: date, after: datetime) -> Iterator[datetime]:
        """Points of one date, ascending; those up to `after` may be left out."""
        begin = _midnight(day)
        if self.kind is Kind.MINUTES:
            return self._elapsed(begin, after)
        if self.kind is Kind.HOURS:
            opens, closes = self._window_of(begin)
            step = timedelta(hours=self.every)
            count = (closes - opens) // step + 1
            return self._real([opens + n * step for n in range(count)], after)
        if self.kind is Kind.CRON:
            times = [begin + each for each in _times_of_day(self.cron)]
            if self.cron.split()[1].startswith("*"):
                return self._real(times, after)
            return iter(sorted({self._first(each) for each in times}))
        return iter([self._first(begin + _since_midnight(self.at))])

    def _window_of(self, begin: datetime) -> tuple[datetime, datetime]:
        """The window that opens on this date, in wall-clock time; it may close on the next."""
        opens, closes = (begin + _since_midnight(each) for each in self.window)
        return opens, closes if closes > opens else closes + _DAY

    def _real(self, times: list[datetime], after: datetime) -> Iterator[datetime]:
        """Every instant that reads one of these times, ascending."""
        # Only a clock that goes back puts a later time before an earlier one.
        if self._last(times[-1]) - self._first(times[0]) == times[-1] - times[0]:
            return (point for each in times for point in self._instants(each, after))
        return iter(sorted(point for each in times for point in self._instants(each, after)))

    def _elapsed(self, begin: datetime, after: datetime) -> Iterator[datetime]:
        opens, closes = self._window_of(begin)
        anchor, end, step = self._first(opens), self._last(closes), timedelta(minutes=self.every)
        point = anchor + max((after - anchor) // step, 0) * step
        while point <= end:
            if opens <= self._read_at(point) <= closes:
                yield point
            point += step

    # --- the zone's clock -----------------------------------------------------------------

    def _read_at(self, instant: datetime) -> datetime:
        """What the clock on the wall reads then, naive."""
        return instant.astimezone(self.zone).replace(tzinfo=None)

    def _instants(self, wall: datetime, after: datetime | None = None) -> list[datetime]:
        """The instants at which the clock reads so: none, one or two."""
        first = _utc(wall, self.zone, 0)
        second = _utc(wall, self.zone, 1)
        if first == second:
            return [first] if after is None or first > after else []
        if second < first:  # in a gap the later offset gives the earlier instant
            return []
        return [first, second]

    def _first(self, wall: datetime) -> datetime:
        """The first instant that reads so, or the first one after the gap that it is in."""
        found = self._instants(wall)
        return found[0] if found else self._end_of_gap(wall)

    def _last(self, wall: datetime) -> datetime:
        """The last instant that reads so, or the end of the gap that it is in."""
        found = self._instants(wall)
        return found[-1] if found else self._end_of_gap(wall)

    def _end_of_gap(self, wall: datetime) -> datetime:
        early, late = _utc(wall, self.zone, 1), _utc(wall, self.zone, 0)
        while late - early > _SECOND:
            middle = early + (late - early) // _SECOND // 2 * _SECOND
            if self._read_at(middle) < wall:
                early = middle
            else:
                late = middle
        return late

    def _exists(self, day: date) -> bool:
        return self._read_at(self._first(_midnight(day))).date() == day


def _dates_in_words(count: int) -> str:
    return "1 date" if count == 1 else f"{count} dates"


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time())


def _since_midnight(at: time) -> timedelta:
    return timedelta(hours=at.hour, minutes=at.minute)


def _utc(wall: datetime, zone: ZoneInfo, fold: int) -> datetime:
    return wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)


@lru_cache(maxsize=1024)
def _times_of_day(cron: str) -> tuple[timedelta, ...]:
    """Since midnight, what the first two fields say."""
    minute, hour, *_ = cron.split()
    found = []
    for at in CronSim(f"{minute} {hour} * * *", _SOME_DAY - _SECOND):
        if at >= _SOME_DAY + _DAY:
            break
        found.append(at - _SOME_DAY)
    return tuple(found)


class _Reading:
    """Reads a schedule field by field and keeps what is wrong, to say it all at once."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        self.faults: list[Fault] = []

    def timetable(self, zone: ZoneInfo) -> Timetable:
        kind = self._word("kind", Kind)
        missed = self._word("missed", Missed) if self._said("missed") else Missed.LATEST
        began = self._one("started_at", _moment) if self._said("started_at") else None
        ends_on = self._one("ends_on", _date) if self._said("ends_on") else None
        left_out = self._dates("left_out")
        instead = self._dates("instead") if self.data.get("instead") is not None else None
        if left_out and instead is not None:
            self._fault("instead", "dates are left out, or taken instead; say one of the two")
        if instead is not None and not instead:
            self._fault("instead", "no date is named; name one, or leave it out")
        if kind is None or missed is None:
            raise NotATimetable(self.faults)
        for name in self.data.keys() - set(_OF_ALL) - set(_OWN[kind]):
            if self._said(name):
                self._fault(name, f"a schedule of the kind {kind.value!r} has no {name!r}")
        timetable = Timetable(
            kind,
            zone,
            left_out=left_out or frozenset(),
            instead=instead,
            started_at=began,
            ends_on=ends_on,
            missed=missed,
        )
        timetable = replace(timetable, **self._own(kind))
        if self.faults:
            raise NotATimetable(self.faults)
        first = min(instead) if instead else ends_on - HORIZON if ends_on else _LONG_AGO
        since = began or datetime.combine(first, time(), UTC) - 2 * _DAY
        if not timetable.following(since, 1):
            message = "it never comes: no point lies between its start and its end; change it"
            raise NotATimetable([Fault("", message)])
        return timetable

    def _own(self, kind: Kind) -> dict[str, Any]:
        found: dict[str, Any] = {}
        names = _OWN[kind]
        if "time" in names:
            found["at"] = self._needed("time", _clock) or time()
        if "every" in names:
            most, unit = (23, "hours") if kind is Kind.HOURS else (59, "minutes")
            every = self.data.get("every")
            if type(every) is not int or not 1 <= every <= most:
                self._fault("every", f"every how many {unit}? say a number from 1 to {most}")
            else:
                found["every"] = every
            opens = self._one("from", _clock) if self._said("from") else time()
            closes = self._one("to", _clock) if self._said("to") else time(23, 59)
            if opens is not None and opens == closes:
                self._fault(
                    "to", f"the window begins and ends at {opens:%H:%M}; let it end at another time"
                )
            if opens is not None and closes is not None:
                found["window"] = (opens, closes)
        if kind is Kind.WEEKLY:
            found["weekdays"] = self._days(
                lambda day: WEEKDAYS.index(day), "name days of the week, as in: mon, fri"
            )
        if kind is Kind.MONTHLY:
            found["month_days"] = self._days(
                _day_of_month, f"name days of the month from 1 to 31, or {LAST}"
            )
        if kind is Kind.CRON:
            found["cron"] = self._needed("cron", _cron) or ""
        return found

    def _said(self, name: str) -> bool:
        return self.data.get(name) not in (None, "", [])

    def _fault(self, name: str, message: str) -> None:
        self.faults.append(Fault(name, message))

    def _word(self, name: str, words: type[_Word]) -> _Word | None:
        said = self.data.get(name)
        if said in list(words):
            return words(said)
        known = ", ".join(each.value for each in words)
        self._fault(name, f"{said!r} is no {name} of a schedule; choose one of {known}")
        return None

    def _one(self, name: str, read: Callable[[str], _T]) -> _T | None:
        said = self.data[name]
        try:
            if not isinstance(said, str):
                raise ValueError
            return read(said)
        except (ValueError, CronSimError):
            self._fault(name, f"{said!r} is no {_WHAT[name]}")
            return None

    def _needed(self, name: str, read: Callable[[str], _T]) -> _T | None:
        if self._said(name):
            return self._one(name, read)
        self._fault(name, f"it lacks a {_WHAT[name]}")
        return None

    def _days(self, read: Callable[[Any], _T], how: str) -> frozenset[_T]:
        said = self.data.get("days")
        try:
            if not isinstance(said, list) or not said:
                raise ValueError
            return frozenset(map(read, said))
        except (ValueError, TypeError):
            self._fault("days", how)
            return frozenset()

    def _dates(self, name: str) -> frozenset[date] | None:
        said = self.data.get(name) or []
        if not isinstance(said, list) or len(said) > MAX_DATES:
            self._fault(name, f"name dates as a list, {MAX_DATES:,} at most")
            return None
        found = set()
        for each in said:
            try:
                found.add(_date(each))
            except (ValueError, TypeError):
                self._fault(name, f"{each!r} is no date; write it as 2026-12-24")
        return frozenset(found)


_WHAT = {
    "time": "time of day; write it as 02:30",
    "from": "time of day; write it as 08:00",
    "to": "time of day; write it as 18:00",
    "started_at": "point in time; write it as 2026-03-01T00:00:00Z, with its offset",
    "ends_on": "date; write it as 2026-12-31",
    "cron": "cron expression of 5 fields that comes at all; write it as: 30 2 * * 1-5",
}


def _clock(text: str) -> time:
    if len(text) != 5:
        raise ValueError
    return datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007 -- wall-clock time


def _date(text: str) -> date:
    found = date.fromisoformat(text)
    if found.year not in _YEARS:
        raise ValueError
    return found


def _moment(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None or at.year not in _YEARS:
        raise ValueError
    return at.astimezone(UTC).replace(microsecond=0)


def _day_of_month(said: Any) -> int | str:
    if said == LAST or (type(said) is int and 1 <= said <= 31):
        return said  # type: ignore[no-any-return]
    raise ValueError


def _cron(text: str) -> str:
    fields = text.upper().split()
    if len(fields) != 5 or len(text) > MAX_CRON:
        raise ValueError
    CronSim(" ".join(fields), _SOME_DAY)
    return " ".join(fields)
