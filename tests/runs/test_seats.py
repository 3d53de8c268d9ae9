"""A worker's folder: kept while it lives, removed when it is gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from apps.nodes.process import ATTEMPT, WORKER, marks_of
from apps.runs.worker import Seat
from tests.waiting import until

DAY = 86_400


@pytest.fixture
def mine(tmp_path):
    seat = Seat(tmp_path / "work", "me", "1-me")
    seat.take()
    yield seat
    seat.leave()


def abandoned(mine: Seat, host: str, *, silent_for: float = 0) -> Seat:
    """The folder of a worker that went without a word: nobody holds its lock."""
    seat = Seat(mine.folder.parent, "other", "2-other")
    seat.folder.mkdir()
    file = seat.folder / "worker"
    file.write_text(f"{host} other")
    os.utime(file, (time.time() - silent_for,) * 2)
    return seat


def test_folder_of_a_dead_worker_of_this_host_goes_at_once(mine):
    other = abandoned(mine, socket.gethostname())

    mine.clear_abandoned()

    assert (other.folder.exists(), mine.folder.exists()) == (False, True)


@pytest.fixture
def left() -> Iterator[subprocess.Popen[bytes]]:
    """A process that the other worker left."""
    env = {WORKER: "other", ATTEMPT: "1.1"}
    with subprocess.Popen(["/bin/sleep", "100"], env=env) as process:
        until(lambda: marks_of(process.pid), "its mark")
        yield process
        process.kill()


def test_what_escapes_one_look_at_what_runs_is_found_by_the_next(mine, left, monkeypatch):
    other = abandoned(mine, socket.gethostname())
    kill, missed = os.kill, []
    monkeypatch.setattr(os, "kill", lambda *at: kill(*at) if missed else missed.append(at))

    mine.clear_abandoned()

    assert (missed, left.wait(timeout=5)) == ([(left.pid, signal.SIGKILL)], -signal.SIGKILL)
    assert not other.folder.exists()


def test_folder_stays_until_all_that_was_left_is_dead(mine, left, monkeypatch):
    other = abandoned(mine, socket.gethostname())
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda *_: None)  # as if it were stuck in the kernel
        mine.clear_abandoned()
        assert (other.folder.exists(), left.poll()) == (True, None)

    mine.clear_abandoned()

    assert (other.folder.exists(), left.wait(timeout=5)) == (False, -signal.SIGKILL)


def test_folder_of_a_dead_worker_goes_however_deep_its_jobs_went(mine):
    other = abandoned(mine, socket.gethostname())
    inside = os.open(other.folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=inside)
        deeper = os.open("d", os.O_RDONLY, dir_fd=inside)
        os.close(inside)
        inside = deeper
    os.close(inside)

    mine.clear_abandoned()

    assert not other.folder.exists()


def test_folder_of_a_living_worker_stays(mine):
    other = Seat(mine.folder.parent, "other", "2-other")
    other.take()

    mine.clear_abandoned()

    assert other.folder.exists()
    other.leave()


def test_folder_of_another_host_goes_when_it_was_silent_for_a_day(mine):
    fresh = abandoned(mine, "elsewhere", silent_for=DAY / 2)
    mine.clear_abandoned()
    assert fresh.folder.exists()

    os.utime(fresh.folder / "worker", (time.time() - DAY - 60,) * 2)
    mine.clear_abandoned()

    assert not fresh.folder.exists()


def test_showing_life_keeps_it(mine):
    file = mine.folder / "worker"
    os.utime(file, (0, 0))

    mine.show_life()

    assert time.time() - file.stat().st_mtime < 60
