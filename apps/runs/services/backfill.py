"""Backfills: past cycles of a workflow to be run, after a preview that says exactly which.

    plan = plan_backfill(workflow, Asked(first_date=…, last_date=…))    # the list, counted
    create_backfill(workflow, asked, token=plan.token, user=maya)       # that list, or a refusal

What is made is what the preview showed: creation makes the list anew, under the workflow's lock,
and refuses if the preview's token does not fit. It writes the backfill with a row for each cycle
in one transaction and starts nothing within; services/feeding.py does the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from itertools import islice
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.models import Case, F, Func, IntegerField, Q, When
from django.db.models.functions import Now

from apps.core.errors import Conflict, FieldFault, Invalid, NotFound
from apps.engine.backfill import (
    MANY,
    MOST,
    MOST_AT_ONCE,
    YEARS,
    Order,
    Which,
    data_date,
    of_dates,
    of_each_date,
    of_times,
    pattern_of,
)
from apps.engine.states import RunState, Trigger
from apps.engine.timetable import Timetable
from apps.nodes.models import JobVersion
from apps.runs.models import Backfill, BackfillCycle, Lane, Run
from apps.runs.services.feeding import feed, hold_back, nodes_within, stop_rest, tell
from apps.runs.services.lanes import fill
from apps.runs.services.planning import versions_now
from apps.runs.services.rerun import shape_of
from apps.runs.services.scheduling import Clock, database_clock
from apps.workflows.clock import zone_of
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workflows.services.publishing import settings_of, whole
from apps.workflows.services.schedules import timetable_of
from apps.workspaces.models import ResourceQueue, User

#: Rows of one INSERT.
_BATCH = 2000


@dataclass(frozen=True)
class Asked:
    """All that decides which runs a backfill makes.

    The cycles are said in one of four ways: data dates from `first_date` to `last_date`, the
    data dates named, cycle times (aware) from `first_cycle` to `last_cycle`, or the cycle times
    named, which need not be points of the schedule. Both ends of a range belong to it.
    """

    first_date: date | None = None
    last_date: date | None = None
    dates: Sequence[date] = ()
    first_cycle: datetime | None = None
    last_cycle: datetime | None = None
    cycles: Sequence[datetime] = ()
    which: Which = Which.ALL
    order: Order = Order.OLDEST
    #: The one node to run; "": all.
    node: str = ""
    #: With `node`: what is below it too.
    downstream: bool = False
    #: For every node; None leaves each where it is set.
    queue: ResourceQueue | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    #: A published one; None: the newest.
    version: WorkflowVersion | None = None


@dataclass(frozen=True)
class PlannedCycle:
    #: Aware, in UTC.
    cycle: datetime
    #: What `${ds}` says in its run.
    data_date: date


@dataclass(frozen=True)
class Plan:
    """What a backfill would make."""

    version: WorkflowVersion
    #: Of the workflow.
    zone: ZoneInfo
    #: In the order in which they start.
    cycles: list[PlannedCycle]
    #: How many cycles were asked for before `which` left some out.
    considered: int
    #: Names of the nodes that run, in the graph's order.
    nodes: list[str]
    #: Those of them that the queue asked for takes from the queue where they are set.
    moved: list[str]
    job_versions: dict[str, JobVersion]
    #: Creation with it makes exactly these cycles with these versions, or nothing.
    token: str


def plan_backfill(workflow: Workflow, asked: Asked, *, clock: Clock = database_clock) -> Plan:
    """The exact list that `create_backfill` would make, as things stand now. Changes nothing.

    It may be empty where `which` leaves out every cycle that was asked for.

    Raises Conflict if the workflow was deleted or is not published; Invalid with every fault:
    no cycles in the range, too many, one in the future, a node that is not there, or what a
    launch would refuse.
    """
    if workflow.deleted_at is not None:
        raise Conflict(f"workflow {workflow.name!r} was deleted; its runs can only be read")
    version = asked.version or workflow.published
    if version is None:
        raise Conflict(f"workflow {workflow.name!r} is not published; publish it, then run it")
    version.workflow = workflow
    settings = settings_of(version.graph)
    zone = ZoneInfo(zone_of(settings, workflow.workspace.zone))
    pattern, offset = pattern_of(timetable_of(version), zone), settings["data_offset"]
    considered = _considered(asked, pattern, offset, clock())
    nodes = _nodes(version, asked)
    versions = versions_now(
        version, trigger=Trigger.BACKFILL, queue=asked.queue, parameters=asked.parameters
    )
    cycles = _chosen(workflow, asked, considered)
    if asked.order is Order.NEWEST:
        cycles.reverse()
    return Plan(
        version=version,
        zone=zone,
        cycles=[PlannedCycle(cycle, data_date(cycle, zone, offset)) for cycle in cycles],
        considered=len(considered),
        nodes=nodes,
        moved=_moved(version, versions, asked.queue, nodes),
        job_versions=versions,
        token=_token(version, versions, cycles, nodes),
    )


@transaction.atomic
def create_backfill(
    workflow: Workflow,
    asked: Asked,
    *,
    user: User | None,
    at_once: int = 1,
    remarks: str = "",
    addresses: Sequence[str] = (),
    stop_after: int | None = None,
    token: str = "",
    sure: int | None = None,
    clock: Clock = database_clock,
) -> Backfill:
    """Make a backfill of what `plan_backfill` shows; it is fed after commit.

    `token` is the preview's; "" takes what it would show now. `sure` says how many cycles there
    are, where they are many. `addresses` are taken as they are.

    Raises as `plan_backfill` does; Invalid where nothing is to be run, or there are many cycles
    and `sure` does not say how many; Conflict, with the new plan as `current`, where it is not
    the preview's any more.
    """
    faults = []
    if not 1 <= at_once <= MOST_AT_ONCE:
        faults.append(FieldFault("at_once", f"run 1 to {MOST_AT_ONCE:,} cycles at once"))
    if stop_after is not None and stop_after < 1:
        faults.append(FieldFault("stop_after", "stop after 1 failed cycle or more, or leave it"))
    if faults:
        raise Invalid(faults)
    row = Workflow.objects.select_for_update(no_key=True, of=("self",))
    workflow = row.select_related("published", "workspace").get(pk=workflow.pk)
    plan = plan_backfill(workflow, asked, clock=clock)
    count = len(plan.cycles)
    if token and token != plan.token:
        raise Conflict(_difference(token, plan), current=plan)
    if not count:
        raise Invalid(
            f"nothing is to be run: of {_cycles(plan.considered)} none "
            + ("is missing" if asked.which is Which.MISSING else "has failed"),
            "which",
        )
    if count > MANY and sure != count:
        raise Invalid(f"these are {count:,} cycles; say that you are sure: {count}", "sure")
    pk = _next_id()
    backfill = Backfill.objects.create(
        pk=pk,
        workspace_id=workflow.workspace_id,
        workflow=workflow,
        version=plan.version,
        job_versions={name: version.pk for name, version in plan.job_versions.items()},
        lane=Lane.objects.create(
            workspace_id=workflow.workspace_id, owner=f"backfill {pk}", limit=at_once
        ),
        order=asked.order,
        at_once=at_once,
        which=asked.which,
        node=asked.node,
        downstream=asked.downstream,
        parameters=dict(asked.parameters),
        queue=asked.queue,
        remarks=remarks,
        addresses=list(addresses),
        stop_after=stop_after,
        total=count,
        created_by=user,
    )
    BackfillCycle.objects.bulk_create(
        (
            BackfillCycle(backfill=backfill, cycle=planned.cycle, position=position)
            for position, planned in enumerate(plan.cycles)
        ),
        batch_size=_BATCH,
    )
    tell(backfill, f"made, of {_cycles(count)}", user=user)
    transaction.on_commit(partial(feed, backfill.pk), robust=True)
    return backfill


@transaction.atomic
def pause_backfill(backfill: Backfill, *, user: User | None) -> None:
    """Start no further cycle, those in line neither; what runs goes on to its end.

    Raises Conflict if it is over, being cancelled, or paused already.
    """
    row = _locked(backfill)
    if row.paused_at is not None:
        raise Conflict(f"backfill {row.pk} is paused already")
    hold_back(row, user=user)


@transaction.atomic
def resume_backfill(backfill: Backfill, *, user: User | None) -> None:
    """Let a paused backfill go on; failures up to now do not count for `stop_after` any more.

    Raises Conflict if it is over, being cancelled, or not paused.
    """
    row = _locked(backfill)
    if row.paused_at is None:
        raise Conflict(f"backfill {row.pk} is not paused")
    Backfill.objects.filter(pk=row.pk).update(
        paused_at=None, paused_by=None, why="", resumed_at=Now()
    )
    Lane.objects.filter(pk=row.lane_id).update(limit=row.at_once)
    tell(row, "resumed", user=user)
    fill(row.lane_id)
    transaction.on_commit(partial(feed, row.pk), robust=True)


@transaction.atomic
def cancel_backfill(backfill: Backfill, *, user: User | None, stop_running: bool = False) -> None:
    """Start no further cycle, and stop the runs that have not started; what runs goes on to its
    end, unless `stop_running`, which may be asked for later too.

    Raises Conflict if it is over, or this was asked for already.
    """
    row = _locked(backfill, cancelled=True)
    if row.cancelled_at is not None and (row.stop_running or not stop_running):
        raise Conflict(f"backfill {row.pk} is being cancelled already")
    Backfill.objects.filter(pk=row.pk).update(
        cancelled_at=Now(),
        cancelled_by=user,
        stop_running=stop_running,
        paused_at=None,
        paused_by=None,
    )
    Lane.objects.filter(pk=row.lane_id).update(limit=0)
    tell(row, "cancelled, with what runs" if stop_running else "cancelled", user=user)
    transaction.on_commit(partial(stop_rest, row.pk), robust=True)


def _next_id() -> int:
    """Of a backfill: its lane's name says it, and comes first."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval(pg_get_serial_sequence('runs_backfill', 'id'))")
        pk: int = cursor.fetchone()[0]
        return pk


def _locked(backfill: Backfill, *, cancelled: bool = False) -> Backfill:
    """Its row, locked. Raises Conflict if it is over, or, unless that is allowed, cancelled."""
    row = Backfill.objects.select_for_update(no_key=True).filter(pk=backfill.pk).first()
    if row is None:
        raise NotFound(f"there is no backfill {backfill.pk} any more")
    if row.ended_at is not None:
        raise Conflict(f"backfill {row.pk} is over")
    if row.cancelled_at is not None and not cancelled:
        raise Conflict(f"backfill {row.pk} is being cancelled")
    return row


# --- the list -------------------------------------------------------------------------------


def _considered(asked: Asked, pattern: Timetable, offset: int, now: datetime) -> list[datetime]:
    """Every cycle that was asked for, ascending. Raises Invalid."""
    field_, found = _found(asked, pattern, offset)
    cycles: list[datetime] = []
    for cycle in islice(found, MOST + 1):
        if cycle > now:
            local = cycle.astimezone(pattern.zone)
            message = (
                f"the cycle of {data_date(cycle, pattern.zone, offset)} is due at "
                f"{local:%Y-%m-%d %H:%M}, which is still to come"
            )
            if cycles:
                message += f"; the last one is of {data_date(cycles[-1], pattern.zone, offset)}"
            raise Invalid(message, field_)
        cycles.append(cycle)
    if len(cycles) > MOST:
        raise Invalid(
            f"these are more than {MOST:,} cycles, of which one backfill may have so many; "
            "make several",
            field_,
        )
    if not cycles:
        raise Invalid(f"the workflow is due {pattern.in_words()}: no cycle lies in there", field_)
    return sorted(cycles)  # dates, and so their cycles, may overlap where a clock goes back


def _found(asked: Asked, pattern: Timetable, offset: int) -> tuple[str, Iterator[datetime]]:
    """The field that is to blame if they are wrong, and the cycles, ascending. Raises Invalid."""
    ways = {
        "last_date": asked.first_date is not None or asked.last_date is not None,
        "dates": bool(asked.dates),
        "last_cycle": asked.first_cycle is not None or asked.last_cycle is not None,
        "cycles": bool(asked.cycles),
    }
    said = [name for name, is_said in ways.items() if is_said]
    if len(said) != 1:
        raise Invalid(
            "say which cycles: first_date and last_date, dates, first_cycle and last_cycle, or "
            "cycles, and one of these ways alone",
            said[-1] if said else "first_date",
        )
    [way] = said
    if len(asked.dates) > MOST or len(asked.cycles) > MOST:
        raise Invalid(f"name {MOST:,} at most", way)
    named = [asked.first_date, asked.last_date, *asked.dates]
    if outside := [day for day in named if day is not None and day.year not in YEARS]:
        raise Invalid(f"{outside[0]} lies outside the years {YEARS[0]} to {YEARS[-1]}", way)
    times = [asked.first_cycle, asked.last_cycle, *asked.cycles]
    if outside_ := [at for at in times if at is not None and at.year not in YEARS]:
        raise Invalid(f"{outside_[0]} lies outside the years {YEARS[0]} to {YEARS[-1]}", way)
    if way == "dates":
        return way, of_each_date(pattern, offset, asked.dates)
    if way == "cycles":
        return way, iter(sorted({cycle.astimezone(UTC) for cycle in asked.cycles}))
    if way == "last_date":
        first, last = asked.first_date, asked.last_date
        if first is None or last is None:
            raise Invalid("say both the first and the last date", way)
        if last < first:
            raise Invalid(f"{last} is before {first}; let it be the same day or a later one", way)
        return way, of_dates(pattern, offset, first, last)
    since, until = asked.first_cycle, asked.last_cycle
    if since is None or until is None:
        raise Invalid("say both the first and the last cycle", way)
    if until < since:
        raise Invalid(f"{until} is before {since}; let it be the same time or a later one", way)
    return way, of_times(pattern, since, until)


def _chosen(workflow: Workflow, asked: Asked, cycles: list[datetime]) -> list[datetime]:
    """Those of the cycles, ascending, that `which` means; two queries, and none for all."""
    if asked.which is Which.ALL:
        return list(cycles)
    newest: dict[datetime, str] = {}
    done: set[datetime] = set()
    for cycle, state in _results(workflow, asked, cycles[0], cycles[-1]):
        newest[cycle] = state
        if state == RunState.SUCCEEDED:
            done.add(cycle)
    if asked.which is Which.MISSING:
        return [cycle for cycle in cycles if cycle not in done]
    return [cycle for cycle in cycles if newest.get(cycle) == RunState.FAILED]


def _results(
    workflow: Workflow, asked: Asked, first: datetime, last: datetime
) -> Iterator[tuple[datetime, str]]:
    """Cycle and state of each run that says whether a cycle was run, by cycle, the newest
    of each last.

    Not those of drafts, and not those of a part of the nodes, unless a backfill made them of the
    same part. Two queries.
    """
    size = Func(F("graph__nodes"), function="jsonb_array_length", output_field=IntegerField())
    versions = workflow.versions.annotate(size=size)
    size_of: dict[int | None, int] = dict(versions.values_list("pk", "size"))
    same = Q(
        backfill_cycle__backfill__node=asked.node,
        backfill_cycle__backfill__downstream=asked.downstream,
    )
    runs = Run.objects.filter(workflow=workflow, cycle__range=(first, last))
    runs = runs.exclude(trigger=Trigger.DEBUG).annotate(
        is_same=Case(When(same, then=True), default=False)
    )
    # Not by id alone: the list by id of all runs would be walked through for it.
    rows = runs.order_by("cycle", "pk").values_list("cycle", "state", "version", "total", "is_same")
    for cycle, state, version, total, is_same in rows.iterator():
        if is_same or total >= size_of[version]:
            yield cycle, state


def _nodes(version: WorkflowVersion, asked: Asked) -> list[str]:
    graph = shape_of(version)
    if asked.downstream and not asked.node:
        raise Invalid("name the node whose downstream is meant", "node")
    if asked.node and asked.node not in graph.keys:
        raise Invalid(f"{version} has no node {asked.node!r}; name one of its nodes", "node")
    return nodes_within(graph, asked.node, asked.downstream)


def _moved(
    version: WorkflowVersion,
    versions: Mapping[str, JobVersion],
    queue: ResourceQueue | None,
    nodes: Sequence[str],
) -> list[str]:
    """Nodes that a queue chosen for all takes from where they are."""
    if queue is None:
        return []
    graph = whole(version.graph)
    default = graph["settings"]["queue"]
    own = {node["name"]: node["queue"] or default for node in graph["nodes"]}
    return [key for key in nodes if (own[key] or versions[key].queue_id) != queue.pk]


# --- the token ------------------------------------------------------------------------------


def _token(
    version: WorkflowVersion,
    versions: Mapping[str, JobVersion],
    cycles: Sequence[datetime],
    nodes: Sequence[str],
) -> str:
    """Which version, how many cycles, and what they are: by its parts one can say what changed."""
    jobs = " ".join(f"{name}={versions[name].pk}" for name in nodes)
    times = " ".join(cycle.isoformat() for cycle in cycles)
    return f"{version.pk}.{len(cycles)}.{_digest(jobs)}.{_digest(times)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _difference(token: str, plan: Plan) -> str:
    before, now = token.split("."), plan.token.split(".")
    if len(before) != len(now):
        what = "its token is none of this workflow's"
    elif before[0] != now[0]:
        what = f"version {plan.version.number} is the one to run by now"
    elif before[2] != now[2]:
        what = "a job of it was published anew, or it is about other nodes"
    elif before[1] != now[1]:
        what = f"it would be {_cycles(len(plan.cycles))} by now"
    else:
        what = "it would be other cycles by now, or the same in another order"
    return f"this is not what the preview showed: {what}; look at the preview again"


def _cycles(count: int) -> str:
    return "1 cycle" if count == 1 else f"{count:,} cycles"
