"""Stop, rerun, and what the sweep mends."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from apps.core.errors import Conflict, Invalid
from apps.engine.retry import LOSSES_ALLOWED
from apps.engine.states import By, Hold, IllegalMove, NodeState, RunState, Trigger
from apps.nodes.services.jobs import publish_job, save_draft
from apps.runs.models import Attempt, NodeRun, Pulse, Run
from apps.runs.services.advance import advance, cut_off
from apps.runs.services.anew import FAILED as WHAT_FAILED
from apps.runs.services.anew import Change, Part, newer_jobs, plan_anew, rerun_anew
from apps.runs.services.hot_path import Outcome, asked_to_stop, claim, finish
from apps.runs.services.launch import launch
from apps.runs.services.moves import move
from apps.runs.services.rerun import rerun_failed, rerun_nodes
from apps.runs.services.stop import stop_node, stop_run
from apps.runs.services.success import set_success
from apps.runs.services.sweep import hand_back, is_at_rest, pulse_is_old, tick
from apps.workspaces.models import ResourceQueue
from tests.factories import by_hand, chain, job, published, workspace

SUCCEEDED = Outcome(NodeState.SUCCEEDED, exit_code=0)
FAILED = Outcome(NodeState.FAILED, exit_code=1, reason="exit code 1")
RETRYING = Outcome(NodeState.RETRYING, exit_code=1, reason="exit code 1", retry_in=0)
STOPPED = Outcome(NodeState.STOPPED, reason="stopped")
ME = "worker@here:1"

pytestmark = pytest.mark.django_db


def take():
    return claim(workspace().queues.get(name="root_queue").pk, ME, uuid4())


def end(mine, outcome=SUCCEEDED, *, take=True):
    return finish(mine, outcome, worker=ME, request=uuid4(), take=take)


def states(run) -> str:
    return " ".join(run.nodes.order_by("pk").values_list("state", flat=True))


def used() -> int:
    return workspace().queues.get(name="root_queue").used


def counters(run) -> tuple[int, ...]:
    run.refresh_from_db()
    return (run.active, run.open, run.succeeded, run.failed, run.stopped, run.cancelled)


def expire_leases():
    past = timezone.now() - timedelta(seconds=1)
    NodeRun.objects.filter(state="running").update(lease_until=past)


def test_stop_ends_what_waits_asks_what_runs_and_leaves_what_is_below():
    run = by_hand(published("a", "b", "below", edges=[("a", "below")]))
    mine = take()

    stop_run(run, user=None)

    assert states(run) == "running stopped pending"
    assert asked_to_stop(ME) == {(mine.node_run_id, 1): "stopped"}
    assert end(mine, STOPPED).run_ended is True
    assert counters(run) == (0, 0, 0, 0, 2, 0)
    assert (run.state, states(run)) == (RunState.STOPPED, "stopped stopped pending")
    with pytest.raises(Conflict, match="is over"):
        stop_run(run, user=None)


def test_node_that_succeeds_while_it_is_being_stopped_has_succeeded_and_starts_nothing():
    run = by_hand(chain(2))
    mine = take()
    stop_run(run, user=None)

    done = end(mine)

    assert (done.next, done.run_ended, states(run)) == (None, True, "succeeded pending")
    run.refresh_from_db()
    assert run.state == RunState.STOPPED


def test_stop_takes_a_retry_away():
    run = by_hand(published("a", retries=1))
    mine = take()
    stop_run(run, user=None)

    assert end(mine, RETRYING).state is NodeState.STOPPED
    run.refresh_from_db()
    assert run.state == RunState.STOPPED


def test_stopped_node_leaves_the_others_running_and_the_run_stopped():
    run = by_hand(published("a", "b"))
    mine = take()

    stop_node(run.nodes.get(key="b"), user=None)
    done = end(mine)

    assert done.run_ended is True
    run.refresh_from_db()
    assert (run.state, states(run)) == (RunState.STOPPED, "succeeded stopped")


def test_node_that_a_failure_left_pending_cannot_be_stopped_once_the_run_is_over():
    run = by_hand(chain(2))
    end(take(), FAILED)

    with pytest.raises(Conflict, match="is over"):
        stop_node(run.nodes.get(key="n001"), user=None)

    assert states(run) == "failed pending"


def test_rerun_failed_runs_the_failed_part_in_place_and_keeps_the_rest():
    run = by_hand(published("a", "b", "c", edges=[("a", "b"), ("b", "c")], retries=0))
    mine = end(take()).next
    end(mine, FAILED)
    assert counters(run) == (0, 0, 1, 1, 0, 0)

    assert rerun_failed(run, user=None) == ["b", "c"]

    assert states(run) == "succeeded queued pending"
    mine = take()
    assert (mine.key, mine.attempt, mine.failures) == ("b", 2, 0)
    end(end(mine).next)
    assert (counters(run), run.state) == ((0, 0, 3, 0, 0, 0), RunState.SUCCEEDED)


def test_rerun_starts_with_what_a_stop_left_pending():
    #   a ─→ b ─→ c: a succeeds while the run is being stopped, so b is never counted down
    run = by_hand(published("a", "b", "c", edges=[("a", "b"), ("b", "c")]))
    mine = take()
    stop_node(run.nodes.get(key="c"), user=None)
    stop_run(run, user=None)
    end(mine)
    assert states(run) == "succeeded pending stopped"

    assert rerun_failed(run, user=None) == ["b", "c"]

    assert states(run) == "succeeded queued pending"
    end(end(take()).next)
    assert (counters(run), run.state) == ((0, 0, 3, 0, 0, 0), RunState.SUCCEEDED)


def test_rerun_of_what_goes_on_by_itself_is_refused():
    run = by_hand(chain(2))

    with pytest.raises(Conflict, match=r"no node of run \d+ has failed"):
        rerun_failed(run, user=None)
    with pytest.raises(Conflict, match="node 'n000' is queued; stop it first"):
        rerun_nodes(run, ["n000", "n001"], user=None)
    with pytest.raises(Conflict, match="node 'n001' has not run yet, and goes on by itself"):
        rerun_nodes(run, ["n001"], user=None)
    take()
    stop_run(run, user=None)
    with pytest.raises(Conflict, match="is being ended; rerun its nodes once it is over"):
        rerun_nodes(run, ["n001"], user=None)


def test_failed_part_runs_again_while_the_rest_of_the_run_is_under_way():
    #   a (fails) ─→ b      long ─→ last ←─ b
    run = by_hand(
        published("a", "b", "long", "last", edges=[("a", "b"), ("b", "last"), ("long", "last")])
    )
    first, long = take(), take()
    assert (first.key, long.key) == ("a", "long")
    end(first, FAILED)
    assert states(run) == "failed running pending pending"

    assert rerun_failed(run, user=None) == ["a", "b", "last"]

    end(end(take()).next)
    assert (counters(run), states(run)) == (
        (1, 1, 2, 0, 0, 0),
        "succeeded running succeeded pending",
    )
    end(end(long).next)
    assert (counters(run), run.state) == ((0, 0, 4, 0, 0, 0), RunState.SUCCEEDED)
    notes = run.events.filter(node_run=None).order_by("pk").values_list("note", flat=True)
    assert "rerun of a, b, last" in notes
    assert "opened again" not in notes


def test_second_rerun_waits_for_what_the_first_has_under_way():
    run = by_hand(published("a", "b", "c", edges=[("a", "c"), ("b", "c")]))
    end(end(take(), FAILED).next, FAILED)
    rerun_nodes(run, ["a", "c"], user=None)
    mine = take()

    rerun_nodes(run, ["b"], user=None)

    assert states(run) == "running queued pending"
    end(mine, take=False)
    assert states(run) == "succeeded queued pending"
    end(end(take()).next)
    assert states(run) == "succeeded succeeded succeeded"


def test_sweep_and_lost_leases_leave_alone_what_a_rerun_left_out():
    run = by_hand(chain(3))
    end(take(), FAILED)
    rerun_nodes(run, ["n000"], user=None)
    take()
    expire_leases()
    tick()
    assert (states(run), counters(run)) == ("queued pending pending", (1, 1, 0, 0, 0, 0))
    end(take(), RETRYING, take=False)
    tick()
    end(take())

    # What was below it was not asked for: the run has ended, and that stays so.
    tick()

    assert (states(run), counters(run)) == ("succeeded pending pending", (0, 0, 1, 0, 0, 0))
    assert run.state == RunState.FAILED


def test_node_set_to_success_brings_back_what_a_rerun_left_out():
    run = by_hand(chain(3))
    end(take(), FAILED)
    rerun_nodes(run, ["n000"], user=None)
    end(take(), FAILED)

    set_success(run.nodes.get(key="n000"), reason="known", user=None)

    end(end(take()).next)
    run.refresh_from_db()
    assert (run.state, states(run)) == (RunState.SUCCEEDED, "succeeded succeeded succeeded")


def test_nothing_is_set_to_success_while_its_run_is_being_stopped():
    run = by_hand(published("a", "b"))
    end(take(), FAILED)
    take()
    stop_run(run, user=None)

    with pytest.raises(Conflict, match="is being ended; set nodes to success once it is over"):
        set_success(run.nodes.get(state="failed"), reason="known", user=None)


def test_kept_node_that_runs_again_stands_for_itself():
    run = by_hand(chain(2))
    end(end(take()).next, FAILED)
    again = rerun_anew(run, WHAT_FAILED, user=None)
    end(take())

    rerun_nodes(again, ["n000"], user=None)

    assert again.nodes.get(key="n000").kept_from is None


def test_whole_rerun_is_a_new_run_of_the_same_cycle():
    run = by_hand(chain(1))
    end(take())

    again = rerun_anew(run, user=None)

    assert (again.rerun_of, again.cycle, states(again)) == (run, run.cycle, "queued")


def test_strategy_end_cuts_off_the_rest():
    run = by_hand(published("a", "b", "c", strategy="end"))
    first, second = take(), take()
    done = end(first, FAILED)

    assert (done.next, done.needs_advance) == (None, True)
    advance(run.pk)

    assert states(run) == "failed running cancelled"
    end(second, Outcome(NodeState.CANCELLED))
    assert (counters(run), run.state) == ((0, 0, 0, 1, 0, 2), RunState.FAILED)


def test_run_that_is_over_its_time_is_cancelled_and_has_failed():
    run = by_hand(published("a", timeout_seconds=60))
    mine = take()
    Run.objects.update(started_at=timezone.now() - timedelta(seconds=61))

    tick()

    assert list(asked_to_stop(ME).values()) == ["cancelled"]
    end(mine, Outcome(NodeState.CANCELLED))
    run.refresh_from_db()
    assert run.state == RunState.FAILED


def test_lost_lease_costs_a_loss_and_no_retry_and_the_late_worker_is_fenced():
    run = by_hand(published("a"))
    lost = take()
    expire_leases()

    tick()

    node = run.nodes.get()
    assert (node.state, node.failures, node.losses) == (NodeState.QUEUED, 0, 1)
    assert Attempt.objects.get().state == "lost"
    assert used() == 0
    again = take()
    assert again.attempt == 2
    assert end(lost).accepted is False
    assert end(again).run_ended is True


def test_node_that_loses_too_many_workers_has_failed():
    run = by_hand(published("a"))
    for _ in range(LOSSES_ALLOWED + 1):
        take()
        expire_leases()
        tick()

    node = run.nodes.get()
    run.refresh_from_db()
    assert (node.state, node.losses, run.state) == (
        NodeState.FAILED,
        LOSSES_ALLOWED + 1,
        RunState.FAILED,
    )


def test_after_a_gap_in_the_pulse_no_lease_expires_for_one_lease():
    run = by_hand(published("a"))
    take()
    tick()
    Pulse.objects.update(at=timezone.now() - timedelta(minutes=5))
    expire_leases()
    assert pulse_is_old() is True

    tick()

    assert (states(run), pulse_is_old()) == ("running", False)
    Pulse.objects.update(grace_until=timezone.now())
    tick()
    assert states(run) == "queued"


def test_due_retry_is_queued():
    run = by_hand(published("a", retries=1))
    end(take(), RETRYING)

    tick()

    assert states(run) == "queued"
    assert take().attempt == 2


def test_handed_back_node_costs_nothing():
    run = by_hand(published("a"))
    mine = take()

    assert hand_back(mine.node_run_id, mine.attempt, ME) is True
    assert hand_back(mine.node_run_id, mine.attempt, ME) is False

    node = run.nodes.get()
    assert (node.state, node.attempt, node.failures, node.losses) == (NodeState.QUEUED, 1, 0, 0)


def test_sweep_mends_the_counters_of_an_idle_run():
    run = by_hand(chain(1))
    end(take(), take=False)
    Run.objects.update(state="running", ended_at=None, active=0, open=7, succeeded=0)

    tick()

    assert (counters(run), run.state) == ((0, 0, 1, 0, 0, 0), RunState.SUCCEEDED)


def test_move_tells_a_lost_race_from_a_mistake():
    run = by_hand(published("a"))
    node = run.nodes.get()
    take()

    assert move(node, NodeState.STOPPED, by=By.PERSON) is False
    node.refresh_from_db()
    with pytest.raises(IllegalMove):
        move(node, NodeState.QUEUED, by=By.ENGINE)


def test_events_tell_the_whole_story():
    run = by_hand(published("a", retries=1))
    end(take(), RETRYING)
    tick()
    end(take())

    story = list(run.events.order_by("id").values_list("old", "new", "attempt"))
    assert story == [
        ("", "pending", None),
        ("pending", "queued", 0),
        ("queued", "running", 1),
        ("running", "retrying", 1),
        ("retrying", "pending", 1),
        ("pending", "queued", 1),
        ("queued", "running", 2),
        ("running", "succeeded", 2),
        ("running", "succeeded", None),
    ]


def test_failed_part_runs_anew_with_the_newest_versions_and_keeps_the_rest():
    run = by_hand(published("a", "b", "c", edges=[("a", "b"), ("b", "c")], content="false"))
    end(end(take()).next, FAILED)
    assert newer_jobs(run) == []
    used = job("job_of_flow")
    save_draft(used, {"content": "true"}, revision=used.revision)
    fixed = publish_job(used, remarks="", user=None)

    assert [(each.job, each.used, each.newest) for each in newer_jobs(run)] == [(used, 1, 2)]
    again = rerun_anew(run, WHAT_FAILED, user=None)

    nodes = list(again.nodes.order_by("pk").values_list("key", "state", "need", "job_version"))
    first = run.nodes.get(key="a")
    assert nodes == [
        ("a", "succeeded", 0, first.job_version_id),
        ("b", "queued", 0, fixed.pk),
        ("c", "pending", 1, fixed.pk),
    ]
    assert again.nodes.get(key="a").kept_from == first
    assert (again.rerun_of, again.cycle, counters(again)) == (run, run.cycle, (1, 1, 1, 0, 0, 0))
    end(end(take()).next)
    assert (counters(again), again.state) == ((0, 0, 3, 0, 0, 0), RunState.SUCCEEDED)
    run.refresh_from_db()
    assert run.state == RunState.FAILED


def test_rerun_of_a_jobs_own_run_takes_what_was_published_since():
    used = job("alone", content="false")
    used.queue = workspace().queues.get(name="root_queue")
    used.save()
    [run] = launch(
        publish_job(used, remarks="", user=None),
        cycles=[timezone.now()],
        trigger=Trigger.MANUAL,
        by=None,
    )
    end(take(), FAILED)
    used.refresh_from_db()
    save_draft(used, {"content": "true"}, revision=used.revision, queue=used.queue)
    fixed = publish_job(used, remarks="", user=None)

    again = rerun_anew(run, user=None)

    assert again.nodes.get().job_version == fixed


def test_rerun_of_a_late_run_has_its_whole_time_again():
    run = by_hand(published("a", timeout_seconds=60))
    mine = take()
    Run.objects.update(started_at=timezone.now() - timedelta(seconds=61))
    tick()
    end(mine, Outcome(NodeState.CANCELLED))
    rerun_failed(run, user=None)

    tick()

    assert states(run) == "queued"


def test_rerun_of_one_node_under_strategy_end_is_not_cut_off_by_an_old_failure():
    run = by_hand(published("a", "b", strategy="end"))
    first, second = take(), take()
    end(first, FAILED)
    end(second, FAILED)
    advance(run.pk)

    rerun_nodes(run, ["a"], user=None)
    tick()

    assert states(run) == "queued failed"
    end(take(), FAILED)
    run.refresh_from_db()
    assert run.state == RunState.FAILED


def test_set_to_success_heeds_what_a_rerun_left_out():
    #   b ─→ c ←─ d: c and d are rerun, b's failure is passed over
    run = by_hand(published("b", "d", "c", edges=[("b", "c"), ("d", "c")]))
    first, second = take(), take()
    end(first, FAILED)
    end(second, FAILED)
    rerun_nodes(run, ["c", "d"], user=None)
    assert states(run) == "failed queued pending"

    set_success(run.nodes.get(key="d"), reason="known", user=None)

    assert states(run) == "failed succeeded queued"


def test_stop_by_a_person_is_not_turned_into_the_engines_cancel():
    run = by_hand(published("a"))
    mine = take()
    stop_run(run, user=None)

    cut_off(run.pk, Hold.CANCELLED, note="late")

    assert list(asked_to_stop(ME).values()) == ["stopped"]
    end(mine, STOPPED)
    run.refresh_from_db()
    assert run.state == RunState.STOPPED


def test_sweep_ends_what_stands_ready_in_a_run_that_is_being_stopped():
    run = by_hand(published("a", "b"))
    take()
    stop_run(run, user=None)
    # As a rerun, or a hand-back, that met the stop may leave it.
    NodeRun.objects.filter(key="b").update(state="pending", need=0, ended_at=None)
    Run.objects.update(open=2, stopped=0)

    tick()

    assert states(run) == "running stopped"


def test_sweep_goes_on_past_a_run_that_it_cannot_mend():
    broken = by_hand(published("a", name="broken"))
    sound = by_hand(published("a", name="sound"))
    take()
    take()
    expire_leases()
    Run.objects.filter(pk=broken.pk).update(active=0, open=0)

    tick()

    assert states(sound) == "queued"


def test_sweep_sets_what_is_in_use_to_what_runs():
    by_hand(published("a"))
    take()
    workspace().queues.update(used=999_999)

    tick()

    assert used() == 250


def test_rerun_goes_to_the_queue_that_was_chosen_for_the_run():
    other = ResourceQueue.objects.create(
        workspace=workspace(), name="other", capacity=1000, production=True
    )
    run = by_hand(published("a"), queue=other)
    stop_run(run, user=None)

    assert rerun_anew(run, user=None).nodes.get().queue == other


def test_new_run_with_a_newer_version_runs_what_is_new_there_and_drops_what_is_gone():
    #   v1: a ─→ b, gone      v2: a ─→ b ─→ new; b runs another job
    first = published("a", "b", "gone", edges=[("a", "b")])
    run = by_hand(first)
    end(end(end(take()).next).next)
    flow, other = first.workflow, job("other")
    graph = {
        **first.graph,
        "nodes": [
            {**node, "name": name, "job": other.pk if name == "b" else node["job"]}
            for node, name in zip(first.graph["nodes"], ["a", "b", "new"], strict=True)
        ],
        "edges": [["a", "b"], ["b", "new"]],
    }
    flow.versions.create(number=2, graph=graph, digest="2")

    plan = plan_anew(run, WHAT_FAILED, Change(version=2))

    assert (plan.again, list(plan.kept), plan.gone) == (["b", "new"], ["a"], ["gone"])
    again = rerun_anew(run, WHAT_FAILED, Change(version=2), user=None)
    assert states(again) == "succeeded queued pending"
    with pytest.raises(Conflict, match="every node of run"):
        rerun_anew(run, WHAT_FAILED, user=None)
    with pytest.raises(Invalid, match="has no node 'gone'"):
        rerun_anew(run, Part("node", "gone"), Change(version=2), user=None)


def test_a_tick_at_rest_asks_once_whether_there_is_anything_to_do(django_assert_num_queries):
    run = by_hand(published("a"))
    tick()
    assert not is_at_rest()

    stop_run(run, user=None)

    assert is_at_rest()
    # savepoint, found, gap, stamp, grace, release; is there anything?
    with django_assert_num_queries(7):
        tick()
