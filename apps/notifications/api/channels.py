"""REST: channels beside mail."""

from __future__ import annotations

from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.fields import Flag, PageQuery, Strict, Text, page_example, page_of
from apps.core.api.operation import Place, operation
from apps.engine.roles import Permission
from apps.notifications.addresses import CHANNEL
from apps.notifications.api.endpoints import NotificationEndpoints
from apps.notifications.models import (
    Channel,
    ChannelKind,
)
from apps.notifications.services.channels import delete_channel, set_channel
from apps.notifications.services.outbox import post_test


class ChannelSerializer(serializers.Serializer):
    """A way to tell people, under a name. Its URL and its secret nobody gets back."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=list(ChannelKind))
    address = serializers.CharField(
        help_text="The mail addresses by commas, or what may be shown of the URL."
    )
    default = serializers.BooleanField(source="is_default")
    changed_by = serializers.CharField(source="changed_by.username", allow_null=True)
    changed_at = serializers.DateTimeField()


class ChannelSetSerializer(Strict):
    kind = serializers.ChoiceField(choices=list(ChannelKind))
    addresses = serializers.ListField(
        child=Text(max_length=254), required=False, help_text="Of a mail channel."
    )
    url = Text(
        max_length=2000,
        required=False,
        write_only=True,
        help_text="Of a webhook, or as apprise writes it. Left out, it stays as it is.",
    )
    secret = Text(
        max_length=200,
        required=False,
        write_only=True,
        help_text="Of a webhook: `whsec_` and 24 to 64 random bytes in base64. Left out, it stays "
        "as it is.",
    )
    default = Flag(
        required=False,
        help_text="Whether it is told of workflows that name nobody; there is one such channel. "
        "Left out, it stays as it is.",
    )


CHANNEL_SHOWN = {
    "id": 3,
    "name": "ops",
    "kind": "webhook",
    "address": "https://hooks.example.com/…",
    "default": True,
    "changed_by": "maya",
    "changed_at": "2025-11-20T08:00:00Z",
}


class ChannelEndpoints(NotificationEndpoints):
    places = {"channel": Place("Name of the channel.", "ops", str)}

    def channels(self) -> QuerySet[Channel]:
        rows: QuerySet[Channel] = self.visible(Channel.objects.select_related("changed_by"))
        return rows.defer("sealed_url", "sealed_secret")

    def channel(self, name: str) -> Channel:
        row: Channel = self.one(self.channels(), "channel", name=name)
        return row


class ChannelsEndpoint(ChannelEndpoints):
    @operation(
        "list_channels",
        "List channels",
        permission=Permission.VIEW,
        query=PageQuery,
        answers={200: page_of(ChannelSerializer)},
        shows=page_example(CHANNEL_SHOWN),
    )
    def get(self, request: Request, workspace: str) -> Response:
        """Where an address is asked for, `channel:` and a name of these may stand."""
        return self.page(self.channels(), ChannelSerializer)


class ChannelEndpoint(ChannelEndpoints):
    @operation(
        "get_channel",
        "Get a channel",
        permission=Permission.VIEW,
        answers={200: ChannelSerializer},
        shows=CHANNEL_SHOWN,
    )
    def get(self, request: Request, workspace: str, channel: str) -> Response:
        return Response(ChannelSerializer(self.channel(channel)).data)

    @operation(
        "set_channel",
        "Set a channel",
        permission=Permission.EDIT_SECRET,
        body=ChannelSetSerializer,
        answers={200: ChannelSerializer},
        example={
            "kind": "webhook",
            "url": "https://hooks.example.com/runyard",
            "secret": "whsec_c29tZSByYW5kb20gYnl0ZXMsIDMyIG9mIHRoZW0hIQ==",
            "default": True,
        },
        shows=CHANNEL_SHOWN,
    )
    def put(self, request: Request, workspace: str, channel: str) -> Response:
        """Makes it or changes it. What is sent from now on takes the new way."""
        body = self.body()
        set_channel(
            self.workspace,
            channel,
            kind=body["kind"],
            addresses=",".join(body.get("addresses", [])),
            url=body.get("url", ""),
            secret=body.get("secret", ""),
            is_default=body.get("default"),
            user=request.user,
        )
        return Response(ChannelSerializer(self.channel(channel)).data)

    @operation(
        "delete_channel",
        "Delete a channel",
        permission=Permission.EDIT_SECRET,
        answers={204: None},
    )
    def delete(self, request: Request, workspace: str, channel: str) -> Response:
        """Refused with 409 while a workflow, a node, a rule or a backfill names it."""
        delete_channel(self.channel(channel))
        return Response(status=204)


class ChannelTestEndpoint(ChannelEndpoints):
    @operation(
        "test_channel",
        "Send a test message to a channel",
        permission=Permission.EDIT_WORKFLOW,
        answers={202: None},
    )
    def post(self, request: Request, workspace: str, channel: str) -> Response:
        """It takes the way of a failure; what has become of it is among the deliveries."""
        row = self.channel(channel)
        post_test(self.workspace, [f"{CHANNEL}{row.name}"], by=request.user)
        return Response(status=202)
