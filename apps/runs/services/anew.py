"""Doing a run again as a new one: all of it or a part, with other versions or parameters.

A run never changes its versions or parameters midway: therefore a new one. It stands for the
same cycle, names the run that it repeats, and takes over what has succeeded and is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from apps.core.errors import Conflict, Invalid
from apps.engine.graph import Graph
from apps.engine.priority import Priority
from apps.engine.states import RUN_ACTS, Act, NodeState, Trigger, standing
from apps.nodes.models import Job, JobVersion
from apps.nodes.services.jobs import draft_version
from apps.runs.models import NodeRun, Run
from apps.runs.services.launch import launch
from apps.runs.services.moves import tell
from apps.runs.services.rerun import shape_of
from apps.runs.services.scope import left_out_of
from apps.workflows.models import WorkflowVersion
from apps.workspaces.models import ResourceQueue, User


@dataclass(frozen=True)
class Part:
    """What of a run shall run again."""

    #: "all", "failed" (what has not succeeded), "node" (one alone), "downstream" (with all below).
    scope: str
    #: Name of the node, with the last two.
    node: str = ""


WHOLE, FAILED = Part("all"), Part("failed")


@dataclass(frozen=True)
class Change:
    """What the new run has otherwise than the one that it repeats."""

    #: Number of a version of the workflow, or of the job of a run of its own; None: the same
    #: workflow, but the newest job.
    version: int | None = None
    #: False: the job versions that the run used, where it has them.
    newest_jobs: bool = True
    #: None: the same.
    parameters: Mapping[str, str] | None = None


SAME = Change()


@dataclass(frozen=True)
class Newer:
    """A job that was published anew since a run took its version."""

    job: Job
    used: int
    newest: int


@dataclass(frozen=True)
class AnewPlan:
    """What a new run would do; names of nodes, in the order of its graph."""

    again: list[str]
    #: Node runs that have succeeded, taken over.
    kept: dict[str, NodeRun]
    #: Neither runs nor has succeeded.
    left_out: list[str]
    #: Of those, upstreams of what runs: nothing waits for them.
    passed_over: list[str]
    #: Nodes of the run that the version does not have.
    gone: list[str]
    #: What the run is about, where that is not all of the graph.
    part: list[str] | None = None
    #: Jobs of what runs that were published anew since.
    newer: list[Newer] = field(default_factory=list)


def plan_anew(run: Run, part: Part = WHOLE, change: Change = SAME) -> AnewPlan:
    """What `rerun_anew` would do, as the run stands now. Changes nothing.

    A node is kept only if it runs the same job in the version chosen; one that is new there
    runs as if it had not succeeded.

    Raises Conflict if the run is not over, or nothing is left to run; Invalid if the version
    or the node is not there.
    """
    return _plan(_read(run), part, change)[0]


def rerun_anew(run: Run, part: Part = WHOLE, change: Change = SAME, *, user: User | None) -> Run:
    """Run a part of a run again as a new run that keeps the rest; under way at once.

    Raises as `plan_anew` and `launch` do.
    """
    run = _read(run)
    plan, what = _plan(run, part, change)
    queue: ResourceQueue | None = run.queue
    trigger = Trigger.DEBUG if run.trigger == Trigger.DEBUG else Trigger.MANUAL
    if isinstance(what, JobVersion):
        queue = run.nodes.select_related("queue").get().queue
        if trigger is Trigger.DEBUG:
            what = draft_version(what.job, user=user)  # its draft as it is now
    used: dict[str, JobVersion] = {}
    if not change.newest_jobs and isinstance(what, WorkflowVersion):
        job_of = _jobs(what)
        used = {
            node.key: node.job_version
            for node in run.nodes.select_related("job_version__job")
            if node.key in plan.again and job_of[node.key] == node.job_version.job_id
        }
    [again] = launch(
        what,
        cycles=[run.cycle],
        trigger=trigger,
        by=user,
        queue=queue,
        priority=None if run.priority is None else Priority(run.priority),
        parameters=run.parameters if change.parameters is None else change.parameters,
        remarks=run.remarks,
        rerun_of=run,
        keep=plan.kept,
        only=plan.again,
        versions=used,
        part=plan.part,
    )
    note = f"rerun of run {run.pk}: {', '.join(plan.again)}"
    if plan.kept:
        note += f"; keeps {', '.join(plan.kept)}"
    tell(again.pk, note, user=user)
    tell(run.pk, f"run again as run {again.pk}", user=user)
    return again


def newer_version(run: Run) -> int | None:
    """Number of the workflow's published version, if it is newer than the run's."""
    if run.version is None or run.version.number is None or run.workflow is None:
        return None
    published = run.workflow.published
    newest = published.number if published else None
    return newest if newest and newest > run.version.number else None


def newer_jobs(run: Run, keys: Collection[str] | None = None) -> list[Newer]:
    """What a new run of these nodes would take newer than this one did.

    None: of the part that has not succeeded.
    """
    if keys is None:
        nodes = run.nodes.exclude(state=NodeState.SUCCEEDED)
        keys = list(nodes.values_list("key", flat=True))
    return _newer(run, keys, run.version)


def _read(run: Run) -> Run:
    rows = Run.objects.select_related("version__workflow", "workflow", "queue")
    return rows.get(pk=run.pk)


def _plan(run: Run, part: Part, change: Change) -> tuple[AnewPlan, WorkflowVersion | JobVersion]:
    if standing(run.state, run.hold) not in RUN_ACTS[Act.RERUN]:
        raise Conflict(f"run {run.pk} is not over; stop it first, or wait for its end")
    what = _version(run, change)
    nodes = list(run.nodes.select_related("job_version").order_by("pk"))
    if isinstance(what, WorkflowVersion):
        graph, job_of = shape_of(what), _jobs(what)
    else:
        graph = Graph((nodes[0].key,), frozenset())
        job_of = {nodes[0].key: what.job_id}
    good = {
        node.key: node
        for node in nodes
        if node.state == NodeState.SUCCEEDED and job_of.get(node.key) == node.job_version.job_id
    }
    out = left_out_of(run, nodes) & frozenset(graph.keys)
    scope = _scope(graph, part, good, out, what)
    again = [key for key in graph.in_order if key in scope]
    if not again:
        raise Conflict(f"every node of run {run.pk} has succeeded; rerun the whole run instead")
    kept = {key: good[key] for key in graph.in_order if key in good and key not in scope}
    above = {up for key in again for up in graph.upstream[key]}
    left_out = [key for key in graph.in_order if key not in scope and key not in kept]
    version = what if isinstance(what, WorkflowVersion) else None
    return (
        AnewPlan(
            again=again,
            kept=kept,
            left_out=left_out,
            passed_over=[key for key in left_out if key in above],
            gone=[node.key for node in nodes if node.key not in graph.keys],
            part=[key for key in graph.in_order if key not in out - scope] if out else None,
            newer=_newer(run, again, version),
        ),
        what,
    )


def _scope(
    graph: Graph,
    part: Part,
    good: Mapping[str, Any],
    out: frozenset[str],
    what: WorkflowVersion | JobVersion,
) -> frozenset[str]:
    if part.scope == "all":
        return frozenset(graph.keys) - out
    if part.scope == "failed":
        return frozenset(graph.keys) - out - good.keys()
    if part.node not in graph.keys:
        raise Invalid(f"{what} has no node {part.node!r}; name one of its nodes", "node")
    below = graph.below(part.node) if part.scope == "downstream" else frozenset()
    return below | {part.node}


def _version(run: Run, change: Change) -> WorkflowVersion | JobVersion:
    """What the new run is of. Raises Invalid if there is no version of this number."""
    number = change.version
    found: WorkflowVersion | JobVersion | None
    if run.version is not None:
        if number is None or number == run.version.number:
            return run.version
        versions = WorkflowVersion.objects.select_related("workflow")
        found = versions.filter(workflow=run.workflow_id, number=number).first()
    else:
        used = run.nodes.select_related("job_version__job__published__job").get().job_version
        if number is None:
            return (used.job.published if change.newest_jobs else None) or used
        versions_of_job = JobVersion.objects.select_related("job").filter(job=used.job_id)
        found = versions_of_job.filter(number=number).first()
    if found is None:
        raise Invalid(f"{run.name!r} has no version {number}; choose a published one", "version")
    return found


def _jobs(version: WorkflowVersion) -> dict[str, int]:
    return {node["name"]: node["job"] for node in version.graph["nodes"]}


def _newer(run: Run, keys: Collection[str], version: WorkflowVersion | None) -> list[Newer]:
    pinned = {
        node["name"]
        for node in (version.graph["nodes"] if version else ())
        if node["job_version_number"] is not None
    }
    nodes = run.nodes.filter(key__in=keys).select_related("job_version__job__published")
    found: dict[int, Newer] = {}
    for node in nodes.order_by("pk"):
        job, used = node.job_version.job, node.job_version.number
        newest = job.published.number if job.published else None
        if used and newest and newest > used and node.key not in pinned:
            found[job.pk] = Newer(job, used, newest)
    return list(found.values())
