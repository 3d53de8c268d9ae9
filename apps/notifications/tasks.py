"""What the broker's messages start. They may be lost, late or doubled."""

from __future__ import annotations

from contextlib import closing

from celery import shared_task
from django.db import connection

from apps.notifications.services import tick as look
from apps.notifications.services.heartbeats import ring


@shared_task(name="notifications.tick")
def tick() -> None:
    """Look around: recovered workflows, mails that are due."""
    with closing(connection):
        look.tick()


@shared_task(name="notifications.heartbeat")
def heartbeat() -> None:
    """Call the heartbeat URLs that are due; apart from the tick, which waits for none of them."""
    with closing(connection):
        ring()


@shared_task(name="notifications.prune")
def forget() -> None:
    """Remove what is older than the retention."""
    with closing(connection):
        look.forget()
