"""REST: rules of who is told."""

from __future__ import annotations

from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.fields import PageQuery, Strict, Text, page_example, page_of
from apps.core.api.operation import operation
from apps.engine.roles import Permission
from apps.engine.states import Severity
from apps.notifications.addresses import MAX_ADDRESSES
from apps.notifications.api.endpoints import NotificationEndpoints
from apps.notifications.models import (
    Rule,
)
from apps.notifications.services.rules import Match, change_rule, make_rule, read_match, remove_rule
from apps.workflows.services.ownership import MAX_OWNER


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


RULE = {
    "id": 3,
    "tag": "team=aviation",
    "owner": "",
    "severity": "critical",
    "addresses": ["on-call@example.com"],
    "changed_by": "maya",
    "changed_at": "2025-11-20T08:00:00Z",
}


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
