"""Whatever went wrong, as a problem that RFC 9457 describes."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions, serializers
from rest_framework.response import Response

from apps.core.errors import ApplicationError, Conflict, FieldFault, Invalid, TooMany
from apps.core.http import STATUS

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"


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


class TooLarge(exceptions.APIException):
    status_code = 413


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
            detail = str(error) if errors is None else "; ".join(map(_words, errors))
            wait = {"Retry-After": str(error.seconds)} if isinstance(error, TooMany) else {}
            return problem(status, detail, errors=errors, current=current, headers=wait)
        case serializers.ValidationError():
            faults = list(field_faults(error.detail))
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
    """A fault as a sentence that names its field, once."""
    names_it = not fault.field or re.search(
        rf"(?<![\w.]){re.escape(fault.field)}(?![\w.])", fault.message
    )
    return fault.message if names_it else f"{fault.field}: {fault.message}"


#: Ours for the rest framework's: what is wrong, and the fix.
_MESSAGES = {
    "required": "is missing",
    "null": "is null, which it may not be",
    "blank": "is empty; fill it in",
    "not_a_list": "is no list",
    "not_a_dict": "is no object",
}

#: How the rest framework begins. Ours may begin with a name, which keeps its letters.
_SENTENCE = re.compile(
    r"(A valid|Must|Date|Datetime|Duration|Ensure|Enter|Expected|Incorrect|Invalid|Items?|"
    r"No|Not|Null|Object|String|The|This|Time|Unable|Value) "
)


def field_faults(detail: Any, place: str = "") -> Iterator[FieldFault]:
    """The rest framework's nested faults, each with its place: `nodes[1].retries`."""
    if isinstance(detail, Mapping):
        for name, inside in detail.items():
            if name == "non_field_errors":
                yield from field_faults(inside, place)
            elif isinstance(name, int):  # of a list in a JSONField
                yield from field_faults(inside, f"{place}[{name}]")
            else:
                yield from field_faults(inside, f"{place}.{name}" if place else str(name))
    elif isinstance(detail, list):
        for number, inside in enumerate(detail):
            nested = isinstance(inside, Mapping | list)
            yield from field_faults(inside, f"{place}[{number}]" if nested else place)
    else:
        text = _MESSAGES.get(getattr(detail, "code", ""), str(detail))
        if _SENTENCE.match(text):
            text = text[:1].lower() + text[1:]
        yield FieldFault(place, text.rstrip("."))


@csrf_exempt
def not_found(request: HttpRequest, **_: Any) -> HttpResponse:
    """Every address below /api/ that nothing else has taken. It reads nothing and tells nothing."""
    found = problem(404, "there is no such address; the description is at /api/v1/schema/")
    return JsonResponse(found.data, status=404, content_type=PROBLEM)
