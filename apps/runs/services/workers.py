"""Which workers there are: for people, who want to know why nothing starts."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db.models import QuerySet
from django.db.models.functions import Now

from apps.runs.models import Worker


def show_life(name: str, *, host: str, slots: int, queues: str = "", why_trusted: str) -> None:
    """Say that a worker lives; several times within `SILENT`. Forgets those long gone."""
    Worker.objects.bulk_create(
        [
            Worker(
                name=name,
                host=host,
                slots=slots,
                queues=queues,
                why_trusted=why_trusted,
                seen_at=Now(),
            )
        ],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["seen_at"],
    )
    Worker.objects.filter(seen_at__lt=Now() - timedelta(days=1)).delete()


def leave(name: str) -> None:
    """A worker ends as it should."""
    Worker.objects.filter(name=name).delete()


def living() -> QuerySet[Worker]:
    """The workers that showed life within a lease."""
    silent = timedelta(seconds=settings.LEASE_SECONDS)
    return Worker.objects.filter(seen_at__gte=Now() - silent).order_by("name")
