"""REST: workflows, their drafts and versions."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.endpoint import Endpoint
from apps.core.api.fields import (
    Flag,
    Number,
    PageQuery,
    PriorityWord,
    Strict,
    Text,
    VersionBrief,
    Whole,
    page_example,
    page_of,
)
from apps.core.api.operation import Place, operation
from apps.core.api.problems import FaultSerializer
from apps.core.errors import Invalid
from apps.engine.retry import BACKOFF_LEAST, BACKOFF_MOST
from apps.engine.roles import Permission
from apps.engine.states import Missed, Overlap, Strategy, Trigger
from apps.engine.timetable import MAX_CRON, MAX_DATES, Kind
from apps.nodes.api import (
    IF_MATCH,
    STARTED,
    VERSION,
    LaunchSerializer,
    ParametersField,
    PublishSerializer,
    StartedSerializer,
)
from apps.nodes.models import Job
from apps.runs.models import SchedulePoint
from apps.runs.services.holding import tag_workflow
from apps.runs.services.launch import launch
from apps.runs.services.scheduling import switch
from apps.runs.waiting import why_schedule_waits
from apps.workflows.models import Schedule, Workflow, WorkflowVersion
from apps.workflows.services.drafting import (
    MAX_DATA_OFFSET,
    MAX_EDGES,
    MAX_NODES,
    SETTINGS,
    WholeNode,
    create_workflow,
    delete_workflow,
    edit_workflow,
    replace_draft,
)
from apps.workflows.services.publishing import draft_faults, publish, whole
from apps.workflows.services.schedules import read_schedule, timetable_of
from apps.workspaces.api import WaitingSerializer, queue_named, told

SMALL = 32767

# --- shapes ---------------------------------------------------------------------------------


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


class WorkflowBriefSerializer(ShownSettings):
    """A workflow without its graph."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    tags = serializers.DictField(child=serializers.CharField(), help_text="In no version.")
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


class WorkflowLaunchSerializer(LaunchSerializer):
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


# --- workflows ------------------------------------------------------------------------------


class WorkflowEndpoints(Endpoint):
    tag = "Workflows"
    places = {
        "workflow": Place("Id of the workflow.", "4"),
        "number": Place("Number of the published version.", "2"),
    }
    shows = WorkflowSerializer

    def workflows(self) -> QuerySet[Workflow]:
        rows: QuerySet[Workflow] = self.visible(Workflow.objects.filter(deleted_at=None))
        return rows.select_related("queue", "published", "created_by").defer("published__graph")

    def workflow(self, pk: int) -> Workflow:
        row: Workflow = self.one(self.workflows(), "workflow", pk=pk)
        return row

    def version(self, workflow: Workflow, number: int) -> WorkflowVersion:
        rows = workflow.versions.select_related("created_by", "workflow")
        what = f"version of {workflow.name!r} with number"
        version: WorkflowVersion = self.one(rows, what, number=number)
        return version


class WorkflowsEndpoint(WorkflowEndpoints):
    @operation(
        "list_workflows",
        "List workflows",
        permission=Permission.VIEW,
        query=WorkflowQuery,
        answers={200: page_of(WorkflowBriefSerializer)},
        shows=page_example(WORKFLOW_BRIEF),
    )
    def get(self, request: Request, workspace: str) -> Response:
        query, rows = self.query, self.workflows()
        if wanted := query.get("q"):
            rows = rows.filter(name__icontains=wanted)
        if "name" in query:
            rows = rows.filter(name=query["name"])
        return self.page(rows, WorkflowBriefSerializer)

    @operation(
        "create_workflow",
        "Create a workflow",
        permission=Permission.EDIT_WORKFLOW,
        body=WorkflowCreateSerializer,
        answers={201: WorkflowSerializer},
        example={"name": "weekly_report", "queue": "root_queue", "retries": 1},
        shows={
            **WORKFLOW,
            "name": "weekly_report",
            "description": "",
            "tags": {},
            "revision": 1,
            "published": None,
            "nodes": [],
            "edges": [],
            "faults": [{"field": "", "message": "the workflow has no node; add one"}],
        },
    )
    def post(self, request: Request, workspace: str) -> Response:
        """An empty draft; its graph follows by PUT."""
        data = self.body()
        data["queue"] = queue_named(self.workspace, data.get("queue"))
        return self.draft(create_workflow(self.workspace, user=request.user, **data), status=201)


class SchedulePreviewEndpoint(WorkflowEndpoints):
    @operation(
        "preview_schedule",
        "Preview a schedule's points",
        permission=Permission.VIEW,
        body=SchedulePreviewQuery,
        answers={200: SchedulePreviewSerializer},
        example={
            "schedule": {"kind": "days", "time": "02:30", "started_at": "2026-01-01T00:00:00Z"},
            "zone": "Europe/Berlin",
            "after": "2026-03-28T12:00:00Z",
            "count": 2,
        },
        shows={
            "words": "every day at 02:30",
            "zone": "Europe/Berlin",
            "points": ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
            "local": ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
        },
    )
    def post(self, request: Request, workspace: str) -> Response:
        """When a schedule would be due; nothing is saved."""
        data = self.body()
        timetable = read_schedule(data["schedule"], data["zone"] or self.workspace.zone)
        points = timetable.following(data.get("after") or timezone.now(), data["count"])
        shown = {
            "words": timetable.in_words(),
            "zone": str(timetable.zone),
            "points": points,
            "local": [at.astimezone(timetable.zone).isoformat() for at in points],
        }
        return Response(SchedulePreviewSerializer(shown).data)


class WorkflowEndpoint(WorkflowEndpoints):
    @operation(
        "get_workflow",
        "Get a workflow with its draft",
        permission=Permission.VIEW,
        answers={200: WorkflowSerializer},
        shows=WORKFLOW,
    )
    def get(self, request: Request, workspace: str, workflow: int) -> Response:
        """The ETag is the draft's revision."""
        return self.draft(self.workflow(workflow))

    @operation(
        "edit_workflow",
        "Edit a workflow's settings",
        permission=Permission.EDIT_WORKFLOW,
        body=WorkflowEditSerializer,
        headers=IF_MATCH,
        answers={200: WorkflowSerializer},
        example={"revision": 5, "retries": 3},
        shows={**WORKFLOW, "revision": 6, "retries": 3},
    )
    def patch(self, request: Request, workspace: str, workflow: int) -> Response:
        """What is left out stays. They count for runs once they are published."""
        data = self.body()
        revision = self.revision(data.pop("revision", None))
        if "queue" in data:
            data["queue"] = queue_named(self.workspace, data["queue"])
        return self.draft(edit_workflow(self.workflow(workflow), revision=revision, **data))

    @operation(
        "delete_workflow",
        "Delete a workflow",
        permission=Permission.EDIT_WORKFLOW,
        answers={204: None},
    )
    def delete(self, request: Request, workspace: str, workflow: int) -> Response:
        """Refused while a run of it is under way. Its runs stay readable, its name is free."""
        delete_workflow(self.workflow(workflow))
        return Response(status=204)


class WorkflowDraftEndpoint(WorkflowEndpoints):
    @operation(
        "replace_workflow_draft",
        "Replace a workflow's draft",
        permission=Permission.EDIT_WORKFLOW,
        body=DraftEditSerializer,
        headers=IF_MATCH,
        answers={200: WorkflowSerializer},
        example={
            "revision": 5,
            "retries": 1,
            "zone": "Europe/Berlin",
            "schedule": {"kind": "days", "time": "02:00", "started_at": "2025-11-20T08:00:00Z"},
            "queue_timeout_seconds": 7200,
            "nodes": [
                {"name": "load", "job": "etl/load_flights"},
                {
                    "name": "clean",
                    "job": "etl/clean_flights",
                    "retries": 2,
                    "retry_backoff": 2,
                    "final_exit_codes": [2, 64],
                    "priority": "high",
                    "timeout_seconds": 600,
                },
            ],
            "edges": [["load", "clean"]],
        },
        shows={**WORKFLOW, "revision": 6},
    )
    def put(self, request: Request, workspace: str, workflow: int) -> Response:
        """Nodes, edges and settings at once: nodes and edges as they are sent, settings that are
        left out stay. Refused with every fault, those of a node under the node's name. Of two who
        began at the same revision the second gets 409, and in `current` what stands there now."""
        data = self.body()
        row = replace_draft(
            self.workflow(workflow),
            [WholeNode(job_path=node.pop("job"), **node) for node in data["nodes"]],
            {(up, down) for up, down in data["edges"]},
            revision=self.revision(data.get("revision")),
            **{name: data[name] for name in SETTINGS if name in data},
        )
        return self.draft(row)


class WorkflowTagsEndpoint(WorkflowEndpoints):
    @operation(
        "tag_workflow",
        "Set a workflow's tags",
        permission=Permission.EDIT_WORKFLOW,
        body=TagsSerializer,
        answers={200: WorkflowSerializer},
        example={"tags": {"team": "aviation"}},
        shows=WORKFLOW,
    )
    def put(self, request: Request, workspace: str, workflow: int) -> Response:
        """All of them; what is left out is gone. They are in no version and count at once, for
        runs under way too: a hold on a tag holds the runs of the workflows that have it."""
        row = self.workflow(workflow)
        tag_workflow(row, self.body()["tags"], user=request.user)
        return self.draft(self.workflow(workflow))


class WorkflowPublishEndpoint(WorkflowEndpoints):
    @operation(
        "publish_workflow",
        "Publish a workflow's draft",
        permission=Permission.PUBLISH_WORKFLOW,
        body=WorkflowPublishSerializer,
        answers={201: WorkflowVersionSerializer},
        example={"remarks": "cleans before it counts"},
        shows=WORKFLOW_VERSION,
    )
    def post(self, request: Request, workspace: str, workflow: int) -> Response:
        """Every run from now on takes it. Refused with every fault of the draft, each under the
        name of its node, and where nothing has changed."""
        data = self.body()
        turn_on = data.pop("turn_on")
        version = publish(self.workflow(workflow), user=request.user, **data)
        if turn_on and timetable_of(version) is not None:
            switch(version.workflow, on=True, user=request.user)
        return Response(version_shown(version), status=201)


class WorkflowScheduleEndpoint(WorkflowEndpoints):
    @operation(
        "get_workflow_schedule",
        "Get a workflow's schedule",
        permission=Permission.VIEW,
        answers={200: ScheduleStateSerializer},
        shows=SCHEDULE_STATE,
    )
    def get(self, request: Request, workspace: str, workflow: int) -> Response:
        """That of the published version; a draft's is with the draft."""
        return self.state(self.workflow(workflow))

    @operation(
        "switch_workflow_schedule",
        "Turn a workflow's schedule on or off",
        permission=Permission.PUBLISH_WORKFLOW,
        body=SwitchSerializer,
        answers={200: ScheduleStateSerializer},
        example={"on": True},
        shows=SCHEDULE_STATE,
    )
    def put(self, request: Request, workspace: str, workflow: int) -> Response:
        """On: from now on; what fell due before gets no run, unless `run_latest` asks for one.
        Off: what fell due before still gets its run. Refused with 409 where the published version
        has no schedule."""
        row = self.workflow(workflow)
        switch(row, user=request.user, **self.body())
        return self.state(row)

    def state(self, row: Workflow) -> Response:
        now = timezone.now()
        schedule = Schedule.objects.filter(workflow=row).select_related("changed_by").first()
        timetable = None if row.published is None else timetable_of(row.published)
        by = schedule.changed_by if schedule else None
        shown = {
            "on": schedule is not None and schedule.on,
            "words": timetable and timetable.in_words(),
            "zone": timetable and str(timetable.zone),
            "next": timetable.following(now, 5) if timetable else [],
            "waiting": told(why_schedule_waits(row)) if timetable else None,
            "changed_by": by and by.username,
            "changed_at": schedule and schedule.changed_at,
        }
        return Response(ScheduleStateSerializer(shown).data)


class SchedulePointsEndpoint(WorkflowEndpoints):
    @operation(
        "list_schedule_points",
        "List the points at which a workflow was due",
        permission=Permission.VIEW,
        query=PageQuery,
        answers={200: page_of(SchedulePointSerializer)},
        shows=page_example(
            {
                "id": 7,
                "cycle": "2025-11-20T01:00:00Z",
                "run": 12,
                "reason": "",
                "note": "",
            }
        ),
    )
    def get(self, request: Request, workspace: str, workflow: int) -> Response:
        """Every one of them, with its run or the reason why it has none, newest first."""
        rows = SchedulePoint.objects.filter(workflow=self.workflow(workflow))
        return self.page(rows, SchedulePointSerializer)


class WorkflowVersionsEndpoint(WorkflowEndpoints):
    @operation(
        "list_workflow_versions",
        "List a workflow's versions",
        permission=Permission.VIEW,
        query=PageQuery,
        answers={200: page_of(WorkflowVersionBriefSerializer)},
        shows=page_example({**VERSION, "created_by": "maya"}),
    )
    def get(self, request: Request, workspace: str, workflow: int) -> Response:
        rows = self.workflow(workflow).versions.filter(number__isnull=False)
        return self.page(
            rows.select_related("created_by").defer("graph"), WorkflowVersionBriefSerializer
        )


class WorkflowVersionEndpoint(WorkflowEndpoints):
    @operation(
        "get_workflow_version",
        "Get a version of a workflow",
        permission=Permission.VIEW,
        answers={200: WorkflowVersionSerializer},
        shows=WORKFLOW_VERSION,
    )
    def get(self, request: Request, workspace: str, workflow: int, number: int) -> Response:
        return Response(version_shown(self.version(self.workflow(workflow), number)))


class WorkflowRunEndpoint(WorkflowEndpoints):
    @operation(
        "run_workflow",
        "Run a workflow",
        permission=Permission.RUN,
        body=WorkflowLaunchSerializer,
        answers={201: StartedSerializer},
        example={
            "parameters": {"since": "2025-11-19"},
            "priority": "high",
            "remarks": "after the repair",
        },
        shows=STARTED,
    )
    def post(self, request: Request, workspace: str, workflow: int) -> Response:
        """A published version, now. Every fault names its node."""
        data, row = self.body(), self.workflow(workflow)
        if "version" in data:
            version = self.version(row, data["version"])
        elif row.published_id is None:
            raise Invalid(f"workflow {row.name!r} is not published; publish it, then run it")
        else:
            version = row.versions.select_related("workflow").get(pk=row.published_id)
        runs = launch(
            version,
            cycles=[timezone.now()],
            trigger=Trigger.API,
            by=request.user,
            queue=queue_named(self.workspace, data["queue"]),
            priority=data["priority"],
            parameters=data["parameters"],
            remarks=data["remarks"],
            overlap=Overlap(data["overlap"]) if data["overlap"] else None,
        )
        return Response({"runs": [run.pk for run in runs]}, status=201)


def version_shown(version: WorkflowVersion) -> Any:
    """A frozen graph with names in the place of ids; of what is deleted, none."""
    graph, workspace = whole(version.graph), version.workflow.workspace_id
    jobs = Job.objects.filter(workspace=workspace).in_bulk({node["job"] for node in graph["nodes"]})
    queues = version.workflow.workspace.queues.in_bulk()
    return WorkflowVersionSerializer(
        {
            "number": version.number,
            "remarks": version.remarks,
            "digest": version.digest,
            "created_at": version.created_at,
            "created_by": version.created_by,
            "settings": {**graph["settings"], "queue": queues.get(graph["settings"]["queue"])},
            "nodes": [
                {**node, "job": jobs.get(node["job"]), "queue": queues.get(node["queue"])}
                for node in graph["nodes"]
            ],
            "edges": graph["edges"],
        }
    ).data
