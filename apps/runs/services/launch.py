"""The one door through which every run starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from django.db import connection, transaction

from apps.core.errors import Conflict, Invalid
from apps.engine.priority import Priority
from apps.engine.states import Hold, NodeState, Overlap, RunState, Trigger
from apps.nodes.kinds.base import Given
from apps.nodes.models import Job, JobVersion
from apps.runs.doorbell import ring_after_commit
from apps.runs.models import Lane, NodeRun, Run, RunEvent
from apps.runs.services.endings import check_hooks, told_of_failures
from apps.runs.services.holding import held_note
from apps.runs.services.hot_path import call
from apps.runs.services.lanes import earlier_of, fill_all, lane_of, lanes_of, lock
from apps.runs.services.planning import (
    Catalogue,
    Plan,
    PlannedNode,
    plan_of_job,
    plan_of_workflow,
)
from apps.workflows.clock import zone_of
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workflows.services.publishing import settings_of
from apps.workspaces.models import ResourceQueue, User, WorkspaceHold
from apps.workspaces.selectors import holds_on_tags, tag_holds
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
    runs of the same cycle that is not over, debug runs aside.

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
        settings = settings_of(what.graph)
        given = Given(variables_of(owner.workspace_id), settings["variables"], run=parameters or {})
        plan = plan_of_workflow(what, trigger, queue, priority, versions or {}, given)
        lane = _overlapping(owner, settings, cycles, trigger, lane, overlap)
        if trigger is not Trigger.DEBUG:
            earlier = earlier_of({owner.pk: cycles})[owner.pk]
        what.workflow = owner
        columns = _columns_of(what, settings, trigger)
    elif overlap is not None:
        raise ValueError("overlap is between runs of a workflow; give a job's run a lane")
    else:
        owner = what.job
        given = Given(variables_of(owner.workspace_id), run=parameters or {})
        plan = plan_of_job(what, trigger, queue, priority, given)
        # Flows of jobs and of workflows meet in one queue: negative ids keep them apart.
        columns = {"job": owner, "name": owner.path, "flow": -owner.pk, "trigger": trigger}
        columns["zone"] = zone_of({}, owner.workspace.zone)

    if flow is not None:
        columns["flow"] = flow
    check_hooks(on_end)
    if lane is not None:
        lock(lane)
    named = {node.queue.pk: node.queue.name for node in plan.nodes}
    if gone := _hold_queues({**named, **({queue.pk: queue.name} if queue else {})}):
        raise Conflict(_gone(gone))
    about = {node.key for node in plan.nodes if part is None or node.key in part}
    kept = dict(keep or {})
    columns |= {
        "parameters": dict(given.run),
        "variables": dict(given.workspace),
        "remarks": remarks,
        "rerun_of": rerun_of,
        "on_end": list(on_end),
        "queue": queue,
        "priority": priority,
        "created_by": by,
        "total": len(about | kept.keys()),
    }
    again = {key for key in about if only is None or key in only} - kept.keys()
    # Read under the workflow's lock: a hold that is being made waits for it before it looks.
    holds = holds_on_tags(owner.workspace_id, owner.tags) if isinstance(owner, Workflow) else []
    [runs] = _begin([_Start(owner, cycles, plan, columns, lane, earlier, holds, kept, again)])
    return runs


def launch_due(
    due: Sequence[tuple[WorkflowVersion, Sequence[datetime]]],
) -> list[list[Run] | Conflict | Invalid]:
    """Start a run per due cycle of many workflows, by one set of statements: for the scheduler.

    As `launch` does it for each with the trigger *schedule*. In a transaction, with the rows of
    the workflows locked; each version has its own as `workflow`. In the place of a workflow's runs
    stands why nothing of it was started.
    """
    if not due:
        return []
    versions = [version for version, _ in due]
    catalogue = Catalogue.of(versions)
    variables = {pk: variables_of(pk) for pk in {v.workflow.workspace_id for v in versions}}
    settings_by = {v.workflow_id: settings_of(v.graph) for v in versions}
    skipping = [pk for pk, said in settings_by.items() if said["overlap"] == Overlap.SKIP.value]
    in_the_way = _oldest_not_over(skipping)
    plans: dict[int, Plan] = {}
    why_not: dict[int, Conflict | Invalid] = {}
    for version, cycles in due:
        flow = version.workflow
        settings = settings_by[flow.pk]
        given = Given(variables[flow.workspace_id], settings["variables"])
        if flow.pk in skipping and len(cycles) > 1:
            raise ValueError("with the overlap *skip* runs are launched one at a time")
        try:
            plans[flow.pk] = plan_of_workflow(
                version, Trigger.SCHEDULE, None, None, {}, given, catalogue
            )
        except Invalid as error:
            why_not[flow.pk] = error
        if flow.pk in in_the_way:
            why_not[flow.pk] = Skipped(flow, in_the_way[flow.pk])
    queues = {node.queue.pk: node.queue.name for plan in plans.values() for node in plan.nodes}
    gone = _hold_queues(queues)
    for pk, plan in plans.items():
        if lost := {node.queue.pk: node.queue.name for node in plan.nodes if node.queue.pk in gone}:
            why_not[pk] = Conflict(_gone(lost))

    going = [(version, cycles) for version, cycles in due if version.workflow_id not in why_not]
    lanes = lanes_of(
        {
            _lane_key(version.workflow): _limit(settings_by[version.workflow_id])
            for version, _ in going
            if version.workflow_id not in skipping
        }
    )
    earlier = earlier_of({version.workflow_id: cycles for version, cycles in going})
    standing = tag_holds({v.workflow.workspace_id for v, _ in going if v.workflow.tags})
    starts = []
    for version, cycles in going:
        flow = version.workflow
        settings, plan = settings_by[flow.pk], plans[flow.pk]
        columns = {
            **_columns_of(version, settings, Trigger.SCHEDULE),
            "variables": dict(variables[flow.workspace_id]),
            "total": len(plan.nodes),
        }
        holds = [
            hold
            for hold in standing
            if hold.workspace_id == flow.workspace_id and hold.is_on_one_of(flow.tags)
        ]
        lane = lanes.get(_lane_key(flow))
        again = {node.key for node in plan.nodes}
        starts.append(
            _Start(flow, cycles, plan, columns, lane, earlier[flow.pk], holds, again=again)
        )
    runs = dict(zip((version.workflow_id for version, _ in going), _begin(starts), strict=True))
    return [why_not.get(v.workflow_id) or runs[v.workflow_id] for v in versions]


@dataclass(frozen=True)
class _Start:
    """Runs of one workflow or job that are to be written, one per cycle."""

    owner: Workflow | Job
    cycles: Sequence[datetime]
    plan: Plan
    #: Of each run.
    columns: Mapping[str, Any]
    lane: Lane | None = None
    #: By cycle, the run that one of it has to wait for.
    earlier: Mapping[datetime, int] = field(default_factory=dict)
    holds: Sequence[WorkspaceHold] = ()
    kept: Mapping[str, NodeRun] = field(default_factory=dict)
    #: The nodes that run.
    again: Set[str] = frozenset()

    @cached_property
    def roots(self) -> int:
        """How many nodes wait for no other."""
        return sum(not self.plan.graph.upstream[key] & self.again for key in self.again)

    @property
    def limit(self) -> int:
        """How many nodes of a run may be queued at once."""
        return 0 if self.holds else self.columns.get("parallelism") or self.roots

    def runs(self) -> list[Run]:
        roots, limit = self.roots, self.limit
        return [
            Run(
                workspace_id=self.owner.workspace_id,
                cycle=cycle,
                hold=Hold.NONE,
                held=bool(self.holds),
                lane=self.lane,
                waits=self.lane is not None or cycle in self.earlier,
                waits_for_id=self.earlier.get(cycle),
                active=0 if self.lane or cycle in self.earlier else min(limit, roots),
                open=roots,
                succeeded=len(self.kept),
                **self.columns,
            )
            for cycle in self.cycles
        ]

    def events(self, run: Run) -> Iterator[RunEvent]:
        """What is told of a new run."""
        by = run.created_by
        yield RunEvent(run=run, new=run.state, user=by, note=f"started: {run.trigger}")
        if self.holds:
            yield RunEvent(run=run, user=by, note=held_note(self.holds))
        if run.waits_for_id is not None:
            note = f"waits for run {run.waits_for_id}, of the same cycle"
            yield RunEvent(run=run, note=note)


def _begin(starts: Sequence[_Start]) -> list[list[Run]]:
    """Write the runs and let them start, whatever their number by so many statements."""
    made = [start.runs() for start in starts]
    Run.objects.bulk_create([run for runs in made for run in runs])
    nodes = _node_runs(starts, made)
    NodeRun.objects.bulk_create(nodes, batch_size=2000)
    RunEvent.objects.bulk_create(
        [
            event
            for start, runs in zip(starts, made, strict=True)
            for run in runs
            for event in start.events(run)
        ]
    )
    fill_all({start.lane.pk for start in starts if start.lane is not None})
    limits = {
        run.pk: start.limit
        for start, runs in zip(starts, made, strict=True)
        for run in runs
        if not run.waits
    }
    _enqueue(nodes, limits)
    return made


class Skipped(Conflict):
    """Nothing was started, since `run`, of the same workflow, is not over."""

    def __init__(self, workflow: Workflow, run: Run) -> None:
        super().__init__(
            f"run {run.pk} of workflow {workflow.name!r} is not over, and the overlap is skip; "
            "wait for its end, stop it, or start this one in parallel"
        )
        self.run = run


def _columns_of(
    version: WorkflowVersion, settings: Mapping[str, Any], trigger: Trigger
) -> dict[str, Any]:
    """What each run of a workflow's version says, whoever starts it."""
    workflow = version.workflow
    return {
        "workflow": workflow,
        "version": version,
        "name": workflow.name,
        "flow": workflow.pk,
        "trigger": trigger,
        "strategy": settings["strategy"],
        "parallelism": settings["parallelism"],
        "timeout_seconds": settings["timeout_seconds"],
        "zone": zone_of(settings, workflow.workspace.zone),
        "on_failure": told_of_failures(trigger),
    }


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
        if earlier := _oldest_not_over([workflow.pk]):
            raise Skipped(workflow, earlier[workflow.pk])
        return lane
    if lane is not None:
        raise ValueError(f"a run stands in one line: give a lane, or the overlap *{overlap}*")
    workspace, owner = _lane_key(workflow)
    return lane_of(workspace, owner, limit=_limit({**settings, "overlap": overlap}))


def _oldest_not_over(workflow_ids: Collection[int]) -> dict[int, Run]:
    """The oldest run of each workflow that is not over, debug runs aside; no query without any."""
    rows = Run.objects.filter(
        workflow__in=workflow_ids, state__in=[RunState.PENDING, RunState.RUNNING]
    ).exclude(trigger=Trigger.DEBUG)
    oldest = rows.order_by("workflow_id", "pk").distinct("workflow_id")
    return {run.workflow_id: run for run in oldest if run.workflow_id is not None}


def _lane_key(workflow: Workflow) -> tuple[int, str]:
    """Workspace and owner of the lane of a workflow's scheduled runs."""
    return workflow.workspace_id, f"workflow {workflow.pk}"


def _limit(settings: Mapping[str, Any]) -> int:
    """How many scheduled runs of a workflow may be under way at once."""
    return 1 if settings["overlap"] == Overlap.WAIT else int(settings["overlap_limit"])


def _hold_queues(names: Mapping[int, str]) -> dict[int, str]:
    """See to it that no queue is deleted before this transaction ends; nobody else waits for it.

    `names` by id; those that have just been deleted are returned.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM workspaces_resourcequeue WHERE id = ANY(%s) ORDER BY id FOR KEY SHARE",
            [list(names)],
        )
        there = {pk for (pk,) in cursor.fetchall()}
    return {pk: name for pk, name in names.items() if pk not in there}


def _gone(queues: Mapping[int, str]) -> str:
    return f"queue {min(queues.values())!r} was deleted meanwhile; choose another"


def _node_runs(starts: Sequence[_Start], made: Sequence[Sequence[Run]]) -> list[NodeRun]:
    """The rows of every run, their ids in the graph's order: a successor's is the greater."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence('runs_noderun', 'id'))"
            " FROM generate_series(1, %s)",
            [sum(len(start.plan.nodes) * len(start.cycles) for start in starts)],
        )
        ids = iter(sorted(pk for (pk,) in cursor.fetchall()))
    return [
        node
        for start, runs in zip(starts, made, strict=True)
        for run in runs
        for node in _nodes_of(start, run, ids)
    ]


def _nodes_of(start: _Start, run: Run, ids: Iterator[int]) -> Iterator[NodeRun]:
    graph, again = start.plan.graph, start.again
    pk_of = {node.key: next(ids) for node in start.plan.nodes}
    for node in start.plan.nodes:
        if node.key in start.kept:
            yield _kept(pk_of[node.key], run, node, start.kept[node.key])
            continue
        runs = node.key in again
        yield NodeRun(
            pk=pk_of[node.key],
            run=run,
            key=node.key,
            job_version=node.version,
            queue=node.queue,
            flow=run.flow,
            demand=node.demand,
            outside=not runs,
            need=len(graph.upstream[node.key] & again) if runs else 1,
            down=sorted(pk_of[key] for key in graph.downstream[node.key] & again) if runs else [],
            **node.columns,
        )


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


def _enqueue(nodes: Sequence[NodeRun], limits: Mapping[int, int]) -> None:
    """Queue the roots of new runs, of each run at most as many as its id has for a limit.

    Nobody else can see them yet.
    """
    left = dict(limits)
    first: list[NodeRun] = []
    for node in nodes:
        if node.state == NodeState.PENDING and node.need == 0 and left.get(node.run_id):
            left[node.run_id] -= 1
            first.append(node)
    if not first:
        return
    call("SELECT runyard_enqueue(%s)", [[node.pk for node in first]])
    ring_after_commit(Counter(node.queue_id for node in first))
