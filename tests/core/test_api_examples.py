"""The description of /api/v1/ is true: each example is sent, each answer is as it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from apps.core.api.description import description
from apps.engine.roles import Role
from apps.engine.states import NodeState
from apps.nodes.models import Job
from apps.runs.models import Backfill, Run
from apps.runs.services.backfill import cancel_backfill, pause_backfill
from apps.runs.services.feeding import stop_rest
from apps.runs.services.hot_path import Outcome
from apps.runs.services.pause import pause_run
from apps.workflows.models import Workflow
from apps.workspaces.models import User
from tests import factories
from tests.api import Program, World, body_of, program, ran, user, world

pytestmark = pytest.mark.django_db


@dataclass(frozen=True)
class Described:
    method: str
    path: str
    operation: dict[str, Any]

    @property
    def name(self) -> str:
        return self.operation["operationId"]

    @property
    def request(self) -> dict[str, Any]:
        return self.operation.get("requestBody", {}).get("content", {}).get("application/json", {})

    def answer(self, status: int) -> dict[str, Any]:
        return self.operation["responses"][str(status)].get("content", {})

    @property
    def successes(self) -> list[int]:
        return [int(code) for code in self.operation["responses"] if code.startswith("2")]


def operations() -> list[Described]:
    return [
        Described(method.upper(), path, operation)
        for path, item in description()["paths"].items()
        for method, operation in item.items()
    ]


def by_name(found: list[Described]) -> list[Any]:
    return [pytest.param(each, id=each.name) for each in found]


def examples(media: dict[str, Any]) -> Iterator[Any]:
    yield from (each["value"] for each in media.get("examples", {}).values())


def faults(shape: dict[str, Any], value: Any) -> list[str]:
    """What in a value is not as its schema says."""
    whole = {**shape, "components": description()["components"]}
    checker = Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return [f"{error.json_path}: {error.message}" for error in checker.iter_errors(value)]


def test_every_schema_is_one():
    for name, shape in description()["components"]["schemas"].items():
        Draft202012Validator.check_schema(shape)
        assert shape["type"] == "object", name


@pytest.mark.parametrize("described", by_name(operations()))
def test_every_operation_has_words_and_an_example(described):
    operation = described.operation

    sample = operation["x-codeSamples"][0]["source"]
    assert operation["summary"]
    assert operation["tags"]
    assert sample.startswith("curl")
    assert "{" not in sample.partition(" -d ")[0].partition('"$RUNYARD')[2]
    if described.method in ("POST", "PUT", "PATCH") and described.request:
        assert list(examples(described.request))
    for each in operation.get("parameters", []):
        assert each.get("description") or each["in"] == "query", each["name"]


@pytest.mark.parametrize("described", by_name(operations()))
def test_examples_are_as_their_schemas_say(described):
    for value in examples(described.request):
        assert faults(described.request["schema"], value) == []
    for status in described.successes:
        for media_type, media in described.answer(status).items():
            if media_type == "application/json":
                [value] = examples(media)
                assert faults(media["schema"], value) == []


# --- each is sent ---------------------------------------------------------------------------


def _nothing(here: World) -> World:
    return here


def _changed_job(here: World) -> World:
    Job.objects.filter(pk=here.job).update(draft={"content": "wc -l flights.csv"})
    return here


def _changed_workflow(here: World) -> World:
    Workflow.objects.filter(pk=here.workflow).update(retries=1)
    return here


def _under_way(here: World) -> World:
    """A run whose first node waits in its queue."""
    flow = Workflow.objects.get(pk=here.workflow)
    return replace(here, run=factories.by_hand(flow.published).pk)


def _paused(here: World) -> World:
    here = _under_way(here)
    pause_run(Run.objects.get(pk=here.run), user=None)
    return here


def _failed(here: World) -> World:
    flow = Workflow.objects.get(pk=here.workflow)
    run = factories.by_hand(flow.published)
    ran(run.nodes.get(key="load"), Outcome(NodeState.FAILED, exit_code=1, reason="exit code 1"))
    return replace(here, run=run.pk)


def _paused_backfill(here: World) -> World:
    pause_backfill(Backfill.objects.get(pk=here.backfill), user=None)
    return here


def _backfill_that_is_over(here: World) -> World:
    cancel_backfill(Backfill.objects.get(pk=here.backfill), user=None)
    stop_rest(here.backfill)
    return here


#: What must be so before an operation can be done.
BEFORE: dict[str, Callable[[World], World]] = {
    "publish_job": _changed_job,
    "publish_workflow": _changed_workflow,
    "stop_run": _under_way,
    "pause_run": _under_way,
    "resume_run": _paused,
    "resume_backfill": _paused_backfill,
    "delete_workflow": _backfill_that_is_over,
    "set_node_run_to_success": _failed,
    "stop_node_run": _under_way,
    "rerun_run": _failed,
}


#: What an operation's address can not do without.
QUERIES = {"search_log": "?text=flights"}


@pytest.mark.parametrize("described", by_name(operations()))
def test_each_example_does_what_it_says(described):
    here = world()
    # As the examples have it.
    Job.objects.filter(pk=here.job).update(revision=3)
    Workflow.objects.filter(pk=here.workflow).update(revision=5)
    user("maya", Role.DATA_ENGINEERING)
    caller = Program() if described.name == "create_token" else program(Role.OWNER)
    User.objects.filter(username=Role.OWNER).update(
        is_superuser=described.name == "create_workspace"
    )
    here = BEFORE.get(described.name, _nothing)(here)
    sent = next(examples(described.request), None)
    if described.name == "upload_file":
        sent = b"print('loaded')\n"

    address = here.address(described.path) + QUERIES.get(described.name, "")
    response = caller.send(described.method, address, sent)

    assert response.status_code in described.successes, response.content
    media = described.answer(response.status_code)
    if not media:
        assert body_of(response) == b""
        return
    [(media_type, about)] = media.items()
    assert response["Content-Type"].partition(";")[0] == media_type
    if media_type == "application/json":
        assert faults(about["schema"], response.json()) == []
    else:
        assert body_of(response)
