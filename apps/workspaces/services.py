"""What a fresh installation holds: its first administrator, and workspaces with their queues."""

from __future__ import annotations

import os
import secrets

from django.db import transaction

from apps.workspaces.models import ResourceQueue, User, Workspace

ADMIN = "admin"


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


@transaction.atomic
def ensure_workspace(name: str) -> Workspace:
    """The workspace of this name; a new one starts with its two queues.

    Their capacity of four times the machine's cores lets a machine take more than it has
    cores for, since most jobs wait more than they compute.
    """
    workspace, is_new = Workspace.objects.get_or_create(name=name)
    if is_new:
        capacity = 4_000 * (os.cpu_count() or 1)
        ResourceQueue.objects.bulk_create(
            [
                ResourceQueue(
                    workspace=workspace, name="dev_queue", capacity=capacity, development=True
                ),
                ResourceQueue(
                    workspace=workspace, name="root_queue", capacity=capacity, production=True
                ),
            ]
        )
    return workspace
