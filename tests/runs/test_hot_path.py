"""Claim and finish: the fence, the count-down, capacity, and the answer to a lost reply."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now

from apps.engine.states import NodeState, RunState
from apps.runs.models import NodeRun, Run, RunEvent
from apps.runs.services.hot_path import Claim, Outcome, claim, finish, renew
from apps.runs.services.pause import pause_run
from apps.workspaces.models import ResourceQueue
from apps.workspaces.services import create_queue
from tests.factories import by_hand, chain, published, workspace

SUCCEEDED = Outcome(NodeState.SUCCEEDED, exit_code=0)
FAILED = Outcome(NodeState.FAILED, exit_code=1, reason="exit code 1")
RETRYING = Outcome(NodeState.RETRYING, exit_code=1, reason="exit code 1", retry_in=0)
ME = "worker@here:1"

pytestmark = pytest.mark.django_db


def take(queue: str = "root_queue") -> Claim | None:
    return claim(workspace().queues.get(name=queue).pk, ME, uuid4())


def end(mine: Claim, outcome: Outcome = SUCCEEDED, *, take: bool = True):
    return finish(mine, outcome, worker=ME, request=uuid4(), take=take)


def states(run) -> str:
    return " ".join(run.nodes.order_by("pk").values_list("state", flat=True))


def used() -> int:
    return workspace().queues.get(name="root_queue").used


def test_chain_goes_from_node_to_node_in_one_call_each():
    run = by_hand(chain(3))
    mine = take()

    keys = []
    while mine:
        keys.append(mine.key)
        done = end(mine)
        mine = done.next

    run.refresh_from_db()
    assert keys == ["n000", "n001", "n002"]
    assert (run.state, run.succeeded, run.active, run.open) == (RunState.SUCCEEDED, 3, 0, 0)
    assert done.run_ended is True
    assert used() == 0


def test_hop_of_a_chain_leaves_the_same_history_as_every_other_start():
    run = by_hand(chain(2))

    done = end(take())

    first, second = run.nodes.order_by("pk")
    assert (done.next.key, dict(done.bells), states(run)) == ("n001", {}, "succeeded running")
    events = RunEvent.objects.filter(run=run, node_run=second).order_by("pk")
    assert list(events.values_list("old", "new", "attempt")) == [
        ("pending", "queued", 0),
        ("queued", "running", 1),
    ]
    assert first.ended_at <= second.queued_at <= second.started_at < second.lease_until
    assert (second.worker, second.need, second.attempts.get().state) == (ME, 0, "running")
    run.refresh_from_db()
    assert (run.active, run.open, run.succeeded, used()) == (1, 1, 1, 250)


@pytest.mark.parametrize("why", ["held", "paused", "lowered", "in line", "another queue", "larger"])
def test_successor_goes_straight_on_only_where_it_would_have_been_taken(why):
    run = by_hand(chain(2, name="mine"))
    mine = take()
    queues = ResourceQueue.objects.filter(name="root_queue")
    match why:
        case "held":
            queues.update(held=True)
        case "paused":
            pause_run(run, user=None)
        case "lowered":
            queues.update(capacity=100)
        case "in line":
            NodeRun.objects.filter(pk=by_hand(chain(1, name="other")).nodes.get().pk).update(
                turn=-1
            )
        case "another queue":
            other = create_queue(workspace(), "o", capacity=250, development=True, production=True)
            run.nodes.filter(key="n001").update(queue=other)
        case "larger":
            run.nodes.filter(key="n001").update(demand=500)

    done = end(mine)

    expected = {"in line": ("n000", "queued"), "larger": ("n001", "running")}
    key = done.next.key if done.next else None
    state = run.nodes.get(key="n001").state
    assert (key, state) == expected.get(why, (None, "pending" if why == "paused" else "queued"))
    running = NodeRun.objects.filter(state="running", queue=queues.get())
    assert used() == sum(node.demand for node in running)


def test_fan_out_rings_for_what_the_finisher_does_not_take_itself():
    names = [f"leaf{n}" for n in range(5)]
    by_hand(published("root", *names, edges=[("root", name) for name in names]))

    done = end(take())

    queue = workspace().queues.get(name="root_queue")
    assert (done.next.key, dict(done.bells)) == ("leaf0", {queue.pk: 4})


def test_nobody_is_woken_for_a_line_that_is_as_long_as_it_was():
    by_hand(chain(2, name="mine"))
    mine = take()
    by_hand(chain(1, name="other"))

    done = end(mine)

    # The successor stands in line in place of the node that was taken from it.
    assert (done.next.key, dict(done.bells)) == ("n000", {})
    assert end(done.next).next.key == "n001"


def test_join_waits_for_the_slower_side():
    run = by_hand(published("a", "b", "join", edges=[("a", "join"), ("b", "join")]))
    first, second = take(), take()

    assert end(first).next is None
    assert states(run) == "succeeded running pending"
    assert end(second).next.key == "join"


def test_failed_node_leaves_what_waits_for_it_pending_and_the_run_fails_at_the_end():
    run = by_hand(published("a", "below", "other", edges=[("a", "below")]))
    first, second = take(), take()

    assert end(first, FAILED).run_ended is False
    assert end(second).run_ended is True

    run.refresh_from_db()
    assert (run.state, states(run)) == (RunState.FAILED, "failed succeeded pending")


def test_worker_that_lost_its_lease_cannot_finish_its_successors_attempt():
    run = by_hand(published("a", retries=1))
    lost = take()
    NodeRun.objects.filter(pk=lost.node_run_id).update(attempt=2)

    assert end(lost).accepted is False
    assert states(run) == "running"


def test_repeated_finish_gives_the_same_answer_and_the_same_claim():
    run = by_hand(chain(2))
    mine, request = take(), uuid4()
    first = finish(mine, SUCCEEDED, worker=ME, request=request, take=True)

    again = finish(mine, SUCCEEDED, worker=ME, request=request, take=True)

    assert (again.accepted, again.next) == (True, first.next)
    assert states(run) == "succeeded running"
    run.refresh_from_db()
    assert (run.succeeded, run.active) == (1, 1)


def test_claim_whose_reply_was_lost_is_given_again():
    by_hand(chain(2))
    queue, request = workspace().queues.get(name="root_queue"), uuid4()
    first = claim(queue.pk, ME, request)

    assert claim(queue.pk, ME, request, again=True) == first


def test_nothing_is_claimed_beyond_the_capacity_and_what_ends_is_handed_on():
    queue = workspace().queues.get(name="root_queue")
    queue.capacity = 500
    queue.save(update_fields=["capacity"])
    by_hand(published("a", "b", "c"))

    first, second = take(), take()

    assert take() is None
    assert used() == 500
    assert end(first).next.key == "c"
    assert used() == 500
    assert end(second).next is None
    assert used() == 250


def test_lowered_capacity_ends_nothing_and_hands_nothing_on():
    by_hand(published("a", "b", "c"))
    first = take()
    take()
    queue = workspace().queues.get(name="root_queue")
    queue.capacity = 250
    queue.save(update_fields=["capacity"])

    assert end(first).next is None
    assert used() == 250


def test_retry_counts_a_failure_and_keeps_the_run_open():
    run = by_hand(published("a", retries=1))

    end(take(), RETRYING)

    node = run.nodes.get()
    run.refresh_from_db()
    assert (node.state, node.failures, node.attempt) == (NodeState.RETRYING, 1, 1)
    assert (run.state, run.active, run.open) == (RunState.RUNNING, 0, 1)


def test_limited_run_hands_its_slot_to_the_next_node():
    run = by_hand(published("a", "b", "c", parallelism=1))
    mine = take()

    assert take() is None
    keys = [mine.key]
    while mine := end(mine).next:
        keys.append(mine.key)

    run.refresh_from_db()
    assert (keys, run.state) == (["a", "b", "c"], RunState.SUCCEEDED)


def test_flows_take_turns():
    names = [f"n{i}" for i in range(6)]
    by_hand(published(*names, name="wide"))
    by_hand(published("single", name="narrow"))

    order = [take().key for _ in range(4)]

    assert order == ["n0", "single", "n1", "n2"]


def test_renewal_pushes_on_what_is_held_and_tells_what_is_lost():
    by_hand(published("a", "b"))
    first, second = take(), take()
    end(second)

    renewed = renew(ME, [first, second])

    assert list(renewed) == [(first.node_run_id, 1)]
    assert renewed[first.node_run_id, 1].stop == ""


@pytest.mark.django_db(transaction=True)
def test_renewal_waits_for_no_lock_and_tells_locked_from_lost():
    by_hand(published("a", "b", "c"))
    first, second, third = take(), take(), take()
    end(third)
    found: dict = {}

    def renew_elsewhere() -> None:
        found.update(renew(ME, [first, second, third]))
        connection.close()

    with transaction.atomic():
        NodeRun.objects.select_for_update(no_key=True).get(pk=first.node_run_id)
        other = threading.Thread(target=renew_elsewhere)
        other.start()
        other.join(timeout=10)
        assert not other.is_alive()

    assert {pk: each.lease_until is None for (pk, _), each in found.items()} == {
        first.node_run_id: True,
        second.node_run_id: False,
    }


def test_node_that_becomes_ready_in_another_queue_rings_there():
    other = ResourceQueue.objects.create(
        workspace=workspace(), name="other", capacity=1000, production=True
    )
    version = published("a", "b", "c", edges=[("a", "b")], name="two_queues")
    version.graph["nodes"][1]["queue"] = other.pk
    version.save()
    by_hand(version)

    done = end(take())

    assert (done.next.key, done.bells.get(other.pk)) == ("c", 1)


def test_nodes_larger_than_the_whole_queue_hold_back_nobody():
    by_hand(published(*[f"n{i:02}" for i in range(55)], name="big"))
    NodeRun.objects.update(demand=100_000_000)
    by_hand(published("small", name="small"))

    assert take().key == "small"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("role", "said"),
    [
        pytest.param("web", ["10s", "30s", "20s"], id="web"),
        pytest.param("worker", ["10s", "1min", "20s"], id="worker"),
        pytest.param("command", ["0", "0", "0"], id="a command takes its time"),
    ],
)
def test_server_ends_what_hangs_in_a_service(role, said):
    show = """
        import django; django.setup()
        from django.db import connection
        for limit in "lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout":
            with connection.cursor() as cursor:
                cursor.execute(f"SHOW {limit}"); print(cursor.fetchone()[0])
    """
    shown = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(show)],
        env={**os.environ, "RUNYARD_ROLE": role, "DJANGO_SETTINGS_MODULE": "config.settings"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert shown.stdout.split() == said


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "running"},
        {"lease_until": Now()},
        {"state": "retrying"},
        {"retry_at": Now()},
    ],
)
def test_database_refuses_a_lease_without_a_worker_and_a_retry_without_a_time(changes):
    node = by_hand(chain(1)).nodes.get()

    with pytest.raises(IntegrityError, match="_iff_"), transaction.atomic():
        NodeRun.objects.filter(pk=node.pk).update(**changes)


@pytest.mark.parametrize(
    "changes", [{"state": "succeeded"}, {"ended_at": Now()}, {"workflow": None}]
)
def test_database_refuses_a_run_that_is_half_over_or_nobodys(changes):
    run = by_hand(chain(1))

    with pytest.raises(IntegrityError, match=r"run_(ended|of)_"), transaction.atomic():
        Run.objects.filter(pk=run.pk).update(**changes)
