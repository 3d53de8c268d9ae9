"""REST: silence of a workflow."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.fields import Strict, Text, Whole
from apps.core.api.operation import operation
from apps.engine.roles import Permission
from apps.notifications.api.endpoints import NotificationEndpoints
from apps.notifications.services.silences import (
    MAX_REASON,
    MOST_MINUTES,
    silence,
    standing_of,
    unsilence,
)
from apps.workflows.models import Workflow
from apps.workspaces.models import TokenScope


class SilenceSerializer(serializers.Serializer):
    """That nobody is told of a workflow; without an end where it is not silenced."""

    until = serializers.DateTimeField(allow_null=True)
    by = serializers.CharField(source="created_by.username", allow_null=True, default=None)
    reason = serializers.CharField(allow_blank=True)
    since = serializers.DateTimeField(source="created_at", allow_null=True)
    silenced = serializers.IntegerField(help_text="Messages that went to nobody so far.")


class SilenceSetSerializer(Strict):
    minutes = Whole(minimum=1, maximum=MOST_MINUTES, help_text="From now on.")
    reason = Text(max_length=MAX_REASON, allow_blank=True, default="")


SILENCE = {
    "until": "2025-11-21T12:00:00Z",
    "by": "maya",
    "reason": "the warehouse is down",
    "since": "2025-11-21T08:00:00Z",
    "silenced": 1,
}


NO_SILENCE = {"until": None, "by": None, "reason": "", "since": None, "silenced": 0}


class WorkflowSilenceEndpoint(NotificationEndpoints):
    @operation(
        "get_workflow_silence",
        "Get the silence of a workflow",
        permission=Permission.VIEW,
        answers={200: SilenceSerializer},
        shows=SILENCE,
    )
    def get(self, request: Request, workspace: str, workflow: int) -> Response:
        return self._shown(self.workflow(workflow))

    @operation(
        "silence_workflow",
        "Silence a workflow",
        permission=Permission.OPERATE,
        scope=TokenScope.RUN,
        body=SilenceSetSerializer,
        answers={200: SilenceSerializer},
        example={"minutes": 240, "reason": "the warehouse is down"},
        shows={**SILENCE, "silenced": 0},
    )
    def put(self, request: Request, workspace: str, workflow: int) -> Response:
        """Nobody is told of it for so long; incidents are kept and counted. What has failed
        meanwhile and still does is told once when it is over."""
        row = self.workflow(workflow)
        silence(row, **self.body(), user=request.user)
        return self._shown(row)

    @operation(
        "unsilence_workflow",
        "End the silence of a workflow",
        permission=Permission.OPERATE,
        scope=TokenScope.RUN,
        answers={204: None},
    )
    def delete(self, request: Request, workspace: str, workflow: int) -> Response:
        """What has failed meanwhile and still does is told now."""
        unsilence(self.workflow(workflow), user=request.user)
        return Response(status=204)

    def _shown(self, row: Workflow) -> Response:
        standing = standing_of(row.pk).select_related("created_by").first()
        return Response(SilenceSerializer(standing).data if standing else NO_SILENCE)
