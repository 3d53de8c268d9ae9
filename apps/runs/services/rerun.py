"""Doing a part of a run again, in place."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from django.db import transaction
from django.db.models import F

from apps.core.errors import Conflict, Invalid
from apps.engine.graph import Graph
from apps.engine.scope import Scope
from apps.engine.states import (
    ENDED,
    NODE_ACTS,
    NODE_ACTS_IN,
    Act,
    By,
    NodeState,
    standing,
)
from apps.runs.models import NodeRun, Run
from apps.runs.services.advance import recount
from apps.runs.services.holding import await_launches
from apps.runs.services.moves import admit, move_all, reopen, tell
from apps.runs.services.scope import (
    count_in,
    keep_scope,
    left_out_of,
    lock_nodes,
    scope_of,
    states_of,
)
from apps.workflows.models import WorkflowVersion
from apps.workspaces.models import User


@transaction.atomic
def rerun_failed(run: Run, *, user: User | None) -> list[str]:
    """Run again, in place, what has not succeeded; the names of the nodes that may run.

    Raises Conflict as `failed_scope` and `rerun_nodes` do.
    """
    await_launches(run.workflow_id)
    lock_nodes(run.pk)  # so that what is read here is what runs again
    return rerun_nodes(run, failed_scope(run), user=user)


def failed_scope(run: Run) -> list[str]:
    """What has not succeeded and does not go on by itself, in the graph's order.

    Raises Conflict if there is nothing of the kind.
    """
    run, nodes = Run.objects.get(pk=run.pk), list(run.nodes.order_by("pk"))
    alive = frozenset() if run.ended_at else scope_of(nodes).alive(states_of(nodes))
    sound = alive | left_out_of(run, nodes)
    found = [node for node in nodes if node.state != NodeState.SUCCEEDED and node.key not in sound]
    if not found:
        raise Conflict(
            f"no node of run {run.pk} has failed, or was stopped; there is nothing to repeat"
            if run.ended_at is None
            else f"every node of run {run.pk} has succeeded; rerun the whole run instead"
        )
    return [node.key for node in found]


def to_repeat(runs: Iterable[Run]) -> set[int]:
    """Ids of those runs of which `failed_scope` finds something; at most one query.

    It is about what a rerun left out of a run that is under way, and nothing of which failed.
    """
    found, sound = set(), []
    for run in runs:
        if run.succeeded < run.total if run.ended_at else run.failed + run.stopped + run.cancelled:
            found.add(run.pk)
        elif not run.ended_at:
            sound.append(run.pk)
    if sound:
        rows = NodeRun.objects.filter(run__in=sound, state=NodeState.PENDING, outside=True)
        # What its launch left out of the run of a part does not count.
        rows = rows.exclude(attempt=0, run__backfill_cycle__backfill__node__gt="")
        found.update(rows.values_list("run", flat=True).distinct())
    return found


def rerun_scope(run: Run, key: str, *, downstream: bool) -> list[str]:
    """One node alone, or with every node below it, in the graph's order.

    Raises Invalid if the run has no node of this name.
    """
    graph = graph_of(run)
    if key not in graph.keys:
        raise Invalid(f"run {run.pk} has no node {key!r}; name one of its nodes", "node")
    scope = {key} | (graph.below(key) if downstream else frozenset())
    return [each for each in graph.in_order if each in scope]


@dataclass(frozen=True)
class RerunPlan:
    """What a rerun in place would do; nodes in the graph's order."""

    again: list[NodeRun]
    kept: list[NodeRun]
    #: Upstreams that have not succeeded and are no part of it: nothing waits for them.
    passed_over: list[NodeRun]


def rerun_plan(run: Run, scope: Collection[str]) -> RerunPlan:
    """What `rerun_nodes` would do with these nodes, as the run stands now. Changes nothing.

    Raises Conflict as that does.
    """
    run = Run.objects.select_related("version").get(pk=run.pk)
    chosen, graph = set(scope), graph_of(run)
    nodes = list(run.nodes.order_by("pk"))
    after = _scope_after(run, graph, nodes, chosen)
    above = {up for key in chosen for up in graph.upstream[key]} - after.keys
    return RerunPlan(
        again=[node for node in nodes if node.key in chosen],
        kept=[node for node in nodes if node.key not in chosen],
        passed_over=[
            node for node in nodes if node.key in above and node.state != NodeState.SUCCEEDED
        ],
    )


def _scope_after(
    run: Run, graph: Graph, nodes: Sequence[NodeRun], chosen: Collection[str]
) -> Scope:
    """The run's scope once these nodes run again. Raises Conflict if they cannot."""
    over = run.ended_at is not None
    if standing(run.state, run.hold) not in NODE_ACTS_IN[Act.RERUN]:
        raise Conflict(f"run {run.pk} is being ended; rerun its nodes once it is over")
    states = states_of(nodes)
    for key in graph.in_order:
        if key in chosen and states[key] not in NODE_ACTS[Act.RERUN]:
            raise Conflict(f"node {key!r} is {states[key]}; stop it first, or wait for its end")
    scope = scope_of(nodes)
    if not over and set(chosen) <= scope.alive(states):
        raise Conflict(f"node {min(chosen)!r} has not run yet, and goes on by itself")
    return scope.rerun(graph, states, chosen, over=over)


@transaction.atomic
def rerun_nodes(run: Run, scope: Collection[str], *, user: User | None) -> list[str]:
    """Make these nodes of a run pending again; readiness counts edges among what runs then.

    That is these nodes and, in a run that is not over, what goes on besides: a node chosen
    waits for an upstream that is under way or will be, and for no other. Nothing else starts.
    `failures` and `losses` begin anew, `attempt` goes on: it fences.

    Raises Conflict if one of them is under way or has yet to run, the run is being ended, or it
    is over and another of the same cycle is not.
    """
    await_launches(run.workflow_id)
    nodes = lock_nodes(run.pk)
    run = Run.objects.select_for_update(no_key=True).get(pk=run.pk)
    graph = graph_of(run)
    chosen = [node for node in nodes if node.key in set(scope)]
    names = [node.key for node in chosen]
    after = _scope_after(run, graph, nodes, names)
    reopen(run, user=user)
    NodeRun.objects.filter(pk__in=[node.pk for node in chosen]).update(
        failures=0, losses=0, forced=False, kept_from=None
    )
    were_out = left_out_of(run, nodes)
    keep_scope(nodes, after)
    count_in(run, nodes, were_out)
    ended = [node for node in chosen if node.state in ENDED]
    # The run stands open until its nodes are counted: the move alone might end it too early.
    Run.objects.filter(pk=run.pk).update(open=F("open") + 1)
    move_all(ended, NodeState.PENDING, by=By.PERSON, user=user, note="rerun", exit_code=None)
    for node in ended:
        node.state = NodeState.PENDING
    recount(run, nodes)
    tell(run.pk, "rerun of " + ", ".join(names), user=user)
    admit(run.pk)
    return names


def graph_of(run: Run) -> Graph:
    """The graph that a run was launched with."""
    if run.version is None:
        return Graph(tuple(run.nodes.values_list("key", flat=True)), frozenset())
    return shape_of(run.version)


def shape_of(version: WorkflowVersion) -> Graph:
    """The nodes and edges of a frozen workflow, of which `publish` has seen that they fit."""
    return Graph(
        tuple(node["name"] for node in version.graph["nodes"]),
        frozenset((up, down) for up, down in version.graph["edges"]),
    )
