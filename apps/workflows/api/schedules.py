"""REST: schedules, their switch, preview and points."""

from __future__ import annotations

from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.fields import (
    PageQuery,
    page_example,
    page_of,
)
from apps.core.api.operation import operation
from apps.engine.roles import Permission
from apps.runs.models import SchedulePoint
from apps.runs.services.scheduling import switch
from apps.runs.waiting import why_schedule_waits
from apps.workflows.api.shapes import (
    SCHEDULE_STATE,
    SchedulePointSerializer,
    SchedulePreviewQuery,
    SchedulePreviewSerializer,
    ScheduleStateSerializer,
    SwitchSerializer,
)
from apps.workflows.api.workflows import WorkflowEndpoints
from apps.workflows.models import Schedule, Workflow
from apps.workflows.services.schedules import read_schedule, timetable_of
from apps.workspaces.api import told


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
