"""Pages of workflows: list, draft and its graph, publishing, versions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from math import ceil
from statistics import median
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import messages
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.fields.json import KeyTransform
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.core.errors import Conflict, FieldFault, Invalid
from apps.core.http import fragment, go, number_in, page
from apps.core.paging import newest_first
from apps.engine.backfill import MANY, data_date, pattern_of
from apps.engine.priority import Priority
from apps.engine.roles import Permission
from apps.engine.states import RunState, Severity, Trigger
from apps.engine.timetable import Timetable
from apps.engine.timevars import built_in
from apps.nodes.forms import RemarksForm
from apps.nodes.kinds.registry import kinds
from apps.nodes.models import Job
from apps.notifications.services.nodes import subscribe_node
from apps.notifications.smtp import can_mail
from apps.notifications.views import addresses_form, watch_form
from apps.runs.models import Run, SchedulePoint
from apps.runs.services.backfill import Plan, create_backfill, plan_backfill
from apps.runs.services.dry_run import dry_run
from apps.runs.services.holding import tag_workflow
from apps.runs.services.launch import launch
from apps.runs.services.scheduling import is_on, latest_today, why_not_on
from apps.runs.services.scheduling import switch as turn
from apps.runs.shown import bars_of, counts_of, cycles_stand, last_runs, shares_of
from apps.runs.waiting import why_schedule_waits
from apps.workflows.clock import cycle_of, moment_of, point_before, zone_of
from apps.workflows.drawing import CARD, Drawing, draw
from apps.workflows.forms import (
    BackfillForm,
    DebugForm,
    DryRunForm,
    LaunchForm,
    NodeForm,
    OneRunForm,
    OwnershipForm,
    RunForm,
    TagsForm,
    WorkflowForm,
)
from apps.workflows.models import DraftNode, Workflow
from apps.workflows.schedule_fields import ScheduleForm
from apps.workflows.services.drafting import (
    add_node,
    create_workflow,
    delete_workflow,
    edit_node,
    edit_workflow,
    remove_node,
)
from apps.workflows.services.ownership import own
from apps.workflows.services.publishing import (
    draft_differs,
    draft_faults,
    draft_version,
    drafted,
    freeze,
    settings_of,
    whole,
)
from apps.workflows.services.publishing import publish as publish_workflow
from apps.workflows.services.schedules import timetable_of
from apps.workflows.services.tags import read_tags
from apps.workspaces.access import Request, may, require

#: What a list shows at once; the search narrows it.
LIST_LIMIT = 200


#: Points that a preview shows.
PREVIEW = 5


def points_shown(timetable: Timetable | None, now: datetime) -> list[dict[str, str]]:
    """The next points in words, in the schedule's zone and in UTC.

    Not as times, which a template would put into the page's zone.
    """
    if timetable is None:
        return []
    points = timetable.following(now, PREVIEW)
    return [
        {
            "at": at.isoformat(),
            "utc": f"{at:%Y-%m-%d %H:%M}",
            "local": f"{at.astimezone(timetable.zone):%a %Y-%m-%d %H:%M}",
            "offset": f"{at.astimezone(timetable.zone):%z}",
        }
        for at in points
    ]


def _workflows(request: Request) -> QuerySet[Workflow]:
    mine: QuerySet[Workflow] = Workflow.objects.visible_to(request.user)
    return mine.filter(workspace=request.workspace, deleted_at=None)


def _workflow(request: Request, pk: int) -> Workflow:
    rows = _workflows(request).select_related("published", "queue", "scheduling", "workspace")
    return get_object_or_404(rows, pk=pk)


@require_safe
def start(request: Request, workspace: str) -> HttpResponse:
    return redirect("workflows:list", workspace)


@require_safe
def workflows(request: Request, workspace: str) -> HttpResponse:
    wanted = request.GET.get("q", "").strip()
    rows = _workflows(request).select_related("published", "queue", "created_by", "scheduling")
    rows = rows.annotate(
        said=KeyTransform("schedule", KeyTransform("settings", "published__graph"))
    )
    if wanted:
        rows = rows.filter(Q(name__icontains=wanted) | Q(owner__icontains=wanted))
    severity = request.GET.get("severity", "")
    if severity in set(Severity):
        rows = rows.filter(severity=severity)
    rows = rows.defer("published__graph")
    found = list(rows[: LIST_LIMIT + 1])
    past = last_runs(row.pk for row in found[:LIST_LIMIT])
    shown = [
        {
            "workflow": row,
            "counts": (counts := counts_of(past[row.pk])),
            "shares": shares_of(counts),
            "bars": bars_of(past[row.pk]),
            "last": past[row.pk][-1] if past[row.pk] else None,
        }
        for row in found[:LIST_LIMIT]
    ]
    context = {
        "rows": shown,
        "q": wanted,
        "severity": severity,
        "severities": [each.value for each in Severity],
        "more": len(found) > LIST_LIMIT,
        "nav": "workflows",
    }
    template = "workflows/_list.html" if request.htmx else "workflows/list.html"
    return render(request, template, context)


@require_http_methods(["GET", "POST"])
def create(request: Request, workspace: str) -> HttpResponse:
    require(request, Permission.EDIT_WORKFLOW)
    queues = request.workspace.queues.filter(production=True)
    initial = {
        "retries": 0,
        "retry_interval_seconds": 60,
        "strategy": "continue",
        "retry_backoff": 1,
        "retry_max_interval_seconds": 3600,
        "priority": Priority.MEDIUM.value,
        "queue": queues.filter(name="root_queue").values_list("pk", flat=True).first(),
    }
    form = WorkflowForm(request.workspace, request.POST or None, initial=initial)
    if form.is_valid():
        try:
            row = create_workflow(request.workspace, user=request.user, **form.settings())
        except Invalid as error:
            form.add_faults(error)
        except Conflict as error:
            form.add_error("name", str(error))
        else:
            return go(request, reverse("workflows:workflow", args=[workspace, row.pk]))
    context = {"form": form, "heading": "Create workflow", "nav": "workflows"}
    return fragment(request, "workflows/_create.html", context)


@require_safe
def schedule_preview(request: Request, workspace: str) -> HttpResponse:
    """The next points of a schedule as a form has it, saved or not."""
    form = ScheduleForm(request.workspace, request.GET)
    timetable, fault = None, ""
    if form.is_valid():
        try:
            timetable = form.timetable()
        except Invalid as error:
            fault = str(error)
    else:
        fault = "; ".join(str(message) for each in form.errors.values() for message in each)
    context = {
        "timetable": timetable,
        "points": points_shown(timetable, timezone.now()),
        "fault": fault.rstrip("."),
        "nav": "workflows",
    }
    return fragment(request, "workflows/_schedule_preview.html", context)


# --- the draft ------------------------------------------------------------------------------


@dataclass
class Card:
    """A node on the draft's drawing."""

    node: DraftNode
    x: float = 0
    y: float = 0
    fault: str = ""

    @property
    def settings(self) -> str:
        """One line of what is set on the node itself."""
        parts = [self.node.queue.name if self.node.queue else ""]
        if self.node.job_version_number:
            parts.append(f"v{self.node.job_version_number} pinned")
        if self.node.retries:
            parts.append(f"{self.node.retries} retries")
        if self.node.timeout_seconds:
            parts.append(f"{self.node.timeout_seconds} s")
        if self.node.priority is not None:
            parts.append(f"{Priority(self.node.priority).word} priority")
        return ", ".join(part for part in parts if part)


def _canvas(workflow: Workflow) -> dict[str, Any]:
    nodes = list(workflow.nodes.select_related("job__published", "queue").order_by("pk"))
    edges = list(workflow.edges.values_list("upstream__name", "downstream__name"))
    faults = draft_faults(workflow) if nodes else []
    cards = {node.name: Card(node) for node in nodes}
    drawing: Drawing | None = draw(list(cards), edges, CARD)
    for box in drawing.boxes if drawing else ():
        cards[box.key].x, cards[box.key].y = box.x, box.y
    for fault in faults:
        if fault.field in cards:
            cards[fault.field].fault = _short(fault, fault.field)
    return {
        "cards": list(cards.values()),
        "drawing": drawing,
        "faults": faults,
    }


def _short(fault: FieldFault, name: str) -> str:
    """A fault without the words that its place says already."""
    return fault.message.removeprefix(f"node {name!r}: ")


@require_safe
def workflow(request: Request, workspace: str, pk: int) -> HttpResponse:
    """The draft's graph, and the panel of the node that the address names."""
    row = _workflow(request, pk)
    context = {
        "workflow": row,
        "differs": draft_differs(row),
        "nav": "workflows",
        "tab": "graph",
        "labels": {name: each.label for name, each in kinds().items()},
        **_canvas(row),
    }
    return page(request, "workflows/workflow.html", context)


@require_http_methods(["GET", "POST"])
def node(request: Request, workspace: str, pk: int) -> HttpResponse:
    """The panel of one node: `?name=` edits that one, without it a new one is added."""
    row = _workflow(request, pk)
    if request.method == "POST":
        require(request, Permission.EDIT_WORKFLOW)
    name = request.GET.get("name", "")
    old = get_object_or_404(row.nodes.select_related("job"), name=name) if name else None
    others = [other for other in row.nodes.order_by("name") if other != old]
    initial = {"revision": row.revision, **(NodeForm.values_of(old) if old else {})}
    if not old and request.GET.get("after"):
        initial["upstream"] = [request.GET["after"]]
    form = NodeForm(row, others, request.POST or None, initial=initial)
    if not may(request, Permission.EDIT_WORKFLOW):
        form.show_only()
    if form.is_valid():
        revision = form.cleaned_data["revision"]
        try:
            told = form.subscription()
            # Both or neither: else what is refused here would have made the form's revision past.
            with transaction.atomic():
                if old:
                    saved = edit_node(row, old.name, form.settings(), revision=revision)
                else:
                    saved = add_node(row, form.settings(), revision=revision)
                subscribe_node(row, saved.name, *told)
        except Invalid as error:
            form.add_faults(error)
        except Conflict as error:
            form.add_error(None, str(error))
        else:
            here = reverse("workflows:workflow", args=[workspace, pk])
            messages.success(request, f"{'Saved' if old else 'Added'} node {saved.name}.")
            return go(request, f"{here}?{urlencode({'node': saved.name})}" if old else here)
    jobs: QuerySet[Job] = Job.objects.visible_to(request.user)
    published = jobs.filter(workspace=request.workspace, published__isnull=False)
    context = {
        "workflow": row,
        "node": old,
        "form": form,
        "taken": json.dumps([other.name for other in others]),
        "published": published.values_list("path", "kind")[:1000],
        "labels": {kind: each.label for kind, each in kinds().items()},
        "heading": f"Node {old.name}" if old else "Add node",
        "nav": "workflows",
    }
    return fragment(request, "workflows/_node.html", context)


@require_POST
def node_remove(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _workflow(request, pk)
    require(request, Permission.EDIT_WORKFLOW)
    name = request.POST.get("node", "").replace("\0", "")  # no node's name holds one
    revision = number_in(request.POST.get("revision", ""))
    if revision is None:
        raise Invalid("the request does not say at which revision it began")
    remove_node(row, name, revision=revision)
    messages.success(request, f"Removed node {name}.")
    return go(request, reverse("workflows:workflow", args=[workspace, pk]))


@require_http_methods(["GET", "POST"])
def settings(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _workflow(request, pk)
    if request.method == "POST":
        require(request, Permission.EDIT_WORKFLOW)
    initial = WorkflowForm.values_of(row)
    form = WorkflowForm(request.workspace, request.POST or None, initial=initial)
    form.fields["name"].widget.attrs.pop("autofocus")
    if not may(request, Permission.EDIT_WORKFLOW):
        form.show_only()
    if form.is_valid():
        try:
            revision = form.cleaned_data["revision"] or 0
            edit_workflow(row, revision=revision, **form.settings())
        except Invalid as error:
            form.add_faults(error)
        except Conflict as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, "Saved the settings. They count when they are published.")
            return go(request, reverse("workflows:settings", args=[workspace, pk]))
    context = {
        "workflow": row,
        "differs": draft_differs(row),
        "form": form,
        "tags": _tags_form(request, row),
        "addresses": addresses_form(request, row),
        "ownership": _ownership_form(request, row),
        "watch": watch_form(request, row),
        "can_mail": can_mail(),
        "nav": "workflows",
        "tab": "settings",
    }
    return page(request, "workflows/settings.html", context)


def _tags_form(request: Request, row: Workflow, data: Any = None) -> TagsForm:
    form = TagsForm(data, initial=TagsForm.values_of(row))
    if not may(request, Permission.EDIT_WORKFLOW):
        form.show_only()
    return form


@require_http_methods(["GET", "POST"])
def tags(request: Request, workspace: str, pk: int) -> HttpResponse:
    """A workflow's tags, which no version has: saved by themselves, and in force at once."""
    row = _workflow(request, pk)
    if request.method == "POST":
        require(request, Permission.EDIT_WORKFLOW)
    form = _tags_form(request, row, request.POST or None)
    if form.is_valid():
        try:
            tag_workflow(row, read_tags(form.cleaned_data["tags"]), user=request.user)
        except Invalid as error:
            form.add_faults(error)
        else:
            messages.success(request, "Saved the tags. They count at once.")
            return go(request, reverse("workflows:settings", args=[workspace, pk]))
    return fragment(request, "workflows/_tags.html", {"workflow": row, "form": form, "tags": form})


def _ownership_form(request: Request, row: Workflow, data: Any = None) -> OwnershipForm:
    form = OwnershipForm(data, initial=OwnershipForm.values_of(row))
    if not may(request, Permission.EDIT_WORKFLOW):
        form.show_only()
    return form


@require_http_methods(["GET", "POST"])
def ownership(request: Request, workspace: str, pk: int) -> HttpResponse:
    """Owner, severity and runbook, which no version has: saved by themselves."""
    row = _workflow(request, pk)
    if request.method == "POST":
        require(request, Permission.EDIT_WORKFLOW)
    form = _ownership_form(request, row, request.POST or None)
    if form.is_valid():
        try:
            own(row, form.said())
        except Invalid as error:
            form.add_faults(error)
        else:
            messages.success(request, "Saved owner, severity and runbook. They count at once.")
            return go(request, reverse("workflows:settings", args=[workspace, pk]))
    context = {"workflow": row, "form": form, "ownership": form, "nav": "workflows"}
    return fragment(request, "workflows/_ownership.html", context)


@require_http_methods(["GET", "POST"])
def publish(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _workflow(request, pk)
    require(request, Permission.PUBLISH_WORKFLOW)
    form = RemarksForm(request.POST or None)
    if form.is_valid():
        looked_at = number_in(request.POST.get("revision", ""))
        try:
            version = publish_workflow(
                row,
                remarks=form.cleaned_data["remarks"],
                user=request.user,
                revision=looked_at,
            )
        except Invalid as error:
            form.add_faults(error)
        except Conflict as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, f"Published {row.name} as v{version.number}.")
            if request.POST.get("turn_on") and timetable_of(version) is not None:
                turn(row, on=True, user=request.user)
                messages.success(request, "Its scheduling is on.")
                return go(request, reverse("workflows:schedule", args=[workspace, pk]))
            return go(request, reverse("workflows:workflow", args=[workspace, pk]))
    faults = draft_faults(row)
    context = {
        "workflow": row,
        "form": form,
        "faults": faults,
        "differs": draft_differs(row),
        "next": (row.published.number or 0) + 1 if row.published else 1,
        "asks_to_turn_on": row.schedule is not None and not is_on(row),
        "timetable": None if faults else timetable_of(row),
        "heading": f"Publish {row.name}",
        "nav": "workflows",
    }
    return fragment(request, "workflows/_publish.html", context)


@require_safe
def versions(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _workflow(request, pk)
    found = row.versions.filter(number__isnull=False).select_related("created_by")
    context = {
        "workflow": row,
        "differs": draft_differs(row),
        "versions": list(found.order_by("-number")[:LIST_LIMIT]),
        "nav": "workflows",
        "tab": "versions",
    }
    return page(request, "workflows/versions.html", context)


@require_safe
def version(request: Request, workspace: str, pk: int, number: int) -> HttpResponse:
    """A version's graph as it was published, to read."""
    row = _workflow(request, pk)
    found = get_object_or_404(row.versions.select_related("created_by"), number=number)
    cards = _cards_of(request, found.graph)
    drawing = draw(list(cards), [(up, down) for up, down in found.graph["edges"]], CARD)
    for box in drawing.boxes if drawing else ():
        cards[box.key].x, cards[box.key].y = box.x, box.y
    context = {
        "workflow": row,
        "differs": draft_differs(row),
        "version": found,
        "cards": list(cards.values()),
        "drawing": drawing,
        "nav": "workflows",
        "tab": "versions",
    }
    return page(request, "workflows/version.html", context)


def _cards_of(request: Request, graph: dict[str, Any]) -> dict[str, Card]:
    """The nodes of a frozen graph. It keeps ids: a job may have been deleted since."""
    jobs = Job.objects.filter(workspace=request.workspace).in_bulk(
        [node["job"] for node in graph["nodes"]]
    )
    queues = request.workspace.queues.in_bulk([node["queue"] for node in graph["nodes"]])
    return {
        node["name"]: Card(
            DraftNode(
                name=node["name"],
                job=jobs.get(node["job"]) or Job(path="a job deleted since", kind="shell"),
                queue=queues.get(node["queue"]),
                job_version_number=node["job_version_number"],
                retries=node["retries"],
                timeout_seconds=node["timeout_seconds"],
                priority=node["priority"],
            )
        )
        for node in whole(graph)["nodes"]
    }


@require_safe
def runs(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _workflow(request, pk)
    mine: QuerySet[Run] = Run.objects.visible_to(request.user)
    found = (
        mine.filter(workflow=row)
        .select_related("created_by", "version")
        .defer("version__graph", "variables")
    )
    before = request.GET.get("before", "")
    context = {
        "workflow": row,
        "differs": draft_differs(row),
        "page": newest_first(found, before),
        "nav": "workflows",
        "tab": "runs",
    }
    template = "runs/_rows.html" if request.htmx else "workflows/runs.html"
    return render(request, template, context)


@require_safe
def schedule(request: Request, workspace: str, pk: int) -> HttpResponse:
    """The published schedule: its switch, the next points, and what became of the last ones."""
    row = _workflow(request, pk)
    before = request.GET.get("before", "")
    points = SchedulePoint.objects.filter(workflow=row).select_related("run")
    timetable = _published_timetable(row)
    context = {
        "workflow": row,
        "differs": draft_differs(row),
        "timetable": timetable,
        "why_off": why_not_on(row),
        "why": why_schedule_waits(row) if timetable else None,
        "points": points_shown(timetable, timezone.now()),
        "page": newest_first(points, before),
        "nav": "workflows",
        "tab": "schedule",
    }
    return render(request, "workflows/schedule.html", context)


def _published_timetable(row: Workflow) -> Timetable | None:
    return None if row.published is None else timetable_of(row.published)


@require_http_methods(["GET", "POST"])
def switch(request: Request, workspace: str, pk: int) -> HttpResponse:
    """Turn scheduling on or off; to GET, the dialog that asks before it is turned on."""
    row = _workflow(request, pk)
    require(request, Permission.PUBLISH_WORKFLOW)
    if request.method == "POST":
        on = request.POST.get("on") == "1"
        turn(row, on=on, user=request.user, run_latest="run_latest" in request.POST)
        messages.success(request, f"Scheduling of {row.name} is {'on' if on else 'off'}.")
        return go(request, reverse("workflows:schedule", args=[workspace, pk]))
    timetable = _published_timetable(row)
    latest = latest_today(row, timezone.now())
    context = {
        "workflow": row,
        "timetable": timetable,
        "latest": latest and timetable and f"{latest.astimezone(timetable.zone):%H:%M}",
        "points": points_shown(timetable, timezone.now()),
        "why_off": why_not_on(row),
        "heading": f"Turn on scheduling of {row.name}",
        "nav": "workflows",
    }
    return fragment(request, "workflows/_switch.html", context)


# --- running --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """One way to start a workflow, as the Run dialog offers it."""

    name: str
    title: str
    what: str
    form: type[LaunchForm]
    needs: Permission

    def why_not(self, request: Request, row: Workflow) -> str:
        """Why it cannot be chosen; "" if it can."""
        if not may(request, self.needs):
            return f"your role does not allow {self.needs}"
        if self.name in ("manual", "backfill") and row.published is None:
            return "not published yet"
        return ""


WAYS = {
    way.name: way
    for way in (
        Way("manual", "Manually Run", "once, now", RunForm, Permission.RUN),
        Way("backfill", "Backfill", "one run for each past cycle", BackfillForm, Permission.RUN),
        Way("debug", "Debug", "the draft, for development", DebugForm, Permission.EDIT_JOB),
        Way("dry", "Dry run", "shown, not started", DryRunForm, Permission.VIEW),
    )
}


@require_http_methods(["GET", "POST"])
def run(request: Request, workspace: str, pk: int) -> HttpResponse:
    """Start the workflow; to GET, the dialog that asks how, with what would come of it.

    `?part=preview` is that alone, for what was chosen so far.
    """
    row = _workflow(request, pk)
    sent = request.POST if request.method == "POST" else request.GET
    way = _way(request, row, sent.get("how", ""))
    form = _launch_form(request, row, way, sent)
    if request.method == "POST":
        require(request, way.needs)
        if way.name == "dry":
            raise Conflict("a dry run starts nothing; it has a page of its own")
        if form.is_valid():
            try:
                return go(request, _start(request, row, way, form))
            except Invalid as error:
                if "remarks" not in request.POST:
                    raise  # the button asks nothing, and has no form to say it at
                form.add_faults(error)
            except Conflict as error:
                if error.current is None:
                    raise
                form.add_error(None, str(error))  # the new preview stands beside it
    part = request.GET.get("part", "")
    start = number_in(request.GET.get("start", "")) or 0
    context = {
        "workflow": row,
        "form": form,
        "way": way,
        "ways": [(each, each.why_not(request, row)) for each in WAYS.values()],
        "preview": _preview(row, way, form, start if part == "cycles" else 0),
        "heading": f"Run {row.name}",
        "nav": "workflows",
        "part": part,
        "ranges": _ranges(row) if way.form is BackfillForm and not part else [],
    }
    if part in PARTS:
        return render(request, PARTS[part], context)
    return fragment(request, "workflows/_run.html", context)


#: Of the dialog: what can be asked for alone.
PARTS = {"preview": "workflows/_run_preview.html", "cycles": "workflows/_run_cycles.html"}


def _way(request: Request, row: Workflow, wanted: str) -> Way:
    """The one asked for; else, to look at, the first that can be chosen."""
    if wanted in WAYS:
        return WAYS[wanted]
    if request.method == "POST":
        return WAYS["manual"]
    return next(way for way in WAYS.values() if not way.why_not(request, row))


def _launch_form(request: Request, row: Workflow, way: Way, sent: Any) -> LaunchForm:
    """Bound where something was sent, and always where there is a preview to be made of it.

    What was typed stays when the way is changed.
    """
    is_sent = request.method == "POST" or "how" in sent
    if way.form is BackfillForm:
        typed = sent.dict()
        if not typed.keys() & {"first_date", "last_date", "dates", "cycles"}:
            typed = {**typed, **BackfillForm.defaults(_last_dates(row))}
        return BackfillForm(row, {**BackfillForm.defaults(None), **typed})
    form = way.form(row, sent if is_sent else None)
    if way.name == "debug" and is_sent and not form["queue"].value():
        queues = form.fields["queue"].queryset  # type: ignore[attr-defined]
        form.data = {**sent.dict(), "queue": queues.values_list("pk", flat=True).first()}
    return form


#: Data dates that a backfill begins with, before anybody chooses others; and one click away.
LAST_DAYS, MORE_DAYS = 7, 30


def _last_dates(row: Workflow, days: int = LAST_DAYS) -> tuple[date, date] | None:
    """The last data dates whose cycles are past, the first and the newest; None without any."""
    if row.published is None:
        return None
    settings = settings_of(row.published.graph)
    zone = ZoneInfo(zone_of(settings, row.workspace.zone))
    last = point_before(timezone.now(), pattern_of(timetable_of(row.published), zone))
    if last is None:
        return None
    newest = data_date(last, zone, settings["data_offset"])
    return newest - timedelta(days=days - 1), newest


def _ranges(row: Workflow) -> list[tuple[str, date, date]]:
    """Ranges of data dates that are one click away, with the words for them."""
    last, more = _last_dates(row), _last_dates(row, MORE_DAYS)
    if last is None or more is None:
        return []
    newest = last[1]
    return [
        (f"Last {LAST_DAYS} days", *last),
        (f"Last {MORE_DAYS} days", *more),
        (f"{newest:%B}", newest.replace(day=1), newest),
    ]


def _start(request: Request, row: Workflow, way: Way, form: LaunchForm) -> str:
    """Start what was asked for; the address of what came of it."""
    here = request.workspace.name
    if isinstance(form, BackfillForm):
        data = form.cleaned_data
        made = create_backfill(
            row,
            form.asked(),
            user=request.user,
            at_once=data["at_once"],
            stop_after=data["stop_after"],
            remarks=data["remarks"],
            addresses=data["addresses"],
            token=data["token"],
            sure=data["sure"],
        )
        return reverse("runs:backfill", args=[here, made.pk])
    assert isinstance(form, OneRunForm)  # noqa: S101 -- all others are
    with transaction.atomic():
        if way.name == "debug":
            version, trigger = draft_version(row, user=request.user), Trigger.DEBUG
        elif row.published is None:
            raise Conflict(f"workflow {row.name!r} is not published; publish it, then run it")
        else:
            version, trigger = row.published, Trigger.MANUAL
        cycle = _cycle(row, settings_of(version.graph), form)
        [started] = launch(
            version, cycles=[cycle], trigger=trigger, by=request.user, **form.settings()
        )
    return reverse("runs:run", args=[here, started.pk])


def _cycle(row: Workflow, settings: dict[str, Any], form: OneRunForm) -> datetime:
    """Of the data date that was given, else now."""
    data_date = form.cleaned_data["data_date"]
    if data_date is None:
        return timezone.now()
    return cycle_of(data_date, settings, zone_of(settings, row.workspace.zone))


def _preview(row: Workflow, way: Way, form: LaunchForm, start: int) -> dict[str, Any]:
    """What would come of what was chosen, or why nothing can; of many cycles those from `start`."""
    if form.is_bound:
        form = way.form(row, form.data)  # without what was refused when it was sent
        if not form.is_valid():
            faults = [str(each) for errors in form.errors.values() for each in errors]
            return {"fault": "; ".join(faults)}
    try:
        if isinstance(form, BackfillForm):
            plan = plan_backfill(row, form.asked())
            return _preview_cycles(row, plan, start, form.cleaned_data["at_once"])
        assert isinstance(form, OneRunForm)  # noqa: S101 -- all others are
        return _preview_one(row, way, form)
    except (Invalid, Conflict) as error:
        return {"fault": str(error)}


def _preview_one(row: Workflow, way: Way, form: OneRunForm) -> dict[str, Any]:
    draft = way.name == "debug" or (way.name == "dry" and _wants_draft(row, form))
    version = None if draft else row.published
    settings = whole(freeze(row) if version is None else version.graph)["settings"]
    cycle = _cycle(row, settings, form) if form.is_bound else timezone.now()
    moment = moment_of(cycle, settings, zone_of(settings, row.workspace.zone))
    return {"version": version, "moment": moment, "variables": built_in(moment)}


#: Cycles of a preview that one answer shows; the next come as one scrolls to them.
SHOWN_CYCLES = 200


def _preview_cycles(row: Workflow, plan: Plan, start: int, at_once: int) -> dict[str, Any]:
    shown = plan.cycles[start : start + SHOWN_CYCLES]
    following = start + len(shown)
    stand = cycles_stand(row, [each.cycle for each in shown])
    settings = settings_of(plan.version.graph)
    moment = moment_of(plan.cycles[0].cycle, settings, str(plan.zone)) if plan.cycles else None
    return {
        "plan": plan,
        "version": plan.version,
        "many": len(plan.cycles) > MANY,
        "first": str(plan.cycles[0].data_date) if plan.cycles else "",
        "last": str(plan.cycles[-1].data_date) if plan.cycles else "",
        "rows": [
            {
                "data_date": each.data_date,
                "due": _due(each.cycle.astimezone(plan.zone), each.data_date),
                "stands": stand.get(each.cycle),
            }
            for each in shown
        ],
        "next": following if following < len(plan.cycles) else None,
        # Of a list that is not all here nobody has counted them.
        "again": sum(each.state == RunState.SUCCEEDED for each in stand.values())
        if len(shown) == len(plan.cycles)
        else 0,
        "takes": None if start else _takes(row, plan, at_once),
        "variables": built_in(moment) if moment else {},
    }


def _takes(row: Workflow, plan: Plan, at_once: int) -> tuple[float, float] | None:
    """About how many seconds a run takes, by those that succeeded last, and all of them; None
    where no run can tell."""
    past = last_runs([row.pk])[row.pk]
    lasted = [each.seconds for each in past if each.state == RunState.SUCCEEDED and each.seconds]
    if not lasted or len(plan.nodes) < len(plan.version.graph["nodes"]):
        return None
    each = median(lasted)
    return each, each * ceil(len(plan.cycles) / at_once)


def _due(due: datetime, beside: date) -> str:
    """When it was due, without the year where the date beside it says that."""
    return f"{due:%m-%d %H:%M}" if due.year == beside.year else f"{due:%Y-%m-%d %H:%M}"


def _wants_draft(row: Workflow, form: OneRunForm) -> bool:
    return row.published is None or (form.is_bound and bool(form.cleaned_data.get("draft")))


@require_safe
def dry(request: Request, workspace: str, pk: int) -> HttpResponse:
    """What a run would start, node by node; nothing is started. All of it is in the address."""
    row = _workflow(request, pk)
    form = DryRunForm(row, request.GET)
    found, faults = None, []
    if form.is_valid():
        draft = _wants_draft(row, form)
        try:
            version = drafted(row) if draft or row.published is None else row.published
            version.workflow = row
            settings = form.settings()
            settings.pop("remarks")
            queue = settings["queue"]
            debug = draft and queue is not None and not queue.production
            found = dry_run(
                version,
                cycle=_cycle(row, settings_of(version.graph), form),
                trigger=Trigger.DEBUG if debug else Trigger.MANUAL,
                **settings,
            )
        except Invalid as error:
            faults = list(error.faults)
    context = {
        "workflow": row,
        "differs": draft_differs(row),
        "form": form,
        "faults": faults,
        "dry": found,
        "nav": "workflows",
        "tab": "",
    }
    return page(request, "workflows/dry_run.html", context)


@require_POST
def delete(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _workflow(request, pk)
    require(request, Permission.EDIT_WORKFLOW)
    delete_workflow(row)
    messages.success(request, f"Deleted workflow {row.name}. Its runs stay readable.")
    return go(request, reverse("workflows:list", args=[workspace]))
