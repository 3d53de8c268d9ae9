"""Logs that are over are packed, and nobody who reads them notices."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from apps.runs import log_sealing
from apps.runs.log_lines import lines_from, search
from apps.runs.log_sealing import LEAST_BYTES, seal, unsealed
from apps.runs.logs import AttemptLog, Reader, Stretch, log_of, remove_logs
from tests import factories
from tests.api import program, ran, write_log

LINES = b"".join(b"%d: %d rows\n" % (n, n * n) for n in range(100_000))  # 1.8 MB


@pytest.fixture
def log(tmp_path: Path) -> AttemptLog:
    return AttemptLog(tmp_path / "7" / "12.1.log")


def write(log: AttemptLog, content: bytes, limit: int | None = None) -> None:
    handle = log.open_for_child()
    reader = Reader(handle, marks=log.marks_path)
    for at in range(0, len(content), 100_000):
        os.write(handle, content[at : at + 100_000])
        reader.advance(1 << 30)
        if limit is not None:
            log.keep_ends(handle, limit)
    reader.close()
    os.close(handle)


def seen(log: AttemptLog) -> list[object]:
    """What readers see of it."""
    size = log.size()
    places = [0, 1, 255_999, 256 * 1024, 1_000_000, size - 5, size, size + 5]
    places += range(0, size, size // 40)
    return [
        size,
        log.hole(),
        log.tail(),
        [log.read(at, limit) for at in places for limit in (1, 1000, 600_000)],
        [lines_from(log, first, 3) for first in (1, 50_000, 99_999, 100_001)],
        search(log, "9999 rows", limit=5),
    ]


@pytest.mark.parametrize("limit", [None, 500_000], ids=["whole", "without its middle"])
def test_a_packed_log_reads_as_before(log, limit):
    write(log, LINES, limit)
    before = seen(log)
    plain = log.path.stat().st_blocks * 512

    assert seal(log) is True

    assert seen(log) == before
    assert sorted(path.name for path in log.path.parent.iterdir()) == [
        "12.1.blocks",
        "12.1.log.gz",
    ]
    assert log.packed.path.stat().st_size < plain / 2
    assert log.packed.path.stat().st_mode & 0o777 == 0o600
    unpacked = subprocess.run(["zcat", log.packed.path], capture_output=True, check=True).stdout
    start, end = log.hole()
    assert unpacked == (LINES[:start] + LINES[end:] if end else LINES)


def test_any_bytes_come_back_as_they_were(log):
    content = os.urandom(700_000)
    write(log, content)

    seal(log)

    assert log.read(0, 1 << 20) == Stretch(0, content, 0)


def test_a_reader_that_holds_the_log_goes_on_while_it_is_packed(log):
    write(log, LINES)
    with open(log.path, "rb") as reader:
        first = reader.read(1000)

        seal(log)

        assert first + reader.read() == LINES


def test_what_is_short_or_at_work_or_gone_is_left_as_it_is(log):
    assert seal(log) is False
    write(log, b"x" * (LEAST_BYTES - 1))
    assert seal(log) is False
    write(log, b"xx")
    with open(log.path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert seal(log) is False
    assert log.read(0, 1 << 20).data == b"x" * (LEAST_BYTES + 1)
    assert seal(log) is True
    assert seal(log) is False


#: Where the disk is told to keep something, and where a name changes: all that a crash may
#: come between.
STEPS = ["fsync:1", "fsync:2", "replace:1", "replace:2", "fsync:3", "unlink:1", "unlink:2"]

CRASH = """
import os, sys
from pathlib import Path
import django
django.setup()
from apps.runs import log_sealing
from apps.runs.logs import AttemptLog
name, _, times = sys.argv[2].partition(":")
left = int(times)
def dying(place, real):
    def call(*arguments, **named):
        global left
        left -= 1
        if not left:
            os._exit(9)
        return real(*arguments, **named)
    setattr(place, name, call)
place = os if name == "fsync" else Path
dying(place, getattr(place, name))
log_sealing.seal(AttemptLog(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_leaves_a_log_that_reads_as_before_and_is_packed_later(log, step):
    write(log, LINES, 500_000)
    before = seen(log)

    done = subprocess.run(
        [sys.executable, "-c", CRASH, log.path, step],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings"},
        check=False,
    )

    assert (done.returncode, seen(log)) == (9, before)
    seal(log)
    assert seen(log) == before
    assert log.packed.path.exists()


def test_a_full_disk_leaves_the_log_as_it_was(log, monkeypatch):
    write(log, LINES)
    monkeypatch.setattr(log_sealing, "_fresh", lambda path: Path("/dev/full"))

    with pytest.raises(OSError, match="No space left"):
        seal(log)

    assert log.read(0, 1 << 22).data == LINES


@pytest.mark.django_db
def test_logs_that_a_dead_worker_left_are_found_once_their_attempts_are_over(settings):
    run = factories.by_hand(factories.published("a", "b"))
    over, open_ = run.nodes.order_by("pk")
    ran(over, log=LINES)
    write_log(open_, 1, LINES)

    assert list(unsealed(0)) == [log_of(run.pk, over.pk, 1)]
    for log in unsealed(0):
        seal(log)
    assert list(unsealed(0)) == []

    place = f"runs/{run.pk}/nodes/a/attempts/1/log"
    response = program().get(place, Range="bytes=1000000-1000009")
    assert response.content == LINES[1_000_000:1_000_010]
    assert response["Content-Range"] == f"bytes 1000000-1000009/{len(LINES)}"

    remove_logs([run.pk])
    assert log_of(run.pk, over.pk, 1).size() == 0
