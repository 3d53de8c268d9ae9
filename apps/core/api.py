"""What all of /api/v1/ has in common: who asks, whether they may, how it answers.

A view is an `Endpoint`; each of its methods is an `operation`, one declaration of the right it
needs, what it takes and what it gives. The same declaration judges the request, reads its body
and its query, and makes the OpenAPI description, so that the description cannot say another
thing than the code does. What has no declaration is refused.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any, ClassVar

from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import OperationalError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter
from rest_framework import exceptions, serializers
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import JSONParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.core.errors import ApplicationError, Conflict, Denied, FieldFault, Invalid, NotFound
from apps.core.http import STATUS
from apps.core.paging import PAGE_SIZE, newest_first
from apps.core.reference import chapters
from apps.engine.roles import Permission
from apps.workspaces.models import ApiToken, InWorkspaceQuerySet, TokenScope, User, Workspace
from apps.workspaces.selectors import require, workspace_of
from apps.workspaces.services import token_in_use

log = logging.getLogger(__name__)

#: Bytes of a JSON body. Files come raw, under a limit of their own.
BODY_BYTES = 8 << 20
PROBLEM = "application/problem+json"

# --- who asks, and whether they may ---------------------------------------------------------

#: Each scope includes those before it.
LADDER = (TokenScope.READ, TokenScope.RUN, TokenScope.EDIT, TokenScope.ADMIN)

#: What a token must be good for, where its user needs this permission.
SCOPE_OF: dict[Permission, TokenScope] = {
    Permission.VIEW: TokenScope.READ,
    Permission.RUN: TokenScope.RUN,
    Permission.OPERATE: TokenScope.RUN,
    Permission.EDIT_JOB: TokenScope.EDIT,
    Permission.PUBLISH_JOB: TokenScope.EDIT,
    Permission.EDIT_FILE: TokenScope.EDIT,
    Permission.EDIT_WORKFLOW: TokenScope.EDIT,
    Permission.PUBLISH_WORKFLOW: TokenScope.EDIT,
    Permission.EDIT_QUEUE: TokenScope.ADMIN,
    Permission.EDIT_MEMBERS: TokenScope.ADMIN,
}


def covers(token: ApiToken, scope: TokenScope) -> bool:
    return LADDER.index(TokenScope(token.scope)) >= LADDER.index(scope)


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer <token>`. Another scheme, as a proxy may add, is not ours to judge."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _, clear = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = token_in_use(clear.strip())
        if token is None:
            raise exceptions.AuthenticationFailed(
                "the token is unknown or has expired; get a new one by POST /api/v1/token"
            )
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="runyard"'


# --- what an operation declares -------------------------------------------------------------


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


# --- shapes: what comes in and what goes out ------------------------------------------------


class Text(serializers.CharField):
    """A string, exactly as it was sent."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Whole(serializers.IntegerField):
    """A whole number that PostgreSQL can keep, by default from 0 on; no string, no 3.0."""

    def __init__(self, *, minimum: int = 0, maximum: int = 2**31 - 1, **kwargs: Any) -> None:
        super().__init__(min_value=minimum, max_value=maximum, **kwargs)

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:  # True is an int as well
            self.fail("invalid")
        return super().to_internal_value(data)


class Flag(serializers.BooleanField):
    """true or false, and no word that means so."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class Number(serializers.FloatField):
    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool) or not isinstance(data, int | float):
            self.fail("invalid")
        return super().to_internal_value(data)


class Strict(serializers.Serializer):
    """A body or a query in which every name is known."""

    def to_internal_value(self, data: Any) -> Any:
        faults: dict[str, Any] = {}
        if isinstance(data, Mapping):
            faults = {
                str(name): ["there is no such field here; take it out"]
                for name in data
                if name not in self.fields
            }
        try:
            values = super().to_internal_value(data)
        except serializers.ValidationError as error:
            if isinstance(error.detail, dict):
                raise serializers.ValidationError({**error.detail, **faults}) from None
            raise
        if faults:
            raise serializers.ValidationError(faults)
        return values


class PageQuery(Strict):
    before = serializers.IntegerField(
        min_value=1,
        max_value=2**63 - 1,
        required=False,
        help_text="`next` of the page before; without it the list begins.",
    )
    limit = serializers.IntegerField(
        min_value=1, max_value=200, default=PAGE_SIZE, help_text="How many at most."
    )


class VersionBrief(serializers.Serializer):
    """A published version, without what it holds."""

    number = serializers.IntegerField()
    remarks = serializers.CharField(allow_blank=True)
    digest = serializers.CharField(help_text="SHA-256 of what runs; equal for equal content.")
    created_at = serializers.DateTimeField()


class FaultSerializer(serializers.Serializer):
    field = serializers.CharField(
        allow_blank=True, help_text="Name of the field or of the node; empty for the whole."
    )
    message = serializers.CharField()


class ProblemSerializer(serializers.Serializer):
    """What went wrong, as RFC 9457 has it."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField(help_text="Names the thing and the fix.")
    errors = FaultSerializer(
        many=True, required=False, help_text="Everything that is wrong with what was sent."
    )
    current = serializers.DictField(
        required=False, help_text="Of a conflict: what stands there now."
    )


@cache
def page_of(item: type[serializers.Serializer]) -> type[serializers.Serializer]:
    """The shape of a list's page."""
    name = item.__name__.removesuffix("Serializer")
    following = serializers.IntegerField(
        allow_null=True, help_text="Pass it on to get what follows; null at the end."
    )
    fields = {"items": item(many=True), "next": following}
    return type(f"{name}PageSerializer", (serializers.Serializer,), fields)


def page_example(*items: Any) -> dict[str, Any]:
    return {"items": list(items), "next": None}


def read_json(raw: bytes) -> Any:
    """A JSON text in which nothing is ambiguous: no name twice, no NaN.

    Strings hold what PostgreSQL can keep: no NUL, no half of a surrogate pair.

    Raises ValueError with the reason.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the name {twice!r} stands there twice")
        return found

    def finite(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise ValueError(f"{digits} is no number that can be kept")
        return number

    try:
        value = json.loads(raw, object_pairs_hook=once, parse_float=finite, parse_constant=finite)
        for text in _strings(value):
            if "\0" in text:
                raise ValueError("a string holds a NUL character; take it out")
            text.encode()
    except UnicodeError:
        raise ValueError("it is not UTF-8, or holds half a surrogate pair") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _strings(item)


# --- the base of every view -----------------------------------------------------------------


class _OneAnswer(BaseContentNegotiation):
    """Each operation has one form of answer; `Accept` and `?format=` change nothing."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: Any = None) -> Any:
        return renderers[0], renderers[0].media_type


class Schema(AutoSchema):
    """Makes the OpenAPI description of an operation from its declaration."""

    view: Endpoint

    @property
    def declared(self) -> Operation:
        found = operation_of(self.view, self.method)
        assert found is not None  # noqa: S101 -- Endpoint refuses a method without one
        return found

    def get_operation_id(self) -> str:
        return self.declared.name

    def get_summary(self) -> str:
        return self.declared.summary

    def get_description(self) -> str:
        return self.declared.description

    def get_tags(self) -> list[str]:
        return [self.view.tag]

    def get_auth(self) -> list[dict[str, Any]]:
        return [{}] if self.view.public else [{"token": []}, {"session": []}]

    def get_override_parameters(self) -> list[Any]:
        parameters: list[Any] = [
            OpenApiParameter(name, place.type, OpenApiParameter.PATH, description=place.text)
            for name, place in self._places()
        ]
        parameters += [
            OpenApiParameter(name, str, OpenApiParameter.HEADER, description=text)
            for name, text in self.declared.headers.items()
        ]
        if self.declared.query:
            parameters.append(self.declared.query)
        return parameters

    def get_request_serializer(self) -> Any:
        body = self.declared.body
        return {body.media_type: OpenApiTypes.BINARY} if isinstance(body, Bytes) else body

    def get_response_serializers(self) -> Any:
        found: dict[Any, Any] = {}
        for status, answer in self.declared.answers.items():
            if isinstance(answer, Bytes):
                found[status, answer.media_type] = OpenApiTypes.BINARY
            else:
                found[status] = answer
        for status in self._refusals():
            found[status, PROBLEM] = ProblemSerializer
        return found

    def _refusals(self) -> Iterator[int]:
        declared = self.declared
        if declared.body or declared.query:
            yield from (400, 422)
        if declared.body or not self.view.public:
            yield 401
        if not self.view.public:
            yield 403
        if "{" in self.path:
            yield 404
        if self.method not in ("GET", "HEAD") and not self.view.public:
            yield 409

    def _map_basic_serializer(self, serializer: Any, direction: Any) -> Any:
        shape = super()._map_basic_serializer(serializer, direction)
        if not vars(type(serializer)).get("__doc__"):
            shape.pop("description", None)  # a base's words are about the base
        if isinstance(serializer, Strict):
            shape["additionalProperties"] = False
        return shape

    def get_examples(self) -> list[OpenApiExample]:
        declared = self.declared
        found = []
        if declared.example is not None:
            found.append(OpenApiExample("Request", declared.example, request_only=True))
        if declared.shows is not None:
            codes = [str(code) for code in declared.answers]
            found.append(
                OpenApiExample("Answer", declared.shows, response_only=True, status_codes=codes)
            )
        return found

    def get_extensions(self) -> dict[str, Any]:
        declared = self.declared
        found: dict[str, Any] = {
            "x-codeSamples": [{"lang": "Shell", "label": "curl", "source": self._curl()}]
        }
        if not self.view.public:
            found["x-runyard-scope"] = str(declared.scope)
        if declared.permission:
            found["x-runyard-permission"] = str(declared.permission)
        return found

    def _curl(self) -> str:
        """The operation as one types it, for the description and the page made of it."""
        declared, parts = self.declared, ["curl"]
        if self.method != "GET":
            parts.append(f"-X {self.method}")
        if not self.view.public:
            parts.append('-H "Authorization: Bearer $TOKEN"')
        if isinstance(declared.body, Bytes):
            parts.append("--data-binary @file")
        elif declared.body:
            example = json.dumps(declared.example or {}, ensure_ascii=False)
            quoted = example.replace("'", "'\\''")
            parts.append(f"-H 'Content-Type: application/json' -d '{quoted}'")
        address = self.path
        for name, place in self._places():
            address = address.replace(f"{{{name}}}", place.sample)
        return " ".join([*parts, f'"$RUNYARD{address}"'])

    def _places(self) -> Iterator[tuple[str, Place]]:
        for name in re.findall(r"{(\w+)}", self.path):
            yield name, self.view.place(name)


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


class Endpoint(APIView):
    """Base of every view below /api/v1/. Before a method runs, `initial` has judged the request.

    In it, `workspace` is the URL's workspace, found among those that the user sees, and the
    user's role in it allows what the operation asks.
    """

    tag: ClassVar[str]
    #: Whether it needs no login.
    public: ClassVar[bool] = False
    #: The variables of its address.
    places: ClassVar[Mapping[str, Place]] = {
        "workspace": Place("Name of the workspace.", "default", str)
    }
    #: How a Conflict shows what stands there now.
    shows: ClassVar[type[serializers.Serializer] | None] = None

    authentication_classes: ClassVar[tuple[type[BaseAuthentication], ...]] = (
        TokenAuthentication,
        SessionAuthentication,
    )
    #: `initial` judges, with one rule for all.
    permission_classes = ()
    content_negotiation_class = _OneAnswer
    renderer_classes = (JSONRenderer,)
    parser_classes = (JSONParser,)
    schema = Schema()
    # No OPTIONS: the description is at /api/v1/schema/.
    http_method_names = ["get", "head", "post", "put", "patch", "delete"]

    workspace: Workspace
    declared: Operation

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for method in ("get", "post", "put", "patch", "delete"):
            if hasattr(cls, method) and operation_of(cls, method) is None:
                raise TypeError(f"{cls.__name__}.{method} is no operation; declare it as one")

    @classmethod
    def place(cls, name: str) -> Place:
        """What a variable of the address means: as the view says, or a class it comes from."""
        return next(
            places[name] for each in cls.__mro__ if name in (places := vars(each).get("places", {}))
        )

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response]:
        return problem_of

    def get_authenticate_header(self, request: Request) -> str:
        return TokenAuthentication().authenticate_header(request)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        if "\0" in request.path:  # PostgreSQL takes none, so nothing is called so
            raise NotFound("there is nothing under an address with a NUL character")
        super().initial(request, *args, **kwargs)
        declared = operation_of(self, request.method)
        if not self.public:
            self._judge(declared, kwargs.get("workspace"))
        if declared is None:
            raise exceptions.MethodNotAllowed(request.method or "")
        self.declared = declared

    def _judge(self, declared: Operation | None, name: str | None) -> None:
        """Raise unless the user may. Whoever sees nothing here learns not even what there is."""
        user, token = self.request.user, self.request.auth
        if not user.is_authenticated:
            raise exceptions.NotAuthenticated(
                "log in first: send a token as `Authorization: Bearer <token>`"
            )
        if name is not None:
            self.workspace = self._workspace(user, token, name)
        if declared is None:
            return
        if token is not None and not covers(token, declared.scope):
            raise Denied(
                f"this token's scope is {token.scope}, and {declared.scope} is needed; "
                "use another token"
            )
        if name is not None:
            if declared.permission is None:
                raise Denied("this operation does not say who may; it is closed")
            require(user, self.workspace, declared.permission)

    def _workspace(self, user: User, token: ApiToken | None, name: str) -> Workspace:
        """Raises NotFound for a stranger, and for a token that is bound to another workspace."""
        workspace = workspace_of(user, name)
        if token is not None and token.workspace_id not in (None, workspace.pk):
            raise NotFound(f"there is no workspace {name!r}, or it is not yours to see")
        return workspace

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        response.setdefault("Cache-Control", "no-store")
        return response

    # --- what was sent ---

    def body(self) -> dict[str, Any]:
        """The JSON body as the operation declares it; nothing at all counts as {}.

        Raises Invalid with every fault.
        """
        shape = self.declared.body
        assert shape is not None  # noqa: S101
        assert not isinstance(shape, Bytes)  # noqa: S101
        given = shape(data=self._json(), context={"workspace": getattr(self, "workspace", None)})
        given.is_valid(raise_exception=True)
        return given.validated_data

    def _json(self) -> Any:
        source: HttpRequest = self.request._request
        raw = source.read(BODY_BYTES + 1)
        if not raw:
            return {}
        media_type = (source.content_type or "").lower()
        if media_type != "application/json":
            raise exceptions.UnsupportedMediaType(
                media_type, f"the body is {media_type or 'of no type'}; send application/json"
            )
        if len(raw) > BODY_BYTES:
            raise TooLarge(f"the body is too large; {BODY_BYTES >> 20} MiB are allowed")
        try:
            return read_json(raw)
        except ValueError as error:
            raise exceptions.ParseError(f"the body is no JSON that can be read: {error}") from None

    def query(self) -> dict[str, Any]:
        """The query as the operation declares it. Raises Invalid, for a name sent twice too."""
        shape = self.declared.query
        assert shape is not None  # noqa: S101
        sent = self.request.query_params
        twice = [name for name, values in sent.lists() if len(values) > 1]
        if twice:
            raise Invalid([FieldFault(name, f"{name} is given twice") for name in twice])
        given = shape(data=sent.dict())
        given.is_valid(raise_exception=True)
        return given.validated_data

    def revision(self, sent: int | None) -> int:
        """The revision that an edit began at: of the body, or of If-Match. Raises Invalid."""
        tag = self.request.headers.get("If-Match", "").strip().removeprefix("W/").strip('"')
        if tag and not (tag.isascii() and tag.isdigit() and len(tag) < 10):
            raise Invalid("If-Match is no ETag of a draft; send the one that you got", "revision")
        if sent is not None and tag and sent != int(tag):
            raise Invalid("the revision differs from If-Match; send one of the two", "revision")
        if sent is None and not tag:
            raise Invalid(
                "send the revision that you began at, or its ETag as If-Match", "revision"
            )
        return int(tag) if sent is None else sent

    # --- what is answered ---

    def visible(self, rows: InWorkspaceQuerySet) -> InWorkspaceQuerySet:
        """Those rows that lie in the URL's workspace and that the user sees."""
        return rows.visible_to(self.request.user).filter(workspace=self.workspace)

    def one(self, rows: QuerySet[Any], what: str, **key: Any) -> Any:
        """The row with this key. Raises NotFound."""
        row = rows.filter(**key).first()
        if row is None:
            [value] = key.values()
            raise NotFound(f"there is no {what} {value!r} in this workspace")
        return row

    def draft(self, row: Any, *, status: int = 200) -> Response:
        """Something with a draft; its ETag is the draft's revision."""
        assert self.shows is not None  # noqa: S101
        tag = f'"{row.revision}"'
        return Response(self.shows(row).data, status=status, headers={"ETag": tag})

    def page(self, rows: QuerySet[Any], shape: type[serializers.Serializer]) -> Response:
        """A page of a list, newest first. The query was declared as a PageQuery."""
        query = self.query()
        found = newest_first(rows, str(query.get("before", "")), size=query["limit"])
        return Response({"items": shape(found.rows, many=True).data, "next": found.next})


class TooLarge(exceptions.APIException):
    status_code = 413


# --- problems -------------------------------------------------------------------------------


def problem(
    status: int,
    detail: str,
    *,
    errors: list[FieldFault] | None = None,
    current: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors is not None:
        body["errors"] = [{"field": each.field, "message": each.message} for each in errors]
    if current is not None:
        body["current"] = current
    return Response(body, status=status, headers=dict(headers or {}), content_type=PROBLEM)


def problem_of(error: Exception, context: dict[str, Any]) -> Response:
    """The answer to whatever a view raised. What is not meant for people stays in our log."""
    match error:
        case ApplicationError():
            status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)
            errors = list(error.faults) if isinstance(error, Invalid) else None
            current = None
            if isinstance(error, Conflict) and error.current is not None:
                shape = context["view"].shows
                current = shape(error.current).data if shape else None
            return problem(status, str(error), errors=errors, current=current)
        case serializers.ValidationError():
            faults = list(_faults(error.detail))
            return problem(422, "; ".join(map(_words, faults)), errors=faults)
        case exceptions.APIException():
            headers = {"WWW-Authenticate": header} if (header := _challenge(error)) else {}
            return problem(error.status_code, str(error.detail), headers=headers)
        case Http404():
            return problem(404, "there is nothing here, or it is not yours to see")
        case PermissionDenied():
            return problem(403, "this is not allowed")
        case RequestDataTooBig():
            return problem(413, "the body is too large")
        case SuspiciousOperation():
            return problem(400, "the request cannot be read")
        case OperationalError():
            log.error("the database does not answer: %s", error)
            text = "the database does not answer at the moment; try again"
            return problem(503, text, headers={"Retry-After": "5"})
    request = context["request"]
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return problem(500, "something broke on the server; the reason stands in its log")


def _challenge(error: exceptions.APIException) -> str | None:
    return getattr(error, "auth_header", None)


def _words(fault: FieldFault) -> str:
    return f"{fault.field}: {fault.message}" if fault.field else fault.message


#: Ours for the rest framework's: what is wrong, and the fix.
_MESSAGES = {
    "required": "is missing",
    "null": "is null, which it may not be",
    "blank": "is empty; fill it in",
    "not_a_list": "is no list",
    "not_a_dict": "is no object",
}


def _faults(detail: Any, place: str = "") -> Iterator[FieldFault]:
    """The rest framework's nested faults, each with its place: `nodes[1].retries`."""
    if isinstance(detail, Mapping):
        for name, inside in detail.items():
            if name == "non_field_errors":
                yield from _faults(inside, place)
            elif isinstance(name, int):  # of a list in a JSONField
                yield from _faults(inside, f"{place}[{name}]")
            else:
                yield from _faults(inside, f"{place}.{name}" if place else str(name))
    elif isinstance(detail, list):
        for number, inside in enumerate(detail):
            nested = isinstance(inside, Mapping | list)
            yield from _faults(inside, f"{place}[{number}]" if nested else place)
    else:
        text = _MESSAGES.get(getattr(detail, "code", ""), str(detail))
        yield FieldFault(place, text[:1].lower() + text[1:].rstrip("."))


@csrf_exempt
def not_found(request: HttpRequest, **_: Any) -> HttpResponse:
    """Every address below /api/ that nothing else has taken. It reads nothing and tells nothing."""
    found = problem(404, "there is no such address; the description is at /api/v1/schema/")
    return JsonResponse(found.data, status=404, content_type=PROBLEM)


# --- the description ------------------------------------------------------------------------


@cache
def description() -> dict[str, Any]:
    """The OpenAPI description of everything below /api/v1/; made of the code alone."""
    found: dict[str, Any] = _tidy(SchemaGenerator().get_schema(request=None, public=True))
    return found


def _tidy(value: Any) -> Any:
    """Without the generator's own marks on choices."""
    if isinstance(value, dict):
        return {k: _tidy(inside) for k, inside in value.items() if k != "x-spec-enum-id"}
    return [_tidy(inside) for inside in value] if isinstance(value, list) else value


@require_safe
def schema(request: HttpRequest) -> HttpResponse:
    """For everyone: it holds no data, and generators of clients do not log in."""
    return JsonResponse(description(), headers={"Cache-Control": "public, max-age=300"})


@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    """The description as a page to read."""
    found = description()
    context = {"info": found["info"], "chapters": chapters(found)}
    return render(request, "core/docs.html", context)
