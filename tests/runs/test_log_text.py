"""A log as a page gets it: whole characters, and an end that cannot be missed."""

from __future__ import annotations

import os

import pytest

from apps.runs.log_text import OPEN_BYTES, opening, text_from
from apps.runs.logs import AttemptLog


@pytest.fixture
def log(tmp_path):
    return AttemptLog(tmp_path / "1" / "2" / "1.log")


def write(log: AttemptLog, data: bytes) -> None:
    handle = log.open_for_child()
    os.write(handle, data)
    os.close(handle)


def all_text(log: AttemptLog, limit: int, *, ended: bool = True) -> str:
    offset, texts = 0, []
    while True:
        found = text_from(log, offset, ended=ended, limit=limit)
        if found.next == offset:
            return "".join(texts)
        texts.append(found.text)
        offset = found.next


@pytest.mark.parametrize("limit", [4, 5, 7, 1000])
def test_characters_are_whole_wherever_a_stretch_ends(log, limit):
    write(log, "Zürich 苏黎世 🎉\n".encode())

    assert all_text(log, limit) == "Zürich 苏黎世 🎉\n"


def test_bytes_that_are_no_text_are_shown_as_such(log):
    write(log, b"ok \xff\xfe \xc3( end")

    assert all_text(log, 1000) == "ok \ufffd\ufffd \ufffd( end"


def test_half_a_character_waits_for_its_rest_until_the_attempt_has_ended(log):
    write(log, b"half \xe8\x8b")

    assert text_from(log, 0, ended=False).text == "half "
    assert text_from(log, 5, ended=False).next == 5
    assert text_from(log, 5, ended=True).text == "\ufffd"


def test_a_log_that_has_not_begun_is_empty(log):
    assert text_from(log, 0, ended=False) == text_from(log, 0, ended=True)
    assert text_from(log, 0, ended=True).text == ""


def test_a_short_log_opens_at_its_first_line_and_a_long_one_near_its_end(log):
    line = b"x" * 99 + b"\n"
    write(log, line * 10)
    assert opening(log) == (0, 1)

    write(log, line * (OPEN_BYTES // 100))
    offset, number = opening(log)

    assert (offset % 100, number) == (0, offset // 100 + 1)
    assert log.size() - OPEN_BYTES < offset <= log.size() - OPEN_BYTES + 100
