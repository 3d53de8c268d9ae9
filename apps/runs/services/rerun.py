"""Doing it again: a whole run anew, or the failed part of one in place."""

from __future__ import annotations

from collections.abc import Collection

from django.db import transaction
from django.db.models import F

from apps.core.errors import Conflict
from apps.engine.graph import Graph
from apps.engine.states import By, Hold, NodeState, RunState, Trigger
from apps.nodes.models import JobVersion
from apps.runs.models import NodeRun, Run, RunEvent
from apps.runs.services.advance import recount
from apps.runs.services.launch import launch
from apps.runs.services.moves import admit, move_all
from apps.workflows.models import WorkflowVersion
from apps.workspaces.models import ResourceQueue, User


def rerun(run: Run, *, user: User | None) -> Run:
    """Run everything again, for the same cycle, as a new run with the newest job versions."""
    trigger = Trigger.DEBUG if run.trigger == Trigger.DEBUG else Trigger.MANUAL
    what: WorkflowVersion | JobVersion
    queue: ResourceQueue | None
    if run.version:
        what, queue = run.version, None
    else:
        only = run.nodes.select_related("job_version__job", "queue").get()
        what, queue = only.job_version, only.queue
    [again] = launch(
        what,
        cycles=[run.cycle],
        trigger=trigger,
        by=user,
        queue=queue,
        parameters=run.parameters,
        remarks=run.remarks,
        rerun_of=run,
    )
    return again


def rerun_failed(run: Run, *, user: User | None) -> list[str]:
    """Run again, in place, what has not succeeded; the names of the nodes that may run.

    Raises Conflict if the run is not over, or if nothing is left to run.
    """
    keys = (
        NodeRun.objects.filter(run=run.pk)
        .exclude(state=NodeState.SUCCEEDED)
        .order_by("pk")
        .values_list("key", flat=True)
    )
    scope = list(keys)
    if not scope:
        raise Conflict(f"every node of run {run.pk} has succeeded; rerun the whole run instead")
    return rerun_nodes(run, scope, user=user)


@transaction.atomic
def rerun_nodes(run: Run, scope: Collection[str], *, user: User | None) -> list[str]:
    """Make these nodes of a run that is over pending again; readiness counts edges among them.

    `failures` and `losses` begin anew, `attempt` goes on: it fences.

    Raises Conflict if the run is not over.
    """
    nodes = list(NodeRun.objects.select_for_update(no_key=True).filter(run=run.pk).order_by("pk"))
    run = Run.objects.select_for_update(no_key=True).get(pk=run.pk)
    if run.ended_at is None:
        raise Conflict(f"run {run.pk} is not over; stop it first, or wait for its end")
    graph = graph_of(run)
    chosen = [node for node in nodes if node.key in set(scope)]
    pk_of = {node.key: node.pk for node in chosen}
    Run.objects.filter(pk=run.pk).update(
        state=RunState.RUNNING, ended_at=None, hold=Hold.NONE, revision=F("revision") + 1
    )
    for node in chosen:
        node.need = len(graph.upstream[node.key] & pk_of.keys())
        NodeRun.objects.filter(pk=node.pk).update(
            need=node.need,
            down=sorted(pk_of[key] for key in graph.downstream[node.key] & pk_of.keys()),
            failures=0,
            losses=0,
            forced=False,
        )
    # Before the move, which counts on: a node that stayed pending and now lacks nothing keeps
    # the run open, and the move would end a run that has nothing open.
    recount(run)
    ended = [node for node in chosen if node.state != NodeState.PENDING]
    move_all(ended, NodeState.PENDING, by=By.PERSON, user=user, note="rerun", exit_code=None)
    names = [node.key for node in chosen]
    RunEvent.objects.create(
        run_id=run.pk,
        old=run.state,
        new=RunState.RUNNING,
        user=user,
        note="rerun of " + ", ".join(names),
    )
    admit(run.pk)
    return names


def graph_of(run: Run) -> Graph:
    """The graph that a run was launched with."""
    if run.version is None:
        return Graph(tuple(run.nodes.values_list("key", flat=True)), frozenset())
    graph = run.version.graph
    return Graph(
        tuple(node["name"] for node in graph["nodes"]),
        frozenset((up, down) for up, down in graph["edges"]),
    )
