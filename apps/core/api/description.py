"""The OpenAPI description, made of what the operations declare, and the page made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter

from apps.core.api.fields import Strict
from apps.core.api.operation import Bytes, Operation, Place, operation_of
from apps.core.api.problems import PROBLEM, ProblemSerializer
from apps.core.reference import chapters

if TYPE_CHECKING:
    from apps.core.api.endpoint import Endpoint


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
