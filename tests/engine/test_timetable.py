"""When a schedule is due: by name where the clock does something odd, and everywhere at random."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest

from apps.engine.timetable import NotATimetable, Timetable
from tests.engine.minutes import DAY, UTC_2020, Minutes, changes

BEGIN, END = UTC_2020, datetime(2030, 1, 1, tzinfo=UTC)


def read(zone: str = "UTC", **said: object) -> Timetable:
    return Timetable.read({name.rstrip("_"): value for name, value in said.items()}, ZoneInfo(zone))


def shown(timetable: Timetable, after: str, until: str) -> list[str]:
    """Points in (after, until], given and shown in the schedule's own zone."""
    begin, end = (
        datetime.fromisoformat(each).replace(tzinfo=timetable.zone) for each in (after, until)
    )
    return [
        f"{point.astimezone(timetable.zone):%m-%d %H:%M%z}"
        for point in timetable.points(begin.astimezone(UTC), end.astimezone(UTC))
    ]


# --- by name ----------------------------------------------------------------------------------

BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("zone", "said", "after", "until", "points"),
    [
        pytest.param(
            BERLIN,
            {"kind": "days", "time": "02:30"},
            "2026-03-28T00:00",
            "2026-03-30T23:00",
            ["03-28 02:30+0100", "03-29 03:00+0200", "03-30 02:30+0200"],
            id="a skipped time comes at the first instant after the gap",
        ),
        pytest.param(
            BERLIN,
            {"kind": "cron", "cron": "*/20 2 * * *"},
            "2026-03-29T00:00",
            "2026-03-29T23:00",
            ["03-29 03:00+0200"],
            id="several skipped times are one instant and one point",
        ),
        pytest.param(
            BERLIN,
            {"kind": "days", "time": "02:30"},
            "2026-10-25T00:00",
            "2026-10-26T23:00",
            ["10-25 02:30+0200", "10-26 02:30+0100"],
            id="of a time that comes twice the first counts",
        ),
        pytest.param(
            BERLIN,
            {"kind": "hours", "every": 1, "from": "01:00", "to": "04:00"},
            "2026-10-25T00:00",
            "2026-10-25T23:00",
            [f"10-25 {t}" for t in ("01:00+0200", "02:00+0200", "02:00+0100", "03:00+0100")]
            + ["10-25 04:00+0100"],
            id="an hour that comes twice is due twice",
        ),
        pytest.param(
            BERLIN,
            {"kind": "cron", "cron": "0 */2 * * *"},
            "2026-03-28T23:00",
            "2026-03-29T06:00",
            ["03-29 00:00+0100", "03-29 04:00+0200", "03-29 06:00+0200"],
            id="a skipped hour is due never",
        ),
        pytest.param(
            BERLIN,
            {"kind": "minutes", "every": 45, "from": "01:30", "to": "04:00"},
            "2026-03-29T00:00",
            "2026-03-29T23:00",
            ["03-29 01:30+0100", "03-29 03:15+0200", "03-29 04:00+0200"],
            id="minutes elapse through a gap",
        ),
        pytest.param(
            "Australia/Lord_Howe",
            {"kind": "cron", "cron": "45 * * * *"},
            "2026-04-05T00:30",
            "2026-04-05T02:50",
            ["04-05 00:45+1100", "04-05 01:45+1100", "04-05 01:45+1030", "04-05 02:45+1030"],
            id="Lord Howe goes back by half an hour",
        ),
        pytest.param(
            "Australia/Lord_Howe",
            {"kind": "days", "time": "02:10"},
            "2026-10-03T00:00",
            "2026-10-05T12:00",
            ["10-03 02:10+1030", "10-04 02:30+1100", "10-05 02:10+1100"],
            id="Lord Howe goes forward by half an hour",
        ),
        pytest.param(
            "Pacific/Apia",
            {"kind": "days", "time": "02:00"},
            "2011-12-28T12:00",
            "2012-01-01T00:00",
            ["12-29 02:00-1000", "12-31 02:00+1400"],
            id="Apia had no 30 December 2011",
        ),
        pytest.param(
            "Pacific/Apia",
            {"kind": "hours", "every": 4, "from": "18:00", "to": "06:00"},
            "2011-12-29T12:00",
            "2011-12-31T22:00",
            ["12-29 18:00-1000", "12-29 22:00-1000", "12-31 18:00+1400", "12-31 22:00+1400"],
            id="nor a window that opened on it",
        ),
        pytest.param(
            "Africa/Casablanca",
            {"kind": "days", "time": "02:30"},
            "2026-02-14T00:00",
            "2026-02-16T12:00",
            ["02-14 02:30+0100", "02-15 02:30+0100", "02-16 02:30+0000"],
            id="Morocco goes back for Ramadan",
        ),
        pytest.param(
            "Africa/Casablanca",
            {"kind": "days", "time": "02:30"},
            "2026-03-21T00:00",
            "2026-03-23T12:00",
            ["03-21 02:30+0000", "03-22 03:00+0100", "03-23 02:30+0100"],
            id="and forward after it",
        ),
        pytest.param(
            "UTC",
            {"kind": "cron", "cron": "0 5 29 2 *"},
            "2020-03-01T00:00",
            "2028-12-31T00:00",
            ["02-29 05:00+0000", "02-29 05:00+0000"],
            id="29 February comes every four years",
        ),
        pytest.param(
            "UTC",
            {"kind": "monthly", "days": [30, "last"], "time": "05:00"},
            "2027-01-30T12:00",
            "2027-05-01T00:00",
            ["01-31", "02-28", "03-30", "03-31", "04-30"],
            id="a month has the days that it has, and a last",
        ),
        pytest.param(
            "UTC",
            {"kind": "weekly", "days": ["mon", "fri"], "time": "05:00", "left_out": ["2027-01-04"]},
            "2027-01-01T00:00",
            "2027-01-10T00:00",
            ["01-01", "01-08"],
            id="a date of the calendar is left out",
        ),
        pytest.param(
            "UTC",
            {"kind": "cron", "cron": "0 5 * * 1", "instead": ["2027-01-05", "2027-02-01"]},
            "2027-01-01T00:00",
            "2027-12-31T00:00",
            ["01-05", "02-01"],
            id="dates of the calendar take the place of cron's",
        ),
        pytest.param(
            "UTC",
            {"kind": "hours", "every": 6, "from": "20:00", "to": "09:00", "ends_on": "2027-01-02"},
            "2027-01-01T12:00",
            "2027-01-05T00:00",
            ["01-01 20:00+0000", "01-02 02:00+0000", "01-02 08:00+0000", "01-02 20:00+0000"],
            id="a window past midnight, to the end date and not past its midnight",
        ),
        pytest.param(
            "UTC",
            {"kind": "days", "time": "05:00", "started_at": "2027-01-02T06:00:00+01:00"},
            "2027-01-01T00:00",
            "2027-01-03T12:00",
            ["01-02 05:00+0000", "01-03 05:00+0000"],
            id="a point equal to the start counts",
        ),
    ],
)
def test_points(zone, said, after, until, points):
    found = shown(Timetable.read(said, ZoneInfo(zone)), after, until)

    assert [text[: len(points[0])] for text in found] == points


def test_consecutive_stretches_meet_without_gap_or_double():
    timetable = read(BERLIN, kind="minutes", every=7, from_="22:00", to="05:00")
    begin = datetime(2026, 10, 24, tzinfo=UTC)
    whole = list(timetable.points(begin, begin + 3 * DAY))
    rng = random.Random(4)  # noqa: S311 -- no secret
    parts, at = [], begin

    while at < begin + 3 * DAY:
        until = min(at + timedelta(seconds=rng.randint(1, 3000)), begin + 3 * DAY)
        parts += timetable.points(at, until)
        at = until

    assert parts == whole
    assert timetable.following(begin, 5) == whole[:5]


def test_schedule_is_written_as_it_was_read_and_no_other_way():
    said = {"kind": "weekly", "days": ["fri", "mon"], "time": "02:00", "missed": "all"}
    said |= {"started_at": "2026-03-01T01:00:00+01:00", "left_out": ["2026-12-25", "2026-12-24"]}

    written = read(**said).write()

    assert written == {
        "kind": "weekly",
        "days": ["mon", "fri"],
        "time": "02:00",
        "started_at": "2026-03-01T00:00:00Z",
        "ends_on": None,
        "left_out": ["2026-12-24", "2026-12-25"],
        "instead": None,
        "missed": "all",
    }
    assert read(**written).write() == written


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"kind": "days", "time": "02:00"}, "every day at 02:00"),
        ({"kind": "hours", "every": 1}, "every hour"),
        ({"kind": "minutes", "every": 5, "to": "12:00"}, "every 5 minutes from 00:00 to 12:00"),
        ({"kind": "weekly", "days": ["fri", "mon"], "time": "02:00"}, "every Mon, Fri at 02:00"),
        (
            {"kind": "monthly", "days": ["last", 15, 1], "time": "02:00"},
            "monthly on day 1, 15, last at 02:00",
        ),
        (
            {"kind": "cron", "cron": "0 2 * * mon", "left_out": ["2026-12-24"]},
            "by cron 0 2 * * MON, but for 1 date",
        ),
        (
            {"kind": "days", "time": "02:00", "instead": ["2026-12-24", "2026-12-25"]},
            "every day at 02:00, on 2 dates instead",
        ),
    ],
)
def test_schedule_in_words(said, words):
    assert read(**said).in_words() == words


@pytest.mark.parametrize(
    ("said", "faults"),
    [
        ({}, ["kind"]),
        ({"kind": "yearly"}, ["kind"]),
        ({"kind": "days"}, ["time"]),
        ({"kind": "days", "time": "2:00"}, ["time"]),
        ({"kind": "days", "time": "24:00"}, ["time"]),
        ({"kind": "days", "time": 2}, ["time"]),
        ({"kind": "days", "time": "02:00", "every": 2}, ["every"]),
        ({"kind": "hours", "every": 24}, ["every"]),
        ({"kind": "hours", "every": 0}, ["every"]),
        ({"kind": "hours", "every": True}, ["every"]),
        ({"kind": "minutes", "every": 60}, ["every"]),
        ({"kind": "minutes", "every": 5, "from": "08:00", "to": "08:00"}, ["to"]),
        ({"kind": "minutes", "every": 5, "from": "8", "to": "x"}, ["from", "to"]),
        ({"kind": "weekly", "days": [], "time": "02:00"}, ["days"]),
        ({"kind": "weekly", "days": ["mond"], "time": "02:00"}, ["days"]),
        ({"kind": "monthly", "days": [0], "time": "02:00"}, ["days"]),
        ({"kind": "monthly", "days": [True], "time": "02:00"}, ["days"]),
        ({"kind": "cron"}, ["cron"]),
        ({"kind": "cron", "cron": "0 2 * *"}, ["cron"]),
        ({"kind": "cron", "cron": "0 0 2 * * *"}, ["cron"]),
        ({"kind": "cron", "cron": "61 2 * * *"}, ["cron"]),
        ({"kind": "cron", "cron": "0 2 31 2 *"}, ["cron"]),
        ({"kind": "cron", "cron": "0 2 * * " + "1," * 60 + "1"}, ["cron"]),
        ({"kind": "days", "time": "02:00", "started_at": "2026-03-01T00:00"}, ["started_at"]),
        ({"kind": "days", "time": "02:00", "ends_on": "soon"}, ["ends_on"]),
        ({"kind": "days", "time": "02:00", "missed": "some"}, ["missed"]),
        ({"kind": "days", "time": "02:00", "left_out": ["x", 3]}, ["left_out"] * 2),
        ({"kind": "days", "time": "02:00", "left_out": "2026-12-24"}, ["left_out"]),
        ({"kind": "days", "time": "02:00", "instead": []}, ["instead"]),
        (
            {
                "kind": "days",
                "time": "02:00",
                "instead": ["2026-12-24"],
                "left_out": ["2026-12-25"],
            },
            ["instead"],
        ),
        (
            {
                "kind": "days",
                "time": "02:00",
                "started_at": "2026-03-01T00:00:00Z",
                "ends_on": "2026-02-01",
            },
            [""],
        ),
    ],
)
def test_schedule_that_cannot_be_says_at_which_field(said, faults):
    with pytest.raises(NotATimetable) as caught:
        read(**said)

    assert [fault.field for fault in caught.value.faults] == faults
    assert str(caught.value)


# --- everywhere, against a walk over every minute ------------------------------------------------

SAID = [
    {"kind": "days", "time": "00:00"},
    {"kind": "days", "time": "02:30"},
    {"kind": "days", "time": "23:45"},
    {"kind": "weekly", "days": ["sat", "sun"], "time": "01:15"},
    {"kind": "monthly", "days": [1, 28, "last"], "time": "00:30"},
    {"kind": "hours", "every": 1},
    {"kind": "hours", "every": 3, "from": "20:30", "to": "05:30"},
    {"kind": "minutes", "every": 7},
    {"kind": "minutes", "every": 20, "from": "23:10", "to": "03:00"},
    {"kind": "minutes", "every": 50, "from": "02:20", "to": "12:00"},
    {"kind": "cron", "cron": "*/15 * * * *"},
    {"kind": "cron", "cron": "30 0-3,23 * * *"},
    {"kind": "cron", "cron": "5,35 2 * * 0,6"},
    {"kind": "cron", "cron": "0 */2 1-7,28-31 * 7"},
]


def at_random(rng: random.Random, around: date) -> dict[str, object]:
    """A schedule of any kind, with bounds and a calendar about a date."""

    def clock() -> str:
        return f"{rng.choice([0, 1, 2, 3, 22, 23, rng.randrange(24)]):02}:{rng.randrange(60):02}"

    def near() -> date:
        return around + timedelta(days=rng.randint(-3, 3))

    kind = rng.choice(["days", "hours", "minutes", "weekly", "monthly", "cron"])
    said: dict[str, object] = {"kind": kind}
    if kind in ("days", "weekly", "monthly"):
        said["time"] = clock()
    if kind == "weekly":
        said["days"] = rng.sample(["mon", "tue", "wed", "thu", "fri", "sat", "sun"], 4)
    if kind == "monthly":
        said["days"] = [*rng.sample(range(1, 32), 12), "last"]
    if kind in ("hours", "minutes"):
        said |= {"every": rng.randint(1, 23 if kind == "hours" else 59), "from": clock()}
        said["to"] = next(t for t in iter(clock, None) if t != said["from"])
    if kind == "cron":
        minute = rng.choice(["*", "*/7", "0", "30", "10-20", "5,50"])
        hour = rng.choice(["*", "*/3", "0", "2", "1-3", "0,23"])
        days = rng.choice(["* * *", "* * 0", "1-15 * 6", "*/2 * 1-5", f"* {around.month} *"])
        said["cron"] = f"{minute} {hour} {days}"
    match rng.randrange(6):
        case 0:
            said["left_out"] = [near().isoformat() for _ in range(2)]
        case 1:
            said["instead"] = [near().isoformat() for _ in range(3)]
        case 2:
            said["started_at"] = f"{near().isoformat()}T{clock()}:00+00:00"
        case 3:
            said["ends_on"] = near().isoformat()
    return said


def differences(zone: str, change: datetime, count: int) -> list[tuple[object, ...]]:
    """Where timetable and walk disagree in the days about a change of the clock."""
    walk = Minutes(zone, change - 5 * DAY, change + 5 * DAY)
    begin, end = change - 2 * DAY, change + 2 * DAY
    rng = random.Random(f"{zone} {change}")  # noqa: S311 -- no secret
    found: list[tuple[object, ...]] = []
    for said in [*SAID, *(at_random(rng, change.date()) for _ in range(count))]:
        due = sorted(at for at in walk.points(said) if begin < at <= end)
        try:
            timetable = Timetable.read(said, ZoneInfo(zone))
        except NotATimetable:
            assert due == []  # its bounds leave nothing
            continue
        if list(timetable.points(begin, end)) != due:
            found.append((zone, change, said))
    return found


ODD = [
    ("Australia/Lord_Howe", 2026),
    ("Africa/Casablanca", 2026),
    ("Pacific/Apia", 2011),
    ("Pacific/Kwajalein", 1993),
    ("America/St_Johns", 2006),
    ("America/Havana", 2026),
    ("Asia/Beirut", 2026),
    ("Antarctica/Troll", 2026),
    ("America/Scoresbysund", 2024),
    ("Europe/London", 2026),
]


@pytest.mark.parametrize(("zone", "year"), ODD)
def test_points_are_those_of_a_walk_over_every_minute(zone, year):
    """A sample: every change of one year in the zones that change in the oddest ways."""
    year_begins = datetime(year, 1, 1, tzinfo=UTC)
    found = changes(zone, year_begins, year_begins + 366 * DAY)

    assert found
    assert [each for change in found for each in differences(zone, change, 8)] == []


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_points_are_those_of_a_walk_over_every_minute_in_every_zone_for_ten_years():
    """Every change of ten years in every zone that has one; zones that change alike stand for
    each other, and are walked with schedules of their own all the same."""
    zones = {zone: changes(zone, BEGIN, END) for zone in sorted(available_timezones())}
    wrong = [
        each
        for zone, found in zones.items()
        for change in found
        for each in differences(zone, change, 3)
    ]

    assert sum(map(bool, zones.values())) > 150
    assert wrong == []
