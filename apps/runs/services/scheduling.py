"""The scheduler: every due point of a schedule that is on becomes a run, or says why none.

    switch(workflow, on=True, user=maya)
    take_due(due())                     # with every tick

A schedule remembers up to where its points are done (`done_until`), and moves that on in the
transaction that makes their rows and runs, under its workflow's row lock. So a point is taken
once, by whoever comes first, and one that nobody took while everything was down is still there.
A point belongs to the version that was published when it fell due: publishing another neither
repeats nor drops one. What is started is the version that is published now.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, zip_longest

from django.db import connection, transaction

from apps.core.errors import Conflict, Invalid, NotFound
from apps.engine.states import Missed, Overlap
from apps.engine.timetable import Timetable
from apps.runs.models import Run, SchedulePoint
from apps.runs.services.launch import Skipped, launch_due
from apps.workflows.models import Schedule, Workflow, WorkflowVersion
from apps.workflows.services.publishing import settings_of
from apps.workflows.services.schedules import timetable_of
from apps.workspaces.models import User, WorkspaceHold
from apps.workspaces.selectors import standing_holds

#: A point found later than this was missed: nothing could start when it fell due.
LATE = timedelta(seconds=60)
#: Points of one schedule in one transaction.
BATCH = 200
#: Node runs of one transaction, about: it holds the rows of all its workflows.
BATCH_NODES = 2_000
#: Schedules that one look takes.
SCHEDULES = 500
#: A tick waits for what falls due within so long, so that a beat's interval delays nothing.
AHEAD = timedelta(seconds=1)
#: A held schedule is looked at again then, should its release not have woken it.
HELD = timedelta(seconds=60)

Clock = Callable[[], datetime]


def database_clock() -> datetime:
    """What every process compares with, now and not when the transaction began."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
        return now


@transaction.atomic
def switch(
    workflow: Workflow,
    *,
    on: bool,
    user: User | None,
    run_latest: bool = False,
    clock: Clock = database_clock,
) -> Schedule:
    """Turn a workflow's schedule on or off; as it is already, nothing changes.

    On: what fell due before gets no run, but the latest point of today with `run_latest`. Off:
    what fell due before still gets its run, unless a hold keeps it: then it was missed.

    Raises Conflict where it cannot be turned on, with the reason; NotFound.
    """
    row = Workflow.objects.select_for_update(no_key=True, of=("self",))
    workflow = row.select_related("published", "workspace").get(pk=workflow.pk)
    if workflow.deleted_at is not None:
        raise NotFound(f"workflow {workflow.name!r} was deleted")
    now = clock()
    schedule = Schedule.objects.filter(workflow=workflow).first()
    if schedule is None:
        schedule = Schedule(workflow=workflow, done_until=now)
    if schedule.on == on:
        return schedule
    if on:
        if fault := why_not_on(workflow):
            raise Conflict(f"workflow {workflow.name!r} {fault}")
        timetable = _timetable(workflow)
        schedule.done_until, schedule.held = now, False
        schedule.next_at = _next(timetable, now)
        latest = latest_today(workflow, now) if run_latest else None
        if latest is not None:
            SchedulePoint.objects.bulk_create(_run([(workflow, [latest])]))
    else:
        schedule.workflow = workflow
        _take([schedule], now)
        while not schedule.held and schedule.next_at == now:
            _take([schedule], now)
        if schedule.held:
            _give_up(schedule, now)
        schedule.next_at = None
    schedule.on, schedule.changed_by, schedule.changed_at = on, user, now
    schedule.save()
    return schedule


def is_on(workflow: Workflow) -> bool:
    return Schedule.objects.filter(workflow=workflow, on=True).exists()


def why_not_on(workflow: Workflow) -> str:
    """Why the switch cannot be turned on, after the workflow's name; "" if it can."""
    if workflow.published is None:
        return "is not published; publish it, then turn its schedule on"
    if settings_of(workflow.published.graph)["schedule"] is None:
        return (
            f"has no schedule in v{workflow.published.number}: set one and publish it, then turn "
            "it on"
        )
    return ""


def standing_hold(workflow: Workflow) -> WorkspaceHold | None:
    """The oldest hold that keeps a workflow's schedule from starting it; None without any."""
    return _standing_holds([workflow]).get(workflow.pk)


def latest_today(workflow: Workflow, now: datetime) -> datetime | None:
    """The last point of today, in the schedule's zone, that is past and has no row; or None."""
    if why_not_on(workflow):
        return None
    timetable = _timetable(workflow)
    midnight = now.astimezone(timetable.zone).replace(hour=0, minute=0, second=0, microsecond=0)
    begin = midnight.astimezone(now.tzinfo) - timedelta(microseconds=1)
    last = max(timetable.points(begin, now), default=None)
    if last is None or SchedulePoint.objects.filter(workflow=workflow, cycle=last).exists():
        return None
    return last


def due(clock: Clock = database_clock) -> list[int]:
    """Ids of the workflows whose schedules are to be looked at now, a batch."""
    rows = Schedule.objects.filter(on=True, next_at__lte=clock()).order_by("next_at", "pk")
    return list(rows.values_list("workflow", flat=True)[:SCHEDULES])


def due_soon(until: datetime, clock: Clock = database_clock) -> float | None:
    """In how many seconds the next schedule is due, if that is after now and not after `until`."""
    now = clock()
    rows = Schedule.objects.filter(on=True, next_at__gt=now, next_at__lte=until)
    soon = rows.order_by("next_at").values_list("next_at", flat=True).first()
    return None if soon is None else (soon - now).total_seconds()


@transaction.atomic
def take_due(workflow_ids: Collection[int], clock: Clock = database_clock) -> None:
    """Take what is due of these workflows, but of those that somebody else is at.

    All in one transaction: what cannot be launched for a reason that is foreseen costs no other
    its run; anything else leaves all of them due. What is more than a batch stays due as well.
    """
    rows = Workflow.objects.select_for_update(no_key=True, skip_locked=True, of=("self",))
    mine = rows.select_related("published", "workspace").order_by("pk")
    workflows = {row.pk: row for row in mine.filter(pk__in=workflow_ids, deleted_at=None)}
    now = clock()
    due = Schedule.objects.filter(workflow__in=workflows, on=True, next_at__lte=now)
    schedules = list(due.order_by("next_at", "workflow"))
    for schedule in schedules:
        schedule.workflow = workflows[schedule.workflow_id]
    schedules = _take(schedules, now)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE workflows_schedule AS mine
               SET done_until = made.done_until, next_at = made.next_at, held = made.held
              FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[], %s::boolean[])
                   AS made (workflow_id, done_until, next_at, held)
             WHERE mine.workflow_id = made.workflow_id
            """,
            [
                [schedule.workflow_id for schedule in schedules],
                [schedule.done_until for schedule in schedules],
                [schedule.next_at for schedule in schedules],
                [schedule.held for schedule in schedules],
            ],
        )


# --- under the workflows' row locks -----------------------------------------------------------


@dataclass(frozen=True)
class _Point:
    cycle: datetime
    #: What its schedule says of cycles that were missed.
    missed: Missed


def _take(schedules: Sequence[Schedule], now: datetime) -> list[Schedule]:
    """Make runs and rows of what is due and move the schedules on, but those that are held.

    What is more than a batch of one is left: then it is due again at once. Those for which there
    was no room in the transaction are not among those returned, and stay as they are.
    """
    holds = _standing_holds([schedule.workflow for schedule in schedules])
    to_run: list[tuple[Workflow, Sequence[datetime]]] = []
    rows: list[SchedulePoint] = []
    room = BATCH_NODES
    taken: list[Schedule] = []
    for schedule in schedules:
        if room <= 0:
            break
        taken.append(schedule)
        workflow = schedule.workflow
        schedule.held = workflow.pk in holds
        if schedule.held:
            schedule.next_at = now + HELD
            continue
        nodes = max(len(_published(workflow).graph["nodes"]), 1)
        batch = max(min(BATCH, room // nodes), 1)
        points = list(islice(_due(workflow, schedule.done_until, now), batch + 1))
        more = len(points) > batch
        points = points[:batch]
        chosen, left = _chosen(workflow, points, now, complete=not more)
        to_run.append((workflow, chosen))
        room -= len(chosen) * nodes
        rows += [
            SchedulePoint(
                workflow=workflow, cycle=cycle, reason=SchedulePoint.Reason.MISSED, note=note
            )
            for cycle, note in left
        ]
        schedule.done_until = points[-1].cycle if more else max(now, schedule.done_until)
        schedule.next_at = now if more else _next(timetable_of(_published(workflow)), now)
    rows += _run([(workflow, cycles) for workflow, cycles in to_run if cycles])
    SchedulePoint.objects.bulk_create(sorted(rows, key=lambda row: (row.cycle, row.workflow_id)))
    return taken


def _give_up(schedule: Schedule, now: datetime) -> None:
    """Say of what fell due under a hold that it was missed, since the schedule is turned off."""
    hold = standing_hold(schedule.workflow)
    SchedulePoint.objects.bulk_create(
        (
            SchedulePoint(
                workflow=schedule.workflow,
                cycle=point.cycle,
                reason=SchedulePoint.Reason.MISSED,
                note=f"held: {hold}; then the schedule was turned off",
            )
            for point in _due(schedule.workflow, schedule.done_until, now)
        ),
        batch_size=1000,
    )
    schedule.done_until, schedule.held = max(now, schedule.done_until), False


def _due(workflow: Workflow, after: datetime, until: datetime) -> Iterator[_Point]:
    """Points in (after, until], each of the version that was published at that time."""
    current = _published(workflow)
    in_force = [current]
    if current.created_at > after:
        versions = workflow.versions.filter(number__isnull=False, created_at__lte=until)
        old = versions.filter(created_at__lte=after).order_by("-number")[:1]
        in_force = [*old, *versions.filter(created_at__gt=after).order_by("number")]
    for version, following in zip_longest(in_force, in_force[1:]):
        version.workflow = workflow
        timetable = timetable_of(version)
        if timetable is not None:
            end = following.created_at if following else until
            for cycle in timetable.points(max(version.created_at, after), end):
                yield _Point(cycle, timetable.missed)


def _chosen(
    workflow: Workflow, points: Sequence[_Point], now: datetime, *, complete: bool
) -> tuple[list[datetime], list[tuple[datetime, str]]]:
    """The points that get a run, and those that get none, with the reason.

    `complete`: the last of them is the newest of all.
    """
    released: list[WorkspaceHold] = []
    if points and now - points[0].cycle > LATE:
        since = WorkspaceHold.objects.filter(
            workspace=workflow.workspace_id, released_at__gte=points[0].cycle
        )
        released = [hold for hold in since.order_by("-released_at") if _keeps(hold, workflow)]
    to_run, left = [], []
    for n, point in enumerate(points):
        hold = next((h for h in released if h.created_at <= point.cycle <= h.released_at), None)  # type: ignore[operator]
        missed = Missed(hold.missed) if hold else point.missed
        newest = complete and n == len(points) - 1
        late = now - point.cycle > LATE
        if not late or missed is Missed.ALL or (missed is Missed.LATEST and newest):
            to_run.append(point.cycle)
            continue
        what = f"held: {hold}" if hold else "nothing could start when it fell due"
        rule = "none is run" if missed is Missed.NONE else "the latest is run"
        left.append((point.cycle, f"{what}; of missed cycles {rule}"))
    return to_run, left


def _run(due: Sequence[tuple[Workflow, Sequence[datetime]]]) -> list[SchedulePoint]:
    """Start a run of each cycle, or say why there is none; the rows are not yet saved."""
    rows: list[SchedulePoint] = []
    together: list[tuple[WorkflowVersion, Sequence[datetime]]] = []
    for workflow, cycles in due:
        version = _published(workflow)
        skips = settings_of(version.graph)["overlap"] == Overlap.SKIP.value
        if skips and len(cycles) > 1:  # the first one is in the way of the others
            for cycle in cycles:
                rows += _points_of(version, [cycle], *launch_due([(version, [cycle])]))
        else:
            together.append((version, cycles))
    for (version, cycles), found in zip(together, launch_due(together), strict=True):
        rows += _points_of(version, cycles, found)
    return rows


def _points_of(
    version: WorkflowVersion, cycles: Sequence[datetime], found: list[Run] | Conflict | Invalid
) -> list[SchedulePoint]:
    """What became of cycles that fell due: their runs, or one reason for all."""
    workflow = version.workflow
    if isinstance(found, list):
        return [SchedulePoint(workflow=workflow, cycle=run.cycle, run=run) for run in found]
    reasons = SchedulePoint.Reason
    reason = reasons.OVERLAP if isinstance(found, Skipped) else reasons.FAULT
    return [
        SchedulePoint(workflow=workflow, cycle=cycle, reason=reason, note=str(found))
        for cycle in cycles
    ]


def _published(workflow: Workflow) -> WorkflowVersion:
    version = workflow.published
    assert version is not None  # noqa: S101 -- none is turned on without
    version.workflow = workflow
    return version


def _timetable(workflow: Workflow) -> Timetable:
    timetable = timetable_of(_published(workflow))
    assert timetable is not None  # noqa: S101 -- asked for only where `why_not_on` is silent
    return timetable


def _next(timetable: Timetable | None, now: datetime) -> datetime | None:
    return None if timetable is None else next(iter(timetable.following(now, 1)), None)


def _standing_holds(workflows: Sequence[Workflow]) -> dict[int, WorkspaceHold]:
    """By workflow, the oldest hold that keeps its schedule from starting it."""
    holds = standing_holds({workflow.workspace_id for workflow in workflows}).reverse()
    return {workflow.pk: hold for hold in holds for workflow in workflows if _keeps(hold, workflow)}


def _keeps(hold: WorkspaceHold, workflow: Workflow) -> bool:
    """Whether a hold is about a workflow's schedule: on its workspace, a tag, or its queue."""
    if hold.workspace_id != workflow.workspace_id:
        return False
    if hold.queue_id is not None:
        published = workflow.published
        return published is not None and published.graph["settings"]["queue"] == hold.queue_id
    return not hold.tag_key or hold.is_on_one_of(workflow.tags)
