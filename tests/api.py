"""Programs that speak to /api/v1/, and a workspace with one of everything for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from io import BytesIO
from typing import Any
from uuid import uuid4

from asgiref.sync import async_to_sync
from django.contrib.auth.hashers import make_password
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.engine.roles import Role
from apps.engine.states import NodeState, Trigger
from apps.nodes.models import Job
from apps.nodes.services.files import put_file
from apps.nodes.services.jobs import create_job, draft_version, publish_job
from apps.runs.logs import log_of
from apps.runs.models import Attempt, NodeRun, Output, Run
from apps.runs.services.backfill import Asked, create_backfill
from apps.runs.services.holding import hold
from apps.runs.services.hot_path import Outcome, claim, finish
from apps.runs.services.launch import launch
from apps.workflows.services.drafting import WholeNode, create_workflow, replace_draft
from apps.workflows.services.publishing import publish
from apps.workspaces.models import Member, TokenScope, User, Workspace
from apps.workspaces.secrets import set_secret
from apps.workspaces.services import create_queue, create_token
from apps.workspaces.variables import set_variable
from tests import factories

PASSWORD = "correct horse battery"
_HASH = make_password(PASSWORD)


class Program:
    """One token, and requests with it; addresses are below the workspace `default`."""

    def __init__(self, token: str | None = None, base: str = "/api/v1/workspaces/default/") -> None:
        self.client = Client(raise_request_exception=False)
        self.base = base
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def send(self, method: str, place: str, body: Any = None, **headers: str) -> HttpResponse:
        """`body`: bytes go raw, all else as JSON. `If_Match="…"` is a header."""
        if isinstance(body, bytes):
            content = {"data": body, "content_type": "application/octet-stream"}
        elif body is not None:
            content = {"data": json.dumps(body), "content_type": "application/json"}
        else:
            content = {}
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        url = place if place.startswith("/") else self.base + place
        url = url if place else url.removesuffix("/")
        return self.client.generic(method, url, headers={**self.headers, **extra}, **content)

    def get(self, place: str = "", **headers: str) -> HttpResponse:
        return self.send("GET", place, **headers)

    def post(self, place: str, body: Any = None, **headers: str) -> HttpResponse:
        return self.send("POST", place, body, **headers)

    def put(self, place: str, body: Any = None, **headers: str) -> HttpResponse:
        return self.send("PUT", place, body, **headers)

    def patch(self, place: str, body: Any = None, **headers: str) -> HttpResponse:
        return self.send("PATCH", place, body, **headers)

    def delete(self, place: str, **headers: str) -> HttpResponse:
        return self.send("DELETE", place, **headers)


def user(name: str, role: Role | None = None, workspace: Workspace | None = None) -> User:
    """Someone, made once; with a role in this workspace, by default in `default`."""
    found = User.objects.filter(username=name).first()
    found = found or User.objects.create(username=name, password=_HASH)
    if role is not None:
        Member.objects.get_or_create(
            workspace=workspace or factories.workspace(), user=found, role=role
        )
    return found


def program(role: Role | None = Role.OWNER, scope: TokenScope = TokenScope.ADMIN) -> Program:
    """With a token of someone in this role; None: a stranger."""
    return Program(create_token(user(role or "stranger", role), "test", scope=scope))


def body_of(response: HttpResponse) -> bytes:
    """Whole, also of a stream that only a server under ASGI reads."""
    if not response.streaming or not response.is_async:
        return response.getvalue()

    async def read() -> bytes:
        return b"".join([chunk async for chunk in response.streaming_content])

    return async_to_sync(read)()


@contextmanager
def queries(of: Program, count: int) -> Iterator[None]:
    """Exactly so many statements; the token's last use, kept once a minute, is kept before."""
    of.get("/api/v1/workspaces")
    with CaptureQueriesContext(connection) as captured:
        yield
    said = "\n".join(each["sql"] for each in captured)
    assert len(captured) == count, said


@dataclass(frozen=True)
class World:
    """The variables of every address, so that each leads to something."""

    workspace: str
    queue: str
    job: int
    workflow: int
    number: int
    path: str
    run: int
    node: str
    attempt: int
    output: int
    secret: str
    variable: str
    hold: int
    incident: int
    rule: int
    backfill: int
    channel: str
    delivery: int

    def address(self, template: str) -> str:
        """`/api/v1/workspaces/{workspace}/…` with this world's names and ids."""
        return template.format(**vars(self))


LOG = b"read 336,776 flights\n"


def world(name: str = "default") -> World:
    """One of everything: two published jobs, a workflow with a run that is over, a file."""
    workspace = factories.workspace(name)
    set_secret(workspace, "WAREHOUSE_PASSWORD", "s3cret of the warehouse", user=None)
    set_variable(workspace, "region", "eu", user=None)
    create_queue(workspace, "nightly", capacity=8000, development=False, production=True)
    put_file(workspace, "etl/load.py", BytesIO(b"print('loaded')\n"), user=None)
    job(workspace, "etl/load_flights", "echo loaded")
    job(workspace, "etl/clean_flights", "echo cleaned")
    alone = job(workspace, "alone")  # nothing uses it, so that it can be deleted
    flow = create_workflow(
        workspace,
        "flight_delays",
        user=None,
        queue=workspace.queues.get(name="root_queue"),
        schedule={"kind": "days", "time": "02:00"},
    )
    nodes = [WholeNode("load", "etl/load_flights"), WholeNode("clean", "etl/clean_flights")]
    replace_draft(flow, nodes, {("load", "clean")}, revision=1)
    version = publish(flow, remarks="", user=None)
    run = factories.by_hand(version)
    node = run.nodes.get(key="load")
    attempt = ran(node)
    ran(run.nodes.get(key="clean"))
    output = Output.objects.create(
        attempt=attempt, name="rows.csv", sha256=workspace.files.get().sha256, size=16
    )
    day = Asked(first_date=date(2026, 1, 1), last_date=date(2026, 1, 1))
    return World(
        workspace=name,
        queue="nightly",
        job=alone.pk,
        workflow=flow.pk,
        number=1,
        path="etl/load.py",
        run=run.pk,
        node="load",
        attempt=1,
        output=output.pk,
        secret="WAREHOUSE_PASSWORD",
        variable="region",
        hold=hold(workspace, tag="team=nobody", user=None).pk,
        incident=factories.incident(flow, run_id=run.pk).pk,
        rule=factories.rule(workspace, "li@example.com", tag="team=nobody").pk,
        backfill=create_backfill(flow, day, user=None).pk,
        channel=factories.channel("ops", name).name,
        delivery=factories.mail(place=name).pk,
    )


def ran(node: NodeRun, outcome: Outcome | None = None, log: bytes = LOG) -> Attempt:
    """Let a queued node run as a worker would, with a log."""
    mine = claim(node.queue_id, "worker@here:1", uuid4())
    assert mine is not None
    assert mine.node_run_id == node.pk
    write_log(node, mine.attempt, log)
    done = outcome or Outcome(NodeState.SUCCEEDED, exit_code=0, log_bytes=len(log), log_lines=1)
    finish(mine, done, worker="worker@here:1", request=uuid4(), take=False)
    return node.attempts.get(number=mine.attempt)


def write_log(node: NodeRun, number: int, content: bytes) -> None:
    path = log_of(node.run_id, node.pk, number).path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def job(workspace: Workspace, path: str, content: str = "true") -> Job:
    """A published shell job for production."""
    queue = workspace.queues.get(name="root_queue")
    made = create_job(workspace, path, "shell", user=None, spec={"content": content}, queue=queue)
    publish_job(made, remarks="", user=None)
    made.refresh_from_db()
    return made


def debug_run(of: Job) -> Run:
    """A run of a job's draft, in a development queue."""
    [run] = launch(
        draft_version(of, user=None),
        cycles=[timezone.now()],
        trigger=Trigger.DEBUG,
        by=None,
        queue=of.workspace.queues.get(name="dev_queue"),
    )
    return run
