"""Holding a run back, and letting it go on."""

from __future__ import annotations

from functools import partial

from django.db import transaction
from django.db.models import F

from apps.core.errors import Conflict
from apps.engine.states import By, Hold, NodeState
from apps.runs.models import Run
from apps.runs.services.advance import advance
from apps.runs.services.lanes import fill
from apps.runs.services.moves import move_all, tell
from apps.runs.services.scope import lock_nodes
from apps.workspaces.models import User


@transaction.atomic
def pause_run(run: Run, *, user: User | None) -> None:
    """Start no further node of a run; what runs goes on to its end.

    Every node run is locked before the flag is set, so that no finish that read the flag
    before can queue a node behind it.

    Raises Conflict if the run is over, or held already.
    """
    nodes = lock_nodes(run.pk)
    _set(run, Hold.NONE, Hold.PAUSED, "there is nothing to pause")
    queued = [node for node in nodes if node.state == NodeState.QUEUED]
    move_all(queued, NodeState.PENDING, by=By.PERSON, user=user, note="paused")
    tell(run.pk, "paused", user=user)


@transaction.atomic
def resume_run(run: Run, *, user: User | None) -> None:
    """Let a paused run go on, or back into its lane's line.

    If a failure or its timeout calls for its end, that comes now, before anything starts.

    Every node run is locked before the flag is taken away, so that no finish that read the flag
    before can make a node ready behind it, which nobody would queue.

    Raises Conflict if it is not paused.
    """
    lock_nodes(run.pk)
    _set(run, Hold.PAUSED, Hold.NONE, "it is not paused")
    tell(run.pk, "resumed", user=user)
    advance(run.pk)
    if run.lane_id is not None:
        # Others may have passed it and gone. Once the locks on its rows are.
        transaction.on_commit(partial(fill, run.lane_id), robust=True)


def _set(run: Run, old: Hold, new: Hold, otherwise: str) -> None:
    rows = Run.objects.filter(pk=run.pk, ended_at=None, hold=old)
    if not rows.update(hold=new, revision=F("revision") + 1):
        run.refresh_from_db()
        state = run.state if run.ended_at else run.hold or run.state
        raise Conflict(f"run {run.pk} is {state}; {otherwise}")
