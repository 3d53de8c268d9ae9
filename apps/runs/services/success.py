"""What a person declares done."""

from __future__ import annotations

from collections import Counter

from django.db import transaction
from django.db.models import F

from apps.core.errors import Conflict, Invalid
from apps.engine.states import By, NodeState
from apps.runs.models import NodeRun, Run
from apps.runs.services.advance import recount
from apps.runs.services.holding import await_launches
from apps.runs.services.moves import admit, close, move_all
from apps.runs.services.rerun import reopen
from apps.workspaces.models import User


@transaction.atomic
def set_success(node_run: NodeRun, *, reason: str, user: User | None) -> None:
    """Take a node that is not running as succeeded, and let what waits for it go on.

    A run that was over goes on where that makes a node ready, and else ends anew. The node
    keeps a mark (`forced`), its event who did it and why.

    Raises Invalid without a reason, Conflict if the node runs or has succeeded already.
    """
    if not reason.strip():
        raise Invalid("say why the node counts as succeeded", "reason")
    await_launches(node_run.run.workflow_id)
    nodes = list(
        NodeRun.objects.select_for_update(no_key=True).filter(run=node_run.run_id).order_by("pk")
    )
    run = Run.objects.select_for_update(no_key=True).get(pk=node_run.run_id)
    node = next(each for each in nodes if each.pk == node_run.pk)
    if node.state == NodeState.RUNNING:
        raise Conflict(f"node {node.key!r} is running; stop it first, or wait for its end")
    if node.state == NodeState.SUCCEEDED:
        raise Conflict(f"node {node.key!r} has succeeded already")
    if run.ended_at is not None:
        # What a stop or a cut-off held back may go on: that is what was asked for.
        reopen(run)
    before = node.state
    _settle_needs(nodes, done=node)
    recount(run)
    # The run stands open until its nodes were counted: a move alone might end it too early.
    Run.objects.filter(pk=run.pk).update(open=F("open") + 1)
    move_all(
        [node],
        NodeState.SUCCEEDED,
        by=By.PERSON,
        user=user,
        note=f"set to success (was {before}): {reason.strip()}",
        forced=True,
    )
    Run.objects.filter(pk=run.pk).update(open=F("open") - 1)
    admit(run.pk)
    close(run.pk)


def _settle_needs(nodes: list[NodeRun], *, done: NodeRun) -> None:
    """Count anew what each pending node still waits for once `done` is done.

    From `down`, the edges of the run as it goes on now: a rerun leaves out those that come
    from outside of it.
    """
    waits_for: Counter[int] = Counter()
    for each in nodes:
        if each.state != NodeState.SUCCEEDED and each.pk != done.pk:
            waits_for.update(each.down)
    for each in nodes:
        need = waits_for[each.pk]
        if each.state == NodeState.PENDING and each.need != need:
            NodeRun.objects.filter(pk=each.pk).update(need=need)
            each.need = need
