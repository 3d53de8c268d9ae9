"""REST: backfills, their preview and their cycles."""

from __future__ import annotations

import pytest

from apps.engine.roles import Role
from apps.runs.models import Backfill, BackfillCycle, Run
from apps.runs.services.feeding import feed
from apps.runs.services.hot_path import Outcome
from apps.workflows.models import Workflow
from tests import factories
from tests.api import NodeState, program, queries, ran

pytestmark = pytest.mark.django_db

DAILY = {"kind": "days", "time": "02:00", "started_at": "2026-01-01T00:00:00Z"}
DAYS = {"first_date": "2026-03-27", "last_date": "2026-03-29"}
NOTHING = {"to_come": 0, "waiting": 0, "running": 0, "succeeded": 0, "failed": 0, "stopped": 0}


def flow(*nodes: str, **settings: object) -> Workflow:
    settings = {"schedule": DAILY, "zone": "Europe/Berlin", **settings}
    return factories.published(*(nodes or ("a",)), **settings).workflow


def made(workflow: Workflow, **asked: object) -> dict:
    answer = program().post(f"workflows/{workflow.pk}/backfill", {**DAYS, **asked})
    assert answer.status_code == 201, answer.content
    return answer.json()


def test_preview_is_the_exact_list_with_ds_and_local_times():
    workflow = flow()

    answer = program(Role.GUEST).post(f"workflows/{workflow.pk}/backfill/preview", DAYS)

    shown = answer.json()
    assert shown == {
        "version": 1,
        "zone": "Europe/Berlin",
        "count": 3,
        "considered": 3,
        "cycles": [
            {
                "cycle": "2026-03-28T01:00:00Z",
                "local": "2026-03-28T02:00:00+01:00",
                "data_date": "2026-03-27",
            },
            # 02:00 is skipped that night.
            {
                "cycle": "2026-03-29T01:00:00Z",
                "local": "2026-03-29T03:00:00+02:00",
                "data_date": "2026-03-28",
            },
            {
                "cycle": "2026-03-30T00:00:00Z",
                "local": "2026-03-30T02:00:00+02:00",
                "data_date": "2026-03-29",
            },
        ],
        "nodes": ["a"],
        "moved": [],
        "token": shown["token"],
    }


def test_creation_with_the_previews_token_makes_the_previews_list():
    workflow = flow()
    place = f"workflows/{workflow.pk}/backfill"
    preview = program().post(f"{place}/preview", {**DAYS, "order": "newest"}).json()

    shown = made(
        workflow,
        order="newest",
        token=preview["token"],
        at_once=2,
        stop_after=3,
        remarks="again",
        addresses=["Maya@example.com", "maya@example.com"],
    )

    assert shown == {
        "id": shown["id"],
        "workflow": workflow.pk,
        "name": "flow",
        "version": 1,
        "state": "running",
        "actions": ["pause", "cancel"],
        "why": "",
        "cycles": {**NOTHING, "total": 3, "to_come": 3},
        "which": "all",
        "order": "newest",
        "at_once": 2,
        "stop_after": 3,
        "node": "",
        "downstream": False,
        "queue": None,
        "parameters": {},
        "remarks": "again",
        "addresses": ["Maya@example.com"],
        "created_by": "owner",
        "created_at": shown["created_at"],
        "paused_at": None,
        "cancelled_at": None,
        "ended_at": None,
    }
    cycles = program().get(f"backfills/{shown['id']}/cycles").json()["items"]
    assert [row["cycle"] for row in cycles] == [row["cycle"] for row in preview["cycles"]]
    assert {row["state"] for row in cycles} == {"to_come"}


def test_creation_is_refused_with_the_new_preview_where_it_is_another_by_now():
    workflow = flow()
    place = f"workflows/{workflow.pk}/backfill"
    preview = program().post(f"{place}/preview", DAYS).json()

    answer = program().post(place, {**DAYS, "last_date": "2026-03-28", "token": preview["token"]})

    assert answer.status_code == 409
    assert "it would be 2 cycles by now" in answer.json()["detail"]
    assert [row["data_date"] for row in answer.json()["current"]["cycles"]] == [
        "2026-03-27",
        "2026-03-28",
    ]
    assert not Backfill.objects.exists()


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["first_date"]),
        (
            {**DAYS, "at_once": 0, "stop_after": 0, "which": "some"},
            ["which", "at_once", "stop_after"],
        ),
        ({**DAYS, "queue": "lost"}, ["queue"]),
        ({**DAYS, "addresses": ["no address"]}, ["addresses"]),
        ({**DAYS, "addresses": ["channel:none"]}, ["addresses"]),
        ({**DAYS, "node": "lost"}, ["node"]),
        ({"dates": ["2026-02-30"]}, ["dates[0]"]),
        ({"dates": ["2199-01-01"]}, ["dates"]),
        ({"cycles": ["0001-01-01T00:00:00Z"]}, ["cycles"]),
        ({"first_date": "2020-01-01", "last_date": "2026-03-01"}, ["sure"]),
        ({**DAYS, "parameters": {"x": "${y}"}, "surely": 1}, ["surely"]),
    ],
)
def test_every_fault_names_its_field(body, fields):
    answer = program().post(f"workflows/{flow().pk}/backfill", body)

    assert answer.status_code == 422, answer.content
    assert [fault["field"] for fault in answer.json()["errors"]] == fields
    assert not Backfill.objects.exists()


def test_many_cycles_need_a_second_yes_that_counts_them():
    years = {"first_date": "2020-01-01", "last_date": "2026-03-01"}
    workflow = flow()

    assert made(workflow, **years, sure=2252)["cycles"]["total"] == 2252


def test_cycles_are_paged_filtered_and_show_what_came_of_each():
    workflow = flow()
    shown = made(workflow)
    feed(shown["id"])
    runs = list(Run.objects.order_by("pk"))
    ran(runs[0].nodes.get(), Outcome(NodeState.FAILED, exit_code=1))
    place = f"backfills/{shown['id']}/cycles"
    BackfillCycle.objects.filter(position=2).update(run=None, ended_as="succeeded")

    caller = program()
    with queries(caller, 6):
        answer = caller.get(f"{place}?limit=2").json()

    assert answer["items"] == [
        {
            "position": 0,
            "cycle": "2026-03-28T01:00:00Z",
            "data_date": "2026-03-27",
            "state": "failed",
            "run": runs[0].pk,
            "launched_at": answer["items"][0]["launched_at"],
        },
        {
            "position": 1,
            "cycle": "2026-03-29T01:00:00Z",
            "data_date": "2026-03-28",
            "state": "pending",
            "run": runs[1].pk,
            "launched_at": answer["items"][1]["launched_at"],
        },
    ]
    rest = program().get(f"{place}?after={answer['next']}").json()
    assert [(row["position"], row["state"], row["run"]) for row in rest["items"]] == [
        (2, "succeeded", None)
    ]
    assert rest["next"] is None
    for state, positions in [("failed", [0]), ("succeeded", [2]), ("to_come", [])]:
        found = program().get(f"{place}?state={state}").json()["items"]
        assert [row["position"] for row in found] == positions


def test_runs_name_the_backfill_that_launched_them_and_are_listed_by_it():
    workflow = flow()
    first, second = made(workflow), made(workflow)
    factories.by_hand(workflow.versions.get())
    for each in (first, second):
        feed(each["id"])

    runs = program().get(f"runs?backfill={second['id']}").json()["items"]

    assert {run["backfill"] for run in runs} == {second["id"]}
    assert [run["cycle"][:10] for run in runs] == ["2026-03-30", "2026-03-29", "2026-03-28"]
    assert program().get(f"runs/{runs[0]['id']}").json()["backfill"] == second["id"]


@pytest.mark.parametrize("many", [1, 3])
def test_list_costs_the_same_however_long_it_is(many):
    workflow, other = flow(), flow(name="other")
    for _ in range(many):
        made(workflow)
    last = made(other)

    caller = program()
    with queries(caller, 5):
        shown = caller.get("backfills").json()

    assert (len(shown["items"]), shown["items"][0]["id"]) == (many + 1, last["id"])
    of_one = program().get(f"backfills?workflow={workflow.pk}").json()["items"]
    assert {row["workflow"] for row in of_one} == {workflow.pk}


def test_one_is_paused_resumed_and_cancelled():
    place = f"backfills/{made(flow())['id']}"

    paused = program().post(f"{place}/pause").json()
    again = program().post(f"{place}/pause")
    resumed = program().post(f"{place}/resume").json()
    cancelled = program().post(f"{place}/cancel")
    stopped = program().post(f"{place}/cancel", {"stop_running": True})
    events = program().get(f"{place}/events").json()["items"]

    assert (paused["state"], paused["actions"]) == ("paused", ["resume", "cancel"])
    assert again.status_code == 409
    assert (resumed["state"], resumed["paused_at"]) == ("running", None)
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert (cancelled.json()["actions"], stopped.json()["actions"]) == (["cancel"], [])
    assert [(row["note"], row["user"]) for row in events] == [
        ("cancelled, with what runs", "owner"),
        ("cancelled", "owner"),
        ("resumed", "owner"),
        ("paused", "owner"),
        ("made, of 3 cycles", "owner"),
    ]
