"""Which cycles a backfill is made of."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.engine.backfill import (
    Counts,
    Standing,
    data_date,
    of_dates,
    of_each_date,
    of_times,
    pattern_of,
    standing,
)
from apps.engine.timetable import Timetable
from apps.engine.timevars import BUILT_IN, Moment

BERLIN = ZoneInfo("Europe/Berlin")


def pattern(zone: str = "Europe/Berlin", **schedule: object) -> Timetable:
    here = ZoneInfo(zone)
    return pattern_of(Timetable.read(schedule, here) if schedule else None, here)


def local(cycles: object, zone: ZoneInfo = BERLIN) -> list[str]:
    return [f"{cycle.astimezone(zone):%m-%d %H:%M}" for cycle in cycles]


def test_without_a_schedule_each_day_has_one_cycle_at_midnight_of_the_zone():
    found = of_dates(pattern(), 1, date(2026, 3, 28), date(2026, 3, 30))

    assert local(found) == ["03-29 00:00", "03-30 00:00", "03-31 00:00"]


def test_bounds_of_the_schedule_do_not_bind_a_backfill_and_its_calendar_does():
    daily = pattern(
        kind="days",
        time="02:00",
        started_at="2026-06-01T00:00:00Z",
        ends_on="2026-06-30",
        left_out=["2026-03-03"],
    )

    found = of_dates(daily, 1, date(2026, 3, 1), date(2026, 3, 4))

    assert local(found) == ["03-02 02:00", "03-04 02:00", "03-05 02:00"]


@pytest.mark.parametrize(
    ("day", "schedule", "expected"),
    [
        # The clock goes from 02:00 to 03:00.
        pytest.param(
            date(2026, 3, 29),
            {"kind": "days", "time": "02:30"},
            ["03-29 03:00"],
            id="a time that is skipped",
        ),
        pytest.param(
            date(2026, 3, 29),
            {"kind": "hours", "every": 1, "from": "01:00", "to": "04:00"},
            ["03-29 01:00", "03-29 03:00", "03-29 04:00"],
            id="hours without the one that is skipped",
        ),
        # The clock goes from 03:00 back to 02:00.
        pytest.param(
            date(2026, 10, 25),
            {"kind": "days", "time": "02:30"},
            ["10-25 02:30"],
            id="a time that comes twice",
        ),
        pytest.param(
            date(2026, 10, 25),
            {"kind": "hours", "every": 1, "from": "01:00", "to": "03:00"},
            ["10-25 01:00", "10-25 02:00", "10-25 02:00", "10-25 03:00"],
            id="both hours that read so",
        ),
        # By the date of the point, not of the window that it lies in.
        pytest.param(
            date(2026, 3, 2),
            {"kind": "minutes", "every": 30, "from": "23:00", "to": "00:30"},
            ["03-02 00:00", "03-02 00:30", "03-02 23:00", "03-02 23:30"],
            id="a window past midnight",
        ),
    ],
)
def test_one_data_date_has_all_points_of_its_day(day, schedule, expected):
    assert local(of_dates(pattern(**schedule), 0, day, day)) == expected


def test_a_date_that_does_not_exist_has_no_cycle():
    apia = pattern("Pacific/Apia", kind="days", time="02:00")

    found = of_dates(apia, 0, date(2011, 12, 29), date(2011, 12, 31))

    assert local(found, ZoneInfo("Pacific/Apia")) == ["12-29 02:00", "12-31 02:00"]


def test_dates_in_a_list_give_their_cycles_once_whatever_their_order():
    days = [date(2026, 3, 5), date(2026, 3, 2), date(2026, 5, 1), date(2026, 3, 5)]

    found = list(of_each_date(pattern(), 0, days))

    assert local(found) == ["03-02 00:00", "03-05 00:00", "05-01 00:00"]
    assert list(of_each_date(pattern(), 0, [])) == []


def test_both_ends_of_a_range_of_cycle_times_belong_to_it():
    first, last = datetime(2026, 3, 1, 23, tzinfo=UTC), datetime(2026, 3, 3, 23, tzinfo=UTC)

    assert local(of_times(pattern(), first, last)) == ["03-02 00:00", "03-03 00:00", "03-04 00:00"]


@given(
    first=st.dates(date(1995, 1, 1), date(2030, 1, 1)),
    days=st.integers(0, 10),
    offset=st.integers(0, 3),
    zone=st.sampled_from(
        ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Africa/Casablanca"]
    ),
    every=st.sampled_from([1, 5, 7]),
)
def test_dates_of_a_range_are_what_ds_says_and_days_add_up_to_it(first, days, offset, zone, every):
    hourly = pattern(zone, kind="hours", every=every)
    last = date.fromordinal(first.toordinal() + days)
    each = [date.fromordinal(first.toordinal() + n) for n in range(days + 1)]

    found = list(of_dates(hourly, offset, first, last))

    assert found == sorted(set(found))
    assert found == sorted(of_each_date(hourly, offset, each))
    said = [BUILT_IN["ds"](Moment(cycle, hourly.zone, offset)) for cycle in found]
    assert said == [data_date(cycle, hourly.zone, offset).isoformat() for cycle in found]
    assert {first.isoformat() <= day <= last.isoformat() for day in said} == {True}


@pytest.mark.parametrize(
    ("counts", "paused", "cancelled", "expected"),
    [
        (Counts(3, to_come=3), False, False, Standing.RUNNING),
        (Counts(3, to_come=1, running=1, failed=1), True, False, Standing.PAUSED),
        (Counts(3, succeeded=3), False, False, Standing.SUCCEEDED),
        (Counts(3, succeeded=2, failed=1), False, False, Standing.FAILED),
        (Counts(3, succeeded=2, stopped=1), False, False, Standing.FAILED),
        (Counts(3, succeeded=2, running=1), False, False, Standing.RUNNING),
        (Counts(3, to_come=2, running=1), False, True, Standing.ENDING),
        (Counts(3, to_come=2, succeeded=1), False, True, Standing.CANCELLED),
    ],
)
def test_standing_follows_from_the_cycles_and_what_was_asked(counts, paused, cancelled, expected):
    assert standing(counts, paused=paused, cancelled=cancelled) == expected
    assert counts.over + counts.under_way + counts.to_come == counts.total
