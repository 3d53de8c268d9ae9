"""Drafts and publishing: every fault at once, each naming its node; nothing lost."""

from __future__ import annotations

import pytest

from apps.core.errors import Conflict, Invalid
from apps.nodes.services.jobs import create_job
from apps.workflows.services.drafting import (
    NodeSettings,
    add_node,
    create_workflow,
    delete_workflow,
    edit_node,
    edit_workflow,
    remove_node,
)
from apps.workflows.services.publishing import publish
from apps.workspaces.models import ResourceQueue
from apps.workspaces.selectors import default_queue
from tests.factories import job, published, workspace

pytestmark = pytest.mark.django_db


@pytest.fixture
def flow():
    return create_workflow(workspace(), "flow", user=None, queue=default_queue(workspace()))


def messages(caught) -> list[tuple[str, str]]:
    return [(fault.field, fault.message) for fault in caught.value.faults]


def test_node_name_is_made_of_the_path_and_numbered_when_taken(flow):
    job("etl/clean")

    names = [
        add_node(flow, NodeSettings(job_path="etl/clean"), revision=n + 1).name for n in range(3)
    ]

    assert names == ["clean", "clean_2", "clean_3"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("etl/none", "there is no job 'etl/none' in this workspace; choose one that is there"),
        ("etl/raw", "job 'etl/raw' is not published; publish it, then use it as a node"),
    ],
)
def test_unknown_and_unpublished_jobs_are_refused_by_name(flow, path, message):
    create_job(workspace(), "etl/raw", "shell", user=None)

    with pytest.raises(Invalid) as caught:
        add_node(flow, NodeSettings(job_path=path), revision=1)

    assert messages(caught) == [("job_path", message)]
    assert flow.nodes.count() == 0


def test_circle_is_refused_and_names_its_nodes(flow):
    job("j")
    add_node(flow, NodeSettings("j", name="a"), revision=1)
    add_node(flow, NodeSettings("j", name="b", upstream=["a"]), revision=2)

    with pytest.raises(Invalid, match="in a circle"):
        edit_node(flow, "a", NodeSettings("j", name="a", upstream=["b"]), revision=3)

    assert list(flow.edges.values_list("upstream__name", "downstream__name")) == [("a", "b")]


def test_edit_keeps_what_waits_for_the_node_under_its_new_name(flow):
    job("j")
    add_node(flow, NodeSettings("j", name="a"), revision=1)
    add_node(flow, NodeSettings("j", name="b", upstream=["a"]), revision=2)

    edit_node(flow, "a", NodeSettings("j", name="first"), revision=3)

    assert list(flow.edges.values_list("upstream__name", "downstream__name")) == [("first", "b")]


def test_edit_from_a_past_revision_is_refused_and_shows_the_present_one(flow):
    edit_workflow(flow, revision=1, description="mine")

    with pytest.raises(Conflict) as caught:
        edit_workflow(flow, revision=1, description="yours")

    assert (caught.value.current.description, caught.value.current.revision) == ("mine", 2)


def test_removed_node_takes_its_edges_along(flow):
    job("j")
    add_node(flow, NodeSettings("j", name="a"), revision=1)
    add_node(flow, NodeSettings("j", name="b", upstream=["a"]), revision=2)

    remove_node(flow, "a", revision=3)

    assert (flow.nodes.count(), flow.edges.count()) == (1, 0)


def test_publish_names_every_fault_of_every_node(flow):
    tiny = ResourceQueue.objects.create(
        workspace=workspace(), name="tiny", capacity=100, production=True
    )
    dev = workspace().queues.get(name="dev_queue")
    job("j")
    add_node(flow, NodeSettings("j", name="a", queue=tiny), revision=1)
    add_node(flow, NodeSettings("j", name="b", queue=dev), revision=2)

    with pytest.raises(Invalid) as caught:
        publish(flow, remarks="", user=None)

    assert messages(caught) == [
        (
            "a",
            "node 'a': it asks for 0.25 CU, and queue 'tiny' has 0.1 in all; "
            "ask for less or raise the queue's capacity",
        ),
        ("b", "node 'b': queue 'dev_queue' is not a production queue; choose one that is"),
    ]


def test_empty_workflow_is_not_published(flow):
    with pytest.raises(Invalid, match="the workflow has no node"):
        publish(flow, remarks="", user=None)


def test_publish_without_a_change_is_refused_and_a_move_on_the_canvas_is_none():
    version = published("a")
    flow = version.workflow
    flow.nodes.update(x=10, y=20)

    with pytest.raises(Conflict, match="has not changed since version 1"):
        publish(flow, remarks="again", user=None)

    edit_workflow(flow, revision=flow.revision, retries=2)
    assert publish(flow, remarks="", user=None).number == 2


def test_published_version_is_not_changed_by_edits():
    version = published("a")
    before = version.graph

    remove_node(version.workflow, "a", revision=version.workflow.revision)

    version.refresh_from_db()
    assert version.graph == before


def test_name_is_free_again_after_deletion(flow):
    delete_workflow(flow)

    assert create_workflow(workspace(), "flow", user=None).pk != flow.pk


def test_taken_name_is_refused(flow):
    with pytest.raises(Conflict, match="there is a workflow 'flow' already"):
        create_workflow(workspace(), "flow", user=None)
