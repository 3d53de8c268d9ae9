"""Wakes workers. A ring says "there is work on queue q" and no more.

Lost, doubled, late: it costs time, never truth; each worker also looks by itself every 2 s.

Workers that serve every resource queue listen to one queue of the broker; those that name some
listen to another one, which all with the same names share. Who rings knows from the workers'
rows where to; what it knows is at most 2 s old.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from celery import current_app
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction
from kombu.exceptions import OperationalError

from apps.engine.serving import EVERY_BELL, bells_for, read_names

log = logging.getLogger(__name__)

#: How old knowledge of who serves what may be.
_KNOWN_SECONDS = 2.0


def ring(bells: Mapping[int, int], *, passed: int = 0) -> None:
    """Wake `n` workers for each resource queue, at once. Outside a transaction only.

    `passed`: how many full workers have handed this bell on.
    """
    try:
        for queue_id, n in bells.items():
            for bell in _bells_of(queue_id):
                for _ in range(min(n, 2 * settings.WORKER_SLOTS)):  # who is woken wakes further
                    current_app.send_task(
                        "runs.execute", args=[queue_id, passed], queue=bell, ignore_result=True
                    )
    except (OperationalError, OSError) as error:
        log.warning("no ring: the broker does not answer (%s); workers look every 2 s", error)


def ring_after_commit(bells: Mapping[int, int]) -> None:
    """Wake workers once what they shall find is there to be found."""
    if bells:
        transaction.on_commit(lambda: ring(bells))


def queue_names() -> dict[int, str]:
    """Every resource queue by id, as `workspace/queue`."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT q.id, w.name || '/' || q.name FROM workspaces_resourcequeue q"
            " JOIN workspaces_workspace w ON w.id = q.workspace_id"
        )
        return dict(cursor.fetchall())


class _Known:
    """Who serves what, as it was read a moment ago."""

    def __init__(self) -> None:
        self._until = 0.0
        self._workers: list[tuple[str, ...]] = []
        #: Read only where a worker names queues.
        self._queues: dict[int, str] = {}
        self._lock = threading.Lock()

    def bells_of(self, queue_id: int) -> list[str]:
        """Where those listen that serve a resource queue; everywhere, where it cannot be read."""
        with self._lock:
            if time.monotonic() >= self._until:
                try:
                    self._read()
                except (DatabaseError, InterfaceError) as error:
                    log.warning("who serves which queue cannot be read: %s", str(error).strip())
                    return [EVERY_BELL]
            return bells_for(self._queues.get(queue_id), self._workers)

    def _read(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT DISTINCT queues FROM runs_worker"
                " WHERE seen_at >= clock_timestamp() - %s * interval '1 s'",
                [settings.LEASE_SECONDS],
            )
            self._workers = [read_names(queues) for (queues,) in cursor.fetchall()]
        self._queues = queue_names() if any(self._workers) else {}
        self._until = time.monotonic() + _KNOWN_SECONDS


_bells_of = _Known().bells_of
