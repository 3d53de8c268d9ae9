"""Wakes workers. A ring says "there is work on queue q" and no more.

Lost, doubled, late: it costs time, never truth; each worker also looks by itself every 2 s.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from celery import current_app
from django.conf import settings
from django.db import transaction
from kombu.exceptions import OperationalError

log = logging.getLogger(__name__)


def ring(bells: Mapping[int, int], *, passed: int = 0) -> None:
    """Wake `n` workers for each resource queue, at once. Outside a transaction only.

    `passed`: how many full workers have handed this bell on.
    """
    try:
        for queue_id, n in bells.items():
            for _ in range(min(n, 2 * settings.WORKER_SLOTS)):  # who is woken wakes further
                current_app.send_task("runs.execute", args=[queue_id, passed], ignore_result=True)
    except (OperationalError, OSError) as error:
        log.warning("no ring: the broker does not answer (%s); workers look every 2 s", error)


def ring_after_commit(bells: Mapping[int, int]) -> None:
    """Wake workers once what they shall find is there to be found."""
    if bells:
        transaction.on_commit(lambda: ring(bells))
