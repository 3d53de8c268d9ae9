"""REST: runs, their nodes, attempts and outputs."""

from __future__ import annotations

from io import BytesIO

import pytest

from apps.engine.roles import Role
from apps.engine.states import AttemptState, NodeState
from apps.nodes.services.files import store
from apps.nodes.services.jobs import publish_job, save_draft
from apps.runs.models import Attempt, Output, Run, RunEvent
from apps.runs.services.hot_path import Outcome
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.rerun import rerun_nodes
from apps.workspaces.models import TokenScope
from tests import factories
from tests.api import body_of, debug_run, job, program, queries, ran

pytestmark = pytest.mark.django_db

FAILED = Outcome(NodeState.FAILED, exit_code=3, reason="exit code 3", error_line="no such table")


def run_of(*nodes: str, **kwargs) -> Run:
    return factories.by_hand(factories.published(*nodes, **kwargs))


def test_run_is_shown_with_where_it_stands():
    run = run_of("a", "b", edges=[("a", "b")])
    ran(run.nodes.get(key="a"))

    shown = program(Role.GUEST).get(f"runs/{run.pk}").json()

    run.refresh_from_db()
    assert shown == {
        "id": run.pk,
        "name": "flow",
        "workflow": run.workflow_id,
        "version": 1,
        "job": None,
        "trigger": "manual",
        "cycle": shown["cycle"],
        "state": "running",
        "hold": "",
        "held": False,
        "actions": ["pause", "stop"],
        "waits": False,
        "waits_for": None,
        "ahead": None,
        "nodes": {
            "total": 2,
            "active": 1,
            "succeeded": 1,
            "failed": 0,
            "stopped": 0,
            "cancelled": 0,
        },
        "parallelism": None,
        "timeout_seconds": None,
        "strategy": "continue",
        "priority": None,
        "parameters": {},
        "remarks": "",
        "rerun_of": None,
        "backfill": None,
        "revision": run.revision,
        "created_by": None,
        "created_at": shown["created_at"],
        "started_at": shown["started_at"],
        "ended_at": None,
        "waiting": {
            "code": "no_worker",
            "sentence": "b waits for a worker: none is alive.",
            "links": [],
        },
    }
    assert shown["cycle"].endswith("Z")


def test_rerun_of_what_failed_is_offered_only_where_there_is_something_to_repeat():
    run = run_of("a", "b", edges=[("a", "b")])

    def offered() -> tuple[bool, bool]:
        caller = program(Role.GUEST)
        [listed] = caller.get("runs").json()["items"]
        shown = caller.get(f"runs/{run.pk}").json()
        return tuple("rerun_failed" in each["actions"] for each in (listed, shown))

    pause_run(run, user=None)
    assert offered() == (False, False)
    resume_run(run, user=None)
    assert offered() == (False, False)
    ran(run.nodes.get(key="a"), FAILED)
    assert offered() == (True, True)
    rerun_nodes(run, ["a"], user=None)  # and b is left out
    assert offered() == (True, True)
    rerun_nodes(run, ["b"], user=None)
    assert offered() == (False, False)
    for key in ("a", "b"):
        ran(run.nodes.get(key=key))
    run.refresh_from_db()
    assert (run.state, offered()) == ("succeeded", (False, False))


@pytest.mark.parametrize("count", [1, 3])
def test_runs_are_listed_newest_first(count):
    version = factories.published("a")
    found = [factories.by_hand(version).pk for _ in range(count)]
    caller = program(Role.GUEST)

    with queries(caller, 5):
        listed = caller.get("runs").json()["items"]

    assert [each["id"] for each in listed] == found[::-1]


def test_runs_are_found_by_state_trigger_workflow_and_job():
    alone = job(factories.workspace(), "alone")
    of_flow, of_job = run_of("a"), debug_run(alone)
    ran(of_flow.nodes.get())
    caller = program()

    def found(query: str) -> list[int]:
        return [each["id"] for each in caller.get(f"runs?{query}").json()["items"]]

    assert found("state=succeeded") == [of_flow.pk]
    assert found("state=pending&trigger=debug") == [of_job.pk]
    assert found("trigger=manual") == [of_flow.pk]
    assert found(f"workflow={of_flow.workflow_id}") == [of_flow.pk]
    assert found(f"job={alone.pk}") == [of_job.pk]
    assert found(f"job={alone.pk}&trigger=manual") == []
    assert caller.get("runs?state=done").status_code == 422


@pytest.mark.parametrize("count", [1, 3])
def test_nodes_come_in_the_graphs_order(count):
    run = factories.by_hand(factories.chain(count))
    caller = program(Role.GUEST)

    # token, workspace, role; run, nodes; why they wait
    with queries(caller, 9):
        found = caller.get(f"runs/{run.pk}/nodes").json()

    assert [each["name"] for each in found["items"]] == ["n000", "n001", "n002"][:count]
    assert found["next"] is None
    first = found["items"][0]
    assert (first["state"], first["job"], first["queue"], first["demand"]) == (
        "queued",
        "job_of_flow",
        "root_queue",
        0.25,
    )


def test_nodes_go_on_where_the_page_before_ended():
    run = factories.by_hand(factories.chain(3))
    caller = program()

    first = caller.get(f"runs/{run.pk}/nodes?limit=2").json()
    rest = caller.get(f"runs/{run.pk}/nodes?limit=2&after={first['next']}").json()
    waiting = caller.get(f"runs/{run.pk}/nodes?state=pending").json()

    def names(page: dict) -> list[str]:
        return [each["name"] for each in page["items"]]

    assert (names(first), names(rest), rest["next"]) == (["n000", "n001"], ["n002"], None)
    assert names(waiting) == ["n001", "n002"]


def test_failed_node_says_why_and_so_does_its_attempt():
    run = run_of("a")
    ran(run.nodes.get(), FAILED)
    caller = program(Role.GUEST)

    node = caller.get(f"runs/{run.pk}/nodes/a").json()
    attempt = caller.get(f"runs/{run.pk}/nodes/a/attempts/1").json()

    assert (node["state"], node["exit_code"], node["reason"], node["failures"]) == (
        "failed",
        3,
        "exit code 3",
        1,
    )
    assert (attempt["state"], attempt["exit_code"], attempt["error_line"]) == (
        "failed",
        3,
        "no such table",
    )
    assert caller.get(f"runs/{run.pk}/nodes/b").status_code == 404
    assert caller.get(f"runs/{run.pk}/nodes/a/attempts/2").status_code == 404


@pytest.mark.parametrize("count", [1, 3])
def test_attempts_are_listed_newest_first(count):
    run = run_of("a")
    node = run.nodes.get()
    for number in range(1, count + 1):
        Attempt.objects.create(node_run=node, number=number, state=AttemptState.LOST, worker="w")
    caller = program(Role.GUEST)

    with queries(caller, 6):
        found = caller.get(f"runs/{run.pk}/nodes/a/attempts").json()["items"]

    assert [each["number"] for each in found] == list(range(count, 0, -1))


@pytest.mark.parametrize("count", [1, 3])
def test_events_say_what_happened_and_by_whom(count):
    run = run_of("a")
    RunEvent.objects.all().delete()
    for number in range(count):
        RunEvent.objects.create(run=run, node_run=run.nodes.get(), note=f"note {number}")
    caller = program(Role.GUEST)

    with queries(caller, 5):
        found = caller.get(f"runs/{run.pk}/events").json()["items"]

    assert [each["note"] for each in found] == [f"note {n}" for n in reversed(range(count))]
    assert (found[0]["node"], found[0]["user"]) == ("a", None)


# --- stop, pause, success, rerun ------------------------------------------------------------


def test_run_is_stopped_by_a_person():
    run = run_of("a", "b", edges=[("a", "b")])
    caller = program(Role.DATA_ENGINEERING, TokenScope.RUN)

    response = caller.post(f"runs/{run.pk}/stop")

    shown = response.json()
    assert (response.status_code, shown["state"], shown["nodes"]["stopped"]) == (
        202,
        "stopped",
        1,
    )
    assert caller.post(f"runs/{run.pk}/stop").status_code == 409
    users = {each["user"] for each in caller.get(f"runs/{run.pk}/events").json()["items"]}
    assert "data_engineering" in users


def test_node_is_stopped_and_what_does_not_wait_for_it_goes_on():
    run = run_of("a", "below", "other", edges=[("a", "below")])
    caller = program(Role.DATA_ENGINEERING)

    response = caller.post(f"runs/{run.pk}/nodes/a/stop", {})

    states = dict(run.nodes.values_list("key", "state"))
    assert (response.status_code, response.json()["state"]) == (202, "stopped")
    assert states == {"a": "stopped", "below": "pending", "other": "queued"}
    assert caller.post(f"runs/{run.pk}/nodes/a/stop").status_code == 409


def test_failed_part_runs_again_in_place():
    run = run_of("a", "b", edges=[("a", "b")])
    ran(run.nodes.get(key="a"))
    ran(run.nodes.get(key="b"), FAILED)
    caller = program(Role.DATA_ENGINEERING)

    response = caller.post(f"runs/{run.pk}/rerun", {"scope": "failed"})

    assert (response.status_code, response.json()) == (201, {"runs": [run.pk]})
    assert dict(run.nodes.values_list("key", "state")) == {"a": "succeeded", "b": "queued"}
    assert caller.post(f"runs/{run.pk}/rerun", {"scope": "failed"}).status_code == 409


def test_everything_runs_again_as_a_new_run():
    run = run_of("a")
    ran(run.nodes.get())

    response = program().post(f"runs/{run.pk}/rerun", {"scope": "all"})

    [again] = response.json()["runs"]
    shown = program().get(f"runs/{again}").json()
    assert (response.status_code, shown["rerun_of"], again != run.pk) == (201, run.pk, True)


def test_run_is_paused_and_resumed():
    run = run_of("a")
    caller = program(Role.DATA_ENGINEERING, TokenScope.RUN)

    paused = caller.post(f"runs/{run.pk}/pause")
    again = caller.post(f"runs/{run.pk}/pause")
    resumed = caller.post(f"runs/{run.pk}/resume")

    assert (paused.status_code, paused.json()["hold"], paused.json()["nodes"]["active"]) == (
        200,
        "paused",
        0,
    )
    assert (again.status_code, again.json()["detail"]) == (
        409,
        f"run {run.pk} is paused; there is nothing to pause",
    )
    assert (resumed.status_code, resumed.json()["hold"], resumed.json()["nodes"]["active"]) == (
        200,
        "",
        1,
    )
    assert caller.post(f"runs/{run.pk}/resume").status_code == 409


def test_node_is_set_to_success_with_a_reason():
    run = run_of("a", "b", edges=[("a", "b")])
    ran(run.nodes.get(key="a"), FAILED)
    caller = program(Role.DATA_ENGINEERING, TokenScope.RUN)
    place = f"runs/{run.pk}/nodes/a/success"

    refused = [caller.post(place, body).status_code for body in ({}, {"reason": " "})]
    done = caller.post(place, {"reason": "loaded by hand"})

    assert refused == [422, 422]
    shown = done.json()
    assert (done.status_code, shown["state"], shown["forced"], shown["reason"]) == (
        200,
        "succeeded",
        True,
        "set to success (was failed): loaded by hand",
    )
    assert dict(run.nodes.values_list("key", "state")) == {"a": "succeeded", "b": "queued"}
    event = next(
        each
        for each in caller.get(f"runs/{run.pk}/events").json()["items"]
        if (each["node"], each["new"]) == ("a", "succeeded")
    )
    assert (event["user"], event["note"]) == ("data_engineering", shown["reason"])
    assert caller.post(place, {"reason": "again"}).status_code == 409


def over() -> Run:
    """a failed, so that b and c did not run; alone succeeded."""
    run = run_of("a", "b", "c", "alone", edges=[("a", "b"), ("b", "c")])
    ran(run.nodes.get(key="a"), FAILED)
    ran(run.nodes.get(key="alone"))
    return run


@pytest.mark.parametrize(
    ("query", "plan"),
    [
        ("", (True, ["a", "alone", "b", "c"], [], [])),
        ("scope=all", (True, ["a", "alone", "b", "c"], [], [])),
        ("scope=failed&version=1", (True, ["a", "b", "c"], ["alone"], [])),
        ("scope=failed", (False, ["a", "b", "c"], ["alone"], [])),
        ("scope=node&node=b", (False, ["b"], ["a", "alone", "c"], ["a"])),
        ("scope=downstream&node=b", (False, ["b", "c"], ["a", "alone"], ["a"])),
        ("scope=node&node=alone", (False, ["alone"], ["a", "b", "c"], [])),
    ],
)
def test_preview_of_a_rerun_changes_nothing(query, plan):
    run = over()
    run.refresh_from_db()
    revision = run.revision

    shown = program(Role.GUEST, TokenScope.READ).get(f"runs/{run.pk}/rerun?{query}")

    run.refresh_from_db()
    names = ("new_run", "again", "kept", "passed_over")
    nothing = {"left_out": [], "gone": [], "newer_version": None, "newer_jobs": []}
    assert (shown.status_code, shown.json()) == (200, dict(zip(names, plan, strict=True)) | nothing)
    assert (Run.objects.count(), run.revision) == (1, revision)


@pytest.mark.parametrize(
    ("scope", "states"),
    [
        ("node", {"a": "failed", "alone": "succeeded", "b": "queued", "c": "pending"}),
        ("downstream", {"a": "failed", "alone": "succeeded", "b": "queued", "c": "pending"}),
    ],
)
def test_node_runs_again_in_place(scope, states):
    run = over()
    caller = program(Role.DATA_ENGINEERING, TokenScope.RUN)

    response = caller.post(f"runs/{run.pk}/rerun", {"scope": scope, "node": "b"})

    assert (response.status_code, response.json()) == (201, {"runs": [run.pk]})
    assert dict(run.nodes.values_list("key", "state")) == states
    ran(run.nodes.get(key="b"))
    after = {"node": "pending", "downstream": "queued"}
    assert run.nodes.get(key="c").state == after[scope]


def test_rerun_with_parameters_is_a_new_run_that_keeps_what_has_succeeded():
    run = over()
    caller = program(Role.DATA_ENGINEERING, TokenScope.RUN)
    body = {"scope": "node", "node": "b", "parameters": {"since": "2026-11-09"}}

    [again] = caller.post(f"runs/{run.pk}/rerun", body).json()["runs"]

    new = Run.objects.get(pk=again)
    assert (new.rerun_of, new.cycle, new.parameters) == (run, run.cycle, body["parameters"])
    assert dict(new.nodes.values_list("key", "state")) == {
        "a": "pending",
        "alone": "succeeded",
        "b": "queued",
        "c": "pending",
    }
    assert new.nodes.get(key="alone").kept_from == run.nodes.get(key="alone")
    ran(new.nodes.get(key="b"))
    new.refresh_from_db()
    # Like one node alone in place: what failed or was left out before stays so.
    assert (new.state, new.nodes.get(key="c").state) == ("failed", "pending")


def test_rerun_with_the_job_versions_that_the_run_used():
    run = over()
    used = run.nodes.get(key="a").job_version
    save_draft(used.job, {"content": "echo new"}, revision=used.job.revision)
    fixed = publish_job(used.job, remarks="", user=None)
    caller = program()
    place = f"runs/{run.pk}/rerun"

    told = caller.get(f"{place}?scope=failed").json()
    assert told["newer_jobs"] == [{"job": used.job.path, "used": 1, "newest": 2}]
    [same] = caller.post(place, {"scope": "failed", "job_versions": "used"}).json()["runs"]
    [new] = caller.post(place, {"scope": "failed", "job_versions": "newest"}).json()["runs"]

    assert Run.objects.get(pk=same).nodes.get(key="a").job_version == used
    assert Run.objects.get(pk=new).nodes.get(key="a").job_version == fixed
    gone = caller.post(place, {"scope": "all", "version": 9})
    assert (gone.status_code, "has no version 9" in gone.content.decode()) == (422, True)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_rerun_in_place_of_what_is_under_way_is_refused(method):
    run = run_of("a")
    body = {"scope": "node", "node": "a"}
    query = "?scope=node&node=a" if method == "GET" else ""

    refused = program().send(
        method, f"runs/{run.pk}/rerun{query}", body if method == "POST" else None
    )

    assert (refused.status_code, refused.json()["detail"]) == (
        409,
        "node 'a' is queued; stop it first, or wait for its end",
    )


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"scope": "some"},
        {"scope": "all", "nodes": []},
        {"scope": "node"},
        {"scope": "failed", "node": "a"},
        {"scope": "downstream", "node": "x"},
    ],
)
def test_rerun_says_what_to_run(body):
    run = run_of("a")

    assert program().post(f"runs/{run.pk}/rerun", body).status_code == 422
    assert Run.objects.count() == 1


def test_data_scientist_operates_runs_of_drafts_and_no_others():
    production, debug = run_of("a"), debug_run(job(factories.workspace(), "alone"))
    caller = program(Role.DATA_SCIENCE)

    def answers(run: Run) -> list[int]:
        place = f"runs/{run.pk}"
        node = run.nodes.get().key
        return [
            caller.post(f"{place}/pause").status_code,
            caller.post(f"{place}/resume").status_code,
            caller.post(f"{place}/nodes/{node}/stop").status_code,
            caller.post(f"{place}/rerun", {"scope": "all"}).status_code,
            caller.post(f"{place}/stop").status_code,
            caller.post(f"{place}/nodes/{node}/success", {"reason": "known"}).status_code,
        ]

    assert answers(production) == [403, 403, 403, 403, 403, 403]
    # Its one node is stopped, so the run is over.
    assert answers(debug) == [200, 200, 202, 201, 409, 200]
    again = Run.objects.get(rerun_of=debug)
    assert (again.trigger, again.nodes.get().queue.name) == ("debug", "dev_queue")


# --- outputs --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_outputs_are_listed_and_downloaded(count):
    run = run_of("a")
    attempt = ran(run.nodes.get())
    sha256, size = store(BytesIO(b"<b>rows</b>"))
    for number in range(count):
        Output.objects.create(attempt=attempt, name=f"r{number}.md", sha256=sha256, size=size)
    caller = program(Role.GUEST)

    with queries(caller, 5):
        found = caller.get(f"runs/{run.pk}/outputs").json()["items"]
    got = caller.get(f"runs/{run.pk}/outputs/{found[0]['id']}")

    assert [(each["node"], each["attempt"], each["name"]) for each in found] == [
        ("a", 1, f"r{number}.md") for number in reversed(range(count))
    ]
    assert body_of(got) == b"<b>rows</b>"
    assert (got["Content-Type"], got["Content-Disposition"]) == (
        "application/octet-stream",
        f'attachment; filename="{found[0]["name"]}"',
    )


def test_output_of_another_run_is_not_found_under_this_one():
    run, other = run_of("a"), run_of("a", name="other")
    ran(run.nodes.get())
    attempt = ran(other.nodes.get())
    sha256, size = store(BytesIO(b"x"))
    output = Output.objects.create(attempt=attempt, name="x.md", sha256=sha256, size=size)

    assert program().get(f"runs/{run.pk}/outputs/{output.pk}").status_code == 404
