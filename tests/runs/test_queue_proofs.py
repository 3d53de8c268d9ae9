"""What a queue promises, proven by many claimers at once: never overbooked, fair, nobody starved.

Each proof has a fast form. `LONG_PROOFS=1` runs the long one: 50 claimers, 10,000 claims.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from apps.engine.states import NodeState, RunState, Trigger
from apps.runs.models import Attempt, NodeRun, Pulse, Run
from apps.runs.services.aging import age
from apps.runs.services.holding import hold, release, tag_workflow
from apps.runs.services.hot_path import Claim, Outcome, claim, finish
from apps.runs.services.launch import launch
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workspaces.models import ResourceQueue
from apps.workspaces.services import edit_queue
from tests.factories import job, workspace

LONG = os.environ.get("LONG_PROOFS") == "1"
SLOT = 250
SUCCEEDED = Outcome(NodeState.SUCCEEDED, exit_code=0)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(1200 if LONG else 120)]


def queue(slots: int | None = None) -> ResourceQueue:
    row = workspace().queues.get(name="root_queue")
    if slots is not None:
        ResourceQueue.objects.filter(pk=row.pk).update(capacity=slots * SLOT)
        row.refresh_from_db()
    return row


def runs_of(name: str, nodes: int, *, chain: bool = False, count: int = 1) -> list[Run]:
    """Runs of a workflow with so many nodes, which all are ready, or stand one after another."""
    names = [f"{name}{n:04}" for n in range(nodes)]
    node = {
        "job": job().pk,
        "job_version_number": None,
        "queue": None,
        "retries": 0,
        "retry_interval_seconds": None,
        "timeout_seconds": None,
    }
    settings = {
        "queue": queue().pk,
        "retries": 0,
        "retry_interval_seconds": 60,
        "timeout_seconds": None,
        "parallelism": None,
        "strategy": "continue",
    }
    graph = {
        "settings": settings,
        "nodes": [{"name": each, **node} for each in names],
        "edges": [list(edge) for edge in pairwise(names)] if chain else [],
    }
    workflow = Workflow.objects.create(workspace=workspace(), name=name)
    version = WorkflowVersion.objects.create(workflow=workflow, number=1, digest="", graph=graph)
    cycles = [timezone.now() - timedelta(days=n) for n in range(count)]
    return launch(version, cycles=cycles, trigger=Trigger.MANUAL, by=None)


def scalar(sql: str) -> tuple[int, ...]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()


def in_threads(work: Callable[[int], None], count: int) -> None:
    raised: list[BaseException] = []

    def safely(n: int) -> None:
        try:
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


class Held:
    """What all claimers hold together, by their own count."""

    def __init__(self) -> None:
        self.now = self.most = self.claims = 0
        self._lock = threading.Lock()

    def got(self, mine: Claim | None) -> None:
        with self._lock:
            self.now += mine is not None
            self.claims += mine is not None
            self.most = max(self.most, self.now)

    def gives(self) -> None:
        with self._lock:
            self.now -= 1


@contextmanager
def watched(every: Callable[[], None]) -> Iterator[None]:
    """Look over and over while the block lasts; what a look raises is raised at its end."""
    over, raised = threading.Event(), []

    def watch() -> None:
        try:
            while not over.wait(0.01):
                every()
        except BaseException as error:
            raised.append(error)
        finally:
            connection.close()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert raised == []


#: What runs, by the nodes and by the queue's row, in one statement and so at one moment.
IN_USE = """
    SELECT q.used, q.capacity, (SELECT coalesce(sum(demand), 0) FROM runs_noderun n
                                 WHERE n.queue_id = q.id AND n.state = 'running')
      FROM workspaces_resourcequeue q WHERE q.name = 'root_queue'
"""


def test_fifty_claimers_never_hold_a_sixth_slot():
    claimers, nodes = (50, 1000) if LONG else (50, 60)
    runs = runs_of("wide", nodes, count=10)
    row, held, samples = queue(5), Held(), []

    def look() -> None:
        used, _, running = scalar(IN_USE)
        samples.append((used, running))

    def work(n: int) -> None:
        worker, dice = f"w{n}", random.Random(n)  # noqa: S311 -- no secret
        idle = 0
        while idle < 20:
            mine = claim(row.pk, worker, uuid4())
            held.got(mine)
            idle = 0 if mine else idle + 1
            if mine is None:
                time.sleep(dice.random() / 50)  # as a worker without a bell would look
            while mine is not None:
                time.sleep(dice.random() / 25)  # it runs
                held.gives()
                take = dice.random() < 0.7
                mine = finish(mine, SUCCEEDED, worker=worker, request=uuid4(), take=take).next
                held.got(mine)
            if held.claims >= nodes * len(runs):
                return

    began = time.monotonic()
    with watched(look):
        in_threads(work, claimers)

    print(f"{held.claims} claims by {claimers} in {time.monotonic() - began:.1f} s;", end=" ")
    print(f"most at once {held.most}; {len(samples)} samples")
    assert {used - running for used, running in samples} == {0}
    assert max(running for _, running in samples) == 5 * SLOT
    assert held.most <= 5
    assert held.claims == Attempt.objects.count() == nodes * len(runs)
    assert {run.state for run in Run.objects.all()} == {RunState.SUCCEEDED}
    assert queue().used == 0


#: Exact where samples are not: no write may raise what is in use above the capacity, or of a
#: queue that is held.
WATCHMAN = """
    CREATE FUNCTION watchman() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.used > OLD.used AND (NEW.used > NEW.capacity OR OLD.held) THEN
            RAISE 'overbooked: % after % of %, held: %',
                NEW.used, OLD.used, NEW.capacity, OLD.held;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER watchman BEFORE UPDATE ON workspaces_resourcequeue
        FOR EACH ROW EXECUTE FUNCTION watchman();
"""
DISMISSED = "DROP TRIGGER watchman ON workspaces_resourcequeue; DROP FUNCTION watchman();"


@pytest.fixture
def watchman() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(WATCHMAN)
    yield
    with connection.cursor() as cursor:
        cursor.execute(DISMISSED)


def test_mixed_sizes_are_never_overbooked_while_capacity_and_holds_come_and_go(watchman):
    claimers, nodes = (30, 400) if LONG else (12, 30)
    row, dice = queue(20), random.Random(7)  # noqa: S311 -- no secret
    runs = [run for n in range(5) for run in runs_of(f"f{n}", nodes, count=2)]
    for run in runs[:4]:
        tag_workflow(run.workflow, {"team": "x"}, user=None)
    sizes = list(NodeRun.objects.order_by("pk").values_list("pk", flat=True))
    for demand in (1, 2, 4, 8, 12):
        NodeRun.objects.filter(pk__in=dice.sample(sizes, len(sizes) // 6)).update(
            demand=demand * SLOT
        )
    every, done, starts_in_hold = nodes * len(runs), threading.Event(), []
    samples = []

    def look() -> None:
        used, _, running = scalar(IN_USE)
        samples.append(used - running)

    def work(n: int) -> None:
        if n == claimers:
            trouble()
            return
        worker = f"w{n}"
        while not done.is_set():
            mine = claim(row.pk, worker, uuid4())
            if mine is None:
                done.wait(0.01)
            while mine is not None:
                time.sleep(0.001)
                mine = finish(mine, SUCCEEDED, worker=worker, request=uuid4(), take=True).next
            if Attempt.objects.exclude(state="running").count() == every:
                done.set()

    def trouble() -> None:
        """A person at the queue's settings and at its holds, for as long as anything runs."""
        more = random.Random(8)  # noqa: S311 -- no secret
        while not done.is_set():
            fresh = queue()
            edit_queue(
                fresh,
                capacity=more.choice([12, 13, 16, 20, 40]) * SLOT,
                development=False,
                production=True,
                description="",
                spark_master="local",
            )
            done.wait(0.02)
            one = hold(workspace(), queue=row if more.random() < 0.5 else None, user=None)
            tag = hold(workspace(), tag="team", user=None)
            before = Attempt.objects.count()
            done.wait(0.03)
            starts_in_hold.append(Attempt.objects.count() - before)
            release(one, user=None)
            tagged = Attempt.objects.filter(node_run__run__held=True)
            before = tagged.count()
            done.wait(0.03)
            starts_in_hold.append(tagged.count() - before)
            release(tag, user=None)
            done.wait(0.05)

    with watched(look):
        in_threads(work, claimers + 1)

    print(f"{every} nodes, {len(starts_in_hold)} holds, {len(samples)} samples")
    assert set(samples) == {0}
    assert len(starts_in_hold) >= 2
    assert set(starts_in_hold) == {0}
    # Nothing was killed, lost or done twice.
    ends = set(Attempt.objects.values_list("state", "number"))
    assert (ends, Attempt.objects.count()) == ({("succeeded", 1)}, every)
    assert queue().used == 0


def starts_before(name: str, held: list[Claim]) -> int:
    """How many other nodes start, while the oldest claim always ends first, before this one."""
    for others in range(1000):
        taken = finish(held.pop(0), SUCCEEDED, worker="w", request=uuid4(), take=True).next
        held.append(taken)
        if taken.key.startswith(name):
            return others
    raise AssertionError(f"{name} did not start")


CHAIN = 1000 if LONG else 100
FRONTS = {
    "a workflow of 1,000 ready nodes": [("wide", {"nodes": 1000})],
    "long chains, one in each slot": [("chain", {"nodes": CHAIN, "chain": True, "count": 4})],
    "365 runs of one flow": [("backfill", {"nodes": 3, "count": 365})],
    "all three": [
        ("wide", {"nodes": 1000}),
        ("chain", {"nodes": CHAIN, "chain": True}),
        ("backfill", {"nodes": 3, "count": 365}),
    ],
}


@pytest.mark.parametrize("front", FRONTS)
def test_single_node_waits_for_one_nodes_end_of_each_other_flow(front):
    flows = FRONTS[front]
    for name, shape in flows:
        runs_of(name, **shape)
    row = queue(4)
    held = [claim(row.pk, "w", uuid4()) for _ in range(4)]
    # Well into it: turns have moved on.
    for _ in range(20):
        following = finish(held.pop(0), SUCCEEDED, worker="w", request=uuid4(), take=True).next
        held.append(following)

    waits = []
    for n in range(5):
        runs_of(f"single{n}", 1)
        waits.append(starts_before(f"single{n}", held))

    print(f"{front}: starts before a single node: {waits}")
    assert max(waits) <= len(flows)


def test_large_node_is_passed_for_a_minute_and_then_holds_back_the_small_ones():
    runs_of("small", 200)
    row = queue(4)
    held = [claim(row.pk, "w", uuid4()) for _ in range(4)]
    [large] = runs_of("large", 1)
    large.nodes.update(demand=4 * SLOT, turn=0, queued_at=Now() - timedelta(seconds=1))

    following = finish(held.pop(0), SUCCEEDED, worker="w", request=uuid4(), take=True).next
    assert following.key.startswith("small")
    held.append(following)
    large.nodes.update(queued_at=Now() - timedelta(seconds=61))
    taken = [finish(each, SUCCEEDED, worker="w", request=uuid4(), take=True).next for each in held]

    assert [each and each.key for each in taken] == [None, None, None, "large0000"]


def test_low_priority_gets_its_turn_within_the_hour_beside_an_endless_flood_of_the_highest():
    flood = runs_of("flood", 60)[0]
    flood.nodes.update(priority=4, level=4, turn=F("turn") + 1000)
    [low] = runs_of("low", 1)
    low.nodes.update(priority=0, level=0)
    row = queue(1)
    mine = claim(row.pk, "w", uuid4())
    assert mine.key.startswith("flood")

    minutes = 0
    while not mine.key.startswith("low"):
        minutes += 1
        low.nodes.update(queued_at=F("queued_at") - timedelta(minutes=1))
        Pulse.objects.filter(name="aging").update(at=Now() - timedelta(minutes=1))
        age()
        mine = finish(mine, SUCCEEDED, worker="w", request=uuid4(), take=True).next

    assert minutes <= 41
