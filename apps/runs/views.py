"""Pages of runs: the list, one run live, a node's log, outputs, and what a person may do."""

from __future__ import annotations

import asyncio
import json
import posixpath
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import get_user
from django.db import connection
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils.cache import get_conditional_response
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.core.errors import Conflict, Invalid, Unavailable
from apps.core.http import download, fragment, go, number_in
from apps.core.paging import newest_first
from apps.engine.states import (
    ENDED,
    RUN_ENDED,
    RunState,
    Trigger,
    node_acts,
    standing,
)
from apps.engine.waiting import Reason
from apps.nodes.kinds.registry import kinds
from apps.nodes.models import Job
from apps.nodes.services.files import open_blob
from apps.runs.forms import AnewForm, RerunForm, SuccessForm
from apps.runs.health import what_is_wrong
from apps.runs.log_lines import check_wanted, lines_from, search
from apps.runs.log_text import opening, text_from
from apps.runs.logs import AttemptLog, log_of
from apps.runs.models import Attempt, NodeRun, Output, Run
from apps.runs.output_pages import TYPES, OutputPart, parts_of
from apps.runs.rights import needed_to_operate
from apps.runs.services.anew import FAILED, newer_jobs, newer_version, plan_anew, rerun_anew
from apps.runs.services.lanes import ahead
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.rerun import rerun_failed, rerun_nodes, rerun_plan, rerun_scope
from apps.runs.services.stop import stop_node, stop_run
from apps.runs.services.success import set_success
from apps.runs.shown import ended_how, forced_by, mark_of, run_shown, stopped_by
from apps.runs.variables import left_by, resolved
from apps.runs.waiting import waiting_of
from apps.workflows.models import Workflow
from apps.workspaces.access import Request, may, require

#: What workflows and jobs are started by today.
TRIGGERS = (Trigger.SCHEDULE, Trigger.MANUAL, Trigger.BACKFILL, Trigger.DEBUG, Trigger.API)
#: A stream ends by itself after this long, and the page opens the next one.
STREAM_SECONDS = 600.0
#: Between two looks at a log's file, and at the database.
LOOK_SECONDS = 0.4
ASK_SECONDS = 1.0
#: Between two looks at object storage that is away.
_AWAY_SECONDS = 3.0
#: What the last part of a log may take from its worker to where it is read.
SHIPPED_SECONDS = 60
#: Sent where nothing happens, so that proxies and the server see a page that has gone.
PING_SECONDS = 15.0


def _runs(request: Request) -> QuerySet[Run]:
    mine: QuerySet[Run] = Run.objects.visible_to(request.user)
    return mine.filter(workspace=request.workspace)


def _run(request: Request, pk: int) -> Run:
    rows = _runs(request).select_related(
        "version", "workflow", "job", "created_by", "rerun_of", "backfill_cycle"
    )
    return get_object_or_404(rows, pk=pk)


def _node(request: Request, pk: int, node: int) -> NodeRun:
    rows = NodeRun.objects.filter(run__in=_runs(request).filter(pk=pk))
    return get_object_or_404(rows.select_related("run", "job_version__job", "queue"), pk=node)


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """For a monitor: 200, or 503 with a plain reason. Without a login, and without details."""
    wrong = what_is_wrong()
    return HttpResponse(
        f"{wrong or 'ok'}\n",
        status=503 if wrong else 200,
        content_type="text/plain",
        headers={"Cache-Control": "no-store"},
    )


@require_safe
def runs(request: Request, workspace: str) -> HttpResponse:
    """All runs, newest first. Filters are in the address."""
    rows = (
        _runs(request).select_related("created_by", "version").defer("version__graph", "variables")
    )
    state, trigger = request.GET.get("state", ""), request.GET.get("trigger", "")
    wanted = request.GET.get("q", "").strip()
    if state == "open":
        rows = rows.filter(state__in=[RunState.PENDING, RunState.RUNNING])
    elif state in list(RunState):
        rows = rows.filter(state=state)
    if trigger in list(Trigger):
        rows = rows.filter(trigger=trigger)
    if wanted:
        rows = rows.filter(_named(request, wanted))
    before = request.GET.get("before", "")
    context = {
        "page": newest_first(rows, before),
        "state": state,
        "trigger": trigger,
        "q": wanted,
        "triggers": TRIGGERS,
        "filtered": bool(state or trigger or wanted),
        "nav": "runs",
        "live": not before,
    }
    template = "runs/_list.html" if request.htmx else "runs/list.html"
    return render(request, template, context)


def _named(request: Request, wanted: str) -> Q:
    """Runs of what has this in its name today.

    Asked of the few workflows and jobs, not of the many runs; as values and not as a subquery,
    so that the database knows whether that is most of the runs or next to none.
    """
    workflows = Workflow.objects.filter(workspace=request.workspace, name__icontains=wanted)
    jobs = Job.objects.filter(workspace=request.workspace, path__icontains=wanted)
    return Q(workflow__in=list(workflows.values_list("pk", flat=True))) | Q(
        job__in=list(jobs.values_list("pk", flat=True))
    )


# --- one run --------------------------------------------------------------------------------


@require_safe
def run(request: Request, workspace: str, pk: int) -> HttpResponse:
    """The run page. Its live part asks for itself again until the run is over."""
    row = _run(request, pk)
    shown = run_shown(row)
    newer = newer_jobs(row) if shown.over and shown.left else []
    selected = shown.selected(request.GET.get("node", ""))
    context: dict[str, Any] = {
        "shown": shown,
        "run": row,
        "stopped_by": stopped_by(row),
        "ahead": ahead([row]).get(row.pk),
        "newer": newer,
        "selected": selected,
        "outputs": _parts(request, row, shown.outputs),
        "may_operate": may(request, needed_to_operate(row)),
        "nav": "runs",
        "labels": {name: each.label for name, each in kinds().items()},
    }
    if request.htmx:
        context["apart"] = True
        # The panel is another element; it comes along when it shows another node than this.
        beside = request.GET.get("panel", "")
        context["moved"] = selected is not None and beside not in ("", selected.node.key)
        if selected and context["moved"]:
            context |= _panel(request, selected.node, selected.reasons)
        return render(request, "runs/_live.html", context)
    context["previous"], context["next"] = _beside(row)
    if selected:
        context |= _panel(request, selected.node, selected.reasons)
    return render(request, "runs/run.html", context)


def _beside(run: Run) -> tuple[Run | None, Run | None]:
    """The runs of the same workflow, or of the same job, before and after this one."""
    mine = {"workflow": run.workflow_id} if run.workflow_id else {"job": run.job_id}
    rows = Run.objects.filter(**mine).only("state")
    return (
        rows.filter(pk__lt=run.pk).order_by("-pk").first(),
        rows.filter(pk__gt=run.pk).order_by("pk").first(),
    )


def _parts(request: Request, run: Run, outputs: list[Output]) -> list[OutputPart]:
    """Texts before tables: what a job says is read before what it counts."""
    urls: dict[int, dict[str, str]] = {}
    for output in outputs:
        here = [request.workspace.name, run.pk, output.pk]
        urls.setdefault(output.attempt_id, {})[output.name] = reverse("runs:output", args=here)
    parts = parts_of((output, urls[output.attempt_id]) for output in outputs)
    embedded = {
        url
        for part in parts
        for url in urls[part.output.attempt_id].values()
        if f'src="{url}"' in part.html
    }
    order = ("markdown", "picture", "table", "text", "none")
    shown = [part for part in parts if part.url not in embedded]
    return sorted(shown, key=lambda part: order.index(part.kind))


def _panel(request: Request, node: NodeRun, reasons: Sequence[Reason]) -> dict[str, Any]:
    """What the side panel shows of a node, which waits for these reasons.

    Without `attempt` in the address: the newest.
    """
    attempts = list(node.attempts.order_by("number"))
    wanted = request.GET.get("attempt", "")
    chosen = next((a for a in attempts if str(a.number) == wanted), None)
    attempt = chosen or (attempts[-1] if attempts else None)
    tab = request.GET.get("tab", "log")
    run_over = node.run.state in RUN_ENDED
    context: dict[str, Any] = {
        "node": node,
        "mark": mark_of(node, over=run_over),
        "attempts": attempts,
        "attempt": attempt,
        "pinned": chosen is not None,
        "tab": tab if tab in ("log", "code", "details", "variables") else "log",
        "kind_label": kinds()[node.job_version.kind].label
        if node.job_version.kind in kinds()
        else node.job_version.kind,
        "node_over": node.state in ENDED or run_over,
        "run_over": run_over,
        "reasons": reasons,
        "acts": node_acts(standing(node.run.state, node.run.hold), node.state),
    }
    if context["tab"] == "details":
        context["forced"] = forced_by(node)
        context["ended_how"] = ended_how(attempt)
    if context["tab"] == "variables":
        context["resolved"] = resolved(node, attempt)
        context["left"] = left_by(node, attempt)
    if attempt and context["tab"] == "log":
        log = log_of(node.run_id, node.pk, attempt.number)
        try:
            context["log_from"], context["log_line"] = opening(log)
            # Nobody counted the lines of an attempt whose worker went away.
            context["log_bytes"] = attempt.log_bytes or log.size()
        except Unavailable as error:
            context["log_away"] = str(error)
    return context


@require_safe
def node(request: Request, workspace: str, pk: int, node: int) -> HttpResponse:
    """A node's panel. Its head asks for itself; when a new attempt has begun, all is new."""
    row = _node(request, pk, node)
    reasons = waiting_of(row.run).nodes.get(row.pk, ())
    context = {"run": row.run, **_panel(request, row, reasons), "nav": "runs"}
    context["may_operate"] = may(request, needed_to_operate(row.run))
    if request.GET.get("part") == "head":
        attempt = context["attempt"]
        number = str(attempt.number) if attempt else ""
        if number == request.GET.get("shown", ""):
            return render(request, "runs/_node_head.html", context)
        response = render(request, "runs/_node.html", context)
        response["HX-Retarget"], response["HX-Reswap"] = "#oc-node", "outerHTML"
        return response
    if request.htmx:
        return render(request, "runs/_node.html", context)
    return render(request, "runs/node.html", context)


def _at(node: NodeRun, workspace: str) -> str:
    """Address of the run page with this node selected."""
    here = reverse("runs:run", args=[workspace, node.run_id])
    return f"{here}?{urlencode({'node': node.key})}"


@require_POST
def pause(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _run(request, pk)
    require(request, needed_to_operate(row))
    pause_run(row, user=request.user)
    return go(request, reverse("runs:run", args=[workspace, pk]))


@require_POST
def resume(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _run(request, pk)
    require(request, needed_to_operate(row))
    resume_run(row, user=request.user)
    return go(request, reverse("runs:run", args=[workspace, pk]))


@require_POST
def stop(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _run(request, pk)
    require(request, needed_to_operate(row))
    stop_run(row, user=request.user)
    return go(request, reverse("runs:run", args=[workspace, pk]))


@require_POST
def stop_one(request: Request, workspace: str, pk: int, node: int) -> HttpResponse:
    row = _node(request, pk, node)
    require(request, needed_to_operate(row.run))
    stop_node(row, user=request.user)
    return go(request, _at(row, workspace))


@require_http_methods(["GET", "POST"])
def success(request: Request, workspace: str, pk: int, node: int) -> HttpResponse:
    """The dialog that declares a node done."""
    row = _node(request, pk, node)
    require(request, needed_to_operate(row.run))
    form = SuccessForm(request.POST or None)
    if form.is_valid():
        try:
            set_success(row, reason=form.cleaned_data["reason"], user=request.user)
        except Invalid as error:
            form.add_faults(error)
        except Conflict as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, f"Node {row.key} counts as succeeded.")
            return go(request, _at(row, workspace))
    context = {
        "form": form,
        "node": row,
        "mark": mark_of(row, over=row.run.state in RUN_ENDED),
        "over": row.run.state in RUN_ENDED,
        "heading": f"Set {row.key} to success",
        "nav": "runs",
    }
    return fragment(request, "runs/_success.html", context)


@require_http_methods(["GET", "POST"])
def rerun_one(request: Request, workspace: str, pk: int, node: int) -> HttpResponse:
    """The dialog that runs a node again, alone or with what is below it, in its run."""
    row = _node(request, pk, node)
    require(request, needed_to_operate(row.run))
    form = RerunForm(request.POST or None)
    if form.is_valid():
        downstream = form.cleaned_data["scope"] == "downstream"
        try:
            scope = rerun_scope(row.run, row.key, downstream=downstream)
            names = rerun_nodes(row.run, scope, user=request.user)
        except Conflict as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, f"Runs again: {', '.join(names)}.")
            return go(request, _at(row, workspace))
    plans, refused = _plans(row)
    context = {
        "form": form,
        "node": row,
        "plans": plans,
        "refused": refused,
        # Where nothing is below the node, both choices mean the same.
        "has_below": len(plans) > 1 and plans[0][1] != plans[1][1],
        "newer": newer_jobs(row.run, [row.key]) if row.run.state in RUN_ENDED else [],
        "newer_version": newer_version(row.run),
        "heading": f"Rerun {row.key}",
        "nav": "runs",
    }
    return fragment(request, "runs/_rerun.html", context)


def _plans(node: NodeRun) -> tuple[list[tuple[str, dict[str, list[tuple[str, str]]]]], str]:
    """What each choice of the rerun dialog would do: (mark, name) of the nodes of each fate.

    Second: why a choice cannot be; "" where all can.
    """
    plans, refused, over = [], "", node.run.state in RUN_ENDED
    for choice in ("node", "downstream"):
        scope = rerun_scope(node.run, node.key, downstream=choice == "downstream")
        try:
            plan = rerun_plan(node.run, scope)
        except Conflict as error:
            refused = str(error)
            continue
        fates = {"again": plan.again, "kept": plan.kept, "passed_over": plan.passed_over}
        shown = {
            fate: [(mark_of(each, over=over), each.key) for each in nodes]
            for fate, nodes in fates.items()
        }
        plans.append((choice, shown))
    return plans, refused


@require_http_methods(["GET", "POST"])
def rerun(request: Request, workspace: str, pk: int) -> HttpResponse:
    """The dialog that runs a run again as a new one; each change of it asks for the plan anew.

    `?node=` makes a node the one that the choices are about.
    """
    row = _run(request, pk)
    require(request, needed_to_operate(row))
    node = request.GET.get("node", "")
    sent = request.POST if request.method == "POST" else request.GET
    form = AnewForm(
        sent if request.method == "POST" or "scope" in sent else None, run=row, node=node
    )
    plan, refused = None, ""
    if not form.is_bound or form.is_valid():
        try:
            if request.method == "POST":
                again = rerun_anew(row, form.part, form.change, user=request.user)
                messages.success(request, f"Run {again.pk} is a rerun of run {pk}.")
                return go(request, reverse("runs:run", args=[workspace, again.pk]))
            plan = plan_anew(row, form.part, form.change)
        except Invalid as error:
            if form.is_bound:
                form.add_faults(error)
            else:
                refused = str(error)  # of what is preselected: another version may do
        except Conflict as error:
            if not form.is_bound:
                raise
            form.add_error(None, str(error))
    marks = {
        each.key: mark_of(each, over=True) for each in row.nodes.only("key", "state", "forced")
    }
    names: dict[str, list[str]] = (
        {}
        if plan is None
        else {
            "Runs again": plan.again,
            "Kept": list(plan.kept),
            "Left out": plan.left_out,
            "Not waited for": plan.passed_over,
            "Not in this version": plan.gone,
        }
    )
    context = {
        "form": form,
        "run": row,
        "plan": plan,
        "refused": refused,
        "fates": [
            (fate, [(marks.get(key, "pending"), key) for key in keys])
            for fate, keys in names.items()
            if keys or fate in ("Runs again", "Kept")
        ],
        "newer_version": newer_version(row),
        "heading": f"Rerun run {pk}",
        "nav": "runs",
    }
    return fragment(request, "runs/_anew.html", context)


@require_POST
def rerun_failed_anew(request: Request, workspace: str, pk: int) -> HttpResponse:
    """What has not succeeded, with the newest job versions, as a new run that keeps the rest."""
    row = _run(request, pk)
    require(request, needed_to_operate(row))
    again = rerun_anew(row, FAILED, user=request.user)
    messages.success(request, f"Run {again.pk} keeps what succeeded in run {pk} and runs the rest.")
    return go(request, reverse("runs:run", args=[workspace, again.pk]))


@require_POST
def rerun_rest(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _run(request, pk)
    require(request, needed_to_operate(row))
    names = rerun_failed(row, user=request.user)
    messages.success(request, f"Runs again: {', '.join(names)}.")
    return go(request, reverse("runs:run", args=[workspace, pk]))


@require_safe
def output(request: Request, workspace: str, pk: int, output: int) -> HttpResponseBase:
    """An output's bytes. A picture is shown as one; all else is a download."""
    mine = _runs(request).filter(pk=pk)
    row = get_object_or_404(Output.objects.filter(attempt__node_run__run__in=mine), pk=output)
    suffix = posixpath.splitext(row.name)[1].lower()
    try:
        with open_blob(row.sha256) as stored:
            content = stored.read()  # 20 MiB at most
    except FileNotFoundError:
        raise Http404 from None
    kind = TYPES.get(suffix, "application/octet-stream")
    response = download(content, row.name, content_type=kind, inline=suffix in TYPES)
    # It may be kept, and is asked for again each time: rights may go.
    response["Cache-Control"] = "private, no-cache"
    response["ETag"] = tag = f'"{row.sha256}"'
    assert isinstance(response, HttpResponse)  # noqa: S101 -- bytes, and no stream
    return get_conditional_response(request, etag=tag, response=response) or response


# --- logs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Watched:
    """What a stream follows, and by what session."""

    session: str
    workspace: int
    run: int
    node: int
    attempt: int
    log: AttemptLog


def _watched(request: Request, pk: int, node: int) -> _Watched:
    """Raises Http404 for a stranger, and for an attempt that there is not."""
    number = number_in(request.GET.get("attempt", ""))
    rows = Attempt.objects.filter(node_run=node, node_run__run=pk, node_run__run__in=_runs(request))
    attempt = rows.filter(number=number or 0).first()
    if attempt is None:
        raise Http404
    log = log_of(pk, node, attempt.number)
    session = request.session.session_key or ""
    return _Watched(session, request.workspace.pk, pk, node, attempt.number, log)


def _watched_for_long(request: Request, pk: int, node: int) -> _Watched:
    """As above, and the request's connection goes back to the pool: a stream is open as long
    as a page is, and there are more pages than connections."""
    try:
        return _watched(request, pk, node)
    finally:
        if not connection.in_atomic_block:  # then it is not this request's alone
            connection.close_if_unusable_or_obsolete()


def _ended(watched: _Watched) -> bool:
    """Whether nothing more can be written. To be asked before the file is read: in that order,
    "ended and nothing new" means that nothing new will come."""
    rows = Attempt.objects.filter(node_run=watched.node, number=watched.attempt)
    is_old = Q(ended_at__lt=Now() - timedelta(seconds=SHIPPED_SECONDS))
    ended_at, written, is_old = (
        rows.annotate(is_old=is_old).values_list("ended_at", "log_bytes", "is_old").get()
    )
    # The last part may still be on its way from another machine.
    try:
        return bool(ended_at) and (is_old or watched.log.size() >= written)
    except Unavailable:
        return False


@require_safe
def log(request: Request, workspace: str, pk: int, node: int) -> HttpResponse:
    """The next stretch as JSON, for pages that no stream gets through to."""
    watched = _watched(request, pk, node)
    ended = _ended(watched)
    offset = number_in(request.GET.get("from", "")) or 0
    found = text_from(watched.log, offset, ended=ended)
    data = {"from": found.start, "to": found.next, "text": found.text}
    return JsonResponse({**data, "ended": ended and found.next >= watched.log.size()})


#: Lines that the page shows around one that it goes to, and hits that it lists at once.
_AROUND = 500
_HITS = 100


@require_safe
def log_lines(request: Request, workspace: str, pk: int, node: int) -> HttpResponse:
    """The lines around the one that `line` names, as JSON, for a log that is not shown whole."""
    watched = _watched(request, pk, node)
    line = number_in(request.GET.get("line", "1"))
    if not line:
        return JsonResponse({"error": "lines are numbered from 1"}, status=422)
    found = lines_from(watched.log, max(line - _AROUND, 1), 2 * _AROUND)
    return JsonResponse({"lines": [asdict(each) for each in found.lines], "next": found.next})


@require_safe
def log_search(request: Request, workspace: str, pk: int, node: int) -> HttpResponse:
    """Lines with the text `q` in any case, from the offset `start` on, as JSON."""
    watched = _watched(request, pk, node)
    text = request.GET.get("q", "")[:1000]
    try:
        check_wanted(text)
    except Invalid as error:
        return JsonResponse({"error": str(error)}, status=422)
    start = number_in(request.GET.get("start", "")) or 0
    found = search(watched.log, text, start=start, limit=_HITS, ignore_case=True)
    return JsonResponse({"lines": [asdict(each) for each in found.lines], "next": found.next})


@require_safe
async def stream(request: Request, workspace: str, pk: int, node: int) -> HttpResponseBase:
    """Server-sent events of one attempt: `log` (id: the offset behind it), `state` when the
    run has moved, `end` when nothing more will come. Goes on where Last-Event-ID says."""
    watched = await sync_to_async(_watched_for_long)(request, pk, node)
    offset = number_in(request.headers.get("Last-Event-ID") or request.GET.get("from", "")) or 0
    response = StreamingHttpResponse(_events(watched, offset), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    return response


def _look(watched: _Watched) -> tuple[int, bool] | None:
    """(the run's revision, whether the attempt has ended), on a connection of its own thread.

    None: whoever follows it has logged out, is no longer active or no longer a member.
    """
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(watched.session)
    try:
        mine: QuerySet[Run] = Run.objects.visible_to(get_user(request))
        rows = mine.filter(pk=watched.run, workspace=watched.workspace)
        revision = rows.values_list("revision", flat=True).first()
        return None if revision is None else (revision, _ended(watched))
    finally:
        connection.close()


async def _events(watched: _Watched, offset: int) -> AsyncIterator[bytes]:
    began = asked = said = time.monotonic()
    look = sync_to_async(_look, thread_sensitive=False)
    read = sync_to_async(text_from, thread_sensitive=False)
    seen = await look(watched)
    yield b"retry: 2000\n\n"
    while seen is not None and time.monotonic() - began < STREAM_SECONDS:
        revision, ended = seen
        try:
            found = await read(watched.log, offset, ended=ended)
        except Unavailable:
            found = None
        if found is None:
            await asyncio.sleep(_AWAY_SECONDS)  # it goes on where it was when storage is back
        elif found.next > offset:
            data = {"from": found.start, "to": found.next, "text": found.text}
            yield _event("log", data, found.next)
            offset, said = found.next, time.monotonic()
        elif ended:
            yield _event("end", {}, offset)
            return
        else:
            await asyncio.sleep(LOOK_SECONDS)
        # Also while lines come without a pause: rights may go meanwhile.
        if time.monotonic() - asked >= ASK_SECONDS:
            asked = time.monotonic()
            seen = await look(watched)
            if seen and seen[0] != revision:
                yield _event("state", {"revision": seen[0]}, offset)
                said = asked
        if time.monotonic() - said >= PING_SECONDS:
            said = time.monotonic()
            yield b": still here\n\n"


def _event(name: str, data: dict[str, Any], offset: int) -> bytes:
    return f"id: {offset}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()


@require_safe
async def raw_log(request: Request, workspace: str, pk: int, node: int) -> HttpResponseBase:
    """The whole log as it was written, to keep."""
    watched = await sync_to_async(_watched_for_long)(request, pk, node)

    async def chunks() -> AsyncIterator[bytes]:
        offset = 0
        while True:
            found = await asyncio.to_thread(watched.log.read, offset, 1 << 20)
            if found.left_out:
                yield f"\n[{found.left_out:,} bytes were left out here]\n".encode()
            if not found.data:
                return
            yield found.data
            offset = found.next

    name = f"run-{pk}-node-{node}-attempt-{watched.attempt}.log"
    return download(chunks(), name, content_type="text/plain; charset=utf-8")
