"""What an operation declares, and the declaration that a view has for a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rest_framework import serializers

from apps.core.api.access import SCOPE_OF
from apps.engine.roles import Permission
from apps.workspaces.models import TokenScope


@dataclass(frozen=True)
class Bytes:
    """An answer or a body that is no JSON."""

    media_type: str = "application/octet-stream"


Answer = type[serializers.Serializer] | Bytes | None


@dataclass(frozen=True)
class Operation:
    """One method of one address."""

    name: str
    summary: str
    description: str
    #: What the user's role in the URL's workspace must allow; None where there is none in it.
    permission: Permission | None
    scope: TokenScope
    body: type[serializers.Serializer] | Bytes | None
    query: type[serializers.Serializer] | None
    #: Request headers that mean something here: name -> what.
    headers: Mapping[str, str]
    answers: Mapping[int, Answer]
    #: A body as one may send it, and the answer to it.
    example: Any
    shows: Any


Handler = Callable[..., Any]


def operation(
    name: str,
    summary: str,
    *,
    permission: Permission | None = None,
    scope: TokenScope | None = None,
    body: type[serializers.Serializer] | Bytes | None = None,
    query: type[serializers.Serializer] | None = None,
    headers: Mapping[str, str] | None = None,
    answers: Mapping[int, Answer],
    example: Any = None,
    shows: Any = None,
) -> Callable[[Handler], Handler]:
    """Declare a method of an Endpoint. Its docstring is the description.

    `scope` is what a token needs, by default what goes with the permission.
    """
    if scope is None:
        scope = SCOPE_OF[permission] if permission else TokenScope.READ

    def declare(handler: Handler) -> Handler:
        handler.operation = Operation(  # type: ignore[attr-defined]
            name=name,
            summary=summary,
            description=" ".join((handler.__doc__ or "").split()),
            permission=permission,
            scope=scope,
            body=body,
            query=query,
            headers=headers or {},
            answers=answers,
            example=example,
            shows=shows,
        )
        return handler

    return declare


@dataclass(frozen=True)
class Place:
    """A variable of an address."""

    text: str
    sample: str
    type: type = int


def operation_of(view: Any, method: str | None) -> Operation | None:
    """What the view declares for this method; HEAD is a GET without its body."""
    name = (method or "").lower()
    handler = getattr(view, "get" if name == "head" else name, None)
    return getattr(handler, "operation", None)
