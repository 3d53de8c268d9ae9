"""The one door through which every run starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from apps.core.errors import Conflict
from apps.engine.priority import Priority
from apps.engine.states import Hold, NodeState, Overlap, RunState, Trigger
from apps.nodes.kinds.base import Given
from apps.nodes.models import Job, JobVersion
from apps.runs.doorbell import ring_after_commit
from apps.runs.models import Lane, NodeRun, Run, RunEvent
from apps.runs.services.endings import check_hooks, told_of_failures
from apps.runs.services.holding import held_note
from apps.runs.services.hot_path import call
from apps.runs.services.lanes import earlier_of, fill, lane_of, lock
from apps.runs.services.planning import Plan, PlannedNode, plan_of_job, plan_of_workflow
from apps.workflows.clock import zone_of
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workflows.services.publishing import whole
from apps.workspaces.models import ResourceQueue, User
from apps.workspaces.selectors import holds_on_tags
from apps.workspaces.variables import variables_of


@transaction.atomic
def launch(
    what: WorkflowVersion | JobVersion,
    *,
    cycles: Sequence[datetime],
    trigger: Trigger,
    by: User | None,
    queue: ResourceQueue | None = None,
    priority: Priority | None = None,
    parameters: Mapping[str, str] | None = None,
    remarks: str = "",
    lane: Lane | None = None,
    overlap: Overlap | None = None,
    on_end: Sequence[str] = (),
    rerun_of: Run | None = None,
    keep: Mapping[str, NodeRun] | None = None,
    only: Collection[str] | None = None,
    versions: Mapping[str, JobVersion] | None = None,
    part: Collection[str] | None = None,
    flow: int | None = None,
) -> list[Run]:
    """Start one run per cycle of a workflow's version, or of a job's alone; under way at once.

    `cycles` are the points that the runs stand for (aware, UTC); for a run by hand, now.
    `queue` and `priority` apply to every node; None leaves each as it is set. `by` is None
    where the engine starts it. In a `lane` only those start for which it has room; the others
    wait in its line, in the order of the cycles given. `on_end` names hooks that are told of
    each run's end. Nodes named in `keep` do not run: they stand for the node runs given, which
    have succeeded in an earlier run. Of the rest, with `only`, just those named run, and wait
    for each other alone. `versions` are job versions by node, where the newest or the pinned
    one shall not be taken. With `part` a run is about the nodes named alone: the others are
    left out, and its success does not ask for them. `flow` is what takes turns in a queue, where
    that is not the workflow's or the job's runs. Buttons, REST, scheduler, backfill and the wire
    doors all come through here.

    `overlap` says what becomes of a run that meets another of its workflow; None: what the
    version says where it is scheduled and has no lane, else both run. *Parallel* and *wait*
    share the workflow's lane, whose limit is that of the launch made last: the version's
    `overlap_limit`, or 1. Whatever it says, a run of a workflow waits for the newest of its
    runs of the same cycle that is not over.

    Raises Skipped if the overlap is *skip* and a run of the workflow is not over: then nothing
    was started. Raises Conflict if the workflow was deleted; Invalid, naming each node, if a job
    is not published, or a queue is missing, not for this trigger's environment, or smaller than
    what the node asks.
    """
    owner: Workflow | Job
    columns: dict[str, Any]
    earlier: Mapping[datetime, int] = {}
    if isinstance(what, WorkflowVersion):
        if len(set(cycles)) < len(cycles):
            raise ValueError("a launch names each cycle once: of two runs one would have to wait")
        # Under lock, so that none starts beside its deletion.
        rows = Workflow.objects.select_related("workspace")
        owner = rows.select_for_update(no_key=True, of=["self"]).get(pk=what.workflow_id)
        if owner.deleted_at is not None:
            raise Conflict(f"workflow {owner.name!r} was deleted; its runs can only be read")
        settings = whole(what.graph)["settings"]
        given = Given(variables_of(owner.workspace_id), settings["variables"], run=parameters or {})
        plan = plan_of_workflow(what, trigger, queue, priority, versions or {}, given)
        lane = _overlapping(owner, settings, cycles, trigger, lane, overlap)
        earlier = earlier_of(owner.pk, cycles)
        columns = {
            "workflow": owner,
            "version": what,
            "name": owner.name,
            "flow": owner.pk,
            "strategy": settings["strategy"],
            "parallelism": settings["parallelism"],
            "timeout_seconds": settings["timeout_seconds"],
            "zone": zone_of(settings, owner.workspace.zone),
            "on_failure": told_of_failures(trigger),
        }
    elif overlap is not None:
        raise ValueError("overlap is between runs of a workflow; give a job's run a lane")
    else:
        owner = what.job
        given = Given(variables_of(owner.workspace_id), run=parameters or {})
        plan = plan_of_job(what, trigger, queue, priority, given)
        # Flows of jobs and of workflows meet in one queue: negative ids keep them apart.
        columns = {"job": owner, "name": owner.path, "flow": -owner.pk}
        columns["zone"] = zone_of({}, owner.workspace.zone)

    if flow is not None:
        columns["flow"] = flow
    check_hooks(on_end)
    if lane is not None:
        lock(lane)
    _hold_queues(plan, queue)
    kept = dict(keep or {})
    about = {node.key for node in plan.nodes if part is None or node.key in part}
    again = {key for key in about if only is None or key in only} - kept.keys()
    roots = [key for key in again if not plan.graph.upstream[key] & again]
    # Read under the workflow's lock: a hold that is being made waits for it before it looks.
    holds = holds_on_tags(owner.workspace_id, owner.tags) if isinstance(owner, Workflow) else []
    limit = 0 if holds else columns.get("parallelism") or len(roots)
    runs = Run.objects.bulk_create(
        Run(
            workspace_id=owner.workspace_id,
            cycle=cycle,
            trigger=trigger,
            hold=Hold.NONE,
            held=bool(holds),
            parameters=dict(given.run),
            variables=dict(given.workspace),
            remarks=remarks,
            rerun_of=rerun_of,
            lane=lane,
            waits=lane is not None or cycle in earlier,
            waits_for_id=earlier.get(cycle),
            on_end=list(on_end),
            queue=queue,
            priority=priority,
            created_by=by,
            total=len(about | kept.keys()),
            active=0 if lane or cycle in earlier else min(limit, len(roots)),
            open=len(roots),
            succeeded=len(kept),
            **columns,
        )
        for cycle in cycles
    )
    nodes = _node_runs(plan, runs, kept, again)
    NodeRun.objects.bulk_create(nodes, batch_size=2000)
    RunEvent.objects.bulk_create(
        RunEvent(run=run, new=run.state, user=by, note=f"started: {trigger}") for run in runs
    )
    if holds:
        RunEvent.objects.bulk_create(
            RunEvent(run=run, user=by, note=held_note(holds)) for run in runs
        )
    if earlier:
        RunEvent.objects.bulk_create(
            RunEvent(run=run, note=f"waits for run {run.waits_for_id}, of the same cycle")
            for run in runs
            if run.waits_for_id is not None
        )
    if lane is not None:
        fill(lane.pk)
    else:
        _enqueue(runs, nodes, limit)
    return runs


class Skipped(Conflict):
    """Nothing was started, since `run`, of the same workflow, is not over."""

    def __init__(self, message: str, run: Run) -> None:
        super().__init__(message)
        self.run = run


def _overlapping(
    workflow: Workflow,
    settings: Mapping[str, Any],
    cycles: Sequence[datetime],
    trigger: Trigger,
    lane: Lane | None,
    overlap: Overlap | None,
) -> Lane | None:
    """The lane for new runs of a workflow, whose row the caller has locked; None: no lane.

    Raises Skipped if none may start beside one that is not over.
    """
    if overlap is None:
        if trigger is not Trigger.SCHEDULE or lane is not None:
            return lane
        overlap = Overlap(settings["overlap"])
    if overlap is Overlap.SKIP:
        if len(cycles) > 1:
            raise ValueError("with the overlap *skip* runs are launched one at a time")
        rows = Run.objects.filter(workflow=workflow, state__in=[RunState.PENDING, RunState.RUNNING])
        earlier = rows.exclude(trigger=Trigger.DEBUG).order_by("pk").first()
        if earlier is not None:
            raise Skipped(
                f"run {earlier.pk} of workflow {workflow.name!r} is not over, and the overlap is "
                "skip; wait for its end, stop it, or start this one in parallel",
                run=earlier,
            )
        return lane
    if lane is not None:
        raise ValueError(f"a run stands in one line: give a lane, or the overlap *{overlap}*")
    limit = 1 if overlap is Overlap.WAIT else settings["overlap_limit"]
    return lane_of(workflow.workspace_id, f"workflow {workflow.pk}", limit=limit)


def _hold_queues(plan: Plan, queue: ResourceQueue | None) -> None:
    """See to it that no queue is deleted before this transaction ends; nobody else waits for it.

    Raises Conflict if one has just been.
    """
    names = {node.queue.pk: node.queue.name for node in plan.nodes}
    if queue is not None:
        names[queue.pk] = queue.name
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM workspaces_resourcequeue WHERE id = ANY(%s) ORDER BY id FOR KEY SHARE",
            [list(names)],
        )
        gone = names.keys() - {pk for (pk,) in cursor.fetchall()}
    if gone:
        name = min(names[pk] for pk in gone)
        raise Conflict(f"queue {name!r} was deleted meanwhile; choose another")


def _node_runs(
    plan: Plan, runs: Sequence[Run], kept: Mapping[str, NodeRun], again: Set[str]
) -> list[NodeRun]:
    """The rows of every run, their ids in the graph's order: a successor's is the greater."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence('runs_noderun', 'id'))"
            " FROM generate_series(1, %s)",
            [len(plan.nodes) * len(runs)],
        )
        ids = iter(sorted(pk for (pk,) in cursor.fetchall()))
    rows: list[NodeRun] = []
    for run in runs:
        pk_of = {node.key: next(ids) for node in plan.nodes}
        rows += [
            _kept(pk_of[node.key], run, node, kept[node.key])
            if node.key in kept
            else NodeRun(
                pk=pk_of[node.key],
                run=run,
                key=node.key,
                job_version=node.version,
                queue=node.queue,
                flow=run.flow,
                demand=node.demand,
                outside=node.key not in again,
                need=len(plan.graph.upstream[node.key] & again) if node.key in again else 1,
                down=sorted(pk_of[below] for below in plan.graph.downstream[node.key] & again)
                if node.key in again
                else [],
                **node.columns,
            )
            for node in plan.nodes
        ]
    return rows


def _kept(pk: int, run: Run, node: PlannedNode, before: NodeRun) -> NodeRun:
    """A node that does not run again, since it succeeded before."""
    return NodeRun(
        pk=pk,
        run=run,
        key=node.key,
        job_version=before.job_version,
        queue=node.queue,
        flow=run.flow,
        demand=node.demand,
        state=NodeState.SUCCEEDED,
        forced=before.forced,
        kept_from=before,
        reason=f"kept from run {before.run_id}",
        **node.columns,
    )


def _enqueue(runs: Sequence[Run], nodes: Sequence[NodeRun], limit: int) -> None:
    """Queue the roots of new runs that do not wait, at most `limit` of each.

    Nobody else can see them yet.
    """
    left = {run.pk: 0 if run.waits else limit for run in runs}
    first: list[NodeRun] = []
    for node in nodes:
        if node.state == NodeState.PENDING and node.need == 0 and left[node.run_id]:
            left[node.run_id] -= 1
            first.append(node)
    if not first:
        return
    call("SELECT runyard_enqueue(%s)", [[node.pk for node in first]])
    ring_after_commit(Counter(node.queue_id for node in first))
