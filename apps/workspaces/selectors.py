"""Who may what, asked in one place by every door."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from django.contrib.auth.models import AnonymousUser
from django.db.models import QuerySet

from apps.core.errors import Denied, NotFound
from apps.engine.roles import Permission, Role, allows
from apps.workspaces.models import Member, ResourceQueue, User, Workspace, WorkspaceHold


def workspace_of(user: User | AnonymousUser, name: str) -> Workspace:
    """The workspace of this name. NotFound if there is none, or none that the user sees."""
    workspace = next(iter(Workspace.objects.visible_to(user).filter(name=name)), None)
    if workspace is None:
        raise NotFound(f"there is no workspace {name!r}, or it is not yours to see")
    return workspace


def role_in(workspace: Workspace, user: User | AnonymousUser) -> Role | None:
    """The user's role; None for a stranger. The platform's administrator owns everything."""
    if not user.is_active or user.is_anonymous:
        return None
    if user.is_superuser:
        return Role.OWNER
    member = Member.objects.filter(workspace=workspace, user=user).first()
    return Role(member.role) if member else None


def may(user: User | AnonymousUser, workspace: Workspace, permission: Permission) -> bool:
    return allows(role_in(workspace, user), permission)


def require(user: User | AnonymousUser, workspace: Workspace, permission: Permission) -> None:
    """Raise Denied unless the user's role in the object's own workspace allows it."""
    role = role_in(workspace, user)
    if not allows(role, permission):
        raise Denied(
            f"your role in workspace {workspace.name!r} is {role or 'none'}, which does not "
            f"allow {permission}; ask one of its owners"
        )


def production_queues(workspace: Workspace) -> QuerySet[ResourceQueue]:
    return workspace.queues.filter(production=True)


def default_queue(workspace: Workspace) -> ResourceQueue:
    """`root_queue`, which every workspace has."""
    return workspace.queues.get(name="root_queue")


def standing_holds(workspace_ids: Collection[int]) -> QuerySet[WorkspaceHold]:
    """The holds of these workspaces that are not released, the oldest first."""
    rows = WorkspaceHold.objects.filter(workspace__in=workspace_ids, released_at=None)
    return rows.select_related("workspace", "queue", "created_by").order_by("pk")


def holds_on_tags(workspace_id: int, tags: Mapping[str, str]) -> list[WorkspaceHold]:
    """The holds that stand on one of these tags, the oldest first; no query without tags."""
    found = tag_holds([workspace_id] if tags else [])
    return [hold for hold in found if hold.is_on_one_of(tags)]


def tag_holds(workspace_ids: Collection[int]) -> list[WorkspaceHold]:
    """The holds on tags that stand in these workspaces, the oldest first."""
    return list(standing_holds(workspace_ids).exclude(tag_key=""))
