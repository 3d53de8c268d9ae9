"""Rows for tests, made through the same services as a user's."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from django.utils import timezone

from apps.engine.states import Trigger
from apps.nodes.models import Job
from apps.nodes.services.jobs import create_job, publish_job
from apps.notifications.letters import letter_test
from apps.notifications.models import Channel, Delivery, Incident, Kind, Rule
from apps.notifications.services.channels import set_channel
from apps.notifications.services.outbox import post
from apps.notifications.services.rules import make_rule, read_match
from apps.runs.models import Run
from apps.runs.services.launch import launch
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workflows.services.drafting import NodeSettings, add_node, create_workflow
from apps.workflows.services.publishing import publish
from apps.workspaces.models import Workspace
from apps.workspaces.selectors import default_queue
from apps.workspaces.services import ensure_workspace


def workspace(name: str = "default") -> Workspace:
    return ensure_workspace(name)


def job(path: str = "job", content: str = "true", kind: str = "shell", **spec: object) -> Job:
    """A published job in the workspace `default`, made once."""
    found = Job.objects.filter(workspace=workspace(), path=path).first()
    if found is None:
        found = create_job(workspace(), path, kind, user=None, spec={"content": content, **spec})
        publish_job(found, remarks="", user=None)
        found.refresh_from_db()
    return found


def published(
    *nodes: str,
    edges: Iterable[tuple[str, str]] = (),
    name: str = "flow",
    content: str = "true",
    uses: dict[str, Job] | None = None,
    node: dict[str, object] | None = None,
    **settings: object,
) -> WorkflowVersion:
    """A published workflow; its nodes all use one shell job, unless `uses` says otherwise."""
    settings.setdefault("queue", default_queue(workspace()))
    flow = create_workflow(workspace(), name, user=None, **settings)
    edges = list(edges)
    left = list(nodes)
    done: list[str] = []
    while left:  # upstreams first, as a person would
        for key in left:
            up = [a for a, b in edges if b == key]
            if set(up) <= set(done):
                used = (uses or {}).get(key) or job(f"job_of_{name}", content)
                flow.refresh_from_db()
                add_node(
                    flow,
                    NodeSettings(job_path=used.path, name=key, upstream=up, **(node or {})),
                    revision=flow.revision,
                )
                done.append(key)
        left = [key for key in left if key not in done]
    return publish(flow, remarks="", user=None)


def chain(n: int, **kwargs: object) -> WorkflowVersion:
    names = [f"n{i:03}" for i in range(n)]
    return published(*names, edges=pairwise(names), **kwargs)


def incident(workflow: Workflow, *, run_id: int = 1) -> Incident:
    """An open incident of a workflow."""
    now = timezone.now()
    return Incident.objects.create(
        workspace=workflow.workspace,
        workflow=workflow,
        name=workflow.name,
        run_id=run_id,
        node="load",
        reason="exit code 1",
        opened_at=now,
        failed_at=now,
        runs=1,
    )


def rule(workspace: Workspace, *addresses: str, **conditions: str) -> Rule:
    """A rule that tells these addresses."""
    return make_rule(workspace, read_match(**conditions), addresses, user=None)


def channel(name: str = "ops", place: str = "default") -> Channel:
    """A channel of mail addresses."""
    return set_channel(workspace(place), name, kind="mail", addresses="maya@example.com", user=None)


def mail(address: str = "maya@example.com", place: str = "default") -> Delivery:
    """A test message in the outbox."""
    letter = letter_test(place, "maya")
    event = f"test to {address} in {place}"
    post(workspace(place), letter, [address], kind=Kind.TEST, event=event)
    return Delivery.objects.get(event=event)


def by_hand(version: WorkflowVersion, **kwargs: object) -> Run:
    """A run by hand, now."""
    [run] = launch(version, cycles=[timezone.now()], trigger=Trigger.MANUAL, by=None, **kwargs)
    return run
