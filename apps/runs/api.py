"""REST: runs, their nodes, attempts, logs and outputs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

from django.db.models import F, QuerySet
from django.http.response import HttpResponseBase
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.endpoint import Endpoint
from apps.core.api.fields import (
    PageQuery,
    PriorityWord,
    Strict,
    Text,
    page_example,
    page_of,
    written,
)
from apps.core.api.operation import Bytes, Place, operation
from apps.core.api.problems import problem
from apps.core.http import download
from apps.engine.roles import Permission
from apps.engine.states import (
    AttemptState,
    Hold,
    NodeState,
    RunState,
    Strategy,
    Trigger,
    node_acts,
    run_acts,
    standing,
)
from apps.nodes.api import ParametersField, StartedSerializer, stored_bytes
from apps.runs.log_lines import MOST_LINES, check_wanted, lines_from, search
from apps.runs.logs import AttemptLog, log_of
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
from apps.runs.services.stop import stop_node, stop_run
from apps.runs.services.success import set_success
from apps.runs.variables import resolved
from apps.runs.waiting import waiting_of
from apps.workspaces.api import Units, WaitingSerializer, told
from apps.workspaces.models import TokenScope
from apps.workspaces.selectors import require

#: Most that one answer to a Range holds; who wants more asks on from its end.
RANGE_BYTES = 4 << 20
_CHUNK = 1 << 20
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")
_BIG = {"min_value": 1, "max_value": 2**63 - 1, "required": False}

# --- shapes ---------------------------------------------------------------------------------


class CountsSerializer(serializers.Serializer):
    """Nodes by how they stand; `active` are queued or running."""

    total = serializers.IntegerField()
    active = serializers.IntegerField()
    succeeded = serializers.IntegerField()
    failed = serializers.IntegerField()
    stopped = serializers.IntegerField()
    cancelled = serializers.IntegerField()


class RunSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    name = serializers.CharField(help_text="Of the workflow, or path of the job, at launch.")
    workflow = serializers.IntegerField(source="workflow_id", allow_null=True)
    version = serializers.IntegerField(
        source="version_number", allow_null=True, help_text="Of the workflow."
    )
    job = serializers.IntegerField(
        source="job_id", allow_null=True, help_text="Of a job that was run by itself."
    )
    trigger = serializers.ChoiceField(choices=[each.value for each in Trigger])
    cycle = serializers.DateTimeField(help_text="The point in time that the run stands for.")
    state = serializers.ChoiceField(choices=[each.value for each in RunState])
    hold = serializers.ChoiceField(
        choices=[each.value for each in Hold], allow_blank=True, help_text="Asked of the whole run."
    )
    held = serializers.BooleanField(help_text="A hold stands on a tag of its workflow.")
    actions = serializers.SerializerMethodField(
        help_text="What may be done to it now, rights aside: pause, resume, stop, rerun (as a "
        "new run), rerun_failed (in it)."
    )
    waits = serializers.BooleanField(
        help_text="For another run of the same cycle, or in its lane's line: nothing of it has "
        "started."
    )
    waits_for = serializers.IntegerField(
        source="waits_for_id",
        allow_null=True,
        help_text="The run of the same cycle whose end it waits for; null where it waits for none.",
    )
    ahead = serializers.IntegerField(
        allow_null=True, help_text="Runs before it in that line; null where it does not wait."
    )
    nodes = CountsSerializer(source="*")
    parallelism = serializers.IntegerField(
        allow_null=True, help_text="Nodes at once; null: no limit."
    )
    timeout_seconds = serializers.IntegerField(
        allow_null=True, help_text="From the start of its first node; null: no limit."
    )
    strategy = serializers.ChoiceField(choices=[each.value for each in Strategy])
    priority = PriorityWord(
        allow_null=True, help_text="Chosen at launch for every node; null: each has its own."
    )
    parameters = serializers.DictField(child=serializers.CharField(allow_blank=True))
    remarks = serializers.CharField(allow_blank=True)
    rerun_of = serializers.IntegerField(source="rerun_of_id", allow_null=True)
    revision = serializers.IntegerField(help_text="Grows with every change of it or its nodes.")
    created_by = serializers.CharField(source="author", allow_null=True)
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)

    def get_actions(self, run: Run) -> list[str]:
        now = standing(run.state, run.hold)
        return [str(act) for act in run_acts(now, to_repeat=run.to_repeat)]  # type: ignore[attr-defined]


class RunNowSerializer(RunSerializer):
    """A run, and why it stands still if it does."""

    waiting = WaitingSerializer(
        allow_null=True, help_text="Null while something of it runs, and once it is over."
    )


class NodeRunSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    name = serializers.CharField(source="key")
    job = serializers.CharField(source="job_version.job.path")
    job_version_number = serializers.IntegerField(
        source="job_version.number", allow_null=True, help_text="Null: the draft."
    )
    kind = serializers.CharField(source="job_version.kind")
    queue = serializers.CharField(source="queue.name")
    demand = Units(help_text="In CU, while it runs.")
    state = serializers.ChoiceField(choices=[each.value for each in NodeState])
    actions = serializers.SerializerMethodField(
        help_text="What may be done to it now, rights aside: stop, success, rerun."
    )
    forced = serializers.BooleanField(help_text="Set to success by hand.")
    reason = serializers.CharField(allow_blank=True, help_text="Why it stands where it stands.")
    attempt = serializers.IntegerField(help_text="Number of the last one; 0: none yet.")
    failures = serializers.IntegerField(help_text="Counted against retries.")
    losses = serializers.IntegerField(help_text="Attempts lost with their worker or host.")
    retries = serializers.IntegerField()
    retry_interval_seconds = serializers.IntegerField()
    retry_backoff = serializers.FloatField()
    retry_max_interval_seconds = serializers.IntegerField()
    final_exit_codes = serializers.ListField(child=serializers.IntegerField())
    retry_plan = serializers.CharField(help_text="What follows when it fails, in words.")
    priority = PriorityWord()
    queue_timeout_seconds = serializers.IntegerField(allow_null=True)
    timeout_seconds = serializers.IntegerField(allow_null=True, help_text="Of one attempt.")
    exit_code = serializers.IntegerField(allow_null=True)
    queued_at = serializers.DateTimeField(allow_null=True)
    retry_at = serializers.DateTimeField(allow_null=True)
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    waiting = WaitingSerializer(
        allow_null=True,
        help_text="Why it does not run, or was not run; null while it runs, and once it has ended.",
    )

    def get_actions(self, node: NodeRun) -> list[str]:
        return [str(act) for act in node_acts(standing(node.run.state, node.run.hold), node.state)]


class AttemptSerializer(serializers.Serializer):
    number = serializers.IntegerField()
    state = serializers.ChoiceField(choices=[each.value for each in AttemptState])
    worker = serializers.CharField()
    exit_code = serializers.IntegerField(allow_null=True)
    reason = serializers.CharField(allow_blank=True)
    error_line = serializers.CharField(
        allow_blank=True, help_text="The most telling line of a failed log."
    )
    log_bytes = serializers.IntegerField()
    log_lines = serializers.IntegerField()
    values = serializers.DictField(
        child=serializers.CharField(),
        allow_null=True,
        help_text="What it left in $RUNYARD_OUTPUT; null: nothing.",
    )
    application_id = serializers.CharField(allow_blank=True, help_text="Of Spark.")
    ui_url = serializers.CharField(allow_blank=True, help_text="Of Spark's own pages.")
    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class ResolvedVariableSerializer(serializers.Serializer):
    name = serializers.CharField()
    value = serializers.CharField(allow_blank=True, help_text="Of a secret ***.")
    source = serializers.CharField(
        help_text="`run`, `node`, `workflow`, `job`, `workspace`, `built-in`, `secret`, or the "
        "node that left it, as `node load`."
    )
    written = serializers.CharField(
        allow_blank=True, help_text="As it is written, where that differs from the value."
    )


class ResolvedSerializer(serializers.Serializer):
    variables = ResolvedVariableSerializer(many=True)
    fault = serializers.CharField(
        allow_blank=True, help_text="Why they have no values; empty where they have."
    )


class EventSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    node = serializers.CharField(
        source="node_run.key", allow_null=True, help_text="Null: the whole run."
    )
    attempt = serializers.IntegerField(allow_null=True)
    old = serializers.CharField(allow_blank=True)
    new = serializers.CharField(allow_blank=True)
    user = serializers.CharField(
        source="user.username", allow_null=True, help_text="Null: the engine."
    )
    note = serializers.CharField(allow_blank=True)


class OutputSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    node = serializers.CharField(source="attempt.node_run.key")
    attempt = serializers.IntegerField(source="attempt.number")
    name = serializers.CharField()
    size = serializers.IntegerField(help_text="In bytes.")
    sha256 = serializers.CharField()


class RunQuery(PageQuery):
    state = serializers.ChoiceField(choices=[each.value for each in RunState], required=False)
    trigger = serializers.ChoiceField(choices=[each.value for each in Trigger], required=False)
    workflow = serializers.IntegerField(**_BIG, help_text="Id of the workflow.")
    job = serializers.IntegerField(**_BIG, help_text="Id of a job that was run by itself.")


class NodeRunQuery(Strict):
    after = serializers.IntegerField(**_BIG, help_text="`next` of the page before.")
    limit = serializers.IntegerField(
        min_value=1, max_value=500, default=200, help_text="How many at most."
    )
    state = serializers.ChoiceField(choices=[each.value for each in NodeState], required=False)


class RerunQuery(Strict):
    scope = serializers.ChoiceField(
        choices=["all", "failed", "node", "downstream", "failed_anew"],
        default="all",
        help_text="all: everything; failed: what has not succeeded; node: one node alone; "
        "downstream: one node and all below it; failed_anew: failed, as a new run.",
    )
    node = serializers.CharField(
        required=False, help_text="Name of the node, with the scopes node and downstream."
    )
    version = serializers.IntegerField(
        **_BIG,
        help_text="Number of a version of the workflow, or of the job of a run of its own; "
        "without it the run's own, of a job the newest.",
    )
    job_versions = serializers.ChoiceField(
        choices=["newest", "used"],
        required=False,
        help_text="Those published by now (the default), or those that the run used.",
    )

    def validate(self, data: dict[str, Any]) -> dict[str, Any]:
        scope, one = data["scope"], data["scope"] in ("node", "downstream")
        if one and "node" not in data:
            raise serializers.ValidationError({"node": [f"scope {scope!r} needs it; name a node"]})
        if not one and "node" in data:
            raise serializers.ValidationError(
                {"node": [f"scope {scope!r} is of no one node; take it out"]}
            )
        return data


class RerunSerializer(RerunQuery):
    scope = serializers.ChoiceField(
        choices=["all", "failed", "node", "downstream", "failed_anew"],
        help_text="all: everything; failed: what has not succeeded; node: one node alone; "
        "downstream: one node and all below it; failed_anew: failed, as a new run. All but all "
        "and failed_anew go on in this run, unless a version, job_versions or parameters are "
        "given: then it is a new run, for the same cycle, that keeps what has succeeded.",
    )
    parameters = ParametersField(required=False, help_text="In the place of the run's own.")


class NewerSerializer(serializers.Serializer):
    job = serializers.CharField(source="job.path")
    used = serializers.IntegerField(help_text="Version that the run used.")
    newest = serializers.IntegerField(help_text="Version published since.")


class RerunPlanSerializer(serializers.Serializer):
    """Names of nodes, in the graph's order."""

    new_run = serializers.BooleanField(help_text="False: it would be in this run.")
    again = serializers.ListField(child=serializers.CharField(), help_text="What would run.")
    kept = serializers.ListField(
        child=serializers.CharField(),
        help_text="What would not; of a new run: what has succeeded and would be taken over.",
    )
    left_out = serializers.ListField(
        child=serializers.CharField(),
        help_text="Of a new run: what would neither run nor has succeeded.",
    )
    passed_over = serializers.ListField(
        child=serializers.CharField(),
        help_text="Upstreams that have not succeeded and would not be waited for.",
    )
    gone = serializers.ListField(
        child=serializers.CharField(), help_text="Nodes that the chosen version does not have."
    )
    newer_version = serializers.IntegerField(
        allow_null=True, help_text="Version of the workflow published since; null: none."
    )
    newer_jobs = NewerSerializer(
        many=True, help_text="Jobs of what would run that were published since."
    )


class SuccessSerializer(Strict):
    reason = serializers.CharField(
        max_length=1000, help_text="Why it counts as succeeded; stays with the node's event."
    )


class NothingSerializer(Strict):
    """An object without fields; the body may be left out."""


class LineSerializer(serializers.Serializer):
    number = serializers.IntegerField(
        allow_null=True, help_text="From 1; null where too much would have to be counted."
    )
    offset = serializers.IntegerField(help_text="Where it begins in the log, in bytes.")
    text = serializers.CharField(
        allow_blank=True,
        help_text="Without its end; of a line of more than 4,000 bytes a piece.",
    )
    cut = serializers.IntegerField(help_text="Bytes of it that `text` leaves out.")


class LinesQuery(Strict):
    first = serializers.IntegerField(
        min_value=1, max_value=2**63 - 1, default=1, help_text="Number of the line to begin with."
    )
    limit = serializers.IntegerField(
        min_value=1, max_value=MOST_LINES, default=100, help_text="How many lines at most."
    )


class SearchQuery(Strict):
    text = Text(max_length=1000, help_text="What the line must hold, letter for letter.")
    ignore_case = serializers.BooleanField(default=False)
    start = serializers.IntegerField(
        min_value=0,
        max_value=2**63 - 1,
        default=0,
        help_text="`next` of the answer before: the offset to go on from.",
    )
    limit = serializers.IntegerField(
        min_value=1, max_value=MOST_LINES, default=100, help_text="How many lines at most."
    )


COUNTS = {"total": 2, "active": 1, "succeeded": 1, "failed": 0, "stopped": 0, "cancelled": 0}
RUN = {
    "id": 118,
    "name": "flight_delays",
    "workflow": 4,
    "version": 2,
    "job": None,
    "trigger": "api",
    "cycle": "2025-11-20T09:00:00Z",
    "state": "running",
    "hold": "",
    "held": False,
    "actions": ["pause", "stop"],
    "waits": False,
    "waits_for": None,
    "ahead": None,
    "nodes": COUNTS,
    "parallelism": None,
    "timeout_seconds": None,
    "strategy": "continue",
    "priority": "high",
    "parameters": {"since": "2025-11-19"},
    "remarks": "after the repair",
    "rerun_of": None,
    "revision": 6,
    "created_by": "maya",
    "created_at": "2025-11-20T09:00:00Z",
    "started_at": "2025-11-20T09:00:01Z",
    "ended_at": None,
}
WAITING = {
    "code": "queue_full",
    "sentence": "clean waits for 2 CU in queue root_queue, which has 1 of 8 free: "
    "train in run 117 of models has 7.",
    "links": [
        {"kind": "queue", "id": 1, "name": "root_queue", "run": None},
        {"kind": "node", "id": 498, "name": "train", "run": 117},
        {"kind": "run", "id": 117, "name": "run 117 of models", "run": None},
    ],
}
RUN_NOW = {**RUN, "waiting": WAITING}
MAYA = {"kind": "person", "id": 3, "name": "maya", "run": None}
PAUSED = {
    "code": "paused",
    "sentence": "Run 118 of flight_delays was paused by maya 0 s ago.",
    "links": [MAYA],
}
STOPPING = {
    "code": "stopping",
    "sentence": "Run 118 of flight_delays is being stopped by maya.",
    "links": [MAYA],
}
NODE_RUN = {
    "id": 501,
    "name": "load",
    "job": "etl/load_flights",
    "job_version_number": 2,
    "kind": "pyspark",
    "queue": "root_queue",
    "demand": 2.5,
    "state": "succeeded",
    "actions": ["rerun"],
    "forced": False,
    "reason": "",
    "attempt": 1,
    "failures": 0,
    "losses": 0,
    "retries": 1,
    "retry_interval_seconds": 60,
    "retry_backoff": 1.0,
    "retry_max_interval_seconds": 3600,
    "final_exit_codes": [2],
    "retry_plan": "1 retry, 60 s later; not after exit code 2",
    "priority": "high",
    "queue_timeout_seconds": 7200,
    "timeout_seconds": None,
    "exit_code": 0,
    "queued_at": "2025-11-20T09:00:00Z",
    "retry_at": None,
    "started_at": "2025-11-20T09:00:01Z",
    "ended_at": "2025-11-20T09:00:21Z",
    "waiting": None,
}
ATTEMPT = {
    "number": 1,
    "state": "succeeded",
    "worker": "worker-1:4711",
    "exit_code": 0,
    "reason": "",
    "error_line": "",
    "log_bytes": 20480,
    "log_lines": 211,
    "values": {"rows": "336776"},
    "application_id": "local-1763629201000",
    "ui_url": "",
    "started_at": "2025-11-20T09:00:01Z",
    "ended_at": "2025-11-20T09:00:21Z",
}
RESOLVED = {
    "variables": [
        {
            "name": "path",
            "value": "/data/eu/2025-11-19",
            "source": "workflow",
            "written": "/data/${region}/${ds}",
        },
        {"name": "ds", "value": "2025-11-19", "source": "built-in", "written": ""},
    ],
    "fault": "",
}
EVENT = {
    "id": 9001,
    "at": "2025-11-20T09:00:21Z",
    "node": "load",
    "attempt": 1,
    "old": "running",
    "new": "succeeded",
    "user": None,
    "note": "",
}
LINE = {"number": 211, "offset": 20459, "text": "read 336,776 flights", "cut": 0}
OUTPUT = {
    "id": 12,
    "node": "load",
    "attempt": 1,
    "name": "rows.csv",
    "size": 512,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}


# --- runs -----------------------------------------------------------------------------------


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
        # Two columns instead of two more objects a row.
        return rows.annotate(version_number=F("version__number"), author=F("created_by__username"))

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
        exact = {n: query[n] for n in ("state", "trigger", "workflow", "job") if n in query}
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


# --- nodes and attempts ---------------------------------------------------------------------


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


# --- outputs --------------------------------------------------------------------------------


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
