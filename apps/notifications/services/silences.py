"""Silence: nobody is told of a workflow for a while, and what still fails is told afterwards.

    silence(workflow, minutes=240, reason="the warehouse is down", user=user)

What is told of it meanwhile is written and not sent. Who tells what is over: `services.incidents`.
"""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from apps.core.errors import Invalid, NotFound
from apps.notifications.doorbell import ring_after_commit
from apps.notifications.models import Silence
from apps.workflows.models import Workflow
from apps.workspaces.models import User

#: 30 days. Longer, and nobody would remember it.
MOST_MINUTES = 30 * 24 * 60
MAX_REASON = 200


@transaction.atomic
def silence(workflow: Workflow, *, minutes: int, reason: str, user: User | None) -> Silence:
    """Tell nobody of a workflow for so long from now on; in place of the silence that stands.

    Raises Invalid with what is wrong, NotFound if the workflow was deleted.
    """
    if not 1 <= minutes <= MOST_MINUTES:
        raise Invalid(f"silence it for 1 to {MOST_MINUTES:,} minutes", "minutes")
    reason = " ".join(reason.replace("\0", "").split())
    if len(reason) > MAX_REASON:
        raise Invalid(f"the reason has more than {MAX_REASON} characters", "reason")
    row = Workflow.objects.select_for_update(no_key=True).get(pk=workflow.pk)
    if row.deleted_at is not None:
        raise NotFound(f"workflow {row.name!r} was deleted")
    until = Now() + timedelta(minutes=minutes)
    # One whose time was up a moment ago goes on, so that what failed in it is still told.
    standing = Silence.objects.filter(workflow=row, ended_at=None)
    if not standing.update(until=until, reason=reason, created_by=user, ended_by=None):
        Silence.objects.create(
            workspace_id=row.workspace_id,
            workflow=row,
            until=until,
            reason=reason,
            created_by=user,
        )
    return standing.get()


def unsilence(workflow: Workflow, *, user: User | None) -> bool:
    """End the silence that stands; False: there was none. What still fails is told at once."""
    ring_after_commit()
    return bool(standing_of(workflow.pk).update(until=Now(), ended_by=user))


def standing_of(workflow_id: int) -> QuerySet[Silence]:
    """The silence of a workflow that stands now, if one does."""
    rows: QuerySet[Silence] = Silence.objects.filter(workflow=workflow_id)
    return rows.filter(ended_at=None, until__gt=Now())
