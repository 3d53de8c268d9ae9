"""A worker's folder: kept while it lives, removed when it is gone."""

from __future__ import annotations

import os
import socket
import time

import pytest

from apps.runs.worker import Seat

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
