"""The one door through which runs start."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from apps.core.errors import Invalid
from apps.engine.states import RunState, Trigger
from apps.nodes.models import JobVersion
from apps.nodes.services.jobs import create_job, draft_version, publish_job
from apps.runs.models import NodeRun, Run
from apps.runs.services.launch import launch
from apps.workspaces.models import ResourceQueue
from tests.factories import by_hand, job, published, workspace

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_run_is_under_way_at_once_with_its_ids_in_the_graphs_order():
    run = by_hand(published("c", "b", "a", edges=[("a", "b"), ("b", "c")]))

    nodes = list(run.nodes.order_by("pk").values_list("key", "state", "need"))
    assert nodes == [("a", "queued", 0), ("b", "pending", 1), ("c", "pending", 1)]
    run.refresh_from_db()
    assert (run.state, run.total, run.active, run.open) == (RunState.PENDING, 3, 1, 1)


def test_many_cycles_are_one_set_of_inserts(django_assert_num_queries):
    version = published("a", "b", edges=[("a", "b")])
    cycles = [NOON + timedelta(days=n) for n in range(40)]

    with django_assert_num_queries(13):
        runs = launch(version, cycles=cycles, trigger=Trigger.BACKFILL, by=None)

    assert [run.cycle for run in Run.objects.order_by("pk")] == cycles
    assert NodeRun.objects.filter(run__in=runs, state="queued").count() == 40


def test_limited_run_queues_no_more_roots_than_its_limit():
    run = by_hand(published("a", "b", "c", parallelism=2))

    states = list(run.nodes.order_by("pk").values_list("state", flat=True))
    run.refresh_from_db()
    assert (states, run.active, run.open) == (["queued", "queued", "pending"], 2, 3)


def test_node_settings_win_over_the_workflows_even_a_zero():
    run = by_hand(published("a", retries=3, node={"retries": 0}))

    assert run.nodes.get().retries == 0


def test_run_takes_the_newest_published_version_of_each_job():
    version = published("a")
    used = job("job_of_flow")
    used.draft = {"content": "date"}
    used.save()
    newer = publish_job(used, remarks="", user=None)

    assert by_hand(version).nodes.get().job_version == newer


def test_pinned_version_is_kept():
    used = job("pinned")
    version = published("a", uses={"a": used}, node={"job_version_number": 1})
    used.draft = {"content": "date"}
    used.save()
    publish_job(used, remarks="", user=None)

    assert by_hand(version).nodes.get().job_version.number == 1


def test_every_node_that_cannot_run_is_named_at_once():
    version = published("a", "b")
    small = ResourceQueue.objects.create(
        workspace=workspace(), name="small", capacity=100, production=True
    )

    with pytest.raises(Invalid) as caught:
        by_hand(version, queue=small)

    assert [(fault.field, fault.message) for fault in caught.value.faults] == [
        (
            key,
            f"node {key!r} asks for 0.25 CU, and queue 'small' has 0.1 in all; "
            "ask for less or raise the queue's capacity",
        )
        for key in "ab"
    ]
    assert Run.objects.count() == 0


def test_production_run_is_refused_in_a_development_queue():
    dev = workspace().queues.get(name="dev_queue")

    with pytest.raises(Invalid, match="'dev_queue' is not a production queue"):
        by_hand(published("a"), queue=dev)


def test_draft_of_a_job_runs_by_itself_in_a_development_queue():
    dev = workspace().queues.get(name="dev_queue")
    draft = create_job(workspace(), "etl/probe", "shell", user=None, spec={"content": "date"})

    [run] = launch(
        draft_version(draft, user=None),
        cycles=[timezone.now()],
        trigger=Trigger.DEBUG,
        by=None,
        queue=dev,
    )

    assert (run.name, run.job, run.workflow) == ("etl/probe", draft, None)
    assert list(run.nodes.values_list("key", "state")) == [("probe", "queued")]


def test_kind_that_went_with_its_package_is_said_of_its_node_and_of_a_job_alone():
    alone = job("alone")
    version = published("a")
    JobVersion.objects.update(kind="notebook")

    with pytest.raises(Invalid, match="node 'a': no kind 'notebook'; there are shell"):
        by_hand(version)
    with pytest.raises(Invalid, match="node 'alone': no kind 'notebook'; there are shell"):
        launch(
            JobVersion.objects.get(job=alone), cycles=[NOON], trigger=Trigger.MANUAL, by=None,
            queue=ResourceQueue.objects.get(name="root_queue"),
        )  # fmt: skip
    assert Run.objects.count() == 0
