"""Incidents: a workflow that fails is one, however many of its nodes and runs fail.

It opens at the first node that has failed for good, counts what fails meanwhile, and is over
with the next run that succeeds. Both are told once to each address that is subscribed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Exists, F, Max, OuterRef, Q, QuerySet
from django.db.models.functions import Greatest, Now

from apps.core.errors import Conflict
from apps.engine.states import NodeState, RunState, Trigger
from apps.notifications.letters import letter_opened, letter_recovered
from apps.notifications.models import Delivery, DeliveryStatus, FailedRun, Incident, Kind, Silence
from apps.notifications.services.backfills import backfill_of, tell_failed_cycle
from apps.notifications.services.one_by_one import alone
from apps.notifications.services.outbox import post
from apps.notifications.services.subscriptions import addresses_of
from apps.runs.models import Attempt, NodeRun, Run, RunEvent
from apps.runs.services.endings import when_failed
from apps.workspaces.models import User

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Failure:
    """How a run stands that has failed, or is about to."""

    #: Columns of an Incident: the first failure.
    first: dict[str, Any]
    #: End of the newest.
    newest: datetime


@when_failed("incidents")
@transaction.atomic
def note_failure(run_id: int) -> None:
    """Open an incident for a run's failures, or count the run in the one that is open.

    A backfill's run does neither: the backfill tells of it.

    Safe to double: a failure that was counted is not counted again, recovered since or not.
    """
    rows = Run.objects.select_related("workspace", "workflow")
    run = rows.filter(pk=run_id, workflow__deleted_at=None).first()
    failure = _failure_of(run) if run is not None else None
    if run is None or run.workflow is None or failure is None:
        return  # it is forgotten, or runs again by now
    workflow = run.workflow
    if run.trigger == Trigger.BACKFILL and (backfill := backfill_of(run)) is not None:
        tell_failed_cycle(backfill, run, Incident(run_id=run.pk, **failure.first))
        return
    Incident.objects.bulk_create(
        [
            Incident(
                workspace=run.workspace,
                workflow=workflow,
                name=run.name,
                run_id=run.pk,
                failed_at=failure.newest,
                **failure.first,
            )
        ]
        if not FailedRun.objects.filter(pk=run_id, failed_at__gte=failure.newest).exists()
        else [],
        ignore_conflicts=True,  # one is open
    )
    opened = Incident.objects.select_for_update(no_key=True, of=("self",))
    incident = opened.filter(workflow=workflow, recovered_at=None).first()
    if incident is None:
        return
    counted = FailedRun.objects.filter(pk=run_id).first()
    if counted is not None and counted.failed_at >= failure.newest:
        return
    FailedRun.objects.update_or_create(
        pk=run_id, defaults={"incident": incident, "failed_at": failure.newest}
    )
    is_another = counted is None or counted.incident_id != incident.pk
    Incident.objects.filter(pk=incident.pk).update(
        runs=F("runs") + int(is_another), failed_at=Greatest("failed_at", failure.newest)
    )
    if incident.runs == 0:
        incident.workspace, incident.workflow = run.workspace, workflow
        post(
            run.workspace,
            letter_opened(incident),
            addresses_of(workflow),
            kind=Kind.OPENED,
            event=f"incident {incident.pk} opened",
            incident=incident,
        )


def _failure_of(run: Run) -> _Failure | None:
    """None: nothing of it has failed, as it stands now."""
    failed = NodeRun.objects.filter(run=run.pk, state=NodeState.FAILED)
    ended = failed.order_by("ended_at", "pk")
    node, newest = ended.first(), failed.aggregate(at=Max("ended_at"))["at"]
    if node is None or newest is None:
        if run.state != RunState.FAILED or run.ended_at is None:
            return None
        notes = RunEvent.objects.filter(run=run.pk, new=NodeState.CANCELLED).exclude(note="")
        why = notes.order_by("-pk").values_list("note", flat=True).first() or ""
        return _Failure({"reason": why, "opened_at": run.ended_at}, run.ended_at)
    first = {"node": node.key, "node_run_id": node.pk, "reason": node.reason}
    attempt = Attempt.objects.filter(node_run=node.pk, number=node.attempt).first()
    # One that failed in its queue, without having run, has no attempt to show.
    if attempt is not None and attempt.ended_at is not None:
        first |= {
            "attempt": attempt.number,
            "error_line": attempt.error_line,
            "log_line": line_in_log(attempt),
        }
    return _Failure({**first, "opened_at": node.ended_at}, newest)


def line_in_log(attempt: Attempt) -> int | None:
    """Number of the line that says why it failed, from 1; None where it is not near the end."""
    lines = attempt.log_tail.removesuffix("\n").split("\n")
    sought = attempt.error_line.rstrip("…")
    for after, line in enumerate(reversed(lines)):
        if sought and sought in line and after < attempt.log_lines:
            return attempt.log_lines - after
    return None


def recover() -> None:
    """End each open incident whose workflow has succeeded since, or is deleted."""
    mine = OuterRef(OuterRef(OuterRef("pk")))  # asked for within two more queries
    succeeded = _recoveries(OuterRef("workflow"), OuterRef("failed_at"), mine)
    is_open = Incident.objects.filter(recovered_at=None)
    is_open.filter(workflow__deleted_at__isnull=False).update(recovered_at=Now())
    for pk in is_open.filter(Exists(succeeded)).order_by("pk").values_list("pk", flat=True)[:200]:
        with alone(f"the recovery of incident {pk}"):
            _recover(pk)


def _recoveries(workflow: Any, failed_at: Any, incident: Any) -> QuerySet[Run]:
    """Runs that end an incident: a backfill's says nothing of today, unless it has run a cycle
    that had failed."""
    counted = FailedRun.objects.filter(incident=incident).values("run_id")
    failed_cycles = Run.objects.filter(pk__in=counted).values("cycle")
    runs = Run.objects.filter(workflow=workflow, state=RunState.SUCCEEDED, ended_at__gt=failed_at)
    runs = runs.exclude(trigger=Trigger.DEBUG)
    return runs.filter(~Q(trigger=Trigger.BACKFILL) | Q(cycle__in=failed_cycles))


def _recover(pk: int) -> None:
    rows = Incident.objects.select_for_update(no_key=True, of=("self",))
    rows = rows.select_related("workspace", "workflow")
    incident = rows.filter(pk=pk, recovered_at=None).first()
    if incident is None:
        return
    # Once more, now that no failure can be counted beside this.
    run = _recoveries(incident.workflow_id, incident.failed_at, pk).order_by("ended_at").first()
    if run is None:
        return
    incident.recovered_at, incident.recovered_by = run.ended_at, run.pk
    Incident.objects.filter(pk=pk).update(recovered_at=run.ended_at, recovered_by=run.pk)
    # Who was told that it opened, and still wants to hear of it.
    told = dict(
        Delivery.objects.filter(
            incident=pk, kind=Kind.OPENED, address__in=addresses_of(incident.workflow)
        )
        .exclude(status=DeliveryStatus.SILENCED)
        .order_by("pk")
        .values_list("address", "message_id")
    )
    post(
        incident.workspace,
        letter_recovered(incident),
        list(told),
        kind=Kind.RECOVERED,
        event=f"incident {pk} recovered",
        incident=incident,
        in_reply_to=told,
    )


def end_silences() -> None:
    """Note each silence that is over; what has failed meanwhile and still does is told once."""
    over = Silence.objects.filter(ended_at=None, until__lte=Now()).order_by("until", "pk")
    for pk, workflow_id in over.values_list("pk", "workflow")[:200]:
        with alone(f"the end of silence {pk}"):
            _end_silence(pk, workflow_id)


def _end_silence(pk: int, workflow_id: int) -> None:
    # The incident first, as who tells of a failure has it when it asks for the silence.
    rows = Incident.objects.select_for_update(no_key=True, of=("self",))
    rows = rows.select_related("workspace", "workflow")
    incident = rows.filter(workflow=workflow_id, recovered_at=None).first()
    over = Silence.objects.select_for_update(no_key=True, of=("self",))
    over = over.select_related("created_by").filter(ended_at=None, until__lte=Now())
    silence = over.filter(pk=pk).first()
    if silence is None:
        return
    Silence.objects.filter(pk=pk).update(ended_at=Now())
    if incident is None or incident.workflow.deleted_at is not None:
        return
    failed = FailedRun.objects.filter(
        incident=incident, failed_at__gt=silence.created_at, failed_at__lte=silence.until
    )
    sent = Delivery.objects.filter(incident=incident, kind=Kind.OPENED)
    sent = sent.exclude(status=DeliveryStatus.SILENCED).order_by("pk")
    if not failed.exists() or sent.filter(created_at__gt=silence.created_at).exists():
        return  # nothing new, or it was told as the time was up
    post(
        incident.workspace,
        letter_opened(incident, silence),
        addresses_of(incident.workflow),
        kind=Kind.OPENED,
        event=f"incident {incident.pk} after silence {pk}",
        incident=incident,
        in_reply_to=dict(sent.values_list("address", "message_id")),
    )


def acknowledge(incident: Incident, *, user: User) -> None:
    """Note that somebody looks after an open incident. Raises Conflict if it is over."""
    mine = Incident.objects.filter(pk=incident.pk, recovered_at=None)
    if mine.filter(acknowledged_at=None).update(acknowledged_by=user, acknowledged_at=Now()):
        return
    if not mine.exists():
        raise Conflict(f"{incident.name} has recovered; there is nothing to acknowledge")
