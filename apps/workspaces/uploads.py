"""The size of a request's body, judged before anything is read or kept.

Django puts a whole body into a temporary file before it asks who sends it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from importlib import import_module
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user
from django.db import connection
from django.http import HttpRequest, JsonResponse

from apps.core.api.access import covers
from apps.core.errors import ApplicationError
from apps.engine.roles import Permission
from apps.workspaces.models import TokenScope, User
from apps.workspaces.selectors import require, workspace_of
from apps.workspaces.services import token_in_use

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[..., Awaitable[None]]

BODY_BYTES = 10 << 20
#: A workspace file of 1 GiB, and the form around it.
UPLOAD_BYTES = (1 << 30) + (1 << 20)
_UPLOADS = {
    "POST": re.compile(r"/w/([^/]+)/files/upload/"),
    "PUT": re.compile(r"/api/v1/workspaces/([^/]+)/files/.+", re.DOTALL),
}


class BodyLimit:
    """Answers 413 where a body is larger than it may be; up to there it is passed on as it comes.

    The larger limit is for who may upload files in the workspace of the address, by a token or a
    session. The views judge once more.
    """

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        length = headers.get(b"content-length", b"")
        limit = BODY_BYTES
        if not length.isdigit() or int(length[:20]) > limit:
            limit = await _limit(scope, headers)
        if length.isdigit() and int(length[:20]) > limit:
            await _refuse(scope, send, limit)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                if size > limit:
                    return {"type": "http.disconnect"}  # the application lets go of all it has
            return message

        await self.application(scope, counted, send)
        if size > limit:
            await _refuse(scope, send, limit)


async def _limit(scope: Message, headers: dict[bytes, bytes]) -> int:
    upload = _UPLOADS.get(scope["method"])
    found = upload.fullmatch(scope["path"]) if upload else None
    if found is None:
        return BODY_BYTES
    allowed = await sync_to_async(_may_upload, thread_sensitive=False)(found[1], headers)
    return UPLOAD_BYTES if allowed else BODY_BYTES


def _may_upload(name: str, headers: dict[bytes, bytes]) -> bool:
    try:
        user = _sender(name, headers)
        if user is None:
            return False
        require(user, workspace_of(user, name), Permission.EDIT_FILE)
    except ApplicationError:
        return False
    finally:
        connection.close()
    return True


def _sender(name: str, headers: dict[bytes, bytes]) -> User | None:
    """Who sends it, by a token that is good for this workspace's files, or by a session."""
    scheme, _, clear = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        token = token_in_use(clear.strip())
        if token is None or not covers(token, TokenScope.EDIT):
            return None
        if token.workspace is not None and token.workspace.name != name:
            return None
        return token.user
    try:
        cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return None
    if settings.SESSION_COOKIE_NAME not in cookies:
        return None
    request = HttpRequest()
    store = import_module(settings.SESSION_ENGINE).SessionStore
    request.session = store(cookies[settings.SESSION_COOKIE_NAME].value)
    user = get_user(request)
    return user if isinstance(user, User) else None


async def _refuse(scope: Message, send: Send, limit: int) -> None:
    body = JsonResponse(
        {
            "type": "about:blank",
            "title": "Content Too Large",
            "status": 413,
            "detail": f"the body is too large; {limit >> 20:,} MiB are allowed here",
        }
    ).content
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # the rest of the body is not read
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
