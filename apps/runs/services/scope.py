"""The scope of a run as its rows keep it: `down` has the edges that count, `outside` the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from django.db.models import F

from apps.engine.scope import Scope
from apps.engine.states import NodeState
from apps.runs.models import NodeRun, Run


def lock_nodes(run_id: int) -> list[NodeRun]:
    """Every node run of a run, locked in the lock order."""
    nodes = NodeRun.objects.select_for_update(no_key=True).filter(run=run_id)
    return list(nodes.order_by("pk"))


def states_of(nodes: Sequence[NodeRun]) -> dict[str, NodeState]:
    return {node.key: NodeState(node.state) for node in nodes}


def scope_of(nodes: Sequence[NodeRun]) -> Scope:
    """The scope that the rows of a whole run say."""
    key_of = {node.pk: node.key for node in nodes}
    return Scope(
        frozenset(node.key for node in nodes if not node.outside),
        frozenset((node.key, key_of[pk]) for node in nodes for pk in node.down),
    )


def left_out_of(run: Run, nodes: Sequence[NodeRun]) -> frozenset[str]:
    """Of all nodes of a run those that its launch left out and nobody has run since.

    The run is about the others alone: its `total` does not count these.
    """
    if run.total >= len(nodes):
        return frozenset()
    return frozenset(
        node.key
        for node in nodes
        if node.outside and node.state == NodeState.PENDING and not node.attempt
    )


def count_in(run: Run, nodes: Sequence[NodeRun], were_out: Collection[str]) -> None:
    """Let a locked run be about those nodes, too, that were left out and run now or have
    succeeded."""
    here = [node for node in nodes if not node.outside or node.state == NodeState.SUCCEEDED]
    if added := sum(node.key in were_out for node in here):
        Run.objects.filter(pk=run.pk).update(total=F("total") + added)


def keep_scope(nodes: Sequence[NodeRun], scope: Scope) -> None:
    """Write a scope to the locked rows of a whole run; `count_needs` has to follow."""
    pk_of = {node.key: node.pk for node in nodes}
    down: dict[str, list[int]] = {node.key: [] for node in nodes}
    for up, key in scope.edges:
        down[up].append(pk_of[key])
    changed = []
    for node in nodes:
        said = (sorted(down[node.key]), node.key not in scope.keys)
        if said != (sorted(node.down), node.outside):
            node.down, node.outside = said
            changed.append(node)
    NodeRun.objects.bulk_update(changed, ["down", "outside"], batch_size=500)


def count_needs(nodes: Sequence[NodeRun]) -> None:
    """Count anew what each pending node of a whole run lacks, and keep it where it differs.

    A node outside lacks one more than it waits for: leave, which nobody counts down.
    """
    lacking: Counter[int] = Counter()
    for node in nodes:
        if node.state != NodeState.SUCCEEDED:
            lacking.update(node.down)
    changed = []
    for node in nodes:
        need = lacking[node.pk] + node.outside
        if node.state == NodeState.PENDING and node.need != need:
            node.need = need
            changed.append(node)
    NodeRun.objects.bulk_update(changed, ["need"], batch_size=500)
