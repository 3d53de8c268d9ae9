"""Pages of workflows: the list, the draft, publishing, running."""

from __future__ import annotations

import pytest

from apps.engine.states import NodeState
from apps.nodes.services.jobs import create_job
from apps.runs.models import Run
from apps.workflows.models import Workflow
from apps.workflows.services.drafting import WholeNode, edit_workflow, replace_draft
from apps.workflows.services.publishing import publish
from tests.factories import by_hand, job, published, workspace
from tests.html import errors, rows
from tests.people import member

pytestmark = pytest.mark.django_db

FLOWS = "/w/default/workflows/"


def node(flow: Workflow, **changes):
    flow.refresh_from_db()
    return {"revision": flow.revision, "job_path": "etl/clean", "name": "", **changes}


def edges(flow: Workflow) -> set[tuple[str, str]]:
    return set(flow.edges.values_list("upstream__name", "downstream__name"))


@pytest.fixture
def flow() -> Workflow:
    job("etl/load")
    job("etl/clean")
    client = member()
    client.post(f"{FLOWS}create/", {"name": "daily", "queue": "", "strategy": "continue"})
    return Workflow.objects.get()


@pytest.mark.parametrize("many", [1, 3])
def test_workflows_with_their_last_runs(django_assert_num_queries, many):
    client = member()
    for n in range(many):
        by_hand(published("a", name=f"flow{n}"))

    # session, user, member; workflows, their last runs
    with django_assert_num_queries(5):
        html = client.get(FLOWS).content.decode()

    assert [row[:5] for row in rows(html)] == [
        [f"flow{n}", "v1", "manual", "Pending", "(Pending) 1"] for n in range(many)
    ]


def test_a_workspace_without_workflows_says_what_they_are():
    assert "<h2>No workflows yet</h2>" in member().get(FLOWS).content.decode()


def test_a_new_workflow_starts_with_the_defaults_and_opens_its_graph(flow):
    assert (flow.name, flow.retries, flow.retry_interval_seconds, flow.strategy) == (
        "daily",
        0,
        60,
        "continue",
    )
    assert "An empty workflow" in member().get(f"{FLOWS}{flow.pk}/").content.decode()


def test_a_two_node_workflow_is_built_published_and_run(flow):
    client, here = member(), f"{FLOWS}{flow.pk}/"

    client.post(
        f"{here}settings/",
        {
            "revision": flow.revision,
            "name": "daily",
            "strategy": "continue",
            "retries": "1",
            "retry_interval_seconds": "5",
            "queue": workspace().queues.get(name="root_queue").pk,
        },
    )
    client.post(f"{here}node/", node(flow, job_path="etl/load"))
    client.post(f"{here}node/", node(flow, upstream=["load"], retries="0"))
    assert edges(flow) == {("load", "clean")}
    client.post(
        f"{here}publish/", {"remarks": "first", "revision": Workflow.objects.get().revision}
    )
    answer = client.post(f"{here}run/")

    run = Run.objects.get()
    assert answer.headers["Location"] == f"/w/default/runs/{run.pk}/"
    assert [(n.key, n.state, n.retries) for n in run.nodes.order_by("pk")] == [
        ("load", NodeState.QUEUED, 1),
        ("clean", NodeState.PENDING, 0),
    ]


def test_a_node_is_edited_and_removed_with_its_edges(flow):
    client, here = member(), f"{FLOWS}{flow.pk}/"
    client.post(f"{here}node/", node(flow, job_path="etl/load"))
    client.post(f"{here}node/", node(flow, upstream=["load"]))

    client.post(
        f"{here}node/?name=clean", node(flow, name="tidy", upstream=[], timeout_seconds="9")
    )
    assert (edges(flow), flow.nodes.get(name="tidy").timeout_seconds) == (set(), 9)

    flow.refresh_from_db()
    client.post(f"{here}remove/", {"node": "tidy", "revision": flow.revision})
    assert list(flow.nodes.values_list("name", flat=True)) == ["load"]


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        ({"job_path": "etl/gone"}, "There is no job"),
        ({"job_path": "etl/draft"}, "is not published"),
        ({"name": "load"}, "names are unique"),
        ({"name": "bad name"}, "is not allowed"),
        ({"upstream": ["nowhere"]}, "Select a valid choice"),
        ({"job_version_number": "7"}, "has no published version 7"),
        ({"retries": "-1"}, "greater than or equal to 0"),
    ],
)
def test_a_node_that_cannot_be_is_refused_at_its_field(flow, sent, fault):
    client, here = member(), f"{FLOWS}{flow.pk}/"
    create_job(workspace(), "etl/draft", "shell", user=None)
    client.post(f"{here}node/", node(flow, job_path="etl/load"))

    answer = client.post(f"{here}node/", node(flow, **sent))

    [said] = errors(answer.content.decode())
    assert answer.status_code == 422
    assert fault in said
    assert flow.nodes.count() == 1


def test_a_circle_is_refused_with_its_nodes_named(flow):
    client, here = member(), f"{FLOWS}{flow.pk}/"
    client.post(f"{here}node/", node(flow, job_path="etl/load"))
    client.post(f"{here}node/", node(flow, upstream=["load"]))

    answer = client.post(
        f"{here}node/?name=load", node(flow, job_path="etl/load", name="load", upstream=["clean"])
    )

    [said] = errors(answer.content.decode())
    assert answer.status_code == 422
    assert "Nodes wait for each other in a circle" in said
    assert edges(flow) == {("load", "clean")}


def test_a_change_from_a_past_revision_is_refused_and_stays_typed(flow):
    past = flow.revision
    edit_workflow(flow, revision=past, description="theirs")

    answer = member().post(
        f"{FLOWS}{flow.pk}/settings/",
        {"revision": past, "name": "mine", "strategy": "continue"},
    )

    html = answer.content.decode()
    assert answer.status_code == 422
    assert f"yours began at {past}" in errors(html)[0]
    assert 'value="mine"' in html
    flow.refresh_from_db()
    assert (flow.name, flow.description) == ("daily", "theirs")


def test_publishing_shows_all_faults_at_once_and_nothing_is_published(flow):
    client, here = member(), f"{FLOWS}{flow.pk}/"
    client.post(f"{here}node/", node(flow, job_path="etl/load"))
    client.post(f"{here}node/", node(flow))

    answer = client.post(f"{here}publish/", {"remarks": "why not"})

    html = answer.content.decode()
    assert answer.status_code == 422
    assert errors(html) == [
        f"Node &#x27;{name}&#x27;: no resource queue is set; "
        "choose one for the node or for the workflow"
        for name in ("load", "clean")
    ]
    assert "why not" in html
    assert flow.versions.count() == 0


def test_publishing_without_a_change_is_refused():
    version = published("a")

    answer = member().post(f"{FLOWS}{version.workflow_id}/publish/", {"remarks": ""})

    assert answer.status_code == 422
    assert "has not changed since version 1" in errors(answer.content.decode())[0]


def test_the_publish_dialog_says_at_once_that_there_is_nothing_to_publish():
    flow = published("a").workflow
    flow.refresh_from_db()
    client, here = member(), f"{FLOWS}{flow.pk}/"

    same = client.get(f"{here}publish/").content.decode()
    assert "Nothing has changed since v1: there is nothing to publish." in same
    assert 'aria-disabled="true" title="Nothing has changed since v1">Publish v2' in same
    assert "draft differs" not in client.get(here).content.decode()

    edit_workflow(flow, revision=flow.revision, retries=3)
    other = client.get(f"{here}publish/").content.decode()
    assert "aria-disabled" not in other.partition("oc-dialog-foot")[2]
    assert "draft differs from v1" in client.get(here).content.decode()


def test_a_version_is_read_as_it_was_published():
    version = published("a", "b", edges=[("a", "b")])
    flow = version.workflow
    flow.refresh_from_db()
    client, here = member(), f"{FLOWS}{flow.pk}/"
    client.post(f"{here}remove/", {"node": "b", "revision": flow.revision})

    listed = client.get(f"{here}versions/").content.decode()
    html = client.get(f"{here}versions/1/").content.decode()

    assert f'href="{here}versions/1/"' in listed
    assert rows(html) == [["a", "job_of_flow", "–"], ["b", "job_of_flow", "–"]]
    assert html.count('class="oc-edge"') == 1
    assert client.get(f"{here}versions/2/").status_code == 404


def test_an_unpublished_workflow_does_not_run(flow):
    answer = member().post(f"{FLOWS}{flow.pk}/run/")

    assert answer.status_code == 409
    assert "is not published; publish it" in answer.content.decode()


def test_the_graph_draws_every_node_and_edge(django_assert_num_queries):
    version = published("a", "b", "c", edges=[("a", "b"), ("a", "c")])
    client = member()

    # session, user, member; workflow; nodes, edges; twice the same: for the faults, and for
    # what differs from the published version; the workspace's variables
    with django_assert_num_queries(11):
        html = client.get(f"{FLOWS}{version.workflow_id}/").content.decode()

    assert html.count('class="oc-edge"') == 2
    assert [row[0] for row in rows(html)] == ["a", "b", "c"]


def test_a_deleted_workflow_is_gone_and_its_name_free():
    version = published("a")
    client = member()

    client.post(f"{FLOWS}{version.workflow_id}/delete/")

    assert client.get(f"{FLOWS}{version.workflow_id}/").status_code == 404
    assert rows(client.get(FLOWS).content.decode()) == []


def test_a_draft_too_large_to_draw_shows_its_table(flow):
    nodes = [WholeNode(f"n{n:03}", "etl/clean") for n in range(401)]
    replace_draft(flow, nodes, [], revision=1)

    html = member().get(f"{FLOWS}{flow.pk}/").content.decode()

    assert "Too large to draw" in html
    assert "oc-graph" not in html
    assert len(rows(html)) == 401


def test_a_run_too_large_to_draw_shows_its_table(flow):
    replace_draft(
        flow,
        [WholeNode(f"n{n:03}", "etl/clean", queue="root_queue") for n in range(401)],
        [],
        revision=1,
    )
    run = by_hand(publish(flow, remarks="", user=None))

    html = member().get(f"/w/default/runs/{run.pk}/").content.decode()

    assert "Too large to draw" in html
    assert 'class="oc-graph' not in html.replace('class="oc-graph-host', "")
    assert html.count('id="oc-graph-title"') == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [({"node": "a\0b", "revision": "1"}, 404), ({"node": "a", "revision": "9" * 5000}, 422)],
)
def test_what_no_form_of_ours_sends_is_refused(flow, sent, status):
    answer = member().post(f"{FLOWS}{flow.pk}/remove/", sent)

    assert answer.status_code == status
