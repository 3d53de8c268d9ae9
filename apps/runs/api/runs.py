"""REST: runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import F, QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.endpoint import Endpoint
from apps.core.api.fields import (
    PageQuery,
    page_example,
    page_of,
    written,
)
from apps.core.api.operation import Place, operation
from apps.engine.roles import Permission
from apps.nodes.api import StartedSerializer
from apps.runs.api.shapes import (
    EVENT,
    PAUSED,
    RUN,
    RUN_NOW,
    STOPPING,
    EventSerializer,
    NodeRunSerializer,
    NothingSerializer,
    RerunPlanSerializer,
    RerunQuery,
    RerunSerializer,
    RunNowSerializer,
    RunQuery,
    RunSerializer,
)
from apps.runs.models import Attempt, NodeRun, Output, Run, RunEvent
from apps.runs.rights import needed_to_operate
from apps.runs.services.anew import Change, Part, newer_jobs, newer_version, plan_anew, rerun_anew
from apps.runs.services.lanes import ahead
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.rerun import (
    failed_scope,
    rerun_failed,
    rerun_nodes,
    rerun_plan,
    rerun_scope,
    to_repeat,
)
from apps.runs.services.stop import stop_run
from apps.runs.waiting import waiting_of
from apps.workspaces.api import told
from apps.workspaces.models import TokenScope
from apps.workspaces.selectors import require


class RunEndpoints(Endpoint):
    tag = "Runs"
    places = {
        "run": Place("Id of the run.", "118"),
        "node": Place("Name of the node.", "load", str),
        "attempt": Place("Number of the attempt, from 1.", "1"),
        "output": Place("Id of the output.", "12"),
    }

    def runs(self) -> QuerySet[Run]:
        """As RunSerializer shows them, once `put_standing` has seen them."""
        rows: QuerySet[Run] = self.visible(Run.objects.defer("variables"))
        # Columns instead of as many more objects a row.
        return rows.annotate(
            version_number=F("version__number"),
            author=F("created_by__username"),
            backfill=F("backfill_cycle__backfill"),
        )

    def put_standing(self, runs: Sequence[Run]) -> None:
        before, again = ahead(runs), to_repeat(runs)
        for run in runs:
            run.ahead = before.get(run.pk)  # type: ignore[attr-defined]
            run.to_repeat = run.pk in again  # type: ignore[attr-defined]

    def run(self, pk: int) -> Run:
        row: Run = self.one(self.runs(), "run", pk=pk)
        return row

    def nodes(self, run: int) -> QuerySet[NodeRun]:
        return self.nodes_of(self.run(run))

    def nodes_of(self, run: Run) -> QuerySet[NodeRun]:
        rows = NodeRun.objects.filter(run=run)
        return rows.select_related("job_version__job", "queue", "run").defer(
            "job_version__spec", "job_version__files", "job_version__job__draft"
        )

    def shown(self, run: Run, *, status: int = 200) -> Response:
        self.put_standing([run])
        run.waiting = told(waiting_of(run).run)  # type: ignore[attr-defined]
        return Response(RunNowSerializer(run).data, status=status)

    def shown_node(self, run: int, name: str, *, status: int = 200) -> Response:
        its_run = self.run(run)
        [data] = self.with_waiting(its_run, [self.node_of(its_run, name)])
        return Response(data, status=status)

    def with_waiting(self, run: Run, nodes: Sequence[NodeRun]) -> Any:
        """These nodes of a run, each with why it waits."""
        waiting = waiting_of(run).nodes
        for node in nodes:
            node.waiting = told(next(iter(waiting.get(node.pk, ())), None))  # type: ignore[attr-defined]
        return written(NodeRunSerializer, nodes)

    def node(self, run: int, name: str) -> NodeRun:
        return self.node_of(self.run(run), name)

    def node_of(self, run: Run, name: str) -> NodeRun:
        row: NodeRun = self.one(self.nodes_of(run), f"node of run {run.pk} named", key=name)
        return row

    def attempt(self, run: int, node: str, number: int) -> Attempt:
        row = self.node(run, node)
        attempt: Attempt = self.one(
            row.attempts.all(), f"attempt of {node!r} with number", number=number
        )
        return attempt

    def outputs(self, run: int) -> QuerySet[Output]:
        rows = Output.objects.filter(attempt__node_run__run=self.run(run).pk)
        return rows.select_related("attempt__node_run")

    def may_operate(self, run: Run) -> None:
        """Raises Denied unless the user may stop, pause and repeat this run."""
        require(self.request.user, self.workspace, needed_to_operate(run))


class RunsEndpoint(RunEndpoints):
    @operation(
        "list_runs",
        "List runs",
        permission=Permission.VIEW,
        query=RunQuery,
        answers={200: page_of(RunSerializer)},
        shows=page_example(RUN),
    )
    def get(self, request: Request, workspace: str) -> Response:
        """Newest first."""
        query = self.query
        names = ("state", "trigger", "workflow", "job", "backfill")
        exact = {name: query[name] for name in names if name in query}
        return self.page(self.runs().filter(**exact), RunSerializer, self.put_standing)


class RunEndpoint(RunEndpoints):
    @operation(
        "get_run",
        "Get a run",
        permission=Permission.VIEW,
        answers={200: RunNowSerializer},
        shows=RUN_NOW,
    )
    def get(self, request: Request, workspace: str, run: int) -> Response:
        """It is over when `ended_at` is set; then `state` says how it ended."""
        return self.shown(self.run(run))


class RunEventsEndpoint(RunEndpoints):
    @operation(
        "list_run_events",
        "List a run's events",
        permission=Permission.VIEW,
        query=PageQuery,
        answers={200: page_of(EventSerializer)},
        shows=page_example(EVENT),
    )
    def get(self, request: Request, workspace: str, run: int) -> Response:
        """Newest first. For what is past: who follows a run asks for its `revision`."""
        rows = RunEvent.objects.filter(run=self.run(run).pk).select_related("node_run", "user")
        return self.page(rows, EventSerializer)


class RunStopEndpoint(RunEndpoints):
    @operation(
        "stop_run",
        "Stop a run",
        permission=Permission.EDIT_JOB,
        scope=TokenScope.RUN,
        body=NothingSerializer,
        answers={202: RunNowSerializer},
        example={},
        shows={**RUN_NOW, "hold": "stopped", "waiting": STOPPING},
    )
    def post(self, request: Request, workspace: str, run: int) -> Response:
        """What waits ends at once, what runs is ended by its worker. Needs the right to operate
        runs; for a run of a draft the right to edit jobs is enough."""
        row = self.run(run)
        self.may_operate(row)
        self.body()
        stop_run(row, user=request.user)
        return self.shown(self.run(run), status=202)


class RunPauseEndpoint(RunEndpoints):
    @operation(
        "pause_run",
        "Pause a run",
        permission=Permission.EDIT_JOB,
        scope=TokenScope.RUN,
        body=NothingSerializer,
        answers={200: RunNowSerializer},
        example={},
        shows={**RUN_NOW, "hold": "paused", "waiting": PAUSED},
    )
    def post(self, request: Request, workspace: str, run: int) -> Response:
        """What runs goes on to its end, no other node starts; `hold` says so, the state stays.
        Rights as for stopping the run."""
        row = self.run(run)
        self.may_operate(row)
        self.body()
        pause_run(row, user=request.user)
        return self.shown(self.run(run))


class RunResumeEndpoint(RunEndpoints):
    @operation(
        "resume_run",
        "Resume a paused run",
        permission=Permission.EDIT_JOB,
        scope=TokenScope.RUN,
        body=NothingSerializer,
        answers={200: RunNowSerializer},
        example={},
        shows=RUN_NOW,
    )
    def post(self, request: Request, workspace: str, run: int) -> Response:
        """Rights as for stopping the run."""
        row = self.run(run)
        self.may_operate(row)
        self.body()
        resume_run(row, user=request.user)
        return self.shown(self.run(run))


class RunRerunEndpoint(RunEndpoints):
    @operation(
        "preview_rerun",
        "Preview a rerun",
        permission=Permission.VIEW,
        query=RerunQuery,
        answers={200: RerunPlanSerializer},
        shows={
            "new_run": False,
            "again": ["clean"],
            "kept": ["load"],
            "left_out": [],
            "passed_over": [],
            "gone": [],
            "newer_version": 3,
            "newer_jobs": [{"job": "etl/clean_flights", "used": 1, "newest": 2}],
        },
    )
    def get(self, request: Request, workspace: str, run: int) -> Response:
        """What running it again would do as it stands now; changes nothing. Refused as the rerun
        itself would be. Says of which jobs, and whether of the workflow, a newer version is
        published than the run used."""
        row = self.run(run)
        query = self.query
        told: dict[str, Any]
        if is_anew(query):
            plan = plan_anew(row, part_of_run(query), change_of(query))
            told = {"new_run": True, **vars(plan), "kept": list(plan.kept)}
            told["newer_jobs"] = plan.newer
        else:
            within = rerun_plan(row, self.scope_of(row, query))
            fates = {
                "again": within.again,
                "kept": within.kept,
                "passed_over": within.passed_over,
            }
            told = {fate: [node.key for node in nodes] for fate, nodes in fates.items()}
            newer = newer_jobs(row, told["again"])
            told |= {"new_run": False, "left_out": [], "gone": [], "newer_jobs": newer}
        told["newer_version"] = newer_version(row)
        return Response(RerunPlanSerializer(told).data)

    @operation(
        "rerun_run",
        "Run a run again",
        permission=Permission.EDIT_JOB,
        scope=TokenScope.RUN,
        body=RerunSerializer,
        answers={201: StartedSerializer},
        example={"scope": "failed"},
        shows={"runs": [118]},
    )
    def post(self, request: Request, workspace: str, run: int) -> Response:
        """Answers with the id of the run to follow: this one, or the new one. `GET` tells before
        what would run. Needs the right to operate runs; for a run of a draft the right to edit
        jobs is enough."""
        row = self.run(run)
        self.may_operate(row)
        data = self.body()
        if is_anew(data):
            row = rerun_anew(row, part_of_run(data), change_of(data), user=request.user)
        elif data["scope"] == "failed":
            rerun_failed(row, user=request.user)
        else:
            rerun_nodes(row, self.scope_of(row, data), user=request.user)
        return Response({"runs": [row.pk]}, status=201)

    def scope_of(self, run: Run, data: dict[str, Any]) -> list[str]:
        """The nodes that a rerun in place is about."""
        if data["scope"] == "failed":
            return failed_scope(run)
        return rerun_scope(run, data["node"], downstream=data["scope"] == "downstream")


def is_anew(data: dict[str, Any]) -> bool:
    """Whether a rerun as asked for is a new run: a run keeps its versions and parameters."""
    changed = data.keys() & {"version", "job_versions", "parameters"}
    return data["scope"] in ("all", "failed_anew") or bool(changed)


def part_of_run(data: dict[str, Any]) -> Part:
    return Part(data["scope"].removesuffix("_anew"), data.get("node", ""))


def change_of(data: dict[str, Any]) -> Change:
    return Change(
        version=data.get("version"),
        newest_jobs=data.get("job_versions") != "used",
        parameters=data.get("parameters"),
    )
