"""What the broker's messages start. They carry ids only, and may be lost, late or doubled."""

from __future__ import annotations

from contextlib import closing

from celery import shared_task
from django.conf import settings
from django.db import connection

from apps.runs import worker
from apps.runs.services.prune import collect_bytes, prune


@shared_task(name="runs.execute")
def execute(queue_id: int, passed: int = 0) -> None:
    """There may be work in a resource queue."""
    if worker.current is not None:
        worker.current.ring(queue_id, passed)


@shared_task(name="runs.hear")
def hear() -> None:
    """A worker's message to itself; that it came is all there is to it (apps.runs.hearing)."""


@shared_task(name="runs.tick")
def tick() -> None:
    """Look around: expired leases, due retries, waiting work."""
    if worker.current is not None:
        worker.current.tick()


@shared_task(name="runs.prune")
def forget() -> None:
    """Remove some of what is older than the retention; the next ring goes on with the rest."""
    with closing(connection):
        prune(days=settings.RETENTION_DAYS, seconds=60)


@shared_task(name="runs.collect_bytes")
def collect() -> None:
    """Remove stored bytes that nothing names any more."""
    with closing(connection):
        collect_bytes()
