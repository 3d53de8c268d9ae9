"""REST: workflows, their drafts, versions and runs."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.endpoint import Endpoint
from apps.core.api.fields import (
    PageQuery,
    page_example,
    page_of,
)
from apps.core.api.operation import Place, operation
from apps.engine.roles import Permission
from apps.engine.states import Severity
from apps.nodes.api import (
    IF_MATCH,
    VERSION,
)
from apps.nodes.models import Job
from apps.runs.services.holding import tag_workflow
from apps.runs.services.scheduling import switch
from apps.workflows.api.shapes import (
    WORKFLOW,
    WORKFLOW_BRIEF,
    WORKFLOW_VERSION,
    DraftEditSerializer,
    OwnershipSerializer,
    TagsSerializer,
    WorkflowBriefSerializer,
    WorkflowCreateSerializer,
    WorkflowEditSerializer,
    WorkflowPublishSerializer,
    WorkflowQuery,
    WorkflowSerializer,
    WorkflowVersionBriefSerializer,
    WorkflowVersionSerializer,
)
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workflows.services.drafting import (
    SETTINGS,
    WholeNode,
    create_workflow,
    delete_workflow,
    edit_workflow,
    replace_draft,
)
from apps.workflows.services.ownership import Ownership, own
from apps.workflows.services.publishing import publish, whole
from apps.workflows.services.schedules import timetable_of
from apps.workspaces.api import queue_named


class WorkflowEndpoints(Endpoint):
    tag = "Workflows"
    places = {
        "workflow": Place("Id of the workflow.", "4"),
        "number": Place("Number of the published version.", "2"),
    }
    shows = WorkflowSerializer

    def workflows(self) -> QuerySet[Workflow]:
        rows: QuerySet[Workflow] = self.visible(Workflow.objects.filter(deleted_at=None))
        return rows.select_related("queue", "published", "created_by").defer("published__graph")

    def workflow(self, pk: int) -> Workflow:
        row: Workflow = self.one(self.workflows(), "workflow", pk=pk)
        return row

    def version(self, workflow: Workflow, number: int) -> WorkflowVersion:
        rows = workflow.versions.select_related("created_by", "workflow")
        what = f"version of {workflow.name!r} with number"
        version: WorkflowVersion = self.one(rows, what, number=number)
        return version


class WorkflowsEndpoint(WorkflowEndpoints):
    @operation(
        "list_workflows",
        "List workflows",
        permission=Permission.VIEW,
        query=WorkflowQuery,
        answers={200: page_of(WorkflowBriefSerializer)},
        shows=page_example(WORKFLOW_BRIEF),
    )
    def get(self, request: Request, workspace: str) -> Response:
        query, rows = self.query, self.workflows()
        if wanted := query.get("q"):
            rows = rows.filter(name__icontains=wanted)
        if "name" in query:
            rows = rows.filter(name=query["name"])
        if "owner" in query:
            rows = rows.filter(owner__iexact=query["owner"])
        if "severity" in query:
            rows = rows.filter(severity=query["severity"])
        return self.page(rows, WorkflowBriefSerializer)

    @operation(
        "create_workflow",
        "Create a workflow",
        permission=Permission.EDIT_WORKFLOW,
        body=WorkflowCreateSerializer,
        answers={201: WorkflowSerializer},
        example={"name": "weekly_report", "queue": "root_queue", "retries": 1},
        shows={
            **WORKFLOW,
            "name": "weekly_report",
            "description": "",
            "tags": {},
            "owner": "",
            "severity": "normal",
            "runbook": "",
            "revision": 1,
            "published": None,
            "nodes": [],
            "edges": [],
            "faults": [{"field": "", "message": "the workflow has no node; add one"}],
        },
    )
    def post(self, request: Request, workspace: str) -> Response:
        """An empty draft; its graph follows by PUT."""
        data = self.body()
        data["queue"] = queue_named(self.workspace, data.get("queue"))
        return self.draft(create_workflow(self.workspace, user=request.user, **data), status=201)


class WorkflowEndpoint(WorkflowEndpoints):
    @operation(
        "get_workflow",
        "Get a workflow with its draft",
        permission=Permission.VIEW,
        answers={200: WorkflowSerializer},
        shows=WORKFLOW,
    )
    def get(self, request: Request, workspace: str, workflow: int) -> Response:
        """The ETag is the draft's revision."""
        return self.draft(self.workflow(workflow))

    @operation(
        "edit_workflow",
        "Edit a workflow's settings",
        permission=Permission.EDIT_WORKFLOW,
        body=WorkflowEditSerializer,
        headers=IF_MATCH,
        answers={200: WorkflowSerializer},
        example={"revision": 5, "retries": 3},
        shows={**WORKFLOW, "revision": 6, "retries": 3},
    )
    def patch(self, request: Request, workspace: str, workflow: int) -> Response:
        """What is left out stays. They count for runs once they are published."""
        data = self.body()
        revision = self.revision(data.pop("revision", None))
        if "queue" in data:
            data["queue"] = queue_named(self.workspace, data["queue"])
        return self.draft(edit_workflow(self.workflow(workflow), revision=revision, **data))

    @operation(
        "delete_workflow",
        "Delete a workflow",
        permission=Permission.EDIT_WORKFLOW,
        answers={204: None},
    )
    def delete(self, request: Request, workspace: str, workflow: int) -> Response:
        """Refused while its schedule is on, or a run or a backfill of it is not over.

        Its runs stay readable, its name is free.
        """
        delete_workflow(self.workflow(workflow))
        return Response(status=204)


class WorkflowDraftEndpoint(WorkflowEndpoints):
    @operation(
        "replace_workflow_draft",
        "Replace a workflow's draft",
        permission=Permission.EDIT_WORKFLOW,
        body=DraftEditSerializer,
        headers=IF_MATCH,
        answers={200: WorkflowSerializer},
        example={
            "revision": 5,
            "retries": 1,
            "zone": "Europe/Berlin",
            "schedule": {"kind": "days", "time": "02:00", "started_at": "2025-11-20T08:00:00Z"},
            "queue_timeout_seconds": 7200,
            "nodes": [
                {"name": "load", "job": "etl/load_flights"},
                {
                    "name": "clean",
                    "job": "etl/clean_flights",
                    "retries": 2,
                    "retry_backoff": 2,
                    "final_exit_codes": [2, 64],
                    "priority": "high",
                    "timeout_seconds": 600,
                },
            ],
            "edges": [["load", "clean"]],
        },
        shows={**WORKFLOW, "revision": 6},
    )
    def put(self, request: Request, workspace: str, workflow: int) -> Response:
        """Nodes, edges and settings at once: nodes and edges as they are sent, settings that are
        left out stay. Refused with every fault, those of a node under the node's name. Of two who
        began at the same revision the second gets 409, and in `current` what stands there now."""
        data = self.body()
        row = replace_draft(
            self.workflow(workflow),
            [WholeNode(job_path=node.pop("job"), **node) for node in data["nodes"]],
            {(up, down) for up, down in data["edges"]},
            revision=self.revision(data.get("revision")),
            **{name: data[name] for name in SETTINGS if name in data},
        )
        return self.draft(row)


class WorkflowTagsEndpoint(WorkflowEndpoints):
    @operation(
        "tag_workflow",
        "Set a workflow's tags",
        permission=Permission.EDIT_WORKFLOW,
        body=TagsSerializer,
        answers={200: WorkflowSerializer},
        example={"tags": {"team": "aviation"}},
        shows=WORKFLOW,
    )
    def put(self, request: Request, workspace: str, workflow: int) -> Response:
        """All of them; what is left out is gone. They are in no version and count at once, for
        runs under way too: a hold on a tag holds the runs of the workflows that have it."""
        row = self.workflow(workflow)
        tag_workflow(row, self.body()["tags"], user=request.user)
        return self.draft(self.workflow(workflow))


class WorkflowOwnershipEndpoint(WorkflowEndpoints):
    @operation(
        "set_workflow_ownership",
        "Set who looks after a workflow",
        permission=Permission.EDIT_WORKFLOW,
        body=OwnershipSerializer,
        answers={200: WorkflowSerializer},
        example={
            "owner": "aviation",
            "severity": "high",
            "runbook": "https://wiki.example.com/flight_delays",
        },
        shows=WORKFLOW,
    )
    def put(self, request: Request, workspace: str, workflow: int) -> Response:
        """All of it; what is left out is empty, and the severity normal. It stands in the mail
        about a failure and in the incident, is in no version and counts at once."""
        data, row = self.body(), self.workflow(workflow)
        own(row, Ownership(data["owner"], data["runbook"], Severity(data["severity"])))
        return self.draft(self.workflow(workflow))


class WorkflowPublishEndpoint(WorkflowEndpoints):
    @operation(
        "publish_workflow",
        "Publish a workflow's draft",
        permission=Permission.PUBLISH_WORKFLOW,
        body=WorkflowPublishSerializer,
        answers={201: WorkflowVersionSerializer},
        example={"remarks": "cleans before it counts"},
        shows=WORKFLOW_VERSION,
    )
    def post(self, request: Request, workspace: str, workflow: int) -> Response:
        """Every run from now on takes it. Refused with every fault of the draft, each under the
        name of its node, and where nothing has changed."""
        data = self.body()
        turn_on = data.pop("turn_on")
        version = publish(self.workflow(workflow), user=request.user, **data)
        if turn_on and timetable_of(version) is not None:
            switch(version.workflow, on=True, user=request.user)
        return Response(version_shown(version), status=201)


class WorkflowVersionsEndpoint(WorkflowEndpoints):
    @operation(
        "list_workflow_versions",
        "List a workflow's versions",
        permission=Permission.VIEW,
        query=PageQuery,
        answers={200: page_of(WorkflowVersionBriefSerializer)},
        shows=page_example({**VERSION, "created_by": "maya"}),
    )
    def get(self, request: Request, workspace: str, workflow: int) -> Response:
        rows = self.workflow(workflow).versions.filter(number__isnull=False)
        return self.page(
            rows.select_related("created_by").defer("graph"), WorkflowVersionBriefSerializer
        )


class WorkflowVersionEndpoint(WorkflowEndpoints):
    @operation(
        "get_workflow_version",
        "Get a version of a workflow",
        permission=Permission.VIEW,
        answers={200: WorkflowVersionSerializer},
        shows=WORKFLOW_VERSION,
    )
    def get(self, request: Request, workspace: str, workflow: int, number: int) -> Response:
        return Response(version_shown(self.version(self.workflow(workflow), number)))


def version_shown(version: WorkflowVersion) -> Any:
    """A frozen graph with names in the place of ids; of what is deleted, none."""
    graph, workspace = whole(version.graph), version.workflow.workspace_id
    jobs = Job.objects.filter(workspace=workspace).in_bulk({node["job"] for node in graph["nodes"]})
    queues = version.workflow.workspace.queues.in_bulk()
    return WorkflowVersionSerializer(
        {
            "number": version.number,
            "remarks": version.remarks,
            "digest": version.digest,
            "created_at": version.created_at,
            "created_by": version.created_by,
            "settings": {**graph["settings"], "queue": queues.get(graph["settings"]["queue"])},
            "nodes": [
                {**node, "job": jobs.get(node["job"]), "queue": queues.get(node["queue"])}
                for node in graph["nodes"]
            ],
            "edges": graph["edges"],
        }
    ).data
