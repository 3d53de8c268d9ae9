"""What the broker's messages start. They carry ids only, and may be lost, late or doubled."""

from __future__ import annotations

from celery import shared_task

from apps.runs import worker


@shared_task(name="runs.execute")
def execute(queue_id: int, passed: int = 0) -> None:
    """There may be work in a resource queue."""
    if worker.current is not None:
        worker.current.ring(queue_id, passed)


@shared_task(name="runs.tick")
def tick() -> None:
    """Look around: expired leases, due retries, waiting work."""
    if worker.current is not None:
        worker.current.tick()
