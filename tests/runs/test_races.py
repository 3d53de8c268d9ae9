"""Real transactions against each other: claim, finish and stop, from many threads."""

from __future__ import annotations

import threading
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.db.models import F

from apps.engine.states import NodeState, RunState
from apps.runs.models import NodeRun, Run
from apps.runs.services import sweep
from apps.runs.services.hot_path import Claim, Outcome, claim, finish
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.stop import stop_run
from tests.factories import by_hand, published, workspace
from tests.waiting import until

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


def states(run: Run) -> dict[str, str]:
    return dict(run.nodes.values_list("key", "state"))


def aside(work) -> threading.Thread:
    def run() -> None:
        work()
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def someone_waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        return cursor.fetchone()[0]


def test_node_that_becomes_ready_while_its_run_is_being_resumed_is_queued():
    """The finish has read the pause, or waits until it is over: it never leaves b behind."""
    queue = workspace().queues.get(name="root_queue")
    run = by_hand(published("a", "b", "long", edges=[("a", "b")]))
    mine = claim(queue.pk, "w", uuid4())
    assert (mine.key, claim(queue.pk, "w", uuid4()).key) == ("a", "long")
    pause_run(run, user=None)
    with transaction.atomic():
        resume_run(run, user=None)
        finishing = aside(lambda: finish(mine, SUCCEEDED, worker="w", request=uuid4(), take=False))
        until(someone_waits_for_a_lock, "the finish's wait for the resume")
    finishing.join()

    assert states(run) == {"a": "succeeded", "b": "queued", "long": "running"}


def test_sweep_queues_what_a_finish_passed_by_because_someone_had_it_locked():
    """A limited run's slot goes to no node that is locked; if that comes to nothing, who asks?"""
    queue = workspace().queues.get(name="root_queue")
    run = by_hand(published("a", "b", "c", parallelism=2))
    first, second = claim(queue.pk, "w", uuid4()), claim(queue.pk, "w", uuid4())
    assert (first.key, second.key) == ("a", "b")
    with transaction.atomic():
        NodeRun.objects.select_for_update().get(run=run, key="c")  # say, a refused rerun
        ending = aside(lambda: finish(first, SUCCEEDED, worker="w", request=uuid4(), take=True))
        ending.join()
    assert states(run) == {"a": "succeeded", "b": "running", "c": "pending"}

    sweep.tick()

    assert states(run) == {"a": "succeeded", "b": "running", "c": "queued"}
