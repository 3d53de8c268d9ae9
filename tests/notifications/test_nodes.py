"""Node subscriptions: who is told of what one node does, run for run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from apps.core.errors import Invalid, NotFound
from apps.engine.roles import Role
from apps.engine.states import NodeState, RunState, Trigger
from apps.notifications.models import Delivery, Look, NodeSubscription, Tells
from apps.notifications.services import nodes
from apps.notifications.services.nodes import Told, node_subscriptions, subscribe_node, tell_nodes
from apps.notifications.services.subscriptions import subscribe
from apps.notifications.services.tick import tick
from apps.notifications.services.watching import Watched, set_watch
from apps.runs.models import Attempt, NodeRun, Pulse, Run
from apps.runs.services import sweep
from apps.runs.services.hot_path import Outcome, claim, finish
from apps.runs.services.launch import launch
from apps.runs.services.success import set_success
from apps.workflows.models import Workflow
from apps.workflows.services.drafting import delete_workflow
from tests.api import program
from tests.factories import by_hand, published, workspace
from tests.html import errors
from tests.people import member, user
from tests.waiting import until

pytestmark = pytest.mark.django_db

ME, MAYA, LI = "worker@here:1", "maya@example.com", "li@example.com"
SUCCEEDED = Outcome(NodeState.SUCCEEDED, exit_code=0)
LOG = {"log_lines": 3, "log_tail": "a\nKeyError: 'x'\nb\n", "error_line": "KeyError: 'x'"}
FAILED = Outcome(NodeState.FAILED, exit_code=1, reason="exit code 1", **LOG)
AGAIN = Outcome(NodeState.RETRYING, exit_code=1, reason="exit code 1", retry_in=60, **LOG)
TIMED_OUT = Outcome(NodeState.FAILED, reason="timed out after 60 s")


def take(queue: str = "root_queue"):
    return claim(workspace().queues.get(name=queue).pk, ME, uuid4())


def end(mine, outcome=SUCCEEDED):
    return finish(mine, outcome, worker=ME, request=uuid4(), take=False)


def subjects(server) -> list[tuple[str, str]]:
    return [(address, mail["Subject"]) for address, mail in server.got]


def said_by(mail) -> str:
    return mail.get_body(("plain",)).get_content().replace("\r\n", "\n")


def told_of(*states: Tells, node: str = "load", workflow: Workflow, address: str = MAYA) -> None:
    subscribe_node(workflow, node, [address], states)


def test_each_thing_that_a_node_does_is_told_once_to_who_asked_for_it(server):
    version = published("load", "other", retries=1)
    told_of(*Tells, workflow=version.workflow)
    told_of(Tells.FAILED, node="other", workflow=version.workflow, address=LI)
    run = by_hand(version)
    for outcome in (AGAIN, SUCCEEDED):
        mine = take()
        while mine.key != "load":
            end(mine)
            mine = take()
        tick()
        end(mine, outcome)
        tick()
        NodeRun.objects.filter(pk=mine.node_run_id, state="retrying").update(retry_at=Now())
        sweep.tick()
    tick()
    tick()

    assert subjects(server) == [
        (MAYA, "Started: load of flow [default]"),
        (MAYA, "Retrying: load of flow [default]"),
        (MAYA, "Started: load of flow [default]"),
        (MAYA, "Succeeded: load of flow [default]"),
    ]
    node = run.nodes.get(key="load")
    retrying = said_by(server.got[1][1])
    place = f"https://runyard.example.org/w/default/runs/{run.pk}/"
    for said in (
        f"Run {run.pk}, cycle {run.cycle:%Y-%m-%d %H:%M}, attempt 1.",
        "Reason: exit code 1\n",
        "    KeyError: 'x'\n",
        f"Open the failing line: {place}nodes/{node.pk}/?attempt=1#L2\n",
        f"Open run {run.pk}: {place}\n",
    ):
        assert said in retrying


@pytest.mark.parametrize(
    ("states", "outcome", "told"),
    [
        ([Tells.FAILED], FAILED, ["Failed"]),
        ([Tells.FAILED], TIMED_OUT, ["Timed out"]),
        ([Tells.TIMED_OUT], TIMED_OUT, ["Timed out"]),
        ([Tells.TIMED_OUT], FAILED, []),
        ([Tells.SUCCEEDED, Tells.RETRYING, Tells.SLOW], FAILED, []),
        ([Tells.SUCCEEDED], SUCCEEDED, ["Succeeded"]),
    ],
)
def test_only_what_was_asked_for_is_told(server, states, outcome, told):
    version = published("load")
    told_of(*states, workflow=version.workflow)
    by_hand(version)
    end(take(), outcome)

    tick()

    assert [subject.partition(":")[0] for _, subject in subjects(server)] == told


def test_what_was_done_before_anybody_asked_is_told_to_nobody(server):
    version = published("load", "other")
    told_of(Tells.FAILED, node="other", workflow=version.workflow)
    by_hand(version)
    end(take())
    end(take())

    told_of(*Tells, workflow=version.workflow)
    tick()

    assert server.got == []


def test_debug_runs_backfills_and_deleted_workflows_tell_nobody(server):
    version = published("load")
    told_of(*Tells, workflow=version.workflow)
    dev = workspace().queues.get(name="dev_queue")
    given = {"cycles": [version.created_at], "by": None}
    launch(version, trigger=Trigger.DEBUG, queue=dev, **given)
    end(take("dev_queue"))
    launch(version, trigger=Trigger.BACKFILL, **given)
    end(take())
    tick()
    assert server.got == []

    by_hand(version)
    end(take())
    delete_workflow(version.workflow)
    tick()

    assert server.got == []


def test_a_node_set_to_success_by_hand_has_succeeded(server):
    version = published("load")
    told_of(Tells.SUCCEEDED, workflow=version.workflow)
    run = by_hand(version)
    end(take(), FAILED)

    set_success(run.nodes.get(), user=user("maya"), reason="loaded by hand")
    tick()

    assert subjects(server) == [(MAYA, "Succeeded: load of flow [default]")]


def test_an_event_that_was_committed_late_is_told_all_the_same_and_none_twice(server):
    version = published("load")
    told_of(Tells.SUCCEEDED, workflow=version.workflow)
    by_hand(version)
    end(take())
    # The last look came while the transaction that wrote the event was under way.
    Look.objects.update_or_create(name="nodes", defaults={"at": Now() + timedelta(seconds=60)})

    tick()
    tick()

    assert len(server.got) == 1


def test_what_is_more_than_a_batch_is_told_with_the_next_look(server, monkeypatch):
    monkeypatch.setattr(nodes, "BATCH", 2)
    version = published("load")
    told_of(Tells.SUCCEEDED, workflow=version.workflow)
    for _ in range(3):
        by_hand(version)
        end(take())

    tick()
    first = len(server.got)
    tick()

    assert (first, len(server.got)) == (2, 3)


@pytest.mark.parametrize("batch", [1, 500])
def test_what_cannot_be_told_of_one_run_keeps_nothing_back_of_the_others(
    server, monkeypatch, caplog, batch
):
    version = published("load")
    told_of(Tells.SUCCEEDED, workflow=version.workflow)
    for _ in range(3):
        by_hand(version)
        end(take())
    lost = Run.objects.order_by("pk").first()
    Run.objects.filter(pk=lost.pk).update(zone="Europe/Nowhere")  # not known here any more
    monkeypatch.setattr(nodes, "BATCH", batch)

    for _ in range(3):
        tick()

    assert subjects(server) == [(MAYA, "Succeeded: load of flow [default]")] * 2
    assert not Delivery.objects.filter(text__contains=f"Run {lost.pk},").exists()
    assert "cannot be told" in caplog.text


def history(version, *, seconds: int, count: int) -> None:
    """Successful runs whose node took so long."""
    for _ in range(count):
        run = by_hand(version)
        end(take())
        Attempt.objects.filter(node_run__run=run).update(
            started_at=F("ended_at") - timedelta(seconds=seconds)
        )


@pytest.mark.parametrize(
    ("usual", "past", "runs_for", "told"),
    [
        pytest.param(100, 5, 155, True, id="longer than 1.5 times the usual"),
        pytest.param(100, 5, 145, False, id="a little longer"),
        pytest.param(10, 5, 50, False, id="within a minute nothing is slow"),
        pytest.param(10, 5, 65, True, id="over a minute"),
        pytest.param(100, 4, 500, False, id="too little is known"),
    ],
)
def test_a_node_is_slow_against_its_own_history(server, usual, past, runs_for, told):
    version = published("load")
    history(version, seconds=usual, count=past)
    told_of(Tells.SLOW, workflow=version.workflow)
    by_hand(version)
    mine = take()
    NodeRun.objects.filter(pk=mine.node_run_id).update(
        started_at=Now() - timedelta(seconds=runs_for)
    )

    tick()
    tick()

    assert subjects(server) == [(MAYA, "Slow: load of flow [default]")] * told


@pytest.mark.parametrize("n", [1, 4])
def test_a_look_that_finds_nothing_is_a_few_statements(n, django_assert_num_queries):
    for i in range(n):
        version = published("load", name=f"flow_{i}")
        told_of(Tells.FAILED, workflow=version.workflow)
        by_hand(version)
        end(take())

    with django_assert_num_queries(8):
        tell_nodes()


def test_without_subscriptions_a_look_is_one_statement(django_assert_num_queries):
    by_hand(published("load"))

    with django_assert_num_queries(1):
        tell_nodes()


@pytest.mark.django_db(transaction=True)
def test_those_who_look_at_once_tell_each_event_once(server):
    version = published("load")
    told_of(Tells.STARTED, Tells.SUCCEEDED, workflow=version.workflow)
    for _ in range(5):
        by_hand(version)
        end(take())

    def look(_: int) -> None:
        try:
            tell_nodes()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(look, range(8)))
    tick()

    assert len(server.got) == Delivery.objects.count() == 10
    assert Run.objects.filter(state=RunState.SUCCEEDED).count() == 5


def test_a_node_that_is_not_there_or_tells_nobody_nothing_is_refused():
    row = published("load").workflow
    for node, addresses, states in (
        ("lod", [MAYA], [Tells.FAILED]),
        ("load", ["maya"], [Tells.FAILED]),
        ("load", [], [Tells.FAILED]),
        ("load", [MAYA], []),
    ):
        with pytest.raises(Invalid):
            subscribe_node(row, node, addresses, states)
    assert node_subscriptions(row) == []

    delete_workflow(row)
    with pytest.raises(NotFound):
        subscribe_node(row, "load", [MAYA], [Tells.FAILED])


def test_the_node_panel_saves_who_is_told_at_once():
    row = published("load").workflow
    url, client = f"/w/default/workflows/{row.pk}/node/?name=load", member(Role.DATA_ENGINEERING)
    said = {"job_path": "job_of_flow", "name": "load"}

    def post(revision: int, **more: object):
        return client.post(url, {**said, "revision": revision, **more})

    began = row.revision
    assert post(began, told=f"{MAYA}, {LI}", tells=["failed", "slow"]).status_code == 303
    assert node_subscriptions(row) == [Told("load", [MAYA, LI], [Tells.FAILED, Tells.SLOW])]
    html = client.get(url).content.decode()
    assert f'value="{MAYA}, {LI}"' in html
    refused = post(began + 1, told="maya", tells=["failed"])
    assert refused.status_code == 422
    assert "is no e-mail address" in errors(refused.content.decode())[0]
    refused = post(began + 1, told=MAYA)
    assert errors(refused.content.decode()) == ["Choose when they are told"]
    assert len(node_subscriptions(row)) == 1
    assert post(began + 1).status_code == 303
    assert node_subscriptions(row) == []


@pytest.mark.parametrize(("place", "name"), [("?name=load", "load"), ("", "clean")])
def test_a_node_panel_that_was_refused_changed_nothing_and_can_be_corrected(place, name):
    row = published("load").workflow
    url, client = f"/w/default/workflows/{row.pk}/node/{place}", member(Role.DATA_ENGINEERING)
    said = {"job_path": "job_of_flow", "name": name, "retries": 3, "tells": ["failed"]}
    said["revision"] = row.revision
    before = list(row.nodes.values_list("name", "retries"))

    refused = client.post(url, {**said, "told": "channel:nope"})

    assert refused.status_code == 422
    [error] = errors(refused.content.decode())
    assert "channel" in error
    assert "nope" in error
    assert list(row.nodes.values_list("name", "retries")) == before
    assert client.post(url, {**said, "told": MAYA}).status_code == 303
    assert dict(row.nodes.values_list("name", "retries")) == {**dict(before), name: 3}
    assert node_subscriptions(row) == [Told(name, [MAYA], [Tells.FAILED])]


def test_rest_sets_all_subscriptions_of_a_workflow():
    row = published("load", "clean").workflow
    place, caller = f"workflows/{row.pk}/node-subscriptions", program(Role.DATA_ENGINEERING)
    said = {
        "subscriptions": [
            {"node": "clean", "addresses": [LI], "states": ["failed"]},
            {"node": "load", "addresses": [MAYA], "states": ["started", "timed_out"]},
        ]
    }

    assert caller.get(place).json() == {"subscriptions": []}
    assert caller.put(place, said).json() == said
    since = NodeSubscription.objects.get(node="load").since
    only = {"subscriptions": said["subscriptions"][1:]}
    assert caller.put(place, only).json() == only
    assert NodeSubscription.objects.get().since == since  # it did not change
    twice = {"subscriptions": [*only["subscriptions"], *only["subscriptions"]]}
    assert caller.put(place, twice).status_code == 422
    wrong = {"subscriptions": [{"node": "lod", "addresses": ["x"], "states": []}]}
    assert [each["field"] for each in caller.put(place, wrong).json()["errors"]] == ["lod"] * 3
    assert caller.get(place).json() == only


def test_what_a_real_worker_ran_is_told_without_a_beat(start, server):
    slow = published("load", content="sleep 60", node={"timeout_seconds": 1})
    told_of(Tells.STARTED, Tells.TIMED_OUT, workflow=slow.workflow)
    empty = published("load", name="empty", content='echo rows=0 >>"$RUNYARD_OUTPUT"')
    subscribe(empty.workflow, [LI])
    set_watch(empty.workflow, Watched(values=["load.rows < 1"]))
    by_hand(slow)
    by_hand(empty)
    start(
        smtp_host="127.0.0.1",
        smtp_port=server.port,
        smtp_security="none",
        mail_from="runyard@example.org",
    )

    def told() -> bool:
        Pulse.objects.all().delete()  # nobody ticks
        return len(server.got) == 3

    until(told, "a mail of each thing that happened", seconds=60)

    assert sorted(subjects(server)) == [
        (LI, "empty: load.rows is 0 [default]"),
        (MAYA, "Started: load of flow [default]"),
        (MAYA, "Timed out: load of flow [default]"),
    ]
