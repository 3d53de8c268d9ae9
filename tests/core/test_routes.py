"""Every page, as everybody: who does not belong to a workspace finds nothing in it."""

from __future__ import annotations

from datetime import date
from io import BytesIO
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from apps.engine.roles import Role
from apps.engine.states import NodeState
from apps.nodes.services.files import put_file, store
from apps.runs.models import Attempt, Output
from apps.runs.services.backfill import Asked, create_backfill
from apps.runs.services.holding import hold
from apps.runs.services.hot_path import Outcome, claim, finish
from apps.workspaces.secrets import set_secret
from apps.workspaces.selectors import default_queue
from apps.workspaces.variables import set_variable
from tests.factories import by_hand, channel, incident, mail, published, rule, workspace
from tests.people import client_of, member, user

pytestmark = pytest.mark.django_db

READ = {200, 302}
DAY = Asked(dates=[date(2026, 3, 1)])


def patterns(resolver: URLResolver, before: str = "") -> list[tuple[str, URLPattern]]:
    found = []
    for each in resolver.url_patterns:
        route = before + str(each.pattern)
        if isinstance(each, URLResolver):
            found += patterns(each, route)
        else:
            found.append((route, each))
    return found


PAGES = sorted(
    route for route, _ in patterns(get_resolver()) if route.startswith("w/<str:workspace>/")
)


@pytest.fixture
def things() -> dict[str, int]:
    """One of everything that an address can name: by the word before its id."""
    version = published("extract")
    run = by_hand(version)
    worker, request = "worker@here:1", uuid4()
    mine = claim(default_queue(workspace()).pk, worker, request)
    finish(mine, Outcome(NodeState.SUCCEEDED, 0), worker=worker, request=uuid4(), take=False)
    sha256, size = store(BytesIO(b"# Report\n"))
    attempt = Attempt.objects.get(node_run=mine.node_run_id)
    left = Output.objects.create(attempt=attempt, name="report.md", sha256=sha256, size=size)
    return {
        "workflows": version.workflow_id,
        "versions": 1,
        "jobs": run.nodes.get().job_version.job_id,
        "runs": run.pk,
        "nodes": mine.node_run_id,
        "outputs": left.pk,
        "queues": default_queue(workspace()).pk,
        "holds": hold(workspace(), tag="team=nobody", user=None).pk,
        "secrets": set_secret(workspace(), "PASSWORD", "canary-4711", user=None).pk,
        "variables": set_variable(workspace(), "region", "eu", user=None).pk,
        "backfills": create_backfill(version.workflow, DAY, user=None).pk,
        "incidents": incident(version.workflow, run_id=run.pk).pk,
        "mails": mail().pk,
        "rules": rule(workspace(), "maya@example.com", tag="team=nobody").pk,
        "channels": channel().pk,
        "files": put_file(workspace(), "a.txt", BytesIO(b"a"), user=None).pk,
    }


def address(route: str, things: dict[str, int]) -> str:
    parts = route.replace("<str:workspace>", "default").split("/")
    for n, part in enumerate(parts):
        if part.startswith("<int:"):
            parts[n] = str(things[parts[n - 1]])
    of_a_log = ("log", "stream", "raw", "lines", "search")
    query = "?attempt=1&q=a" if parts[-2] in of_a_log else ""
    return "/" + "/".join(parts) + query


@pytest.mark.parametrize("route", PAGES)
def test_a_page_is_there_for_members_and_for_nobody_else(route, things):
    url = address(route, things)

    assert member(None).get(url).status_code == 404
    assert member(None).post(url).status_code == 404
    assert Client().get(url).headers["Location"].startswith("/login/?next=")
    assert Client().post(url).headers["Location"].startswith("/login/?next=")
    assert member(Role.OWNER).get(url).status_code in READ | {405}


@pytest.mark.parametrize("route", PAGES)
def test_a_guest_changes_nothing(route, things):
    assert member(Role.GUEST).post(address(route, things)).status_code in (403, 405)


@pytest.mark.parametrize("route", [route for route in PAGES if "<int:" in route])
def test_things_of_another_workspace_are_not_found_under_this_one(route, things):
    url = address(route, things).replace("/w/default/", "/w/other/")
    both = user("of both")
    workspace("other").members.create(user=both, role=Role.OWNER)

    assert client_of(both).get(url).status_code in (404, 405)
    assert client_of(both).post(url).status_code in (404, 405)


def test_every_page_has_the_strict_policy(things):
    client = member(Role.OWNER)
    downloads = ("/raw/", "/outputs/<int:output>/", "/files/<int:pk>/")
    pages = [address(route, things) for route in PAGES if not route.endswith(downloads)]

    policies = {
        frozenset(client.get(url).headers["Content-Security-Policy"].split("; "))
        for url in [*pages, "/workspaces/", "/login/", "/nowhere/"]
    }

    assert policies == {
        frozenset(
            {
                "default-src 'none'",
                "script-src 'self'",
                "style-src 'self'",
                "img-src 'self' data:",
                "font-src 'self'",
                "connect-src 'self'",
                "worker-src 'self'",
                "form-action 'self'",
                "base-uri 'none'",
                "frame-ancestors 'none'",
            }
        )
    }


def test_what_others_made_is_never_a_page_of_ours(things):
    client = member(Role.OWNER)
    for route in PAGES:
        if route.endswith(("/raw/", "/outputs/<int:output>/", "/files/<int:pk>/")):
            headers = client.get(address(route, things)).headers

            assert headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Content-Disposition"].startswith("attachment")


@pytest.mark.parametrize(
    "path", ["/w/default%00/", "/w/default/runs/?q=%00", "/w/default/jobs/?a=b%00c"]
)
def test_a_nul_in_an_address_is_not_found(path):
    someone = member()

    assert someone.get(path).status_code == 404
