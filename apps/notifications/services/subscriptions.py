"""Who is told when a workflow fails."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import transaction

from apps.core.errors import NotFound
from apps.notifications.addresses import check_addresses
from apps.notifications.models import Subscription
from apps.workflows.models import Workflow


def addresses_of(workflow: Workflow) -> list[str]:
    rows = Subscription.objects.filter(workflow=workflow).order_by("pk")
    return list(rows.values_list("address", flat=True))


@transaction.atomic
def subscribe(workflow: Workflow, addresses: Sequence[str]) -> list[str]:
    """Let these addresses be told in place of those there were; what is kept of them.

    It counts at once. Raises Invalid with every fault, NotFound if the workflow was deleted.
    """
    kept = check_addresses(addresses)
    row = Workflow.objects.select_for_update(no_key=True).get(pk=workflow.pk)
    if row.deleted_at is not None:
        raise NotFound(f"workflow {row.name!r} was deleted")
    Subscription.objects.filter(workflow=row).delete()
    Subscription.objects.bulk_create(Subscription(workflow=row, address=each) for each in kept)
    return kept
