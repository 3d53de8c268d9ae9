"""Variables in the texts of a job: `${name}`, and `$[yyyyMMdd-1]` on the cycle.

A closed grammar and nothing else: no expression is evaluated, no template engine runs, so
`{{7*7}}` and `${T(java.lang.Runtime)}` stay what they are, text. All that has to do with time is
a pure function of a Moment, so that a cycle has the same values whatever starts its run.

Source of the `$[…]` family: Apache DolphinScheduler's built-in parameters.
"""

from __future__ import annotations

import calendar
import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from types import MappingProxyType

#: What a variable may be called. Also a name that every shell takes for a variable.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: A value that another node left: `nodes.load.rows`. A node's name may have dots of its own.
NODE_VALUE = re.compile(rf"nodes\.(?P<node>.+)\.(?P<key>{NAME.pattern})")

#: What the child's environment holds whatever the job says; no variable may be called so.
FIXED_NAMES = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "PYTHONUNBUFFERED"}
)
#: Prefix of the names that tell a job about its run, and those of them that texts may use.
OWN_PREFIX = "RUNYARD_"
RUN_NAMES = frozenset(
    {
        "RUNYARD_ATTEMPT",
        "RUNYARD_CYCLE",
        "RUNYARD_DATA",
        "RUNYARD_FILES",
        "RUNYARD_NODE",
        "RUNYARD_OUTPUT",
        "RUNYARD_OUTPUT_DIR",
        "RUNYARD_RUN",
        "RUNYARD_WORKFLOW",
        "RUNYARD_WORKSPACE",
    }
)

#: Characters of a text with its values in it: what refers to itself often enough fills a disk.
MAX_RENDERED = 8 << 20
#: Characters of one value: Linux takes 128 KiB in one string of an environment.
MAX_VALUE = 100_000
#: The furthest that an offset may lead, in days and in months.
_MAX_DAYS, _MAX_MONTHS = 366_000, 12_000

_PLACE = re.compile(
    r"""
    \$\$ (?P<kept> \{ | \[ (?=[A-Za-z]) )                           # an escape
  | \$\{ (?P<inside> [^\s}]+ (?: :- [^}\r\n]* )? ) \}               # ${name}, ${name:-default}
  | \$\[ (?P<time> [A-Za-z] [^\]\r\n]* ) (?P<end> \]? )             # $[yyyyMMdd-1]
    """,
    re.VERBOSE,
)
_FIELDS = r"(?:yyyy|MM|dd|HH|mm|ss)"
_FORMAT = re.compile(rf"{_FIELDS}(?:[-/:._\ T]*{_FIELDS})*")
_NUMBER = r"(\d{1,6}) (?: \*(\d{1,6}) )?"
_OFFSET = re.compile(rf"([+-]) {_NUMBER} (/24 (/60)? )?", re.VERBOSE)
_WHOLE = re.compile(rf"([+-])? {_NUMBER}", re.VERBOSE)
_CALL = re.compile(r"([a-z_]+)\(([^()]*)\)")
_PLAIN = re.compile(rf"(?P<format>{_FORMAT.pattern}) *(?P<offset>[+-].*)?")


@dataclass(frozen=True)
class Moment:
    """All that time variables are made of."""

    #: When the run is, or would have been, due (aware).
    cycle: datetime
    #: Of the workflow.
    zone: tzinfo
    #: Days from the cycle's local date back to the date of its data.
    data_offset: int = 1
    #: The point of the schedule before the cycle; None: a day before, by the calendar.
    previous: datetime | None = None

    @property
    def local(self) -> datetime:
        """What clocks in the zone show at the cycle (naive)."""
        return self.cycle.astimezone(self.zone).replace(tzinfo=None)

    @property
    def data(self) -> datetime:
        """The same time of day on the date of the data (naive)."""
        return self.local - timedelta(days=self.data_offset)

    @property
    def interval_start(self) -> datetime:
        before = self.previous
        if before is None:
            before = (self.local - timedelta(days=1)).replace(tzinfo=self.zone)
        return before.astimezone(UTC).astimezone(self.zone)


@dataclass(frozen=True)
class Wrong:
    """One thing wrong with a text: as it is written there, on which line, what mends it."""

    place: str
    line: int
    message: str


class Unresolved(ValueError):
    """Everything wrong with a text, at once."""

    def __init__(self, wrong: Collection[Wrong]) -> None:
        super().__init__("; ".join(each.message for each in wrong))
        self.wrong = tuple(wrong)


# --- values ---------------------------------------------------------------------------------


def _iso(moment: Moment, at: datetime) -> str:
    return at.astimezone(moment.zone).isoformat(timespec="seconds")


def _of_data(pattern: str) -> Callable[[Moment], str]:
    return lambda moment: _written(moment.data, pattern)


#: Variables that every node has, whatever anyone defines.
BUILT_IN: Mapping[str, Callable[[Moment], str]] = {
    "ds": _of_data("yyyy-MM-dd"),
    "ds_nodash": _of_data("yyyyMMdd"),
    "dt": _of_data("yyyy-MM-dd"),
    "dt_nodash": _of_data("yyyyMMdd"),
    "data_date": _of_data("yyyy-MM-dd"),
    "data_date_nodash": _of_data("yyyyMMdd"),
    "ts": _of_data("yyyy-MM-ddTHH:mm:ss"),
    "ts_nodash": _of_data("yyyyMMddHHmmss"),
    "cycle_time": lambda moment: _iso(moment, moment.cycle),
    "cycle_date": lambda moment: _written(moment.local, "yyyy-MM-dd"),
    "interval_start": lambda moment: _iso(moment, moment.interval_start),
    "interval_end": lambda moment: _iso(moment, moment.cycle),
}


#: What a text may use though nobody has defined it.
OWN_NAMES = RUN_NAMES | BUILT_IN.keys()


def is_taken(name: str) -> bool:
    """Whether the engine itself sets a variable of this name."""
    return name in FIXED_NAMES or name in BUILT_IN or name.startswith(OWN_PREFIX)


@lru_cache(maxsize=1024)
def built_in(moment: Moment) -> Mapping[str, str]:
    """Every built-in variable of a moment. Made once for all nodes of a run."""
    return MappingProxyType({name: value(moment) for name, value in BUILT_IN.items()})


# --- $[…] -----------------------------------------------------------------------------------


class _NoTime(ValueError):
    """Why a `$[…]` is none."""


def _written(at: datetime, pattern: str) -> str:
    values = {
        "yyyy": f"{at.year:04}",
        "MM": f"{at.month:02}",
        "dd": f"{at.day:02}",
        "HH": f"{at.hour:02}",
        "mm": f"{at.minute:02}",
        "ss": f"{at.second:02}",
    }
    return re.sub(_FIELDS, lambda field: values[field.group()], pattern)


def _format(text: str) -> str:
    text = text.strip()
    if not _FORMAT.fullmatch(text):
        raise _NoTime(
            f"{text!r} is no format: put it together of yyyy, MM, dd, HH, mm and ss, with - / : . "
            "_ T or a space between them"
        )
    return text


def _product(first: str, second: str | None) -> int:
    return int(first) * int(second or 1)


def _whole(text: str, what: str, most: int) -> int:
    found = _WHOLE.fullmatch(text.replace(" ", ""))
    number = _product(found[2], found[3]) if found else 0
    if found is None or number > most:
        raise _NoTime(f"{text.strip()!r} is no number of {what}; write it as -1, 2 or 12*2")
    return -number if found[1] == "-" else number


def _months_later(day: datetime, months: int) -> datetime:
    """The same day of another month, or that month's last where it is shorter."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return day.replace(year=year, month=month + 1, day=min(day.day, last))


def _month_end(day: datetime) -> datetime:
    return day.replace(day=calendar.monthrange(day.year, day.month)[1])


def _monday(day: datetime) -> datetime:
    return day - timedelta(days=day.weekday())


def _year_week(at: datetime, pattern: str, first: int) -> str:
    """Year and number of the week: it belongs to the year that has four of its days."""
    start = at.date() - timedelta(days=(at.isoweekday() - first) % 7)
    middle = start + timedelta(days=3)
    week = (middle - date(middle.year, 1, 1)).days // 7 + 1
    return f"{middle.year:04}{'-' if '-' in pattern else ''}{week:02}"


#: Name -> (what its second argument counts, or "" for none; the day that it leads to).
_FUNCTIONS: Mapping[str, tuple[str, Callable[[datetime, int], datetime]]] = {
    "add_months": ("months", _months_later),
    "this_day": ("", lambda day, _: day),
    "last_day": ("", lambda day, _: day - timedelta(days=1)),
    "month_first_day": ("months", lambda day, n: _months_later(day.replace(day=1), n)),
    "month_last_day": ("months", lambda day, n: _month_end(_months_later(day.replace(day=1), n))),
    "week_first_day": ("weeks", lambda day, n: _monday(day) + timedelta(weeks=n)),
    "week_last_day": ("weeks", lambda day, n: _monday(day) + timedelta(weeks=n, days=6)),
    "year_week": ("week day", lambda day, _: day),
}
FUNCTIONS = tuple(_FUNCTIONS)


def _compiled(inside: str) -> Callable[[Moment], str]:
    """What stands between `$[` and `]`, as a function of the moment. Raises _NoTime."""
    call = _CALL.fullmatch(inside.strip())
    if call:
        return _function(call[1], call[2].split(","))
    plain = _PLAIN.fullmatch(inside.strip())
    if plain is None:
        name = re.match(r"[A-Za-z_]*", inside.strip())
        if name and "(" in inside:
            raise _NoTime(f"write the call as {name.group()}(yyyy-MM-dd) or {name.group()}(…, -1)")
        raise _NoTime(
            "give a format such as yyyyMMdd, an offset such as -1, +7*2, -3/24 or +30/24/60 "
            f"behind it, or one of {', '.join(_FUNCTIONS)}"
        )
    pattern = _format(plain["format"])
    if plain["offset"] is None:
        return lambda moment: _written(moment.local, pattern)
    offset = _OFFSET.fullmatch(plain["offset"].replace(" ", ""))
    if offset is None:
        raise _NoTime(
            f"{plain['offset']!r} is no offset: write days as -1, weeks as +7*2, hours as -3/24, "
            "minutes as +30/24/60"
        )
    amount = _product(offset[2], offset[3]) * (-1 if offset[1] == "-" else 1)
    most = _MAX_DAYS * (1 if not offset[4] else 24 if not offset[5] else 24 * 60)
    if abs(amount) > most:
        raise _NoTime(f"{plain['offset']} leads further than {_MAX_DAYS:,} days")
    if not offset[4]:
        return lambda moment: _written(moment.local + timedelta(days=amount), pattern)
    real = timedelta(minutes=amount) if offset[5] else timedelta(hours=amount)

    def later(moment: Moment) -> str:
        return _written((moment.cycle.astimezone(UTC) + real).astimezone(moment.zone), pattern)

    return later


def _function(name: str, arguments: list[str]) -> Callable[[Moment], str]:
    if name not in _FUNCTIONS:
        near = difflib.get_close_matches(name, _FUNCTIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_FUNCTIONS)}"
        raise _NoTime(f"there is no function {name}; {hint}")
    counts, leads_to = _FUNCTIONS[name]
    if len(arguments) > (2 if counts else 1) or (name == "add_months" and len(arguments) < 2):
        takes = f"a format and a number of {counts}" if counts else "a format and nothing else"
        raise _NoTime(f"{name} takes {takes}")
    pattern = _format(arguments[0])
    number = _whole(arguments[1], counts, _MAX_MONTHS) if len(arguments) > 1 else 0
    if name == "year_week":
        first = number if len(arguments) > 1 else 1
        if not 1 <= first <= 7:
            raise _NoTime(f"a week cannot begin on day {first}; 1 is Monday, 7 is Sunday")
        return lambda moment: _year_week(moment.local, pattern, first)
    return lambda moment: _written(leads_to(moment.local, number), pattern)


# --- texts ----------------------------------------------------------------------------------


def _is_sparks(name: str) -> bool:
    return ("." in name or ":" in name) and not name.startswith("nodes.")


def upstream_mark(node: str) -> str:
    """Stands among the known names for every value that an upstream node may leave."""
    return f"nodes.{node}."


def wrong_in(text: str, known: Collection[str] | None = None) -> list[Wrong]:
    """All that `render` would stumble over, each place once; `known`: the names that it will have.

    None judges the grammar alone, where it is not known yet which names there will be.
    """
    found: dict[str, Wrong] = {}
    for place in _PLACE.finditer(text):
        message = _fault(place, known)
        if message and place.group() not in found:
            found[place.group()] = Wrong(place.group(), _line(place, text), message)
    return list(found.values())


def _line(place: re.Match[str], text: str) -> int:
    return text.count("\n", 0, place.start()) + 1


def _fault(place: re.Match[str], known: Collection[str] | None) -> str:
    written = place.group()
    if inside := place["inside"]:
        name, has_default, _ = inside.partition(":-")
        if name.startswith("nodes."):
            return _node_fault(written, name, known)
        if known is None or has_default or name in known or _is_sparks(name):
            return ""
        if not NAME.fullmatch(name):
            return f"{written} is no variable; write ${written} to keep it as text"
        near = difflib.get_close_matches(name, filter(NAME.fullmatch, known), n=1)
        if near:
            return f"unknown variable {written}, did you mean ${{{near[0]}}}?"
        return (
            f"unknown variable {written}; define it, give it a default as in ${{{name}:-x}}, or "
            f"write ${written} to keep it as text"
        )
    if place["time"] is None:
        return ""
    if not place["end"]:
        return f"{written[:40]} is not closed; end it with ], or write ${written[:40]} for text"
    try:
        _compiled(place["time"])
    except _NoTime as error:
        return f"{written} is no time: {error}; write ${written} to keep it as text"
    return ""


def _node_fault(written: str, name: str, known: Collection[str] | None) -> str:
    found = NODE_VALUE.fullmatch(name)
    if found is None:
        return f"{written} names no value of a node; write it as ${{nodes.load.rows}}"
    if known is None or name in known or upstream_mark(found["node"]) in known:
        return ""
    return (
        f"{written}: {found['node']!r} is no upstream of this node; draw an edge from it, through "
        f"other nodes if you like, or write ${written} to keep it as text"
    )


def names_in(text: str) -> Iterator[str]:
    """The names of variables that a text uses, as often as it does; not Spark's."""
    for place in _PLACE.finditer(text):
        if inside := place["inside"]:
            name = inside.partition(":-")[0]
            if not _is_sparks(name):
                yield name


def render(
    text: str, values: Mapping[str, str], moment: Moment | None, most: int = MAX_RENDERED
) -> str:
    """Put the values of variables into a text, once: a value is not rendered again.

    `$${` is an escape and gives `${`; `$$[` gives `$[` before a letter. `${name:-x}` gives x
    where the name has no value or an empty one. A name with a dot or a colon
    (`${hiveconf:x}`, `${spark.app.name}`) is Spark's and stays. Of `$[` only what goes on with a
    letter is ours, so that `$[0]` of a JSON path stays too.

    Raises Unresolved with all that is wrong, also where the text would grow beyond `most`
    characters. `moment` is None where there is no cycle; then any `$[…]` is wrong.
    """
    if wrong := wrong_in(text, values.keys()):
        raise Unresolved(wrong)
    pieces: list[str] = []
    begin = size = 0
    for place in _PLACE.finditer(text):
        piece = _value(place, values, moment, text)
        size += place.start() - begin + len(piece)
        if size > most:
            break
        pieces += (text[begin : place.start()], piece)
        begin = place.end()
    if size + len(text) - begin > most:
        message = f"the text has over {most:,} characters with its values in it; shorten it"
        raise Unresolved([Wrong("", 1, message)])
    return "".join(pieces) + text[begin:]


def _value(
    place: re.Match[str], values: Mapping[str, str], moment: Moment | None, text: str
) -> str:
    if kept := place["kept"]:
        return "$" + kept
    if inside := place["inside"]:
        name, has_default, default = inside.partition(":-")
        if _is_sparks(name):
            return place.group()
        if value := values.get(name):
            return value
        found = NODE_VALUE.fullmatch(name)
        if found and name not in values and not has_default:
            message = (
                f"node {found['node']!r} left no value {found['key']!r}; write a line "
                f"{found['key']}=… to $RUNYARD_OUTPUT there, or give a default as in "
                f"${{{name}:-0}}"
            )
            raise Unresolved([Wrong(place.group(), _line(place, text), message)])
        return default
    if moment is None:
        message = f"{place.group()} needs a cycle, and there is none here"
        raise Unresolved([Wrong(place.group(), _line(place, text), message)])
    try:
        return _compiled(place["time"])(moment)
    except (OverflowError, ValueError):
        message = f"{place.group()} leads out of the calendar from {moment.cycle:%Y-%m-%d}"
        raise Unresolved([Wrong(place.group(), _line(place, text), message)]) from None


def definition_faults(
    definitions: Mapping[str, str], fixed: Collection[str]
) -> Iterator[tuple[str, str]]:
    """(name, what is wrong with its value) of variables that may name each other and `fixed`."""
    known = {*definitions, *fixed}
    for name, text in definitions.items():
        for wrong in wrong_in(text, known):
            yield name, wrong.message
    if circle := circle_in(definitions):
        yield circle[0], f"its value comes back to itself: {' → '.join(circle)}"


def _used(definitions: Mapping[str, str]) -> dict[str, set[str]]:
    return {
        name: {used for used in names_in(text) if used in definitions} if "$" in text else set()
        for name, text in definitions.items()
    }


def circle_in(definitions: Mapping[str, str]) -> list[str]:
    """Names that use each other in a circle, the first again at the end; [] where none do."""
    try:
        TopologicalSorter(_used(definitions)).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def resolve(
    definitions: Mapping[str, str], fixed: Mapping[str, str], moment: Moment | None
) -> dict[str, str]:
    """The values of variables that may name each other, and `fixed`, whose names nobody redefines.

    Raises Unresolved, each message beginning with the variable's name.
    """
    own = {name: text for name, text in definitions.items() if name not in fixed}
    wrong = [Wrong(name, 1, f"{name}: {why}") for name, why in definition_faults(own, fixed)]
    if wrong:
        raise Unresolved(wrong)
    values = dict(fixed)
    for name in TopologicalSorter(_used(own)).static_order():
        text = own[name]
        try:
            values[name] = render(text, values, moment, MAX_VALUE) if "$" in text else text
        except Unresolved as error:
            raise Unresolved(
                [Wrong(name, each.line, f"{name}: {each.message}") for each in error.wrong]
            ) from None
    return values
