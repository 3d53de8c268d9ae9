"""Retries, waits and priorities, as a run meets them."""

from __future__ import annotations

from datetime import timedelta
from threading import Thread
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from apps.engine.priority import Priority
from apps.engine.states import NodeState, RunState
from apps.runs.models import Attempt, NodeRun, Run, RunEvent
from apps.runs.services.advance import advance
from apps.runs.services.holding import hold, release, tag_workflow
from apps.runs.services.hot_path import Outcome, claim, finish
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.sweep import end_long_waits, tick
from apps.runs.shown import run_shown
from tests.factories import by_hand, published, workspace
from tests.people import member

pytestmark = pytest.mark.django_db


def take():
    return claim(workspace().queues.get(name="root_queue").pk, "worker@here:1", uuid4())


def states(run) -> str:
    return " ".join(run.nodes.order_by("pk").values_list("state", flat=True))


def pass_time(**by):
    """Make what is queued have been so for longer, and what came before it longer ago."""
    Attempt.objects.update(started_at=F("started_at") - timedelta(**by))
    NodeRun.objects.filter(state="queued").update(queued_at=F("queued_at") - timedelta(**by))


# --- who comes first ------------------------------------------------------------------------


def test_queue_is_served_by_priority_before_the_order_of_coming():
    for priority in (None, Priority.LOWEST, Priority.HIGHEST, Priority.LOW, Priority.HIGH):
        word = priority.word if priority is not None else "as_set"
        by_hand(published("a", name=word), priority=priority)

    served = [NodeRun.objects.get(pk=take().node_run_id).run.name for _ in range(5)]

    assert served == ["highest", "high", "as_set", "low", "lowest"]


# --- what a worker is told ------------------------------------------------------------------


def test_claim_says_how_its_attempt_is_retried():
    by_hand(
        published(
            "a",
            retries=5,
            retry_interval_seconds=7,
            retry_backoff=1.5,
            retry_max_interval_seconds=90,
            final_exit_codes=[3, 64],
        )
    )

    policy = take().retry_policy

    assert (policy.retries, policy.interval_seconds, policy.backoff) == (5, 7, 1.5)
    assert (policy.max_interval_seconds, policy.final_exit_codes) == (90, (3, 64))


# --- waiting too long -----------------------------------------------------------------------


def test_node_that_waits_longer_than_it_may_has_failed_without_an_attempt_or_a_retry():
    run = by_hand(published("a", "below", edges=[("a", "below")], retries=3,
                            queue_timeout_seconds=60))  # fmt: skip
    pass_time(seconds=59)
    tick()
    assert states(run) == "queued pending"

    pass_time(seconds=2)
    tick()

    run.refresh_from_db()
    node = run.nodes.get(key="a")
    why = "waited longer than 60 s in queue 'root_queue'"
    assert (run.state, states(run)) == (RunState.FAILED, "failed pending")
    assert (node.reason, node.attempt, node.failures, node.attempts.count()) == (why, 0, 0, 0)
    event = RunEvent.objects.get(node_run=node, new="failed")
    assert (event.old, event.note, event.user) == ("queued", why, None)
    assert take() is None


def test_wait_without_a_limit_lasts_as_long_as_it_must():
    run = by_hand(published("a"))
    pass_time(days=400)

    tick()

    assert states(run) == "queued"


def test_node_that_a_worker_took_in_time_is_left_alone():
    run = by_hand(published("a", queue_timeout_seconds=60))
    take()
    NodeRun.objects.update(queued_at=timezone.now() - timedelta(hours=1))

    tick()

    assert states(run) == "running"


def test_long_wait_ends_the_rest_where_the_strategy_is_end():
    run = by_hand(published("a", "b", strategy="end", queue_timeout_seconds=60, parallelism=1))
    pass_time(seconds=61)

    tick()

    run.refresh_from_db()
    assert (run.state, states(run)) == (RunState.FAILED, "failed cancelled")
    assert not RunEvent.objects.filter(node_run__key="b", new="queued").exists()


@pytest.mark.parametrize("way", ["paused", "held"])
@pytest.mark.parametrize("why", ["strategy", "timeout"])
def test_run_that_is_held_back_is_cut_off_when_it_goes_on_and_starts_nothing_before(why, way):
    setting = {"strategy": "end"} if why == "strategy" else {"timeout_seconds": 600}
    run = by_hand(published("a", "b", **setting))
    mine = take()
    if way == "paused":
        pause_run(run, user=None)
    else:
        run.workflow.refresh_from_db()
        tag_workflow(run.workflow, {"team": "x"}, user=None)
        stands = hold(workspace(), tag="team=x", user=None)
    past = timezone.now() - timedelta(hours=1)
    Run.objects.filter(timeout_seconds__isnull=False).update(started_at=past)
    failed = Outcome(NodeState.FAILED, exit_code=1)
    done = finish(mine, failed, worker="worker@here:1", request=uuid4(), take=True)
    assert done.needs_advance
    advance(run.pk)  # as its worker does
    tick()
    run.refresh_from_db()
    assert (run.state, run.ended_at, states(run)) == (RunState.RUNNING, None, "failed pending")

    if way == "paused":
        resume_run(run, user=None)
    else:
        release(stands, user=None)

    run.refresh_from_db()
    assert (run.state, states(run)) == (RunState.FAILED, "failed cancelled")
    queued = RunEvent.objects.filter(node_run__key="b", new="queued")
    assert queued.count() == 1  # as it was launched


def test_place_in_a_limited_run_goes_to_the_next_node():
    run = by_hand(published("a", "b", "c", parallelism=2, queue_timeout_seconds=60))
    take()
    pass_time(seconds=61)

    end_long_waits()

    run.refresh_from_db()
    assert (run.state, states(run), run.active) == (RunState.RUNNING, "running failed queued", 2)


def test_pause_takes_a_node_out_of_its_queue_and_its_wait_begins_anew():
    run = by_hand(published("a", queue_timeout_seconds=60))
    pass_time(seconds=59)
    pause_run(run, user=None)
    tick()
    resume_run(run, user=None)
    pass_time(seconds=59)

    tick()

    assert states(run) == "queued"


@pytest.mark.django_db(transaction=True)
def test_node_that_is_just_being_taken_is_passed_over():
    run = by_hand(published("a", queue_timeout_seconds=60))
    pass_time(seconds=61)

    def sweep():
        try:
            end_long_waits()
        finally:
            connection.close()

    with transaction.atomic():
        NodeRun.objects.select_for_update(no_key=True).get()
        other = Thread(target=sweep)
        other.start()
        other.join(timeout=10)
        assert not other.is_alive()
        assert states(run) == "queued"

    end_long_waits()
    assert states(run) == "failed"


@pytest.mark.parametrize("attempts", [0, 1])
def test_page_says_that_it_waited_too_long_and_not_what_an_earlier_attempt_said(attempts):
    run = by_hand(published("a", queue_timeout_seconds=60, retries=1))
    for _ in range(attempts):
        outcome = Outcome(NodeState.RETRYING, 3, "exit code 3", 0, error_line="Fault: no disk")
        finish(take(), outcome, worker="worker@here:1", request=uuid4(), take=False)
        tick()
    pass_time(seconds=61)
    tick()

    shown = run_shown(Run.objects.get(pk=run.pk))
    html = member().get(f"/w/default/runs/{run.pk}/").content.decode()

    [node], why = shown.nodes, "waited longer than 60 s in queue 'root_queue'"
    assert (node.said, node.waited_long, node.ran) == (why, True, None)
    assert shown.trouble.error_rest == why
    assert shown.trouble.facts == []
    assert "waited longer than 60 s in queue" in html
    assert "no disk" not in html.partition('id="oc-node"')[0]


@pytest.mark.parametrize(
    ("settings", "limits"),
    [
        ({}, None),
        (
            {"parallelism": 2, "timeout_seconds": 600, "strategy": "end"},
            "at most 2 at once · cancelled after 600 s · ends when a node fails",
        ),
    ],
)
def test_run_page_says_what_was_said_of_the_whole_run(settings, limits):
    run = by_hand(published("a", **settings))

    html = member().get(f"/w/default/runs/{run.pk}/").content.decode()

    assert ("<h2>Limits</h2>" in html) == bool(limits)
    assert limits is None or f'<p class="oc-second">{limits}</p>' in html


def test_details_of_a_node_run_say_what_holds_for_it_in_words():
    run = by_hand(
        published(
            "a",
            retries=2,
            retry_backoff=2,
            final_exit_codes=[2, 64],
            queue_timeout_seconds=900,
            priority=Priority.HIGH,
            node={"timeout_seconds": 30},
        )
    )
    pk = run.nodes.get().pk

    html = member().get(f"/w/default/runs/{run.pk}/nodes/{pk}/?tab=details").content.decode()

    for fact in (
        "<dt>Priority</dt><dd>high</dd>",
        "<dt>Longest wait</dt><dd>900 s in its queue</dd>",
        "<dt>Retries</dt><dd>2 retries, 60 s apart, doubling up to 1 h; "
        "not after exit codes 2, 64</dd>",
        "<dt>Timeout</dt><dd>30 s an attempt</dd>",
    ):
        assert fact in html
