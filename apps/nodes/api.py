"""REST: jobs, their drafts and versions, and files."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.core.files.storage import default_storage
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.endpoint import Endpoint
from apps.core.api.fields import (
    Flag,
    PageQuery,
    PriorityWord,
    Strict,
    Text,
    VersionBrief,
    Whole,
    page_example,
    page_of,
)
from apps.core.api.operation import Bytes, Place, operation
from apps.core.api.problems import FaultSerializer, TooLarge
from apps.core.errors import FieldFault, Invalid, NotFound, faults_of
from apps.core.http import download
from apps.engine.roles import Permission
from apps.engine.states import Trigger
from apps.nodes.kinds.base import Kind
from apps.nodes.kinds.fields import PARAMETERS
from apps.nodes.kinds.registry import UnknownKind, kinds
from apps.nodes.kinds.registry import kind as kind_named
from apps.nodes.models import File, Job, JobVersion
from apps.nodes.rights import needed_to_remove
from apps.nodes.services.files import blob_name, check_path, delete_file, open_blob, put_file
from apps.nodes.services.jobs import (
    check_job_path,
    create_job,
    delete_job,
    draft_version,
    move_job,
    publish_job,
    save_draft,
)
from apps.runs.services.launch import launch
from apps.workspaces.api import queue_named
from apps.workspaces.models import ResourceQueue, TokenScope
from apps.workspaces.selectors import require

#: Bytes of one uploaded file.
FILE_BYTES = 1 << 30
_CHUNK = 1 << 20

# --- shapes ---------------------------------------------------------------------------------


def spec_schema() -> dict[str, Any]:
    """Any kind's spec. A draft may lack what the kind requires."""
    shapes = [
        {k: v for k, v in each.schema().items() if k != "required"} for each in kinds().values()
    ]
    return {"anyOf": shapes, "description": "What the job is, by its kind."}


@extend_schema_field(spec_schema())
class SpecField(serializers.JSONField):
    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, dict):
            raise serializers.ValidationError("is no object; give one")
        return super().to_internal_value(data)


class ParametersField(serializers.DictField):
    """Names and strings, judged as a job's own parameters are."""

    child = Text(allow_blank=True)

    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        if faults := list(PARAMETERS.faults(values)):
            raise serializers.ValidationError(faults)
        return values


class JobBriefSerializer(serializers.Serializer):
    """A job without its spec."""

    id = serializers.IntegerField()
    path = serializers.CharField(help_text="Folders and name.")
    kind = serializers.CharField()
    queue = serializers.CharField(
        source="queue.name",
        allow_null=True,
        help_text="Where it runs by itself; default of the nodes that use it.",
    )
    revision = serializers.IntegerField(help_text="Of the draft; grows with every save.")
    published = VersionBrief(allow_null=True, help_text="What production runs take.")
    created_by = serializers.CharField(source="created_by.username", allow_null=True)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class JobSerializer(JobBriefSerializer):
    spec = SpecField(source="draft")
    faults = serializers.SerializerMethodField(
        help_text="What keeps the draft from being published; whether its files are there is "
        "looked at then."
    )

    @extend_schema_field(FaultSerializer(many=True))
    def get_faults(self, job: Job) -> list[dict[str, str]]:
        try:
            found = kind_named(job.kind).validate(job.draft)
        except UnknownKind as error:
            return [{"field": "kind", "message": str(error)}]
        return [{"field": each.field, "message": each.message} for each in found]


class JobVersionBriefSerializer(VersionBrief):
    kind = serializers.CharField()
    created_by = serializers.CharField(source="created_by.username", allow_null=True)


class JobVersionSerializer(JobVersionBriefSerializer):
    spec = SpecField()
    files = serializers.DictField(
        child=serializers.CharField(), help_text="Path to SHA-256, fixed when it was published."
    )


class JobQuery(PageQuery):
    folder = serializers.CharField(required=False, help_text="Jobs in it and in folders below.")
    q = serializers.CharField(required=False, help_text="Part of the path.")
    path = serializers.CharField(required=False, help_text="The whole path: one job or none.")
    kind = serializers.CharField(required=False)


class JobCreateSerializer(Strict):
    path = Text(max_length=255, help_text="Folders and name, such as etl/clean_flights.")
    kind = Text(max_length=32)
    spec = SpecField(default=dict)
    queue = Text(max_length=64, allow_null=True, default=None)


class JobMoveSerializer(Strict):
    path = Text(max_length=255)


class JobDraftSerializer(Strict):
    spec = SpecField()
    queue = Text(
        max_length=64, allow_null=True, required=False, help_text="Left out it stays; null: none."
    )
    revision = Whole(minimum=1, required=False, help_text="Or send its ETag as If-Match.")


class PublishSerializer(Strict):
    remarks = Text(max_length=2000, allow_blank=True, default="")


class LaunchSerializer(Strict):
    """How a run is started by hand."""

    version = Whole(
        minimum=1, required=False, help_text="A published version; without it the newest."
    )
    queue = Text(
        max_length=64,
        allow_null=True,
        default=None,
        help_text="For every node; without it each takes its own.",
    )
    priority = PriorityWord(
        allow_null=True,
        default=None,
        help_text="For every node; without it each has its own.",
    )
    parameters = ParametersField(
        default=dict, help_text="They win over the job's own, and reach it as its environment."
    )
    remarks = Text(max_length=2000, allow_blank=True, default="")


class JobLaunchSerializer(LaunchSerializer):
    draft = Flag(
        default=False,
        help_text="Run the draft, in a development queue, instead of a published version.",
    )


class StartedSerializer(serializers.Serializer):
    runs = serializers.ListField(child=serializers.IntegerField(), help_text="Ids of the runs.")


IF_MATCH = {"If-Match": "ETag of the draft that the edit began at, instead of `revision`."}
STARTED = {"runs": [118]}
VERSION = {
    "number": 2,
    "remarks": "reads the new format",
    "digest": "5f0c6b5b9ea4ba5a8b1b5a3a6f3d5a2e6d8f3f0e2a9c1d7b4e5f6a7b8c9d0e1f",
    "created_at": "2025-11-20T08:05:00Z",
}
SPEC = {"content": "wc -l flights.csv", "parameters": {"since": "2025-11-01"}}
JOB_BRIEF = {
    "id": 7,
    "path": "etl/count_flights",
    "kind": "shell",
    "queue": "root_queue",
    "revision": 3,
    "published": VERSION,
    "created_by": "maya",
    "created_at": "2025-11-20T08:00:00Z",
    "updated_at": "2025-11-20T08:04:00Z",
}
JOB = {**JOB_BRIEF, "spec": SPEC, "faults": []}
JOB_VERSION_BRIEF = {**VERSION, "kind": "shell", "created_by": "maya"}
JOB_VERSION = {**JOB_VERSION_BRIEF, "spec": SPEC, "files": {}}


# --- jobs -----------------------------------------------------------------------------------


class JobEndpoints(Endpoint):
    tag = "Jobs"
    places = {
        "job": Place("Id of the job.", "7"),
        "number": Place("Number of the published version.", "2"),
    }
    shows = JobSerializer

    def jobs(self) -> QuerySet[Job]:
        rows: QuerySet[Job] = self.visible(Job.objects.all())
        return rows.select_related("queue", "published", "created_by")

    def job(self, pk: int) -> Job:
        row: Job = self.one(self.jobs(), "job", pk=pk)
        return row

    def version(self, job: Job, number: int) -> JobVersion:
        rows = job.versions.select_related("created_by", "job__queue")
        version: JobVersion = self.one(rows, f"version of {job.path!r} with number", number=number)
        return version


class JobsEndpoint(JobEndpoints):
    @operation(
        "list_jobs",
        "List jobs",
        permission=Permission.VIEW,
        query=JobQuery,
        answers={200: page_of(JobBriefSerializer)},
        shows=page_example(JOB_BRIEF),
    )
    def get(self, request: Request, workspace: str) -> Response:
        query = self.query
        rows = self.jobs().defer("draft", "published__spec", "published__files")
        if folder := query.get("folder"):
            rows = rows.filter(path__startswith=f"{folder.strip('/')}/")
        if wanted := query.get("q"):
            rows = rows.filter(path__icontains=wanted)
        exact = {name: query[name] for name in ("path", "kind") if name in query}
        return self.page(rows.filter(**exact), JobBriefSerializer)

    @operation(
        "create_job",
        "Create a job",
        permission=Permission.EDIT_JOB,
        body=JobCreateSerializer,
        answers={201: JobSerializer},
        example={
            "path": "etl/count_flights",
            "kind": "shell",
            "spec": SPEC,
            "queue": "root_queue",
        },
        shows={**JOB, "revision": 1, "published": None},
    )
    def post(self, request: Request, workspace: str) -> Response:
        """Its draft may be incomplete: `faults` says what it lacks. What is given must be right."""
        data = self.body(self.faults)
        queue = queue_named(self.workspace, data["queue"])
        job = create_job(
            self.workspace,
            data["path"],
            data["kind"],
            user=request.user,
            spec=data["spec"],
            queue=queue,
        )
        return self.draft(job, status=201)

    def faults(self, sent: Mapping[str, Any]) -> Iterator[FieldFault]:
        path, kind, queue = sent.get("path"), sent.get("kind"), sent.get("queue")
        if isinstance(path, str):
            yield from faults_of(check_job_path, path)
        if isinstance(kind, str):
            yield from faults_of(check_given, kind, sent.get("spec"))
        if isinstance(queue, str):
            yield from faults_of(queue_named, self.workspace, queue)


class JobEndpoint(JobEndpoints):
    @operation(
        "get_job",
        "Get a job with its draft",
        permission=Permission.VIEW,
        answers={200: JobSerializer},
        shows=JOB,
    )
    def get(self, request: Request, workspace: str, job: int) -> Response:
        """The ETag is the draft's revision."""
        return self.draft(self.job(job))

    @operation(
        "move_job",
        "Move or rename a job",
        permission=Permission.EDIT_JOB,
        body=JobMoveSerializer,
        answers={200: JobSerializer},
        example={"path": "warehouse/clean_flights"},
        shows={**JOB, "path": "warehouse/clean_flights"},
    )
    def patch(self, request: Request, workspace: str, job: int) -> Response:
        """Nodes keep a job by its id, so nothing that uses it breaks."""
        row = self.job(job)
        require(request.user, self.workspace, needed_to_remove(row))
        return self.draft(move_job(row, **self.body()))

    @operation(
        "delete_job",
        "Delete a job",
        permission=Permission.EDIT_JOB,
        answers={204: None},
    )
    def delete(self, request: Request, workspace: str, job: int) -> Response:
        """Refused while workflows use it, or runs of it are kept."""
        row = self.job(job)
        require(request.user, self.workspace, needed_to_remove(row))
        delete_job(row)
        return Response(status=204)


class JobDraftEndpoint(JobEndpoints):
    @operation(
        "save_job_draft",
        "Save a job's draft",
        permission=Permission.EDIT_JOB,
        body=JobDraftSerializer,
        headers=IF_MATCH,
        answers={200: JobSerializer},
        example={"revision": 3, "spec": SPEC},
        shows={**JOB, "revision": 4},
    )
    def put(self, request: Request, workspace: str, job: int) -> Response:
        """The whole spec. Of two who began at the same revision the second gets 409, and in
        `current` what stands there now."""
        row = self.job(job)

        def faults(sent: Mapping[str, Any]) -> Iterator[FieldFault]:
            yield from faults_of(check_given, row.kind, sent.get("spec"))
            if isinstance(sent.get("queue"), str):
                yield from faults_of(queue_named, self.workspace, sent["queue"])
            if sent.get("revision") is None:
                yield from faults_of(self.revision, None)

        data = self.body(faults)
        revision = self.revision(data.get("revision"))
        queue = queue_named(self.workspace, data["queue"]) if "queue" in data else row.queue
        return self.draft(save_draft(row, data["spec"], revision=revision, queue=queue))


class JobPublishEndpoint(JobEndpoints):
    @operation(
        "publish_job",
        "Publish a job's draft",
        permission=Permission.PUBLISH_JOB,
        body=PublishSerializer,
        answers={201: JobVersionSerializer},
        example={"remarks": "reads the new format"},
        shows=JOB_VERSION,
    )
    def post(self, request: Request, workspace: str, job: int) -> Response:
        """Every run from now on takes it. Refused with every fault of the draft, and where
        nothing has changed."""
        version = publish_job(self.job(job), user=request.user, **self.body())
        return Response(JobVersionSerializer(version).data, status=201)


class JobVersionsEndpoint(JobEndpoints):
    @operation(
        "list_job_versions",
        "List a job's versions",
        permission=Permission.VIEW,
        query=PageQuery,
        answers={200: page_of(JobVersionBriefSerializer)},
        shows=page_example(JOB_VERSION_BRIEF),
    )
    def get(self, request: Request, workspace: str, job: int) -> Response:
        """Without what each holds, which may be long; the address of each has it."""
        rows = self.job(job).versions.filter(number__isnull=False).select_related("created_by")
        return self.page(rows.defer("spec", "files"), JobVersionBriefSerializer)


class JobVersionEndpoint(JobEndpoints):
    @operation(
        "get_job_version",
        "Get a version of a job",
        permission=Permission.VIEW,
        answers={200: JobVersionSerializer},
        shows=JOB_VERSION,
    )
    def get(self, request: Request, workspace: str, job: int, number: int) -> Response:
        return Response(JobVersionSerializer(self.version(self.job(job), number)).data)


class JobRunEndpoint(JobEndpoints):
    @operation(
        "run_job",
        "Run a job once",
        permission=Permission.EDIT_JOB,
        scope=TokenScope.RUN,
        body=JobLaunchSerializer,
        answers={201: StartedSerializer},
        example={"parameters": {"since": "2025-11-19"}, "remarks": "after the repair"},
        shows=STARTED,
    )
    def post(self, request: Request, workspace: str, job: int) -> Response:
        """A published version runs in a production queue, and needs the right to start runs. A
        draft runs in a development queue: the one named, the job's own, or the first."""
        data = self.body()
        if not data["draft"]:
            require(request.user, self.workspace, Permission.RUN)
        row = self.job(job)
        queue = queue_named(self.workspace, data["queue"])
        with transaction.atomic():
            if data["draft"]:
                if "version" in data:
                    raise Invalid("is of no use with draft; send one of the two", "version")
                what, trigger = draft_version(row, user=request.user), Trigger.DEBUG
                queue = queue or self.development_queue(row)
            else:
                what, trigger = self.chosen(row, data.get("version")), Trigger.API
            runs = launch(
                what,
                cycles=[timezone.now()],
                trigger=trigger,
                by=request.user,
                queue=queue,
                priority=data["priority"],
                parameters=data["parameters"],
                remarks=data["remarks"],
            )
        return Response({"runs": [run.pk for run in runs]}, status=201)

    def chosen(self, job: Job, number: int | None) -> JobVersion:
        if number is not None:
            return self.version(job, number)
        if job.published is None:
            raise Invalid(f"job {job.path!r} is not published; publish it, or run its draft")
        return job.published

    def development_queue(self, job: Job) -> ResourceQueue | None:
        if job.queue and job.queue.development:
            return job.queue
        return self.workspace.queues.filter(development=True).first()


def check_given(kind: str, spec: Any) -> None:
    """Raise Invalid with what is wrong in a spec, less what it only lacks: a draft may.

    What is no object is for the body's own check to say.
    """
    try:
        known: Kind = kind_named(kind)
    except UnknownKind as error:
        raise Invalid(str(error), "kind") from None
    if not isinstance(spec, dict):
        return
    faults = [
        FieldFault(f"spec.{fault.field}", fault.message)
        for fault in known.validate(spec)
        if _is_given(spec, fault.field)
    ]
    if faults:
        raise Invalid(faults)


def _is_given(spec: dict[str, Any], name: str) -> bool:
    section, _, inner = name.rpartition(".")
    holder, key = (spec, name) if name in spec else (spec.get(section), inner)
    value = holder.get(key) if isinstance(holder, dict) else None
    return value not in (None, "", [], {})


# --- files ----------------------------------------------------------------------------------


class FileSerializer(serializers.Serializer):
    path = serializers.CharField()
    size = serializers.IntegerField(help_text="In bytes.")
    sha256 = serializers.CharField()
    uploaded_by = serializers.CharField(source="uploaded_by.username", allow_null=True)
    uploaded_at = serializers.DateTimeField()


class FileQuery(PageQuery):
    folder = serializers.CharField(required=False, help_text="Files in it and in folders below.")
    q = serializers.CharField(required=False, help_text="Part of the path.")


FILE = {
    "path": "etl/load.py",
    "size": 1204,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "uploaded_by": "maya",
    "uploaded_at": "2025-11-20T08:00:00Z",
}


class FileEndpoints(Endpoint):
    tag = "Files"
    places = {"path": Place("Path of the file, such as jars/app.jar.", "etl/load.py", str)}

    def files(self) -> QuerySet[File]:
        rows: QuerySet[File] = self.visible(File.objects.all())
        return rows.select_related("uploaded_by")

    def file(self, path: str) -> File:
        row: File = self.one(self.files(), "file", path=path)
        return row


class FilesEndpoint(FileEndpoints):
    @operation(
        "list_files",
        "List files",
        permission=Permission.VIEW,
        query=FileQuery,
        answers={200: page_of(FileSerializer)},
        shows=page_example(FILE),
    )
    def get(self, request: Request, workspace: str) -> Response:
        query, wanted = self.query, Q()
        if folder := query.get("folder"):
            wanted &= Q(path__startswith=f"{folder.strip('/')}/")
        if part := query.get("q"):
            wanted &= Q(path__icontains=part)
        return self.page(self.files().filter(wanted), FileSerializer)


class FileEndpoint(FileEndpoints):
    @operation(
        "download_file",
        "Download a file",
        permission=Permission.VIEW,
        answers={200: Bytes()},
    )
    def get(self, request: Request, workspace: str, path: str) -> HttpResponseBase:
        row = self.file(path)
        return stored_bytes(row.sha256, row.size, posixpath.basename(row.path))

    @operation(
        "upload_file",
        "Upload a file",
        permission=Permission.EDIT_FILE,
        body=Bytes(),
        answers={200: FileSerializer},
        shows=FILE,
    )
    def put(self, request: Request, workspace: str, path: str) -> Response:
        """The body is the file, byte for byte. What stood there before is replaced; published
        versions of jobs keep the bytes that they had."""
        check_path(path)
        source: HttpRequest = request._request
        with tempfile.SpooledTemporaryFile(max_size=8 << 20) as content:
            size = 0
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > FILE_BYTES:
                    raise TooLarge(f"the file is too large; {FILE_BYTES >> 30} GiB are allowed")
                content.write(chunk)
            row = put_file(self.workspace, path, content, user=request.user)
        return Response(FileSerializer(row).data)

    @operation(
        "delete_file",
        "Delete a file",
        permission=Permission.EDIT_FILE,
        answers={204: None},
    )
    def delete(self, request: Request, workspace: str, path: str) -> Response:
        """Published versions of jobs keep the bytes that they had."""
        delete_file(self.file(path))
        return Response(status=204)


def stored_bytes(sha256: str, size: int, name: str) -> HttpResponseBase:
    """Bytes of the storage as a download. Raises NotFound where they are gone."""
    if not default_storage.exists(blob_name(sha256)):
        raise NotFound(f"the bytes of {name!r} are no longer kept")

    async def chunks() -> AsyncIterator[bytes]:
        # Opened here: the answer to a HEAD is never read, and nobody would close it.
        with await sync_to_async(open_blob, thread_sensitive=False)(sha256) as stored:
            while chunk := await sync_to_async(stored.read, thread_sensitive=False)(_CHUNK):
                yield chunk

    response = download(chunks(), name, content_type="application/octet-stream")
    response["Content-Length"] = str(size)
    return response
