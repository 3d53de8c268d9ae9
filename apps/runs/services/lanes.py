"""When a run may start: lanes, and one run of a cycle at a time.

At most so many of a lane's runs are under way at once, first come first served.

    lane = lane_of(workspace, "backfill 7", limit=3)
    launch(version, cycles=days, lane=lane, …)      # three start, the others wait in line

A run that ends makes room, and the next one starts: at once, by whoever ended it, and at the
latest with the next sweep. Of one workflow's runs of one cycle the later wait for the earlier,
whatever their lanes (`follow`). The lane's row is locked before any other, bar a workflow's: never
call these while holding the lock of a node run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from django.db import connection, transaction
from django.db.models import Count, Max, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from apps.core.errors import Invalid
from apps.engine.states import RunState, Trigger
from apps.runs.doorbell import ring_after_commit
from apps.runs.models import Lane, Run
from apps.runs.services.hot_path import call
from apps.workspaces.models import Workspace


@transaction.atomic
def lane_of(workspace: Workspace | int, owner: str, *, limit: int | None) -> Lane:
    """The lane of this owner with this limit; made where there is none, else set to it.

    `limit` is how many runs may be under way at once; None: as many as there are. A higher one
    lets runs start at once, a lower one ends none.

    Raises Invalid if the limit is not positive.
    """
    if limit is not None and limit < 1:
        raise Invalid("a lane that lets no run start is of no use; set 1 or more", "limit")
    pk = workspace if isinstance(workspace, int) else workspace.pk
    lane, _ = Lane.objects.get_or_create(workspace_id=pk, owner=owner, defaults={"limit": limit})
    changed = Lane.objects.filter(pk=lane.pk).exclude(
        Q(limit=limit) if limit is not None else Q(limit=None)
    )
    if changed.update(limit=limit):
        lane.limit = limit
        fill(lane.pk)
    return lane


def lanes_of(limits: Mapping[tuple[int, str], int]) -> dict[tuple[int, str], Lane]:
    """Lanes by workspace and owner, with these limits: made where there are none, all locked.

    As `lane_of` and `lock` for many, but what a higher limit lets start is for the caller to
    fill. In a transaction that has locked whose they are, so that nobody else makes one.
    """
    rows = Lane.objects.select_for_update(no_key=True).order_by("pk")
    found = rows.filter(
        workspace__in={workspace for workspace, _ in limits},
        owner__in=[owner for _, owner in limits],
    )
    lanes = {(lane.workspace_id, lane.owner): lane for lane in found}
    for key, lane in lanes.items():
        if limits.get(key, lane.limit) != lane.limit:
            lane.limit = limits[key]
            lane.save(update_fields=["limit"])
    made = Lane.objects.bulk_create(
        Lane(workspace_id=workspace, owner=owner, limit=limit)
        for (workspace, owner), limit in limits.items()
        if (workspace, owner) not in lanes
    )
    return lanes | {(lane.workspace_id, lane.owner): lane for lane in made}


@transaction.atomic(savepoint=False)
def fill(lane_id: int) -> None:
    """Let as many runs start as the lane has room for, the longest in line first.

    May be called twice, late, or at once. One that is paused, held, or waits for a run of its
    cycle keeps its place in line and lets others pass.
    """
    ring_after_commit(dict(call("SELECT runyard_fill(%s)", [lane_id])))


@transaction.atomic(savepoint=False)
def fill_all(lane_ids: Collection[int]) -> None:
    """As `fill`, for many lanes that the caller has locked."""
    if not lane_ids:
        return
    sql = "SELECT jsonb_agg(runyard_fill(lane)) FROM unnest(%s::bigint[]) AS lane"
    bells: Counter[int] = Counter()
    for found in call(sql, [sorted(lane_ids)]):
        bells.update(dict(found))
    ring_after_commit(bells)


def follow(run_id: int) -> None:
    """Let the runs go on that wait for this one, if it is over and no other is in their way.

    May be called twice, late, or at once; outside of a transaction that has locked a run.
    """
    with transaction.atomic():
        found = call("SELECT runyard_follow(%s)", [run_id])
        ring_after_commit(dict(found["bells"]))
    for lane_id in sorted(set(found["lanes"])):
        fill(lane_id)


def to_follow() -> list[int]:
    """Ids of the runs that are over and that another still waits for."""
    waiting = Run.objects.filter(waits_for__isnull=False, waits_for__ended_at__isnull=False)
    found = waiting.values_list("waits_for", flat=True).distinct()
    return sorted(pk for pk in found if pk is not None)


def earlier_of(cycles: Mapping[int, Collection[datetime]]) -> dict[int, dict[datetime, int]]:
    """By workflow and cycle, the newest run of it that is not over, debug runs aside; one query.

    What is found holds as long as the workflows' rows are locked, but for runs that end.
    """
    rows = Run.objects.filter(
        workflow__in=cycles.keys(),
        cycle__in={cycle for each in cycles.values() for cycle in each},
        state__in=[RunState.PENDING, RunState.RUNNING],
    ).exclude(trigger=Trigger.DEBUG)
    found: dict[int, dict[datetime, int]] = {pk: {} for pk in cycles}
    newest = rows.values("workflow", "cycle").annotate(last=Max("pk"))
    for workflow_id, cycle, last in newest.values_list("workflow", "cycle", "last"):
        found[workflow_id][cycle] = last
    return found


def lanes_to_fill() -> list[int]:
    """Ids of the lanes that have both room and a run in line; reads no line to its end."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH RECURSIVE line AS (
                (SELECT lane_id FROM runs_run WHERE waits
                  ORDER BY lane_id, id LIMIT 1)
                UNION ALL
                SELECT (SELECT lane_id FROM runs_run WHERE waits AND lane_id > line.lane_id
                         ORDER BY lane_id, id LIMIT 1)
                  FROM line WHERE line.lane_id IS NOT NULL
            )
            SELECT l.id FROM line JOIN runs_lane l ON l.id = line.lane_id
             WHERE l."limit" IS NULL
                OR l."limit" > (SELECT count(*) FROM runs_run r
                                 WHERE r.lane_id = l.id AND NOT r.waits
                                   AND r.state IN ('pending', 'running'))
             ORDER BY l.id
            """
        )
        return [pk for (pk,) in cursor.fetchall()]


def ahead(runs: Iterable[Run]) -> dict[int, int]:
    """How many runs are before each of these that waits in its lane's line, by its id.

    One query, and none where no run waits.
    """
    waiting = [run.pk for run in runs if run.waits and run.lane_id is not None]
    if not waiting:
        return {}
    before = Run.objects.filter(waits=True, lane=OuterRef("lane"), pk__lt=OuterRef("pk"))
    counted = before.order_by().values("lane").annotate(n=Count("pk")).values("n")
    found = Run.objects.filter(pk__in=waiting, waits=True)
    return dict(found.values_list("pk", Coalesce(Subquery(counted), 0)))


def lock(lane: Lane) -> None:
    """Hold the lane's row, so that runs that are made now stand in line by their ids."""
    Lane.objects.select_for_update(no_key=True).get(pk=lane.pk)
