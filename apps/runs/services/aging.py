"""Aging: what waits long rises, so that no stream of higher priorities starves it.

Of each queue, flow and priority only the first in line rises. Were all to rise, a backlog of an
old flow would stand before every newcomer, and flows would no longer take turns.
"""

from __future__ import annotations

from datetime import timedelta

from django.db import connection, transaction
from django.db.models.functions import Now

from apps.engine.gates import RISES_AFTER_SECONDS
from apps.engine.priority import Priority
from apps.runs.models import Pulse

#: How often it is looked.
EVERY = timedelta(minutes=1)


def age() -> int:
    """Let the first in each line rise by a level if it is due; how many did.

    It takes the turn of that level's head: beside it, and before it by the time it has waited.
    Does something once a minute, whoever calls and how often. A node that is taken or moved
    at this moment is passed by. Once a node is queued anew its level is its priority again.
    """
    Pulse.objects.get_or_create(name="aging", defaults={"at": Now() - EVERY})
    if not Pulse.objects.filter(name="aging", at__lte=Now() - EVERY).update(at=Now()):
        return 0
    return _raise_first()


@transaction.atomic
def _raise_first() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH first AS (
                SELECT DISTINCT ON (queue_id, flow, priority)
                       id, level, queued_at + %(step)s::interval * (level - priority + 1) AS due_at
                  FROM runs_noderun WHERE state = 'queued'
                 ORDER BY queue_id, flow, priority, level DESC, turn, queued_at
            )
            SELECT id FROM runs_noderun
             WHERE state = 'queued'
               AND id IN (SELECT id FROM first
                           WHERE level < %(highest)s AND due_at <= clock_timestamp())
             ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
            """,
            {"step": f"{RISES_AFTER_SECONDS} s", "highest": Priority.HIGHEST},
        )
        due = [pk for (pk,) in cursor.fetchall()]
        cursor.execute(
            """
            UPDATE runs_noderun AS node
               SET level = level + 1,
                   turn = coalesce((SELECT head.turn FROM runs_noderun head
                                     WHERE head.state = 'queued'
                                       AND head.queue_id = node.queue_id
                                       AND head.level = node.level + 1
                                     ORDER BY head.queue_id, head.level DESC, head.turn,
                                              head.queued_at
                                     LIMIT 1), 0)
             WHERE id = ANY(%s) AND state = 'queued'
            """,
            [due],
        )
        return int(cursor.rowcount)
