"""REST: whom a workflow tells, what its nodes tell, and when it is late."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.fields import Flag, Strict, Text, Whole
from apps.core.api.operation import operation
from apps.engine.roles import Permission
from apps.notifications.addresses import MAX_ADDRESSES
from apps.notifications.api.endpoints import NotificationEndpoints
from apps.notifications.models import (
    Tells,
)
from apps.notifications.services.nodes import (
    Told,
    node_subscriptions,
    set_node_subscriptions,
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
