"""A log by lines: numbers, lines and hits are those of the text, however it is read."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.core.errors import Invalid
from apps.runs import log_lines, logs
from apps.runs.log_lines import Line, Lines, check_wanted, lines_from, number_at, offset_of, search
from apps.runs.log_text import opening
from apps.runs.logs import AttemptLog, Mark, Reader


@pytest.fixture
def log(tmp_path: Path) -> AttemptLog:
    return AttemptLog(tmp_path / "7" / "12.1.log")


@pytest.fixture
def in_small_steps(monkeypatch) -> None:
    take_small_steps(monkeypatch)


def take_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few bytes are as much work as megabytes: marks, reads and pieces of 16 bytes."""
    monkeypatch.setattr(logs, "MARK_BYTES", 16)
    monkeypatch.setattr(logs, "_CHUNK", 16)
    monkeypatch.setattr(log_lines, "_CHUNK", 16)


def write(log: AttemptLog, *parts: bytes) -> None:
    """As a worker has it: it reads on while the child writes."""
    handle = log.open_for_child()
    reader = Reader(handle, marks=log.marks_path)
    for part in parts:
        os.write(handle, part)
        reader.advance(1 << 30)
    reader.close()
    os.close(handle)


def all_hits(log: AttemptLog, text: str, *, ignore_case: bool = False) -> list[Line]:
    found: dict[int | None, Line] = {}
    start: int | None = 0
    while start is not None:
        part = search(log, text, start=start, limit=2, ignore_case=ignore_case)
        for line in part.lines:
            found.setdefault(line.number, line)
        assert part.next is None or part.next > start or len(part.lines) == 2
        start = part.next
    return list(found.values())


def places(lines: list[Line]) -> list[tuple[int | None, int]]:
    return [(line.number, line.offset) for line in lines]


LINES = st.lists(st.text("abAB\u00fc\u00dc ", max_size=40), max_size=30)


@settings(max_examples=150, deadline=None)
@given(lines=LINES, ended=st.booleans(), wanted=st.text("ab\u00fc", min_size=1, max_size=3))
def test_every_line_is_found_by_its_number_and_by_what_it_holds(lines, ended, wanted):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        take_small_steps(patch)
        log = AttemptLog(Path(folder) / "1.log")
        content = "\n".join(lines).encode() + b"\n" * ended
        write(log, *(content[at : at + 50] for at in range(0, len(content), 50)))
        texts = content.decode().split("\n")
        texts = texts if texts[-1] else texts[:-1]
        starts = [sum(len(line.encode()) + 1 for line in texts[:n]) for n in range(len(texts))]
        whole = [Line(n + 1, starts[n], text) for n, text in enumerate(texts)]

        assert lines_from(log, 1, 1000) == Lines(whole, None)
        for n, line in enumerate(whole):
            assert offset_of(log, n + 1) == (line.offset, n + 1)
            assert number_at(log, line.offset) == n + 1
            more = n + 3 if n + 2 < len(whole) else None
            assert lines_from(log, n + 1, 2) == Lines(whole[n : n + 2], more)
        assert offset_of(log, len(whole) + 1) is None or not whole
        # Of a line longer than a step the text is a piece.
        holding = [line for line in whole if wanted in line.text]
        assert places(all_hits(log, wanted)) == places(holding)
        holding = [line for line in whole if wanted.casefold() in line.text.casefold()]
        assert places(all_hits(log, wanted, ignore_case=True)) == places(holding)


def test_a_long_log_opens_near_its_end_with_its_lines_numbered(log):
    write(log, *[b"x" * 99 + b"\n"] * 30_000)

    offset, number = opening(log)

    assert log.marks()[0] == Mark(1048600, 10486)
    assert (offset, number) == (offset // 100 * 100, offset // 100 + 1)
    assert log.size() - offset < (1 << 20) + 100


def test_what_was_left_out_takes_its_numbers_with_it(log, in_small_steps):
    handle = log.open_for_child()
    reader = Reader(handle, marks=log.marks_path)
    text = b"".join(b"line %05d\n" % n for n in range(1, 5001))
    for at in range(0, len(text), 1000):
        os.write(handle, text[at : at + 1000])
        reader.advance(1 << 30)
        log.keep_ends(handle, 20_000)
    reader.close()
    os.close(handle)
    start, end = log.hole()
    assert 0 < start < end

    last_before = start // 11 + 1  # the line that is cut
    first_behind = end // 11 + 1
    across = lines_from(log, last_before - 1, 4).lines
    assert [line.number for line in across] == [
        last_before - 1,
        last_before,
        first_behind,
        first_behind + 1,
    ]
    assert across[-1].text == f"line {first_behind + 1:05d}"
    assert offset_of(log, (last_before + first_behind) // 2) == (end, first_behind)
    [hit] = all_hits(log, "line 04999")
    assert hit == Line(4999, 4998 * 11, "line 04999")
    assert all_hits(log, f"line {(last_before + first_behind) // 2:05d}") == []


def test_a_line_without_end_is_shown_in_part_and_searched_whole(log):
    write(log, b"first\n", b"x" * 3_000_000 + b"needle" + b"x" * 3_000_000, b"\nlast needle\n")

    shown = lines_from(log, 2, 2).lines
    hits = all_hits(log, "needle")

    assert [(line.number, len(line.text), line.cut) for line in shown] == [(2, 4000, 5_996_006)]
    assert lines_from(log, 3, 2) == Lines([Line(3, 6_000_013, "last needle")], None)
    assert [(hit.number, hit.offset, "needle" in hit.text) for hit in hits] == [
        (2, 6, True),
        (3, 6_000_013, True),
    ]


def test_a_search_that_takes_long_stops_and_goes_on_where_it_was(log, monkeypatch):
    write(log, *[b"x" * 99 + b"\n"] * 30_000, b"needle\n")
    monkeypatch.setattr(log_lines, "SEARCH_SECONDS", 0.0)

    parts = [search(log, "needle", limit=5)]
    while parts[-1].next is not None:
        parts.append(search(log, "needle", start=parts[-1].next, limit=5))

    assert [len(part.lines) for part in parts] == [0, 0, 1]
    assert parts[-1].lines[0].number == 30_001


def test_lines_that_nobody_marked_are_counted_or_have_no_number(log, monkeypatch):
    """Its worker went away."""
    log.path.parent.mkdir(parents=True)
    log.path.write_bytes(b"line\n" * 1000)

    assert lines_from(log, 700, 1).lines == [Line(700, 3495, "line")]

    monkeypatch.setattr(log_lines, "_COUNT_BYTES", 100)
    assert number_at(log, 3495) is None
    assert search(log, "line", start=3495, limit=1).lines == [Line(None, 3495, "line")]


def test_half_a_mark_on_a_full_disk_is_no_mark(log):
    write(log, *[b"x" * 99 + b"\n"] * 30_000)
    whole = log.marks()
    with log.marks_path.open("ab") as file:
        file.write(b"\1\2\3")

    assert log.marks() == whole


@pytest.mark.parametrize("text", ["", "a\nb"])
def test_what_no_line_can_hold_is_not_searched_for(text):
    with pytest.raises(Invalid):
        check_wanted(text)
