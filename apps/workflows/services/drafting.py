"""Changing a workflow's draft: its settings, its nodes, the edges between them.

Every change names the revision that it began at, and makes the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F, Prefetch
from django.utils import timezone

from apps.core.errors import Conflict, FieldFault, Invalid, NotFound
from apps.engine.graph import graph_faults
from apps.engine.priority import Priority
from apps.engine.retry import BACKOFF_LEAST, BACKOFF_MOST
from apps.engine.states import RUN_ENDED
from apps.nodes.kinds.fields import PARAMETERS
from apps.nodes.models import Job, JobVersion
from apps.workflows.models import POLICIES, DraftEdge, DraftNode, Schedule, Workflow
from apps.workflows.services.schedules import read_schedule, zone_named
from apps.workspaces.models import ResourceQueue, User, Workspace

#: Columns of a Workflow that `edit_workflow` changes.
SETTINGS = (
    "name",
    "description",
    "queue",
    *POLICIES,
    "timeout_seconds",
    "parallelism",
    "strategy",
    "overlap",
    "overlap_limit",
    "zone",
    "schedule",
    "data_offset",
    "variables",
)

#: Columns of a DraftNode that a node of a whole draft has under the same name.
NODE_COLUMNS = ("job_version_number", *POLICIES, "timeout_seconds", "variables")

#: Days from a cycle back to its data: ten years.
MAX_DATA_OFFSET = 3_650

#: Of one draft.
MAX_NODES = 2_000
MAX_EDGES = 10_000


@dataclass(frozen=True)
class NodeSettings:
    """What a person sets on a node. None follows the workflow or the job; a 0 stays."""

    job_path: str
    name: str = ""
    upstream: Collection[str] = ()
    job_version_number: int | None = None
    queue: ResourceQueue | None = None
    retries: int | None = None
    retry_interval_seconds: int | None = None
    retry_backoff: float | None = None
    retry_max_interval_seconds: int | None = None
    final_exit_codes: Sequence[int] | None = None
    queue_timeout_seconds: int | None = None
    priority: int | None = None
    timeout_seconds: int | None = None
    #: Name to text; they win over the workflow's.
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WholeNode:
    """A node of a draft that comes whole: job and queue by the names that people know."""

    name: str
    job_path: str
    job_version_number: int | None = None
    queue: str | None = None
    retries: int | None = None
    retry_interval_seconds: int | None = None
    retry_backoff: float | None = None
    retry_max_interval_seconds: int | None = None
    final_exit_codes: Sequence[int] | None = None
    queue_timeout_seconds: int | None = None
    priority: int | None = None
    timeout_seconds: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    x: float | None = None
    y: float | None = None


def create_workflow(
    workspace: Workspace, name: str, *, user: User | None, **settings: Any
) -> Workflow:
    """An empty draft. Raises Invalid, or Conflict for a name that is taken."""
    workflow = Workflow(workspace=workspace, name=name.strip(), created_by=user)
    _apply(workflow, settings)
    _save_named(workflow)
    return workflow


@transaction.atomic
def edit_workflow(workflow: Workflow, *, revision: int, **settings: Any) -> Workflow:
    """Change settings (any of SETTINGS). Raises Invalid, Conflict."""
    workflow = _locked(workflow, revision)
    _apply(workflow, settings)
    workflow.revision += 1
    _save_named(workflow)
    return workflow


@transaction.atomic
def add_node(workflow: Workflow, node: NodeSettings, *, revision: int) -> DraftNode:
    """Add a node that uses a published job. An empty name is made of the path's last part.

    Raises Invalid with every fault, Conflict on a past revision.
    """
    workflow = _locked(workflow, revision)
    names = set(workflow.nodes.values_list("name", flat=True))
    job = _published_job(workflow, node.job_path)
    row = DraftNode(workflow=workflow, job=job, name=node.name or free_name(job.name, names))
    _put(row, node)
    _touch(workflow)
    return row


@transaction.atomic
def edit_node(workflow: Workflow, name: str, node: NodeSettings, *, revision: int) -> DraftNode:
    """Change a node: all its settings are as `node` says. Raises Invalid, Conflict, NotFound."""
    workflow = _locked(workflow, revision)
    row = _node(workflow, name)
    row.job = _published_job(workflow, node.job_path)
    row.name = node.name or row.name
    _put(row, node)
    _touch(workflow)
    return row


@transaction.atomic
def remove_node(workflow: Workflow, name: str, *, revision: int) -> None:
    """Take a node out, and its edges with it. Raises Conflict, NotFound."""
    workflow = _locked(workflow, revision)
    _node(workflow, name).delete()
    _touch(workflow)


@transaction.atomic
def place_nodes(
    workflow: Workflow, places: dict[str, tuple[float, float]], *, revision: int
) -> None:
    """Keep where nodes stand on the canvas."""
    workflow = _locked(workflow, revision)
    for name, (x, y) in places.items():
        workflow.nodes.filter(name=name).update(x=x, y=y)
    _touch(workflow)


@transaction.atomic
def replace_draft(
    workflow: Workflow,
    nodes: Sequence[WholeNode],
    edges: Collection[tuple[str, str]],
    *,
    revision: int,
    **settings: Any,
) -> Workflow:
    """Put a whole draft in the place of the one that stands: all nodes, all edges (up, down).

    Settings that are left out stay; `queue` is a name here. A node that keeps its name stays
    the same row. A draft without any node is one that has just begun, and no fault.

    Raises Invalid with every fault, those of a node under its name; Conflict.
    """
    _check_size(len(nodes), len(edges))
    workflow = _locked(workflow, revision)
    queues = {queue.name: queue for queue in workflow.workspace.queues.all()}
    faults: list[FieldFault] = []
    if settings.get("queue") is not None:
        name = settings["queue"]
        settings["queue"] = queues.get(name)
        if name not in queues:
            faults.append(FieldFault("queue", f"there is no queue {name!r} in this workspace"))
    try:
        _apply(workflow, settings)
    except Invalid as error:
        faults += error.faults
    if nodes or edges:
        faults += [
            FieldFault(fault.node, fault.message)
            for fault in graph_faults([node.name for node in nodes], edges)
        ]
    jobs = _jobs_of(workflow, nodes)
    for node in nodes:
        faults += [
            FieldFault(node.name, f"node {node.name!r}: {message}")
            for message in _whole_node_faults(node, jobs.get(node.job_path), queues)
        ]
    if faults:
        raise Invalid(faults)
    workflow.revision += 1
    _save_named(workflow)
    _put_all(workflow, nodes, edges, jobs, queues)
    return workflow


@transaction.atomic
def delete_workflow(workflow: Workflow) -> None:
    """Put a workflow into the trash: its name is free again, its runs stay readable.

    Raises Conflict while its schedule is on, or a backfill or a run of it is not over.
    """
    workflow = Workflow.objects.select_for_update().get(pk=workflow.pk)
    if Schedule.objects.filter(workflow=workflow, on=True).exists():
        raise Conflict(f"the schedule of {workflow.name!r} is on; turn it off first")
    backfill = workflow.backfills.filter(ended_at=None).order_by("pk").first()
    if backfill is not None:
        raise Conflict(
            f"backfill {backfill.pk} of {workflow.name!r} is not over; cancel it first, or wait "
            "for its end"
        )
    under_way = workflow.runs.exclude(state__in=RUN_ENDED).order_by("pk").first()
    if under_way is not None:
        raise Conflict(f"run {under_way.pk} of {workflow.name!r} is not over; stop it first")
    Workflow.objects.filter(pk=workflow.pk).update(deleted_at=timezone.now())
    # Its draft's jobs are free to be deleted; published versions hold them by id.
    workflow.nodes.all().delete()


def free_name(wanted: str, taken: Collection[str]) -> str:
    """`wanted`, or with _2, _3, … behind it where that is taken."""
    wanted = wanted[:60]
    name, n = wanted, 1
    while name in taken:
        n += 1
        name = f"{wanted}_{n}"
    return name


def _check_size(nodes: int, edges: int) -> None:
    """Raises Invalid for more than one workflow may hold, before anything looks at them."""
    if nodes > MAX_NODES:
        raise Invalid(
            f"the workflow has {nodes:,} nodes; {MAX_NODES:,} are allowed: split it", "nodes"
        )
    if edges > MAX_EDGES:
        raise Invalid(
            f"the workflow has {edges:,} edges; {MAX_EDGES:,} are allowed: split it", "edges"
        )


def _put(row: DraftNode, node: NodeSettings) -> None:
    """Write a node and its upstream edges, if the draft's graph then has no fault."""
    row.queue = node.queue
    for column in NODE_COLUMNS:
        setattr(row, column, getattr(node, column))
    row.final_exit_codes = in_order(node.final_exit_codes)
    others = list(row.workflow.nodes.exclude(pk=row.pk))
    keys = [*(other.name for other in others), row.name]
    edges = {
        (edge.upstream.name, edge.downstream.name)
        for edge in row.workflow.edges.select_related("upstream", "downstream").exclude(
            downstream=row.pk
        )
        if edge.upstream_id != row.pk
    }
    # Edges away from this node, under the name that it has from now on.
    if row.pk:
        edges |= {
            (row.name, below) for below in row.out_edges.values_list("downstream__name", flat=True)
        }
    edges |= {(up, row.name) for up in node.upstream}
    _check_size(len(keys), len(edges))
    faults = [
        FieldFault("upstream" if fault.node == row.name else "name", fault.message)
        for fault in graph_faults(keys, edges)
    ]
    if (
        node.job_version_number is not None
        and not row.job.versions.filter(number=node.job_version_number).exists()
    ):
        faults.append(
            FieldFault(
                "job_version_number",
                f"job {row.job.path!r} has no published version {node.job_version_number}",
            )
        )
    if row.timeout_seconds == 0:
        faults.append(
            FieldFault(
                "timeout_seconds", "a timeout of 0 ends every attempt; leave it empty for none"
            )
        )
    faults += policy_faults(row)
    faults += variables_faults(row)
    if faults:
        raise Invalid(faults)
    row.save()
    row.in_edges.all().delete()
    by_name = {other.name: other for other in others}
    DraftEdge.objects.bulk_create(
        DraftEdge(workflow=row.workflow, upstream=by_name[up], downstream=row)
        for up in sorted(set(node.upstream))
    )


def _jobs_of(workflow: Workflow, nodes: Sequence[WholeNode]) -> dict[str, Job]:
    """The jobs that nodes name by path, each with the numbers of the versions it has."""
    paths = {node.job_path for node in nodes}
    rows = Job.objects.filter(workspace=workflow.workspace_id, path__in=paths)
    return {job.path: job for job in rows.prefetch_related(_numbers())}


def _numbers() -> Prefetch[Any]:
    published = JobVersion.objects.filter(number__isnull=False).only("job_id", "number")
    return Prefetch("versions", published, to_attr="published_versions")


def _whole_node_faults(
    node: WholeNode, job: Job | None, queues: Mapping[str, ResourceQueue]
) -> Iterator[str]:
    if job is None:
        yield f"there is no job {node.job_path!r} in this workspace; choose one that is there"
    elif job.published_id is None:
        yield f"job {node.job_path!r} is not published; publish it, then use it as a node"
    elif node.job_version_number is not None and all(
        version.number != node.job_version_number
        for version in job.published_versions  # type: ignore[attr-defined]
    ):
        yield f"job {node.job_path!r} has no published version {node.job_version_number}"
    if node.queue is not None and node.queue not in queues:
        yield f"there is no queue {node.queue!r} in this workspace"
    if node.timeout_seconds == 0:
        yield "a timeout of 0 ends every attempt; leave it out for none"
    for fault in (*policy_faults(node), *variables_faults(node)):
        yield fault.message


def in_order(codes: Collection[int] | None) -> list[int] | None:
    """Exit codes each once: what means the same looks the same."""
    return None if codes is None else sorted(set(codes))


def variables_faults(said: Workflow | DraftNode | WholeNode) -> list[FieldFault]:
    """What is wrong with the names and the grammar of variables; their names are judged later."""
    return [FieldFault("variables", message) for message in PARAMETERS.faults(said.variables)]


def policy_faults(said: Workflow | DraftNode | WholeNode) -> list[FieldFault]:
    """What a workflow or a node must not say about retries, waiting and priority."""
    faults = []
    backoff = said.retry_backoff
    if backoff is not None and not BACKOFF_LEAST <= backoff <= BACKOFF_MOST:
        faults.append(
            FieldFault(
                "retry_backoff",
                f"a back-off of {backoff:g} is not between {BACKOFF_LEAST:g} and "
                f"{BACKOFF_MOST:g}; 1 keeps the pauses even, 2 doubles each",
            )
        )
    if said.retry_max_interval_seconds == 0:
        faults.append(
            FieldFault(
                "retry_max_interval_seconds",
                "a longest pause of 0 s lets none grow; choose a back-off of 1 for that",
            )
        )
    wrong = [code for code in said.final_exit_codes or () if not 1 <= code <= 255]
    if wrong:
        faults.append(
            FieldFault(
                "final_exit_codes",
                f"exit code {wrong[0]} is none that a job can fail with; name codes from 1 to 255",
            )
        )
    if said.queue_timeout_seconds == 0:
        faults.append(
            FieldFault(
                "queue_timeout_seconds",
                "a wait of 0 s fails every node before it starts; leave it empty for no limit",
            )
        )
    if said.priority is not None and said.priority not in set(Priority):
        faults.append(
            FieldFault(
                "priority",
                f"there is no priority {said.priority}; choose one from 0 (lowest) to 4 (highest)",
            )
        )
    return faults


def _put_all(
    workflow: Workflow,
    nodes: Sequence[WholeNode],
    edges: Collection[tuple[str, str]],
    jobs: Mapping[str, Job],
    queues: Mapping[str, ResourceQueue],
) -> None:
    """Make the rows as the nodes and edges say; as many statements for three as for 3,000."""
    stands = {row.name: row for row in workflow.nodes.all()}
    wanted = {node.name for node in nodes}
    workflow.edges.all().delete()
    workflow.nodes.exclude(name__in=wanted).delete()
    columns = ["job", "queue", "x", "y", *NODE_COLUMNS]
    rows: dict[str, DraftNode] = {}
    for node in nodes:
        row = rows[node.name] = stands.get(node.name) or DraftNode(
            workflow=workflow, name=node.name
        )
        row.job = jobs[node.job_path]
        row.queue = queues[node.queue] if node.queue is not None else None
        for column in ("x", "y", *NODE_COLUMNS):
            setattr(row, column, getattr(node, column))
        row.final_exit_codes = in_order(node.final_exit_codes)
    DraftNode.objects.bulk_update([row for row in rows.values() if row.pk], columns)
    DraftNode.objects.bulk_create(row for row in rows.values() if not row.pk)
    DraftEdge.objects.bulk_create(
        DraftEdge(workflow=workflow, upstream=rows[up], downstream=rows[down])
        for up, down in sorted(set(edges))
    )


def _published_job(workflow: Workflow, path: str) -> Job:
    job = (
        Job.objects.filter(workspace=workflow.workspace_id, path=path)
        .select_related("published")
        .first()
    )
    if job is None:
        raise Invalid(
            f"there is no job {path!r} in this workspace; choose one that is there", "job_path"
        )
    if job.published is None:
        raise Invalid(
            f"job {path!r} is not published; publish it, then use it as a node", "job_path"
        )
    return job


def _locked(workflow: Workflow, revision: int) -> Workflow:
    """The row under lock, if the draft still is at `revision`."""
    current = Workflow.objects.select_for_update().filter(pk=workflow.pk, deleted_at=None).first()
    if current is None:
        raise NotFound(f"workflow {workflow.name!r} was deleted")
    if current.revision != revision:
        raise Conflict(
            f"the draft of {current.name!r} is at revision {current.revision}, yours began at "
            f"{revision}; load it anew and make your change there",
            current=current,
        )
    return current


def _touch(workflow: Workflow) -> None:
    Workflow.objects.filter(pk=workflow.pk).update(
        revision=F("revision") + 1, updated_at=timezone.now()
    )


def _node(workflow: Workflow, name: str) -> DraftNode:
    row = workflow.nodes.filter(name=name).first()
    if row is None:
        raise NotFound(f"workflow {workflow.name!r} has no node {name!r}")
    return row


def _apply(workflow: Workflow, settings: dict[str, Any]) -> None:
    unknown = settings.keys() - set(SETTINGS)
    if unknown:
        raise TypeError(f"no such settings: {sorted(unknown)}")
    for name, value in settings.items():
        setattr(workflow, name, value.strip() if name == "name" else value)
    workflow.final_exit_codes = in_order(workflow.final_exit_codes) or []
    faults: list[FieldFault] = []
    if not workflow.name:
        faults.append(FieldFault("name", "a workflow needs a name"))
    elif len(workflow.name) > 128:
        faults.append(
            FieldFault("name", f"the name has {len(workflow.name)} characters; 128 are allowed")
        )
    elif any(not c.isprintable() or c == "/" for c in workflow.name):
        faults.append(
            FieldFault("name", "the name holds a '/' or a control character; take it out")
        )
    if workflow.parallelism == 0:
        faults.append(
            FieldFault(
                "parallelism", "0 nodes at once would run nothing; leave it empty for no limit"
            )
        )
    if workflow.overlap_limit < 1:
        faults.append(
            FieldFault(
                "overlap_limit", "with 0 runs at once no scheduled run would start; set 1 or more"
            )
        )
    if workflow.timeout_seconds == 0:
        faults.append(
            FieldFault("timeout_seconds", "a timeout of 0 ends every run; leave it empty for none")
        )
    if workflow.data_offset > MAX_DATA_OFFSET:
        faults.append(
            FieldFault(
                "data_offset",
                f"{workflow.data_offset:,} days back is too far; {MAX_DATA_OFFSET:,} are allowed",
            )
        )
    faults += variables_faults(workflow)
    faults += policy_faults(workflow)
    try:
        _apply_schedule(workflow)
    except Invalid as error:
        faults += error.faults
    if workflow.queue is not None and not workflow.queue.production:
        faults.append(
            FieldFault(
                "queue",
                f"queue {workflow.queue.name!r} is not a production queue; choose one that is",
            )
        )
    if faults:
        raise Invalid(faults)


def _apply_schedule(workflow: Workflow) -> None:
    """Write the schedule in its one form. Where it does not say from when on, from now on."""
    workflow.zone = workflow.zone.strip()
    zone = workflow.zone or workflow.workspace.zone
    said = workflow.schedule
    if said is None:
        zone_named(zone)
        return
    if not said.get("started_at"):
        said = {**said, "started_at": timezone.now().isoformat()}
    workflow.schedule = read_schedule(said, zone).write()


def _save_named(workflow: Workflow) -> None:
    try:
        with transaction.atomic():
            workflow.save()
    except IntegrityError:
        raise Conflict(
            f"there is a workflow {workflow.name!r} already; choose another name"
        ) from None
