"""The one door for every change of a state, bar claim and finish (the hot path).

With a node run's move go, in the caller's transaction: the event, the run's counters, the
capacity that a running node held, and the end of the run when nothing is left to happen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from apps.core.errors import Conflict
from apps.engine.states import AttemptState, By, Hold, NodeState, RunState, Trigger, check_move
from apps.runs.doorbell import ring_after_commit
from apps.runs.models import Attempt, NodeRun, Run, RunEnd, RunEvent
from apps.runs.services.endings import run_ended
from apps.runs.services.hot_path import call
from apps.runs.services.lanes import earlier_of
from apps.workspaces.models import ResourceQueue, User
from apps.workspaces.selectors import holds_on_tags

_OPEN = {NodeState.QUEUED, NodeState.RUNNING, NodeState.RETRYING}
_COUNTED = {
    NodeState.SUCCEEDED: "succeeded",
    NodeState.FAILED: "failed",
    NodeState.STOPPED: "stopped",
    NodeState.CANCELLED: "cancelled",
}


def _weights(state: NodeState, need: int) -> Counter[str]:
    """What a node in this state adds to its run's counters."""
    weights: Counter[str] = Counter()
    if state in (NodeState.QUEUED, NodeState.RUNNING):
        weights["active"] = 1
    if state in _OPEN or (state is NodeState.PENDING and need == 0):
        weights["open"] = 1
    if state in _COUNTED:
        weights[_COUNTED[state]] = 1
    return weights


@transaction.atomic
def move(
    node: NodeRun,
    new: NodeState,
    *,
    by: By,
    user: User | None = None,
    note: str = "",
    **changes: Any,
) -> bool:
    """Move a node run from where `node` says it stands to `new`; say whether it was still there.

    Compare-and-set on (state, attempt) as they stand in `node`. False means another process
    moved it first and nothing was written. `attempt` is the fencing token: a worker whose
    lease was given away holds a past attempt and cannot overwrite its successor. `changes`
    are further columns; the reason shown to people is `note` unless they say otherwise.

    Raises IllegalMove if engine.states has no such arrow for `by`.
    """
    return bool(move_all([node], new, by=by, user=user, note=note, **changes))


@transaction.atomic
def move_all(
    nodes: Collection[NodeRun],
    new: NodeState,
    *,
    by: By,
    user: User | None = None,
    note: str = "",
    **changes: Any,
) -> list[NodeRun]:
    """`move` for many nodes at once, in the lock order; returns those that were moved."""
    for old in {NodeState(node.state) for node in nodes}:
        check_move(old, new, by=by)
    changes = {"reason": note, **changes}
    if new is not NodeState.RETRYING:
        changes |= {"lease_until": None, "retry_at": None, "stop": ""}
    if new in _COUNTED:
        changes.setdefault("ended_at", Now())

    groups: dict[tuple[NodeState, int, int], list[NodeRun]] = defaultdict(list)
    for node in nodes:
        groups[NodeState(node.state), node.attempt, node.need].append(node)
    # Node runs first, by id: a statement per group would lock them in the groups' order.
    locked = set(
        NodeRun.objects.select_for_update(no_key=True)
        .filter(pk__in=[node.pk for node in nodes])
        .order_by("pk")
        .values_list("pk", "state", "attempt")
    )
    moved: list[NodeRun] = []
    for (old, attempt, _), group in groups.items():
        there = [node for node in group if (node.pk, old, attempt) in locked]
        NodeRun.objects.filter(pk__in=[node.pk for node in there]).update(state=new, **changes)
        moved += there
    if not moved:
        return []

    _give_back(node for node in moved if node.state == NodeState.RUNNING)
    RunEvent.objects.bulk_create(
        RunEvent(
            run_id=node.run_id,
            node_run_id=node.pk,
            attempt=node.attempt,
            old=node.state,
            new=new,
            user=user,
            note=note,
        )
        for node in moved
    )
    if new is NodeState.FAILED:
        _keep_untold(moved)
    _count(moved, new, need=changes.get("need"))
    return moved


def _keep_untold(failed: Iterable[NodeRun]) -> None:
    """Write down who has yet to be told of these failures; the sweep tells them."""
    hooks = Run.objects.filter(pk__in={node.run_id for node in failed}).values_list(
        "pk", "on_failure"
    )
    RunEnd.objects.bulk_create(
        RunEnd(run_id=pk, hook=hook) for pk, names in hooks for hook in names
    )


def _give_back(nodes: Iterable[NodeRun]) -> None:
    """Return what running nodes held of their queues, and wake whoever waits for it."""
    held: Counter[int] = Counter()
    for node in nodes:
        held[node.queue_id] += node.demand
    for queue_id, demand in sorted(held.items()):
        ResourceQueue.objects.filter(pk=queue_id).update(used=F("used") - demand)
    ring_after_commit(dict.fromkeys(held, 1))


def _count(nodes: Iterable[NodeRun], new: NodeState, *, need: int | None) -> None:
    """Bring the runs' counters up to a move, by run id, and end those that it was the last of."""
    deltas: dict[int, Counter[str]] = defaultdict(Counter)
    for node in nodes:
        delta = deltas[node.run_id]
        delta.update(_weights(new, node.need if need is None else need))
        delta.subtract(_weights(NodeState(node.state), node.need))
    for run_id, delta in sorted(deltas.items()):
        Run.objects.filter(pk=run_id).update(
            revision=F("revision") + 1, **{name: F(name) + n for name, n in delta.items()}
        )
        close(run_id)


def close(run_id: int) -> bool:
    """End a run in which nothing can happen any more; False if something still can."""
    is_over: bool = call("SELECT runyard_close(%s)", [run_id])
    if is_over:
        transaction.on_commit(lambda: run_ended(run_id), robust=True)
    return is_over


def end_attempt(node: NodeRun, how: AttemptState, note: str) -> None:
    """End the attempt of a running node without its worker; the node's own move is the caller's."""
    Attempt.objects.filter(node_run=node.pk, number=node.attempt).update(
        state=how, reason=note, ended_at=Now()
    )


def reopen(run: Run, *, user: User | None) -> None:
    """Let a run that is over go on, or be held if a tag of its workflow is; one that is not
    over goes on as it does.

    The caller holds its row's lock and moves its nodes; before, it has called
    `await_launches`, so that a hold that is being made finds the run open.

    Raises Conflict if another run of the same cycle is not over.
    """
    if run.ended_at is None:
        return
    if run.workflow_id is not None and run.trigger != Trigger.DEBUG:
        other = earlier_of({run.workflow_id: [run.cycle]})[run.workflow_id].get(run.cycle)
        if other is not None:
            raise Conflict(
                f"run {other} runs the same cycle as run {run.pk} and is not over; wait for its "
                "end, or stop it"
            )
    tags = run.workflow.tags if run.workflow else {}
    Run.objects.filter(pk=run.pk).update(
        state=RunState.RUNNING,
        ended_at=None,
        reopened_at=Now(),
        hold=Hold.NONE,
        held=bool(holds_on_tags(run.workspace_id, tags)),
        revision=F("revision") + 1,
    )
    RunEvent.objects.create(
        run_id=run.pk, old=run.state, new=RunState.RUNNING, user=user, note="opened again"
    )


def admit(run_id: int) -> list[int]:
    """Queue a run's held nodes as far as a pause and its limit allow; their ids.

    The one way to `queued` outside the hot path: every other door only makes nodes pending
    with nothing lacking, and then calls this, in the same transaction.
    """
    queued: list[int] = call("SELECT runyard_admit(%s)", [run_id])
    ring_for(queued)
    return queued


def ring_for(node_run_ids: Collection[int]) -> None:
    """Wake a worker for each of these queued nodes, after commit."""
    if node_run_ids:
        queues = NodeRun.objects.filter(pk__in=node_run_ids).values_list("queue_id", flat=True)
        ring_after_commit(Counter(queues))


def tell(run_id: int, note: str, *, user: User | None = None, at: datetime | None = None) -> None:
    """Keep what happened to a run without a change of state: a pause, a parameter."""
    RunEvent.objects.create(
        run_id=run_id, user=user, note=note, **({"at": at} if at is not None else {})
    )
