"""REST: starting a workflow, and what that would do."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.operation import operation
from apps.core.errors import Invalid
from apps.engine.roles import Permission
from apps.engine.states import Overlap, Trigger
from apps.nodes.api import STARTED, StartedSerializer
from apps.runs.services.dry_run import DryNode, DryRun, dry_run
from apps.runs.services.launch import launch
from apps.workflows.api.shapes import (
    DRY_RUN,
    DryRunSendSerializer,
    DryRunSerializer,
    WorkflowLaunchSerializer,
)
from apps.workflows.api.workflows import WorkflowEndpoints
from apps.workflows.clock import cycle_of, zone_of
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workflows.services.publishing import draft_version, drafted, settings_of
from apps.workspaces.api import queue_named
from apps.workspaces.models import ResourceQueue, TokenScope
from apps.workspaces.selectors import require


class LaunchEndpoints(WorkflowEndpoints):
    def chosen(self, row: Workflow, data: dict[str, Any]) -> WorkflowVersion:
        """The published version that was asked for, by default the newest."""
        if "version" in data:
            return self.version(row, data["version"])
        if row.published_id is None:
            raise Invalid(
                f"workflow {row.name!r} is not published; publish it, or send draft: true"
            )
        found: WorkflowVersion = row.versions.select_related("workflow").get(pk=row.published_id)
        return found

    def cycle(self, version: WorkflowVersion, data: dict[str, Any]) -> datetime:
        """Of what was asked for, else now."""
        data_date, cycle = data["data_date"], data["cycle"]
        if data_date is not None and cycle is not None:
            raise Invalid("is of no use with data_date; send one of the two", "cycle")
        if data_date is None:
            return cycle or timezone.now()
        settings = settings_of(version.graph)
        return cycle_of(data_date, settings, zone_of(settings, self.workspace.zone))

    def development_queue(self, row: Workflow) -> ResourceQueue | None:
        if row.queue and row.queue.development:
            return row.queue
        return self.workspace.queues.filter(development=True).order_by("pk").first()


def check_draft(data: dict[str, Any], *others: str) -> None:
    """Raise Invalid where something was sent that a draft does not have."""
    for name in others:
        if data["draft"] and data.get(name) is not None:
            raise Invalid("is of no use with draft; send one of the two", name)


class WorkflowRunEndpoint(LaunchEndpoints):
    @operation(
        "run_workflow",
        "Run a workflow",
        permission=Permission.EDIT_JOB,
        scope=TokenScope.RUN,
        body=WorkflowLaunchSerializer,
        answers={201: StartedSerializer},
        example={
            "data_date": "2025-11-19",
            "parameters": {"since": "2025-11-19"},
            "priority": "high",
            "remarks": "after the repair",
        },
        shows=STARTED,
    )
    def post(self, request: Request, workspace: str, workflow: int) -> Response:
        """A published version, now or for a data date; it needs the right to start runs. A draft
        is a debug run, every node of it in a development queue: the one named, the workflow's
        own, or the first. Every fault names its node."""
        data = self.body()
        if not data["draft"]:
            require(request.user, self.workspace, Permission.RUN)
        row = self.workflow(workflow)
        queue = queue_named(self.workspace, data["queue"])
        check_draft(data, "version", "overlap")
        with transaction.atomic():
            if data["draft"]:
                version, trigger = draft_version(row, user=request.user), Trigger.DEBUG
                queue = queue or self.development_queue(row)
            else:
                version, trigger = self.chosen(row, data), Trigger.API
            runs = launch(
                version,
                cycles=[self.cycle(version, data)],
                trigger=trigger,
                by=request.user,
                queue=queue,
                priority=data["priority"],
                parameters=data["parameters"],
                remarks=data["remarks"],
                overlap=Overlap(data["overlap"]) if data["overlap"] else None,
            )
        return Response({"runs": [run.pk for run in runs]}, status=201)


class WorkflowDryRunEndpoint(LaunchEndpoints):
    @operation(
        "dry_run_workflow",
        "Show what a run would start",
        permission=Permission.VIEW,
        body=DryRunSendSerializer,
        answers={200: DryRunSerializer},
        example={"data_date": "2026-03-01"},
        shows=DRY_RUN,
    )
    def post(self, request: Request, workspace: str, workflow: int) -> Response:
        """Every node's command, variables and queue as a run with the same body would have them;
        nothing is started or written. Faults stand with their node. What only the worker knows
        stays a name (`~`, `${RUNYARD_DATA}`), as do values that other nodes leave
        (`${nodes.load.rows}`) and secrets (`***`)."""
        data, row = self.body(), self.workflow(workflow)
        check_draft(data, "version")
        queue = queue_named(self.workspace, data["queue"])
        version = drafted(row) if data["draft"] else self.chosen(row, data)
        debug = data["draft"] and queue is not None and not queue.production
        found = dry_run(
            version,
            cycle=self.cycle(version, data),
            trigger=Trigger.DEBUG if debug else Trigger.MANUAL,
            queue=queue,
            priority=data["priority"],
            parameters=data["parameters"],
        )
        return Response(DryRunSerializer(_shown(found)).data)


def _shown(found: DryRun) -> dict[str, Any]:
    return {
        "version": found.version.number,
        "cycle": found.moment.cycle,
        "data_date": found.variables["ds"],
        "zone": str(found.moment.zone),
        "variables": dict(found.variables),
        "nodes": [_node_shown(node) for node in found.nodes],
    }


def _node_shown(node: DryNode) -> dict[str, Any]:
    chosen = node.chosen
    return {
        "name": node.key,
        "job": chosen.job and chosen.job.path,
        "job_version_number": chosen.version and chosen.version.number,
        "kind": chosen.version and chosen.version.kind,
        "queue": chosen.queue and chosen.queue.name,
        "demand": node.demand,
        "priority": node.priority,
        "upstream": node.upstream,
        "command": node.argv,
        "files": node.files,
        "variables": node.variables.variables,
        "faults": node.faults,
    }
