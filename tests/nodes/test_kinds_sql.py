"""The parts of sql_runner.py that need no Spark."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.nodes.kinds.sql_runner import as_json, kept, reason, split, table


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param(" ;;\n; -- a; b\n /* c; */ ;", [], id="nothing but comments"),
        pytest.param("SELECT 1", ["SELECT 1"], id="no semicolon at the end"),
        pytest.param("SELECT 1; SELECT 2;", ["SELECT 1", "SELECT 2"], id="two"),
        pytest.param("SET k = a b;SELECT 1", ["SET k = a b", "SELECT 1"], id="SET"),
        pytest.param("SELECT ';', \"a;b\", `c;d`; X", ["SELECT ';', \"a;b\", `c;d`", "X"],
                     id="semicolons in quotes"),
        pytest.param(r"SELECT 'it\'s;', 'it''s;', '\\'; X",
                     [r"SELECT 'it\'s;', 'it''s;', '\\'", "X"], id="quotes in quotes"),
        pytest.param(r"SELECT r'\'; X", [r"SELECT r'\'", "X"], id="a raw string"),
        pytest.param("SELECT `a``;b`; X", ["SELECT `a``;b`", "X"], id="a backtick in a name"),
        pytest.param("SELECT 1 -- one; 'two\n, 2; X", ["SELECT 1 -- one; 'two\n, 2", "X"],
                     id="a comment to the line's end"),
        pytest.param("-- a \\\n; b\nX", ["X"], id="a comment that goes on after a backslash"),
        pytest.param("SELECT /* ; /* ; */ ; ' */ 1; X", ["SELECT /* ; /* ; */ ; ' */ 1", "X"],
                     id="nested comments"),
        pytest.param("SELECT /*+ BROADCAST(a) */ 1", ["SELECT /*+ BROADCAST(a) */ 1"], id="a hint"),
        pytest.param("-- about\n/* this */ SELECT 1;", ["SELECT 1"], id="comments before"),
        pytest.param("'a' ; `b`", ["'a'", "`b`"], id="statements that begin with a quote"),
        pytest.param("AS $$ a; 'b $$; X", ["AS $$ a; 'b $$", "X"], id="dollar quotes"),
        pytest.param("AS $py$ $$; $py$; X", ["AS $py$ $$; $py$", "X"], id="named dollar quotes"),
        pytest.param("SELECT 'open; X", ["SELECT 'open; X"], id="a quote that never ends"),
        pytest.param("SELECT 1 /* open; X", ["SELECT 1 /* open; X"],
                     id="a comment that never ends"),
        pytest.param("SELECT 1 - -1 / 2; X", ["SELECT 1 - -1 / 2", "X"], id="operators"),
        pytest.param("SELECT 'ü;' ;\tX", ["SELECT 'ü;'", "X"], id="letters beyond ASCII"),
    ],
)  # fmt: skip
def test_split(script, statements):
    assert [each.text for each in split(script)] == statements


def test_statements_know_the_line_they_begin_on():
    script = "-- one\n\nSELECT 1;\n\n  /* a\n b */ SELECT\n 2; SELECT 3"

    assert [each.line for each in split(script)] == [3, 6, 7]


QUOTED = st.text('ab;-/*\n"` $', max_size=8).map(lambda text: f"'{text}'")


@given(st.lists(st.tuples(st.sampled_from(["SELECT ", "SET k=", "`x;y` "]), QUOTED), max_size=6))
def test_statements_that_are_joined_are_split_again(parts):
    statements = [before + quoted for before, quoted in parts]

    assert [each.text for each in split(";\n".join(statements))] == statements


@given(st.text("'\"`;-/*\\\n $ra", max_size=60))
def test_no_statement_is_lost_or_made_up(script):
    found = [each.text for each in split(script)]

    place = 0
    for text in found:
        place = script.index(text, place) + len(text)
    assert all(found)


class Row(tuple):
    def asDict(self) -> dict[str, object]:
        return {"x": self[0]}


@pytest.mark.parametrize(
    ("value", "result"),
    [
        pytest.param(None, None, id="null"),
        pytest.param(True, True, id="true"),
        pytest.param(2**53 - 1, 2**53 - 1, id="the last whole number that browsers keep"),
        pytest.param(2**53, "9007199254740992", id="a number that browsers would round"),
        pytest.param(1.5, 1.5, id="a double"),
        pytest.param(float("nan"), "nan", id="not a number"),
        pytest.param(float("-inf"), "-inf", id="infinity"),
        pytest.param(Decimal("1E+3"), "1000", id="a decimal"),
        pytest.param(Decimal("0.10"), "0.10", id="a decimal's zeros"),
        pytest.param(datetime.date(2013, 1, 2), "2013-01-02", id="a date"),
        pytest.param(datetime.datetime(2013, 1, 2, 3, 4, 5), "2013-01-02 03:04:05", id="a time"),  # noqa: DTZ001 -- Spark's are naive
        pytest.param(bytearray(b"\x00\xff"), "0x00ff", id="bytes"),
        pytest.param(datetime.timedelta(1), "1 day, 0:00:00", id="an interval"),
        pytest.param([Row([Decimal(1)]), {datetime.date(2013, 1, 2): [None]}],
                     [{"x": "1"}, {"2013-01-02": [None]}], id="nested"),
    ],
)  # fmt: skip
def test_values_as_json(value, result):
    assert as_json(value) == result
    json.dumps(as_json(value), allow_nan=False)


def test_table_is_shown_as_text():
    rows = [[1, "a\nb", None], [Decimal("10.50"), "x" * 61, [1, None]]]

    assert table(["n", "text", "more"], rows) == dedent(f"""\
            n | text{" " * 56} | more
        ------+-{"-" * 60}-+----------
            1 | a\\nb{" " * 56} | NULL
        10.50 | {"x" * 59}… | [1, null]""")


def test_long_cell_is_cut_and_says_so():
    assert kept(["a"], [["x" * 4097], ["y"]], False) == {
        "columns": ["a"],
        "rows": [["x" * 4095 + "…"], ["y"]],
        "truncated": True,
    }


@pytest.mark.parametrize(
    ("message", "line"),
    [
        pytest.param("\n[NO_SUCH] a `b`; line 1 pos 2;\n'Project [1]\n",
                     "[NO_SUCH] a `b`; line 1 pos 2;", id="without the plan"),
        pytest.param("An error occurred while calling o1.x.\n: org.a.B: c\nCaused by: org.D: e\n",
                     "org.D: e", id="Java's cause"),
        pytest.param("", "ValueError", id="without a message"),
    ],
)  # fmt: skip
def test_reason(message, line):
    assert reason(ValueError(message)) == line
