"""Two runs of one workflow for the same cycle never run at once."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from apps.core.errors import Conflict
from apps.engine.states import Overlap, Trigger
from apps.runs.models import NodeRun, Run, RunEvent
from apps.runs.services.anew import rerun_anew
from apps.runs.services.hot_path import claim, finish
from apps.runs.services.lanes import follow, lane_of, to_follow
from apps.runs.services.launch import launch
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.prune import prune
from apps.runs.services.rerun import rerun_nodes
from apps.runs.services.stop import stop_run
from apps.runs.services.success import set_success
from apps.runs.services.sweep import recount_idle_runs, tick
from apps.runs.waiting import waiting_of
from tests.api import program
from tests.factories import published, workspace
from tests.people import member
from tests.runs.test_lanes import FAILED, NOON, SUCCEEDED, end, take, waiting
from tests.runs.test_races import in_threads
from tests.waiting import until

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(120)]


def start(version, cycle: datetime = NOON, trigger=Trigger.MANUAL, **kwargs) -> Run:
    [run] = launch(version, cycles=[cycle], trigger=trigger, by=None, **kwargs)
    return run


def waits_for(*runs: Run) -> list[int | None]:
    rows = Run.objects.filter(pk__in=[run.pk for run in runs]).order_by("pk")
    return list(rows.values_list("waits_for", flat=True))


def notes(run: Run) -> list[str]:
    rows = RunEvent.objects.filter(run=run, node_run=None).order_by("pk")
    return list(rows.values_list("note", flat=True))


def test_debug_run_of_a_cycle_waits_for_none_and_none_waits_for_it():
    version = published("a")
    queue = workspace().queues.get(name="root_queue")
    queue.development = True
    queue.save(update_fields=["development"])
    first = start(version)
    debug = start(version, trigger=Trigger.DEBUG)
    third = start(version)

    assert waits_for(first, debug, third) == [None, None, first.pk]
    stop_run(first, user=None)
    follow(first.pk)

    assert waits_for(third) == [None]  # though the debug run came before it
    stop_run(debug, user=None)
    rerun_nodes(debug, ["a"], user=None)
    debug.refresh_from_db()
    assert debug.ended_at is None


@pytest.mark.parametrize("trigger", [each for each in Trigger if each is not Trigger.DEBUG])
def test_later_run_of_a_cycle_waits_for_the_earlier_whatever_started_it(trigger):
    version = published("a", "below", edges=[("a", "below")])
    queue = workspace().queues.get(name="root_queue")
    queue.development = True
    queue.save(update_fields=["development"])
    first = start(version)
    second = start(version, trigger=trigger)

    assert (waiting([first, second]), waits_for(first, second)) == ("pw", [None, first.pk])
    queued = NodeRun.objects.filter(state="queued").values_list("run", flat=True)
    assert list(queued) == [first.pk]
    second.refresh_from_db()
    assert (second.active, second.open) == (0, 1)


def test_other_cycles_and_other_workflows_do_not_wait():
    one, two = published("a", name="one"), published("a", name="two")
    runs = [start(one), start(two), start(one, NOON + timedelta(microseconds=1))]

    assert (waiting(runs), waits_for(*runs)) == ("ppp", [None] * 3)


def test_run_that_is_over_is_waited_for_by_nobody():
    version = published("a")
    first = start(version)
    end(take())

    assert waiting([first, start(version)]) == "Sp"


def test_worker_that_ends_a_run_is_told_that_another_waits_for_it(
    django_capture_on_commit_callbacks,
):
    version = published("a")
    runs = [start(version), start(version)]
    mine, request = take(), uuid4()

    done = finish(mine, SUCCEEDED, worker="worker@here:1", request=request, take=True)
    again = finish(mine, SUCCEEDED, worker="worker@here:1", request=request, take=True)

    assert (done.run_ended, done.awaited, done.next, again.awaited) == (True, True, None, True)
    assert waiting(runs) == "Sw"
    follow(runs[0].pk)
    follow(runs[0].pk)
    assert (waiting(runs), waits_for(*runs)) == ("Sp", [None, None])
    assert take().run_id == runs[1].pk
    assert notes(runs[1]) == [
        "started: manual",
        f"waits for run {runs[0].pk}, of the same cycle",
        f"run {runs[0].pk}, of the same cycle, is over",
    ]


def test_end_that_nobody_followed_up_lets_the_next_start_with_the_sweep():
    version = published("a")
    runs = [start(version), start(version)]
    end(take())
    assert to_follow() == [runs[0].pk]

    tick()

    assert (waiting(runs), to_follow()) == ("Sp", [])


def test_runs_of_a_cycle_run_one_after_the_other_in_the_order_of_their_starts():
    version = published("a")
    runs = [start(version) for _ in range(4)]
    assert waits_for(*runs) == [None, runs[0].pk, runs[1].pk, runs[2].pk]

    seen = []
    for _ in runs:
        seen.append(waiting(runs))
        end(take())
        tick()
    assert [*seen, waiting(runs)] == ["pwww", "Spww", "SSpw", "SSSp", "SSSS"]


def test_run_whose_predecessor_is_stopped_in_line_waits_for_the_one_before(
    django_capture_on_commit_callbacks,
):
    version = published("a")
    runs = [start(version) for _ in range(3)]

    with django_capture_on_commit_callbacks(execute=True):
        stop_run(runs[1], user=None)

    assert (waiting(runs), waits_for(*runs)) == ("pXw", [None, None, runs[0].pk])
    with django_capture_on_commit_callbacks(execute=True):
        stop_run(runs[0], user=None)
    assert (waiting(runs), waits_for(*runs)) == ("XXp", [None, None, None])


def test_run_in_a_lane_goes_back_into_its_line_and_others_pass_it_meanwhile():
    version = published("a")
    first = start(version)
    gate = lane_of(workspace(), "tests", limit=1)
    cycles = [NOON, NOON + timedelta(days=1), NOON + timedelta(days=2)]
    runs = launch(version, cycles=cycles, trigger=Trigger.BACKFILL, by=None, lane=gate)
    assert waiting([first, *runs]) == "pwpw"

    end(take(), take=False)
    tick()
    assert (waiting([first, *runs]), waits_for(runs[0])) == ("Swpw", [None])

    end(take(), take=False)
    tick()
    assert waiting([first, *runs]) == "SpSw"


def test_paused_run_starts_once_it_is_resumed_and_not_before_the_other_is_over():
    version = published("a")
    runs = [start(version), start(version)]
    pause_run(runs[1], user=None)
    resume_run(runs[1], user=None)
    assert waiting(runs) == "pw"

    pause_run(runs[1], user=None)
    end(take())
    tick()
    assert (take(), waits_for(runs[1])) == (None, [None])

    resume_run(runs[1], user=None)
    assert take().run_id == runs[1].pk


def test_node_set_to_success_in_a_waiting_run_starts_nothing():
    version = published("a", "b", edges=[("a", "b")])
    runs = [start(version), start(version)]

    set_success(runs[1].nodes.get(key="a"), reason="done by hand", user=None)
    assert waiting(runs) == "pw"
    assert [node.state for node in runs[1].nodes.order_by("pk")] == ["succeeded", "pending"]

    set_success(runs[1].nodes.get(key="b"), reason="done by hand", user=None)
    assert (waiting(runs), waits_for(*runs)) == ("pS", [None, None])


def test_waiting_run_does_not_time_out_and_is_not_mended():
    version = published("a", timeout_seconds=1)
    runs = [start(version), start(version)]
    Run.objects.update(created_at=timezone.now() - timedelta(hours=1))
    before = Run.objects.get(pk=runs[1].pk).revision

    recount_idle_runs()
    tick()

    assert waiting(runs) == "pw"
    assert Run.objects.get(pk=runs[1].pk).revision == before


def test_run_is_not_opened_again_while_another_of_its_cycle_is_not_over():
    version = published("a")
    first = start(version)
    end(take(), FAILED)
    second = start(version)
    said = f"run {second.pk} runs the same cycle as run {first.pk} and is not over; wait for its"

    with pytest.raises(Conflict, match=said):
        rerun_nodes(first, ["a"], user=None)
    with pytest.raises(Conflict, match=said):
        set_success(first.nodes.get(), reason="done by hand", user=None)
    assert waiting([first, second]) == "Fp"

    stop_run(second, user=None)
    rerun_nodes(first, ["a"], user=None)
    third = rerun_anew(second, user=None)
    assert (waiting([first, second, third]), waits_for(third)) == ("rXw", [first.pk])


def test_run_that_another_waits_for_is_not_forgotten():
    version = published("a")
    runs = [start(version), start(version)]
    end(take())
    Run.objects.filter(pk=runs[0].pk).update(ended_at=timezone.now() - timedelta(days=100))

    assert prune(days=90).runs == 0
    tick()
    assert prune(days=90).runs == 1
    assert waiting(runs) == "p"


def test_launch_that_names_a_cycle_twice_is_refused():
    with pytest.raises(ValueError, match="a launch names each cycle once"):
        launch(published("a"), cycles=[NOON, NOON], trigger=Trigger.MANUAL, by=None)


def test_run_that_waits_for_nothing_is_no_row():
    run = start(published("a"))

    with pytest.raises(IntegrityError, match="run_waits_for_something"), transaction.atomic():
        Run.objects.filter(pk=run.pk).update(waits=True)


@pytest.mark.parametrize("count", [3, 40])
def test_waiting_for_many_runs_costs_a_launch_one_statement_more(django_assert_num_queries, count):
    version = published("a")
    cycles = [NOON + timedelta(days=n) for n in range(count)]
    first = launch(version, cycles=cycles, trigger=Trigger.BACKFILL, by=None)

    with django_assert_num_queries(12):  # nothing is queued, and no bell rung
        later = launch(version, cycles=cycles, trigger=Trigger.BACKFILL, by=None)

    assert waits_for(*later) == [run.pk for run in first]


def test_why_it_waits_is_said_in_the_workspaces_zone():
    here = workspace()
    here.zone = "Europe/Berlin"
    here.save(update_fields=["zone"])
    version = published("a", overlap="wait")
    midnight = datetime(2026, 2, 28, 23, tzinfo=UTC)
    first = start(version, midnight)
    second = start(version, midnight, overlap=Overlap.WAIT)

    reason = waiting_of(second).run
    assert reason is not None
    assert (reason.code, reason.clause) == (
        "same_cycle",
        f"waits for run {first.pk} of flow, which runs the same cycle 2026-03-01 00:00",
    )
    shown = program().get(f"runs/{second.pk}").json()
    assert (shown["waits"], shown["waits_for"], shown["ahead"]) == (True, first.pk, 0)
    assert (shown["waiting"]["code"], shown["waiting"]["links"][0]["id"]) == (
        "same_cycle",
        first.pk,
    )
    client = member()
    page = client.get(f"/w/default/runs/{second.pk}/").content.decode()
    [sentence] = re.findall(r'id="oc-waits">.*?<span>(.*?)</span></p>', page)
    assert re.sub("<.*?>", "", sentence).strip() == f"Run {second.pk} of flow {reason.clause}."
    listed = client.get("/w/default/runs/").content.decode()
    assert listed.count(f'title="Run {first.pk}, of the same cycle, is not over">In line<') == 1


@pytest.mark.django_db(transaction=True)
def test_launches_of_a_cycle_at_the_same_instant_run_one_after_the_other():
    """Six threads start it; three run nodes, of which one never follows up an end."""
    version = published("a", "b", edges=[("a", "b")])
    queue = workspace().queues.get(name="root_queue")
    queue.capacity = 100 * 250
    queue.save(update_fields=["capacity"])

    def work(n: int) -> None:
        if n < 6:
            for i in range(3):
                start(version, NOON + timedelta(days=i))
            return

        def over() -> bool:
            mine = claim(queue.pk, f"w{n}", uuid4())
            if mine is not None:
                finish(mine, SUCCEEDED, worker=f"w{n}", request=uuid4(), take=False)
                if n > 6:
                    follow(mine.run_id)
            elif n == 6:
                for run_id in to_follow():
                    follow(run_id)
            return Run.objects.filter(state="succeeded").count() == 18

        until(over, "the end of all", seconds=60)

    in_threads(work, 9)

    for i in range(3):
        rows = Run.objects.filter(cycle=NOON + timedelta(days=i)).order_by("pk")
        times = [time for run in rows for time in (run.started_at, run.ended_at)]
        assert (len(times), times) == (12, sorted(times))
