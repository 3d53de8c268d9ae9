"""Why runs wait, read from how things really stand."""

from __future__ import annotations

import re
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.engine.roles import Role
from apps.engine.states import NodeState, Trigger
from apps.engine.waiting import Code, Reason
from apps.runs.models import NodeRun, Pulse, Run, Worker
from apps.runs.services.advance import advance
from apps.runs.services.holding import hold, release, tag_workflow
from apps.runs.services.hot_path import Claim, Outcome, claim, finish
from apps.runs.services.lanes import lane_of
from apps.runs.services.launch import launch
from apps.runs.services.pause import pause_run
from apps.runs.services.stop import stop_node, stop_run
from apps.runs.services.sweep import stamp_pulse
from apps.runs.services.workers import show_life
from apps.runs.waiting import waiting_of
from apps.workflows.models import WorkflowVersion
from apps.workspaces.models import ResourceQueue
from tests.api import program, queries
from tests.factories import by_hand, published, workspace
from tests.html import requests, rows
from tests.people import member, user

pytestmark = pytest.mark.django_db

ME = "w1"


@pytest.fixture(autouse=True)
def alive(db: None) -> None:
    """A worker of four slots, and somebody who has just looked around."""
    show_life(ME, host="etl-1", slots=4, why_trusted="")
    stamp_pulse()


def root() -> ResourceQueue:
    return workspace().queues.get(name="root_queue")


def of_capacity(capacity: int) -> ResourceQueue:
    ResourceQueue.objects.filter(pk=root().pk).update(capacity=capacity)
    return root()


def take() -> Claim:
    mine = claim(root().pk, ME, uuid4())
    assert mine is not None
    return mine


def fails(mine: Claim, state: NodeState = NodeState.FAILED, **more: object) -> None:
    outcome = Outcome(state, exit_code=1, reason="exit code 1", **more)  # type: ignore[arg-type]
    finish(mine, outcome, worker=ME, request=uuid4(), take=False)
    advance(mine.run_id)


def said(run: Run) -> dict[str, str]:
    """Of the run ("") and of each node that waits: the code and the clause, without seconds."""
    run = Run.objects.get(pk=run.pk)
    found = waiting_of(run)
    keys = dict(run.nodes.values_list("pk", "key"))
    first: dict[str, Reason] = {keys[pk]: reasons[0] for pk, reasons in found.nodes.items()}
    if found.run:
        first[""] = found.run
    # How long a test takes is not its matter.
    return {
        key: re.sub(r"\b\d+ s\b", "n s", f"{reason.code}: {reason.clause}")
        for key, reason in first.items()
    }


def test_upstreams_that_run_failed_or_were_never_reached():
    run = by_hand(published("a", "b", "c", "d", edges=[("a", "b"), ("b", "c"), ("d", "c")]))
    mine = take()
    assert said(run) == {
        "b": "upstream: waits for a",
        "c": "upstream: waits for d and b",
        "d": "starting: is about to start in queue root_queue",
    }

    fails(mine)
    assert said(run) == {
        "b": "upstream_failed: cannot start: a failed",
        "c": "upstream_failed: cannot start: a failed",
        "d": "starting: is about to start in queue root_queue",
        "": "starting: is about to start in queue root_queue",
    }

    fails(take())
    assert said(run) == {
        "b": "not_run: was not run: a failed",
        "c": "not_run: was not run: d failed, a failed",
    }


def test_a_full_queue_names_who_holds_it_and_who_is_first():
    of_capacity(500)
    other = by_hand(published("x", "y", name="other"))
    run = by_hand(published("a", "b"))
    take()
    take()
    queued = {key: clause for key, clause in said(run).items() if "CU" in clause}

    running = NodeRun.objects.filter(state=NodeState.RUNNING).order_by("pk")
    assert [node.key for node in running] == ["x", "a"]
    assert queued == {
        "b": "queue_full: waits for 0.25 CU in queue root_queue, which has 0 of 0.5 free: "
        f"x in run {other.pk} of other has 0.25, a has 0.25; 1 node is before it",
    }
    assert said(other) == {
        "y": "queue_full: waits for 0.25 CU in queue root_queue, which has 0 of 0.5 free: "
        f"x has 0.25, a in run {run.pk} of flow has 0.25",
    }


def test_what_never_fits_does_not_stand_before_what_does():
    of_capacity(100)
    run = by_hand_larger()
    ResourceQueue.objects.filter(pk=root().pk).update(capacity=200)
    NodeRun.objects.filter(run=run, key="b").update(demand=200)

    assert said(run) == {
        "a": "larger_than_queue: asks for 0.25 CU, and queue root_queue has 0.2 in all",
        "b": "starting: is about to start in queue root_queue",
        "": "larger_than_queue: asks for 0.25 CU, and queue root_queue has 0.2 in all",
    }


def by_hand_larger() -> Run:
    """Launched while there was room, and then the capacity went."""
    of_capacity(1000)
    run = by_hand(published("a", "b"))
    of_capacity(100)
    return run


def test_a_smaller_node_behind_a_larger_one_that_has_waited():
    of_capacity(1000)
    run = by_hand(published("a", "big", "small"))
    take()
    NodeRun.objects.filter(run=run, key="big").update(
        demand=1000, queued_at=Now() - timedelta(minutes=3)
    )

    assert said(run) == {
        "big": "queue_full: waits for 1 CU in queue root_queue, which has 0.75 of 1 free: "
        "a has 0.25",
        "small": "behind_larger: waits behind big, which has waited 3 min for 1 CU in queue "
        "root_queue",
    }


def test_no_worker_and_workers_without_a_free_slot():
    run = by_hand(published("a", "b"))
    show_life("w2", host="etl-1", slots=1, why_trusted="")
    claim(root().pk, "w2", uuid4())
    NodeRun.objects.filter(run=run, key="a").update(worker="w2")
    Worker.objects.filter(name=ME).delete()
    assert said(run) == {"b": "workers_busy: waits for a worker: the only slot of w2 is taken"}

    Worker.objects.update(queues="default/dev_queue")
    assert said(run) == {
        "b": "no_worker: waits for a worker that serves queue root_queue: w2 serves others"
    }

    Worker.objects.update(queues="other/*")
    assert said(run) == {
        "b": "no_worker: waits for a worker that serves queue root_queue: none that is alive does"
    }

    Worker.objects.update(seen_at=Now() - timedelta(minutes=5))
    assert said(run) == {"b": "no_worker: waits for a worker: none is alive"}


def test_a_pause_a_limit_and_a_retry():
    run = by_hand(published("a", "b", parallelism=1))
    mine = take()
    assert said(run) == {"b": "parallelism: waits for a: at most 1 node of its run at once"}

    fails(mine, NodeState.RETRYING, retry_in=40.5)
    assert said(run)["a"] == (
        "retry_interval: starts attempt 2 in n s, since attempt 1 failed: exit code 1"
    )

    pause_run(run, user=user("maya"))
    assert said(run)["b"] == f"paused: waits for run {run.pk} of flow, which maya paused n s ago"
    assert said(run)[""] == "paused: was paused by maya n s ago"


@pytest.mark.django_db(transaction=True)
def test_holds_on_a_queue_a_workspace_and_a_tag():
    here, maya = workspace(), user("maya")
    version = published("a", "b", edges=[("a", "b")])
    tag_workflow(version.workflow, {"layer": "raw"}, user=maya)
    run = by_hand(version)

    on_queue = hold(here, queue=root(), reason="upgrade", user=maya)
    by_maya = "is released; maya held it n s ago"
    reason = f"held_queue: waits until queue root_queue {by_maya}: upgrade"
    assert said(run) == {"a": reason, "b": "upstream: waits for a", "": reason}

    hold(here, user=maya)
    assert said(run)["a"] == f"held_workspace: waits until workspace default {by_maya}"
    release(on_queue, user=maya)
    assert said(run)["a"] == f"held_workspace: waits until workspace default {by_maya}"

    hold(here, tag="layer", user=maya)
    reason = f"held_tag: waits until tag layer {by_maya}"
    assert said(run) == {"a": reason, "b": "upstream: waits for a", "": reason}


def in_lane(owner: str, version: WorkflowVersion, many: int, limit: int) -> list[Run]:
    lane = lane_of(workspace(), owner, limit=limit)
    cycles = [timezone.now() - timedelta(days=many - n) for n in range(many)]
    return launch(version, cycles=cycles, trigger=Trigger.MANUAL, by=None, lane=lane)


def test_runs_in_a_lanes_line_name_those_that_hold_its_places():
    version = published("a", "b", edges=[("a", "b")])
    first, second, third = in_lane("backfill 7", version, 3, 1)
    waits = f"waits for run {first.pk} of flow: at most 1 run of its lane at once"
    before = "; 1 run is before it"

    assert said(first)["a"].startswith("starting: ")
    assert said(second) == {
        "": f"run_in_lane: {waits}",
        "a": f"run_in_lane: {waits.replace('for run', 'with its run for run')}",
        "b": "upstream: waits for a",
    }
    assert said(third)[""] == f"run_in_lane: {waits}{before}"

    stop_run(first, user=None)
    stop_run(second, user=None)
    assert said(third)[""] == "starting: is about to leave its lane's line"


def test_runs_of_a_workflow_that_wait_for_each_other():
    version = published("a")
    first, second = in_lane(f"workflow {version.workflow_id}", version, 2, 1)

    assert said(second)[""] == (
        f"overlap: waits for run {first.pk} of flow: runs of its workflow wait for each other"
    )


def test_who_stops_a_node_and_who_a_run():
    run = by_hand(published("a", "b", "below", edges=[("a", "below")]))
    take()
    take()
    stop_node(run.nodes.get(key="a"), user=user("li.wei"))
    assert said(run) == {
        "a": "stopping: is being stopped by li.wei",
        "below": "upstream: waits for a",
    }

    stop_run(run, user=user("maya"))
    assert said(run) == {
        "a": "stopping: is being stopped by li.wei",
        "b": "stopping: is being stopped by maya",
        "below": f"stopping: does not start: run {run.pk} of flow is being stopped by maya",
        "": "stopping: is being stopped by maya",
    }


def test_a_run_that_the_engine_ends_says_why():
    run = by_hand(published("a", timeout_seconds=60))
    take()
    Run.objects.update(started_at=Now() - timedelta(minutes=2))
    advance(run.pk)

    assert said(run) == {
        "a": "stopping: is being ended: run timed out after n s",
        "": "stopping: is being ended: run timed out after n s",
    }


def test_a_silent_worker_and_an_engine_that_nobody_drives():
    run = by_hand(published("a", "b", edges=[("a", "b")]))
    take()
    NodeRun.objects.filter(run=run, key="a").update(lease_until=Now() + timedelta(seconds=10.5))
    waits = "waits for worker w1, which was last heard of n s ago; in n s it starts again"
    assert said(run) == {
        "a": f"recovering: {waits} elsewhere",
        "b": "upstream: waits for a",
        "": f"recovering: {waits} elsewhere",
    }

    NodeRun.objects.filter(run=run, key="a").update(lease_until=Now() - timedelta(seconds=1))
    Pulse.objects.update(at=Now() - timedelta(seconds=90.5))
    assert said(run)["a"].startswith("engine_silent: has lost its worker; it is about to start")


@pytest.mark.parametrize("many", [1, 40])
def test_it_is_read_in_three_queries_whatever_the_size(many):
    by_hand(published(*(f"o{n}" for n in range(many)), name="other"))
    run = by_hand(published(*(f"n{n}" for n in range(many)), "last"))
    take()
    nodes = list(run.nodes.order_by("pk"))

    with CaptureQueriesContext(connection) as asked:
        found = waiting_of(run, nodes)

    assert len(asked) == 3
    assert {reasons[0].code for reasons in found.nodes.values()} <= {
        Code.BEHIND_OTHERS,
        Code.STARTING,
    }
    with CaptureQueriesContext(connection) as asked:
        waiting_of(Run.objects.get(pk=run.pk), [])
    assert len(asked) == 2  # the run itself, and the clock


def test_a_run_page_says_in_its_head_why_nothing_moves():
    run = by_hand(published("a"))
    of_capacity(100)
    client = member()

    html = client.get(f"/w/default/runs/{run.pk}/").content.decode()
    head = html.partition('id="oc-waits">')[2].partition("</p>")[0]

    assert f'<a class="oc-link" href="/w/default/queues/{root().pk}/line/"' in head
    assert f'<a class="oc-link" href="/w/default/runs/{run.pk}/?node=a" data-oc-away>a</a>' in head
    assert " asks for 0.25 CU, and queue " in head


def test_a_sentence_on_a_page_begins_with_a_capital_unless_it_is_a_nodes_name():
    run = by_hand(published("a"))
    pause_run(run, user=user("maya"))

    html = member().get(f"/w/default/runs/{run.pk}/").content.decode()
    head = html.partition('id="oc-waits">')[2].partition("</p>")[0]

    assert f">Run {run.pk} of " in head


@pytest.mark.parametrize("many", [1, 30])
def test_a_queues_page_shows_who_holds_it_and_why_the_rest_waits(django_assert_num_queries, many):
    queue = of_capacity(500)
    other = by_hand(published("x", name="other"))
    run = by_hand(published(*(f"n{n:02}" for n in range(many + 1))))
    take()
    take()
    client = member()
    url = f"/w/default/queues/{queue.pk}/line/"

    # session, user, member; the queue, what is in it; the engine, the line, who holds it
    with django_assert_num_queries(8):
        html = client.get(url).content.decode()

    listed = rows(html)
    assert [(row[0], row[1], row[2]) for row in listed[:2]] == [
        ("(Running) x", f"run {other.pk} of other", "0.25"),
        ("(Running) n00", f"run {run.pk} of flow", "0.25"),
    ]
    assert [row[0] for row in listed[2:]] == [f"(Waiting) n{n + 1:02}" for n in range(many)]
    assert listed[2][4] == (
        "waits for 0.25 CU in queue root_queue, which has 0 of 0.5 free: "
        f"x in run {other.pk} of other has 0.25, n00 has 0.25"
    )
    assert requests(html) == [url]
    assert requests(client.get(url, headers={"HX-Request": "true"}).content.decode()) == [url]


@pytest.mark.parametrize("many", [1, 3])
def test_programs_get_the_reason_with_its_links(many):
    of_capacity(250)
    other = by_hand(published("x", name="other"))
    run = by_hand(published(*(f"n{n}" for n in range(many))))
    take()
    caller = program(Role.GUEST)
    x = other.nodes.get().pk
    links = [
        {"kind": "queue", "id": root().pk, "name": "root_queue", "run": None},
        {"kind": "node", "id": x, "name": "x", "run": other.pk},
        {"kind": "run", "id": other.pk, "name": f"run {other.pk} of other", "run": None},
    ]
    waits = "waits for 0.25 CU in queue root_queue, which has 0 of 0.25 free: x"
    held_by = f"{waits} in run {other.pk} of other has 0.25."

    # token, workspace, role; run, its nodes; engine, line, who holds the queue
    with queries(caller, 9):
        whole = caller.get(f"runs/{run.pk}").json()["waiting"]
    assert whole == {"code": "queue_full", "sentence": f"n0 {held_by}", "links": links}
    assert caller.get(f"runs/{run.pk}/nodes/n0").json()["waiting"] == whole
    assert caller.get(f"runs/{other.pk}").json()["waiting"] is None
    of_queue = caller.get("queues/root_queue").json()["waiting"]
    assert of_queue["sentence"] == f"n0 in run {run.pk} of flow {held_by}"

    nodes = caller.get(f"runs/{run.pk}/nodes").json()["items"]
    assert [each["waiting"]["code"] for each in nodes] == ["queue_full"] * many


def test_a_nodes_panel_says_why_it_waits():
    run = by_hand(published("a", "b", edges=[("a", "b")]))
    b = run.nodes.get(key="b")
    url = f"/w/default/runs/{run.pk}/nodes/{b.pk}/"

    for part in ("", "?part=head&shown="):
        html = member().get(url + part).content.decode()
        assert re.findall(r'<p class="oc-waits">.*?<span>(.*?)</span></p>', html) == [
            f'<a class="oc-link" href="/w/default/runs/{run.pk}/?node=b" data-oc-away>b</a> waits '
            f'for <a class="oc-link" href="/w/default/runs/{run.pk}/?node=a" data-oc-away>a</a>.'
        ]
