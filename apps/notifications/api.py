"""REST: incidents, and who is told of them."""

from __future__ import annotations

from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.endpoint import Endpoint
from apps.core.api.fields import Flag, PageQuery, Strict, Text, Whole, page_example, page_of
from apps.core.api.operation import Place, operation
from apps.engine.roles import Permission
from apps.engine.states import Severity
from apps.notifications.addresses import CHANNEL, MAX_ADDRESSES
from apps.notifications.models import (
    Channel,
    ChannelKind,
    Delivery,
    DeliveryStatus,
    Heartbeat,
    Incident,
    Kind,
    Rule,
    Tells,
)
from apps.notifications.services.channels import delete_channel, set_channel
from apps.notifications.services.heartbeats import delete_heartbeat, set_heartbeat
from apps.notifications.services.incidents import acknowledge
from apps.notifications.services.nodes import (
    Told,
    node_subscriptions,
    set_node_subscriptions,
)
from apps.notifications.services.outbox import post_test
from apps.notifications.services.rules import Match, change_rule, make_rule, read_match, remove_rule
from apps.notifications.services.silences import (
    MAX_REASON,
    MOST_MINUTES,
    silence,
    standing_of,
    unsilence,
)
from apps.notifications.services.subscriptions import (
    by_rules,
    own_addresses,
    subscribe,
)
from apps.notifications.services.watching import (
    MAX_MINUTES,
    MAX_VALUES,
    Watched,
    read_time,
    set_watch,
    watch_of,
)
from apps.workflows.models import Workflow
from apps.workflows.services.drafting import MAX_NODES
from apps.workflows.services.ownership import MAX_OWNER
from apps.workspaces.models import TokenScope


class NotificationsSerializer(Strict):
    addresses = serializers.ListField(
        child=Text(max_length=254),
        help_text=f"E-mail addresses, or channels as `channel:ops`, {MAX_ADDRESSES} at most; each "
        "is told once when the workflow begins to fail, and once when it has recovered. None: the "
        "workspace's default channel is told.",
    )


class ToldSerializer(NotificationsSerializer):
    by_rules = serializers.ListField(
        child=serializers.CharField(),
        help_text="Who is told besides, by rules of the workspace that speak of this workflow.",
    )


class NodeSubscriptionSerializer(Strict):
    node = Text(max_length=64, help_text="Its name, in the draft or the published version.")
    addresses = serializers.ListField(
        child=Text(max_length=254),
        help_text=f"E-mail addresses, or channels as `channel:ops`, {MAX_ADDRESSES} at most.",
    )
    states = serializers.ListField(
        child=serializers.ChoiceField(choices=[each.value for each in Tells]),
        max_length=len(Tells),
        help_text="Of each attempt: started, retrying, timed_out, slow (it runs for longer than "
        "it usually does). Of the node: succeeded, failed.",
    )


class NodeSubscriptionsSerializer(Strict):
    subscriptions = NodeSubscriptionSerializer(many=True, max_length=MAX_NODES)


class WatchSerializer(Strict):
    """What is told though nothing has failed, to whom failures are told."""

    start_within_minutes = Whole(
        minimum=1,
        maximum=MAX_MINUTES,
        allow_null=True,
        default=None,
        help_text="A cycle that has not started so long after it was due, with a run or without; "
        "a run by hand or by API, from when it was asked for. Null: it may start at any time.",
    )
    done_within_minutes = Whole(
        minimum=1,
        maximum=MAX_MINUTES,
        allow_null=True,
        default=None,
        help_text="The same for one that has not succeeded.",
    )
    done_by = Text(
        max_length=5,
        allow_null=True,
        default=None,
        help_text="HH:MM in the workflow's zone: a cycle that has not succeeded at the first such "
        "time after it was due.",
    )
    slow = Flag(
        default=False,
        help_text="A run that takes over a minute and 1.5 times as long as nine in ten of the last "
        "30 successful ones.",
    )
    values = serializers.ListField(
        child=Text(max_length=200),
        max_length=MAX_VALUES,
        default=list,
        help_text="Numbers that nodes leave in `$RUNYARD_OUTPUT`, as `load.rows < 1`, with <, <=, "
        ">, >=, = and !=; told when it is so, or where the node left no such number.",
    )


class RuleEditSerializer(Strict):
    """Which workflows, and who is told of them. What is empty leaves any; all of it must hold."""

    tag = Text(
        max_length=129,
        allow_blank=True,
        default="",
        help_text="`key=value`, or `key` for any value.",
    )
    owner = Text(
        max_length=MAX_OWNER,
        allow_blank=True,
        default="",
        help_text="The whole owner; upper and lower case are one.",
    )
    severity = serializers.ChoiceField(
        choices=[each.value for each in Severity], allow_blank=True, default=""
    )
    addresses = serializers.ListField(
        child=Text(max_length=254),
        help_text=f"E-mail addresses, or channels as `channel:ops`, {MAX_ADDRESSES} at most.",
    )


class RuleSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    tag = serializers.CharField(allow_blank=True)
    owner = serializers.CharField(allow_blank=True)
    severity = serializers.ChoiceField(choices=[each.value for each in Severity], allow_blank=True)
    addresses = serializers.ListField(child=serializers.CharField())
    changed_by = serializers.CharField(source="changed_by.username", allow_null=True)
    changed_at = serializers.DateTimeField()


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
SETTINGS = {"addresses": ["data-team@example.com"]}
TOLD = {**SETTINGS, "by_rules": ["on-call@example.com"]}
SUBSCRIPTIONS = {
    "subscriptions": [
        {"node": "load", "addresses": ["maya@example.com"], "states": ["failed", "slow"]}
    ]
}
WATCH = {
    "start_within_minutes": 15,
    "done_within_minutes": None,
    "done_by": "07:00",
    "slow": True,
    "values": ["load.rows < 1"],
}
RULE = {
    "id": 3,
    "tag": "team=aviation",
    "owner": "",
    "severity": "critical",
    "addresses": ["on-call@example.com"],
    "changed_by": "maya",
    "changed_at": "2025-11-20T08:00:00Z",
}


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


# --- channels -------------------------------------------------------------------------------


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


# --- heartbeat ------------------------------------------------------------------------------


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


# --- silence --------------------------------------------------------------------------------


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


# --- deliveries -----------------------------------------------------------------------------


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


# --- workflows and incidents ----------------------------------------------------------------


class WorkflowNotificationsEndpoint(NotificationEndpoints):
    @operation(
        "get_workflow_notifications",
        "Get whom a workflow's failure is told",
        permission=Permission.VIEW,
        answers={200: ToldSerializer},
        shows=TOLD,
    )
    def get(self, request: Request, workspace: str, workflow: int) -> Response:
        return self.told(self.workflow(workflow))

    @operation(
        "set_workflow_notifications",
        "Set whom a workflow's failure is told",
        permission=Permission.EDIT_WORKFLOW,
        body=NotificationsSerializer,
        answers={200: ToldSerializer},
        example=SETTINGS,
        shows=TOLD,
    )
    def put(self, request: Request, workspace: str, workflow: int) -> Response:
        """All of them; who is left out is told no more. They are in no version and count at once,
        for runs under way too."""
        row = self.workflow(workflow)
        subscribe(row, self.body()["addresses"])
        return self.told(row)

    def told(self, row: Workflow) -> Response:
        named = {each for rule in by_rules(row) for each in rule.addresses}
        return Response({"addresses": own_addresses(row), "by_rules": sorted(named)})


class NodeSubscriptionsEndpoint(NotificationEndpoints):
    @operation(
        "get_node_subscriptions",
        "Get whom the nodes of a workflow tell",
        permission=Permission.VIEW,
        answers={200: NodeSubscriptionsSerializer},
        shows=SUBSCRIPTIONS,
    )
    def get(self, request: Request, workspace: str, workflow: int) -> Response:
        return self.shown(self.workflow(workflow))

    @operation(
        "set_node_subscriptions",
        "Set whom the nodes of a workflow tell",
        permission=Permission.EDIT_WORKFLOW,
        body=NodeSubscriptionsSerializer,
        answers={200: NodeSubscriptionsSerializer},
        example=SUBSCRIPTIONS,
        shows=SUBSCRIPTIONS,
    )
    def put(self, request: Request, workspace: str, workflow: int) -> Response:
        """All of them; a node that is left out tells nobody any more. They are in no version and
        count at once, for what happens from now on. Debug runs and backfills tell of no node."""
        row = self.workflow(workflow)
        said = [
            Told(each["node"], each["addresses"], [Tells(state) for state in each["states"]])
            for each in self.body()["subscriptions"]
        ]
        set_node_subscriptions(row, said)
        return self.shown(row)

    def shown(self, row: Workflow) -> Response:
        return Response({"subscriptions": [vars(each) for each in node_subscriptions(row)]})


class WatchEndpoint(NotificationEndpoints):
    @operation(
        "get_workflow_watch",
        "Get when a workflow is late, slow or wrong",
        permission=Permission.VIEW,
        answers={200: WatchSerializer},
        shows=WATCH,
    )
    def get(self, request: Request, workspace: str, workflow: int) -> Response:
        return self.shown(self.workflow(workflow))

    @operation(
        "set_workflow_watch",
        "Set when a workflow is late, slow or wrong",
        permission=Permission.EDIT_WORKFLOW,
        body=WatchSerializer,
        answers={200: WatchSerializer},
        example=WATCH,
        shows=WATCH,
    )
    def put(self, request: Request, workspace: str, workflow: int) -> Response:
        """All of it; what is left out is watched no more. It is in no version and counts at once,
        from now on. Debug runs and backfills are not watched."""
        data, row = self.body(), self.workflow(workflow)
        by = data.pop("done_by")
        set_watch(row, Watched(done_by=None if by is None else read_time(by), **data))
        return self.shown(row)

    def shown(self, row: Workflow) -> Response:
        said = vars(watch_of(row))
        by = said["done_by"]
        return Response({**said, "done_by": by and f"{by:%H:%M}"})


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


class RuleEndpoints(NotificationEndpoints):
    def rules(self) -> QuerySet[Rule]:
        rows: QuerySet[Rule] = self.visible(Rule.objects.all())
        return rows.select_related("changed_by")

    def rule(self, pk: int) -> Rule:
        row: Rule = self.one(self.rules(), "rule", pk=pk)
        return row

    def said(self) -> tuple[Match, list[str]]:
        data = self.body()
        addresses = data.pop("addresses")
        return read_match(**data), addresses


class RulesEndpoint(RuleEndpoints):
    @operation(
        "list_notification_rules",
        "List the rules of who is told",
        permission=Permission.VIEW,
        query=PageQuery,
        answers={200: page_of(RuleSerializer)},
        shows=page_example(RULE),
    )
    def get(self, request: Request, workspace: str) -> Response:
        """They tell of workflows by tag, owner and severity, beside the addresses that a workflow
        names itself."""
        return self.page(self.rules(), RuleSerializer)

    @operation(
        "create_notification_rule",
        "Create a rule of who is told",
        permission=Permission.EDIT_WORKFLOW,
        body=RuleEditSerializer,
        answers={201: RuleSerializer},
        example={
            "tag": "team=aviation",
            "severity": "critical",
            "addresses": ["on-call@example.com"],
        },
        shows=RULE,
    )
    def post(self, request: Request, workspace: str) -> Response:
        """It counts at once, for failures from now on. Without a condition it tells of every
        workflow."""
        match, addresses = self.said()
        made = make_rule(self.workspace, match, addresses, user=request.user)
        return Response(RuleSerializer(self.rule(made.pk)).data, status=201)


class RuleEndpoint(RuleEndpoints):
    @operation(
        "get_notification_rule",
        "Get a rule of who is told",
        permission=Permission.VIEW,
        answers={200: RuleSerializer},
        shows=RULE,
    )
    def get(self, request: Request, workspace: str, rule: int) -> Response:
        return Response(RuleSerializer(self.rule(rule)).data)

    @operation(
        "change_notification_rule",
        "Change a rule of who is told",
        permission=Permission.EDIT_WORKFLOW,
        body=RuleEditSerializer,
        answers={200: RuleSerializer},
        example={"owner": "aviation", "addresses": ["aviation@example.com"]},
        shows={
            **RULE,
            "tag": "",
            "owner": "aviation",
            "severity": "",
            "addresses": ["aviation@example.com"],
        },
    )
    def put(self, request: Request, workspace: str, rule: int) -> Response:
        """All of it; a condition that is left out leaves any."""
        row = self.rule(rule)
        change_rule(row, *self.said(), user=request.user)
        return Response(RuleSerializer(self.rule(rule)).data)

    @operation(
        "delete_notification_rule",
        "Delete a rule of who is told",
        permission=Permission.EDIT_WORKFLOW,
        answers={204: None},
    )
    def delete(self, request: Request, workspace: str, rule: int) -> Response:
        """Who was told of an open incident by it alone hears of no recovery."""
        remove_rule(self.rule(rule))
        return Response(status=204)
