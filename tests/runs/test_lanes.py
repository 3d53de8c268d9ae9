"""Lanes: when a run may start, and who is told that one has ended."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from apps.core.errors import Invalid
from apps.engine.states import NodeState, Overlap, RunState, Trigger
from apps.runs.models import Lane, NodeRun, Run, RunEnd, RunEvent
from apps.runs.services import endings
from apps.runs.services.advance import advance
from apps.runs.services.endings import run_ended
from apps.runs.services.hot_path import Outcome, claim, finish
from apps.runs.services.lanes import fill, lane_of, lanes_to_fill
from apps.runs.services.launch import Skipped, launch
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.rerun import rerun_nodes
from apps.runs.services.stop import stop_run
from apps.runs.services.success import set_success
from apps.runs.services.sweep import recount_idle_runs, tick
from apps.workflows.services.drafting import edit_workflow
from apps.workflows.services.publishing import draft_differs, publish
from tests.api import program
from tests.factories import chain, published, workspace
from tests.people import member
from tests.runs.test_races import in_threads
from tests.waiting import until

SUCCEEDED = Outcome(NodeState.SUCCEEDED, exit_code=0)
FAILED = Outcome(NodeState.FAILED, exit_code=1, reason="exit code 1")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
#: A cycle that no other run here is of.
ELSE = datetime(2020, 1, 1, tzinfo=UTC)
ME = "worker@here:1"

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(120)]


def lane(limit: int | None = 1) -> Lane:
    return lane_of(workspace(), "tests", limit=limit)


def in_lane(version, count: int, limit: int | None = 1, **kwargs) -> list[Run]:
    cycles = [NOON + timedelta(days=n) for n in range(count)]
    return launch(
        version, cycles=cycles, trigger=Trigger.BACKFILL, by=None, lane=lane(limit), **kwargs
    )


def take():
    return claim(workspace().queues.get(name="root_queue").pk, ME, uuid4())


def end(mine, outcome=SUCCEEDED, *, take=True):
    """A finish as the database sees it; what a worker does after it is left to the test."""
    return finish(mine, outcome, worker=ME, request=uuid4(), take=take)


def waiting(runs: list[Run]) -> str:
    """One letter a run: w waits in line, p may start, r runs, S, F or X is how it ended."""
    letters = {"pending": "p", "running": "r", "succeeded": "S", "failed": "F", "stopped": "X"}
    rows = Run.objects.filter(pk__in=[run.pk for run in runs]).order_by("pk")
    return "".join("w" if run.waits else letters[run.state] for run in rows)


# --- in line --------------------------------------------------------------------------------


def test_runs_beyond_the_limit_wait_in_line_with_nothing_queued():
    runs = in_lane(chain(2), 4, limit=2)

    assert waiting(runs) == "ppww"
    queued = NodeRun.objects.filter(state="queued").order_by("pk")
    assert list(queued.values_list("run", "key")) == [(run.pk, "n000") for run in runs[:2]]
    assert [(run.active, run.open) for run in Run.objects.order_by("pk")] == [
        (1, 1),
        (1, 1),
        (0, 1),
        (0, 1),
    ]


def test_run_that_ends_lets_the_next_in_line_start_and_only_that_one():
    runs = in_lane(published("a"), 3)
    done = end(take())

    assert (done.run_ended, done.awaited, done.next) == (True, True, None)
    assert waiting(runs) == "Sww"
    run_ended(runs[0].pk)
    run_ended(runs[0].pk)

    assert waiting(runs) == "Spw"
    notes = RunEvent.objects.filter(run=runs[1].pk).order_by("pk").values_list("note", flat=True)
    assert list(notes) == ["started: backfill", "admitted: its lane has room", ""]


def test_end_that_nobody_followed_up_is_followed_up_by_the_sweep():
    runs = in_lane(published("a"), 3)
    end(take())  # and the worker is gone

    tick()

    assert waiting(runs) == "Spw"


@pytest.mark.parametrize("outcome", [SUCCEEDED, FAILED])
def test_runs_start_in_the_order_of_the_line(outcome):
    runs = in_lane(published("a"), 5, limit=2)
    order = []
    while (mine := take()) is not None:
        order.append(mine.run_id)
        end(mine, outcome, take=False)
        run_ended(mine.run_id)

    assert order == [run.pk for run in runs]


def test_lane_without_a_limit_lets_all_start():
    assert waiting(in_lane(published("a"), 4, limit=None)) == "pppp"


def test_raised_limit_lets_runs_start_and_a_lowered_one_ends_none():
    runs = in_lane(published("a"), 5, limit=1)

    lane(3)
    assert waiting(runs) == "pppww"

    lane(1)
    assert waiting(runs) == "pppww"
    end(take(), take=False)
    tick()
    assert waiting(runs) == "Sppww"
    lane(None)
    assert waiting(runs) == "Spppp"


def test_lane_that_lets_nothing_start_is_refused():
    with pytest.raises(Invalid, match="set 1 or more"):
        lane(0)


def test_later_launch_stands_behind_those_in_line():
    version = published("a")
    first = in_lane(version, 2)
    end(take())  # there is room, and nobody has looked

    later = in_lane(version, 1)

    assert waiting(first) + waiting(later) == "Spw"


def test_lanes_are_apart_and_a_run_without_one_starts_at_once():
    version = published("a")
    in_lane(version, 2)
    other = lane_of(workspace(), "other", limit=1)

    beside = launch(version, cycles=[ELSE], trigger=Trigger.MANUAL, by=None, lane=other)
    without = launch(version, cycles=[timezone.now()], trigger=Trigger.MANUAL, by=None)

    assert waiting(beside + without) == "pp"


def test_only_lanes_with_room_and_a_line_are_to_be_filled():
    version = published("a")
    in_lane(version, 3)
    roomy = lane_of(workspace(), "roomy", limit=2)
    cycles = [ELSE + timedelta(days=n) for n in range(3)]
    alone = launch(version, cycles=cycles, trigger=Trigger.MANUAL, by=None, lane=roomy)
    lane_of(workspace(), "empty", limit=2)
    assert lanes_to_fill() == []

    stop_run(alone[0], user=None)

    assert lanes_to_fill() == [roomy.pk]


# --- what people do with one that waits -----------------------------------------------------


def test_stopped_run_leaves_the_line():
    runs = in_lane(published("a", "below", edges=[("a", "below")]), 3)

    stop_run(runs[1], user=None)
    assert waiting(runs) == "pXw"

    stop_run(runs[0], user=None)
    tick()
    assert waiting(runs) == "XXp"


def test_paused_run_keeps_its_place_and_lets_others_pass(django_capture_on_commit_callbacks):
    runs = in_lane(published("a"), 4)
    pause_run(runs[1], user=None)
    end(take())
    tick()
    assert waiting(runs) == "Swpw"

    with django_capture_on_commit_callbacks(execute=True):
        resume_run(runs[1], user=None)
    assert waiting(runs) == "Swpw"

    end(take())
    tick()
    assert waiting(runs) == "SpSw"


def test_resumed_run_starts_at_once_where_its_lane_has_room(django_capture_on_commit_callbacks):
    runs = in_lane(published("a"), 2)
    pause_run(runs[1], user=None)
    end(take())
    tick()

    with django_capture_on_commit_callbacks(execute=True):
        resume_run(runs[1], user=None)

    assert waiting(runs) == "Sp"
    assert take().run_id == runs[1].pk


def test_node_set_to_success_in_a_waiting_run_starts_nothing_until_the_run_is_admitted():
    runs = in_lane(chain(2), 2)

    set_success(runs[1].nodes.get(key="n000"), reason="done by hand", user=None)
    assert waiting(runs) == "pw"
    assert [node.state for node in runs[1].nodes.order_by("pk")] == ["succeeded", "pending"]

    stop_run(runs[0], user=None)
    tick()
    assert waiting(runs) == "Xp"
    assert [node.state for node in runs[1].nodes.order_by("pk")] == ["succeeded", "queued"]


def test_waiting_run_whose_every_node_was_set_to_success_has_succeeded():
    runs = in_lane(published("a"), 3)

    set_success(runs[1].nodes.get(), reason="done by hand", user=None)

    assert waiting(runs) == "pSw"


def test_waiting_run_does_not_time_out_and_is_not_mended():
    runs = in_lane(published("a", timeout_seconds=1), 2)
    ago = timezone.now() - timedelta(hours=1)
    Run.objects.update(created_at=ago)
    before = Run.objects.get(pk=runs[1].pk).revision

    recount_idle_runs()
    tick()
    advance(runs[1].pk)

    assert waiting(runs) == "pw"
    assert Run.objects.get(pk=runs[1].pk).revision == before


def test_rerun_in_a_run_that_is_over_does_not_wait_and_counts_in_its_lane():
    runs = in_lane(published("a"), 3)
    end(take(), FAILED)
    tick()
    assert waiting(runs) == "Fpw"

    rerun_nodes(runs[0], ["a"], user=None)
    assert waiting(runs) == "rpw"
    assert set(NodeRun.objects.filter(state="queued").values_list("run", flat=True)) == {
        runs[0].pk,
        runs[1].pk,
    }

    stop_run(runs[1], user=None)
    tick()
    assert waiting(runs) == "rXw"
    stop_run(runs[0], user=None)
    tick()
    assert waiting(runs) == "XXp"


# --- who is told ----------------------------------------------------------------------------


@pytest.fixture
def heard():
    """The ids of the runs whose ends the hook `tests` was told."""
    told: list[int] = []
    endings.when_run_ended("tests")(told.append)
    yield told
    del endings._hooks["tests"]


def test_owner_is_told_of_an_end_once(heard):
    [run] = in_lane(published("a"), 1, on_end=["tests"])
    assert end(take()).awaited is True
    assert heard == []

    run_ended(run.pk)
    run_ended(run.pk)
    tick()

    assert heard == [run.pk]
    assert RunEnd.objects.count() == 0


def test_owner_is_told_by_the_sweep_of_an_end_that_nobody_followed_up(heard):
    [run] = in_lane(published("a"), 1, on_end=["tests"])
    end(take())

    tick()

    assert heard == [run.pk]


def test_ordinary_run_leaves_nothing_to_tell():
    launch(published("a"), cycles=[NOON], trigger=Trigger.MANUAL, by=None)

    done = end(take())

    assert (done.run_ended, done.awaited) == (True, False)
    assert RunEnd.objects.count() == 0


@pytest.mark.parametrize("way", ["stop", "stop while it runs", "timeout", "strategy", "set"])
def test_owner_is_told_however_the_run_ended(heard, django_capture_on_commit_callbacks, way):
    version = published("a", "b", strategy="end" if way == "strategy" else "continue")
    [run] = in_lane(version, 1, on_end=["tests"])
    with django_capture_on_commit_callbacks(execute=True):
        if way == "stop while it runs":
            mine = take()
            stop_run(run, user=None)
            end(mine, Outcome(NodeState.STOPPED))
        elif way == "strategy":
            end(take(), FAILED)
            advance(run.pk)
        elif way == "timeout":
            end(take(), take=False)
            past = timezone.now() - timedelta(seconds=60)
            Run.objects.update(started_at=past, timeout_seconds=1)
            tick()
        elif way == "set":
            for node in run.nodes.all():
                set_success(node, reason="done by hand", user=None)
        else:
            stop_run(run, user=None)
    run.refresh_from_db()
    assert run.ended_at is not None
    if way == "stop while it runs":  # the worker's finish, in SQL: what follows was left out
        tick()

    assert heard == [run.pk]


def test_owner_is_told_again_when_a_rerun_ends_the_run_again(heard):
    [run] = in_lane(published("a"), 1, on_end=["tests"])
    end(take(), FAILED)
    tick()
    rerun_nodes(run, ["a"], user=None)
    assert heard == [run.pk]

    end(take())
    tick()

    assert heard == [run.pk] * 2


def test_hook_that_fails_is_called_again_and_holds_up_no_other(heard):
    calls: list[int] = []

    def broken(run_id: int) -> None:
        calls.append(run_id)
        if len(calls) == 1:
            raise RuntimeError("the owner is not there")

    endings.when_run_ended("broken")(broken)
    try:
        runs = in_lane(published("a"), 2, limit=2, on_end=["broken", "tests"])
        end(take(), take=False)
        tick()
        assert (calls, heard) == ([runs[0].pk], [runs[0].pk])
        left = RunEnd.objects.get()
        assert (left.run_id, left.hook, left.tries) == (runs[0].pk, "broken", 1)
        assert left.why == "RuntimeError: the owner is not there"
        assert left.due_at > timezone.now()

        tick()
        assert calls == [runs[0].pk]  # its pause is not over
        RunEnd.objects.update(due_at=F("due_at") - timedelta(seconds=10))
        tick()

        assert (calls, RunEnd.objects.count()) == ([runs[0].pk] * 2, 0)
    finally:
        del endings._hooks["broken"]


def test_hook_that_nobody_registered_is_refused_at_launch():
    with pytest.raises(ValueError, match="no hook is registered as 'tset'"):
        in_lane(published("a"), 1, on_end=["tset"])


# --- many at once ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 365])
def test_launch_into_a_lane_is_one_set_of_inserts(django_assert_num_queries, count):
    version, gate = chain(3), lane(2)
    cycles = [NOON + timedelta(days=n) for n in range(count)]

    with django_assert_num_queries(14):
        runs = launch(version, cycles=cycles, trigger=Trigger.BACKFILL, by=None, lane=gate)

    assert waiting(runs) == "pp" + (count - 2) * "w"


@pytest.mark.django_db(transaction=True)
def test_lane_never_holds_more_than_its_limit_under_launches_and_ends_at_once():
    """Four threads launch into it, five run nodes; one of these never follows up an end."""
    version = published("a")
    gate = lane(3)
    queue = workspace().queues.get(name="root_queue")
    queue.capacity = 100 * 250
    queue.save(update_fields=["capacity"])
    in_lane(version, 4, limit=3)
    done = threading.Event()

    def work(n: int) -> None:
        if n < 4:
            for i in range(6):
                cycles = [ELSE + timedelta(days=100 * n + 2 * i + k) for k in range(2)]
                launch(version, cycles=cycles, trigger=Trigger.MANUAL, by=None, lane=gate)
            return
        while not done.is_set():
            mine = claim(queue.pk, f"w{n}", uuid4())
            if mine is not None:
                finish(mine, SUCCEEDED, worker=f"w{n}", request=uuid4(), take=False)
                if n > 4:
                    run_ended(mine.run_id)
            elif n == 4:
                for lane_id in lanes_to_fill():
                    fill(lane_id)
                if Run.objects.filter(state=RunState.SUCCEEDED).count() == 52:
                    done.set()

    in_threads(work, 9)

    admitted = dict(RunEvent.objects.filter(note__startswith="admitted").values_list("run", "at"))
    ends = dict(Run.objects.values_list("pk", "ended_at"))
    changes = sorted([(at, 1) for at in admitted.values()] + [(at, -1) for at in ends.values()])
    assert max(accumulate(step for _, step in changes)) == 3
    assert sorted(admitted, key=admitted.__getitem__) == sorted(ends)


@pytest.mark.django_db(transaction=True)
def test_who_fills_a_lane_waits_for_who_just_does():
    runs = in_lane(published("a"), 9)
    Lane.objects.update(limit=3)
    gate = lane(3)

    def fill_too() -> None:
        fill(gate.pk)
        connection.close()

    other = threading.Thread(target=fill_too)
    with transaction.atomic():
        fill(gate.pk)
        other.start()
        until(is_blocked, "the other's wait for a lock")
    other.join()

    assert waiting(runs) == "pppwwwwww"


def is_blocked() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        return cursor.fetchone()[0]


@pytest.mark.django_db(transaction=True)
def test_end_within_a_transaction_makes_room_only_once_it_commits():
    runs = in_lane(published("a"), 2)

    with transaction.atomic():
        stop_run(runs[0], user=None)
        assert waiting(runs) == "Xw"

    assert waiting(runs) == "Xp"


# --- overlap --------------------------------------------------------------------------------


def scheduled(version, **kwargs) -> Run:
    """A run of the next cycle that is due."""
    due = NOON + timedelta(days=Run.objects.count())
    [run] = launch(version, cycles=[due], trigger=Trigger.SCHEDULE, by=None, **kwargs)
    return run


def test_scheduled_runs_that_overlap_both_run_where_nothing_else_is_said():
    version = published("a")

    assert waiting([scheduled(version), scheduled(version)]) == "pp"


def test_scheduled_runs_are_at_most_sixteen_at_once_where_nothing_else_is_said():
    version = published("a")
    runs = [scheduled(version) for _ in range(17)]

    assert waiting(runs) == 16 * "p" + "w"


def test_scheduled_runs_beyond_the_workflows_limit_wait_and_those_by_hand_do_not():
    version = published("a", overlap_limit=2)
    runs = [scheduled(version) for _ in range(4)]
    by_hand = launch(version, cycles=[ELSE], trigger=Trigger.MANUAL, by=None)
    assert waiting(runs + by_hand) == "ppwwp"

    end(take(), take=False)
    tick()
    assert waiting(runs) == "Sppw"

    later = ELSE + timedelta(days=1)
    asked = launch(version, cycles=[later], trigger=Trigger.API, by=None, overlap=Overlap.PARALLEL)
    assert waiting(runs + asked) == "Sppww"


def test_lane_of_a_workflow_has_the_limit_of_the_version_launched_last():
    old = published("a", overlap="wait")
    runs = [scheduled(old) for _ in range(3)]
    assert waiting(runs) == "pww"

    old.workflow.refresh_from_db()
    edit_workflow(old.workflow, revision=old.workflow.revision, overlap="parallel", overlap_limit=3)
    new = publish(old.workflow, remarks="", user=None)
    runs.append(scheduled(new))
    assert waiting(runs) == "pppw"

    runs.append(scheduled(old))  # a lower limit ends none
    assert waiting(runs) == "pppww"


def test_run_stands_in_one_line():
    for overlap in (Overlap.WAIT, Overlap.PARALLEL):
        with pytest.raises(ValueError, match=f"give a lane, or the overlap .{overlap}"):
            launch(
                published("a", name=f"flow {overlap}"),
                cycles=[NOON],
                trigger=Trigger.API,
                by=None,
                lane=lane(),
                overlap=overlap,
            )


def test_scheduled_run_waits_for_the_earlier_ones_and_a_run_by_hand_does_not():
    version = published("a", overlap="wait")
    runs = [scheduled(version), scheduled(version), scheduled(version)]
    by_hand = launch(version, cycles=[ELSE], trigger=Trigger.MANUAL, by=None)
    assert waiting(runs + by_hand) == "pwwp"

    mine = take()
    assert mine.run_id == runs[0].pk
    end(mine)
    tick()

    assert waiting(runs) == "Spw"


def test_workflows_that_wait_do_not_wait_for_each_other():
    one, two = (published("a", name=name, overlap="wait") for name in ("one", "two"))

    assert waiting([scheduled(one), scheduled(two), scheduled(one)]) == "ppw"


def test_scheduled_run_is_skipped_while_any_run_of_its_workflow_is_not_over():
    version = published("a", overlap="skip")
    [by_hand] = launch(version, cycles=[NOON], trigger=Trigger.MANUAL, by=None)

    with pytest.raises(Skipped, match=f"run {by_hand.pk} of workflow 'flow' is not over") as caught:
        scheduled(version)
    assert (caught.value.run, Run.objects.count()) == (by_hand, 1)

    stop_run(by_hand, user=None)
    assert waiting([scheduled(version)]) == "p"


def test_version_that_was_published_before_there_was_overlap_runs_in_parallel():
    version = published("a")
    del version.graph["settings"]["overlap"], version.graph["settings"]["overlap_limit"]
    version.save(update_fields=["graph"])

    assert waiting([scheduled(version), scheduled(version)]) == "pp"


@pytest.mark.django_db(transaction=True)
def test_two_that_would_skip_each_other_start_one_run():
    version = published("a", overlap="skip")
    skipped: list[int] = []

    def work(n: int) -> None:
        try:
            scheduled(version)
        except Skipped:
            skipped.append(n)

    in_threads(work, 6)

    assert (Run.objects.count(), len(skipped)) == (1, 5)


def test_program_says_how_its_run_overlaps_and_sees_its_place_in_line():
    version = published("a")
    caller = program()
    url = f"workflows/{version.workflow_id}/run"

    def start(overlap: str):
        return caller.post(url, {"overlap": overlap})

    pks = [start("wait").json()["runs"][0] for _ in range(3)]
    shown = [caller.get(f"runs/{pk}").json() for pk in pks]
    assert [(run["waits"], run["ahead"]) for run in shown] == [(False, None), (True, 0), (True, 1)]
    listed = caller.get("runs").json()["items"]
    assert [run["ahead"] for run in listed] == [1, 0, None]

    refused = start("skip")
    assert (refused.status_code, f"run {pks[0]} of" in refused.json()["detail"]) == (409, True)
    assert start("parallel").status_code == 201
    assert start("perhaps").status_code == 422


def test_page_of_a_run_in_line_says_how_many_are_ahead_of_it():
    runs = in_lane(published("a"), 5, limit=2)
    client = member()

    def said(run: Run) -> list[str]:
        html = client.get(f"/w/default/runs/{run.pk}/").content.decode()
        return re.findall(r'id="oc-waits">.*?<span>(It waits in line.*?)</span></p>', html)

    rest = "and its lane lets 2 be under way at once."
    assert [said(run) for run in runs[1:]] == [
        [],
        [f"It waits in line: it is next, {rest}"],
        [f"It waits in line: 1 run is ahead of it, {rest}"],
        [f"It waits in line: 2 runs are ahead of it, {rest}"],
    ]
    listed = client.get("/w/default/runs/").content.decode()
    assert listed.count(">In line</span>") == 3


def test_overlap_is_chosen_in_the_form_of_a_workflow():
    version = published("a")
    client, page = member(), f"/w/default/workflows/{version.workflow_id}/settings/"
    form = {"revision": version.workflow.revision, "name": "flow", "strategy": "continue"}
    form["queue"] = version.workflow.queue_id

    client.post(page, {**form, "overlap": "parallel", "overlap_limit": ""})
    version.workflow.refresh_from_db()
    assert (version.workflow.overlap_limit, draft_differs(version.workflow)) == (16, False)

    form["revision"] = version.workflow.revision
    client.post(page, {**form, "overlap": "wait", "overlap_limit": 4})

    version.workflow.refresh_from_db()
    assert (version.workflow.overlap, version.workflow.overlap_limit) == ("wait", 4)
    assert draft_differs(version.workflow)


@pytest.mark.django_db(transaction=True)
def test_a_worker_takes_a_hundred_runs_through_a_lane_of_three(start, tmp_path):
    journal = tmp_path / "journal"
    script = f'echo "+ $RUNYARD_RUN" >> {journal}; echo "- $RUNYARD_RUN" >> {journal}'
    runs = in_lane(published("a", content=script), 100, limit=3)

    start()
    until(lambda: not Run.objects.filter(ended_at=None).exists(), "the end of all", seconds=60)

    lines = [line.split() for line in journal.read_text().splitlines()]
    assert max(accumulate({"+": 1, "-": -1}[sign] for sign, _ in lines)) <= 3
    begun = [int(pk) for sign, pk in lines if sign == "+"]
    assert sorted(begun) == [run.pk for run in runs]
    assert all(abs(begun.index(run.pk) - n) <= 3 for n, run in enumerate(runs))
    assert waiting(runs) == 100 * "S"
