"""What a schedule means, by looking at every minute of a stretch of time.

The rule as docs/schedules.md has it, told a second time and in the most simple-minded way: it
shares no code with apps.engine.timetable, nor with cronsim, and knows of a zone only what its
clock reads at an instant.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


def naive(day: date, hhmm: str) -> datetime:
    return datetime.fromisoformat(f"{day.isoformat()}T{hhmm}")


class Minutes:
    """Every minute from one instant to another, with what the clock on the wall reads then."""

    def __init__(self, zone: str, begin: datetime, end: datetime) -> None:
        here = ZoneInfo(zone)
        count = int((end - begin) / MINUTE)
        self.instants = [begin + n * MINUTE for n in range(count)]
        self.reads = [each.astimezone(here).replace(tzinfo=None) for each in self.instants]
        self.at: dict[datetime, list[int]] = defaultdict(list)
        for n, read in enumerate(self.reads):
            self.at[read].append(n)
        self.jumps = [n for n in range(1, count) if self.reads[n] - self.reads[n - 1] > MINUTE]
        self.dates = {read.date() for read in self.reads}

    def once(self, wanted: datetime) -> Iterator[int]:
        """The first minute that reads so, else the first after the jump over it."""
        if self.at.get(wanted):
            yield self.at[wanted][0]
        else:
            yield from (n for n in self.jumps if self.reads[n - 1] < wanted < self.reads[n])

    def points(self, said: Mapping[str, Any]) -> set[datetime]:
        """Every instant at which the schedule is due, for a schedule as REST takes it."""
        found = {n for day in self.dates if has(said, day) for n in self._of(said, day)}
        due = {self.instants[n]: self.reads[n].date() for n in found}
        began, ends = said.get("started_at"), said.get("ends_on")
        return {
            instant
            for instant, reads in due.items()
            if (not began or instant >= datetime.fromisoformat(began))
            and (not ends or reads <= date.fromisoformat(ends))
        }

    def _of(self, said: Mapping[str, Any], day: date) -> Iterator[int]:
        if "time" in said:
            yield from self.once(naive(day, said["time"]))
        elif said["kind"] == "cron":
            minutes, hours = (
                cron_set(field, most)
                for field, most in zip(said["cron"].split()[:2], (59, 23), strict=True)
            )
            for hour in hours:
                for minute in minutes:
                    wanted = naive(day, f"{hour:02}:{minute:02}")
                    if said["cron"].split()[1].startswith("*"):
                        yield from self.at.get(wanted, ())
                    else:
                        yield from self.once(wanted)
        else:
            opens = naive(day, said.get("from", "00:00"))
            closes = naive(day, said.get("to", "23:59"))
            closes += DAY if closes < opens else timedelta()
            if said["kind"] == "hours":
                while opens <= closes:
                    yield from self.at.get(opens, ())
                    opens += timedelta(hours=said["every"])
            else:
                for anchor in self.once(opens):
                    for n in range(anchor, min(anchor + 5000, len(self.reads)), said["every"]):
                        if opens <= self.reads[n] <= closes:
                            yield n


def has(said: Mapping[str, Any], day: date) -> bool:
    """Whether the schedule has this date."""
    if day.isoformat() in said.get("left_out", ()):
        return False
    if said.get("instead") is not None:
        return day.isoformat() in said["instead"]
    if said["kind"] == "weekly":
        return f"{day:%a}".lower() in said["days"]
    if said["kind"] == "monthly":
        is_last = (day + DAY).day == 1
        return day.day in said["days"] or (is_last and "last" in said["days"])
    if said["kind"] == "cron":
        _, _, of_month, month, of_week = said["cron"].split()
        if day.month not in cron_set(month, 12):
            return False
        by_date = day.day in cron_set(of_month, 31)
        by_week = day.isoweekday() % 7 in {each % 7 for each in cron_set(of_week, 7)}
        if of_month.startswith("*") or of_week.startswith("*"):
            return by_date and by_week
        return by_date or by_week
    return True


def cron_set(field: str, most: int) -> set[int]:
    """The numbers of a field made of numbers, ranges, lists, `*` and steps."""
    found: set[int] = set()
    for term in field.split(","):
        body, _, step = term.partition("/")
        low, _, high = ("0-" + str(most) if body == "*" else body).partition("-")
        least = 1 if body == "*" and most in (12, 31) else int(low)
        found |= set(range(least, int(high or low) + 1, int(step or 1)))
    return found


def changes(zone: str, begin: datetime, end: datetime) -> list[datetime]:
    """Instants, to the minute, at which the clock is put forward or back."""
    here, found = ZoneInfo(zone), []
    at = begin
    while at < end:
        after = at + timedelta(hours=12)
        if at.astimezone(here).utcoffset() != after.astimezone(here).utcoffset():
            minute = at
            while minute.astimezone(here).utcoffset() == at.astimezone(here).utcoffset():
                minute += MINUTE
            found.append(minute)
        at = after
    return found


UTC_2020 = datetime(2020, 1, 1, tzinfo=UTC)
