"""What workflows and all that is theirs look like, and what is sent about them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.core.api.fields import (
    Flag,
    Number,
    PageQuery,
    PriorityWord,
    Strict,
    Text,
    VersionBrief,
    Whole,
)
from apps.core.api.problems import FaultSerializer
from apps.core.errors import Invalid
from apps.engine.retry import BACKOFF_LEAST, BACKOFF_MOST
from apps.engine.states import Missed, Overlap, Severity, Strategy
from apps.engine.timetable import MAX_CRON, MAX_DATES, Kind
from apps.nodes.api import (
    VERSION,
    LaunchSerializer,
    ParametersField,
    PublishSerializer,
)
from apps.runs.api.shapes import RESOLVED, ResolvedVariableSerializer
from apps.runs.models import SchedulePoint
from apps.workflows.clock import check_year
from apps.workflows.models import Workflow
from apps.workflows.services.drafting import (
    MAX_DATA_OFFSET,
    MAX_EDGES,
    MAX_NODES,
)
from apps.workflows.services.ownership import MAX_OWNER, MAX_RUNBOOK
from apps.workflows.services.publishing import draft_faults
from apps.workspaces.api import Units, WaitingSerializer

SMALL = 32767


class EdgeField(serializers.ListField):
    """[upstream, downstream]"""

    child = Text(max_length=64)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_length=2, max_length=2, **kwargs)


BACKOFF_HELP = "From 1 to 10: each pause this many times as long as the one before; 1: even."
LONGEST_HELP = "Up to here back-off lets a pause grow."
WAIT_HELP = "Longest wait of a node in its queue, before it fails."


class ExitCodes(serializers.ListField):
    """Codes from 1 to 255."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("help_text", "After these no retry follows.")
        super().__init__(child=Whole(minimum=1, maximum=255), max_length=255, **kwargs)


class DayField(serializers.Field):
    """A day of the week by name, or of the month by number; `last` is a month's last."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, bool) or not isinstance(data, int | str):
            raise serializers.ValidationError("a day is a number or a word")
        return data

    def to_representation(self, value: Any) -> Any:
        return value


class Days(serializers.ListField):
    child = extend_schema_field({"oneOf": [{"type": "integer"}, {"type": "string"}]})(DayField)()


def _schedule_fields() -> dict[str, Any]:
    clock = {"required": False, "max_length": 5}
    dates = {"required": False, "allow_null": True, "max_length": MAX_DATES}
    return {
        "kind": serializers.ChoiceField(choices=[each.value for each in Kind]),
        "time": Text(help_text="HH:MM, of days, weekly and monthly.", **clock),
        "every": Whole(
            minimum=1, maximum=59, required=False, help_text="N, of hours (to 23) and minutes."
        ),
        "from": Text(help_text="Begin of the daily window, by default 00:00.", **clock),
        "to": Text(help_text="Its end, which belongs to it, by default 23:59.", **clock),
        "days": Days(
            required=False,
            min_length=1,
            max_length=32,
            help_text="Weekly: mon to sun. Monthly: 1 to 31, or last.",
        ),
        "cron": Text(required=False, max_length=MAX_CRON, help_text="Five fields."),
        "started_at": Text(
            required=False,
            allow_null=True,
            max_length=40,
            help_text="ISO 8601 with an offset; no point before. Left out: now.",
        ),
        "ends_on": Text(
            required=False, allow_null=True, max_length=10, help_text="The last date; null: no end."
        ),
        "left_out": serializers.ListField(
            child=Text(max_length=10), help_text="Dates without a point.", **dates
        ),
        "instead": serializers.ListField(
            child=Text(max_length=10), help_text="Dates in the place of the pattern's.", **dates
        ),
        "missed": serializers.ChoiceField(
            choices=[each.value for each in Missed],
            required=False,
            help_text="Of the cycles that fell due while nothing could start: latest (default), "
            "all or none are run.",
        ),
    }


#: When a workflow is due. `from` is no name that a class can have.
ScheduleSerializer = type("ScheduleSerializer", (Strict,), _schedule_fields())

ZONE_HELP = "IANA name; empty: the workspace's."
SCHEDULE_HELP = "Null: by hand alone. Sent, it replaces the whole schedule."


class SettingsSerializer(Strict):
    """What applies to every node that says nothing else, and to the whole run."""

    description = Text(allow_blank=True, required=False, max_length=10_000)
    queue = Text(max_length=64, allow_null=True, required=False, help_text="Of its nodes.")
    retries = Whole(maximum=SMALL, required=False)
    retry_interval_seconds = Whole(required=False)
    retry_backoff = Number(
        min_value=BACKOFF_LEAST, max_value=BACKOFF_MOST, required=False, help_text=BACKOFF_HELP
    )
    retry_max_interval_seconds = Whole(minimum=1, required=False, help_text=LONGEST_HELP)
    final_exit_codes = ExitCodes(required=False)
    queue_timeout_seconds = Whole(
        minimum=1, allow_null=True, required=False, help_text=f"{WAIT_HELP} Null: no limit."
    )
    priority = PriorityWord(required=False, help_text="Of its nodes in their queues.")
    timeout_seconds = Whole(
        minimum=1, allow_null=True, required=False, help_text="Of a whole run; null: no limit."
    )
    parallelism = Whole(
        minimum=1,
        maximum=SMALL,
        allow_null=True,
        required=False,
        help_text="Nodes of one run at once; null: no limit.",
    )
    data_offset = Whole(
        maximum=MAX_DATA_OFFSET,
        required=False,
        help_text="Days from a cycle's local date back to the date of its data, `${ds}`.",
    )
    variables = ParametersField(
        required=False, help_text="Of all nodes, as they are written; a node's own win."
    )
    strategy = serializers.ChoiceField(
        choices=[each.value for each in Strategy],
        required=False,
        help_text="What a node's final failure means for the rest of the run.",
    )
    overlap = serializers.ChoiceField(
        choices=[each.value for each in Overlap],
        required=False,
        help_text="What becomes of a scheduled run while an earlier one is not over.",
    )
    overlap_limit = Whole(
        minimum=1,
        maximum=SMALL,
        required=False,
        help_text="Scheduled runs at once with the overlap parallel; the others wait in line.",
    )
    zone = Text(max_length=64, allow_blank=True, required=False, help_text=ZONE_HELP)
    schedule = ScheduleSerializer(allow_null=True, required=False, help_text=SCHEDULE_HELP)


class WorkflowCreateSerializer(SettingsSerializer):
    name = Text(max_length=128)


class WorkflowEditSerializer(SettingsSerializer):
    name = Text(max_length=128, required=False)
    revision = Whole(minimum=1, required=False, help_text="Or send its ETag as If-Match.")


class NodeEditSerializer(Strict):
    """A node as it is sent. What is null or left out follows the workflow, or the job."""

    name = Text(max_length=64)
    job = Text(max_length=255, help_text="Path of a published job.")
    job_version_number = Whole(
        minimum=1, allow_null=True, default=None, help_text="Null: the newest at each launch."
    )
    queue = Text(max_length=64, allow_null=True, default=None)
    retries = Whole(maximum=SMALL, allow_null=True, default=None)
    retry_interval_seconds = Whole(allow_null=True, default=None)
    retry_backoff = Number(
        min_value=BACKOFF_LEAST,
        max_value=BACKOFF_MOST,
        allow_null=True,
        default=None,
        help_text=BACKOFF_HELP,
    )
    retry_max_interval_seconds = Whole(
        minimum=1, allow_null=True, default=None, help_text=LONGEST_HELP
    )
    final_exit_codes = ExitCodes(
        allow_null=True, default=None, help_text="After these no retry follows; []: after all."
    )
    queue_timeout_seconds = Whole(minimum=1, allow_null=True, default=None, help_text=WAIT_HELP)
    priority = PriorityWord(allow_null=True, default=None)
    timeout_seconds = Whole(
        minimum=1, allow_null=True, default=None, help_text="Of one attempt; null: no limit."
    )
    variables = ParametersField(
        default=dict, help_text="They win over the workflow's and the job's."
    )
    x = Number(allow_null=True, default=None, help_text="Place on the canvas.")
    y = Number(allow_null=True, default=None)


class EdgesField(serializers.ListField):
    """Counted before it looks at each."""

    child = EdgeField()

    def to_internal_value(self, data: Any) -> list[Any]:
        if isinstance(data, list) and len(data) > MAX_EDGES:
            raise serializers.ValidationError(
                f"there are {len(data):,} edges; {MAX_EDGES:,} are allowed: split the workflow"
            )
        return super().to_internal_value(data)


class DraftEditSerializer(WorkflowEditSerializer):
    nodes = NodeEditSerializer(
        many=True,
        max_length=MAX_NODES,
        error_messages={
            "max_length": f"there are more than {MAX_NODES:,} nodes; split the workflow"
        },
    )
    edges = EdgesField(
        max_length=MAX_EDGES, help_text="[upstream, downstream]: the second waits for the first."
    )


class NodeSerializer(serializers.Serializer):
    name = serializers.CharField()
    job = serializers.CharField(
        source="job.path", allow_null=True, help_text="Path; null: the job is deleted."
    )
    job_version_number = serializers.IntegerField(allow_null=True)
    queue = serializers.CharField(source="queue.name", allow_null=True)
    retries = serializers.IntegerField(allow_null=True)
    retry_interval_seconds = serializers.IntegerField(allow_null=True)
    retry_backoff = serializers.FloatField(allow_null=True)
    retry_max_interval_seconds = serializers.IntegerField(allow_null=True)
    final_exit_codes = serializers.ListField(child=serializers.IntegerField(), allow_null=True)
    queue_timeout_seconds = serializers.IntegerField(allow_null=True)
    priority = PriorityWord(allow_null=True)
    timeout_seconds = serializers.IntegerField(allow_null=True)
    variables = serializers.DictField(child=serializers.CharField(allow_blank=True))
    x = serializers.FloatField(allow_null=True)
    y = serializers.FloatField(allow_null=True)


class ShownSettings(serializers.Serializer):
    queue = serializers.CharField(source="queue.name", allow_null=True)
    retries = serializers.IntegerField()
    retry_interval_seconds = serializers.IntegerField()
    retry_backoff = serializers.FloatField()
    retry_max_interval_seconds = serializers.IntegerField()
    final_exit_codes = serializers.ListField(child=serializers.IntegerField())
    queue_timeout_seconds = serializers.IntegerField(allow_null=True)
    priority = PriorityWord()
    timeout_seconds = serializers.IntegerField(allow_null=True)
    parallelism = serializers.IntegerField(allow_null=True)
    strategy = serializers.ChoiceField(choices=[each.value for each in Strategy])
    overlap = serializers.ChoiceField(choices=[each.value for each in Overlap])
    overlap_limit = serializers.IntegerField()
    zone = serializers.CharField(allow_blank=True, help_text=ZONE_HELP)
    schedule = ScheduleSerializer(allow_null=True)
    data_offset = serializers.IntegerField()
    variables = serializers.DictField(child=serializers.CharField(allow_blank=True))


class TagsSerializer(Strict):
    tags = serializers.DictField(
        child=Text(max_length=64, allow_blank=True),
        help_text="Key to value, each of 1 to 64 letters, digits, `_`, `-` and `.`; 50 at most.",
    )


class OwnershipSerializer(Strict):
    owner = Text(
        max_length=MAX_OWNER,
        allow_blank=True,
        default="",
        help_text="A person or a team, in words; empty: nobody is named.",
    )
    severity = serializers.ChoiceField(
        choices=[each.value for each in Severity],
        default=Severity.NORMAL.value,
        help_text="How much a failure matters.",
    )
    runbook = Text(
        max_length=MAX_RUNBOOK,
        allow_blank=True,
        default="",
        help_text="Where it is written what to do when it fails: an http or https address.",
    )


class WorkflowBriefSerializer(ShownSettings):
    """A workflow without its graph."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    tags = serializers.DictField(child=serializers.CharField(), help_text="In no version.")
    owner = serializers.CharField(
        allow_blank=True, help_text="Who looks after it; like severity and runbook in no version."
    )
    severity = serializers.ChoiceField(choices=[each.value for each in Severity])
    runbook = serializers.CharField(allow_blank=True, help_text="What to do when it fails.")
    revision = serializers.IntegerField(help_text="Of the draft; grows with every change.")
    published = VersionBrief(allow_null=True, help_text="What production runs take.")
    created_by = serializers.CharField(source="created_by.username", allow_null=True)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class WorkflowSerializer(WorkflowBriefSerializer):
    """A workflow with its draft."""

    nodes = serializers.SerializerMethodField()
    edges = serializers.SerializerMethodField(help_text="[upstream, downstream]")
    faults = serializers.SerializerMethodField(
        help_text="What keeps the draft from being published, each with the name of its node."
    )

    @extend_schema_field(NodeSerializer(many=True))
    def get_nodes(self, workflow: Workflow) -> Any:
        rows = workflow.nodes.select_related("job", "queue").order_by("pk")
        return NodeSerializer(rows, many=True).data

    @extend_schema_field(serializers.ListField(child=EdgeField()))
    def get_edges(self, workflow: Workflow) -> list[list[str]]:
        rows = workflow.edges.values_list("upstream__name", "downstream__name")
        return sorted(list(edge) for edge in rows)

    @extend_schema_field(FaultSerializer(many=True))
    def get_faults(self, workflow: Workflow) -> list[dict[str, str]]:
        found = draft_faults(workflow)
        return [{"field": each.field, "message": each.message} for each in found]


class WorkflowVersionSerializer(VersionBrief):
    """What was published; jobs by the path that they have now."""

    created_by = serializers.CharField(source="created_by.username", allow_null=True)
    settings = ShownSettings()
    nodes = NodeSerializer(many=True)
    edges = serializers.ListField(child=EdgeField())


class WorkflowVersionBriefSerializer(VersionBrief):
    created_by = serializers.CharField(source="created_by.username", allow_null=True)


class WorkflowQuery(PageQuery):
    q = serializers.CharField(required=False, help_text="Part of the name.")
    name = serializers.CharField(required=False, help_text="The whole name: one or none.")
    owner = serializers.CharField(
        required=False, help_text="The whole owner; upper and lower case are one."
    )
    severity = serializers.ChoiceField(choices=[each.value for each in Severity], required=False)


class CycleSerializer(LaunchSerializer):
    """What a run stands for, and of which version or draft it is."""

    draft = Flag(
        default=False,
        help_text="The draft, its jobs as they are published, instead of a published version.",
    )
    data_date = serializers.DateField(
        default=None,
        allow_null=True,
        help_text="`${ds}`: the cycle is the schedule's first point on the day that the data "
        "offset leads to, or that day's midnight. Left out: the cycle is now.",
    )
    cycle = serializers.DateTimeField(
        default=None, allow_null=True, help_text="The cycle itself, instead of its data date."
    )

    def validate_cycle(self, cycle: datetime | None) -> datetime | None:
        if cycle is not None:
            try:
                check_year(cycle, "cycle")
            except Invalid as error:
                raise serializers.ValidationError(str(error)) from None
        return cycle


class DryRunSendSerializer(CycleSerializer):
    remarks = None  # type: ignore[assignment]  # how a serializer drops a field


class DryNodeSerializer(serializers.Serializer):
    name = serializers.CharField()
    job = serializers.CharField(allow_null=True, help_text="Path; null: the job is deleted.")
    job_version_number = serializers.IntegerField(allow_null=True)
    kind = serializers.CharField(allow_null=True)
    queue = serializers.CharField(allow_null=True)
    demand = Units(allow_null=True, help_text="In CU, while it runs.")
    priority = PriorityWord(allow_null=True)
    upstream = serializers.ListField(
        child=serializers.CharField(), help_text="The nodes that it waits for."
    )
    command = serializers.ListField(
        child=serializers.CharField(allow_blank=True),
        help_text="Argument list; empty where none can be made. `~` is the attempt's folder.",
    )
    files = serializers.DictField(
        child=serializers.CharField(allow_blank=True),
        help_text="Texts that are written into its folder before it starts, by name.",
    )
    variables = ResolvedVariableSerializer(many=True)
    faults = serializers.ListField(
        child=serializers.CharField(), help_text="What keeps it from being started."
    )


class DryRunSerializer(serializers.Serializer):
    """What a run would start. Long texts are cut, and say so."""

    version = serializers.IntegerField(allow_null=True, help_text="Null: the draft.")
    cycle = serializers.DateTimeField()
    data_date = serializers.CharField()
    zone = serializers.CharField()
    variables = serializers.DictField(
        child=serializers.CharField(), help_text="The variables of time that every node has."
    )
    nodes = DryNodeSerializer(many=True, help_text="In the order of the graph.")


class WorkflowLaunchSerializer(CycleSerializer):
    overlap = serializers.ChoiceField(
        choices=[each.value for each in Overlap],
        default=None,
        allow_null=True,
        help_text="Left out or null: it starts at once. In line with the scheduled runs: parallel, "
        "as many at once as the workflow's overlap_limit; wait, one at a time. skip: refused with "
        "409 while a run of this workflow is not over.",
    )


class ScheduleStateSerializer(serializers.Serializer):
    """The schedule of the published version, and its switch."""

    on = serializers.BooleanField()
    words = serializers.CharField(allow_null=True, help_text="Null: there is none, by hand alone.")
    zone = serializers.CharField(allow_null=True)
    next = serializers.ListField(
        child=serializers.DateTimeField(), help_text="The next five points, on or off."
    )
    waiting = WaitingSerializer(allow_null=True, help_text="Why it does not start the workflow.")
    changed_by = serializers.CharField(allow_null=True)
    changed_at = serializers.DateTimeField(allow_null=True, help_text="Of the switch.")


class SwitchSerializer(Strict):
    on = Flag()
    run_latest = Flag(
        default=False,
        help_text="Turning on: run today's latest point too, which is past and has no run.",
    )


class SchedulePointSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    cycle = serializers.DateTimeField(help_text="When it was due.")
    run = serializers.IntegerField(source="run_id", allow_null=True)
    reason = serializers.ChoiceField(
        choices=[each.value for each in SchedulePoint.Reason],
        allow_blank=True,
        help_text="Why there is no run: overlap, missed, or fault; empty with a run.",
    )
    note = serializers.CharField(allow_blank=True, help_text="The reason in words.")


class WorkflowPublishSerializer(PublishSerializer):
    turn_on = Flag(default=False, help_text="Turn its schedule on, if it has one.")
    revision = Whole(
        minimum=1, required=False, help_text="The draft that was looked at; left out: any."
    )


NODES = [
    {
        "name": "load",
        "job": "etl/load_flights",
        "job_version_number": None,
        "queue": None,
        "retries": None,
        "retry_interval_seconds": None,
        "retry_backoff": None,
        "retry_max_interval_seconds": None,
        "final_exit_codes": None,
        "queue_timeout_seconds": None,
        "priority": None,
        "timeout_seconds": None,
        "variables": {},
        "x": None,
        "y": None,
    },
    {
        "name": "clean",
        "job": "etl/clean_flights",
        "job_version_number": None,
        "queue": None,
        "retries": 2,
        "retry_interval_seconds": None,
        "retry_backoff": 2.0,
        "retry_max_interval_seconds": None,
        "final_exit_codes": [2, 64],
        "queue_timeout_seconds": None,
        "priority": "high",
        "timeout_seconds": 600,
        "variables": {"path": "/data/${region}/${ds}"},
        "x": None,
        "y": None,
    },
]
SHOWN = {
    "queue": "root_queue",
    "retries": 1,
    "retry_interval_seconds": 60,
    "retry_backoff": 1.0,
    "retry_max_interval_seconds": 3600,
    "final_exit_codes": [],
    "queue_timeout_seconds": 7200,
    "priority": "medium",
    "timeout_seconds": None,
    "parallelism": None,
    "strategy": "continue",
    "overlap": "parallel",
    "overlap_limit": 16,
    "zone": "Europe/Berlin",
    "schedule": {
        "kind": "days",
        "time": "02:00",
        "started_at": "2025-11-20T08:00:00Z",
        "ends_on": None,
        "left_out": [],
        "instead": None,
        "missed": "latest",
    },
    "data_offset": 1,
    "variables": {"region": "eu"},
}
WORKFLOW_BRIEF = {
    **SHOWN,
    "id": 4,
    "name": "flight_delays",
    "description": "Delays by carrier and by weather.",
    "tags": {"team": "aviation"},
    "owner": "aviation",
    "severity": "high",
    "runbook": "https://wiki.example.com/flight_delays",
    "revision": 5,
    "published": VERSION,
    "created_by": "maya",
    "created_at": "2025-11-20T08:00:00Z",
    "updated_at": "2025-11-20T08:04:00Z",
}
WORKFLOW = {**WORKFLOW_BRIEF, "nodes": NODES, "edges": [["load", "clean"]], "faults": []}
WORKFLOW_VERSION = {
    **VERSION,
    "created_by": "maya",
    "settings": SHOWN,
    "nodes": NODES,
    "edges": [["load", "clean"]],
}


class SchedulePreviewQuery(Strict):
    schedule = ScheduleSerializer()
    zone = Text(max_length=64, allow_blank=True, default="", help_text=ZONE_HELP)
    after = serializers.DateTimeField(required=False, help_text="Left out: now.")
    count = Whole(minimum=1, maximum=100, default=5, help_text="How many points at most.")


class SchedulePreviewSerializer(serializers.Serializer):
    words = serializers.CharField(help_text="The pattern in words.")
    zone = serializers.CharField()
    points = serializers.ListField(
        child=serializers.DateTimeField(), help_text="UTC; fewer where the schedule ends."
    )
    local = serializers.ListField(
        child=serializers.CharField(), help_text="The same in the schedule's zone."
    )


SCHEDULE_STATE = {
    "on": True,
    "words": "every day at 02:00",
    "zone": "Europe/Berlin",
    "next": [f"2025-11-{day}T01:00:00Z" for day in range(21, 26)],
    "waiting": None,
    "changed_by": "maya",
    "changed_at": "2025-11-20T08:05:00Z",
}

DRY_RUN = {
    "version": 2,
    "cycle": "2026-03-02T01:00:00Z",
    "data_date": "2026-03-01",
    "zone": "Europe/Berlin",
    "variables": {"ds": "2026-03-01", "ds_nodash": "20260301"},
    "nodes": [
        {
            "name": "load",
            "job": "etl/load_flights",
            "job_version_number": 2,
            "kind": "shell",
            "queue": "root_queue",
            "demand": 0.25,
            "priority": "medium",
            "upstream": [],
            "command": ["bash", "main.sh", "/data/eu/2026-03-01"],
            "files": {"main.sh": "load_flights $1"},
            "variables": RESOLVED["variables"],
            "faults": [],
        }
    ],
}
