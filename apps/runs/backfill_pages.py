"""Pages of backfills: the list, one live, and what a person may do to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import messages
from django.db.models import F, Q, QuerySet
from django.db.models.fields.json import KeyTransform
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.core.http import fragment, go, number_in
from apps.core.paging import newest_first
from apps.engine.backfill import Counts, Standing, data_date
from apps.engine.roles import Permission
from apps.engine.states import RunState
from apps.runs.models import Backfill, BackfillCycle
from apps.runs.services.backfill import cancel_backfill, pause_backfill, resume_backfill
from apps.runs.services.feeding import counts_of, nodes_of, standing_of
from apps.workflows.clock import DATA_OFFSET, zone_of
from apps.workspaces.access import Request, may, require

#: Backfills of one page of the list: the cycles of each are counted.
LIST_SIZE = 20
#: Cycles of one page, and events that are shown of a backfill.
CYCLES, EVENTS = 100, 50
#: Of a cycle that has no run yet.
TO_COME = "to_come"
#: What cycles can be narrowed down to, with the words for it.
STATES = {
    RunState.FAILED.value: "failed",
    RunState.RUNNING.value: "running",
    RunState.PENDING.value: "pending",
    RunState.SUCCEEDED.value: "succeeded",
    RunState.STOPPED.value: "stopped",
    TO_COME: "to come",
}


@dataclass(frozen=True)
class Part:
    """Some of a backfill's cycles: how they stand, how many, and where in a bar of 100 they lie."""

    mark: str
    words: str
    count: int
    x: float
    width: float


@dataclass
class BackfillShown:
    """A backfill as pages show it."""

    backfill: Backfill
    counts: Counts
    zone: ZoneInfo
    data_offset: int
    #: Its earliest and its latest cycle.
    ends: list[datetime] = field(default_factory=list)

    @property
    def standing(self) -> Standing:
        return standing_of(self.backfill, self.counts)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it moves any more."""
        over = (Standing.SUCCEEDED, Standing.FAILED, Standing.CANCELLED)
        return self.backfill.ended_at is not None and self.standing in over

    @property
    def mark(self) -> str:
        """The state that its pill shows."""
        return {
            Standing.SUCCEEDED: "succeeded",
            Standing.FAILED: "failed",
            Standing.CANCELLED: "cancelled",
        }.get(self.standing, "running")

    def data_date(self, cycle: datetime) -> date:
        return data_date(cycle, self.zone, self.data_offset)

    @property
    def dates(self) -> list[date]:
        """Its first and its last data date."""
        return [self.data_date(cycle) for cycle in self.ends]

    @property
    def parts(self) -> list[Part]:
        """Its cycles by how they stand, what has succeeded first; zeros are left out."""
        rest = "not run" if self.backfill.cancelled_at else "to come"
        words = {
            "succeeded": (self.counts.succeeded, "succeeded"),
            "failed": (self.counts.failed, "failed"),
            "stopped": (self.counts.stopped, "stopped"),
            "running": (self.counts.running, "running"),
            "pending": (self.counts.waiting, "pending"),
            "notrun": (self.counts.to_come, rest),
        }
        parts, x = [], 0.0
        for mark, (count, word) in words.items():
            if count:
                width = 100 * count / max(self.counts.total, 1)
                parts.append(Part(mark, word, count, round(x, 2), round(width, 2)))
                x += width
        return parts


def _backfills(request: Request) -> QuerySet[Backfill]:
    mine: QuerySet[Backfill] = Backfill.objects.visible_to(request.user)
    rows = mine.filter(workspace=request.workspace).select_related(
        "workflow", "version", "queue", "created_by", "paused_by", "cancelled_by"
    )
    rows = rows.annotate(settings=KeyTransform("settings", "version__graph"))
    return rows.defer("version__graph")


def _shown(request: Request, backfills: Iterable[Backfill]) -> list[BackfillShown]:
    """Two queries, whatever their number."""
    rows = list(backfills)
    counts = counts_of(rows)
    ends: dict[int, list[datetime]] = {row.pk: [] for row in rows}
    outer = Q(position=0) | Q(position=F("backfill__total") - 1)
    found = BackfillCycle.objects.filter(outer, backfill__in=rows).order_by("cycle")
    for pk, cycle in found.values_list("backfill", "cycle"):
        ends[pk].append(cycle)
    return [
        BackfillShown(
            row,
            counts[row.pk],
            ZoneInfo(zone_of(row.settings, request.workspace.zone)),  # type: ignore[attr-defined]
            row.settings.get("data_offset", DATA_OFFSET),  # type: ignore[attr-defined]
            ends[row.pk],
        )
        for row in rows
    ]


def _one(request: Request, pk: int) -> Backfill:
    row: Backfill = get_object_or_404(_backfills(request), pk=pk)
    return row


@require_safe
def backfills(request: Request, workspace: str) -> HttpResponse:
    """All backfills, newest first; `?workflow=` those of one."""
    rows = _backfills(request)
    workflow = number_in(request.GET.get("workflow", ""))
    if workflow is not None:
        rows = rows.filter(workflow=workflow)
    before = request.GET.get("before", "")
    found = newest_first(rows, before, size=LIST_SIZE)
    context = {
        "page": found,
        "shown": _shown(request, found.rows),
        "nav": "backfills",
        "live": not before,
    }
    template = "runs/_backfills.html" if request.htmx else "runs/backfills.html"
    return render(request, template, context)


@require_safe
def backfill(request: Request, workspace: str, pk: int) -> HttpResponse:
    """One backfill. Its live part asks for itself again until nothing of it moves."""
    row = _one(request, pk)
    [shown] = _shown(request, [row])
    state, after = request.GET.get("state", ""), number_in(request.GET.get("after", ""))
    cycles, following = _cycles(shown, state, after)
    context: dict[str, Any] = {
        "shown": shown,
        "backfill": row,
        "cycles": cycles,
        "next": following,
        "continued": after is not None,
        "state": state if state in STATES else "",
        "states": STATES,
        "nodes": nodes_of(row) if row.node else [],
        "events": list(row.events.select_related("user").order_by("-pk")[:EVENTS]),
        "may_operate": may(request, Permission.OPERATE),
        "apart": bool(request.htmx),
        "nav": "backfills",
    }
    template = "runs/_backfill_live.html" if request.htmx else "runs/backfill.html"
    return render(request, template, context)


def _cycles(
    shown: BackfillShown, state: str, after: int | None
) -> tuple[Sequence[dict[str, Any]], int | None]:
    """The next cycles in the order in which they start, and where the page after begins."""
    rows = BackfillCycle.objects.filter(backfill=shown.backfill).order_by("position")
    if after is not None:
        rows = rows.filter(position__gt=after)
    if state == TO_COME:
        rows = rows.filter(launched_at=None)
    elif state in STATES:
        rows = rows.filter(Q(run__state=state) | Q(run=None, ended_as=state))
    names = ("position", "cycle", "run", "run__state", "run__started_at", "run__ended_at")
    found = list(rows.values(*names, "ended_as", "launched_at")[: CYCLES + 1])
    more, found = len(found) > CYCLES, found[:CYCLES]
    for each in found:
        each["state"] = each["run__state"] or each["ended_as"]
        each["data_date"] = shown.data_date(each["cycle"])
        each["due"] = f"{each['cycle'].astimezone(shown.zone):%Y-%m-%d %H:%M}"
    return found, found[-1]["position"] if more else None


@require_POST
def pause(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _one(request, pk)
    require(request, Permission.OPERATE)
    pause_backfill(row, user=request.user)
    messages.success(request, f"Backfill {pk} is paused. What runs goes on to its end.")
    return go(request, reverse("runs:backfill", args=[workspace, pk]))


@require_POST
def resume(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _one(request, pk)
    require(request, Permission.OPERATE)
    resume_backfill(row, user=request.user)
    messages.success(request, f"Backfill {pk} goes on.")
    return go(request, reverse("runs:backfill", args=[workspace, pk]))


@require_http_methods(["GET", "POST"])
def cancel(request: Request, workspace: str, pk: int) -> HttpResponse:
    """Cancel a backfill; to GET, the dialog that asks what becomes of what runs."""
    row = _one(request, pk)
    require(request, Permission.OPERATE)
    if request.method == "POST":
        cancel_backfill(row, user=request.user, stop_running="stop_running" in request.POST)
        messages.success(request, f"Backfill {pk} is cancelled. No further cycle starts.")
        return go(request, reverse("runs:backfill", args=[workspace, pk]))
    [shown] = _shown(request, [row])
    context = {
        "shown": shown,
        "backfill": row,
        "heading": f"Stop what runs of backfill {pk}"
        if row.cancelled_at
        else f"Cancel backfill {pk}",
        "nav": "backfills",
    }
    return fragment(request, "runs/_backfill_cancel.html", context)
