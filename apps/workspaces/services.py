"""Making and changing workspaces, their people, their queues and tokens."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import zoneinfo
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.utils import timezone

from apps.core.errors import Conflict, FieldFault, Invalid
from apps.engine.roles import Role
from apps.workspaces.models import (
    ApiToken,
    Member,
    ResourceQueue,
    TokenScope,
    User,
    Workspace,
    WorkspaceHold,
)

ADMIN = "admin"
#: Every workspace starts with these; the second cannot be deleted.
DEV_QUEUE, ROOT_QUEUE = "dev_queue", "root_queue"
#: Not local[n]: how many tasks run at once is said by each job, which pays for them.
_MASTER = re.compile(
    r"local|yarn|spark://[^\s/:,]+:\d{1,5}(?:,[^\s/:,]+:\d{1,5})*"
    r"|k8s://(?:https?://)?[^\s/:]+(?::\d{1,5})?(?:/\S*)?"
)
#: A token in clear begins with this, so that scanners of repositories find a leaked one.
TOKEN_PREFIX = "runyard_"  # noqa: S105 -- the part that is no secret


@transaction.atomic
def first_admin() -> str | None:
    """Make the user `admin` where there is no user yet, and return the password.

    It is kept nowhere in clear: whoever calls shows it, once. None where users exist.
    """
    if User.objects.exists():
        return None
    password = secrets.token_urlsafe(12)
    User.objects.create_superuser(username=ADMIN, password=password)
    return password


def ensure_workspace(name: str) -> Workspace:
    """The workspace of this name, made where there is none."""
    return Workspace.objects.filter(name=name).first() or create_workspace(name)


@transaction.atomic
def create_workspace(name: str, *, owner: User | None = None, zone: str = "UTC") -> Workspace:
    """A workspace with its two queues, and its first owner.

    Their capacity of four times the machine's cores lets a machine take more than it has
    cores for, since most jobs wait more than they compute.

    Raises Invalid for a name or zone that is not allowed, Conflict for a name that is taken.
    """
    if zone not in zoneinfo.available_timezones():
        raise Invalid(f"{zone!r} is no time zone; use an IANA name such as Europe/Berlin", "zone")
    workspace = Workspace(name=name, zone=zone)
    _clean(workspace)
    try:
        with transaction.atomic():
            workspace.save()
    except IntegrityError:
        raise Conflict(f"there is a workspace {name!r} already; choose another name") from None
    capacity = 4_000 * (os.cpu_count() or 1)
    create_queue(workspace, DEV_QUEUE, capacity=capacity, development=True, production=False)
    create_queue(workspace, ROOT_QUEUE, capacity=capacity, development=False, production=True)
    if owner is not None and not owner.is_superuser:
        Member.objects.create(workspace=workspace, user=owner, role=Role.OWNER)
    return workspace


def create_queue(
    workspace: Workspace,
    name: str,
    *,
    capacity: int,
    development: bool,
    production: bool,
    description: str = "",
    spark_master: str = "local",
) -> ResourceQueue:
    """A resource queue; `capacity` in thousandths of a CU. Held where its workspace is.

    Raises Invalid, Conflict.
    """
    queue = ResourceQueue(
        workspace=workspace,
        name=name,
        capacity=capacity,
        development=development,
        production=production,
        description=description,
        spark_master=spark_master,
    )
    _check_queue(queue)
    try:
        with transaction.atomic():
            # Under lock, so that none slips past a hold on the workspace that is being made.
            Workspace.objects.select_for_update(no_key=True).get(pk=workspace.pk)
            on_all = {"queue": None, "tag_key": "", "released_at": None}
            queue.held = WorkspaceHold.objects.filter(workspace=workspace, **on_all).exists()
            queue.save()
    except IntegrityError:
        raise Conflict(f"there is a queue {name!r} already; choose another name") from None
    return queue


@transaction.atomic
def edit_queue(
    queue: ResourceQueue,
    *,
    capacity: int,
    development: bool,
    production: bool,
    description: str,
    spark_master: str,
) -> ResourceQueue:
    """Change a queue; its name stays. A lowered capacity ends nothing that runs.

    Only these columns are written: `used` belongs to the hot path. Raises Invalid.
    """
    queue.capacity, queue.description, queue.spark_master = capacity, description, spark_master
    queue.development, queue.production = development, production
    _check_queue(queue)
    queue.save(
        update_fields=["capacity", "development", "production", "description", "spark_master"]
    )
    return queue


def delete_queue(queue: ResourceQueue) -> None:
    """Raises Conflict for `root_queue`, and for a queue that something uses."""
    if queue.name == ROOT_QUEUE:
        raise Conflict(f"{ROOT_QUEUE!r} cannot be deleted: a workspace's production runs need it")
    try:
        with transaction.atomic():
            queue.delete()
    except (ProtectedError, IntegrityError) as error:
        users = sorted({str(each) for each in getattr(error, "protected_objects", ())})
        raise Conflict(
            f"queue {queue.name!r} is in use by {', '.join(users[:10]) or 'past runs'}; "
            "move what uses it first"
        ) from None


def _check_queue(queue: ResourceQueue) -> None:
    faults = []
    if queue.capacity < 1:
        faults.append(FieldFault("capacity", "capacity must be more than 0 CU"))
    if not (queue.development or queue.production):
        faults.append(
            FieldFault("production", "choose development, production, or both as environment")
        )
    if queue.spark_master and not _MASTER.fullmatch(queue.spark_master):
        faults.append(FieldFault("spark_master", _master_fault(queue.spark_master)))
    _clean(queue, faults)


def _master_fault(master: str) -> str:
    if master.startswith("local"):
        return f"{master!r}: write local; how many tasks run at once each job says, by driver cores"
    return (
        f"{master!r} is no Spark master; write local, spark://host:port, yarn or "
        "k8s://https://host:port"
    )


def _clean(row: Workspace | ResourceQueue, faults: list[FieldFault] | None = None) -> None:
    """Raise Invalid with these faults and those of the model's own fields."""
    faults = list(faults or [])
    try:
        row.clean_fields()
    except ValidationError as error:
        known = {fault.field for fault in faults}
        faults += [
            FieldFault(field, f"{field}: {message}")
            for field, messages in error.message_dict.items()
            if field not in known
            for message in messages
        ]
    if faults:
        raise Invalid(faults)


def create_token(
    user: User,
    name: str,
    *,
    scope: TokenScope = TokenScope.READ,
    workspace: Workspace | None = None,
    expires_at: datetime | None = None,
) -> str:
    """A new API token in clear, to be shown once: only its SHA-256 is kept."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    ApiToken.objects.create(
        user=user,
        name=name,
        digest=_digest(token),
        scope=scope,
        workspace=workspace,
        expires_at=expires_at,
    )
    return token


def token_in_use(clear: str) -> ApiToken | None:
    """The token behind these words, if it is known, not expired, and its user active.

    Its last use is written at most once a minute.
    """
    now = timezone.now()
    found = ApiToken.objects.select_related("user", "workspace").filter(digest=_digest(clear))
    token = next(iter(found), None)  # its digest is unique; `first` would sort
    if token is None or not token.user.is_active:
        return None
    if token.expires_at is not None and token.expires_at <= now:
        return None
    if token.used_at is None or token.used_at < now - timedelta(minutes=1):
        ApiToken.objects.filter(pk=token.pk).update(used_at=now)
    return token


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
