"""A worker whose connections to the broker are open, and silent."""

from __future__ import annotations

import signal

import pytest
import redis

from apps.runs.doorbell import ring
from tests.chaos.wires import Wires
from tests.factories import by_hand, published
from tests.waiting import until
from tests.workers import ended

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(120),
]


def test_worker_that_gets_nothing_though_it_is_connected_connects_anew(
    start, home, tmp_path, monkeypatch
):
    wire = Wires().lay(home.sockets / "wire" / "valkey.sock", home.sockets / "valkey.sock")
    monkeypatch.setenv(
        "BROKER_URL", f"redis+socket://{home.sockets / 'wire' / 'valkey.sock'}?virtual_host=0"
    )
    worker = start("deaf")
    connected = worker.said().count("Connected to")

    wire.forget(b"BRPOP")  # on which it waits for messages; its others go on
    until(lambda: worker.said().count("Connected to") > connected, "its new connection", seconds=60)

    with redis.Redis(unix_socket_path=str(home.sockets / "valkey.sock")) as broker:
        ring({0: 3})
        until(lambda: not broker.exists("runyard"), "its hearing of every bell")
        run = by_hand(published("a"))
        until(lambda: ended(run), "the run's end")
        assert worker.end(signal.SIGTERM) == 0
