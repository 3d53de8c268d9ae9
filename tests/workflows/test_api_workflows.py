"""REST: workflows, their drafts and versions."""

from __future__ import annotations

import pytest

from apps.engine.roles import Role
from apps.runs.models import Run
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workspaces.models import TokenScope
from tests import factories
from tests.api import job, program, queries

pytestmark = pytest.mark.django_db

NEW = {"name": "flow", "queue": "root_queue", "retries": 1}
DRAFT = {
    "revision": 1,
    "nodes": [{"name": "load", "job": "etl/load"}, {"name": "clean", "job": "etl/clean"}],
    "edges": [["load", "clean"]],
}


def fields(response) -> list[str]:
    return [each["field"] for each in response.json().get("errors", [])]


def create(**changes) -> int:
    made = program().post("workflows", {**NEW, **changes})
    assert made.status_code == 201, made.content
    return made.json()["id"]


def jobs() -> None:
    for path in ("etl/load", "etl/clean"):
        job(factories.workspace(), path)


def published() -> int:
    jobs()
    pk = create()
    assert program().put(f"workflows/{pk}/draft", DRAFT).status_code == 200
    assert program().post(f"workflows/{pk}/publish").status_code == 201
    return pk


def test_workflow_is_created_empty_and_says_what_it_lacks():
    made = program(Role.DATA_ENGINEERING).post("workflows", NEW)

    shown = made.json()
    assert (made.status_code, made["ETag"]) == (201, '"1"')
    assert shown == {
        "queue": "root_queue",
        "retries": 1,
        "retry_interval_seconds": 60,
        "retry_backoff": 1.0,
        "retry_max_interval_seconds": 3600,
        "final_exit_codes": [],
        "queue_timeout_seconds": None,
        "priority": "medium",
        "timeout_seconds": None,
        "parallelism": None,
        "strategy": "continue",
        "overlap": "parallel",
        "overlap_limit": 16,
        "data_offset": 1,
        "variables": {},
        "zone": "",
        "schedule": None,
        "id": Workflow.objects.get().pk,
        "name": "flow",
        "description": "",
        "tags": {},
        "owner": "",
        "severity": "normal",
        "runbook": "",
        "revision": 1,
        "published": None,
        "created_by": "data_engineering",
        "created_at": shown["created_at"],
        "updated_at": shown["updated_at"],
        "nodes": [],
        "edges": [],
        "faults": [{"field": "", "message": "the workflow has no node; add one"}],
    }


@pytest.mark.parametrize(
    ("changes", "status", "expected"),
    [
        ({"name": "a/b"}, 422, ["name"]),
        ({"queue": "none_such"}, 422, ["queue"]),
        ({"queue": "dev_queue"}, 422, ["queue"]),
        ({"parallelism": 0}, 422, ["parallelism"]),
        ({"retries": -1, "strategy": "hope"}, 422, ["retries", "strategy"]),
        ({"overlap": "queue"}, 422, ["overlap"]),
        ({"overlap_limit": 0}, 422, ["overlap_limit"]),
        ({"retries": 40_000}, 422, ["retries"]),
        ({"retry_backoff": 0.5}, 422, ["retry_backoff"]),
        ({"retry_backoff": 10.5}, 422, ["retry_backoff"]),
        ({"retry_backoff": "2"}, 422, ["retry_backoff"]),
        ({"retry_max_interval_seconds": 0}, 422, ["retry_max_interval_seconds"]),
        ({"final_exit_codes": [0]}, 422, ["final_exit_codes[0]"]),
        ({"final_exit_codes": [2, 256]}, 422, ["final_exit_codes[1]"]),
        ({"final_exit_codes": None}, 422, ["final_exit_codes"]),
        ({"queue_timeout_seconds": 0}, 422, ["queue_timeout_seconds"]),
        ({"timeout_seconds": 0}, 422, ["timeout_seconds"]),
        ({"priority": "urgent"}, 422, ["priority"]),
        ({"priority": 3}, 422, ["priority"]),
        ({"priority": None}, 422, ["priority"]),
        ({"nodes": []}, 422, ["nodes"]),
        ({}, 409, []),
    ],
)
def test_workflow_that_cannot_be(changes, status, expected):
    create()

    response = program().post("workflows", {**NEW, **changes})

    assert (response.status_code, fields(response)) == (status, expected)
    assert Workflow.objects.count() == 1


@pytest.mark.parametrize("count", [1, 3])
def test_workflows_are_listed_newest_first(count):
    for number in range(count):
        factories.published("a", name=f"flow{number}")
    caller = program(Role.GUEST)

    with queries(caller, 4):
        found = caller.get("workflows").json()["items"]

    assert [each["name"] for each in found] == [f"flow{n}" for n in reversed(range(count))]
    assert (found[0]["published"]["number"], "nodes" in found[0]) == (1, False)


def test_workflows_are_found_by_name():
    for name in ("night", "night_report", "day"):
        create(name=name)
    caller = program()

    def names(query: str) -> list[str]:
        return [each["name"] for each in caller.get(f"workflows?{query}").json()["items"]]

    assert (names("q=NIGHT"), names("name=night")) == (["night_report", "night"], ["night"])


def test_whole_draft_comes_in_one_request():
    jobs()
    pk = create()
    body = {
        **DRAFT,
        "parallelism": 2,
        "nodes": [
            {"name": "load", "job": "etl/load", "queue": "root_queue", "x": 1, "y": 2.5},
            {
                "name": "clean",
                "job": "etl/clean",
                "retries": 0,
                "retry_backoff": 2,
                "retry_max_interval_seconds": 600,
                "final_exit_codes": [64, 2, 2],
                "queue_timeout_seconds": 30,
                "priority": "highest",
                "timeout_seconds": 60,
            },
        ],
    }

    saved = program().put(f"workflows/{pk}/draft", body)

    shown = saved.json()
    rest = {"job_version_number": None, "retry_interval_seconds": None, "variables": {}}
    policies = {
        "retry_backoff": None,
        "retry_max_interval_seconds": None,
        "final_exit_codes": None,
        "queue_timeout_seconds": None,
        "priority": None,
    }
    assert (saved.status_code, saved["ETag"]) == (200, '"2"')
    assert shown["nodes"] == [
        {
            **rest,
            **policies,
            "name": "load",
            "job": "etl/load",
            "queue": "root_queue",
            "retries": None,
            "timeout_seconds": None,
            "x": 1.0,
            "y": 2.5,
        },
        {
            **rest,
            "name": "clean",
            "job": "etl/clean",
            "queue": None,
            "retries": 0,
            "retry_backoff": 2.0,
            "retry_max_interval_seconds": 600,
            "final_exit_codes": [2, 64],
            "queue_timeout_seconds": 30,
            "priority": "highest",
            "timeout_seconds": 60,
            "x": None,
            "y": None,
        },
    ]
    assert (shown["edges"], shown["faults"]) == ([["load", "clean"]], [])
    assert (shown["parallelism"], shown["retries"], shown["queue"]) == (2, 1, "root_queue")
    assert program().get(f"workflows/{pk}").json() == shown


def test_what_was_got_can_be_sent_back():
    pk = published()
    caller = program()
    shown = caller.get(f"workflows/{pk}").json()
    names = ("revision", "name", "description", "queue", "retries", "retry_interval_seconds")
    more = (
        "timeout_seconds",
        "parallelism",
        "strategy",
        "overlap_limit",
        "nodes",
        "edges",
        "retry_backoff",
        "variables",
        "data_offset",
    )
    more += ("retry_max_interval_seconds", "final_exit_codes", "queue_timeout_seconds", "priority")

    saved = caller.put(f"workflows/{pk}/draft", {name: shown[name] for name in names + more})

    again = saved.json()
    changed = {"revision": shown["revision"] + 1, "updated_at": again["updated_at"]}
    assert again == {**shown, **changed}
    assert caller.post(f"workflows/{pk}/publish").status_code == 409  # nothing has changed


def test_faults_of_the_graph_come_all_at_once_under_their_nodes():
    jobs()
    pk = create()
    body = {
        "revision": 1,
        "queue": "none_such",
        "nodes": [
            {"name": "load", "job": "etl/load"},
            {"name": "load", "job": "etl/load"},
            {"name": "clean", "job": "etl/none"},
            {"name": "self", "job": "etl/load"},
        ],
        "edges": [["load", "nowhere"], ["self", "self"]],
    }

    response = program().put(f"workflows/{pk}/draft", body)

    assert response.status_code == 422
    assert fields(response) == ["queue", "load", "load", "self", "clean"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"nodes": [{"name": "a"}]}, ["nodes[0].job"]),
        ({"nodes": [{"name": "a", "job": "etl/load", "colour": 1}]}, ["nodes[0].colour"]),
        ({"edges": [["load"]]}, ["edges[0]"]),
        ({"edges": [["load", "clean", "more"]]}, ["edges[0]"]),
        ({"edges": "load clean"}, ["edges"]),
        ({"nodes": None}, ["nodes"]),
        ({"edges": None, "nodes": {}}, ["nodes", "edges"]),
        ({"owner": "me"}, ["owner"]),
        ({"revision": None}, ["revision"]),
    ],
)
def test_draft_in_another_shape_is_refused(changes, expected):
    jobs()
    pk = create()

    response = program().put(f"workflows/{pk}/draft", {**DRAFT, **changes})

    assert (response.status_code, fields(response)) == (422, expected)
    assert Workflow.objects.get().revision == 1


@pytest.mark.parametrize("header", [False, True])
def test_second_of_two_who_began_at_one_revision_gets_what_stands_there_now(header):
    jobs()
    pk = create()
    program().put(f"workflows/{pk}/draft", DRAFT)
    body = {"nodes": [], "edges": []}
    headers = {"If_Match": '"1"'} if header else {}
    if not header:
        body["revision"] = 1

    late = program().put(f"workflows/{pk}/draft", body, **headers)

    assert late.status_code == 409
    current = late.json()["current"]
    assert (current["revision"], len(current["nodes"])) == (2, 2)


def test_settings_are_edited_and_what_is_left_out_stays():
    pk = create()

    saved = program().patch(f"workflows/{pk}", {"revision": 1, "queue": None, "timeout_seconds": 9})
    late = program().patch(f"workflows/{pk}", {"revision": 1, "retries": 5})
    wrong = program().patch(f"workflows/{pk}", {"revision": 2, "nodes": []})

    shown = saved.json()
    assert (shown["revision"], shown["queue"], shown["timeout_seconds"], shown["retries"]) == (
        2,
        None,
        9,
        1,
    )
    assert (late.status_code, late.json()["current"]["revision"]) == (409, 2)
    assert (wrong.status_code, fields(wrong)) == (422, ["nodes"])


def test_published_version_stays_as_it_was():
    pk = published()
    caller = program()
    caller.put(f"workflows/{pk}/draft", {"revision": 2, "nodes": [], "edges": []})
    refused = caller.post(f"workflows/{pk}/publish", {"revision": 1})

    shown = caller.get(f"workflows/{pk}/versions/1").json()

    assert refused.status_code == 409
    assert [(node["name"], node["job"], node["queue"]) for node in shown["nodes"]] == [
        ("clean", "etl/clean", None),
        ("load", "etl/load", None),
    ]
    assert (shown["edges"], shown["settings"]["queue"]) == ([["load", "clean"]], "root_queue")
    assert caller.get(f"workflows/{pk}/versions/2").status_code == 404
    empty = caller.post(f"workflows/{pk}/publish")
    assert (empty.status_code, fields(empty)) == (422, [""])


@pytest.mark.parametrize("count", [1, 3])
def test_versions_cost_the_same_however_many(count):
    version = factories.published("a")
    for number in range(2, count + 1):
        WorkflowVersion.objects.create(
            workflow=version.workflow, number=number, graph={}, digest=""
        )
    caller = program(Role.GUEST)

    with queries(caller, 5):
        found = caller.get(f"workflows/{version.workflow_id}/versions").json()["items"]

    assert [each["number"] for each in found] == list(range(count, 0, -1))


def test_deleted_workflow_is_gone_and_its_name_is_free():
    pk, caller = published(), program()
    run = caller.post(f"workflows/{pk}/run").json()["runs"][0]

    kept = caller.delete(f"workflows/{pk}")
    caller.post(f"runs/{run}/stop")
    gone = caller.delete(f"workflows/{pk}")

    assert (kept.status_code, gone.status_code) == (409, 204)
    assert caller.get(f"workflows/{pk}").status_code == 404
    assert caller.get("workflows").json()["items"] == []
    assert caller.get(f"runs/{run}").status_code == 200
    create()


# --- running --------------------------------------------------------------------------------


def test_engineer_runs_the_published_version():
    pk = published()
    caller = program(Role.DATA_ENGINEERING, TokenScope.RUN)

    response = caller.post(f"workflows/{pk}/run", {"parameters": {"day": "1"}, "remarks": "x"})

    run = Run.objects.get()
    assert (response.status_code, response.json()) == (201, {"runs": [run.pk]})
    assert (run.trigger, run.version.number, run.created_by.username) == (
        "api",
        1,
        "data_engineering",
    )
    assert (run.parameters, run.remarks, run.priority) == ({"day": "1"}, "x", None)
    assert list(run.nodes.order_by("pk").values_list("key", "state")) == [
        ("load", "queued"),
        ("clean", "pending"),
    ]


def test_older_version_may_be_chosen():
    pk, caller = published(), program()
    caller.patch(f"workflows/{pk}", {"revision": 2, "retries": 7})
    caller.post(f"workflows/{pk}/publish")

    caller.post(f"workflows/{pk}/run", {"version": 1})

    assert Run.objects.get().version.number == 1
    assert caller.post(f"workflows/{pk}/run", {"version": 3}).status_code == 404


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"queue": "dev_queue"}, ["clean", "load"]),
        ({"queue": "none_such"}, ["queue"]),
        ({"priority": "urgent"}, ["priority"]),
        ({"drafts": True}, ["drafts"]),
        ({"parameters": {"RUNYARD_RUN": "1"}}, ["parameters"]),
    ],
)
def test_run_that_cannot_start_says_why(body, expected):
    pk = published()

    response = program().post(f"workflows/{pk}/run", body)

    assert (response.status_code, fields(response)) == (422, expected)
    assert not Run.objects.exists()


def test_workflow_that_was_never_published_does_not_run():
    response = program().post(f"workflows/{create()}/run")

    assert response.status_code == 422
    assert "publish it" in response.json()["detail"]


@pytest.mark.parametrize(
    ("draft", "field", "message"),
    [
        ({"nodes": [{}] * 2001, "edges": []}, "nodes", "there are more than 2,000 nodes"),
        ({"nodes": [], "edges": [[]] * 100_000}, "edges", "there are 100,000 edges; 10,000 are"),
    ],
)
def test_a_draft_too_large_is_refused_before_its_parts_are_judged(draft, field, message):
    answer = program().put(f"workflows/{create()}/draft", {"revision": 1, **draft})

    assert answer.status_code == 422
    [fault] = answer.json()["errors"]
    assert fault["field"] == field
    assert fault["message"].startswith(message)
