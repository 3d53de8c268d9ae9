"""Real transactions against each other: claim, finish and stop, from many threads."""

from __future__ import annotations

import threading
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models import F

from apps.engine.states import NodeState, RunState
from apps.runs.models import NodeRun
from apps.runs.services.hot_path import Claim, Outcome, claim, finish
from apps.runs.services.stop import stop_run
from tests.factories import by_hand, published, workspace

SUCCEEDED = Outcome(NodeState.SUCCEEDED, exit_code=0)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]


def in_threads(work, count: int) -> None:
    """Run `work(n)` in threads with connections of their own; what they raise is raised here."""
    raised: list[BaseException] = []

    def safely(n: int) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET statement_timeout = '10s'")
            work(n)
        except BaseException as error:
            raised.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=safely, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []


def test_stop_amid_finishes_ends_the_run_and_the_queue_goes_on():
    queue = workspace().queues.get(name="root_queue")
    queue.capacity = 6 * 250
    queue.save(update_fields=["capacity"])
    version = published(*[f"n{i:03}" for i in range(200)])
    for _ in range(3):
        run = by_hand(version)
        # Against the ids: what a stop locks last stands first in line.
        NodeRun.objects.filter(run=run).update(turn=1_000_000 - F("id"))
        held: list[Claim] = [claim(queue.pk, "w", uuid4()) for _ in range(6)]

        def work(n: int, run=run, held=held) -> None:
            if n == 6:
                stop_run(run, user=None)
                return
            mine = held[n]
            while mine is not None:
                mine = finish(mine, SUCCEEDED, worker="w", request=uuid4(), take=True).next

        in_threads(work, 7)

        run.refresh_from_db()
        queue.refresh_from_db()
        assert (run.state, run.open, queue.used) == (RunState.STOPPED, 0, 0)
