"""What each node of a run would start with: its job's version, its queue, its policies.

Nothing is written here. A launch, a dry run and a backfill's preview read the same plan.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from apps.core.errors import FieldFault, Invalid
from apps.engine.graph import Graph, above
from apps.engine.priority import Priority
from apps.engine.states import Trigger
from apps.nodes.kinds.base import Given
from apps.nodes.kinds.registry import UnknownKind, kinds
from apps.nodes.kinds.registry import kind as kind_named
from apps.nodes.models import Job, JobVersion
from apps.nodes.services.variables import variable_faults
from apps.workflows.models import POLICIES, WorkflowVersion
from apps.workflows.services.publishing import LATER, settings_of, whole
from apps.workspaces.models import ResourceQueue
from apps.workspaces.variables import variables_of


@dataclass(frozen=True)
class PlannedNode:
    """One node as it will stand in every run of a launch."""

    key: str
    version: JobVersion
    queue: ResourceQueue
    demand: int
    #: Columns of its rows: the policies and the timeout.
    columns: dict[str, Any]


@dataclass(frozen=True)
class Chosen:
    """What a node of a version would run with now, and all that keeps it from being started."""

    key: str
    job: Job | None
    version: JobVersion | None
    queue: ResourceQueue | None
    node: PlannedNode | None
    faults: tuple[FieldFault, ...]


@dataclass(frozen=True)
class Plan:
    nodes: tuple[PlannedNode, ...]  # in the graph's order
    graph: Graph


@dataclass(frozen=True)
class Catalogue:
    """What plans are made of, read once for all versions that are to be planned."""

    jobs: Mapping[int, Job]
    #: By job and number.
    pinned: Mapping[tuple[int, int], JobVersion]
    queues: Mapping[int, ResourceQueue]

    @classmethod
    def of(cls, versions: Collection[WorkflowVersion]) -> Catalogue:
        """Three queries, two where no node pins its job's version."""
        nodes = [node for version in versions for node in version.graph["nodes"]]
        jobs = Job.objects.filter(pk__in={node["job"] for node in nodes})
        pins = JobVersion.objects.select_related("job").filter(
            job__in=list({node["job"] for node in nodes if node["job_version_number"]}),
            number__in={node["job_version_number"] for node in nodes} - {None},
        )
        workspaces = {version.workflow.workspace_id for version in versions}
        return cls(
            {job.pk: job for job in jobs.select_related("published", "published__job")},
            {(pin.job_id, pin.number): pin for pin in pins if pin.number is not None},
            ResourceQueue.objects.filter(workspace__in=workspaces).in_bulk(),
        )


def versions_now(
    version: WorkflowVersion,
    *,
    trigger: Trigger,
    queue: ResourceQueue | None = None,
    parameters: Mapping[str, str] | None = None,
) -> dict[str, JobVersion]:
    """The job version that a launch would take for each node now, in the graph's order.

    Raises as `launch` does.
    """
    settings = settings_of(version.graph)
    given = Given(
        variables_of(version.workflow.workspace_id), settings["variables"], run=parameters or {}
    )
    plan = plan_of_workflow(version, trigger, queue, None, {}, given)
    return {node.key: node.version for node in plan.nodes}


def plan_of_workflow(
    version: WorkflowVersion,
    trigger: Trigger,
    override: ResourceQueue | None,
    priority: Priority | None,
    versions: Mapping[str, JobVersion],
    given: Given,
    catalogue: Catalogue | None = None,
) -> Plan:
    """The plan of a run of a workflow's version; the arguments are those of `launch`.

    Raises Invalid with all that keeps its nodes from being started.
    """
    # A version that was published without parameters is as it was then; what a job brought since,
    # its node says.
    judged = bool(given.run) or version.number is None
    found = choices(
        version, trigger, override, priority, versions, given, judged=judged, catalogue=catalogue
    )
    if faults := [fault for each in found for fault in each.faults]:
        raise Invalid(faults)
    nodes = {each.key: each.node for each in found if each.node is not None}
    edges = [(a, b) for a, b in version.graph["edges"]]
    shape = Graph.build([each.key for each in found], edges)
    return Plan(tuple(nodes[key] for key in shape.in_order), shape)


def choices(
    version: WorkflowVersion,
    trigger: Trigger,
    override: ResourceQueue | None,
    priority: Priority | None,
    versions: Mapping[str, JobVersion],
    given: Given,
    *,
    judged: bool,
    catalogue: Catalogue | None = None,
) -> list[Chosen]:
    """What each node of a version would run with, in the order of its graph's nodes.

    The arguments are those of `launch`; `judged`: names of variables that nobody defines are
    faults as well. `catalogue`: where it has been read for several versions.
    """
    graph = whole(version.graph)
    settings = graph["settings"]
    catalogue = catalogue or Catalogue.of([version])
    workspace = version.workflow.workspace_id
    found: list[Chosen] = []
    for node in graph["nodes"]:
        key = node["name"]
        job, number = catalogue.jobs.get(node["job"]), node["job_version_number"]
        job_version = None
        if job is not None:
            job_version = catalogue.pinned.get((job.pk, number)) if number else job.published
            job_version = versions.get(key, job_version)
        if job_version is None:
            what = f"job {job.path!r}" if job else "its job"
            fault = FieldFault(key, f"node {key!r}: {what} is not published; publish it")
            found.append(Chosen(key, job, None, None, None, (fault,)))
            continue
        queue_id = node["queue"] or settings["queue"] or job_version.queue_id
        queue = override or (catalogue.queues.get(queue_id) if queue_id else None)
        if queue is not None and queue.workspace_id != workspace:
            queue = None
        made = _node(
            key,
            job_version,
            queue,
            trigger,
            {name: _own(node[name], settings[name]) for name in POLICIES}
            | {"timeout_seconds": node["timeout_seconds"]},
            priority,
        )
        faults: list[FieldFault] = []
        if judged and job_version.kind in kinds():
            own = replace(given, node=node["variables"])
            wrong = variable_faults(job_version, own, partial(above, graph["edges"], key))
            faults += [FieldFault(key, f"node {key!r}: {each}") for each in wrong]
        if isinstance(made, FieldFault):
            found.append(Chosen(key, job, job_version, queue, None, (*faults, made)))
        else:
            found.append(Chosen(key, job, job_version, queue, made, tuple(faults)))
    return found


def plan_of_job(
    version: JobVersion,
    trigger: Trigger,
    override: ResourceQueue | None,
    priority: Priority | None,
    given: Given,
) -> Plan:
    queue = override or version.queue
    columns = {**LATER, "retries": 0, "retry_interval_seconds": 60, "timeout_seconds": None}
    found = _node(version.job.name, version, queue, trigger, columns, priority)
    if isinstance(found, FieldFault):
        raise Invalid([found])
    if wrong := variable_faults(version, given):
        raise Invalid([FieldFault(fault.field, str(fault)) for fault in wrong])
    return Plan((found,), Graph((found.key,), frozenset()))


def _own(value: Any, inherited: Any) -> Any:
    """A value set on the node stays, 0 too; None follows the workflow."""
    return inherited if value is None else value


def _node(
    key: str,
    version: JobVersion,
    queue: ResourceQueue | None,
    trigger: Trigger,
    columns: dict[str, Any],
    priority: Priority | None,
) -> PlannedNode | FieldFault:
    try:
        what = kind_named(version.kind)
    except UnknownKind as error:  # the package that brought it is gone
        return FieldFault(key, f"node {key!r}: {error}")
    if queue is None:
        return FieldFault(key, f"node {key!r} has no resource queue; choose one")
    fault = queue_fault(queue, trigger)
    if fault:
        return FieldFault(key, f"node {key!r}: {fault}")
    demand = what.demand(version.spec, queue.spark_master)
    if demand > queue.capacity:
        return FieldFault(
            key,
            f"node {key!r} asks for {demand / 1000:g} CU, and queue {queue.name!r} has "
            f"{queue.capacity / 1000:g} in all; ask for less or raise the queue's capacity",
        )
    level = columns["priority"] if priority is None else priority
    return PlannedNode(key, version, queue, demand, {**columns, "priority": level, "level": level})


def queue_fault(queue: ResourceQueue, trigger: Trigger) -> str:
    """Why this trigger may not use this queue; "" if it may.

    Debug runs belong into development queues, all others into production ones.
    """
    if trigger is Trigger.DEBUG and not queue.development:
        return f"queue {queue.name!r} is not a development queue; debug runs need one"
    if trigger is not Trigger.DEBUG and not queue.production:
        return f"queue {queue.name!r} is not a production queue; choose one that is"
    return ""
