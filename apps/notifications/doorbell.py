"""Wakes a worker for a mail that has just been written.

Lost, doubled, late: it costs time, never a mail; the beat lets one look every 5 s anyhow.
"""

from __future__ import annotations

import logging

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

log = logging.getLogger(__name__)


def ring_after_commit() -> None:
    """Let a worker look into the outbox once what it shall find is there to be found."""
    transaction.on_commit(_ring)


def _ring() -> None:
    try:
        current_app.send_task("notifications.tick", ignore_result=True)
    except (OperationalError, OSError) as error:
        log.warning("no ring: the broker does not answer (%s); mail goes with the beat", error)
