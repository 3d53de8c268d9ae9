"""What runs and all that is theirs look like, and what is sent about them."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from apps.core.api.fields import (
    PageQuery,
    PriorityWord,
    Strict,
    Text,
)
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
from apps.nodes.api import ParametersField
from apps.runs.log_lines import MOST_LINES
from apps.runs.models import NodeRun, Run
from apps.workspaces.api import Units, WaitingSerializer

_BIG = {"min_value": 1, "max_value": 2**63 - 1, "required": False}


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
    backfill = serializers.IntegerField(
        allow_null=True, help_text="The backfill that it was launched by."
    )
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
    backfill = serializers.IntegerField(**_BIG, help_text="Id of the backfill that launched it.")


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
    "backfill": None,
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
