"""The line of a failed log that says most."""

from __future__ import annotations

import re

#: Characters of the line that is shown.
LONGEST = 500

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_TRACEBACK = "Traceback (most recent call last):"
#: How an exception ends a traceback: `ValueError: no such thing`, `acme.errors.Full`.
_PYTHON = re.compile(r"[A-Za-z_][\w.]*(?:: .*)?$")
#: Py4J's own exception only carries a Java one.
_CARRIER = re.compile(r"(?:py4j\.protocol\.)?Py4J\w*Error: An error occurred")
_OUR_OWN = re.compile(r"statement \d+ of \d+, line \d+ failed: ")
_SPARK = re.compile(r"\[[A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*\] \S")
_JAVA = re.compile(r"^(?:Exception in thread .*? |: )?(?:[a-z][\w$]*\.)+[A-Z][\w$]*(?:: |$)")
_LOG4J = re.compile(r"^\d\d/\d\d/\d\d \d\d:\d\d:\d\d (?:TRACE|DEBUG|INFO|WARN) ")
_FRAME = re.compile(r"^\s+at |^\s+\.\.\. \d+ more|^\s*\^+\s*$")


def last_error_line(tail: str) -> str:
    """The most telling line of a failed log's end, in at most 500 characters.

    In this order: the statement that our SQL runner names, the exception of the last Python
    traceback, Spark's line with an [ERROR_CLASS], Java's deepest `Caused by`, its exception;
    else the last line that is not of a stack or of Spark's ordinary chatter. Empty only where
    the log is. ANSI codes and control characters are taken out.
    """
    text = _ANSI.sub("", tail).replace("\r\n", "\n")
    # A progress bar draws itself anew over one line; what stands there at the end counts.
    lines = [_CONTROL.sub("", line.rpartition("\r")[2]).rstrip() for line in text.split("\n")]
    lines = [line for line in lines if line.strip()]
    for find in (_own, _python, _spark, _cause, _java, _last):
        if line := find(lines):
            line = line.strip()
            return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
    return ""


def _own(lines: list[str]) -> str:
    return next((line for line in reversed(lines) if _OUR_OWN.match(line)), "")


def _python(lines: list[str]) -> str:
    starts = [n for n, line in enumerate(lines) if line.lstrip(" |+").startswith(_TRACEBACK)]
    if not starts:
        return ""
    indent = len(lines[starts[-1]]) - len(_TRACEBACK)
    for line in lines[starts[-1] + 1 :]:
        said = line[indent:]
        if said[:1] not in ("", " ", "|", "+") and _PYTHON.match(said):
            return "" if _CARRIER.match(said) else said
    return ""


def _spark(lines: list[str]) -> str:
    found = [line for line in lines if _SPARK.search(line) and not _LOG4J.match(line)]
    # The last names the failure; a cause of the same class may repeat below it.
    return found[-1].removeprefix("Caused by: ").removeprefix(": ") if found else ""


def _cause(lines: list[str]) -> str:
    causes = [line.strip() for line in lines if line.strip().startswith("Caused by: ")]
    return causes[-1].removeprefix("Caused by: ") if causes else ""


def _java(lines: list[str]) -> str:
    found = [line for line in lines if _JAVA.match(line)]
    return found[-1].removeprefix(": ") if found else ""


def _last(lines: list[str]) -> str:
    told = [line for line in lines if not _FRAME.match(line) and not _LOG4J.match(line)]
    return (told or lines or [""])[-1]
