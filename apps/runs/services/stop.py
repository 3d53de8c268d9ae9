"""What a person stops."""

from __future__ import annotations

from django.db import transaction

from apps.core.errors import Conflict
from apps.engine.states import NODE_ACTS, NODE_ACTS_IN, Act, By, Hold, NodeState, standing
from apps.runs.models import NodeRun, Run, RunEvent
from apps.runs.services.advance import cut_off
from apps.runs.services.moves import admit, move
from apps.workspaces.models import User


def stop_run(run: Run, *, user: User | None) -> None:
    """Stop a whole run: what waits ends at once, what runs is ended by its worker.

    Raises Conflict if the run is over.
    """
    if not cut_off(run.pk, Hold.STOPPED, note="stopped", user=user):
        raise Conflict(f"run {run.pk} is over; there is nothing to stop")


@transaction.atomic
def stop_node(node_run: NodeRun, *, user: User | None) -> None:
    """Stop one node; what does not wait for it goes on.

    Raises Conflict if it has ended, or its run has.
    """
    node = NodeRun.objects.select_for_update(no_key=True).get(pk=node_run.pk)
    run = Run.objects.select_for_update(no_key=True).get(pk=node.run_id)
    if standing(run.state, run.hold) not in NODE_ACTS_IN[Act.STOP]:
        raise Conflict(f"run {run.pk} is over; there is nothing to stop")
    if node.state not in NODE_ACTS[Act.STOP]:
        raise Conflict(f"node {node.key!r} has {node.state}; there is nothing to stop")
    if node.state == NodeState.RUNNING:
        NodeRun.objects.filter(pk=node.pk).update(stop=NodeState.STOPPED)
        RunEvent.objects.create(
            run_id=node.run_id,
            node_run_id=node.pk,
            attempt=node.attempt,
            user=user,
            note="stop asked",
        )
    else:
        move(node, NodeState.STOPPED, by=By.PERSON, user=user, note="stopped")
        admit(node.run_id)  # its place among a limited run's nodes is free
