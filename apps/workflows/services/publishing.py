"""Freezing a draft into a version that no edit changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import Max
from django.db.models.functions import Now

from apps.core.canonical import digest
from apps.core.errors import Conflict, FieldFault, Invalid
from apps.engine.graph import above, graph_faults
from apps.engine.priority import Priority
from apps.engine.states import Overlap
from apps.nodes.kinds.base import Given
from apps.nodes.kinds.registry import kind
from apps.nodes.models import Job, JobVersion
from apps.nodes.services.jobs import asked_before_publish
from apps.nodes.services.variables import lacks_without, variable_faults
from apps.workflows.clock import DATA_OFFSET
from apps.workflows.models import POLICIES, DraftNode, Schedule, Workflow, WorkflowVersion
from apps.workspaces.models import ResourceQueue, User, Workspace
from apps.workspaces.variables import asked_before_deletion, variables_of

#: Settings that the first versions did not have, with what holds where one says nothing. A
#: setting that stands at this counts for no digest: so an old version and a draft that says
#: nothing new are equal, and there is nothing to publish.
LATER: dict[str, Any] = {
    "retry_backoff": 1.0,
    "retry_max_interval_seconds": 3600,
    "final_exit_codes": [],
    "queue_timeout_seconds": None,
    "priority": Priority.MEDIUM.value,
}
_LATER_OF_NODES: dict[str, Any] = {**dict.fromkeys(LATER), "variables": {}}
_LATER_OF_WORKFLOWS = {
    **LATER,
    "overlap": Overlap.PARALLEL.value,
    "overlap_limit": 16,
    "zone": "",
    "schedule": None,
    "data_offset": DATA_OFFSET,
    "variables": {},
}


@transaction.atomic
def publish(
    workflow: Workflow, *, remarks: str, user: User | None, revision: int | None = None
) -> WorkflowVersion:
    """Freeze the draft as the next version; every launch from now on takes it.

    `revision`: the one that the person looked at; None takes the draft as it stands.

    Raises Invalid with every fault of the draft, each naming its node; Conflict if nothing
    has changed, or the draft has moved on.
    """
    # What is published is read after the lock: a publish that this one waited for changed it.
    workflow = Workflow.objects.select_for_update().get(pk=workflow.pk)
    if revision is not None and revision != workflow.revision:
        raise Conflict(
            f"the draft of {workflow.name!r} is at revision {workflow.revision}, you looked at "
            f"{revision}; look again before you publish it",
            current=workflow,
        )
    graph = freeze(workflow)
    faults = draft_faults(workflow)
    if faults:
        raise Invalid(faults)
    mark = digest(_what_runs(graph))
    if workflow.published and workflow.published.digest == mark:
        raise Conflict(
            f"workflow {workflow.name!r} has not changed since version "
            f"{workflow.published.number}; there is nothing to publish"
        )
    last = workflow.versions.aggregate(last=Max("number"))["last"]
    version = WorkflowVersion.objects.create(
        workflow=workflow,
        number=(last or 0) + 1,
        graph=graph,
        digest=mark,
        remarks=remarks,
        created_by=user,
    )
    Workflow.objects.filter(pk=workflow.pk).update(published=version)
    # The scheduler looks at once: the old timetable up to now, from now on the new one.
    Schedule.objects.filter(workflow=workflow, on=True).update(next_at=Now())
    return version


def drafted(workflow: Workflow, *, user: User | None = None) -> WorkflowVersion:
    """The draft as a version without a number, not saved: to be looked at, or run for debugging.

    What is wrong with its nodes, launching says. Raises Invalid where its graph is none.
    """
    graph = freeze(workflow)
    names = [node["name"] for node in graph["nodes"]]
    if faults := graph_faults(names, [(up, down) for up, down in graph["edges"]]):
        raise Invalid([FieldFault(fault.node, fault.message) for fault in faults])
    return WorkflowVersion(
        workflow=workflow, graph=graph, digest=digest(_what_runs(graph)), created_by=user
    )


@transaction.atomic
def draft_version(workflow: Workflow, *, user: User | None) -> WorkflowVersion:
    """The draft frozen for one run, without a number; what is published stays what it is.

    Raises Invalid where its graph is none.
    """
    # No edit is half in it.
    workflow = Workflow.objects.select_for_update(no_key=True).get(pk=workflow.pk)
    version = drafted(workflow, user=user)
    version.save()
    return version


def draft_differs(workflow: Workflow) -> bool:
    """Whether publishing the draft would make another version than the published one."""
    published = workflow.published
    return published is None or published.digest != digest(_what_runs(freeze(workflow)))


def freeze(workflow: Workflow) -> dict[str, Any]:
    """The draft as JSON: what WorkflowVersion.graph holds. Jobs and queues by id."""
    nodes = list(workflow.nodes.order_by("name"))
    edges = workflow.edges.values_list("upstream__name", "downstream__name")
    return {
        "settings": {
            "queue": workflow.queue_id,
            **_policies(workflow),
            "timeout_seconds": workflow.timeout_seconds,
            "parallelism": workflow.parallelism,
            "strategy": workflow.strategy,
            "overlap": workflow.overlap,
            "overlap_limit": workflow.overlap_limit,
            "zone": workflow.zone,
            "schedule": workflow.schedule,
            "data_offset": workflow.data_offset,
            **_variables(workflow),
        },
        "nodes": [
            {
                "name": node.name,
                "job": node.job_id,
                "job_version_number": node.job_version_number,
                "queue": node.queue_id,
                **_policies(node),
                "timeout_seconds": node.timeout_seconds,
                **_variables(node),
                "x": node.x,
                "y": node.y,
            }
            for node in nodes
        ],
        "edges": sorted([up, down] for up, down in edges),
    }


def whole(graph: dict[str, Any]) -> dict[str, Any]:
    """A frozen graph with every setting that there is now, whenever it was frozen."""
    return {
        **graph,
        "settings": settings_of(graph),
        "nodes": [{**_LATER_OF_NODES, **node} for node in graph["nodes"]],
    }


def settings_of(graph: dict[str, Any]) -> dict[str, Any]:
    """The settings of a frozen graph, as `whole` has them, without a look at its nodes."""
    return {**_LATER_OF_WORKFLOWS, **graph["settings"]}


def _variables(row: Workflow | DraftNode) -> dict[str, Any]:
    """Only where there are any: a worker asks for the nodes that have some."""
    return {"variables": row.variables} if row.variables else {}


def _policies(row: Workflow | DraftNode) -> dict[str, Any]:
    said = {name: getattr(row, name) for name in POLICIES}
    if said["retry_backoff"] is not None:
        said["retry_backoff"] = float(said["retry_backoff"])  # 2 and 2.0 are one, and have one hash
    return said


def draft_faults(workflow: Workflow) -> list[FieldFault]:
    """Everything that keeps a draft from being published, each naming its node."""
    nodes = list(
        workflow.nodes.select_related("job__published__queue", "job", "queue").order_by("pk")
    )
    edges = list(workflow.edges.values_list("upstream__name", "downstream__name"))
    faults = [
        FieldFault(fault.node, fault.message)
        for fault in graph_faults([node.name for node in nodes], edges)
    ]
    of_workspace = variables_of(workflow.workspace_id)
    for node in nodes:
        given = Given(of_workspace, workflow.variables, node.variables)
        faults += [
            FieldFault(node.name, f"node {node.name!r}: {message}")
            for message in _node_faults(node, workflow.queue, given, edges)
        ]
    return faults


def _node_faults(
    node: DraftNode,
    default: ResourceQueue | None,
    given: Given,
    edges: Sequence[tuple[str, str]],
) -> list[str]:
    version = node.job.published
    if version is None:
        return [f"job {node.job.path!r} is not published; publish it"]
    if node.job_version_number is not None:
        version = node.job.versions.filter(number=node.job_version_number).first()
        if version is None:
            return [f"job {node.job.path!r} has no version {node.job_version_number}"]
    queue = node.queue or default or version.queue
    if queue is None:
        return ["no resource queue is set; choose one for the node or for the workflow"]
    if not queue.production:
        return [f"queue {queue.name!r} is not a production queue; choose one that is"]
    demand = kind(version.kind).demand(version.spec, queue.spark_master)
    if demand > queue.capacity:
        return [
            f"it asks for {demand / 1000:g} CU, and queue {queue.name!r} has "
            f"{queue.capacity / 1000:g} in all; ask for less or raise the queue's capacity"
        ]
    return [
        str(fault) for fault in variable_faults(version, given, partial(above, edges, node.name))
    ]


@asked_before_publish
def _workflows_that_would_fail(version: JobVersion) -> list[FieldFault]:
    """Nodes of published workflows that take a job's newest version and lack a name that it uses.

    Each would fail at its next start, when perhaps nobody looks.
    """
    mine = [{"job": version.job_id, "job_version_number": None}]
    rows = Workflow.objects.filter(deleted_at=None, published__graph__nodes__contains=mine)
    faults: list[FieldFault] = []
    of_workspace = variables_of(version.job.workspace_id)
    for workflow in rows.select_related("published").order_by("name"):
        graph = whole(workflow.published.graph) if workflow.published else {"nodes": []}
        for node in graph["nodes"]:
            if node["job"] != version.job_id or node["job_version_number"] is not None:
                continue
            given = Given(of_workspace, graph["settings"]["variables"], node["variables"])
            upstream = partial(above, graph["edges"], node["name"])
            faults += [
                FieldFault(
                    fault.field,
                    f"node {node['name']!r} of workflow {workflow.name!r} would fail: {fault}",
                )
                for fault in variable_faults(version, given, upstream)
            ]
    return faults


@asked_before_deletion
def _workflows_without(workspace: Workspace, name: str) -> list[str]:
    """Nodes of published workflows that would lack a variable of the workspace."""
    of_workspace = variables_of(workspace.pk)
    rows = Workflow.objects.filter(workspace=workspace, deleted_at=None, published__isnull=False)
    jobs = Job.objects.filter(workspace=workspace).select_related("published")
    versions: dict[tuple[int, int | None], JobVersion | None] = {
        (job.pk, None): job.published for job in jobs
    }
    graphs = {
        workflow.name: whole(workflow.published.graph)
        for workflow in rows.select_related("published").order_by("name")
        if workflow.published is not None
    }
    numbers = {n["job_version_number"] for graph in graphs.values() for n in graph["nodes"]}
    pins = JobVersion.objects.filter(job__workspace=workspace, number__in=numbers - {None})
    versions |= {(pin.job_id, pin.number): pin for pin in pins}
    users: list[str] = []
    for workflow, graph in graphs.items():
        for node in graph["nodes"]:
            version = versions.get((node["job"], node["job_version_number"]))
            given = Given(of_workspace, graph["settings"]["variables"], node["variables"])
            upstream = partial(above, graph["edges"], node["name"])
            if version is not None and lacks_without(name, version, given, upstream):
                users.append(f"node {node['name']!r} of workflow {workflow!r}")
    return users


def _what_runs(graph: dict[str, Any]) -> dict[str, Any]:
    """A graph without what no run depends on: where its nodes stand on the canvas, and what
    came later and says nothing else than its absence did."""
    nodes = [
        {
            name: value
            for name, value in node.items()
            if name not in ("x", "y") and (name not in LATER or value is not None)
        }
        for node in graph["nodes"]
    ]
    settings = {
        name: value
        for name, value in graph["settings"].items()
        if name not in _LATER_OF_WORKFLOWS or value != _LATER_OF_WORKFLOWS[name]
    }
    return {**graph, "settings": settings, "nodes": nodes}
