"""Lanes: when a run may start. At most so many of a lane's runs at once, first come first served.

    lane = lane_of(workspace, "backfill 7", limit=3)
    launch(version, cycles=days, lane=lane, …)      # three start, the others wait in line

A run that ends makes room, and the next one starts: at once, by whoever ended it, and at the
latest with the next sweep. The lane's row is locked before any other, bar a workflow's: never
call these while holding the lock of a node run.
"""

from __future__ import annotations

import json

from django.db import connection, transaction
from django.db.models import Case, Count, Expression, OuterRef, Q, Subquery, When
from django.db.models.functions import Coalesce

from apps.core.errors import Invalid
from apps.runs.doorbell import ring_after_commit
from apps.runs.models import Lane, Run
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


@transaction.atomic
def fill(lane_id: int) -> None:
    """Let as many runs start as the lane has room for, the longest in line first.

    May be called twice, late, or at once. One that is paused or held keeps its place in line and
    lets others pass.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT runyard_fill(%s)", [lane_id])
        found = cursor.fetchone()[0]
    ring_after_commit(dict(json.loads(found) if isinstance(found, str) else found))


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


def ahead() -> Expression:
    """How many runs are before one that waits in its lane's line; None for one that does not."""
    before = Run.objects.filter(waits=True, lane=OuterRef("lane"), pk__lt=OuterRef("pk"))
    counted = before.order_by().values("lane").annotate(n=Count("pk")).values("n")
    return Case(When(waits=True, then=Coalesce(Subquery(counted), 0)), default=None)


def lock(lane: Lane) -> None:
    """Hold the lane's row, so that runs that are made now stand in line by their ids."""
    Lane.objects.select_for_update(no_key=True).get(pk=lane.pk)
