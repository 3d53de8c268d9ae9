"""What is told of a backfill: its first cycle that failed, and its end.

It opens no incident: past cycles that fail are no sign that the workflow does. Its own addresses
are told, or else whom the workflow tells.
"""

from __future__ import annotations

from datetime import timedelta

from django.db.models import CharField, Exists, OuterRef, QuerySet, Value
from django.db.models.functions import Cast, Concat, Now

from apps.engine.backfill import Counts
from apps.notifications.letters import (
    Letter,
    Notice,
    letter_of,
    local,
    path_of_backfill,
    path_of_log,
    path_of_run,
)
from apps.notifications.models import Delivery, Incident, Kind
from apps.notifications.services.one_by_one import alone
from apps.notifications.services.outbox import post
from apps.notifications.services.subscriptions import addresses_of, addresses_of_all
from apps.runs.models import Backfill, Run
from apps.runs.services.feeding import counts_of

#: An end that nobody was told of for so long is past.
PAST = timedelta(days=1)
_FOOT = "You get it because your address is in this backfill's Failure Notification, or it has none"
_OR_ELSE = "and you are told of the workflow's failures."


def backfill_of(run: Run) -> Backfill | None:
    """The backfill that a run is of."""
    rows = Backfill.objects.select_related("workspace", "workflow")
    return rows.filter(cycles__run=run.pk).first()


def tell_failed_cycle(backfill: Backfill, run: Run, failure: Incident) -> None:
    """Tell of a cycle that failed, once: the first, or where that told nobody, the first that does.

    `failure` is in no table: what failed first in the run.
    """
    event = _first_failure(backfill)
    addresses = backfill.addresses or addresses_of(backfill.workflow)
    if not addresses or Delivery.objects.filter(event=event).exists():
        return
    # One after the other: two cycles may fail at once.
    Backfill.objects.select_for_update(no_key=True).get(pk=backfill.pk)
    if Delivery.objects.filter(event=event).exists():
        return
    post(
        backfill.workspace,
        _letter_failed(backfill, run, failure),
        addresses,
        kind=Kind.BACKFILL,
        event=event,
        workflow_id=backfill.workflow_id,
    )


def tell_ends() -> None:
    """Tell of each backfill that has come to its end since, with how its cycles ended."""
    ended = list(_ended().select_related("workspace", "workflow", "cancelled_by").order_by("-pk"))
    if not ended:
        return
    told = addresses_of_all({each.workflow for each in ended})
    to_tell = [each for each in ended if each.addresses or told[each.workflow_id]]
    counts = counts_of(to_tell)
    for each in to_tell:
        with alone(f"the end of backfill {each.pk}"):
            _tell_end(each, counts[each.pk], each.addresses or told[each.workflow_id])


def _tell_end(backfill: Backfill, counts: Counts, addresses: list[str]) -> None:
    first = Delivery.objects.filter(event=_first_failure(backfill))
    post(
        backfill.workspace,
        _letter_over(backfill, counts),
        addresses,
        kind=Kind.BACKFILL,
        event=f"backfill {backfill.pk} over",
        workflow_id=backfill.workflow_id,
        in_reply_to=dict(first.values_list("address", "message_id")),
    )


def _ended() -> QuerySet[Backfill]:
    """Those whose end is news, and nobody was told."""
    event = Concat(Value("backfill "), Cast(OuterRef("pk"), CharField()), Value(" over"))
    ended = Backfill.objects.filter(ended_at__gt=Now() - PAST, workflow__deleted_at=None)
    return ended.exclude(Exists(Delivery.objects.filter(event=event)))


def _first_failure(backfill: Backfill) -> str:
    return f"backfill {backfill.pk} failed"


def _letter_failed(backfill: Backfill, run: Run, failure: Incident) -> Letter:
    workspace = backfill.workspace
    at = f", attempt {failure.attempt}" if failure.attempt else ""
    to_run = ("Open the run", path_of_run(workspace.name, run.pk))
    to_line = ("Open the failing line", path_of_log(workspace.name, failure))
    notice = Notice(
        subject=f"Failed: backfill of {run.name}, cycle {local(run.cycle, run.zone)[:16]}",
        word="Failed",
        tone="bad",
        title=f"Backfill {backfill.pk} of {run.name}",
        said="A cycle of it has failed. You hear of it again when the backfill is over, whatever "
        "else of it fails.",
        facts=[
            ("Cycle", f"{local(run.cycle, run.zone)} {run.zone}"),
            ("Node", f"{failure.node}{at}" if failure.node else ""),
            ("Reason", failure.reason),
            ("Remarks", backfill.remarks[:300]),
        ],
        line=failure.error_line,
        links=[*([to_line] if failure.node_run_id else []), to_run, _link(backfill)],
        foot=f"{_FOOT} {_OR_ELSE}",
    )
    return letter_of(notice, workspace, backfill.workflow)


def _letter_over(backfill: Backfill, counts: Counts) -> Letter:
    done = counts.succeeded == counts.total
    cycles = f"{counts.total:,} cycle{'' if counts.total == 1 else 's'}"
    by = f" by {backfill.cancelled_by.username}" if backfill.cancelled_by else ""
    how = f"It was cancelled{by}." if backfill.cancelled_at else "It is over."
    told = {
        "Succeeded": counts.succeeded,
        "Failed": counts.failed,
        "Stopped": counts.stopped,
        "Not run": counts.to_come,
        "Under way again": counts.under_way,
    }
    outcome = "succeeded" if done else f"{counts.succeeded:,} of {cycles} succeeded"
    notice = Notice(
        subject=f"Backfill of {backfill.workflow.name}: {outcome}",
        word="Succeeded" if done else "Cancelled" if backfill.cancelled_at else "Over",
        tone="good" if done else "bad" if counts.failed else "plain",
        title=f"Backfill {backfill.pk} of {backfill.workflow.name}",
        said=f"{how} It has {cycles}.",
        facts=[
            *((name, f"{count:,}") for name, count in told.items() if count),
            ("Remarks", backfill.remarks[:300]),
        ],
        links=[_link(backfill)],
        foot=f"{_FOOT} {_OR_ELSE}",
    )
    return letter_of(notice, backfill.workspace, backfill.workflow)


def _link(backfill: Backfill) -> tuple[str, str]:
    return "Open the backfill", path_of_backfill(backfill.workspace.name, backfill.pk)
