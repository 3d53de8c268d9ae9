"""Every address below /api/, every method, every kind of caller: who gets in, and who does not.

The routes come from the URL configuration, so that a new one without a line in RIGHTS fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import pytest
from django.db import transaction
from django.http import HttpResponse
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from apps.core.api.access import LADDER, SCOPE_OF
from apps.core.api.operation import operation_of
from apps.core.api.problems import PROBLEM, not_found
from apps.engine.roles import Permission, Role, allows
from apps.workspaces.models import Member, TokenScope, User
from apps.workspaces.services import create_token, create_workspace
from tests.api import Program, World, program, user, world

pytestmark = pytest.mark.django_db

V, J, PJ, F = (
    Permission.VIEW,
    Permission.EDIT_JOB,
    Permission.PUBLISH_JOB,
    Permission.EDIT_FILE,
)
W, PW, R, Q = (
    Permission.EDIT_WORKFLOW,
    Permission.PUBLISH_WORKFLOW,
    Permission.RUN,
    Permission.EDIT_QUEUE,
)
OP, S, VA = Permission.OPERATE, Permission.EDIT_SECRET, Permission.EDIT_VARIABLE
_JOB, _FLOW, _RUN = "jobs/{job}", "workflows/{workflow}", "runs/{run}"
_NODE = _RUN + "/nodes/{node}"
_BACKFILL = "backfills/{backfill}"
#: What each method of each address needs of the user's role, and of a token. Written by hand:
#: what the code declares is compared with it, never taken for granted.
RIGHTS: dict[str, dict[str, tuple[Permission, str]]] = {
    "": {"GET": (V, "read")},
    "queues": {"GET": (V, "read"), "POST": (Q, "admin")},
    "queues/{queue}": {"GET": (V, "read"), "PATCH": (Q, "admin"), "DELETE": (Q, "admin")},
    "secrets": {"GET": (V, "read")},
    "secrets/{secret}": {"PUT": (S, "admin"), "DELETE": (S, "admin")},
    "variables": {"GET": (V, "read")},
    "variables/{variable}": {"GET": (V, "read"), "PUT": (VA, "edit"), "DELETE": (VA, "edit")},
    "holds": {"GET": (V, "read"), "POST": (OP, "run")},
    "holds/{hold}": {"GET": (V, "read")},
    "holds/{hold}/release": {"POST": (OP, "run")},
    "jobs": {"GET": (V, "read"), "POST": (J, "edit")},
    _JOB: {"GET": (V, "read"), "PATCH": (J, "edit"), "DELETE": (J, "edit")},
    f"{_JOB}/draft": {"PUT": (J, "edit")},
    f"{_JOB}/publish": {"POST": (PJ, "edit")},
    f"{_JOB}/versions": {"GET": (V, "read")},
    f"{_JOB}/versions/{{number}}": {"GET": (V, "read")},
    # A draft; what is published asks for R in the method.
    f"{_JOB}/run": {"POST": (J, "run")},
    "files": {"GET": (V, "read")},
    "files/{path}": {"GET": (V, "read"), "PUT": (F, "edit"), "DELETE": (F, "edit")},
    "workflows": {"GET": (V, "read"), "POST": (W, "edit")},
    "schedule-preview": {"POST": (V, "read")},
    f"{_FLOW}/schedule": {"GET": (V, "read"), "PUT": (PW, "edit")},
    f"{_FLOW}/schedule/points": {"GET": (V, "read")},
    _FLOW: {"GET": (V, "read"), "PATCH": (W, "edit"), "DELETE": (W, "edit")},
    f"{_FLOW}/draft": {"PUT": (W, "edit")},
    f"{_FLOW}/notifications": {"GET": (V, "read"), "PUT": (W, "edit")},
    f"{_FLOW}/node-subscriptions": {"GET": (V, "read"), "PUT": (W, "edit")},
    f"{_FLOW}/silence": {"GET": (V, "read"), "PUT": (OP, "run"), "DELETE": (OP, "run")},
    f"{_FLOW}/watch": {"GET": (V, "read"), "PUT": (W, "edit")},
    f"{_FLOW}/tags": {"PUT": (W, "edit")},
    f"{_FLOW}/ownership": {"PUT": (W, "edit")},
    "notification-rules": {"GET": (V, "read"), "POST": (W, "edit")},
    "notification-rules/{rule}": {"GET": (V, "read"), "PUT": (W, "edit"), "DELETE": (W, "edit")},
    f"{_FLOW}/publish": {"POST": (PW, "edit")},
    f"{_FLOW}/versions": {"GET": (V, "read")},
    f"{_FLOW}/versions/{{number}}": {"GET": (V, "read")},
    # A draft; what is published asks for R in the method.
    f"{_FLOW}/run": {"POST": (J, "run")},
    f"{_FLOW}/dry-run": {"POST": (V, "read")},
    f"{_FLOW}/backfill": {"POST": (R, "run")},
    f"{_FLOW}/backfill/preview": {"POST": (V, "read")},
    "backfills": {"GET": (V, "read")},
    _BACKFILL: {"GET": (V, "read")},
    f"{_BACKFILL}/cycles": {"GET": (V, "read")},
    f"{_BACKFILL}/events": {"GET": (V, "read")},
    f"{_BACKFILL}/pause": {"POST": (OP, "run")},
    f"{_BACKFILL}/resume": {"POST": (OP, "run")},
    f"{_BACKFILL}/cancel": {"POST": (OP, "run")},
    "runs": {"GET": (V, "read")},
    _RUN: {"GET": (V, "read")},
    f"{_RUN}/events": {"GET": (V, "read")},
    # Those of a debug run; all others ask for OPERATE in the method.
    f"{_RUN}/stop": {"POST": (J, "run")},
    f"{_RUN}/pause": {"POST": (J, "run")},
    f"{_RUN}/resume": {"POST": (J, "run")},
    f"{_RUN}/rerun": {"GET": (V, "read"), "POST": (J, "run")},
    f"{_RUN}/nodes": {"GET": (V, "read")},
    _NODE: {"GET": (V, "read")},
    f"{_NODE}/stop": {"POST": (J, "run")},
    f"{_NODE}/success": {"POST": (J, "run")},
    f"{_NODE}/attempts": {"GET": (V, "read")},
    f"{_NODE}/attempts/{{attempt}}": {"GET": (V, "read")},
    f"{_NODE}/attempts/{{attempt}}/variables": {"GET": (V, "read")},
    f"{_NODE}/attempts/{{attempt}}/log": {"GET": (V, "read")},
    f"{_NODE}/attempts/{{attempt}}/log/lines": {"GET": (V, "read")},
    f"{_NODE}/attempts/{{attempt}}/log/search": {"GET": (V, "read")},
    f"{_RUN}/outputs": {"GET": (V, "read")},
    f"{_RUN}/outputs/{{output}}": {"GET": (V, "read")},
    "heartbeat": {"GET": (V, "read"), "PUT": (S, "admin"), "DELETE": (S, "admin")},
    "channels": {"GET": (V, "read")},
    "channels/{channel}": {"GET": (V, "read"), "PUT": (S, "admin"), "DELETE": (S, "admin")},
    "channels/{channel}/test": {"POST": (W, "edit")},
    "deliveries": {"GET": (V, "read")},
    "deliveries/{delivery}": {"GET": (V, "read")},
    "incidents": {"GET": (V, "read")},
    "incidents/{incident}": {"GET": (V, "read")},
    "incidents/{incident}/acknowledge": {"POST": (OP, "run")},
}
IN_WORKSPACE = "/api/v1/workspaces/{workspace}"
#: Addresses without a workspace in them.
OUTSIDE = {
    "/api/v1/schema/": {"GET"},
    "/api/v1/docs/": {"GET"},
    "/api/v1/token": {"POST"},
    "/api/v1/workspaces": {"GET", "POST"},
}
PUBLIC = {"/api/v1/schema/", "/api/v1/docs/", "/api/v1/token"}
#: Whose rights in the method itself are higher than those above.
HIGHER = {
    ("PATCH", _JOB): PJ,  # it is published
    ("DELETE", _JOB): PJ,
    ("POST", f"{_JOB}/run"): R,
    ("POST", f"{_FLOW}/run"): R,
    ("POST", f"{_RUN}/stop"): Permission.OPERATE,
    ("POST", f"{_RUN}/pause"): Permission.OPERATE,
    ("POST", f"{_RUN}/resume"): Permission.OPERATE,
    ("POST", f"{_RUN}/rerun"): Permission.OPERATE,
    ("POST", f"{_NODE}/stop"): Permission.OPERATE,
    ("POST", f"{_NODE}/success"): Permission.OPERATE,
}

SUFFIXES = ("/configs", "/health", "/ready", ".css", ";x", "/..", "/%2e%2e", "%2f..", "/", "%00")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def routes(patterns: Any = None, prefix: str = "/") -> Iterator[tuple[str, Any]]:
    """(address with {variables}, view) of every route."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        place = prefix + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(pattern.pattern))
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, place)
        elif isinstance(pattern, URLPattern):
            yield place, pattern.callback


def api_routes() -> dict[str, Any]:
    return {place: view for place, view in routes() if place.startswith("/api/")}


def full(place: str) -> str:
    return f"{IN_WORKSPACE}/{place}".removesuffix("/")


@dataclass(frozen=True)
class Call:
    """One line of the table."""

    method: str
    place: str
    permission: Permission
    scope: str

    def by(self, caller: Program, here: World, body: Any = None) -> HttpResponse:
        """Send it, and take back what it changed."""
        with transaction.atomic():
            response = caller.send(self.method, here.address(full(self.place)), body)
            transaction.set_rollback(True)
        return response


CALLS = [
    Call(method, place, *needs)
    for place, methods in RIGHTS.items()
    for method, needs in methods.items()
]


def surprises(
    caller: Program, here: World, expected: Callable[[Call], int | None]
) -> list[tuple[str, str, int]]:
    """What came otherwise than expected: a status, or None for any that lets the caller in."""
    found = []
    for call in CALLS:
        response, status = call.by(caller, here), expected(call)
        if status is None:
            right = response.status_code not in (401, 403, 404, 405) and response.status_code < 500
        else:
            right = response.status_code == status and response["Content-Type"] == PROBLEM
        if not right:
            found.append((call.method, call.place, response.status_code))
    return found


def of_view(view: Any) -> dict[str, tuple[Permission | None, str]]:
    found = {}
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        if declared := operation_of(view.view_class, method):
            found[method] = (declared.permission, str(declared.scope))
    return found


def test_every_route_has_its_line_in_the_table_and_every_line_its_route():
    found = api_routes()
    catch_all = found.pop("/api/")

    assert catch_all is not_found
    assert set(found) == {full(place) for place in RIGHTS} | set(OUTSIDE)


def test_code_declares_the_rights_that_the_table_demands():
    found = api_routes()

    declared = {place: of_view(found[full(place)]) for place in RIGHTS}

    assert declared == RIGHTS


def test_every_permission_has_a_scope():
    assert set(SCOPE_OF) == set(Permission)


def test_public_views_are_named_one_by_one():
    public = {
        place
        for place, view in api_routes().items()
        if not hasattr(view, "view_class") or view.view_class.public
    }

    assert public == PUBLIC | {"/api/"}


@pytest.fixture
def here() -> World:
    return world()


def refused(response: Any, status: int) -> None:
    assert response.status_code == status, response.content
    if response.wsgi_request.method != "HEAD":
        assert response["Content-Type"] == PROBLEM
        assert response.json()["status"] == status


@pytest.mark.parametrize("suffix", ["", *SUFFIXES])
def test_nobody_gets_in_without_a_login(here, suffix):
    anonymous = Program()
    for place in api_routes():
        if place in PUBLIC and not suffix:
            continue
        url = here.address(place) + suffix
        for method in METHODS:
            response = anonymous.send(method, url)
            assert response.status_code in (401, 404), (method, url, response.status_code)
            if response.status_code == 401:
                assert response["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("suffix", ["", *SUFFIXES])
def test_stranger_finds_nothing_whatever_the_method(here, suffix):
    stranger = program(None)
    for place in RIGHTS:
        url = here.address(full(place)) + suffix
        for method in METHODS:
            response = stranger.send(method, url)
            assert response.status_code == 404, (method, url, response.status_code)


def test_stranger_gets_404(here):
    assert surprises(program(None), here, lambda call: 404) == []


@pytest.mark.parametrize("role", list(Role))
def test_role_decides(here, role):
    def expected(call: Call) -> int | None:
        needed = HIGHER.get((call.method, call.place), call.permission)
        return None if allows(role, needed) else 403

    assert surprises(program(role), here, expected) == []


@pytest.mark.parametrize("held", list(TokenScope))
def test_scope_of_the_token_decides_whoever_its_user_is(here, held):
    def expected(call: Call) -> int | None:
        enough = LADDER.index(held) >= LADDER.index(TokenScope(call.scope))
        return None if enough else 403

    assert surprises(program(Role.OWNER, held), here, expected) == []


def test_token_of_another_workspace_finds_nothing(here):
    owner = user("owner", Role.OWNER)
    other = create_workspace("other", owner=owner)
    bound = Program(create_token(owner, "bound", scope=TokenScope.ADMIN, workspace=other))

    assert surprises(bound, here, lambda call: 404) == []


def test_expired_token_is_no_token(here):
    owner = user("owner", Role.OWNER)
    clear = create_token(owner, "old", scope=TokenScope.ADMIN)
    yesterday = timezone.now() - timedelta(days=1)
    owner.api_tokens.update(created_at=yesterday, expires_at=yesterday + timedelta(hours=1))

    assert surprises(Program(clear), here, lambda call: 401) == []


def test_user_who_is_not_active_any_more_is_out(here):
    caller = program(Role.OWNER)
    User.objects.filter(username=Role.OWNER).update(is_active=False)

    assert surprises(caller, here, lambda call: 401) == []


def test_removed_member_is_a_stranger(here):
    caller = program(Role.OWNER)
    Member.objects.all().delete()

    assert surprises(caller, here, lambda call: 404) == []


def test_things_of_another_workspace_are_not_found_under_this_ones_address(here):
    """The owner of both asks with the ids of the one and the address of the other."""
    create_workspace("other", owner=user("owner", Role.OWNER))
    there = replace(here, workspace="other")
    bodies = {
        f"{_JOB}/draft": {"revision": 1, "spec": {}},
        _JOB: {"path": "moved"},
        f"{_FLOW}/draft": {"revision": 1, "nodes": [], "edges": []},
        _FLOW: {"revision": 1},
        "queues/{queue}": {"capacity": 1},
    }
    named = [call for call in CALLS if "{" in call.place]
    found = {
        (call.method, call.place): call.by(program(), there, bodies.get(call.place)).status_code
        for call in named
    }
    made = found.pop(("PUT", "files/{path}"))
    asked = found.pop(("PUT", "secrets/{secret}"))
    set_there = found.pop(("PUT", "variables/{variable}"))
    assert found.pop(("PUT", "channels/{channel}")) == 422  # likewise

    assert set_there == 422  # as of a secret
    assert made == 200  # a file of the other workspace, under the same path
    assert asked == 422  # a secret of the other workspace, which lacks its value
    assert {key: status for key, status in found.items() if status != 404} == {}


def test_method_that_is_not_there_is_refused(here):
    caller = program()
    known = {full(place): set(methods) for place, methods in RIGHTS.items()} | OUTSIDE
    for place, methods in known.items():
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - methods:
            response = caller.send(method, here.address(place))
            assert response.status_code == 405, (method, place)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_odd_suffix_changes_no_right(here, suffix):
    """A guest may read; no suffix turns a thing into another, or a refusal into an answer."""
    guest = program(Role.GUEST)
    for place in RIGHTS:
        url = here.address(full(place)) + suffix
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert guest.send(method, url).status_code in (403, 404, 405), (method, url)
        # What stands behind `secrets/` is a name, and nobody reads a secret back.
        nothing = 405 if re.fullmatch(r".*/secrets/[^/\0]+", unquote(url)) else 404
        assert guest.get(url).status_code == nothing, url


def test_unknown_address_is_a_problem_and_not_a_page():
    for url in ("/api/", "/api/v1", "/api/v1/nothing", "/api/v2/token", "/api/v1/token/"):
        refused(Program().send("GET", url), 404)
        refused(Program().send("POST", url, {}), 404)
