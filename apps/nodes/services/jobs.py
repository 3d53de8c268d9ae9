"""Jobs: the draft, and the versions that production runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Max, ProtectedError

from apps.core.canonical import digest
from apps.core.errors import Conflict, FieldFault, Invalid
from apps.nodes.kinds.base import Kind
from apps.nodes.kinds.registry import UnknownKind
from apps.nodes.kinds.registry import kind as kind_named
from apps.nodes.models import File, Job, JobVersion
from apps.workspaces.models import ResourceQueue, User, Workspace

_PART = re.compile(r"[^\W_][\w .\-]{0,99}|_[\w.\-]{0,99}")


#: What would fail with a version that is not published yet: filled by those who use jobs.
UserOfJobs = Callable[[JobVersion], list[FieldFault]]
_users: list[UserOfJobs] = []


def asked_before_publish(user_of_jobs: UserOfJobs) -> UserOfJobs:
    """Have a function say, before a job is published, what would fail with the new version."""
    _users.append(user_of_jobs)
    return user_of_jobs


def create_job(
    workspace: Workspace,
    path: str,
    kind: str,
    *,
    user: User | None,
    spec: dict[str, Any] | None = None,
    queue: ResourceQueue | None = None,
) -> Job:
    """A job with a draft. Raises Invalid for a path or kind, Conflict for a path that is taken.

    A draft may still be incomplete: what it lacks is said when it is published or run.
    """
    check_job_path(path)
    _kind(kind)
    job = Job(
        workspace=workspace, path=path, kind=kind, draft=spec or {}, queue=queue, created_by=user
    )
    try:
        with transaction.atomic():
            job.save()
    except IntegrityError:
        raise Conflict(f"there is a job {path!r} already; choose another path") from None
    return job


@transaction.atomic
def save_draft(
    job: Job, spec: dict[str, Any], *, revision: int, queue: ResourceQueue | None = None
) -> Job:
    """Save a draft that was edited from `revision`.

    Raises Conflict if someone saved another meanwhile, with that job as `current`.
    """
    current = Job.objects.select_for_update().get(pk=job.pk)
    if current.revision != revision:
        raise Conflict(
            f"the draft of {current.path!r} is at revision {current.revision}, yours began at "
            f"{revision}; load it anew and make your change there",
            current=current,
        )
    current.draft, current.queue, current.revision = spec, queue, revision + 1
    current.save(update_fields=["draft", "queue", "revision", "updated_at"])
    return current


@transaction.atomic
def move_job(job: Job, path: str) -> Job:
    """Give a job another path; nodes keep it by id. Raises Invalid, Conflict."""
    check_job_path(path)
    job.path = path
    try:
        with transaction.atomic():
            job.save(update_fields=["path", "updated_at"])
    except IntegrityError:
        raise Conflict(f"there is a job {path!r} already; choose another path") from None
    return job


def delete_job(job: Job) -> None:
    """Raises Conflict, naming them, while workflows use it or runs of it are kept."""
    users = sorted(set(job.nodes.values_list("workflow__name", flat=True)))
    if users:
        raise Conflict(
            f"job {job.path!r} is used by {', '.join(users[:10])}; take it out there first"
        )
    try:
        with transaction.atomic():
            job.delete()
    except (ProtectedError, IntegrityError):
        raise Conflict(
            f"job {job.path!r} has runs that are still kept; it can be deleted when they are gone"
        ) from None


@transaction.atomic
def publish_job(job: Job, *, remarks: str, user: User | None) -> JobVersion:
    """Freeze the draft as the next version; every launch from now on takes it.

    The workspace files that it names are fixed with it, byte for byte.

    Raises Invalid with every fault of the draft, and of what uses the job and would fail with
    this version; Conflict if nothing has changed.
    """
    # What is published is read after the lock: a publish that this one waited for changed it.
    job = Job.objects.select_for_update().get(pk=job.pk)
    version = _frozen(job, user, hold=True)
    if faults := [fault for users in _users for fault in users(version)]:
        raise Invalid(faults)
    if job.published and job.published.digest == version.digest:
        raise Conflict(
            f"job {job.path!r} has not changed since version {job.published.number}; "
            "there is nothing to publish"
        )
    last = job.versions.aggregate(last=Max("number"))["last"]
    version.number, version.remarks = (last or 0) + 1, remarks
    version.save()
    Job.objects.filter(pk=job.pk).update(published=version)
    return version


@transaction.atomic
def draft_version(job: Job, *, user: User | None) -> JobVersion:
    """The draft frozen for one run, without a number. Raises Invalid with all its faults."""
    version = _frozen(job, user, hold=True)
    version.save()
    return version


def draft_faults(job: Job) -> list[FieldFault]:
    """Everything that keeps a draft from being published."""
    try:
        _frozen(job, None)
    except Invalid as error:
        return list(error.faults)
    return []


def draft_differs(job: Job) -> bool:
    """Whether publishing the draft would make another version than the published one."""
    if job.published is None:
        return True
    try:
        return _frozen(job, None).digest != job.published.digest
    except Invalid:
        return True


def _frozen(job: Job, user: User | None, *, hold: bool = False) -> JobVersion:
    """The draft as a version, not saved. `hold`: its files stay until the transaction ends."""
    kind = _kind(job.kind)
    faults = [FieldFault(fault.field, str(fault)) for fault in kind.validate(job.draft)]
    files, missing = _files(job, kind, hold) if not faults else ({}, [])
    if faults or missing:
        raise Invalid(faults + missing)
    return JobVersion(
        job=job,
        kind=job.kind,
        spec=job.draft,
        files=files,
        queue=job.queue,
        digest=digest([job.kind, job.draft, files, job.queue_id]),
        created_by=user,
    )


def _files(job: Job, kind: Kind, hold: bool) -> tuple[dict[str, str], list[FieldFault]]:
    """Path -> sha256 of the files that a draft names, and a fault for each that is not there."""
    named = kind.files_of(job.draft)
    files = File.objects.filter(workspace=job.workspace_id, path__in=named)
    if hold:
        files = files.select_for_update(no_key=True)
    there = dict(files.values_list("path", "sha256"))
    faults = [
        FieldFault(
            "files", f"there is no file {path!r} in this workspace; upload it or correct the path"
        )
        for path in sorted(named - there.keys())
    ]
    return there, faults


def _kind(name: str) -> Kind:
    try:
        return kind_named(name)
    except UnknownKind as error:
        raise Invalid(str(error), "kind") from None


def check_job_path(path: str) -> None:
    """Job paths stand in URLs, trees and file names: `folder/name`, up to 255 characters."""
    if len(path) > 255 or not all(_PART.fullmatch(part) for part in path.split("/")):
        raise Invalid(
            f"{path[:300]!r} is no path of a job; write folders and a name such as "
            "etl/clean_flights, of letters, digits, spaces, '_', '-' and '.'",
            "path",
        )
