"""What a person declares done."""

from __future__ import annotations

from django.db import transaction
from django.db.models import F

from apps.core.errors import Conflict, Invalid
from apps.engine.states import NODE_ACTS_IN, Act, By, NodeState, standing
from apps.runs.models import NodeRun, Run
from apps.runs.services.advance import recount
from apps.runs.services.holding import await_launches
from apps.runs.services.moves import admit, close, move_all, reopen
from apps.runs.services.rerun import graph_of
from apps.runs.services.scope import (
    count_in,
    keep_scope,
    left_out_of,
    lock_nodes,
    scope_of,
    states_of,
)
from apps.workspaces.models import User


@transaction.atomic
def set_success(node_run: NodeRun, *, reason: str, user: User | None) -> None:
    """Take a node that is not running as succeeded, and let what waits for it go on.

    A run that was over goes on where that makes a node ready, and else ends anew. The node
    keeps a mark (`forced`), its event who did it and why.

    Raises Invalid without a reason, Conflict if the node runs or has succeeded already, or the
    run is being ended.
    """
    if not reason.strip():
        raise Invalid("say why the node counts as succeeded", "reason")
    await_launches(node_run.run.workflow_id)
    nodes = lock_nodes(node_run.run_id)
    run = Run.objects.select_for_update(no_key=True).get(pk=node_run.run_id)
    node = next(each for each in nodes if each.pk == node_run.pk)
    if node.state == NodeState.RUNNING:
        raise Conflict(f"node {node.key!r} is running; stop it first, or wait for its end")
    if node.state == NodeState.SUCCEEDED:
        raise Conflict(f"node {node.key!r} has succeeded already")
    if standing(run.state, run.hold) not in NODE_ACTS_IN[Act.SUCCESS]:
        raise Conflict(f"run {run.pk} is being ended; set nodes to success once it is over")
    # What a stop or a cut-off held back may go on: that is what was asked for.
    reopen(run, user=user)
    were_out = left_out_of(run, nodes)
    keep_scope(nodes, scope_of(nodes).done(graph_of(run), states_of(nodes), node.key))
    # The run stands open until its nodes are counted: the move alone might end it too early.
    Run.objects.filter(pk=run.pk).update(open=F("open") + 1)
    move_all(
        [node],
        NodeState.SUCCEEDED,
        by=By.PERSON,
        user=user,
        note=f"set to success (was {node.state}): {reason.strip()}",
        forced=True,
    )
    node.state = NodeState.SUCCEEDED
    count_in(run, nodes, were_out)
    recount(run, nodes)
    admit(run.pk)
    close(run.pk)
