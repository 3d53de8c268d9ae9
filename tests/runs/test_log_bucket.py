"""Logs in object storage: a server that speaks S3, as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from apps.core.errors import Unavailable
from apps.core.home import Home
from apps.runs import log_bucket, log_shipping
from apps.runs.log_bucket import Bucket, BucketLog, bucket_at, the_bucket
from apps.runs.log_lines import lines_from, search
from apps.runs.log_sealing import seal
from apps.runs.log_shipping import Shipper
from apps.runs.logs import AttemptLog, Reader, log_of, remove_logs
from apps.runs.models import Attempt, Run
from tests.api import body_of, program, ran, write_log
from tests.factories import by_hand, published
from tests.waiting import until

STORE = "s3://logs/of/runyard"


class Storage:
    """The server, which may go away and come back with nothing in it."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @cached_property
    def client(self) -> Any:
        return boto3.client("s3")

    def come(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "moto.server", "-p", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._has_bucket, "object storage", seconds=30)

    def _has_bucket(self) -> bool:
        try:
            self.client.create_bucket(Bucket="logs")
        except (EndpointConnectionError, ClientError):
            return False
        return True

    def go(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def names(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket="logs").get("Contents", [])
        return [each["Key"].removeprefix("of/runyard/") for each in found]


@pytest.fixture(scope="module")
def server() -> Iterator[Storage]:
    storage = Storage()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{storage.port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "the-storage-secret")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        bucket_at.cache_clear()  # it knows the address of a server of before
        storage.come()
        yield storage
        storage.client.close()
        storage.go()


@pytest.fixture
def storage(server: Storage, settings) -> Storage:
    settings.LOG_STORE = STORE
    keys = [{"Key": f"of/runyard/{name}"} for name in server.names()]
    if keys:
        server.client.delete_objects(Bucket="logs", Delete={"Objects": keys})
    return server


@pytest.fixture
def log(storage: Storage, tmp_path: Path) -> AttemptLog:
    return AttemptLog(tmp_path / "7" / "12.1.log", BucketLog(the_bucket(), "7/12.1/"))


@pytest.fixture
def shipper(storage: Storage) -> Iterator[Shipper]:
    it = Shipper(the_bucket())
    yield it
    it.close()


@pytest.fixture
def elsewhere(settings, tmp_path: Path) -> None:
    """Who reads from here on is another machine."""
    settings.HOME = Home(tmp_path / "another machine")


def afar(log: AttemptLog) -> AttemptLog:
    """The same log for someone without the file."""
    return AttemptLog(Path("/nowhere/12.1.log"), BucketLog(the_bucket(), "7/12.1/"))


def seen(log: AttemptLog) -> list[object]:
    size = log.size()
    places = [0, 1, 1 << 20, *range(0, size, size // 8), size - 5, size, size + 5]
    return [
        size,
        log.tail(),
        [log.read(at, 1000) for at in places],
        [lines_from(log, first, 3) for first in (1, 50_000, 99_999, 100_001)],
        search(log, "9999 rows", limit=5),
    ]


LINES = b"".join(b"%d: %d rows\n" % (n, n * n) for n in range(100_000))  # 1.8 MB


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("parts", [2, 20], ids=["in parts", "made one"])
def test_a_log_reads_afar_as_it_does_here(log, shipper, storage, monkeypatch, parts):
    monkeypatch.setattr(log_shipping, "PART_BYTES", -(-len(LINES) // parts))
    handle = log.open_for_child()
    os.write(handle, LINES)
    os.close(handle)
    here = seen(AttemptLog(log.path))
    follower = afar(log)

    shipper.start()
    shipper.began(log)
    until(lambda: follower.size() == len(LINES), "all parts")
    assert seen(follower) == here
    assert len(storage.names()) == parts

    shipper.ended(log)
    until(lambda: not log.path.parent.exists(), "the removal of the file")
    assert seen(follower) == seen(afar(log)) == here
    names = storage.names()
    assert len(names) == parts if parts == 2 else names == ["7/12.1/log.gz", "7/12.1/table"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("most", [1000, 3], ids=["in parts", "made one"])
def test_a_middle_that_was_left_out_is_missing_afar_too(log, shipper, monkeypatch, most):
    monkeypatch.setattr(log_shipping, "PART_BYTES", 50_000)
    monkeypatch.setattr(log_shipping, "MOST_PARTS", most)
    handle = log.open_for_child()
    reader = Reader(handle, marks=log.marks_path)
    follower = afar(log)
    shipper.start()
    shipper.began(log)
    for at in range(0, len(LINES), 300_000):
        os.write(handle, LINES[at : at + 300_000])
        until(lambda at=at: follower.size() == min(at + 300_000, len(LINES)), "the parts so far")
        reader.advance(1 << 30)
        log.keep_ends(handle, 400_000)
    reader.close()
    os.close(handle)
    shipper.ended(log)
    until(lambda: not log.path.parent.exists(), "the removal of the file")

    far = afar(log)
    start, end = far.hole()
    assert 200_000 - 4096 <= start <= 250_000
    assert len(LINES) - 350_000 <= end <= len(LINES) - 150_000
    text, at = b"", 0
    while (stretch := far.read(at)).data:
        if stretch.left_out:
            assert (len(text), stretch.offset) == (start, end)
            text += bytes(stretch.left_out)
        text += stretch.data
        at = stretch.next
    assert text == LINES[:start] + bytes(end - start) + LINES[end:]
    assert lines_from(far, 99_999, 1).lines[0].text == "99998: 9999600004 rows"


def test_storage_that_refuses_is_said_to_be_away(storage):
    with pytest.raises(Unavailable, match="NoSuchBucket"):
        list(Bucket("s3://none/such").names("7/"))
    with pytest.raises(FileNotFoundError):
        the_bucket().get("nothing")


def test_a_listing_of_more_than_a_page_is_whole(storage, monkeypatch):
    bucket = the_bucket()
    monkeypatch.setattr(log_bucket, "_PAGE", 5)
    for n in range(12):
        bucket.put(f"9/1.1/{n:04d}", b"")

    assert len(list(bucket.names("9/1.1/"))) == 12
    assert list(bucket.names("9/1.1/", "0009")) == ["0010", "0011"]
    bucket.remove([f"9/1.1/{n:04d}" for n in range(12)])
    assert list(bucket.names("9/")) == []


# --- with real workers ------------------------------------------------------------------------


def over(run: Run) -> bool:
    run.refresh_from_db()
    return run.ended_at is not None


CLOCK = "for n in 1 2 3 4 5 6 7 8 9 10; do date +%s.%N; sleep 0.4; done; env"


def test_a_line_is_read_on_another_machine_within_three_seconds(start, storage, elsewhere):
    start(log_store=STORE)
    run = by_hand(published("a", content=CLOCK))
    log = log_of(run.pk, run.nodes.get().pk, 1)

    late: list[float] = []
    at, rest = 0, b""
    while len(late) < 10:
        stretch = log.read(at)
        *lines, rest = (rest + stretch.data).split(b"\n")
        at = stretch.next
        late += [time.time() - float(line) for line in lines if line[:2] == b"17"]
        assert time.time() - run.created_at.timestamp() < 40
        time.sleep(0.1)
    print("seconds:", [round(each, 2) for each in late])

    assert max(late) < 3
    until(lambda: over(run), "the run's end")
    attempt = Attempt.objects.get(node_run__run=run)
    until(lambda: log.size() == attempt.log_bytes, "the last part")
    response = program().get(f"runs/{run.pk}/nodes/a/attempts/1/log")
    assert body_of(response).startswith(b"17")
    assert b"the-storage-secret" not in body_of(response)
    until(lambda: remove_logs([run.pk]) is None and storage.names() == [], "the removal")


def test_storage_that_is_away_costs_delay_and_no_result(start, storage, elsewhere):
    worker = start(log_store=STORE)
    storage.go()
    run = by_hand(published("a", content="echo printed meanwhile"))

    until(lambda: over(run), "the run's end")

    assert run.state == "succeeded"
    until(lambda: "logs wait on this machine" in worker.said(), "a word about it")
    response = program().get(f"runs/{run.pk}/nodes/a/attempts/1/log/lines")
    assert response.status_code == 503
    assert "object storage with the logs does not answer" in response.json()["detail"]
    storage.come()
    log = log_of(run.pk, run.nodes.get().pk, 1)
    until(lambda: log.read().data == b"printed meanwhile\n", "the log", seconds=30)


def test_what_a_worker_has_shipped_is_read_after_its_death(start, storage, elsewhere):
    worker = start(log_store=STORE)
    run = by_hand(published("a", content="echo first; sleep 60"))
    place = run.pk, run.nodes.get().pk, 1
    until(lambda: log_of(*place).read().data == b"first\n", "the first part")

    os.kill(worker.pid, signal.SIGKILL)
    worker.process.wait()

    assert log_of(*place).read().data == b"first\n"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("packed", [False, True], ids=["as it was written", "packed"])
def test_what_a_dead_worker_left_the_next_one_ships(storage, shipper, home, packed):
    run = by_hand(published("a", "b"))
    over_, open_ = run.nodes.order_by("pk")
    ran(over_, log=LINES)
    write_log(open_, 1, b"it is written on")
    here = log_of(run.pk, over_.pk, 1)
    if packed:
        seal(here)

    shipper.start()

    until(lambda: not here.path.exists() and not here.packed.path.exists(), "its going out")
    assert log_of(run.pk, over_.pk, 1).read(0, len(LINES)).data == LINES
    assert log_of(run.pk, open_.pk, 1).path.read_bytes() == b"it is written on"
    assert storage.names() == [f"{run.pk}/{over_.pk}.1/{name}" for name in ("log.gz", "table")]
