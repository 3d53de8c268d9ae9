from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.core.home import Home
from apps.runs import logs
from apps.runs.logs import AttemptLog, Blanks, Reader, Stretch

KIB = 1024


@pytest.fixture
def log(tmp_path: Path) -> AttemptLog:
    return AttemptLog(tmp_path / "7" / "12" / "1.log")


@pytest.fixture
def handle(log: AttemptLog) -> Iterator[int]:
    opened = log.open_for_child()
    yield opened
    os.close(opened)


def test_log_lies_under_its_run_node_and_attempt(settings):
    assert logs.log_of(7, 12, 3).path == settings.HOME.logs / "7" / "12.3.log"


def test_log_that_has_not_begun_is_empty(log):
    assert (log.size(), log.read(), log.tail()) == (0, Stretch(0, b"", 0), Stretch(0, b"", 0))


def test_reading_on_from_where_it_ended_gives_every_byte_once(log, handle):
    wrote = bytes(range(256)) * 40  # no UTF-8, NULs, carriage returns
    os.write(handle, wrote)
    read, offset = b"", 0

    while (stretch := log.read(offset, limit=1000)).data:
        assert (stretch.offset, stretch.left_out) == (offset, 0)
        read += stretch.data
        offset = stretch.next

    assert (read, offset, log.size()) == (wrote, len(wrote), len(wrote))


def test_tail_is_the_end(log, handle):
    os.write(handle, b"x" * 5000 + b"the end")

    assert log.tail(7) == Stretch(5000, b"the end", 0)


def test_two_writers_append_and_the_log_is_for_its_owner_alone(log, handle):
    subprocess.run(
        ["/bin/sh", "-c", "echo a; echo b >&2"], stdout=handle, stderr=handle, check=True
    )
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, b"c\n")

    assert log.read().data == b"a\nb\nc\n"
    modes = [oct(path.stat().st_mode & 0o777) for path in (log.path, log.path.parent)]
    assert modes == ["0o600", "0o700"]


def test_log_that_was_made_ahead_is_a_log_like_any_other(log, settings, tmp_path):
    settings.HOME = Home(tmp_path)
    settings.HOME.logs.mkdir()
    log = AttemptLog(settings.HOME.logs / "7" / "12.1.log")
    blanks = Blanks(most=1)
    blanks.make()
    blanks.make()
    blank, none = blanks.take(), blanks.take()
    assert (blank is not None, none) == (True, None)

    handle = log.open_for_child(blank)
    os.write(handle, b"one\n")
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, b"two\n")
    os.close(handle)

    assert (handle, log.read()) == (blank, Stretch(0, b"one\ntwo\n", 0))


def test_log_that_exists_is_gone_on_with(log):
    os.close(log.open_for_child())
    blank = os.open(log.path.parent, os.O_TMPFILE | os.O_RDWR)
    for part in (b"one\n", b"two\n"):
        handle = log.open_for_child(blank if part == b"two\n" else None)
        os.write(handle, part)
        os.close(handle)

    assert log.read().data == b"one\ntwo\n"


@pytest.mark.parametrize(
    "limit",
    [pytest.param(64 * KIB, id="whole blocks"), pytest.param(50_001, id="odd limit")],
)
def test_long_log_keeps_head_and_tail_at_their_offsets_and_frees_the_middle(log, handle, limit):
    wrote = b"".join(b"line %07d\n" % n for n in range(100_000))  # 1.3 MB
    for at in range(0, len(wrote), 10_000):
        os.write(handle, wrote[at : at + 10_000])
        log.keep_ends(handle, limit)

    start, end = log.hole()
    assert log.size() == len(wrote)
    assert limit // 2 - 4096 <= start <= limit // 2
    assert limit // 2 <= len(wrote) - end <= limit // 2 + limit // 8 + 4096
    assert log.path.stat().st_blocks * 512 <= limit + limit // 8 + 3 * 4096
    assert log.read(0, 10 * len(wrote)) == Stretch(0, wrote[:start], 0)
    assert log.read(start, 100) == Stretch(end, wrote[end : end + 100], end - start)
    assert log.read(start + 5000, 100) == Stretch(end, wrote[end : end + 100], end - start - 5000)
    assert log.read(end + 3, 100) == Stretch(end + 3, wrote[end + 3 : end + 103], 0)
    assert log.tail(100) == Stretch(len(wrote) - 100, wrote[-100:], 0)


def test_log_below_its_limit_stays_whole(log, handle):
    os.write(handle, b"x" * 64 * KIB)
    log.keep_ends(handle, 64 * KIB)

    assert (log.hole(), log.read().data) == ((0, 0), b"x" * 64 * KIB)


def test_reader_beside_a_fast_writer_never_sees_the_hole_as_text(log, handle):
    over = threading.Event()

    def write() -> None:
        for _ in range(300):
            os.write(handle, b"y" * 9_999 + b"\n")
            log.keep_ends(handle, 64 * KIB)
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    offset = read = left_out = 0
    while True:
        last = over.is_set()
        stretch = log.read(offset)
        assert stretch.data.strip(b"y\n") == b""
        read += len(stretch.data)
        left_out += stretch.left_out
        offset = stretch.next
        if last and not stretch.data:
            break
    writer.join()

    assert (read + left_out, offset) == (3_000_000, 3_000_000)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param(b"", 0, id="nothing"),
        pytest.param(b"a\nb\n", 2, id="ended lines"),
        pytest.param(b"a\nb", 2, id="last line without an end"),
        pytest.param(b"\n\n", 2, id="empty lines"),
        pytest.param(b"x" * (10 << 20), 1, id="one line of 10 MB"),
    ],
)
def test_reader_counts_lines_and_hands_on_all_bytes(log, handle, text, lines):
    seen = bytearray()
    reader = Reader(handle, seen.extend)
    for at in range(0, len(text), 3 << 20):
        os.write(handle, text[at : at + (3 << 20)])
        reader.advance(16 << 20)

    assert (reader.lines, reader.position, bytes(seen)) == (lines, len(text), text)


def test_reader_passes_over_terabytes_of_nothing(log, handle):
    seen = bytearray()
    reader = Reader(handle, seen.extend)
    os.write(handle, b"begin\n")
    os.ftruncate(handle, 3 << 40)
    os.write(handle, b"amid\n")
    os.ftruncate(handle, 6 << 40)

    reader.advance(16 << 20)

    assert (reader.lines, reader.position) == (3, 6 << 40)  # the last one is of NULs
    assert bytes(seen).replace(b"\0", b"") == b"begin\namid\n"


def test_reader_reads_no_more_at_once_than_it_was_told(log, handle):
    os.write(handle, b"x\n" * (4 << 20))
    reader = Reader(handle)

    positions = []
    for _ in range(3):
        reader.advance(3 << 20)
        positions.append(reader.position >> 20)

    assert (positions, reader.lines) == ([3, 6, 8], 4 << 20)


def test_full_disk_fails_the_job_and_not_the_log(tmp_path):
    """/dev/full answers each write like a full disk."""
    full = AttemptLog(tmp_path / "1.log")
    handle = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run(["/bin/sh", "-c", "echo lost"], stdout=handle, stderr=handle, check=False)
    os.close(handle)

    assert (done.returncode != 0, full.read()) == (True, Stretch(0, b"", 0))
