"""REST: a workspace's heartbeat."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.fields import Strict, Text
from apps.core.api.operation import operation
from apps.engine.roles import Permission
from apps.notifications.api.endpoints import NotificationEndpoints
from apps.notifications.models import (
    Heartbeat,
)
from apps.notifications.services.heartbeats import delete_heartbeat, set_heartbeat


class HeartbeatSerializer(serializers.Serializer):
    """The URL that is called each minute. Nobody gets it back; without an address there is none."""

    address = serializers.CharField(allow_null=True, help_text="What may be shown of it.")
    rung_at = serializers.DateTimeField(allow_null=True, help_text="When it was last called.")
    answered_at = serializers.DateTimeField(
        allow_null=True, help_text="When a call was last answered with 2xx."
    )
    why = serializers.CharField(allow_blank=True, help_text="Why the last call was not.")
    changed_by = serializers.CharField(source="changed_by.username", allow_null=True)
    changed_at = serializers.DateTimeField(allow_null=True)


class HeartbeatSetSerializer(Strict):
    url = Text(max_length=2000, write_only=True)


HEARTBEAT = {
    "address": "https://hc-ping.com/…",
    "rung_at": "2025-11-21T08:01:00Z",
    "answered_at": "2025-11-21T08:01:00Z",
    "why": "",
    "changed_by": "maya",
    "changed_at": "2025-11-20T08:00:00Z",
}


NO_HEARTBEAT = {name: "" if name == "why" else None for name in HEARTBEAT}


class HeartbeatEndpoint(NotificationEndpoints):
    @operation(
        "get_heartbeat",
        "Get the heartbeat",
        permission=Permission.VIEW,
        answers={200: HeartbeatSerializer},
        shows=HEARTBEAT,
    )
    def get(self, request: Request, workspace: str) -> Response:
        rows = self.visible(Heartbeat.objects.select_related("changed_by").defer("sealed_url"))
        row = rows.first()
        return Response(HeartbeatSerializer(row).data if row else NO_HEARTBEAT)

    @operation(
        "set_heartbeat",
        "Set the heartbeat",
        permission=Permission.EDIT_SECRET,
        body=HeartbeatSetSerializer,
        answers={200: HeartbeatSerializer},
        example={"url": "https://hc-ping.com/5ba0d9d6"},
        shows={**HEARTBEAT, "rung_at": None, "answered_at": None},
    )
    def put(self, request: Request, workspace: str) -> Response:
        """It is called each minute while Runyard looks for what is due, the first time within
        seconds."""
        made = set_heartbeat(self.workspace, self.body()["url"], user=request.user)
        return Response(HeartbeatSerializer(made).data)

    @operation(
        "delete_heartbeat",
        "Remove the heartbeat",
        permission=Permission.EDIT_SECRET,
        answers={204: None},
    )
    def delete(self, request: Request, workspace: str) -> Response:
        delete_heartbeat(self.workspace)
        return Response(status=204)
