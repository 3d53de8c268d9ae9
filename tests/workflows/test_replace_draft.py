"""A whole draft at once: all nodes, all edges, the settings, or every fault of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.core.errors import Conflict, FieldFault, Invalid, NotFound
from apps.nodes.models import JobVersion
from apps.nodes.services.jobs import create_job
from apps.workflows.models import Workflow
from apps.workflows.services.drafting import (
    MAX_EDGES,
    MAX_NODES,
    WholeNode,
    create_workflow,
    delete_workflow,
    replace_draft,
)
from tests import factories

pytestmark = pytest.mark.django_db


def flow() -> Workflow:
    factories.job("etl/a")
    return create_workflow(factories.workspace(), "flow", user=None)


def node(name: str, **settings: object) -> WholeNode:
    return WholeNode(name, "etl/a", **settings)


def edges(workflow: Workflow) -> set[tuple[str, str]]:
    return set(workflow.edges.values_list("upstream__name", "downstream__name"))


def messages(nodes: list[WholeNode], edges=(), **settings: object) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        replace_draft(flow(), nodes, edges, revision=1, **settings)
    return [(fault.field, fault.message) for fault in caught.value.faults]


def test_draft_is_as_it_was_sent():
    saved = replace_draft(
        flow(),
        [
            node("a", queue="root_queue", x=10.5, y=-3.0),
            node("b", retries=0, retry_interval_seconds=5, timeout_seconds=60),
            node("c", job_version_number=1),
        ],
        [("a", "b"), ("a", "c"), ("b", "c")],
        revision=1,
        queue="root_queue",
        retries=2,
    )

    saved.refresh_from_db()
    rows = {row.name: row for row in saved.nodes.all()}
    assert (saved.revision, saved.queue.name, saved.retries) == (2, "root_queue", 2)
    assert edges(saved) == {("a", "b"), ("a", "c"), ("b", "c")}
    assert (rows["a"].queue.name, rows["a"].x, rows["a"].y) == ("root_queue", 10.5, -3.0)
    assert (rows["b"].retries, rows["b"].retry_interval_seconds, rows["b"].timeout_seconds) == (
        0,
        5,
        60,
    )
    assert (rows["c"].job_version_number, rows["c"].retries, rows["c"].queue) == (1, None, None)


def test_node_that_keeps_its_name_stays_the_same_row_and_the_rest_goes():
    workflow = flow()
    replace_draft(workflow, [node("a", retries=3), node("b")], [("a", "b")], revision=1)
    before = workflow.nodes.get(name="a").pk

    replace_draft(workflow, [node("a"), node("c")], [("c", "a")], revision=2)

    kept = workflow.nodes.get(name="a")
    assert (kept.pk, kept.retries) == (before, None)
    assert set(workflow.nodes.values_list("name", flat=True)) == {"a", "c"}
    assert edges(workflow) == {("c", "a")}


def test_settings_that_are_left_out_stay():
    workflow = create_workflow(factories.workspace(), "flow", user=None, retries=2)

    saved = replace_draft(workflow, [], [], revision=1, description="empty for now")

    assert (saved.retries, saved.description, saved.queue) == (2, "empty for now", None)
    assert not saved.nodes.exists()


def test_every_fault_is_said_at_once_under_its_node():
    create_job(factories.workspace(), "draft_only", "shell", user=None, spec={"content": "x"})

    found = messages(
        [
            node("a", queue="none_such", timeout_seconds=0),
            node("a"),
            node("bad name!"),
            WholeNode("lost", "etl/none"),
            WholeNode("early", "draft_only"),
            node("pinned", job_version_number=7),
            node("self"),
        ],
        [("a", "lost"), ("lost", "a"), ("self", "self"), ("a", "nowhere")],
        queue="nor_this",
        parallelism=0,
        overlap_limit=0,
    )

    # Where a circle begins is anyone's choice.
    assert {found.pop(7)} <= {
        ("a", "nodes wait for each other in a circle: a → lost → a"),
        ("lost", "nodes wait for each other in a circle: lost → a → lost"),
    }
    assert found == [
        ("queue", "there is no queue 'nor_this' in this workspace"),
        ("parallelism", "0 nodes at once would run nothing; leave it empty for no limit"),
        ("overlap_limit", "with 0 runs at once no scheduled run would start; set 1 or more"),
        ("a", "two nodes are named 'a'; names are unique"),
        (
            "bad name!",
            "node name 'bad name!' is not allowed; use 1 to 64 letters, digits, '_', '-' and "
            "'.', the first and last a letter or digit or '_'",
        ),
        ("a", "node 'a' is connected to 'nowhere', which is not there"),
        ("self", "node 'self' waits for itself; remove that upstream"),
        ("a", "node 'a': there is no queue 'none_such' in this workspace"),
        ("a", "node 'a': a timeout of 0 ends every attempt; leave it out for none"),
        (
            "lost",
            "node 'lost': there is no job 'etl/none' in this workspace; choose one that is there",
        ),
        (
            "early",
            "node 'early': job 'draft_only' is not published; publish it, then use it as a node",
        ),
        ("pinned", "node 'pinned': job 'etl/a' has no published version 7"),
    ]


def test_draft_with_faults_changes_nothing():
    workflow = flow()
    replace_draft(workflow, [node("a")], [], revision=1)

    with pytest.raises(Invalid):
        replace_draft(workflow, [node("a"), node("b")], [("a", "x")], revision=2, retries=9)

    workflow.refresh_from_db()
    assert (workflow.revision, workflow.retries) == (2, 0)
    assert list(workflow.nodes.values_list("name", flat=True)) == ["a"]


def test_edge_without_any_node_leads_nowhere():
    assert {field for field, _ in messages([], [("a", "b")])} == {"", "a", "b"}


def test_version_that_was_run_as_a_draft_cannot_be_chosen():
    workflow = flow()
    JobVersion.objects.create(job=factories.job("etl/a"), number=None, kind="shell", spec={})

    with pytest.raises(Invalid) as caught:
        replace_draft(workflow, [node("a", job_version_number=2)], [], revision=1)

    assert caught.value.faults == (
        FieldFault("a", "node 'a': job 'etl/a' has no published version 2"),
    )


def test_draft_that_has_moved_on_is_not_replaced():
    workflow = flow()
    replace_draft(workflow, [node("a")], [], revision=1)

    with pytest.raises(Conflict) as caught:
        replace_draft(workflow, [], [], revision=1)

    assert caught.value.current.revision == 2
    assert workflow.nodes.count() == 1


def test_deleted_workflow_has_no_draft():
    workflow = flow()
    delete_workflow(workflow)

    with pytest.raises(NotFound):
        replace_draft(workflow, [], [], revision=1)


def test_new_name_may_not_be_taken():
    workflow = flow()
    create_workflow(factories.workspace(), "other", user=None)

    with pytest.raises(Conflict):
        replace_draft(workflow, [], [], revision=1, name="other")


@pytest.mark.parametrize("count", [3, 300])
def test_statements_do_not_grow_with_the_nodes(count):
    workflow = flow()
    names = [f"n{number:03}" for number in range(count)]
    nodes = [node(name, job_version_number=1) for name in names]
    pairs = list(pairwise(names))
    replace_draft(workflow, nodes, pairs, revision=1)

    with CaptureQueriesContext(connection) as captured:
        replace_draft(workflow, nodes, pairs, revision=2)

    assert len(captured) == 15


def test_a_draft_holds_so_many_nodes_and_edges():
    nodes = [node(f"n{n}") for n in range(MAX_NODES + 1)]
    pairs = [(f"n{n % 200}", f"n{n // 200 + 500}") for n in range(MAX_EDGES + 1)]

    assert messages(nodes) == [
        ("nodes", "the workflow has 2,001 nodes; 2,000 are allowed: split it")
    ]
    Workflow.objects.all().delete()
    assert messages(nodes[:-1], pairs) == [
        ("edges", "the workflow has 10,001 edges; 10,000 are allowed: split it")
    ]
