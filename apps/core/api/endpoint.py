"""The base of every view: it judges the request, reads it, and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.http import HttpRequest
from rest_framework import exceptions, serializers
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import JSONParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.core.api.access import TokenAuthentication, covers
from apps.core.api.description import Schema
from apps.core.api.fields import written
from apps.core.api.operation import Bytes, Operation, Place, operation_of
from apps.core.api.problems import TooLarge, field_faults, problem_of
from apps.core.api.reading import read_json
from apps.core.errors import Denied, FieldFault, Invalid, NotFound
from apps.core.paging import newest_first
from apps.workspaces.models import ApiToken, InWorkspaceQuerySet, User, Workspace
from apps.workspaces.selectors import require, workspace_of

#: Bytes of a JSON body. Files come raw, under a limit of their own.
BODY_BYTES = 8 << 20


class _OneAnswer(BaseContentNegotiation):
    """Each operation has one form of answer; `Accept` and `?format=` change nothing."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: Any = None) -> Any:
        return renderers[0], renderers[0].media_type


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

    def body(
        self, further: Callable[[Mapping[str, Any]], Iterable[FieldFault]] | None = None
    ) -> dict[str, Any]:
        """The JSON body as the operation declares it; nothing at all counts as {}.

        `further` says what else is wrong in the body as it was sent, where fields may be missing
        or of another type; what it says of a field that is at fault already is left out.

        Raises Invalid with every fault.
        """
        shape = self.declared.body
        assert shape is not None  # noqa: S101
        assert not isinstance(shape, Bytes)  # noqa: S101
        sent = self._json()
        given = shape(data=sent, context={"workspace": getattr(self, "workspace", None)})
        given.is_valid(raise_exception=further is None)
        faults = list(field_faults(given.errors))
        if further is not None and isinstance(sent, Mapping):
            known = {fault.field for fault in faults}
            faults += [fault for fault in further(sent) if fault.field not in known]
        if faults:
            raise Invalid(faults)
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

    @cached_property
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

    def page(
        self,
        rows: QuerySet[Any],
        shape: type[serializers.Serializer],
        complete: Callable[[Sequence[Any]], object] | None = None,
    ) -> Response:
        """A page of a list, newest first. The query was declared as a PageQuery.

        `complete` gives the rows of the page what is not in their table.
        """
        query = self.query
        found = newest_first(rows, str(query.get("before", "")), size=query["limit"])
        if complete is not None:
            complete(found.rows)
        return Response({"items": written(shape, found.rows), "next": found.next})
