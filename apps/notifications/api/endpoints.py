"""What the addresses of notifications have in common."""

from __future__ import annotations

from django.db.models import QuerySet

from apps.core.api.endpoint import Endpoint
from apps.core.api.operation import Place
from apps.notifications.models import (
    Incident,
)
from apps.workflows.models import Workflow


class NotificationEndpoints(Endpoint):
    tag = "Notifications"
    places = {
        "workflow": Place("Id of the workflow.", "4"),
        "incident": Place("Id of the incident.", "12"),
        "rule": Place("Id of the rule.", "3"),
    }

    def incidents(self) -> QuerySet[Incident]:
        rows: QuerySet[Incident] = self.visible(Incident.objects.all())
        return rows.select_related("acknowledged_by", "workflow")

    def incident(self, pk: int) -> Incident:
        row: Incident = self.one(self.incidents(), "incident", pk=pk)
        return row

    def workflow(self, pk: int) -> Workflow:
        rows = self.visible(Workflow.objects.filter(deleted_at=None))
        row: Workflow = self.one(rows, "workflow", pk=pk)
        return row
