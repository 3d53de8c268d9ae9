"""REST: incidents."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.fields import PageQuery, page_example, page_of
from apps.core.api.operation import operation
from apps.engine.roles import Permission
from apps.engine.states import Severity
from apps.notifications.api.endpoints import NotificationEndpoints
from apps.notifications.services.incidents import acknowledge
from apps.workspaces.models import TokenScope


class IncidentSerializer(serializers.Serializer):
    """A workflow fails, from its first failed node to its next run that succeeds."""

    id = serializers.IntegerField()
    workflow = serializers.IntegerField(source="workflow_id")
    name = serializers.CharField(help_text="Of the workflow.")
    run = serializers.IntegerField(source="run_id", help_text="That opened it.")
    node = serializers.CharField(
        allow_blank=True, help_text="That failed first; empty: the run failed without one."
    )
    attempt = serializers.IntegerField(allow_null=True)
    reason = serializers.CharField(allow_blank=True)
    error_line = serializers.CharField(
        allow_blank=True, help_text="The most telling line of the log."
    )
    log_line = serializers.IntegerField(allow_null=True, help_text="Its number, from 1.")
    runs = serializers.IntegerField(help_text="That failed while it was open, the first included.")
    opened_at = serializers.DateTimeField()
    failed_at = serializers.DateTimeField(help_text="End of the newest failure.")
    owner = serializers.CharField(
        source="workflow.owner", allow_blank=True, help_text="Of the workflow, as it stands now."
    )
    severity = serializers.ChoiceField(
        source="workflow.severity", choices=[each.value for each in Severity]
    )
    runbook = serializers.CharField(
        source="workflow.runbook", allow_blank=True, help_text="What to do about it; an address."
    )
    description = serializers.CharField(source="workflow.description", allow_blank=True)
    acknowledged_by = serializers.CharField(source="acknowledged_by.username", allow_null=True)
    acknowledged_at = serializers.DateTimeField(allow_null=True)
    recovered_at = serializers.DateTimeField(allow_null=True, help_text="Null: it is open.")
    recovered_by = serializers.IntegerField(
        allow_null=True,
        help_text="The run that succeeded; null: it is open, or the workflow was deleted.",
    )


class IncidentQuery(PageQuery):
    open = serializers.BooleanField(
        required=False, help_text="Only those that are open, or only those that are over."
    )


INCIDENT = {
    "id": 12,
    "workflow": 4,
    "name": "flight_delays",
    "run": 41,
    "node": "load",
    "attempt": 3,
    "reason": "exit code 1",
    "error_line": "KeyError: 'carrier'",
    "log_line": 214,
    "runs": 2,
    "opened_at": "2025-11-20T02:04:11Z",
    "failed_at": "2025-11-21T02:04:09Z",
    "owner": "aviation",
    "severity": "high",
    "runbook": "https://wiki.example.com/flight_delays",
    "description": "Delays by carrier and by weather.",
    "acknowledged_by": None,
    "acknowledged_at": None,
    "recovered_at": None,
    "recovered_by": None,
}


class IncidentsEndpoint(NotificationEndpoints):
    @operation(
        "list_incidents",
        "List incidents",
        permission=Permission.VIEW,
        query=IncidentQuery,
        answers={200: page_of(IncidentSerializer)},
        shows=page_example(INCIDENT),
    )
    def get(self, request: Request, workspace: str) -> Response:
        """One for each workflow that fails, however many of its nodes and runs do. Debug runs and
        jobs that run alone have none."""
        query, rows = self.query, self.incidents()
        if "open" in query:
            rows = rows.filter(recovered_at__isnull=query["open"])
        return self.page(rows, IncidentSerializer)


class IncidentEndpoint(NotificationEndpoints):
    @operation(
        "get_incident",
        "Get an incident",
        permission=Permission.VIEW,
        answers={200: IncidentSerializer},
        shows=INCIDENT,
    )
    def get(self, request: Request, workspace: str, incident: int) -> Response:
        return Response(IncidentSerializer(self.incident(incident)).data)


class IncidentAcknowledgeEndpoint(NotificationEndpoints):
    @operation(
        "acknowledge_incident",
        "Acknowledge an incident",
        permission=Permission.OPERATE,
        scope=TokenScope.RUN,
        answers={200: IncidentSerializer},
        shows={
            **INCIDENT,
            "acknowledged_by": "maya",
            "acknowledged_at": "2025-11-21T07:58:00Z",
        },
    )
    def post(self, request: Request, workspace: str, incident: int) -> Response:
        """Say that somebody looks after it; the first who does is named. Refused with 409 once it
        is over."""
        acknowledge(self.incident(incident), user=request.user)
        return Response(IncidentSerializer(self.incident(incident)).data)
