"""A stretch of a log as text for a page: whole characters, and what was left out said so."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from apps.runs.log_lines import number_at
from apps.runs.logs import READ_BYTES, AttemptLog

#: How much of a log's end a page opens with; the rest is in the download.
OPEN_BYTES = 1 << 20


@dataclass(frozen=True)
class LogText:
    start: int
    #: Pass back as `offset` to get what comes next.
    next: int
    text: str


def text_from(log: AttemptLog, offset: int, *, ended: bool, limit: int = READ_BYTES) -> LogText:
    """The next text from `offset` on; invalid UTF-8 as U+FFFD.

    A character that is not whole yet stays for the next call, unless the attempt has `ended`
    (which must have been read before this call: then nothing more can come).
    """
    stretch = log.read(offset, limit)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    last = ended and stretch.next >= log.size()
    text = decoder.decode(stretch.data, final=last)
    held_back = 0 if last else len(decoder.getstate()[0])
    if stretch.left_out:
        text = (
            f"\n[{stretch.left_out:,} bytes were left out here: the log outgrew its limit]\n{text}"
        )
    return LogText(offset, stretch.next - held_back, text)


def opening(log: AttemptLog) -> tuple[int, int]:
    """(offset, number of its line) to open a log at; 0: the number is not known.

    A log that is not too long is shown whole, of a longer one the end, from a line's start.
    """
    size = log.size()
    if size <= OPEN_BYTES:
        return 0, 1
    stretch = log.read(size - OPEN_BYTES)
    end = stretch.data.find(b"\n")
    start = stretch.offset + end + 1
    return start, number_at(log, start) or 0
