"""REST: what was sent."""

from __future__ import annotations

from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.fields import PageQuery, Text, page_example, page_of
from apps.core.api.operation import Place, operation
from apps.engine.roles import Permission
from apps.notifications.api.endpoints import NotificationEndpoints
from apps.notifications.models import (
    Delivery,
    DeliveryStatus,
    Kind,
)


class DeliverySerializer(serializers.Serializer):
    """One message to one address or channel, and what has become of it."""

    id = serializers.IntegerField()
    kind = serializers.CharField(help_text="What it tells of: opened, recovered, test, digest, …")
    incident = serializers.IntegerField(source="incident_id", allow_null=True)
    address = serializers.CharField(help_text="A mail address, or `channel:` and a name.")
    subject = serializers.CharField()
    status = serializers.ChoiceField(choices=list(DeliveryStatus))
    why = serializers.CharField(
        allow_blank=True, help_text="Why the last try came to nothing, or none was made."
    )
    tries = serializers.IntegerField()
    message_id = serializers.CharField(help_text="The same at each try.")
    digest = serializers.IntegerField(
        source="digest_id", allow_null=True, help_text="The delivery that told of it in its place."
    )
    created_at = serializers.DateTimeField()
    due_at = serializers.DateTimeField(help_text="While it waits: when it is tried next.")
    sent_at = serializers.DateTimeField(allow_null=True)


class WholeDeliverySerializer(DeliverySerializer):
    text = serializers.CharField()
    data = serializers.JSONField(source="facts", help_text="The same for programs.")


class DeliveryQuery(PageQuery):
    status = serializers.ChoiceField(choices=list(DeliveryStatus), required=False)
    kind = serializers.ChoiceField(choices=list(Kind), required=False)
    address = Text(max_length=254, required=False, help_text="Of those to this one alone.")
    incident = serializers.IntegerField(
        min_value=1, max_value=2**63 - 1, required=False, help_text="Of those about it alone."
    )


DELIVERY = {
    "id": 31,
    "kind": "opened",
    "incident": 12,
    "address": "channel:ops",
    "subject": "Failed: flight_delays at load [default]",
    "status": "waiting",
    "why": "the receiver answered 503 Service Unavailable",
    "tries": 2,
    "message_id": "<runyard.0d6ff28a3f1c4f0f9b1a@example.com>",
    "digest": None,
    "created_at": "2025-11-21T02:04:11Z",
    "due_at": "2025-11-21T02:06:12Z",
    "sent_at": None,
}


class DeliveryEndpoints(NotificationEndpoints):
    places = {"delivery": Place("Id of the delivery.", "31")}

    def deliveries(self) -> QuerySet[Delivery]:
        rows: QuerySet[Delivery] = self.visible(Delivery.objects.all())
        return rows


class DeliveriesEndpoint(DeliveryEndpoints):
    @operation(
        "list_deliveries",
        "List deliveries",
        permission=Permission.VIEW,
        query=DeliveryQuery,
        answers={200: page_of(DeliverySerializer)},
        shows=page_example(DELIVERY),
    )
    def get(self, request: Request, workspace: str) -> Response:
        """What was told to whom, by mail or through a channel, and what has become of it."""
        names = ("status", "kind", "address", "incident")
        wanted = {name: self.query[name] for name in names if name in self.query}
        rows = self.deliveries().filter(**wanted).defer("text", "html", "facts")
        return self.page(rows, DeliverySerializer)


class DeliveryEndpoint(DeliveryEndpoints):
    @operation(
        "get_delivery",
        "Get a delivery",
        permission=Permission.VIEW,
        answers={200: WholeDeliverySerializer},
        shows={**DELIVERY, "text": "flight_delays failed at load.\n", "data": {"run": 41}},
    )
    def get(self, request: Request, workspace: str, delivery: int) -> Response:
        """With what it says."""
        row = self.one(self.deliveries().defer("html"), "delivery", pk=delivery)
        return Response(WholeDeliverySerializer(row).data)
