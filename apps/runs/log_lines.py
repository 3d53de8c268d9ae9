"""A log by lines: which line lies where, a few lines by number, and a search.

Lines end with a newline and are numbered from 1, as the child wrote them: a middle that was
left out takes its numbers with it. Nothing here reads a large log whole: it starts from the
nearest mark that the worker left while the log grew (AttemptLog.marks), and a search stops
after a while and says where to go on.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from apps.core.errors import Invalid
from apps.runs.logs import AttemptLog, Mark, Stretch

#: Most that one answer holds, in lines and in bytes of text.
MOST_LINES = 1000
MOST_BYTES = 1 << 20
#: Shown of one line: a job may print 10 MB without an end.
LINE_BYTES = 4000
#: A search gives what it has after so long, and says where to go on.
SEARCH_SECONDS = 1.0
_CHUNK = 1 << 20
#: Behind the last mark so much is counted at most: some 0.1 s. Then a number is not known.
_COUNT_BYTES = 256 << 20


@dataclass(frozen=True)
class Line:
    #: From 1; None where too much would have to be counted.
    number: int | None
    #: Where it begins, in bytes.
    offset: int
    #: Without its end; of a long line a piece: its beginning, or the one that was found.
    text: str
    #: Bytes of it that `text` leaves out.
    cut: int = 0


@dataclass(frozen=True)
class Lines:
    lines: list[Line]
    #: Number of the line to go on with; None: this was the end, for now.
    next: int | None


@dataclass(frozen=True)
class Found:
    lines: list[Line]
    #: Offset to go on searching from; None: all was searched, for now.
    next: int | None


# --- from an offset to a number, and back -----------------------------------------------------


def number_at(log: AttemptLog, offset: int) -> int | None:
    """Number of the line in which the byte at `offset` lies; None where nobody knows."""
    marks, (start, end) = log.marks(), log.hole()
    at = bisect_right(marks, offset, key=_offset)
    before = marks[at - 1] if at else Mark(0, 0)
    if before.offset < end <= offset and start < end:
        # What was left out lies between: count back from the next mark.
        if at == len(marks):
            return None
        newlines = _newlines(log, offset, marks[at].offset)
        return None if newlines is None else marks[at].newlines - newlines + 1
    newlines = _newlines(log, before.offset, offset)
    return None if newlines is None else before.newlines + newlines + 1


def offset_of(log: AttemptLog, number: int) -> tuple[int, int] | None:
    """(offset, number) of the line with this number; None: the log has no such line yet.

    Of a line that was left out: where the log goes on, and the number there.
    """
    if number <= 1:
        return 0, 1
    marks, hole = log.marks(), log.hole()
    # The last mark before which the line can not have begun.
    at = bisect_left(marks, number - 1, key=_count)
    mark = marks[at - 1] if at else Mark(0, 0)
    here, count = mark.offset, mark.newlines
    while (stretch := log.read(here, _CHUNK)).data:
        if stretch.left_out:
            known = number_at(log, stretch.offset)
            count = count if known is None else known - 1
            if known is not None and known >= number:
                return hole[1], known
        found = stretch.data.count(b"\n")
        if count + found >= number - 1:
            offset = stretch.offset + _nth_newline(stretch.data, number - 1 - count) + 1
            return (offset, number) if offset < log.size() else None
        count += found
        here = stretch.next
    return None


def _offset(mark: Mark) -> int:
    return mark.offset


def _count(mark: Mark) -> int:
    return mark.newlines


def _newlines(log: AttemptLog, start: int, end: int) -> int | None:
    """Line ends from `start` to before `end`; None where that is too much to count."""
    if end - start > _COUNT_BYTES:
        return None
    count = 0
    while start < end and (stretch := log.read(start, min(end - start, _CHUNK))).data:
        count += stretch.data.count(b"\n", 0, max(end - stretch.offset, 0))
        start = stretch.next
    return count


def _nth_newline(data: bytes, n: int) -> int:
    """Where the n-th newline stands, from 1 on; -1 for n = 0."""
    at = -1
    for _ in range(n):
        at = data.index(b"\n", at + 1)
    return at


# --- lines ------------------------------------------------------------------------------------


def lines_from(log: AttemptLog, first: int, count: int) -> Lines:
    """`count` lines from number `first` on, fewer where they are long.

    Past the end: none. Of lines that were left out: those behind them.
    """
    found = offset_of(log, first)
    if found is None:
        return Lines([], None)
    offset, number = found
    lines: list[Line] = []
    for piece in _pieces(log, offset):
        if piece.is_new and len(lines) == count:
            return Lines(lines, number)
        if piece.left_out:
            number = number_at(log, piece.offset) or number
        if piece.is_new:
            shown = piece.data[:LINE_BYTES]
            lines.append(Line(number, piece.offset, _text(shown), len(piece.data) - len(shown)))
        else:
            last = lines[-1]
            lines[-1] = Line(last.number, last.offset, last.text, last.cut + len(piece.data))
        if piece.is_ended:
            number += 1
        if piece.end - offset >= MOST_BYTES and piece.is_ended:
            more = piece.end < log.size()
            return Lines(lines, number if more else None)
    return Lines(lines, None)


@dataclass(frozen=True)
class _Piece:
    """A line, or what one read gave of it."""

    offset: int
    #: Without the newline.
    data: bytes
    is_new: bool
    is_ended: bool
    #: Whether bytes were left out right before it.
    left_out: bool

    @property
    def end(self) -> int:
        return self.offset + len(self.data) + self.is_ended


def _pieces(log: AttemptLog, offset: int) -> Iterator[_Piece]:
    is_new = True
    while (stretch := log.read(offset, 1 << 16)).data:
        left_out = bool(stretch.left_out)
        is_new = is_new or left_out
        at = stretch.offset
        for part in _split(stretch.data):
            is_ended = part.endswith(b"\n")
            data = part[:-1] if is_ended else part
            yield _Piece(at, data, is_new, is_ended, left_out)
            at, is_new, left_out = at + len(part), is_ended, False
        offset = stretch.next


def _split(data: bytes) -> Iterator[bytes]:
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        yield data[start : end + 1]
        start = end + 1
    if start < len(data):
        yield data[start:]


# --- search -----------------------------------------------------------------------------------


def check_wanted(text: str) -> None:
    """Raises Invalid where no line can hold this text."""
    if not text:
        raise Invalid("there is no text to search for; give one", "text")
    if "\n" in text:
        raise Invalid("a text that goes over a line's end is in no line; take the end out", "text")


def search(
    log: AttemptLog, text: str, *, start: int = 0, limit: int, ignore_case: bool = False
) -> Found:
    """Lines that hold `text`, from the offset `start` on: `limit` of them at most.

    With `ignore_case` letters of any script match whatever their case. It stops after
    SEARCH_SECONDS as well, so that many calls may be needed for a log of gigabytes, some of
    which find nothing.
    """
    overlap = 4 * len(text.encode())  # enough for letters whose other case is longer
    until = time.monotonic() + SEARCH_SECONDS
    lines: list[Line] = []
    number, line_at = number_at(log, start), start
    while (stretch := log.read(start, _CHUNK)).data:
        if stretch.left_out:
            number, line_at = number_at(log, stretch.offset), stretch.offset
        block = _whole_lines(stretch)
        for begin, end, at in _hits(block, text, ignore_case=ignore_case):
            where = stretch.offset + begin if begin else line_at
            if lines and lines[-1].offset == where:
                continue  # a long line that was read in pieces
            if len(lines) == limit:
                return Found(lines, where)
            mine = None if number is None else number + block.count(b"\n", 0, begin)
            lines.append(_shown(block[begin:end], at - begin, where, mine))
        newlines = block.count(b"\n")
        if newlines:
            number = None if number is None else number + newlines
            line_at = stretch.offset + block.rindex(b"\n") + 1
        following = stretch.offset + len(block)
        if following >= log.size():
            break
        if not block.endswith(b"\n"):
            following = max(following - overlap, line_at, stretch.offset + 1)
        start = following
        if time.monotonic() >= until:
            return Found(lines, start)
    return Found(lines, None)


def _whole_lines(stretch: Stretch) -> bytes:
    """What was read, up to its last line end; all of it where that would be too little."""
    end = stretch.data.rfind(b"\n") + 1
    return stretch.data[:end] if end > _CHUNK // 2 else stretch.data


def _hits(block: bytes, text: str, *, ignore_case: bool) -> Iterator[tuple[int, int, int]]:
    """(begin, end, place of the text) of each line that holds it."""
    if ignore_case and not text.isascii():
        yield from _folded_hits(block, text.casefold())
        return
    # One letter, one byte, whatever its case.
    hay, needle = (block.lower(), text.lower()) if ignore_case else (block, text)
    wanted, end = needle.encode(), 0
    while (at := hay.find(wanted, end)) >= 0:
        begin = block.rfind(b"\n", 0, at) + 1
        end = block.find(b"\n", at)
        end = len(block) if end < 0 else end
        yield begin, end, at


def _folded_hits(block: bytes, wanted: str) -> Iterator[tuple[int, int, int]]:
    """As above for letters that may take another number of bytes in the other case."""
    begin = 0
    for line in _split(block):
        folded = line.decode(errors="replace").casefold()
        at = folded.find(wanted)
        if at >= 0:
            end = begin + len(line.removesuffix(b"\n"))
            yield begin, end, min(begin + len(folded[:at].encode()), end)
        begin += len(line)


def _shown(line: bytes, at: int, offset: int, number: int | None) -> Line:
    """A line that was found: of a long one the piece around `at`."""
    start = max(min(at - LINE_BYTES // 4, len(line) - LINE_BYTES), 0)
    piece = line[start : start + LINE_BYTES]
    return Line(number, offset, _text(piece), len(line) - len(piece))


def _text(data: bytes) -> str:
    return data.removesuffix(b"\r").decode(errors="replace")
