"""REST: backfills, their preview and their cycles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import F, Q, QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.endpoint import Endpoint
from apps.core.api.fields import (
    Flag,
    PageQuery,
    Strict,
    Text,
    Whole,
    page_example,
    page_of,
    written,
)
from apps.core.api.operation import Place, operation
from apps.engine.backfill import MOST, MOST_AT_ONCE, Order, Standing, Which, data_date
from apps.engine.roles import Permission
from apps.engine.states import RunState
from apps.nodes.api import ParametersField
from apps.notifications.addresses import MAX_ADDRESSES, check_addresses
from apps.notifications.services.channels import check_channels
from apps.runs.api.shapes import NothingSerializer
from apps.runs.models import Backfill, BackfillCycle, BackfillEvent
from apps.runs.services.backfill import (
    Asked,
    Plan,
    cancel_backfill,
    create_backfill,
    pause_backfill,
    plan_backfill,
    resume_backfill,
)
from apps.runs.services.feeding import counts_of, standing_of
from apps.workflows.api.workflows import WorkflowEndpoints
from apps.workflows.clock import zone_of
from apps.workflows.models import Workflow
from apps.workflows.services.publishing import settings_of
from apps.workspaces.api import queue_named

# --- shapes ---------------------------------------------------------------------------------

#: Of a cycle that has no run yet.
TO_COME = "to_come"
CYCLE_STATES = [TO_COME, *(state.value for state in RunState)]


class BackfillPreviewQuery(Strict):
    """Which cycles, in one of four ways, and what of them runs."""

    first_date = serializers.DateField(
        required=False, help_text="Data dates, what `${ds}` says, from this one …"
    )
    last_date = serializers.DateField(required=False, help_text="… to this one, it included.")
    dates = serializers.ListField(
        child=serializers.DateField(),
        required=False,
        max_length=MOST,
        help_text="Or these data dates.",
    )
    first_cycle = serializers.DateTimeField(
        required=False, help_text="Or cycle times of the schedule, from this one …"
    )
    last_cycle = serializers.DateTimeField(required=False, help_text="… to this one, it included.")
    cycles = serializers.ListField(
        child=serializers.DateTimeField(),
        required=False,
        max_length=MOST,
        help_text="Or these cycle times, which need not be points of the schedule.",
    )
    which = serializers.ChoiceField(
        choices=[each.value for each in Which],
        default=Which.ALL.value,
        help_text="missing: those of which no run has succeeded; failed: those whose newest run "
        "has failed. Debug runs never count.",
    )
    order = serializers.ChoiceField(
        choices=[each.value for each in Order],
        default=Order.OLDEST.value,
        help_text="Which cycle starts first.",
    )
    node = Text(
        max_length=64,
        allow_blank=True,
        default="",
        help_text="The one node that runs; empty: all. It does not wait for those above it.",
    )
    downstream = Flag(default=False, help_text="With `node`: what is below it too.")
    version = Whole(
        minimum=1, required=False, help_text="A published version; without it the newest."
    )
    queue = Text(
        max_length=64,
        allow_null=True,
        default=None,
        help_text="For every node; without it each takes its own.",
    )
    parameters = ParametersField(default=dict, help_text="Of every run; as of one by hand.")


class BackfillLaunchSerializer(BackfillPreviewQuery):
    at_once = Whole(
        minimum=1, maximum=MOST_AT_ONCE, default=1, help_text="How many cycles run at once."
    )
    stop_after = Whole(
        minimum=1,
        allow_null=True,
        default=None,
        help_text="It pauses after so many failed cycles; null: it goes on.",
    )
    remarks = Text(max_length=2000, allow_blank=True, default="")
    addresses = serializers.ListField(
        child=Text(max_length=254),
        default=list,
        max_length=MAX_ADDRESSES,
        help_text="Who is told of its failures; none: whom the workflow tells.",
    )
    token = Text(
        max_length=200,
        allow_blank=True,
        default="",
        help_text="Of the preview: refused with 409, and the new preview in `current`, where it "
        "would not be the same any more. Empty: whatever there is now.",
    )
    sure = Whole(
        allow_null=True,
        default=None,
        help_text="Of more than 1,000 cycles: how many they are, as a second yes.",
    )


class PlannedCycleSerializer(serializers.Serializer):
    cycle = serializers.DateTimeField(help_text="When it was due, in UTC.")
    local = serializers.CharField(help_text="The same in the workflow's zone.")
    data_date = serializers.DateField(help_text="What `${ds}` says in its run.")


class BackfillPlanSerializer(serializers.Serializer):
    version = serializers.IntegerField(help_text="Of the workflow.")
    zone = serializers.CharField(help_text="Of the workflow; IANA name.")
    count = serializers.IntegerField()
    considered = serializers.IntegerField(help_text="Before `which` left some out.")
    cycles = PlannedCycleSerializer(many=True, help_text="In the order in which they start.")
    nodes = serializers.ListField(child=serializers.CharField(), help_text="That run.")
    moved = serializers.ListField(
        child=serializers.CharField(),
        help_text="Those of them that the queue asked for takes from their own.",
    )
    token = serializers.CharField(help_text="To be sent with the creation.")

    def to_representation(self, plan: Plan) -> dict[str, Any]:
        cycles = [
            {
                "cycle": each.cycle,
                "local": each.cycle.astimezone(plan.zone).isoformat(),
                "data_date": each.data_date,
            }
            for each in plan.cycles
        ]
        return {
            "version": plan.version.number,
            "zone": str(plan.zone),
            "count": len(cycles),
            "considered": plan.considered,
            "cycles": cycles,
            "nodes": plan.nodes,
            "moved": plan.moved,
            "token": plan.token,
        }


class CycleCountsSerializer(serializers.Serializer):
    """Its cycles by how they stand now."""

    total = serializers.IntegerField()
    to_come = serializers.IntegerField(help_text="They have no run yet.")
    waiting = serializers.IntegerField(help_text="Nothing of their run has started.")
    running = serializers.IntegerField()
    succeeded = serializers.IntegerField()
    failed = serializers.IntegerField()
    stopped = serializers.IntegerField()


class BackfillSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    workflow = serializers.IntegerField(source="workflow_id")
    name = serializers.CharField(source="workflow_name", help_text="Of the workflow.")
    version = serializers.IntegerField(source="version_number", allow_null=True)
    state = serializers.ChoiceField(
        choices=[each.value for each in Standing],
        help_text="ending: cancelled, and something of it still runs; failed: over, and not every "
        "cycle has succeeded.",
    )
    actions = serializers.ListField(
        child=serializers.CharField(),
        source="acts",
        help_text="What may be done to it now, rights aside: pause, resume, cancel.",
    )
    why = serializers.CharField(allow_blank=True, help_text="Why it was paused by the engine.")
    cycles = CycleCountsSerializer(source="counts")
    which = serializers.ChoiceField(choices=[each.value for each in Which])
    order = serializers.ChoiceField(choices=[each.value for each in Order])
    at_once = serializers.IntegerField()
    stop_after = serializers.IntegerField(allow_null=True)
    node = serializers.CharField(allow_blank=True, help_text="The one that runs; empty: all.")
    downstream = serializers.BooleanField()
    queue = serializers.CharField(
        source="queue_name", allow_null=True, help_text="Chosen for every node; null: their own."
    )
    parameters = serializers.DictField(child=serializers.CharField(allow_blank=True))
    remarks = serializers.CharField(allow_blank=True)
    addresses = serializers.ListField(child=serializers.CharField())
    created_by = serializers.CharField(source="author", allow_null=True)
    created_at = serializers.DateTimeField()
    paused_at = serializers.DateTimeField(allow_null=True)
    cancelled_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(
        allow_null=True,
        help_text="When it was over. Where a run of it is rerun in place since, `cycles` and "
        "`state` say so.",
    )


class BackfillCycleSerializer(serializers.Serializer):
    position = serializers.IntegerField(help_text="In the order in which they start, from 0.")
    cycle = serializers.DateTimeField()
    data_date = serializers.DateField(help_text="What `${ds}` says in its run.")
    state = serializers.ChoiceField(choices=CYCLE_STATES, help_text="Of its run.")
    run = serializers.IntegerField(
        source="run_id", allow_null=True, help_text="Null: none yet, or it is forgotten."
    )
    launched_at = serializers.DateTimeField(allow_null=True)


class BackfillEventSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    user = serializers.CharField(
        source="user.username", allow_null=True, help_text="Null: the engine."
    )
    note = serializers.CharField()


class BackfillQuery(PageQuery):
    workflow = serializers.IntegerField(
        min_value=1, max_value=2**63 - 1, required=False, help_text="Id of the workflow."
    )


class BackfillCycleQuery(Strict):
    after = serializers.IntegerField(
        min_value=0, max_value=2**31 - 1, required=False, help_text="`next` of the page before."
    )
    limit = serializers.IntegerField(
        min_value=1, max_value=1000, default=200, help_text="How many at most."
    )
    state = serializers.ChoiceField(choices=CYCLE_STATES, required=False)


class CancelSerializer(Strict):
    stop_running = Flag(default=False, help_text="Stop what runs, too.")


PREVIEW = {
    "version": 1,
    "zone": "Europe/Berlin",
    "count": 2,
    "considered": 7,
    "cycles": [
        {
            "cycle": "2025-11-13T01:00:00Z",
            "local": "2025-11-13T02:00:00+01:00",
            "data_date": "2025-11-12",
        },
        {
            "cycle": "2025-11-16T01:00:00Z",
            "local": "2025-11-16T02:00:00+01:00",
            "data_date": "2025-11-15",
        },
    ],
    "nodes": ["load", "clean"],
    "moved": [],
    "token": "2.2.3f0e2a9c1d7b4e5f6a7b8c9d.8b9c0d1e2f3a4b5c6d7e8f9a",
}
BACKFILL = {
    "id": 7,
    "workflow": 4,
    "name": "flight_delays",
    "version": 1,
    "state": "running",
    "actions": ["pause", "cancel"],
    "why": "",
    "cycles": {
        "total": 7,
        "to_come": 1,
        "waiting": 2,
        "running": 2,
        "succeeded": 2,
        "failed": 0,
        "stopped": 0,
    },
    "which": "missing",
    "order": "newest",
    "at_once": 2,
    "stop_after": 3,
    "node": "",
    "downstream": False,
    "queue": None,
    "parameters": {},
    "remarks": "after the repair",
    "addresses": ["maya@example.com"],
    "created_by": "maya",
    "created_at": "2025-11-20T09:00:00Z",
    "paused_at": None,
    "cancelled_at": None,
    "ended_at": None,
}
CYCLE = {
    "position": 0,
    "cycle": "2025-11-19T01:00:00Z",
    "data_date": "2025-11-18",
    "state": "succeeded",
    "run": 118,
    "launched_at": "2025-11-20T09:00:00Z",
}
ASKED = {"first_date": "2025-11-12", "last_date": "2025-11-18", "which": "missing"}


# --- a workflow's ---------------------------------------------------------------------------


class AskEndpoints(WorkflowEndpoints):
    tag = "Backfills"
    shows = BackfillPlanSerializer

    def asked(self, workflow: Workflow, data: dict[str, Any]) -> Asked:
        """What a body asks for. Raises Invalid, NotFound."""
        names = ("first_date", "last_date", "dates", "first_cycle", "last_cycle", "cycles")
        return Asked(
            **{name: data[name] for name in names if name in data},
            which=Which(data["which"]),
            order=Order(data["order"]),
            node=data["node"],
            downstream=data["downstream"],
            queue=queue_named(self.workspace, data["queue"]),
            parameters=data["parameters"],
            version=self.version(workflow, data["version"]) if "version" in data else None,
        )


class BackfillPreviewEndpoint(AskEndpoints):
    @operation(
        "preview_backfill",
        "Preview a backfill",
        permission=Permission.VIEW,
        body=BackfillPreviewQuery,
        answers={200: BackfillPlanSerializer},
        example=ASKED,
        shows=PREVIEW,
    )
    def post(self, request: Request, workspace: str, workflow: int) -> Response:
        """The exact list of cycles that it would run as things stand now; nothing is saved.
        Refused as the creation itself would be."""
        data, row = self.body(), self.workflow(workflow)
        return Response(BackfillPlanSerializer(plan_backfill(row, self.asked(row, data))).data)


class BackfillLaunchEndpoint(AskEndpoints):
    @operation(
        "create_backfill",
        "Backfill a workflow",
        permission=Permission.RUN,
        body=BackfillLaunchSerializer,
        answers={201: BackfillSerializer},
        example={
            **ASKED,
            "order": "newest",
            "at_once": 2,
            "stop_after": 3,
            "remarks": "after the repair",
            "addresses": ["maya@example.com"],
        },
        shows=BACKFILL | {"cycles": {**BACKFILL["cycles"], "to_come": 1}},  # type: ignore[dict-item]
    )
    def post(self, request: Request, workspace: str, workflow: int) -> Response:
        """A run of a published version for each of these past cycles, so many at once. With the
        preview's `token` it is what the preview showed, or refused."""
        data, row = self.body(), self.workflow(workflow)
        addresses = check_addresses(data["addresses"])
        check_channels(row.workspace_id, addresses)
        made = create_backfill(
            row,
            self.asked(row, data),
            user=request.user,
            at_once=data["at_once"],
            stop_after=data["stop_after"],
            remarks=data["remarks"],
            addresses=addresses,
            token=data["token"],
            sure=data["sure"],
        )
        rows = shown_backfills(self.visible(Backfill.objects.all()))
        return Response(BackfillSerializer(complete(rows.get(pk=made.pk))).data, status=201)


# --- backfills ------------------------------------------------------------------------------


def shown_backfills(rows: QuerySet[Backfill]) -> QuerySet[Backfill]:
    """As BackfillSerializer shows them, once `put_counts` has seen them."""
    return rows.annotate(
        workflow_name=F("workflow__name"),
        version_number=F("version__number"),
        queue_name=F("queue__name"),
        author=F("created_by__username"),
    )


def put_counts(backfills: Sequence[Backfill]) -> None:
    counts = counts_of(backfills)
    for backfill in backfills:
        backfill.counts = counts[backfill.pk]  # type: ignore[attr-defined]
        backfill.state = standing_of(backfill, counts[backfill.pk])  # type: ignore[attr-defined]


def complete(backfill: Backfill) -> Backfill:
    put_counts([backfill])
    return backfill


class BackfillEndpoints(Endpoint):
    tag = "Backfills"
    places = {"backfill": Place("Id of the backfill.", "7")}

    def backfills(self) -> QuerySet[Backfill]:
        return shown_backfills(self.visible(Backfill.objects.all()))

    def backfill(self, pk: int) -> Backfill:
        row: Backfill = self.one(self.backfills(), "backfill", pk=pk)
        return row

    def shown(self, pk: int, *, status: int = 200) -> Response:
        return Response(BackfillSerializer(complete(self.backfill(pk))).data, status=status)


class BackfillsEndpoint(BackfillEndpoints):
    @operation(
        "list_backfills",
        "List backfills",
        permission=Permission.VIEW,
        query=BackfillQuery,
        answers={200: page_of(BackfillSerializer)},
        shows=page_example(BACKFILL),
    )
    def get(self, request: Request, workspace: str) -> Response:
        """Newest first."""
        exact = {name: self.query[name] for name in ("workflow",) if name in self.query}
        return self.page(self.backfills().filter(**exact), BackfillSerializer, put_counts)


class BackfillEndpoint(BackfillEndpoints):
    @operation(
        "get_backfill",
        "Get a backfill",
        permission=Permission.VIEW,
        answers={200: BackfillSerializer},
        shows=BACKFILL,
    )
    def get(self, request: Request, workspace: str, backfill: int) -> Response:
        """It is over when `ended_at` is set; then `state` says how it ended."""
        return self.shown(backfill)


class BackfillCyclesEndpoint(BackfillEndpoints):
    @operation(
        "list_backfill_cycles",
        "List a backfill's cycles",
        permission=Permission.VIEW,
        query=BackfillCycleQuery,
        answers={200: page_of(BackfillCycleSerializer)},
        shows=page_example(CYCLE),
    )
    def get(self, request: Request, workspace: str, backfill: int) -> Response:
        """In the order in which they start. `next` is passed on as `after`."""
        query, its = self.query, self.backfill(backfill)
        rows = BackfillCycle.objects.filter(backfill=its).order_by("position")
        if "after" in query:
            rows = rows.filter(position__gt=query["after"])
        if query.get("state") == TO_COME:
            rows = rows.filter(launched_at=None)
        elif "state" in query:
            rows = rows.filter(Q(run__state=query["state"]) | Q(ended_as=query["state"]))
        rows = rows.annotate(run_state=F("run__state"))
        found = list(rows[: query["limit"] + 1])
        more, found = len(found) > query["limit"], found[: query["limit"]]
        settings = settings_of(its.version.graph)
        zone = ZoneInfo(zone_of(settings, self.workspace.zone))
        for row in found:
            row.data_date = data_date(row.cycle, zone, settings["data_offset"])  # type: ignore[attr-defined]
            row.state = row.run_state or row.ended_as or TO_COME  # type: ignore[attr-defined]
        following = found[-1].position if more else None
        return Response({"items": written(BackfillCycleSerializer, found), "next": following})


class BackfillEventsEndpoint(BackfillEndpoints):
    @operation(
        "list_backfill_events",
        "List a backfill's events",
        permission=Permission.VIEW,
        query=PageQuery,
        answers={200: page_of(BackfillEventSerializer)},
        shows=page_example(
            {"id": 12, "at": "2025-11-20T09:01:00Z", "user": "maya", "note": "paused"}
        ),
    )
    def get(self, request: Request, workspace: str, backfill: int) -> Response:
        """What happened to it as a whole, newest first."""
        rows = BackfillEvent.objects.filter(backfill=self.backfill(backfill).pk)
        return self.page(rows.select_related("user"), BackfillEventSerializer)


class BackfillPauseEndpoint(BackfillEndpoints):
    @operation(
        "pause_backfill",
        "Pause a backfill",
        permission=Permission.OPERATE,
        body=NothingSerializer,
        answers={200: BackfillSerializer},
        example={},
        shows=BACKFILL | {"state": "paused", "paused_at": "2025-11-20T09:01:00Z"},
    )
    def post(self, request: Request, workspace: str, backfill: int) -> Response:
        """No further cycle starts; what runs goes on to its end."""
        row = self.backfill(backfill)
        self.body()
        pause_backfill(row, user=request.user)
        return self.shown(backfill)


class BackfillResumeEndpoint(BackfillEndpoints):
    @operation(
        "resume_backfill",
        "Resume a paused backfill",
        permission=Permission.OPERATE,
        body=NothingSerializer,
        answers={200: BackfillSerializer},
        example={},
        shows=BACKFILL,
    )
    def post(self, request: Request, workspace: str, backfill: int) -> Response:
        """Failures up to now do not count for `stop_after` any more."""
        row = self.backfill(backfill)
        self.body()
        resume_backfill(row, user=request.user)
        return self.shown(backfill)


class BackfillCancelEndpoint(BackfillEndpoints):
    @operation(
        "cancel_backfill",
        "Cancel a backfill",
        permission=Permission.OPERATE,
        body=CancelSerializer,
        answers={202: BackfillSerializer},
        example={"stop_running": False},
        shows=BACKFILL | {"state": "ending", "cancelled_at": "2025-11-20T09:01:00Z"},
    )
    def post(self, request: Request, workspace: str, backfill: int) -> Response:
        """No further cycle starts, and the runs that have not started are stopped; what runs
        goes on to its end unless `stop_running` says otherwise, which may be sent later too."""
        row = self.backfill(backfill)
        cancel_backfill(row, user=request.user, stop_running=self.body()["stop_running"])
        return self.shown(backfill, status=202)
