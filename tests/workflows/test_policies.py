"""What a workflow and its nodes say about retries, waiting and priority, from draft to run."""

from __future__ import annotations

import pytest

from apps.core.canonical import digest
from apps.core.errors import Conflict, Invalid
from apps.engine.priority import Priority
from apps.runs.models import Run
from apps.runs.services.anew import rerun_anew
from apps.runs.services.stop import stop_run
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workflows.services.drafting import (
    NodeSettings,
    WholeNode,
    add_node,
    edit_node,
    edit_workflow,
    replace_draft,
)
from apps.workflows.services.publishing import draft_differs, publish
from apps.workspaces.models import ResourceQueue
from tests.api import program
from tests.factories import by_hand, job, published, workspace
from tests.html import errors
from tests.people import member

pytestmark = pytest.mark.django_db

SAID = {
    "retries": 4,
    "retry_interval_seconds": 10,
    "retry_backoff": 2.0,
    "retry_max_interval_seconds": 600,
    "final_exit_codes": [2, 64],
    "queue_timeout_seconds": 900,
    "priority": Priority.HIGH,
}
OF_NODE = {
    "retries": 0,
    "retry_interval_seconds": 0,
    "retry_backoff": 1.0,
    "retry_max_interval_seconds": 30,
    "final_exit_codes": [],
    "queue_timeout_seconds": 5,
    "priority": Priority.LOWEST,
}


def said_by(row) -> dict[str, object]:
    return {name: getattr(row, name) for name in SAID}


def old_form(version: WorkflowVersion) -> WorkflowVersion:
    """The version as it was frozen before back-off, waits and priorities were there."""
    later = {*SAID} - {"retries", "retry_interval_seconds"}
    graph = version.graph
    for each in (graph["settings"], *graph["nodes"]):
        for name in later:
            del each[name]
    for name in ("overlap", "overlap_limit", "zone", "schedule", "data_offset"):
        del graph["settings"][name]
    what_runs = {
        **graph,
        "nodes": [{k: v for k, v in n.items() if k not in ("x", "y")} for n in graph["nodes"]],
    }
    WorkflowVersion.objects.filter(pk=version.pk).update(graph=graph, digest=digest(what_runs))
    version.refresh_from_db()
    return version


def test_nodes_take_what_the_workflow_says_and_each_says_otherwise_even_with_nothing():
    version = published("a", **SAID)
    add_node(
        version.workflow,
        NodeSettings("job_of_flow", name="b", **OF_NODE),
        revision=Workflow.objects.get().revision,
    )
    run = by_hand(publish(version.workflow, remarks="", user=None))

    assert {n.key: said_by(n) for n in run.nodes.all()} == {"a": SAID, "b": OF_NODE}
    assert {n.key: n.level for n in run.nodes.all()} == {"a": 3, "b": 0}


def test_priority_of_a_launch_wins_over_that_of_every_node_and_a_rerun_keeps_it():
    version = published("a", priority=Priority.HIGH, node={"priority": Priority.LOW})

    run = by_hand(version, priority=Priority.LOWEST)
    stop_run(run, user=None)
    again = rerun_anew(run, user=None)

    found = [(r.priority, r.nodes.get().priority, r.nodes.get().level) for r in (run, again)]
    assert found == [(0, 0, 0)] * 2


def test_version_from_before_these_settings_runs_by_their_defaults():
    run = by_hand(old_form(published("a", retries=1)))

    assert said_by(run.nodes.get()) == {
        "retries": 1,
        "retry_interval_seconds": 60,
        "retry_backoff": 1.0,
        "retry_max_interval_seconds": 3600,
        "final_exit_codes": [],
        "queue_timeout_seconds": None,
        "priority": Priority.MEDIUM,
    }


def test_draft_that_says_nothing_new_does_not_differ_from_a_version_from_before():
    version = old_form(published("a", retries=1))
    flow = Workflow.objects.get()

    assert draft_differs(flow) is False
    with pytest.raises(Conflict, match="has not changed since version 1"):
        publish(version.workflow, remarks="", user=None)


@pytest.mark.parametrize("name", [name for name in SAID if name != "retries"])
def test_any_of_them_makes_another_version_of_workflow_and_of_node(name):
    version = old_form(published("a"))
    flow = version.workflow

    edit_workflow(flow, revision=2, **{name: SAID[name]})
    second = publish(flow, remarks="", user=None)
    edit_node(flow, "a", NodeSettings("job_of_flow", name="a", **{name: OF_NODE[name]}), revision=3)
    third = publish(flow, remarks="", user=None)

    assert len({version.digest, second.digest, third.digest}) == 3
    assert not draft_differs(Workflow.objects.get())


def test_whole_and_broken_factor_of_one_size_are_one():
    flow = published("a", retry_backoff=2).workflow

    with pytest.raises(Conflict, match="has not changed"):
        publish(flow, remarks="", user=None)
    assert not draft_differs(Workflow.objects.get())


WRONG = [
    ("retry_backoff", 0.9, "a back-off of 0.9 is not between 1 and 10"),
    ("retry_backoff", 11, "a back-off of 11 is not between 1 and 10"),
    ("retry_backoff", float("nan"), "a back-off of nan is not between 1 and 10"),
    ("retry_max_interval_seconds", 0, "a longest pause of 0 s lets none grow"),
    ("final_exit_codes", [2, 0], "exit code 0 is none that a job can fail with"),
    ("final_exit_codes", [256], "exit code 256 is none that a job can fail with"),
    ("queue_timeout_seconds", 0, "a wait of 0 s fails every node before it starts"),
    ("priority", 5, "there is no priority 5; choose one from 0"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_value_that_cannot_be_is_refused_where_it_stands(name, value, message):
    flow = published("a").workflow

    with pytest.raises(Invalid) as of_workflow:
        edit_workflow(flow, revision=2, **{name: value})
    with pytest.raises(Invalid) as of_node:
        edit_node(flow, "a", NodeSettings("job_of_flow", name="a", **{name: value}), revision=2)
    with pytest.raises(Invalid) as of_draft:
        replace_draft(flow, [WholeNode("a", "job_of_flow", **{name: value})], [], revision=2)

    found = [of_workflow.value.faults, of_node.value.faults, of_draft.value.faults]
    assert [[fault.field for fault in each] for each in found] == [[name], [name], ["a"]]
    assert [each[0].message.startswith(message) for each in found[:2]] == [True, True]
    assert found[2][0].message.startswith(f"node 'a': {message}")


def test_launch_through_rest_gives_its_priority_to_every_node():
    flow = published("a", "b", priority=Priority.LOW).workflow
    caller = program()

    [of_flow] = caller.post(f"workflows/{flow.pk}/run", {"priority": "highest"}).json()["runs"]
    as_set = caller.post(f"workflows/{flow.pk}/run").json()["runs"][0]
    alone = job("job_of_flow")
    queue = {"queue": "root_queue"}
    [of_job] = caller.post(f"jobs/{alone.pk}/run", {"priority": "lowest", **queue}).json()["runs"]

    def shown(run: int) -> tuple[str | None, list[str]]:
        nodes = caller.get(f"runs/{run}/nodes").json()["items"]
        return caller.get(f"runs/{run}").json()["priority"], [node["priority"] for node in nodes]

    assert shown(of_flow) == ("highest", ["highest", "highest"])
    assert shown(as_set) == (None, ["low", "low"])
    assert shown(of_job) == ("lowest", ["lowest"])


# --- pages ----------------------------------------------------------------------------------

FORM = {
    "retries": "4",
    "retry_interval_seconds": "10",
    "retry_backoff": "2",
    "retry_max_interval_seconds": "600",
    "final_exit_codes": "64, 2",
    "queue_timeout_seconds": "900",
    "priority": "3",
}


def test_form_of_a_workflow_says_all_of_it_and_what_is_left_empty_is_the_default():
    flow = published("a").workflow
    client, here = member(), f"/w/default/workflows/{flow.pk}/settings/"
    form = {"name": "flow", "strategy": "end", "parallelism": "2", "timeout_seconds": "60"}

    client.post(here, {**form, **FORM, "revision": 2})
    said = Workflow.objects.get()
    html = client.get(here).content.decode()
    client.post(here, {**form, "revision": 3})

    assert said_by(said) == SAID
    assert (said.strategy, said.parallelism, said.timeout_seconds) == ("end", 2, 60)
    assert 'value="2, 64"' in html
    assert '<option value="3" selected>high</option>' in html
    assert said_by(Workflow.objects.get()) == {
        "retries": 0,
        "retry_interval_seconds": 60,
        "retry_backoff": 1.0,
        "retry_max_interval_seconds": 3600,
        "final_exit_codes": [],
        "queue_timeout_seconds": None,
        "priority": Priority.MEDIUM,
    }


def test_panel_of_a_node_shows_what_it_follows_and_keeps_what_is_set():
    flow = published("a", **SAID).workflow
    client, here = member(), f"/w/default/workflows/{flow.pk}/node/?name=a"
    sent = {"job_path": "job_of_flow", "name": "a"}

    follows = client.get(here).content.decode()
    of_node = {**FORM, "final_exit_codes": "none", "priority": "0", "retry_backoff": "1.5"}
    client.post(here, {**sent, **of_node, "revision": 2})
    node = flow.nodes.get()
    client.post(here, {**sent, "revision": 3})

    placeholders = ("2, from workflow", "600, from", "2, 64, from", "900, from workflow")
    assert [text for text in placeholders if f'placeholder="{text}' not in follows] == []
    assert '<option value="" selected>high, from workflow</option>' in follows
    assert (node.final_exit_codes, node.priority, node.retry_backoff) == ([], 0, 1.5)
    assert set(said_by(flow.nodes.get()).values()) == {None}


def test_run_dialog_asks_for_priority_and_queue_and_the_button_for_nothing():
    flow = published("a", priority=Priority.LOW).workflow
    client, here = member(), f"/w/default/workflows/{flow.pk}/run/"
    queue = workspace().queues.get(name="dev_queue")
    ResourceQueue.objects.filter(pk=queue.pk).update(production=True)

    asked = client.get(here).content.decode()
    client.post(here)
    client.post(here, {"priority": "4", "queue": queue.pk, "remarks": "the board waits"})
    wrong = client.post(here, {"priority": "9", "queue": "", "remarks": ""})

    assert ">Run v1</button>" in asked
    assert (wrong.status_code, len(errors(wrong.content.decode()))) == (422, 1)
    found = [
        (run.priority, run.remarks, node.priority, node.queue.name)
        for run in Run.objects.order_by("pk")
        for node in run.nodes.select_related("queue")
    ]
    assert found == [
        (None, "", Priority.LOW, "root_queue"),
        (4, "the board waits", Priority.HIGHEST, "dev_queue"),
    ]


def test_run_dialog_says_at_once_what_keeps_the_run_from_starting():
    flow = published("a").workflow
    client, here = member(), f"/w/default/workflows/{flow.pk}/run/"
    ResourceQueue.objects.update(capacity=1)

    answer = client.post(here, {"priority": "", "queue": "", "remarks": ""})

    [said] = errors(answer.content.decode())
    assert (answer.status_code, Run.objects.count()) == (422, 0)
    assert "asks for 0.25 CU" in said


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        ({"retry_backoff": "0"}, "greater than or equal to 1"),
        ({"retry_max_interval_seconds": "0"}, "longest pause of 0 s"),
        ({"final_exit_codes": "2, x"}, "'x' is no exit code"),
        ({"final_exit_codes": "300"}, "Exit code 300 is none"),
        ({"queue_timeout_seconds": "0"}, "A wait of 0 s"),
        ({"priority": "7"}, "Select a valid choice"),
    ],
)
def test_what_cannot_be_is_refused_at_its_field(sent, fault):
    flow = published("a").workflow
    client, here = member(), f"/w/default/workflows/{flow.pk}/"
    node = {"job_path": "job_of_flow", "name": "a", "revision": 2}
    settings = {"name": "flow", "strategy": "continue", "revision": 2}

    answers = [
        client.post(f"{here}node/?name=a", {**node, **sent}),
        client.post(f"{here}settings/", {**settings, **sent}),
    ]

    said = [errors(answer.content.decode()) for answer in answers]
    assert [len(each) for each in said] == [1, 1]
    assert all(fault.lower() in text.lower().replace("&#x27;", "'") for [text] in said), said
