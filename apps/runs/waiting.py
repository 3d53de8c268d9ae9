"""How things stand around runs and queues, for `engine.waiting`, which says why they wait.

A few reads by the partial indexes, as many whatever the size of a run and of a backlog. Times
are the database's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import connection
from django.db.models import Q
from django.db.models.functions import Coalesce

from apps.engine.serving import read_names
from apps.engine.states import RUN_ENDED, Hold, NodeState, RunState
from apps.engine.waiting import (
    AHEAD,
    Asked,
    Code,
    EngineStanding,
    HoldStanding,
    Kind,
    LaneStanding,
    NodeStanding,
    Place,
    QueueStanding,
    Reason,
    RunStanding,
    SameCycleStanding,
    ScheduleStanding,
    Snapshot,
    Thing,
    Waiting,
    WorkerStanding,
    why,
    why_in_line,
    why_not_due,
)
from apps.runs.models import NodeRun, Run, RunEvent
from apps.runs.services.scheduling import database_clock, standing_hold
from apps.workflows.models import Schedule, Workflow
from apps.workspaces.models import User, WorkspaceHold
from apps.workspaces.selectors import holds_on_tags

#: As far as a claim looks (hot_path.sql).
LINE = 50
#: Of those that hold a queue's capacity, so many are named in a sentence, and on its page.
HOLDERS = 3
ALL_HOLDERS = 50

_READ = (
    "key",
    "state",
    "queue_id",
    "demand",
    "down",
    "outside",
    "attempt",
    "queued_at",
    "queue_timeout_seconds",
    "retry_at",
    "reason",
    "stop",
    "worker",
    "lease_until",
    "run_id",
)


def waiting_of(run: Run, nodes: Iterable[NodeRun] | None = None) -> Waiting:
    """Why a run and its nodes wait. `nodes`: all of them, by id, where they were read before.

    One query for a run under way, two more where a node is queued, one where a stop or a pause
    was asked for, or the run waits for another; none for a run that is over.
    """
    rows = list(run.nodes.only(*_READ).order_by("pk") if nodes is None else nodes)
    over = run.state in RUN_ENDED
    now, engine = (run.created_at, EngineStanding()) if over else engine_standing()
    queued = {row.queue_id for row in rows if row.state == NodeState.QUEUED}
    queues = {int(each.queue.id): each for each in queue_standings(() if over else queued)}
    asked = _asked(run, rows)
    snapshot = Snapshot(
        now=now,
        run=RunStanding(
            _run(run.pk, run.name),
            RunState(run.state),
            Hold(run.hold),
            asked.get(None, Asked()),
            None if over or not run.held else _tag_hold(run),
            None if over or not run.waits or run.waits_for_id else _lane(run),
            None if over or not run.waits_for_id else _same_cycle(run),
            run.parallelism,
        ),
        nodes=tuple(_node(row, asked) for row in rows),
        queues=queues,
        engine=engine,
    )
    return why(snapshot)


def line_of(queue_id: int) -> tuple[QueueStanding, list[tuple[Place, Reason]]]:
    """How a queue stands, and why each of the first in its line waits; three queries."""
    now, engine = engine_standing()
    [queue] = queue_standings([queue_id], whole=True)
    return queue, why_in_line(queue, engine, now=now)


def heads_of(queue_ids: Collection[int]) -> dict[int, Reason]:
    """Why the first in line of each of these queues waits; three queries."""
    if not queue_ids:
        return {}
    now, engine = engine_standing()
    found = {}
    for queue in queue_standings(queue_ids, whole=True):
        for _, reason in why_in_line(replace(queue, line=queue.line[:1]), engine, now=now):
            found[int(queue.queue.id)] = reason
    return found


def _run(pk: int, name: str) -> Thing:
    return Thing(Kind.RUN, pk, f"run {pk} of {name}")


def _node(row: NodeRun, asked: dict[int | None, Asked]) -> NodeStanding:
    return NodeStanding(
        node=Thing(Kind.NODE, row.pk, row.key, run=row.run_id),
        state=NodeState(row.state),
        queue=row.queue_id,
        demand=row.demand,
        down=tuple(row.down),
        outside=row.outside,
        attempt=row.attempt,
        queued_at=row.queued_at,
        queued_until=_queued_until(row),
        retry_at=row.retry_at,
        said=row.reason,
        stop=asked.get(row.pk, Asked()) if row.stop else None,
        worker=Thing(Kind.WORKER, row.worker, row.worker) if row.worker else None,
        lease_until=row.lease_until,
    )


def _queued_until(row: NodeRun) -> datetime | None:
    if row.queued_at is None or row.queue_timeout_seconds is None:
        return None
    return row.queued_at + timedelta(seconds=row.queue_timeout_seconds)


def _asked(run: Run, rows: Iterable[NodeRun]) -> dict[int | None, Asked]:
    """Who asked for a stop or a pause, of the run (None) and by node run; the newest of each."""
    stopping = [row.pk for row in rows if row.stop]
    if run.state in RUN_ENDED or not (run.hold or stopping):
        return {}
    found: dict[int | None, Asked] = {}
    # What was told of the run as a whole, and the stops asked of its nodes.
    told = RunEvent.objects.filter(run=run.pk, old="", new="").select_related("user")
    for event in told.order_by("-pk")[: 20 + len(stopping)]:
        if event.node_run_id is None and not _is_about(event, Hold(run.hold)):
            continue
        found.setdefault(event.node_run_id, Asked(_person(event.user), event.at, event.note))
    for pk in stopping:  # with the whole run
        found.setdefault(pk, found.get(None, Asked()))
    return found


def _is_about(event: RunEvent, hold: Hold) -> bool:
    """Whether an event of the whole run says why it is held now."""
    words = {Hold.PAUSED: "paused", Hold.STOPPED: "stopped"}
    return event.note == words[hold] if hold in words else event.user_id is None


def _person(user: User | None) -> Thing | None:
    return None if user is None else Thing(Kind.PERSON, user.pk, user.username)


def _tag_hold(run: Run) -> HoldStanding | None:
    """The oldest hold on a tag of a run's workflow."""
    tags = Workflow.objects.filter(runs=run.pk).values_list("tags", flat=True).first()
    holds = holds_on_tags(run.workspace_id, tags or {})
    return _hold(holds[0]) if holds else None


def _same_cycle(run: Run) -> SameCycleStanding | None:
    """The run of the same cycle that a run waits for; one query."""
    rows = Run.objects.filter(followers=run.pk)
    row = rows.values_list("pk", "name", "cycle", "workspace__zone").first()
    if row is None:
        return None
    pk, name, cycle, zone = row
    return SameCycleStanding(_run(pk, name), cycle.astimezone(ZoneInfo(zone)))


def _lane(run: Run) -> LaneStanding | None:
    """The lane in whose line a run stands; one query. None if it has just left it."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT l."limit", l.owner, place.many, place.id, place.name,
                   (SELECT count(*) FROM (SELECT FROM runs_run
                                           WHERE lane_id = l.id AND waits AND id < me.id
                                           LIMIT %s) AS earlier)
              FROM runs_run me
              JOIN runs_lane l ON l.id = me.lane_id
              LEFT JOIN LATERAL (
                  SELECT id, name, count(*) OVER () AS many FROM runs_run
                   WHERE lane_id = l.id AND state IN ('pending', 'running') AND NOT waits
                   ORDER BY id LIMIT %s
              ) AS place ON true
             WHERE me.id = %s AND me.waits
             ORDER BY place.id
            """,
            [AHEAD, HOLDERS, run.pk],
        )
        rows = cursor.fetchall()
    if not rows:
        return None
    limit, owner, holding, *_, ahead = rows[0]
    holders = tuple(_run(pk, name) for *_, pk, name, _ in rows if pk is not None)
    is_overlap = owner == f"workflow {run.workflow_id}"
    return LaneStanding(limit, holders, holding or 0, ahead, is_overlap, owner)


def _hold(row: WorkspaceHold) -> HoldStanding:
    code = Code.HELD_QUEUE if row.queue_id else Code.HELD_TAG if row.tag_key else None
    return HoldStanding(
        Thing(Kind.HOLD, row.pk, str(row)),
        code or Code.HELD_WORKSPACE,
        Asked(_person(row.created_by), row.created_at, row.reason),
    )


def _shut_by(queue_ids: Collection[int]) -> dict[int, HoldStanding]:
    """What holds these queues, one each: the whole workspace's before the queue's own."""
    rows = WorkspaceHold.objects.filter(
        Q(queue__in=queue_ids) | Q(queue=None, workspace__queues__in=queue_ids),
        released_at=None,
        tag_key="",
    )
    found: dict[int, HoldStanding] = {}
    rows = rows.annotate(shut=Coalesce("queue_id", "workspace__queues"))
    for row in rows.select_related("workspace", "queue", "created_by").order_by("queue_id"):
        found[row.shut] = _hold(row)
    return found


# --- the engine and its queues --------------------------------------------------------------


def engine_standing() -> tuple[datetime, EngineStanding]:
    """The database's time, the pulse, and the workers that showed life within a lease."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT clock_timestamp(), pulse.at, pulse.grace_until, w.name, w.slots, w.busy,
                   w.queues
              FROM (SELECT 1) AS one
              LEFT JOIN runs_pulse pulse ON pulse.name = 'tick'
              LEFT JOIN LATERAL (
                  SELECT name, slots, queues,
                         (SELECT count(*) FROM runs_noderun n
                                        WHERE n.state = 'running' AND n.worker = live.name) AS busy
                    FROM runs_worker live
                   WHERE seen_at >= clock_timestamp() - %s * interval '1 s'
              ) AS w ON true
             ORDER BY w.name
            """,
            [settings.LEASE_SECONDS],
        )
        rows = cursor.fetchall()
    now, pulse_at, grace_until = rows[0][:3]
    workers = tuple(
        WorkerStanding(Thing(Kind.WORKER, name, name), slots, busy, read_names(queues))
        for *_, name, slots, busy, queues in rows
        if name is not None
    )
    return now, EngineStanding(
        workers, pulse_at, grace_until, timedelta(seconds=settings.LEASE_SECONDS)
    )


def queue_standings(queue_ids: Collection[int], *, whole: bool = False) -> list[QueueStanding]:
    """How queues stand; two queries, and one where a queue is held; none for no queue.

    Each with the first of its line, as far as a claim looks. `whole` is for the queue's own
    page: more of those that run, and in the line also what asks for more than the capacity,
    which no claim takes.
    """
    if not queue_ids:
        return []
    ids = list(queue_ids)
    lines: dict[int, list[Place]] = defaultdict(list)
    holders: dict[int, list[Place]] = defaultdict(list)
    holding: dict[int, int] = {}
    heads: dict[int, tuple[str, str, int, int, bool]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT q.id, q.name, w.name || '/' || q.name, q.capacity, q.used, q.held,
                   n.id, n.key, n.run_id, r.name, n.demand, n.queued_at
              FROM workspaces_resourcequeue q
              JOIN workspaces_workspace w ON w.id = q.workspace_id
              LEFT JOIN LATERAL (
                  SELECT id, key, run_id, demand, queued_at, level, turn FROM runs_noderun
                   WHERE state = 'queued' AND queue_id = q.id AND (%s OR demand <= q.capacity)
                   ORDER BY queue_id, level DESC, turn, queued_at LIMIT %s
              ) AS n ON true
              LEFT JOIN runs_run r ON r.id = n.run_id
             WHERE q.id = ANY (%s)
             ORDER BY q.id, n.level DESC, n.turn, n.queued_at
            """,
            [whole, LINE, ids],
        )
        for queue, name, path, capacity, used, held, pk, *place in cursor.fetchall():
            heads[queue] = (name, path, capacity, used, held)
            if pk is not None:
                lines[queue].append(_place(pk, *place))
        cursor.execute(
            """
            SELECT h.queue_id, h.many, h.id, h.key, h.run_id, r.name, h.demand, h.started_at
              FROM (SELECT id, key, run_id, queue_id, demand, started_at,
                           count(*) OVER (PARTITION BY queue_id) AS many,
                           row_number() OVER (PARTITION BY queue_id
                                              ORDER BY demand DESC, started_at, id) AS place
                      FROM runs_noderun
                     WHERE state = 'running' AND queue_id = ANY (%s)) AS h
              JOIN runs_run r ON r.id = h.run_id
             WHERE h.place <= %s
             ORDER BY h.queue_id, h.place
            """,
            [ids, ALL_HOLDERS if whole else HOLDERS],
        )
        for queue, many, *place in cursor.fetchall():
            holding[queue] = many
            holders[queue].append(_place(*place))
    shut = [pk for pk, (*_, held) in heads.items() if held]
    holds = _shut_by(shut) if shut else {}
    return [
        QueueStanding(
            queue=Thing(Kind.QUEUE, pk, name),
            capacity=capacity,
            used=used,
            path=path,
            holders=tuple(holders[pk]),
            holding=holding.get(pk, 0),
            hold=holds.get(pk),
            line=tuple(lines[pk]),
        )
        for pk, (name, path, capacity, used, _) in heads.items()
    ]


def _place(pk: int, key: str, run: int, name: str, demand: int, since: datetime | None) -> Place:
    return Place(Thing(Kind.NODE, pk, key, run=run), _run(run, name), demand, since)


def why_schedule_waits(workflow: Workflow) -> Reason | None:
    """Why a workflow whose published version has a schedule is not started by it, or None."""
    schedule = Schedule.objects.filter(workflow=workflow).select_related("changed_by").first()
    of = Thing(Kind.WORKFLOW, workflow.pk, workflow.name)
    standing = ScheduleStanding(of, on=False)
    if schedule is not None:
        hold = standing_hold(workflow) if schedule.on else None
        asked = Asked(_person(schedule.changed_by), schedule.changed_at)
        standing = ScheduleStanding(of, schedule.on, asked, _hold(hold) if hold else None)
    return why_not_due(standing, now=database_clock())
