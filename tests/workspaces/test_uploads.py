"""How large a body may be, said before it is read."""

from __future__ import annotations

import asyncio
import tempfile

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.test import Client

from apps.engine.roles import Role
from apps.nodes.models import File
from apps.workspaces.models import TokenScope
from apps.workspaces.services import create_token
from apps.workspaces.uploads import BODY_BYTES, UPLOAD_BYTES
from config.asgi import application
from tests import factories
from tests.api import user

pytestmark = pytest.mark.django_db(transaction=True)

MIB = b"x" * (1 << 20)
FILE = "/api/v1/workspaces/default/files/a/big.bin"


def send(method: str, path: str, headers: dict[str, str], chunks: int) -> tuple[int, int]:
    """(status, MiB that were taken) of a body that comes in pieces and says no length."""
    said: list[dict] = []
    taken = 0

    async def receive() -> dict:
        nonlocal taken
        if taken == chunks:
            await asyncio.Event().wait()  # the client stays until it has its answer
        taken += 1
        return {"type": "http.request", "body": MIB, "more_body": taken < chunks}

    async def answer(message: dict) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"localhost")]
        + [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    async_to_sync(application)(scope, receive, answer)
    return next(each["status"] for each in said if "status" in each), taken


def bearer(role: Role | None, scope: TokenScope = TokenScope.EDIT, **bound) -> dict[str, str]:
    token = create_token(user(f"a {role}", role), "t", scope=scope, **bound)
    return {"authorization": f"Bearer {token}"}


def test_login_takes_ten_mebibytes_and_keeps_none_beyond(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    assert send("POST", "/login/", {}, 400) == (413, (BODY_BYTES >> 20) + 1)
    assert list(tmp_path.iterdir()) == []


def test_a_length_that_is_too_large_is_refused_unread():
    assert send("POST", "/login/", {"content-length": str(BODY_BYTES + 1)}, 400) == (413, 0)


def test_who_may_upload_uploads_more():
    factories.workspace()

    assert send("PUT", FILE, bearer(Role.OWNER), 12) == (200, 12)
    assert File.objects.get().size == 12 << 20


def test_nobody_sends_more_than_a_file_may_have():
    factories.workspace()
    headers = {**bearer(Role.OWNER), "content-length": str(UPLOAD_BYTES + 1)}

    assert send("PUT", FILE, headers, 2000) == (413, 0)


def test_a_session_uploads_more_on_its_page_alone():
    factories.workspace()
    client = Client()
    client.force_login(user("maya", Role.OWNER))
    name = settings.SESSION_COOKIE_NAME
    headers = {"cookie": f"{name}={client.cookies[name].value}"}

    assert send("POST", "/w/default/files/upload/", headers, 12) == (403, 12)  # no CSRF token
    assert send("POST", "/w/default/jobs/create/", headers, 12) == (413, 11)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(dict, id="nobody"),
        pytest.param(lambda: {"authorization": "Bearer runyard_x"}, id="no token of ours"),
        pytest.param(lambda: {"cookie": f"{settings.SESSION_COOKIE_NAME}=x"}, id="no session"),
        pytest.param(lambda: bearer(None), id="stranger"),
        pytest.param(lambda: bearer(Role.GUEST), id="guest"),
        pytest.param(lambda: bearer(Role.OWNER, TokenScope.RUN), id="lesser scope"),
        pytest.param(
            lambda: bearer(Role.OWNER, workspace=factories.workspace("other")),
            id="token of another workspace",
        ),
    ],
)
def test_who_may_not_upload_sends_no_more_than_others(headers):
    factories.workspace()

    assert send("PUT", FILE, headers(), 400) == (413, 11)
