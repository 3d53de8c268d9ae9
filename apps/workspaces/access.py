"""The workspace in a URL: found for members only, with what this member may do in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django_htmx.middleware import HtmxDetails

from apps.core.errors import Denied
from apps.core.http import Request as CoreRequest
from apps.engine.roles import Permission, Role, allows
from apps.workspaces.models import Member, User, Workspace


class Request(CoreRequest):
    """A request below /w/<workspace>/."""

    user: User
    workspace: Workspace
    role: Role


class WorkspaceMiddleware:
    """Puts the URL's workspace and the user's role in it on the request.

    Whoever is not a member gets 404, as if there were none; who is not logged in may do that
    first. Times on the page are in the workspace's zone.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with timezone.override(None):
            response = self.get_response(request)
        if request.path.startswith(("/w/", "/workspaces/")):
            # Customers' data: no cache keeps it, and nobody has it back after a logout.
            response.headers.setdefault("Cache-Control", "private, no-store")
        login = reverse("login")
        if getattr(request, "htmx", False) and response.headers.get("Location", "").startswith(
            f"{login}?"
        ):
            return _whole_page_to(login, request.htmx)  # type: ignore[attr-defined]
        return response

    def process_view(
        self, request: Any, view: Any, args: Any, kwargs: dict[str, Any]
    ) -> HttpResponse | None:
        name = kwargs.get("workspace")
        if name is None or not request.resolver_match.route.startswith("w/"):
            return None
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        request.workspace, request.role = _place_of(request.user, name)
        timezone.activate(request.workspace.zone)
        return None


def _whole_page_to(login: str, htmx: HtmxDetails) -> HttpResponse:
    """For a part of a page whose session has ended: the page leaves, and comes back after."""
    here = htmx.current_url_abs_path or "/"
    response = HttpResponse(status=401)
    response["HX-Redirect"] = f"{login}?{urlencode({'next': here})}"
    return response


def _place_of(user: User, name: str) -> tuple[Workspace, Role]:
    """One query. Raises Http404 for a stranger."""
    if user.is_superuser:
        workspace = Workspace.objects.filter(name=name).first()
        role = Role.OWNER
    else:
        rows = Member.objects.select_related("workspace")
        member = rows.filter(user=user, workspace__name=name).first()
        workspace = member.workspace if member else None
        role = Role(member.role) if member else Role.GUEST
    if workspace is None:
        raise Http404
    return workspace, role


def may(request: Request, permission: Permission) -> bool:
    return allows(request.role, permission)


def require(request: Request, permission: Permission) -> None:
    """Raise Denied unless the user's role in this workspace allows it."""
    if not may(request, permission):
        raise Denied(
            f"your role {request.role.replace('_', ' ')} in {request.workspace.name} does not "
            f"allow {permission}; ask an owner of the workspace"
        )


def rights(request: HttpRequest) -> dict[str, Any]:
    """Context processor: `may.run_start` and the like, so that pages offer what is allowed."""
    role = getattr(request, "role", None)
    return {"may": {p.value.replace(".", "_"): allows(role, p) for p in Permission}}
