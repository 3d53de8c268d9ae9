"""REST: the logs of attempts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.fields import (
    page_example,
    page_of,
)
from apps.core.api.operation import Bytes, operation
from apps.core.api.problems import problem
from apps.core.http import download
from apps.engine.roles import Permission
from apps.runs.api.runs import RunEndpoints
from apps.runs.api.shapes import (
    LINE,
    LineSerializer,
    LinesQuery,
    SearchQuery,
)
from apps.runs.log_lines import check_wanted, lines_from, search
from apps.runs.logs import AttemptLog, log_of

#: Most that one answer to a Range holds; who wants more asks on from its end.
RANGE_BYTES = 4 << 20
_CHUNK = 1 << 20
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


class LogEndpoint(RunEndpoints):
    @operation(
        "get_log",
        "Read an attempt's log",
        permission=Permission.VIEW,
        headers={"Range": "One range of bytes: `bytes=0-499`, `bytes=500-` or `bytes=-500`."},
        answers={
            200: Bytes("text/plain"),
            206: Bytes("text/plain"),
        },
        shows="read 336,776 flights\n",
    )
    def get(
        self, request: Request, workspace: str, run: int, node: str, attempt: int
    ) -> HttpResponseBase:
        """What the job wrote, byte for byte. With Range a piece of it, at most 4 MiB at once:
        `Content-Range` says which. To follow a log, ask on from the end of what came; 416 means
        that nothing new is there. Of a log over its limit the middle is left out: its place
        stands in `Runyard-Left-Out`, offsets stay those of the job's own output."""
        row = self.attempt(run, node, attempt)
        log = log_of(run, row.node_run_id, row.number)
        name = f"run-{run}-{node}-{row.number}.log"
        wanted = _RANGE.fullmatch(request.headers.get("Range", "").replace(" ", ""))
        response = part_of(log, name, *wanted.groups()) if wanted else whole(log, name)
        start, end = log.hole()
        if end:
            response["Runyard-Left-Out"] = f"bytes {start}-{end - 1}"
        return response


class LogLinesEndpoint(RunEndpoints):
    @operation(
        "list_log_lines",
        "List lines of an attempt's log",
        permission=Permission.VIEW,
        query=LinesQuery,
        answers={200: page_of(LineSerializer)},
        shows=page_example(LINE),
    )
    def get(self, request: Request, workspace: str, run: int, node: str, attempt: int) -> Response:
        """In the order in which they were printed. `next` is passed on as `first`; it is null at
        the end of what is there now. Lines that were left out are passed over: the numbers
        show where. Cheap wherever in the log they lie."""
        row = self.attempt(run, node, attempt)
        query = self.query
        log = log_of(run, row.node_run_id, row.number)
        found = lines_from(log, query["first"], query["limit"])
        lines = LineSerializer(found.lines, many=True).data
        return Response({"items": lines, "next": found.next})


class LogSearchEndpoint(RunEndpoints):
    @operation(
        "search_log",
        "Search an attempt's log",
        permission=Permission.VIEW,
        query=SearchQuery,
        answers={200: page_of(LineSerializer)},
        shows=page_example(LINE),
    )
    def get(self, request: Request, workspace: str, run: int, node: str, attempt: int) -> Response:
        """Lines that hold a text, in the order in which they were printed. It stops after about
        a second with what it has: pass `next` on as `start`, also after an answer without items,
        until it is null. Of a long line the piece with the text comes."""
        row = self.attempt(run, node, attempt)
        query = self.query
        check_wanted(query["text"])
        log = log_of(run, row.node_run_id, row.number)
        found = search(
            log,
            query["text"],
            start=query["start"],
            limit=query["limit"],
            ignore_case=query["ignore_case"],
        )
        lines = LineSerializer(found.lines, many=True).data
        return Response({"items": lines, "next": found.next})


TEXT = "text/plain; charset=utf-8"


def whole(log: AttemptLog, name: str) -> HttpResponseBase:
    """All that there is now. Its length is not promised: a middle may be left out meanwhile."""
    end = log.size()

    async def chunks() -> AsyncIterator[bytes]:
        offset = 0
        while offset < end:
            found = await asyncio.to_thread(log.read, offset, _CHUNK)
            if found.left_out:
                yield f"\n[{found.left_out:,} bytes were left out here]\n".encode()
            if not found.data:
                return
            yield found.data
            offset = found.next

    response = download(chunks(), name, content_type=TEXT)
    response["Accept-Ranges"] = "bytes"
    return response


def part_of(
    log: AttemptLog, name: str, first: str | None, last: str, suffix: str | None
) -> HttpResponseBase:
    """One range. Fewer bytes than asked for where they are many, or where some were left out."""
    size = log.size()
    start = int(first) if first is not None else max(size - int(suffix or 0), 0)
    limit = min(int(last) - start + 1 if last else RANGE_BYTES, RANGE_BYTES)
    found = log.read(start, limit) if limit > 0 else None
    if found is None or not found.data or (last and found.offset > int(last)):
        return problem(
            416,
            f"the log has {size} bytes; nothing lies in this range",
            headers={"Content-Range": f"bytes */{size}"},
        )
    data = found.data[: int(last) - found.offset + 1] if last else found.data
    response = download(data, name, content_type=TEXT)
    response.status_code = 206
    end = found.offset + len(data) - 1
    response["Content-Range"] = f"bytes {found.offset}-{end}/{max(size, end + 1)}"
    response["Accept-Ranges"] = "bytes"
    return response
