"""What a person may do in each state: the tables of engine/states.py, walked pair by pair."""

from __future__ import annotations

from itertools import product
from uuid import uuid4

import pytest

from apps.core.errors import Conflict
from apps.engine.states import (
    NODE_ACTS,
    NODE_ACTS_IN,
    RUN_ACTS,
    RUN_ARROWS,
    Act,
    Hold,
    NodeState,
    RunState,
    Standing,
    standing,
)
from apps.runs.models import NodeRun, Run, RunEvent
from apps.runs.services.advance import cut_off
from apps.runs.services.anew import rerun_anew
from apps.runs.services.hot_path import Outcome, claim, finish
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.rerun import rerun_failed, rerun_nodes
from apps.runs.services.stop import stop_node, stop_run
from apps.runs.services.success import set_success
from apps.workspaces.models import User
from tests.factories import by_hand, published, workspace

ME = "worker@here:1"
N, S = NodeState, Standing

pytestmark = pytest.mark.django_db


def take() -> object:
    return claim(workspace().queues.get(name="root_queue").pk, ME, uuid4())


def end(mine, state: NodeState) -> None:
    retry_in = 3600 if state is N.RETRYING else None
    finish(mine, Outcome(state, retry_in=retry_in), worker=ME, request=uuid4(), take=False)


def run_with(now: Standing, state: NodeState) -> tuple[Run, NodeRun] | None:
    """A run that stands there, with a node in this state; None where there is no such thing.

    A pending node is held back by a failure above it: else it would go on by itself.
    """
    over = now in (S.SUCCEEDED, S.FAILED, S.STOPPED)
    if now is S.PENDING and state in (N.RUNNING, N.RETRYING, N.FAILED, N.CANCELLED, N.PENDING):
        return None
    if (over or now is S.ENDING) and state is N.QUEUED:
        return None
    if over and state in (N.RUNNING, N.RETRYING):
        return None
    if now is S.SUCCEEDED and state is not N.SUCCEEDED:
        return None
    if (now is S.PAUSED and state is N.QUEUED) or (now is S.ENDING and state is N.RETRYING):
        return None
    if now is S.FAILED and state is N.STOPPED:
        return None
    edges = [("above", "me")] if state is N.PENDING else []
    names = ["above"] * bool(edges) + ["me", "more", "other"]
    run = by_hand(published(*names, edges=edges))
    mine, user = run.nodes.get(key="me"), None
    if state is N.PENDING:
        end(take(), N.FAILED)
    elif state is N.STOPPED:
        stop_node(mine, user=user)
    elif now is S.PENDING and state is N.SUCCEEDED:
        set_success(mine, reason="known", user=user)
    elif state is N.CANCELLED:
        held = take()
        end(held, N.CANCELLED)
    elif state is not N.QUEUED:
        held = take()
        if state is not N.RUNNING:
            end(held, state)
    if now is S.PENDING:
        return run, mine
    held = take() if state is not N.QUEUED else None
    if state is N.QUEUED:
        # Another node runs: this one gives up its place to it.
        NodeRun.objects.filter(pk=mine.pk).update(turn=100)
        held = take()
    if now is S.PAUSED:
        pause_run(run, user=user)
    elif now is S.ENDING:
        stop_run(run, user=user)
    elif over:
        how = {S.SUCCEEDED: N.SUCCEEDED, S.FAILED: N.FAILED, S.STOPPED: N.STOPPED}[now]
        end(held, how)
        end(take(), how)
    return run, mine


def act_on_run(act: Act, run: Run, user: User) -> None:
    acts = {
        Act.PAUSE: pause_run,
        Act.RESUME: resume_run,
        Act.STOP: stop_run,
        Act.RERUN: rerun_anew,
        Act.RERUN_FAILED: rerun_failed,
    }
    acts[act](run, user=user)


def act_on_node(act: Act, node: NodeRun, user: User) -> None:
    if act is Act.STOP:
        stop_node(node, user=user)
    elif act is Act.SUCCESS:
        set_success(node, reason="known", user=user)
    else:
        rerun_nodes(node.run, [node.key], user=user)


def stands(run: Run) -> tuple[object, ...]:
    run.refresh_from_db()
    return (
        standing(run.state, run.hold),
        run.revision,
        list(run.nodes.order_by("pk").values_list("state", "need", "stop", "forced")),
        RunEvent.objects.count(),
        Run.objects.count(),
    )


#: A node that makes each standing possible, and gives a rerun of what failed something to do.
WITH = {
    S.PENDING: N.STOPPED,
    S.RUNNING: N.FAILED,
    S.PAUSED: N.FAILED,
    S.ENDING: N.FAILED,
    S.SUCCEEDED: N.SUCCEEDED,
    S.FAILED: N.FAILED,
    S.STOPPED: N.STOPPED,
}


@pytest.mark.parametrize(("act", "now"), list(product(RUN_ACTS, Standing)))
def test_act_on_a_run_leads_where_the_table_says_or_changes_nothing(act, now):
    run, _ = run_with(now, WITH[now])
    user = User.objects.create(username="maya")
    before = stands(run)
    state = RunState(run.state)
    assert before[0] is now

    if now not in RUN_ACTS[act]:
        with pytest.raises(Conflict):
            act_on_run(act, run, user)
        assert stands(run) == before
        return
    act_on_run(act, run, user)

    assert stands(run)[0] in RUN_ACTS[act][now]
    assert run.state == state or (state, RunState(run.state)) in RUN_ARROWS
    if (act, now) != (Act.STOP, S.ENDING):  # asked once more: told once
        assert RunEvent.objects.filter(run=run, user=user, at__isnull=False).exists()


@pytest.mark.parametrize(("act", "now", "state"), list(product(NODE_ACTS, Standing, NodeState)))
def test_act_on_a_node_leads_where_the_table_says_or_changes_nothing(act, now, state):
    found = run_with(now, state)
    if found is None:
        return  # no run stands so
    run, node = found
    user = User.objects.create(username="maya")
    before = stands(run)
    node.refresh_from_db()
    assert (before[0], node.state) == (now, state)

    if state not in NODE_ACTS[act] or now not in NODE_ACTS_IN[act]:
        with pytest.raises(Conflict):
            act_on_node(act, node, user)
        assert stands(run) == before
        return
    act_on_node(act, node, user)

    node.refresh_from_db()
    assert node.state in NODE_ACTS[act][state]
    assert RunEvent.objects.filter(run=run, user=user, at__isnull=False).exists()


def test_persons_stop_outranks_a_cut_off():
    run = by_hand(published("a"))
    take()
    cut_off(run.pk, Hold.CANCELLED, note="late")
    user = User.objects.create(username="maya")

    stop_run(run, user=user)

    run.refresh_from_db()
    assert run.hold == Hold.STOPPED
    assert RunEvent.objects.get(run=run, user=user).note == "stopped"
