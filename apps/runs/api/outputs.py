"""REST: files that runs have left."""

from __future__ import annotations

from typing import Any

from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.fields import (
    PageQuery,
    page_example,
    page_of,
)
from apps.core.api.operation import Bytes, operation
from apps.engine.roles import Permission
from apps.nodes.api import stored_bytes
from apps.runs.api.runs import RunEndpoints
from apps.runs.api.shapes import (
    OUTPUT,
    OutputSerializer,
)


class OutputsEndpoint(RunEndpoints):
    @operation(
        "list_outputs",
        "List a run's outputs",
        permission=Permission.VIEW,
        query=PageQuery,
        answers={200: page_of(OutputSerializer)},
        shows=page_example(OUTPUT),
    )
    def get(self, request: Request, workspace: str, run: int) -> Response:
        """Files that its attempts left in $RUNYARD_OUTPUT_DIR."""
        return self.page(self.outputs(run), OutputSerializer)


class OutputEndpoint(RunEndpoints):
    @operation(
        "download_output",
        "Download an output",
        permission=Permission.VIEW,
        answers={200: Bytes()},
    )
    def get(self, request: Request, workspace: str, run: int, output: int) -> HttpResponseBase:
        row: Any = self.one(self.outputs(run), f"output of run {run} with id", pk=output)
        return stored_bytes(row.sha256, row.size, row.name)
