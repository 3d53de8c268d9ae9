"""Runs a file of SQL statements in one Spark session: the program of the kind `sql`.

Copied into the attempt's folder and run there by spark-submit with the job's Python, so it
imports nothing of Runyard's. Usage: sql_runner.py FILE ROW_LIMIT. Each statement is printed with
its number and line, its result as a text table up to ROW_LIMIT rows, and its duration; a
result is also written as JSON to $RUNYARD_OUTPUT_DIR. The first statement that fails ends it
with status 1 and a last line that says which and why.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

#: Characters of one cell, in the log and in JSON.
CELL_SHOWN = 60
CELL_KEPT = 4096
#: Results written as JSON; a script of thousands of queries has no one who looks at them.
RESULTS_KEPT = 100

#: What may hold a semicolon without ending a statement, as Spark's lexer has it. A comment in
#: brackets nests and so has no pattern; where the end is missing, the text ends it.
_TOKEN = re.compile(
    r"""
    (?P<raw>    \b[rR](?: '[^']*' | "[^"]*" ) )
  | (?P<string> '(?:[^'\\]|\\.)*(?:'|\Z) | "(?:[^"\\]|\\.)*(?:"|\Z) )
  | (?P<name>   `[^`]*(?:`|\Z) )
  | (?P<line>   --(?:\\\n|[^\n])* )
  | (?P<open>   /\* )
  | (?P<dollar> (?P<tag>\$[A-Za-z]*\$) .*? (?:(?P=tag)|\Z) )
  | (?P<end>    ; )
    """,
    re.VERBOSE | re.DOTALL,
)
_BRACKET = re.compile(r"/\*|\*/")
#: The dollar of a `${name}` that is text: Runyard has put in all it knows. Spark's own names
#: have a dot or a colon.
_PLAIN_DOLLAR = re.compile(r"\$(?=\{[^\s.:}]+\})")
_SUBSTITUTE = "spark.sql.variable.substitute"


class Statement(NamedTuple):
    line: int
    text: str


def split(script: str) -> list[Statement]:
    """The statements of a script, without their semicolons, each with the line it begins on.

    What holds nothing but comments is no statement.
    """
    found: list[Statement] = []
    begin = place = 0
    # Where the statement's first word is; None while there were only blanks and comments.
    first: int | None = None

    def note(until: int, since: int) -> None:
        nonlocal first
        if first is None:
            blank = re.match(r"\s*", script[since:until])
            if blank is not None and since + blank.end() < until:
                first = since + blank.end()

    def close(until: int) -> None:
        nonlocal begin, first
        if first is not None:
            line = script.count("\n", 0, first) + 1
            found.append(Statement(line, script[first:until].strip()))
        begin, first = until + 1, None

    while token := _TOKEN.search(script, place):
        note(token.start(), place)
        place = token.end()
        if token["open"]:
            depth = 1
            while depth and (bracket := _BRACKET.search(script, place)):
                depth += 1 if bracket[0] == "/*" else -1
                place = bracket.end()
            if depth:
                place = len(script)
        elif token["end"]:
            close(token.start())
        elif not token["line"] and first is None:
            first = token.start()
    note(len(script), place)
    close(len(script))
    return found


def as_json(value: Any) -> Any:
    """A value of a result as JSON has it: exact, so what JSON cannot hold becomes a string."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # Browsers read numbers as doubles.
        return value if abs(value) < 2**53 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return "0x" + bytes(value).hex()
    if isinstance(value, dict):
        return {str(as_json(key)): as_json(item) for key, item in value.items()}
    if hasattr(value, "asDict"):
        return {key: as_json(item) for key, item in value.asDict().items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return str(value)


def as_text(value: Any) -> str:
    """A value of a result as one line of text."""
    value = as_json(value)
    if value is None:
        return "NULL"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """A result as text: a head, a line, the rows; numbers to the right."""
    shown = [[cut(as_text(value), CELL_SHOWN) for value in row] for row in rows]
    head = [cut(as_text(name), CELL_SHOWN) for name in columns]
    widths = [max(map(len, column)) for column in zip(head, *shown, strict=True)]
    right = [
        any(isinstance(row[n], (int, float, decimal.Decimal)) for row in rows)
        for n in range(len(head))
    ]

    def line(cells: list[str]) -> str:
        parts = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(cells, widths, right, strict=True)
        )
        return " | ".join(parts).rstrip()

    rule = "-+-".join("-" * width for width in widths)
    return "\n".join([line(head), rule, *map(line, shown)])


def kept(columns: list[str], rows: list[list[Any]], truncated: bool) -> dict[str, Any]:
    """A result as the run page shows it."""
    cells: list[list[Any]] = []
    for row in rows:
        cells.append([])
        for value in map(as_json, row):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            if len(text) > CELL_KEPT:
                value, truncated = cut(text, CELL_KEPT), True
            cells[-1].append(value)
    return {"columns": columns, "rows": cells, "truncated": truncated}


def reason(error: BaseException) -> str:
    """Why a statement failed, in one line: Spark's own words without the plan below them."""
    text = str(error).strip()
    # Py4J's "An error occurred while calling o42.collect.\n: org.apache.spark.…" and stacks.
    causes = re.findall(r"^Caused by: (.+)$", text, re.MULTILINE)
    if text.startswith("An error occurred while calling") and causes:
        text = causes[-1]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def ask(spark: Any, text: str) -> Any:
    """spark.sql(text), but that a `${name}` stays text: Spark would make it empty, silently.

    A view remembers the setting, so its text stays too when it is read.
    """
    if not _PLAIN_DOLLAR.search(text) or spark.conf.get(_SUBSTITUTE) != "true":
        return spark.sql(text)
    # Spark puts in its own names first; what it has put in it does not look at again.
    spark.conf.set("runyard.dollar", "$")
    substitution = spark._jvm.org.apache.spark.sql.internal.VariableSubstitution()
    text = substitution.substitute(_PLAIN_DOLLAR.sub("${runyard.dollar}", text))
    spark.conf.set(_SUBSTITUTE, "false")
    try:
        return spark.sql(text)
    finally:
        spark.conf.set(_SUBSTITUTE, "true")


def main(file: str, row_limit: int) -> int:
    from pyspark.sql import SparkSession

    statements = split(Path(file).read_text(encoding="utf-8"))
    if not statements:
        print("there is no statement in this job", flush=True)
        return 0
    spark = SparkSession.builder.getOrCreate()
    outputs = os.environ.get("RUNYARD_OUTPUT_DIR")
    results = 0
    for number, statement in enumerate(statements, 1):
        where = f"statement {number} of {len(statements)}"
        print(f"\n-- {where}, line {statement.line}\n{statement.text}\n", flush=True)
        began = time.monotonic()
        try:
            frame = ask(spark, statement.text)
            columns = list(frame.columns)
            # One more than shown tells whether there are more.
            rows = [list(row) for row in frame.take(row_limit + 1)] if columns else []
        except Exception as error:  # whatever Spark raises is the job's own failure
            print(flush=True)
            if not hasattr(error, "getCondition") and not hasattr(error, "getErrorClass"):
                traceback.print_exc()
            print(error, file=sys.stderr, flush=True)
            message = f"{where}, line {statement.line} failed: {reason(error)}"
            print(cut(message, 500), file=sys.stderr, flush=True)
            return 1
        seconds = time.monotonic() - began
        if not columns:
            print(f"done, {seconds:.2f} s", flush=True)
            continue
        truncated = len(rows) > row_limit
        del rows[row_limit:]
        print(table(columns, rows))
        count = f"the first {row_limit} rows" if truncated else f"{len(rows)} rows"
        print(f"{'1 row' if count == '1 rows' else count}, {seconds:.2f} s", flush=True)
        results += 1
        if outputs and results <= RESULTS_KEPT:
            text = json.dumps(kept(columns, rows, truncated), ensure_ascii=False)
            Path(outputs, f"statement-{number:03}.json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
