"""REST: the nodes of a run, and their attempts."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.fields import (
    PageQuery,
    page_example,
    page_of,
)
from apps.core.api.operation import operation
from apps.engine.roles import Permission
from apps.runs.api.runs import RunEndpoints
from apps.runs.api.shapes import (
    ATTEMPT,
    NODE_RUN,
    RESOLVED,
    AttemptSerializer,
    NodeRunQuery,
    NodeRunSerializer,
    NothingSerializer,
    ResolvedSerializer,
    SuccessSerializer,
)
from apps.runs.services.stop import stop_node
from apps.runs.services.success import set_success
from apps.runs.variables import resolved
from apps.workspaces.models import TokenScope


class NodeRunsEndpoint(RunEndpoints):
    @operation(
        "list_node_runs",
        "List a run's nodes",
        permission=Permission.VIEW,
        query=NodeRunQuery,
        answers={200: page_of(NodeRunSerializer)},
        shows=page_example(NODE_RUN),
    )
    def get(self, request: Request, workspace: str, run: int) -> Response:
        """In the graph's order: a node stands behind those that it waits for. `next` is passed
        on as `after`."""
        query = self.query
        its_run = self.run(run)
        rows = self.nodes_of(its_run).order_by("pk")
        if "after" in query:
            rows = rows.filter(pk__gt=query["after"])
        if "state" in query:
            rows = rows.filter(state=query["state"])
        found = list(rows[: query["limit"] + 1])
        more, found = len(found) > query["limit"], found[: query["limit"]]
        following = found[-1].pk if more else None
        return Response({"items": self.with_waiting(its_run, found), "next": following})


class NodeRunEndpoint(RunEndpoints):
    @operation(
        "get_node_run",
        "Get a node of a run",
        permission=Permission.VIEW,
        answers={200: NodeRunSerializer},
        shows=NODE_RUN,
    )
    def get(self, request: Request, workspace: str, run: int, node: str) -> Response:
        return self.shown_node(run, node)


class NodeRunStopEndpoint(RunEndpoints):
    @operation(
        "stop_node_run",
        "Stop a node of a run",
        permission=Permission.EDIT_JOB,
        scope=TokenScope.RUN,
        body=NothingSerializer,
        answers={202: NodeRunSerializer},
        example={},
        shows=NODE_RUN | {"state": "running", "exit_code": None, "ended_at": None},
    )
    def post(self, request: Request, workspace: str, run: int, node: str) -> Response:
        """What does not wait for it goes on. Rights as for stopping the run."""
        self.may_operate(self.run(run))
        self.body()
        stop_node(self.node(run, node), user=request.user)
        return self.shown_node(run, node, status=202)


class NodeRunSuccessEndpoint(RunEndpoints):
    @operation(
        "set_node_run_to_success",
        "Set a node of a run to success",
        permission=Permission.EDIT_JOB,
        scope=TokenScope.RUN,
        body=SuccessSerializer,
        answers={200: NodeRunSerializer},
        example={"reason": "loaded by hand"},
        shows=NODE_RUN | {"forced": True, "reason": "set to success (was failed): loaded by hand"},
    )
    def post(self, request: Request, workspace: str, run: int, node: str) -> Response:
        """Any node that is neither running nor succeeded. What waits for it goes on, also in a
        run that was over. Rights as for stopping the run."""
        self.may_operate(self.run(run))
        data = self.body()
        set_success(self.node(run, node), reason=data["reason"], user=request.user)
        return self.shown_node(run, node)


class AttemptsEndpoint(RunEndpoints):
    @operation(
        "list_attempts",
        "List a node's attempts",
        permission=Permission.VIEW,
        query=PageQuery,
        answers={200: page_of(AttemptSerializer)},
        shows=page_example(ATTEMPT),
    )
    def get(self, request: Request, workspace: str, run: int, node: str) -> Response:
        """Newest first."""
        return self.page(self.node(run, node).attempts.all(), AttemptSerializer)


class AttemptEndpoint(RunEndpoints):
    @operation(
        "get_attempt",
        "Get an attempt",
        permission=Permission.VIEW,
        answers={200: AttemptSerializer},
        shows=ATTEMPT,
    )
    def get(self, request: Request, workspace: str, run: int, node: str, attempt: int) -> Response:
        return Response(AttemptSerializer(self.attempt(run, node, attempt)).data)


class VariablesOfAttemptEndpoint(RunEndpoints):
    @operation(
        "get_variables_of_attempt",
        "Get an attempt's variables",
        permission=Permission.VIEW,
        answers={200: ResolvedSerializer},
        shows=RESOLVED,
    )
    def get(self, request: Request, workspace: str, run: int, node: str, attempt: int) -> Response:
        """Every variable that it found, its value, and where that came from."""
        row = self.node(run, node)
        found = resolved(row, self.attempt(run, node, attempt))
        return Response(ResolvedSerializer(found).data)
