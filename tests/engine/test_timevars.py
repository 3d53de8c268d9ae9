from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.engine.timevars import (
    BUILT_IN,
    MAX_RENDERED,
    Moment,
    Unresolved,
    built_in,
    definition_faults,
    render,
    resolve,
    wrong_in,
)

VALUES = {"ds": "2026-03-01", "name": "${ds} $1 \\1", "empty": ""}
BERLIN = ZoneInfo("Europe/Berlin")
#: 16:07:43 in Berlin.
NOON = Moment(datetime(2026, 3, 2, 15, 7, 43, tzinfo=UTC), BERLIN)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        pytest.param("dt=${ds}", "dt=2026-03-01", id="a value"),
        pytest.param("${ds}${ds}", "2026-03-012026-03-01", id="side by side"),
        pytest.param("<${empty}>", "<>", id="an empty value"),
        pytest.param("${name}", "${ds} $1 \\1", id="a value is not rendered again"),
        pytest.param("$${ds}", "${ds}", id="an escape"),
        pytest.param("$$${ds}", "$${ds}", id="the escape takes the nearest dollar"),
        pytest.param("${hiveconf:ds} ${spark.ds}", "${hiveconf:ds} ${spark.ds}", id="Spark's own"),
        pytest.param("${ ds } ${ds ${ds", "${ ds } ${ds ${ds", id="nearly a variable"),
        pytest.param("$ds ${}", "$ds ${}", id="no variable"),
        pytest.param("{{7*7}} #{ds} ${T(a.ds)}", "{{7*7}} #{ds} ${T(a.ds)}", id="other languages"),
        pytest.param("${other:-x y} ${ds:-x}", "x y 2026-03-01", id="a default"),
        pytest.param("<${empty:-x}> <${other:-}>", "<x> <>", id="an empty value takes the default"),
        pytest.param("${other:-$[yyyy]}", "$[yyyy]", id="a default is not rendered"),
        pytest.param("$$[yyyy] $$[0]", "$[yyyy] $$[0]", id="an escape of a time"),
        pytest.param("$[0].a $[*] $['a'] $[ yyyy]", "$[0].a $[*] $['a'] $[ yyyy]", id="JSON paths"),
    ],
)
def test_render(text, result):
    assert render(text, VALUES, NOON) == result


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        pytest.param("${ds} ${empty}", [], id="all known"),
        pytest.param(
            "${b}\n${ds} ${a} ${b}",
            [
                (1, "unknown variable ${b}; define it, give it a default as in ${b:-x}, or write "
                    "$${b} to keep it as text"),
                (2, "unknown variable ${a}; define it, give it a default as in ${a:-x}, or write "
                    "$${a} to keep it as text"),
            ],
            id="each once, in order, with its line",
        ),
        pytest.param("${dss}", [(1, "unknown variable ${dss}, did you mean ${ds}?")], id="a slip"),
        pytest.param("${a-b} ${1}",
                     [(1, "${a-b} is no variable; write $${a-b} to keep it as text"),
                      (1, "${1} is no variable; write $${1} to keep it as text")],
                     id="what no variable can be called"),
        pytest.param("$${a} ${name} ${a:-x}", [], id="an escape, a value, a default"),
        pytest.param("${hiveconf:a} ${spark.a}", [], id="Spark's own"),
        pytest.param("${ a } ${} ${a", [], id="what Spark leaves alone too"),
        pytest.param("${nodes.load.rows} ${nodes.load.x:-1} ${nodes.a.b.rows}", [],
                     id="values of upstream nodes, also of one with a dot in its name"),
        pytest.param("${nodes.other.rows:-1} ${nodes.load} ${nodes.load.a-b}",
                     [(1, "${nodes.other.rows:-1}: 'other' is no upstream of this node; draw an "
                          "edge from it, through other nodes if you like, or write "
                          "$${nodes.other.rows:-1} to keep it as text"),
                      (1, "${nodes.load} names no value of a node; write it as "
                          "${nodes.load.rows}"),
                      (1, "${nodes.load.a-b} names no value of a node; write it as "
                          "${nodes.load.rows}")],
                     id="values of others"),
        pytest.param("$[yyy]",
                     [(1, "$[yyy] is no time: give a format such as yyyyMMdd, an offset such as "
                          "-1, +7*2, -3/24 or +30/24/60 behind it, or one of add_months, this_day, "
                          "last_day, month_first_day, month_last_day, week_first_day, "
                          "week_last_day, year_week; write $$[yyy] to keep it as text")],
                     id="no format"),
        pytest.param("$[yyyy-1/7]",
                     [(1, "$[yyyy-1/7] is no time: '-1/7' is no offset: write days as -1, weeks "
                          "as +7*2, hours as -3/24, minutes as +30/24/60; write $$[yyyy-1/7] to "
                          "keep it as text")],
                     id="no offset"),
        pytest.param("$[add_month(yyyy,1)]",
                     [(1, "$[add_month(yyyy,1)] is no time: there is no function add_month; did "
                          "you mean add_months?; write $$[add_month(yyyy,1)] to keep it as text")],
                     id="no function"),
        pytest.param("$[add_months(yyyy)] $[this_day(yyyy,1)] $[last_day(d)]",
                     [(1, "$[add_months(yyyy)] is no time: add_months takes a format and a number "
                          "of months; write $$[add_months(yyyy)] to keep it as text"),
                      (1, "$[this_day(yyyy,1)] is no time: this_day takes a format and nothing "
                          "else; write $$[this_day(yyyy,1)] to keep it as text"),
                      (1, "$[last_day(d)] is no time: 'd' is no format: put it together of yyyy, "
                          "MM, dd, HH, mm and ss, with - / : . _ T or a space between them; write "
                          "$$[last_day(d)] to keep it as text")],
                     id="other arguments"),
        pytest.param("$[year_week(yyyy,8)] $[add_months(yyyy,x)] $[yyyy+999999]",
                     [(1, "$[year_week(yyyy,8)] is no time: a week cannot begin on day 8; 1 is "
                          "Monday, 7 is Sunday; write $$[year_week(yyyy,8)] to keep it as text"),
                      (1, "$[add_months(yyyy,x)] is no time: 'x' is no number of months; write it "
                          "as -1, 2 or 12*2; write $$[add_months(yyyy,x)] to keep it as text"),
                      (1, "$[yyyy+999999] is no time: +999999 leads further than 366,000 days; "
                          "write $$[yyyy+999999] to keep it as text")],
                     id="other numbers"),
        pytest.param("$[yyyy", [(1, "$[yyyy is not closed; end it with ], or write $$[yyyy for "
                                    "text")], id="not closed"),
        pytest.param("$[this_day yyyy(]",
                     [(1, "$[this_day yyyy(] is no time: write the call as this_day(yyyy-MM-dd) or "
                          "this_day(…, -1); write $$[this_day yyyy(] to keep it as text")],
                     id="half a call"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_text_names_the_place_and_the_fix(text, wrong):
    known = {**VALUES, "nodes.load.rows": "7", "nodes.load.": "", "nodes.a.b.": ""}
    assert [(each.line, each.message) for each in wrong_in(text, known)] == wrong
    if wrong:
        with pytest.raises(Unresolved) as refused:
            render(text, known, NOON)
        assert str(refused.value) == "; ".join(message for _, message in wrong)


def test_grammar_is_judged_alone_where_the_names_are_not_known_yet():
    assert [each.place for each in wrong_in("${any} ${1} $[yyyyM]")] == ["$[yyyyM]"]


@given(st.text())
def test_text_without_a_dollar_is_never_changed(text):
    plain = text.replace("$", "")

    assert render(plain, VALUES, None) == plain


@given(st.text(), st.text(alphabet="${}[]yMds\\:-", max_size=20), st.text())
def test_any_value_arrives_as_it_is(before, value, after):
    before, after = before.replace("$", ""), after.replace("$", "")

    assert render(before + "${x}" + after, {"x": value}, None) == before + value + after


@given(st.text(alphabet="${}[]()yMdHms-+*/ 124,_abc:", max_size=40))
def test_what_is_judged_right_is_rendered_and_what_is_wrong_is_refused(text):
    if wrong_in(text, VALUES):
        with pytest.raises(Unresolved):
            render(text, VALUES, NOON)
    else:
        render(text, VALUES, NOON)


def test_value_that_an_upstream_did_not_leave_is_refused_unless_there_is_a_default():
    known = {"nodes.load.": "", "nodes.load.rows": "7", "nodes.load.none": ""}

    text = "${nodes.load.rows} <${nodes.load.none}> ${nodes.load.x:-0}"
    assert render(text, known, None) == "7 <> 0"
    with pytest.raises(Unresolved) as refused:
        render("\n${nodes.load.x}", known, None)
    assert refused.value.wrong[0].line == 2
    assert str(refused.value) == (
        "node 'load' left no value 'x'; write a line x=… to $RUNYARD_OUTPUT there, or give a "
        "default as in ${nodes.load.x:-0}"
    )


def test_text_that_grows_without_end_is_refused():
    long = {"x": "x" * 1000}

    with pytest.raises(Unresolved) as refused:
        render("${x}" * (MAX_RENDERED // 1000 + 1), long, None)

    assert str(refused.value) == (
        "the text has over 8,388,608 characters with its values in it; shorten it"
    )


# --- variables that name each other ---------------------------------------------------------


def test_variables_may_use_each_other_in_any_order():
    defined = {"path": "/${region}/$[yyyy]/${ds}", "region": "${area:-eu}-1", "plain": "$${ds}"}

    assert resolve(defined, {"ds": "2026-03-01"}, NOON) == {
        "ds": "2026-03-01",
        "path": "/eu-1/2026/2026-03-01",
        "region": "eu-1",
        "plain": "${ds}",
    }


def test_nobody_redefines_a_fixed_name():
    assert resolve({"ds": "mine", "a": "${ds}"}, {"ds": "theirs"}, NOON) == {
        "ds": "theirs",
        "a": "theirs",
    }


def test_circle_is_named_with_all_that_are_in_it():
    defined = {"a": "${b}", "b": "${c} ${b2}", "b2": "", "c": "${a}"}

    [(name, message)] = definition_faults(defined, ())

    start = "abc".index(name)
    around = [*("abc"[start:] + "abc"[:start]), name]
    assert message == f"its value comes back to itself: {' → '.join(around)}"
    with pytest.raises(Unresolved, match="comes back to itself"):
        resolve(defined, {}, None)


def test_values_that_double_with_every_name_are_refused_before_they_are_made():
    defined = {"x0": "x" * 1000} | {f"x{n}": f"${{x{n - 1}}}" * 2 for n in range(1, 60)}

    with pytest.raises(Unresolved) as refused:
        resolve(defined, {}, None)

    assert str(refused.value) == (
        "x7: the text has over 100,000 characters with its values in it; shorten it"
    )


# --- time -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cycle", "zone", "offset", "values"),
    [
        pytest.param("2023-09-19T16:07:43", "Asia/Shanghai", 1,
                     "2023-09-18 20230918 2023-09-18T16:07:43 20230918160743 "
                     "2023-09-19T16:07:43+08:00 2023-09-19 2023-09-18T16:07:43+08:00",
                     id="the original's example"),
        pytest.param("2026-03-01T00:00:00", "Europe/Berlin", 0,
                     "2026-03-01 20260301 2026-03-01T00:00:00 20260301000000 "
                     "2026-03-01T00:00:00+01:00 2026-03-01 2026-02-28T00:00:00+01:00",
                     id="without an offset"),
        pytest.param("2026-03-29T03:30:00", "Europe/Berlin", 1,
                     "2026-03-28 20260328 2026-03-28T03:30:00 20260328033000 "
                     "2026-03-29T03:30:00+02:00 2026-03-29 2026-03-28T03:30:00+01:00",
                     id="the day on which clocks go forward"),
        pytest.param("2011-12-31T00:00:00", "Pacific/Apia", 1,
                     "2011-12-30 20111230 2011-12-30T00:00:00 20111230000000 "
                     "2011-12-31T00:00:00+14:00 2011-12-31 2011-12-31T00:00:00+14:00",
                     id="a data date that no clock ever showed stays apart from its neighbours"),
    ],
)  # fmt: skip
def test_built_in_variables(cycle, zone, offset, values):
    at = datetime.fromisoformat(cycle).replace(tzinfo=ZoneInfo(zone))
    ds, nodash, ts, ts_nodash, time, day, start = values.split()

    assert built_in(Moment(at.astimezone(UTC), ZoneInfo(zone), offset)) == {
        "ds": ds,
        "dt": ds,
        "data_date": ds,
        "ds_nodash": nodash,
        "dt_nodash": nodash,
        "data_date_nodash": nodash,
        "ts": ts,
        "ts_nodash": ts_nodash,
        "cycle_time": time,
        "cycle_date": day,
        "interval_start": start,
        "interval_end": time,
    }


def test_interval_begins_at_the_point_before_where_that_is_known():
    before = datetime(2026, 3, 2, 14, 7, 43, tzinfo=UTC)
    moment = Moment(NOON.cycle, BERLIN, previous=before)

    assert built_in(moment)["interval_start"] == "2026-03-02T15:07:43+01:00"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # DolphinScheduler's own examples, of 2022-08-26.
        ("$[this_day(yyyy-MM-dd)]", "2022-08-26"),
        ("$[last_day(yyyy-MM-dd)]", "2022-08-25"),
        ("$[year_week(yyyy-MM-dd)]", "2022-34"),
        ("$[year_week(yyyy-MM-dd,5)]", "2022-35"),
        ("$[month_first_day(yyyy-MM-dd,-1)]", "2022-07-01"),
        ("$[month_last_day(yyyy-MM-dd,-1)]", "2022-07-31"),
        ("$[week_first_day(yyyy-MM-dd,-1)]", "2022-08-15"),
        ("$[week_last_day(yyyy-MM-dd,-1)]", "2022-08-21"),
        ("$[yyyyMMddHHmmss]", "20220826160743"),
        ("$[HHmmss]", "160743"),
        ("$[yyyy/MM/dd HH:mm]", "2022/08/26 16:07"),
        ("$[yyyy-MM-dd-1]", "2022-08-25"),
        ("$[yyyyMMdd + 7*2]", "20220909"),
        ("$[HHmmss-17/24]", "230743"),
        ("$[yyyyMMddHHmm+30/24/60]", "202208261637"),
        ("$[add_months(yyyyMM,-12*2)]", "202008"),
        ("$[year_week(yyyyMM)]", "202234"),
        ("$[add_months(yyyy-MM-dd, 6)]", "2023-02-26"),
    ],
)
def test_times_of_the_cycle(text, value):
    at = Moment(datetime(2022, 8, 26, 14, 7, 43, tzinfo=UTC), BERLIN)

    assert render(text, {}, at) == value


def test_week_belongs_to_the_year_that_has_four_of_its_days():
    at = Moment(datetime(2024, 12, 30, 12, tzinfo=UTC), ZoneInfo("UTC"))

    assert render("$[yyyy] $[year_week(yyyy-MM-dd)]", {}, at) == "2024 2025-01"


def test_hours_are_real_time_and_days_are_the_calendars():
    # In Berlin clocks went from 02:00 to 03:00.
    at = Moment(datetime(2026, 3, 29, 3, 30, tzinfo=BERLIN).astimezone(UTC), BERLIN)

    assert render("$[HHmm-1/24] $[HHmm-60/24/60] $[dd HHmm-1]", {}, at) == "0130 0130 28 0330"


def test_time_beyond_the_calendar_is_refused():
    at = Moment(datetime(9999, 12, 30, tzinfo=UTC), ZoneInfo("UTC"))

    with pytest.raises(Unresolved) as refused:
        render("\n$[yyyyMMdd+2]", {}, at)

    assert str(refused.value) == "$[yyyyMMdd+2] leads out of the calendar from 9999-12-30"
    assert refused.value.wrong[0].line == 2


def test_time_without_a_cycle_is_refused():
    with pytest.raises(Unresolved, match="needs a cycle"):
        render("$[yyyy]", {}, None)


# An oracle that shares nothing with the module but the zone database: it walks day by day with
# a calendar of its own, minute by minute over real time, and counts weeks from each year's start.


def length_of(year: int, month: int) -> int:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return [31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1]


def walked(day: tuple[int, int, int], steps: int) -> tuple[int, int, int]:
    year, month, number = day
    for _ in range(abs(steps)):
        number += 1 if steps > 0 else -1
        if number == 0:
            year, month = (year - 1, 12) if month == 1 else (year, month - 1)
            number = length_of(year, month)
        elif number > length_of(year, month):
            year, month, number = (year + 1, 1, 1) if month == 12 else (year, month + 1, 1)
    return year, month, number


def months_on(day: tuple[int, int, int], steps: int) -> tuple[int, int, int]:
    year, month, number = day
    for _ in range(abs(steps)):
        month += 1 if steps > 0 else -1
        year, month = (
            (year - 1, 12) if month == 0 else (year + 1, 1) if month == 13 else (year, month)
        )
    return year, month, min(number, length_of(year, month))


def weekday(day: tuple[int, int, int]) -> int:
    """1 is Monday, by Zeller's congruence."""
    year, month, number = day
    if month < 3:
        year, month = year - 1, month + 12
    saturday_is_0 = number + 13 * (month + 1) // 5 + year + year // 4 - year // 100 + year // 400
    return (saturday_is_0 + 5) % 7 + 1


def numbered_week(day: tuple[int, int, int], first: int) -> str:
    for year in (day[0] + 1, day[0], day[0] - 1):
        start = next(
            walked((year, 1, 1), n)
            for n in range(-3, 4)
            if weekday(walked((year, 1, 1), n)) == first
        )
        if start <= day:
            week = next(n for n in itertools.count(1) if day < walked(start, 7 * n))
            return f"{year}-{week:02}"
    raise AssertionError(day)


ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia",
    "Africa/Casablanca", "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Kiritimati",
    "Africa/Monrovia", "Europe/Dublin", "America/St_Johns",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    seconds=st.integers(0, 4_102_444_799),  # 1970 to 2099
    zone=st.sampled_from(ZONES),
    offset=st.integers(0, 40),
    days=st.integers(-800, 800),
    months=st.integers(-60, 60),
    minutes=st.integers(-4000, 4000),
    weeks=st.integers(-60, 60),
    first=st.integers(1, 7),
)
def test_arithmetic_of_dates_equals_an_oracles(
    seconds, zone, offset, days, months, minutes, weeks, first
):
    cycle = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    moment = Moment(cycle, ZoneInfo(zone), offset)
    clock = cycle.astimezone(ZoneInfo(zone))
    today = (clock.year, clock.month, clock.day)
    monday = walked(today, 1 - weekday(today))
    later = cycle
    for _ in range(abs(minutes)):
        later += timedelta(minutes=1 if minutes > 0 else -1)
    later = later.astimezone(ZoneInfo(zone))

    def text(day: tuple[int, int, int]) -> str:
        return "{:04}-{:02}-{:02}".format(*day)

    month = months_on((*today[:2], 1), months)
    expected = {
        "${ds}": text(walked(today, -offset)),
        "${ts}": f"{text(walked(today, -offset))}T{clock:%H:%M:%S}",
        "${cycle_date}": text(today),
        f"$[yyyy-MM-dd{days:+}]": text(walked(today, days)),
        f"$[yyyy-MM-dd HH:mm:ss{weeks:+}*7]": f"{text(walked(today, weeks * 7))} {clock:%H:%M:%S}",
        f"$[add_months(yyyy-MM-dd,{months})]": text(months_on(today, months)),
        "$[last_day(yyyy-MM-dd)]": text(walked(today, -1)),
        f"$[month_first_day(yyyy-MM-dd,{months})]": text(month),
        f"$[month_last_day(yyyy-MM-dd,{months})]": text((*month[:2], length_of(*month[:2]))),
        f"$[week_first_day(yyyy-MM-dd,{weeks})]": text(walked(monday, weeks * 7)),
        f"$[week_last_day(yyyy-MM-dd,{weeks})]": text(walked(monday, weeks * 7 + 6)),
        f"$[year_week(yyyy-MM-dd,{first})]": numbered_week(today, first),
        f"$[yyyy-MM-ddTHH:mm:ss{minutes:+}/24/60]": f"{later:%Y-%m-%dT%H:%M:%S}",
    }

    values = built_in(moment)
    assert {each: render(each, values, moment) for each in expected} == expected


def test_every_built_in_name_is_one_that_a_shell_takes():
    assert [name for name in BUILT_IN if not name.isidentifier()] == []
