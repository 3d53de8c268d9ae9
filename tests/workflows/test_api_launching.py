"""REST: starting workflows for a date or as a draft, and what that would do."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from apps.engine.roles import Role
from apps.runs.models import Run
from apps.workflows.models import Workflow, WorkflowVersion
from tests.api import program, world
from tests.workflows.test_api_workflows import fields

pytestmark = pytest.mark.django_db


@pytest.fixture
def flow() -> int:
    return world().workflow


def started(response) -> Run:
    assert response.status_code == 201, response.json()
    [pk] = response.json()["runs"]
    return Run.objects.get(pk=pk)


@pytest.mark.parametrize(
    ("body", "cycle"),
    [
        ({"data_date": "2026-03-01"}, datetime(2026, 3, 2, 2, tzinfo=UTC)),
        ({"cycle": "2026-03-01T04:30:00+01:00"}, datetime(2026, 3, 1, 3, 30, tzinfo=UTC)),
    ],
)
def test_run_is_for_the_cycle_that_was_asked_for(flow, body, cycle):
    assert started(program().post(f"workflows/{flow}/run", body)).cycle == cycle


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"data_date": "2026-03-01", "cycle": "2026-03-01T00:00:00Z"}, ["cycle"]),
        ({"data_date": "soon"}, ["data_date"]),
        ({"data_date": "0001-01-01"}, ["data_date"]),
        ({"cycle": "0001-01-01T00:00:00Z"}, ["cycle"]),
        ({"draft": True, "version": 1}, ["version"]),
        ({"draft": True, "overlap": "skip"}, ["overlap"]),
        ({"draft": True, "queue": "nightly"}, ["clean", "load"]),
    ],
)
def test_run_that_cannot_start_says_why_and_leaves_nothing(flow, body, expected):
    before = Run.objects.count()

    response = program().post(f"workflows/{flow}/run", body)

    assert (response.status_code, fields(response)) == (422, expected)
    assert Run.objects.count() == before
    assert not WorkflowVersion.objects.filter(number=None).exists()


def test_draft_runs_in_a_development_queue_with_the_right_to_edit_jobs_alone(flow):
    caller = program(Role.DATA_SCIENCE)

    run = started(caller.post(f"workflows/{flow}/run", {"draft": True}))

    assert (run.trigger, run.version.number) == ("debug", None)
    assert {node.queue.name for node in run.nodes.all()} == {"dev_queue"}
    assert caller.post(f"workflows/{flow}/run").status_code == 403
    shown = caller.get(f"runs/{run.pk}").json()
    assert (shown["trigger"], shown["version"]) == ("debug", None)


def test_dry_run_tells_what_would_be_started_and_starts_nothing(flow):
    Workflow.objects.filter(pk=flow).update(variables={"region": "us"})
    before = Run.objects.count()

    told = program(Role.GUEST).post(f"workflows/{flow}/dry-run", {"data_date": "2026-03-01"})

    assert told.status_code == 200
    found = told.json()
    assert (found["version"], found["data_date"]) == (1, "2026-03-01")
    assert found["cycle"] == "2026-03-02T02:00:00Z"
    [load, clean] = found["nodes"]
    assert clean == {
        **clean,
        "name": "clean",
        "job": "etl/clean_flights",
        "job_version_number": 1,
        "kind": "shell",
        "queue": "root_queue",
        "demand": 0.25,
        "priority": "medium",
        "upstream": ["load"],
        "command": ["bash", "main.sh"],
        "files": {"main.sh": "echo cleaned"},
        "faults": [],
    }
    regions = [each for each in load["variables"] if each["name"] == "region"]
    assert regions == [{"name": "region", "value": "eu", "source": "workspace", "written": ""}]

    told = program(Role.GUEST).post(f"workflows/{flow}/dry-run", {"draft": True}).json()
    regions = [each for each in told["nodes"][0]["variables"] if each["name"] == "region"]
    assert (told["version"], regions[0]["source"]) == (None, "workflow")
    assert Run.objects.count() == before
    assert not WorkflowVersion.objects.filter(number=None).exists()
