"""What a person may do to a run that is under way, and to a node that is not."""

from __future__ import annotations

from uuid import uuid4

import pytest

from apps.core.errors import Conflict, Invalid
from apps.engine.states import NodeState, RunState
from apps.runs.services.hot_path import Outcome, claim, finish
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.rerun import rerun_nodes, rerun_plan, rerun_scope
from apps.runs.services.stop import stop_run
from apps.runs.services.success import set_success
from tests.factories import by_hand, chain, published, workspace

SUCCEEDED = Outcome(NodeState.SUCCEEDED, exit_code=0)
FAILED = Outcome(NodeState.FAILED, exit_code=1, reason="exit code 1")
ME = "worker@here:1"

pytestmark = pytest.mark.django_db


def take():
    return claim(workspace().queues.get(name="root_queue").pk, ME, uuid4())


def end(mine, outcome=SUCCEEDED):
    return finish(mine, outcome, worker=ME, request=uuid4(), take=True)


def states(run) -> str:
    return " ".join(run.nodes.order_by("pk").values_list("state", flat=True))


def counters(run) -> tuple[int, ...]:
    run.refresh_from_db()
    return (run.active, run.open, run.succeeded, run.failed, run.stopped, run.cancelled)


def test_paused_run_lets_its_nodes_end_and_starts_no_other():
    run = by_hand(published("a", "b", "below", edges=[("a", "below")]))
    mine = take()

    pause_run(run, user=None)

    assert states(run) == "running pending pending"
    assert take() is None
    assert end(mine).next is None
    assert (states(run), counters(run)) == ("succeeded pending pending", (0, 2, 1, 0, 0, 0))

    resume_run(run, user=None)

    assert states(run) == "succeeded queued queued"


def test_paused_run_may_be_stopped():
    run = by_hand(published("a", "b"))
    pause_run(run, user=None)

    stop_run(run, user=None)

    run.refresh_from_db()
    assert (run.state, states(run)) == (RunState.STOPPED, "stopped stopped")


def test_pause_and_resume_that_mean_nothing_are_refused():
    run = by_hand(chain(1))

    with pytest.raises(Conflict, match="it is not paused"):
        resume_run(run, user=None)
    pause_run(run, user=None)
    with pytest.raises(Conflict, match="is paused; there is nothing to pause"):
        pause_run(run, user=None)


def test_node_set_to_success_lets_the_run_go_on():
    run = by_hand(chain(3))
    end(take(), FAILED)
    run.refresh_from_db()
    assert run.state == RunState.FAILED
    node = run.nodes.get(key="n000")

    set_success(node, reason="loaded by hand", user=None)

    node.refresh_from_db()
    assert (node.forced, node.reason) == (True, "set to success (was failed): loaded by hand")
    assert (states(run), counters(run)) == ("succeeded queued pending", (1, 1, 1, 0, 0, 0))
    end(end(take()).next)
    run.refresh_from_db()
    assert run.state == RunState.SUCCEEDED


def test_last_failed_node_set_to_success_makes_the_run_succeeded():
    run = by_hand(published("a", "b"))
    end(end(take()).next, FAILED)

    set_success(run.nodes.get(state="failed"), reason="of no matter", user=None)

    assert (counters(run), run.state) == ((0, 0, 2, 0, 0, 0), RunState.SUCCEEDED)


def test_one_of_two_failed_nodes_set_to_success_leaves_the_run_failed():
    run = by_hand(published("a", "b"))
    end(end(take(), FAILED).next, FAILED)

    set_success(run.nodes.get(key="a"), reason="of no matter", user=None)

    assert (counters(run), run.state) == ((0, 0, 1, 1, 0, 0), RunState.FAILED)


def test_queued_and_pending_nodes_can_be_set_to_success():
    run = by_hand(chain(3))

    set_success(run.nodes.get(key="n000"), reason="known", user=None)
    assert (states(run), counters(run)) == ("succeeded queued pending", (1, 1, 1, 0, 0, 0))
    set_success(run.nodes.get(key="n002"), reason="known", user=None)
    end(take())

    run.refresh_from_db()
    assert (run.state, states(run)) == (RunState.SUCCEEDED, "succeeded succeeded succeeded")


def test_node_of_a_stopped_run_set_to_success_starts_what_waits_for_it():
    run = by_hand(chain(2))
    stop_run(run, user=None)

    set_success(run.nodes.get(key="n000"), reason="known", user=None)

    run.refresh_from_db()
    assert (run.state, run.hold, states(run)) == (RunState.RUNNING, "", "succeeded queued")


def test_running_node_and_success_without_a_reason_are_refused():
    run = by_hand(chain(1))
    node = run.nodes.get()
    with pytest.raises(Invalid, match="say why"):
        set_success(node, reason=" ", user=None)
    end_of = take()

    with pytest.raises(Conflict, match="is running"):
        set_success(node, reason="x", user=None)

    end(end_of)
    with pytest.raises(Conflict, match="has succeeded already"):
        set_success(node, reason="x", user=None)


#   a ─→ b ─→ d       e
#   └──→ c ───┘
DIAMOND = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]


@pytest.mark.parametrize(
    ("key", "downstream", "scope"),
    [
        ("a", False, "a"),
        ("a", True, "a b c d"),
        ("c", True, "c d"),
        ("d", True, "d"),
        ("e", True, "e"),
    ],
)
def test_scope_of_a_rerun_is_the_node_alone_or_with_what_is_below_it(key, downstream, scope):
    run = by_hand(published("a", "b", "c", "d", "e", edges=DIAMOND))

    assert rerun_scope(run, key, downstream=downstream) == scope.split()


def test_scope_of_a_rerun_names_a_node_of_the_run():
    with pytest.raises(Invalid, match="has no node 'x'"):
        rerun_scope(by_hand(chain(1)), "x", downstream=False)


def test_plan_of_a_rerun_says_what_runs_what_is_kept_and_what_is_not_waited_for():
    run = by_hand(published("a", "b", "c", "d", "e", edges=DIAMOND))
    with pytest.raises(Conflict, match="node 'a' is queued; stop it first"):
        rerun_plan(run, ["a"])
    end(end(end(end(take()).next).next, FAILED).next)
    run.refresh_from_db()
    before = counters(run)

    plan = rerun_plan(run, ["c", "d"])

    def names(nodes) -> str:
        return " ".join(node.key for node in nodes)

    assert states(run) == "succeeded succeeded failed succeeded pending"
    assert (names(plan.again), names(plan.kept), names(plan.passed_over)) == ("c d", "a e b", "b")
    assert names(rerun_plan(run, ["b", "d"]).passed_over) == ""
    assert counters(run) == before


def test_node_that_runs_again_alone_leaves_what_is_below_it_as_it_was():
    run = by_hand(chain(3))
    end(end(end(take()).next).next)
    run.refresh_from_db()

    rerun_nodes(run, rerun_scope(run, "n000", downstream=False), user=None)

    assert states(run) == "queued succeeded succeeded"
    end(take())
    run.refresh_from_db()
    assert (run.state, states(run)) == (RunState.SUCCEEDED, "succeeded succeeded succeeded")
    assert list(run.nodes.order_by("pk").values_list("attempt", flat=True)) == [2, 1, 1]


def test_node_that_runs_again_with_all_downstream_is_waited_for():
    run = by_hand(chain(3))
    end(end(end(take()).next).next)
    run.refresh_from_db()

    rerun_nodes(run, rerun_scope(run, "n001", downstream=True), user=None)

    assert states(run) == "succeeded queued pending"
    end(end(take()).next)
    run.refresh_from_db()
    assert (run.state, states(run)) == (RunState.SUCCEEDED, "succeeded succeeded succeeded")
