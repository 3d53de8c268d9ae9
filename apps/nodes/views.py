"""Pages of jobs and files."""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import AsyncIterator
from itertools import groupby

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.core.files.storage import default_storage
from django.db.models import Q, QuerySet
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.core.errors import Conflict, Invalid
from apps.core.http import download, fragment, go, page
from apps.core.paging import newest_first
from apps.engine.roles import Permission
from apps.engine.states import Trigger
from apps.nodes.forms import CreateJobForm, MoveForm, RemarksForm, SpecForm, UploadForm
from apps.nodes.kinds.registry import kind as kind_named
from apps.nodes.kinds.registry import kinds
from apps.nodes.models import File, Job
from apps.nodes.rights import needed_to_remove
from apps.nodes.services.files import blob_name, delete_file, open_blob, put_file
from apps.nodes.services.jobs import (
    create_job,
    delete_job,
    draft_differs,
    draft_faults,
    draft_version,
    move_job,
    publish_job,
    save_draft,
)
from apps.runs.models import Run
from apps.runs.services.launch import launch
from apps.workspaces.access import Request, may, require
from apps.workspaces.models import ResourceQueue

#: What a list shows at once; the search narrows it.
LIST_LIMIT = 1000


def _jobs(request: Request) -> QuerySet[Job]:
    mine: QuerySet[Job] = Job.objects.visible_to(request.user)
    return mine.filter(workspace=request.workspace)


def _job(request: Request, pk: int) -> Job:
    rows = _jobs(request).select_related("published", "queue")
    row: Job = get_object_or_404(rows, pk=pk)
    return row


@require_safe
def jobs(request: Request, workspace: str) -> HttpResponse:
    """The tree of jobs: folders in order, each with its jobs."""
    wanted = request.GET.get("q", "").strip()
    rows = _jobs(request).select_related("published")
    if wanted:
        rows = rows.filter(path__icontains=wanted)
    found = list(rows.order_by("path").defer("draft", "published__spec")[: LIST_LIMIT + 1])
    ordered = sorted(found[:LIST_LIMIT], key=lambda job: (job.folder, job.name))
    folders = [(folder, list(group)) for folder, group in groupby(ordered, lambda job: job.folder)]
    context = {
        "folders": folders,
        "q": wanted,
        "more": len(found) > LIST_LIMIT,
        "nav": "jobs",
        "labels": {name: each.label for name, each in kinds().items()},
    }
    template = "nodes/_jobs.html" if request.htmx else "nodes/jobs.html"
    return render(request, template, context)


@require_http_methods(["GET", "POST"])
def job_create(request: Request, workspace: str) -> HttpResponse:
    require(request, Permission.EDIT_JOB)
    folder = request.GET.get("folder", "")
    initial = {"path": f"{folder}/" if folder else "", "kind": "python"}
    form = CreateJobForm(kinds().values(), request.POST or None, initial=initial)
    if form.is_valid():
        path, kind = form.cleaned_data["path"], form.cleaned_data["kind"]
        try:
            row = create_job(request.workspace, path, kind, user=request.user)
        except Invalid as error:
            form.add_faults(error)
        except Conflict as error:
            form.add_error("path", str(error))
        else:
            return go(request, reverse("nodes:job", args=[workspace, row.pk]))
    context = {"form": form, "heading": "Create job", "nav": "jobs", "kinds": kinds().values()}
    return fragment(request, "nodes/_job_create.html", context)


@require_http_methods(["GET", "POST"])
def job(request: Request, workspace: str, pk: int) -> HttpResponse:
    """The editor of a job's draft. Save, save and publish, save and run are one form."""
    row = _job(request, pk)
    kind = kind_named(row.kind)
    queues = ResourceQueue.objects.filter(workspace=request.workspace)
    initial = {
        **SpecForm.values_of(kind, row.draft),
        "queue": row.queue_id,
        "revision": row.revision,
    }
    form = SpecForm(kind, queues, request.POST or None, initial=initial)
    context = {
        "job": row,
        "differs": draft_differs(row),
        "kind": kind,
        "form": form,
        "nav": "jobs",
        "tab": "edit",
        "files": File.objects.filter(workspace=request.workspace).values_list("path", flat=True)[
            :LIST_LIMIT
        ],
    }
    if not may(request, Permission.EDIT_JOB):
        form.show_only()
    if request.method == "POST":
        require(request, Permission.EDIT_JOB)
        if form.is_valid():
            try:
                return _save(request, row, form)
            except Invalid as error:
                form.add_faults(error)
            except Conflict as error:
                return _overtaken(request, error, form, context)
    return page(request, "nodes/job.html", context)


def _save(request: Request, row: Job, form: SpecForm) -> HttpResponse:
    spec, queue = form.spec(), form.cleaned_data["queue"]
    if (spec, queue) != (row.draft, row.queue):
        row = save_draft(row, spec, revision=form.cleaned_data["revision"], queue=queue)
    elif form.cleaned_data["revision"] != row.revision:
        raise Conflict(f"the draft of {row.path!r} was saved meanwhile", current=row)
    here = [request.workspace.name, row.pk]
    match request.POST.get("then"):
        case "publish":
            return go(request, reverse("nodes:job-publish", args=here))
        case "run":
            return go(request, reverse("runs:run", args=[here[0], _run_draft(request, row).pk]))
    messages.success(request, f"Saved the draft of {row.path}.")
    return go(request, reverse("nodes:job", args=here))


def _run_draft(request: Request, row: Job) -> Run:
    """Run the draft once, in a development queue: the job's own if it is one."""
    queue = row.queue if row.queue and row.queue.development else None
    queue = queue or request.workspace.queues.filter(development=True).first()
    version = draft_version(row, user=request.user)
    [run] = launch(
        version, cycles=[timezone.now()], trigger=Trigger.DEBUG, by=request.user, queue=queue
    )
    return run


def _overtaken(
    request: Request, error: Conflict, form: SpecForm, context: dict[str, object]
) -> HttpResponse:
    """Someone saved meanwhile: what was typed stays, beside what stands there now.

    The form then names the newer revision, so that a second save knows what it replaces.
    """
    current: Job = error.current
    form.data = {**form.data.dict(), "revision": current.revision}  # type: ignore[attr-defined]
    text = form.text.name if form.text else ""
    theirs = SpecForm.values_of(form.kind, current.draft)
    mine = form.spec()
    lines = difflib.unified_diff(
        str(theirs.get(text) or "").splitlines(),
        str(mine.get(text) or "").splitlines(),
        f"revision {current.revision}, which stands there now",
        "yours, which is not saved",
        lineterm="",
    )
    changed = [
        declared.label
        for name, declared in form.declared.items()
        if name != text and theirs[name] != SpecForm.values_of(form.kind, mine)[name]
    ]
    context |= {"overtaken": error, "diff": "\n".join(lines), "changed": changed, "job": current}
    return render(request, "nodes/job.html", context, status=409)


@require_http_methods(["GET", "POST"])
def job_publish(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _job(request, pk)
    require(request, Permission.PUBLISH_JOB)
    form = RemarksForm(request.POST or None)
    if form.is_valid():
        try:
            version = publish_job(row, remarks=form.cleaned_data["remarks"], user=request.user)
        except Invalid as error:
            form.add_faults(error)
        except Conflict as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, f"Published {row.path} as v{version.number}.")
            return go(request, reverse("nodes:job", args=[workspace, pk]))
    users = row.nodes.filter(workflow__deleted_at=None).order_by("workflow__name")
    context = {
        "form": form,
        "job": row,
        "faults": draft_faults(row),
        "differs": draft_differs(row),
        "next": (row.published.number or 0) + 1 if row.published else 1,
        "users": sorted(set(users.values_list("workflow__name", flat=True))),
        "heading": f"Publish {row.path}",
        "nav": "jobs",
    }
    return fragment(request, "nodes/_job_publish.html", context)


@require_http_methods(["GET", "POST"])
def job_move(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _job(request, pk)
    require(request, needed_to_remove(row))
    form = MoveForm(request.POST or None, initial={"path": row.path})
    if form.is_valid():
        try:
            move_job(row, form.cleaned_data["path"])
        except Invalid as error:
            form.add_faults(error)
        except Conflict as error:
            form.add_error("path", str(error))
        else:
            return go(request, reverse("nodes:job", args=[workspace, pk]))
    context = {"form": form, "job": row, "heading": f"Move {row.path}", "nav": "jobs"}
    return fragment(request, "nodes/_job_move.html", context)


@require_POST
def job_delete(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _job(request, pk)
    require(request, needed_to_remove(row))
    delete_job(row)
    messages.success(request, f"Deleted job {row.path}.")
    return go(request, reverse("nodes:jobs", args=[workspace]))


@require_safe
def job_versions(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = _job(request, pk)
    versions = row.versions.filter(number__isnull=False).select_related("created_by")
    context = {
        "job": row,
        "versions": list(versions.order_by("-number")[:LIST_LIMIT]),
        "users": row.nodes.filter(workflow__deleted_at=None)
        .select_related("workflow")
        .order_by("workflow__name", "name"),
        "differs": draft_differs(row),
        "kind": kind_named(row.kind),
        "nav": "jobs",
        "tab": "versions",
    }
    return page(request, "nodes/job_versions.html", context)


@require_safe
def job_version(request: Request, workspace: str, pk: int, number: int) -> HttpResponse:
    """A version as it was published, to read."""
    row = _job(request, pk)
    version = get_object_or_404(row.versions.select_related("created_by", "queue"), number=number)
    form = SpecForm(
        kind_named(version.kind),
        ResourceQueue.objects.filter(workspace=request.workspace),
        initial={
            **SpecForm.values_of(kind_named(version.kind), version.spec),
            "queue": version.queue_id,
        },
    )
    form.show_only()
    context = {
        "job": row,
        "version": version,
        "form": form,
        "differs": draft_differs(row),
        "kind": kind_named(row.kind),
        "nav": "jobs",
        "tab": "versions",
    }
    return page(request, "nodes/job_version.html", context)


@require_safe
def job_runs(request: Request, workspace: str, pk: int) -> HttpResponse:
    """Runs of this job by itself."""
    row = _job(request, pk)
    mine: QuerySet[Run] = Run.objects.visible_to(request.user)
    found = mine.filter(job=row).select_related("created_by", "version").defer("version__graph")
    context = {
        "job": row,
        "page": newest_first(found, request.GET.get("before", "")),
        "differs": draft_differs(row),
        "kind": kind_named(row.kind),
        "nav": "jobs",
        "tab": "runs",
    }
    return page(request, "nodes/job_runs.html", context)


# --- files ----------------------------------------------------------------------------------


def _files(request: Request) -> QuerySet[File]:
    mine: QuerySet[File] = File.objects.visible_to(request.user)
    return mine.filter(workspace=request.workspace)


@require_safe
def files(request: Request, workspace: str) -> HttpResponse:
    wanted = request.GET.get("q", "").strip()
    rows = _files(request).select_related("uploaded_by")
    if wanted:
        rows = rows.filter(Q(path__icontains=wanted))
    found = list(rows[: LIST_LIMIT + 1])
    context = {
        "files": found[:LIST_LIMIT],
        "more": len(found) > LIST_LIMIT,
        "q": wanted,
        "nav": "files",
    }
    template = "nodes/_files.html" if request.htmx else "nodes/files.html"
    return render(request, template, context)


@require_http_methods(["GET", "POST"])
def file_upload(request: Request, workspace: str) -> HttpResponse:
    require(request, Permission.EDIT_FILE)
    form = UploadForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        content = form.cleaned_data["content"]
        path = form.cleaned_data["path"] or posixpath.basename(content.name)
        try:
            put_file(request.workspace, path, content.file, user=request.user)
        except Invalid as error:
            form.add_faults(error)
        else:
            messages.success(request, f"Uploaded {path}.")
            return go(request, reverse("nodes:files", args=[workspace]))
    context = {"form": form, "heading": "Upload file", "nav": "files"}
    return fragment(request, "nodes/_file_upload.html", context)


@require_safe
async def file(request: Request, workspace: str, pk: int) -> HttpResponseBase:
    """Download a file."""
    row = await sync_to_async(_file)(request, pk)

    async def chunks() -> AsyncIterator[bytes]:
        # Opened here: whoever hangs up before the first byte leaves nothing open.
        with await sync_to_async(open_blob)(row.sha256) as stored:
            while chunk := await sync_to_async(stored.read)(1 << 20):
                yield chunk

    response = download(
        chunks(), posixpath.basename(row.path), content_type="application/octet-stream"
    )
    response["Content-Length"] = str(row.size)
    return response


def _file(request: Request, pk: int) -> File:
    row: File = get_object_or_404(_files(request), pk=pk)
    if not default_storage.exists(blob_name(row.sha256)):
        raise Http404
    return row


@require_POST
def file_delete(request: Request, workspace: str, pk: int) -> HttpResponse:
    row: File = get_object_or_404(_files(request), pk=pk)
    require(request, Permission.EDIT_FILE)
    delete_file(row)
    messages.success(request, f"Deleted {row.path}. Published versions keep what they had.")
    return go(request, reverse("nodes:files", args=[workspace]))
