"""Backfills: the preview's cycles, once each; one thing to watch, pause, resume and cancel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import connection, transaction

from apps.core.errors import Conflict, Invalid, NotFound
from apps.engine.backfill import Counts, Order, Standing, Which
from apps.engine.states import NodeState, RunState, Trigger
from apps.nodes.models import Job, JobVersion
from apps.nodes.services.jobs import publish_job, save_draft
from apps.runs.models import Backfill, BackfillCycle, Lane, NodeRun, Run
from apps.runs.services import feeding, sweep
from apps.runs.services.anew import plan_anew, rerun_anew
from apps.runs.services.backfill import (
    Asked,
    cancel_backfill,
    create_backfill,
    pause_backfill,
    plan_backfill,
    resume_backfill,
)
from apps.runs.services.endings import run_ended
from apps.runs.services.feeding import counts_of, feed, nodes_of, standing_of
from apps.runs.services.hot_path import Outcome, claim, finish
from apps.runs.services.launch import launch
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.prune import prune
from apps.runs.services.rerun import failed_scope, rerun_failed, rerun_nodes, to_repeat
from apps.runs.services.success import set_success
from apps.runs.shown import Stand, cycles_stand
from apps.runs.waiting import waiting_of
from apps.workflows.models import Workflow
from apps.workflows.services.drafting import delete_workflow, edit_workflow
from apps.workflows.services.publishing import publish
from apps.workspaces.models import ResourceQueue
from apps.workspaces.services import create_queue
from tests.factories import by_hand, published, workspace
from tests.runs.test_races import in_threads

pytestmark = pytest.mark.django_db(transaction=True)

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAILY = {"kind": "days", "time": "02:00", "started_at": "2026-01-01T00:00:00Z"}
WEEK = Asked(first_date=date(2026, 3, 1), last_date=date(2026, 3, 7))
SUCCEEDED = Outcome(NodeState.SUCCEEDED, exit_code=0)
FAILED = Outcome(NodeState.FAILED, exit_code=1, reason="exit code 1")


def clock() -> datetime:
    return NOW


def flow(*nodes: str, **settings: object) -> Workflow:
    version = published(*(nodes or ("a",)), **{"schedule": DAILY, **settings})
    return Workflow.objects.select_related("workspace", "published").get(pk=version.workflow_id)


def made(workflow: Workflow, asked: Asked = WEEK, **settings: object) -> Backfill:
    return create_backfill(workflow, asked, user=None, **{"clock": clock, **settings})


def days(cycles: object) -> list[int]:
    return [cycle.day for cycle in cycles]


def launched(backfill: Backfill) -> list[int]:
    """Days of the cycles that have a run, in the order of their runs."""
    runs = Run.objects.filter(backfill_cycle__backfill=backfill).order_by("pk")
    return days(runs.values_list("cycle", flat=True))


def counts(backfill: Backfill) -> Counts:
    return counts_of([backfill])[backfill.pk]


def stands(backfill: Backfill) -> Standing:
    backfill.refresh_from_db()
    return standing_of(backfill, counts(backfill))


def work(outcome: Outcome | Callable[[int], Outcome] = SUCCEEDED, times: int = 1000) -> list[int]:
    """Let nodes run as one worker would, one after another; days of their cycles."""
    queue, done = workspace().queues.get(name="root_queue"), []
    while len(done) < times and (mine := claim(queue.pk, "w", uuid4())) is not None:
        day = Run.objects.get(pk=mine.run_id).cycle.day
        how = outcome if isinstance(outcome, Outcome) else outcome(day)
        ended = finish(mine, how, worker="w", request=uuid4(), take=False)
        if ended.awaited:
            run_ended(mine.run_id)
        done.append(day)
    return done


def test_what_is_made_and_what_runs_is_what_the_preview_showed():
    workflow = flow()
    plan = plan_backfill(workflow, WEEK, clock=clock)
    assert [str(each.data_date) for each in plan.cycles] == [f"2026-03-0{n}" for n in range(1, 8)]
    shown = [each.cycle for each in plan.cycles]
    assert shown[0] == datetime(2026, 3, 2, 2, tzinfo=UTC)

    backfill = made(workflow, token=plan.token)

    assert list(backfill.cycles.order_by("position").values_list("cycle", flat=True)) == shown
    assert work() == days(shown)
    runs = Run.objects.order_by("pk")
    assert [run.cycle for run in runs] == shown
    assert {(run.trigger, run.flow, run.state, run.version) for run in runs} == {
        (Trigger.BACKFILL, backfill.flow, RunState.SUCCEEDED, workflow.published)
    }
    assert (stands(backfill), counts(backfill)) == (Standing.SUCCEEDED, Counts(7, succeeded=7))
    assert backfill.ended_at is not None


def test_newest_first_starts_with_the_newest():
    backfill = made(flow(), replace(WEEK, order=Order.NEWEST))

    assert work() == launched(backfill) == [8, 7, 6, 5, 4, 3, 2]


def test_no_more_run_at_once_than_it_says_and_few_stand_in_line():
    month = Asked(first_date=date(2026, 1, 1), last_date=date(2026, 2, 28))
    backfill = made(flow(), month, at_once=2)

    assert Run.objects.filter(waits=False).count() == 2
    assert Run.objects.filter(waits=True).count() == feeding.LEAST_AHEAD
    assert counts(backfill) == Counts(59, to_come=53, waiting=6)
    assert NodeRun.objects.filter(state=NodeState.QUEUED).count() == 2
    work(times=10)
    assert Run.objects.filter(waits=False, ended_at=None).count() == 2
    assert len(work()) == 49
    assert counts(backfill) == Counts(59, succeeded=59)


@pytest.mark.parametrize(
    ("which", "expected"), [(Which.ALL, [2, 3, 4, 5]), (Which.MISSING, [3, 5]), (Which.FAILED, [3])]
)
def test_which_cycles_are_taken_is_by_what_ran_of_them(which, expected):
    workflow = flow()
    of_day = {n: datetime(2026, 3, n, 2, tzinfo=UTC) for n in range(2, 6)}
    for n, trigger, outcome in [
        (2, Trigger.SCHEDULE, SUCCEEDED),
        (3, Trigger.API, FAILED),
        (4, Trigger.MANUAL, FAILED),
        (4, Trigger.MANUAL, SUCCEEDED),
    ]:
        launch(workflow.published, cycles=[of_day[n]], trigger=trigger, by=None)
        work(outcome)
    Run.objects.filter(cycle=of_day[2]).update(trigger=Trigger.SCHEDULE)
    # A debug run says nothing of its cycle.
    draft = by_hand(workflow.published)
    work()
    Run.objects.filter(pk=draft.pk).update(cycle=of_day[5], trigger=Trigger.DEBUG)

    asked = Asked(first_date=date(2026, 3, 1), last_date=date(2026, 3, 4), which=which)
    plan = plan_backfill(workflow, asked, clock=clock)

    assert days(each.cycle for each in plan.cycles) == expected
    assert plan.considered == 4


def test_where_the_list_is_another_by_now_nothing_is_made_and_the_difference_is_said():
    workflow = flow()
    missing = replace(WEEK, which=Which.MISSING)
    before = plan_backfill(workflow, missing, clock=clock)
    launch(workflow.published, cycles=[before.cycles[0].cycle], trigger=Trigger.MANUAL, by=None)
    work()

    with pytest.raises(Conflict, match="it would be 6 cycles by now") as refused:
        made(workflow, missing, token=before.token)

    assert len(refused.value.current.cycles) == 6
    assert not Backfill.objects.exists()
    save_draft(Job.objects.get(), {"content": "echo 2"}, revision=1)
    publish_job(Job.objects.get(), remarks="", user=None)
    with pytest.raises(Conflict, match="a job of it was published anew"):
        made(workflow, WEEK, token=plan_token(before, workflow))


def plan_token(before: object, workflow: Workflow) -> str:
    now = plan_backfill(workflow, WEEK, clock=clock)
    jobs = before.token.split(".")[2]
    return ".".join(jobs if n == 2 else part for n, part in enumerate(now.token.split(".")))


@pytest.mark.parametrize(
    ("asked", "field", "message"),
    [
        (Asked(), "first_date", "say which cycles"),
        (replace(WEEK, dates=[date(2026, 3, 1)]), "dates", "one of these ways alone"),
        (Asked(first_date=date(2026, 3, 1)), "last_date", "say both"),
        (replace(WEEK, last_date=date(2026, 2, 1)), "last_date", "is before 2026-03-01"),
        (
            replace(WEEK, last_date=date(2026, 3, 12)),
            "last_date",
            "the cycle of 2026-03-10 is due at 2026-03-11 02:00, which is still to come; the last "
            "one is of 2026-03-09",
        ),
        (Asked(cycles=[NOW + timedelta(seconds=1)]), "cycles", "still to come"),
        (Asked(first_cycle=NOW, last_cycle=NOW), "last_cycle", "no cycle lies in there"),
        (Asked(first_date=date(1, 1, 1), last_date=date(2026, 3, 1)), "last_date", "1900 to 2199"),
        (Asked(first_date=date(1900, 1, 1), last_date=NOW.date()), "last_date", "20,000 cycles"),
        (replace(WEEK, node="b"), "node", "has no node 'b'"),
        (replace(WEEK, downstream=True), "node", "name the node"),
    ],
)
def test_what_cannot_be_is_refused_at_its_field(asked, field, message):
    workflow = flow()

    with pytest.raises(Invalid, match=message) as refused:
        made(workflow, asked)

    assert [fault.field for fault in refused.value.faults] == [field]
    assert not Backfill.objects.exists()


def test_many_cycles_are_asked_for_twice_and_none_at_all_never():
    workflow = flow()
    many = Asked(first_date=date(2023, 1, 1), last_date=date(2026, 3, 1))

    with pytest.raises(Invalid, match="these are 1,156 cycles; say that you are sure: 1156"):
        made(workflow, many)
    with pytest.raises(Invalid, match="these are 1,156 cycles"):
        made(workflow, many, sure=1000)
    with pytest.raises(Invalid, match="of 7 cycles none has failed"):
        made(workflow, replace(WEEK, which=Which.FAILED))
    for wrong in ({"at_once": 0}, {"at_once": 1001}, {"stop_after": 0}):
        with pytest.raises(Invalid):
            made(workflow, **wrong)

    assert made(workflow, many, sure=1156).total == 1156


def test_pause_lets_what_runs_go_on_and_nothing_else_start_until_it_is_resumed():
    backfill = made(flow(), at_once=2)
    queue = workspace().queues.get(name="root_queue")
    running = claim(queue.pk, "w", uuid4())

    pause_backfill(backfill, user=None)
    with pytest.raises(Conflict, match="is paused already"):
        pause_backfill(backfill, user=None)

    finish(running, SUCCEEDED, worker="w", request=uuid4(), take=False)
    sweep.tick()
    # The other had its place, and its node its place in the queue.
    assert work() == [3]
    sweep.tick()
    assert work() == []
    assert stands(backfill) == Standing.PAUSED
    waits = waiting_of(Run.objects.filter(waits=True).order_by("pk")[0]).run
    assert waits is not None
    assert waits.sentence.endswith(f"waits until backfill {backfill.pk} is resumed.")
    resume_backfill(backfill, user=None)
    with pytest.raises(Conflict, match="is not paused"):
        resume_backfill(backfill, user=None)
    assert work() == [4, 5, 6, 7, 8]
    assert stands(backfill) == Standing.SUCCEEDED
    with pytest.raises(Conflict, match="is over"):
        pause_backfill(backfill, user=None)
    notes = list(backfill.events.order_by("pk").values_list("note", flat=True))
    assert notes == ["made, of 7 cycles", "paused", "resumed", "over"]


def test_runs_in_line_that_a_person_paused_let_others_pass():
    backfill = made(flow(), Asked(first_date=date(2026, 2, 1), last_date=date(2026, 2, 10)))
    in_line = list(Run.objects.filter(waits=True).order_by("pk"))
    assert days(run.cycle for run in in_line) == [3, 4, 5, 6]
    for run in in_line:
        pause_run(run, user=None)

    assert work() == [2, 7, 8, 9, 10, 11]

    for run in in_line:
        resume_run(run, user=None)
    assert work() == [3, 4, 5, 6]
    assert stands(backfill) == Standing.SUCCEEDED


@pytest.mark.parametrize("stop_running", [False, True])
def test_cancel_starts_nothing_more_and_stops_what_runs_only_if_asked(stop_running):
    backfill = made(flow(), at_once=2)
    queue = workspace().queues.get(name="root_queue")
    running = claim(queue.pk, "w", uuid4())

    cancel_backfill(backfill, user=None, stop_running=stop_running)

    assert stands(backfill) == Standing.ENDING
    assert counts(backfill) == Counts(7, to_come=1, running=1, stopped=5)
    node = NodeRun.objects.get(pk=running.node_run_id)
    assert node.stop == ("stopped" if stop_running else "")
    with pytest.raises(Conflict, match="is being cancelled"):
        resume_backfill(backfill, user=None)
    how = Outcome(NodeState.STOPPED) if stop_running else SUCCEEDED
    finish(running, how, worker="w", request=uuid4(), take=False)
    sweep.tick()
    assert stands(backfill) == Standing.CANCELLED
    assert work() == []
    assert counts(backfill).succeeded == (0 if stop_running else 1)
    with pytest.raises(Conflict, match="is over"):
        cancel_backfill(backfill, user=None)


def test_cancel_may_be_followed_by_stopping_what_runs():
    backfill = made(flow())
    claim(workspace().queues.get(name="root_queue").pk, "w", uuid4())
    cancel_backfill(backfill, user=None)
    with pytest.raises(Conflict, match="being cancelled already"):
        cancel_backfill(backfill, user=None)

    cancel_backfill(backfill, user=None, stop_running=True)

    assert NodeRun.objects.get(state=NodeState.RUNNING).stop == "stopped"


def test_cancel_that_died_halfway_is_finished_by_the_tick(monkeypatch):
    backfill = made(flow())
    monkeypatch.setattr("apps.runs.services.backfill.stop_rest", lambda pk: None)
    cancel_backfill(backfill, user=None)
    assert counts(backfill) == Counts(7, to_come=2, waiting=5)

    sweep.tick()

    assert counts(backfill) == Counts(7, to_come=2, stopped=5)
    assert stands(backfill) == Standing.CANCELLED


def test_after_a_failed_cycle_it_goes_on():
    backfill = made(flow())

    assert len(work(lambda day: FAILED if day == 3 else SUCCEEDED)) == 7
    assert (stands(backfill), counts(backfill)) == (
        Standing.FAILED,
        Counts(7, succeeded=6, failed=1),
    )


def test_it_pauses_after_so_many_failed_cycles_and_may_be_resumed():
    backfill = made(flow(), stop_after=2)

    assert work(lambda day: FAILED if day in (3, 5) else SUCCEEDED) == [2, 3, 4, 5]
    sweep.tick()
    assert work() == []
    assert (stands(backfill), backfill.why) == (Standing.PAUSED, "2 cycles have failed")

    resume_backfill(backfill, user=None)

    assert work(lambda day: FAILED if day == 6 else SUCCEEDED) == [6, 7, 8]
    assert counts(backfill) == Counts(7, succeeded=4, failed=3)


def test_rerun_in_place_counts_anew_while_it_runs_and_once_it_is_over():
    backfill = made(flow())
    work(lambda day: FAILED if day == 3 else SUCCEEDED)
    run = Run.objects.get(state=RunState.FAILED)

    rerun_failed(run, user=None)

    assert (stands(backfill), counts(backfill)) == (
        Standing.RUNNING,
        Counts(7, succeeded=6, running=1),
    )
    assert work() == [3]
    assert stands(backfill) == Standing.SUCCEEDED


def test_tick_goes_on_where_the_one_who_made_it_died_before_it_was_fed(monkeypatch):
    monkeypatch.setattr("apps.runs.services.backfill.feed", lambda pk: None)
    backfill = made(flow())
    assert launched(backfill) == []
    assert not sweep.is_at_rest()

    sweep.tick()

    assert launched(backfill) == [2, 3, 4, 5, 6]


def test_cycle_gets_its_run_in_the_launchs_own_transaction(monkeypatch):
    backfill = made(
        flow(),
        Asked(first_date=date(2026, 3, 1), last_date=date(2026, 3, 20)),
        clock=lambda: NOW + timedelta(days=20),
    )
    before = launched(backfill)
    real = feeding.launch

    def dies(*args: object, **kwargs: object) -> None:
        real(*args, **kwargs)
        raise RuntimeError("killed")

    monkeypatch.setattr(feeding, "launch", dies)
    Run.objects.update(state=RunState.SUCCEEDED, waits=False, ended_at=NOW)
    with pytest.raises(RuntimeError):
        feed(backfill.pk)

    assert launched(backfill) == before
    assert Run.objects.count() == len(before)
    monkeypatch.undo()
    feed(backfill.pk)
    assert launched(backfill) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def test_feeders_at_once_launch_each_cycle_once():
    year = Asked(first_date=date(2025, 1, 1), last_date=date(2025, 12, 31))
    backfill = made(flow(), year, at_once=1)
    Backfill.objects.update(at_once=300)
    Lane.objects.update(limit=300)

    in_threads(lambda n: feed(backfill.pk), 4)

    runs = Run.objects.values_list("cycle", flat=True)
    assert Counter(runs).most_common(1)[0][1] == 1
    linked = BackfillCycle.objects.exclude(run=None)
    assert runs.count() == linked.count() == 350
    assert list(linked.order_by("position").values_list("run", flat=True)) == list(
        Run.objects.order_by("pk").values_list("pk", flat=True)
    )


def test_job_versions_are_those_of_when_it_was_made():
    workflow = flow()
    backfill = made(workflow)
    save_draft(Job.objects.get(), {"content": "echo 2"}, revision=1)
    publish_job(Job.objects.get(), remarks="", user=None)

    work()

    assert set(NodeRun.objects.values_list("job_version__number", flat=True)) == {1}
    assert counts(backfill) == Counts(7, succeeded=7)


def test_where_a_cycle_cannot_be_launched_it_pauses_and_says_why():
    backfill = made(flow(), stop_after=3)
    queue = workspace().queues.get(name="root_queue")
    whole, mine = queue.capacity, claim(queue.pk, "w", uuid4())
    ResourceQueue.objects.filter(pk=queue.pk).update(capacity=100)

    finish(mine, SUCCEEDED, worker="w", request=uuid4(), take=False)
    run_ended(mine.run_id)

    assert (stands(backfill), launched(backfill)) == (Standing.PAUSED, [2])
    assert "asks for 0.25 CU, and queue 'root_queue' has 0.1 in all" in backfill.why
    ResourceQueue.objects.filter(pk=queue.pk).update(capacity=whole)
    resume_backfill(backfill, user=None)
    assert work() == [3, 4, 5, 6, 7, 8]
    assert counts(backfill) == Counts(7, succeeded=7)


def test_how_a_few_cycles_stand_costs_as_much_after_many_runs_of_others():
    workflow = flow()
    plan = plan_backfill(workflow, WEEK, clock=clock)
    cycles = [each.cycle for each in plan.cycles]
    [run] = launch(workflow.published, cycles=cycles[:1], trigger=Trigger.API, by=None)
    old = [copy(run) for _ in range(3000)]
    for n, each in enumerate(old):
        each.pk, each.cycle = None, cycles[0] - timedelta(hours=n + 1)
    Run.objects.bulk_create(old)

    def rows_read() -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables "
                "WHERE relname = 'runs_run'"
            )
            return cursor.fetchone()[0]

    with connection.cursor() as cursor:
        cursor.execute("ANALYZE runs_run")
    with transaction.atomic():
        before = rows_read()
        assert cycles_stand(workflow, cycles) == {cycles[0]: Stand("pending", run.pk)}
        assert rows_read() - before == 1
        plan_backfill(workflow, replace(WEEK, which=Which.MISSING), clock=clock)
        assert rows_read() - before == 2


def test_workflow_is_not_deleted_before_its_backfills_are_over():
    workflow = flow()
    backfill = made(workflow, stop_after=1)
    pause_backfill(backfill, user=None)
    work()
    refusal = f"^backfill {backfill.pk} of 'flow' is not over; cancel it first, or wait for its"

    with pytest.raises(Conflict, match=refusal):
        delete_workflow(workflow)

    assert Workflow.objects.get().deleted_at is None
    cancel_backfill(backfill, user=None)
    assert stands(backfill) == Standing.CANCELLED
    delete_workflow(workflow)
    with pytest.raises(Conflict, match="was deleted"):
        plan_backfill(Workflow.objects.get(), WEEK, clock=clock)


#   a ─→ b ─→ c
CHAIN = {"edges": [("a", "b"), ("b", "c")]}


@pytest.mark.parametrize(("downstream", "nodes"), [(False, ["b"]), (True, ["b", "c"])])
def test_one_node_runs_alone_or_with_what_is_below_it(downstream, nodes):
    workflow = flow("a", "b", "c", **CHAIN)
    asked = replace(WEEK, last_date=WEEK.first_date, node="b", downstream=downstream)
    assert plan_backfill(workflow, asked, clock=clock).nodes == nodes

    backfill = made(workflow, asked)
    work()

    run = Run.objects.get()
    assert (run.state, run.total, run.succeeded) == (RunState.SUCCEEDED, len(nodes), len(nodes))
    ran = NodeRun.objects.filter(state=NodeState.SUCCEEDED).order_by("pk")
    assert list(ran.values_list("key", flat=True)) == nodes
    assert (stands(backfill), to_repeat([run])) == (Standing.SUCCEEDED, set())
    # The cycle as a whole is still missing, the same part of it is not.
    missing = replace(WEEK, last_date=WEEK.first_date, which=Which.MISSING)
    assert len(plan_backfill(workflow, missing, clock=clock).cycles) == 1
    part = replace(missing, node="b", downstream=downstream)
    assert plan_backfill(workflow, part, clock=clock).cycles == []


def test_queue_chosen_takes_every_node_and_the_preview_says_which_move():
    other = create_queue(workspace(), "other", capacity=8000, development=False, production=True)
    workflow = flow("a", "b", node={"queue": other})
    workflow.refresh_from_db()
    root = workspace().queues.get(name="root_queue")
    asked = replace(WEEK, queue=root)

    plan = plan_backfill(workflow, asked, clock=clock)
    backfill = made(workflow, asked, token=plan.token, remarks="again", addresses=["a@b.example"])

    assert plan.moved == ["a", "b"]
    assert plan_backfill(workflow, WEEK, clock=clock).moved == []
    assert set(NodeRun.objects.values_list("queue", flat=True)) == {root.pk}
    assert {run.remarks for run in Run.objects.all()} == {"again"}
    assert backfill.addresses == ["a@b.example"]


def test_unpublished_workflow_has_no_backfill():
    flow()
    Workflow.objects.update(published=None)

    with pytest.raises(Conflict, match="is not published"):
        plan_backfill(Workflow.objects.get(), WEEK, clock=clock)


def test_forgotten_runs_are_counted_as_they_ended_and_never_run_again():
    backfill = made(flow(), stop_after=1)
    work(lambda day: FAILED if day == 4 else SUCCEEDED)
    Run.objects.filter(cycle__day=4).update(ended_at=datetime.now(UTC))
    Run.objects.filter(cycle__day__lt=4).update(ended_at=NOW - timedelta(days=10))

    prune(days=5)

    assert counts(backfill) == Counts(7, to_come=4, succeeded=2, failed=1)
    resume_backfill(backfill, user=None)
    assert work() == [5, 6, 7, 8]
    Run.objects.update(ended_at=NOW - timedelta(days=10))
    Backfill.objects.update(ended_at=NOW - timedelta(days=10))
    prune(days=5)
    assert (Backfill.objects.count(), BackfillCycle.objects.count(), Run.objects.count()) == (
        0,
        0,
        0,
    )
    assert not Lane.objects.exists()


def test_rerun_of_a_part_is_about_that_part_unless_another_node_is_named():
    workflow = flow("a", "b", "c", **CHAIN)
    asked = replace(WEEK, last_date=WEEK.first_date, node="b", downstream=True)
    backfill = made(workflow, asked)
    run = Run.objects.get()
    assert to_repeat([run]) == set()
    work(lambda day: FAILED)
    run.refresh_from_db()
    assert (run.state, failed_scope(run)) == (RunState.FAILED, ["b", "c"])

    assert plan_anew(run).again == ["b", "c"]
    again = rerun_anew(run, user=None)
    work()
    again.refresh_from_db()
    assert (again.state, again.total) == (RunState.SUCCEEDED, 2)
    whole = replace(asked, node="", downstream=False, which=Which.MISSING)
    assert len(plan_backfill(workflow, whole, clock=clock).cycles) == 1

    rerun_failed(run, user=None)
    work()
    assert stands(backfill) == Standing.SUCCEEDED
    # From here on the run is about what was left out of it, too.
    rerun_nodes(run, ["a"], user=None)
    work(lambda day: FAILED)
    run.refresh_from_db()
    assert (run.state, run.total) == (RunState.FAILED, 3)
    set_success(run.nodes.get(key="a"), reason="loaded by hand", user=None)
    assert stands(backfill) == Standing.SUCCEEDED


def test_node_left_out_and_set_to_success_brings_back_nothing_that_ran():
    workflow = flow("a", "b", "c", **CHAIN)
    made(workflow, replace(WEEK, last_date=WEEK.first_date, node="b"))
    work()
    run = Run.objects.get()

    set_success(run.nodes.get(key="c"), reason="by hand", user=None)

    run.refresh_from_db()
    assert (run.state, run.total, run.succeeded) == (RunState.SUCCEEDED, 2, 2)


def test_refusal_says_which_part_of_the_preview_is_another_by_now():
    workflow = flow()
    before = plan_backfill(workflow, WEEK, clock=clock).token

    with pytest.raises(Conflict, match="its token is none of this workflow's"):
        made(workflow, token="made up")
    with pytest.raises(Conflict, match="other cycles by now, or the same in another order"):
        made(workflow, replace(WEEK, order=Order.NEWEST), token=before)
    edit_workflow(workflow, revision=workflow.revision, retries=1)
    publish(workflow, remarks="", user=None)
    with pytest.raises(Conflict, match="version 2 is the one to run by now"):
        made(workflow, token=before)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(dates=[WEEK.first_date] * 20_001), "name 20,000 at most"),
        (Asked(first_cycle=NOW), "say both the first and the last cycle"),
        (Asked(first_cycle=NOW, last_cycle=NOW - timedelta(1)), "is before 2026-03-10"),
        (Asked(cycles=[NOW.replace(year=1899)]), "outside the years 1900 to 2199"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked, message):
    with pytest.raises(Invalid, match=message):
        plan_backfill(flow(), asked, clock=clock)


def test_listed_cycles_need_not_be_points_of_the_schedule():
    cycles = [NOW, NOW - timedelta(days=1), NOW]

    backfill = made(flow(), Asked(cycles=cycles))

    assert list(backfill.cycles.order_by("position").values_list("cycle", flat=True)) == [
        NOW - timedelta(days=1),
        NOW,
    ]


def test_version_of_a_job_that_is_gone_pauses_the_backfill():
    backfill = made(flow(), stop_after=1)
    assert nodes_of(backfill) == ["a"]
    Backfill.objects.update(job_versions={"a": 2**40})

    work()

    assert stands(backfill) == Standing.PAUSED
    assert backfill.why == "node 'a': the version of its job that it was to run was deleted"


def test_kind_that_went_with_its_package_pauses_the_backfill():
    backfill = made(flow(), stop_after=1)
    JobVersion.objects.update(kind="lost")

    work()

    assert stands(backfill) == Standing.PAUSED
    assert "lost" in backfill.why


def test_run_that_starts_as_its_backfill_is_cancelled_goes_on(monkeypatch):
    backfill = made(flow(), Asked(dates=[WEEK.first_date]))
    real = feeding.lock_nodes

    def starts_before(run_id: int) -> list[NodeRun]:
        monkeypatch.undo()
        claim(workspace().queues.get(name="root_queue").pk, "w", uuid4())
        return real(run_id)

    monkeypatch.setattr(feeding, "lock_nodes", starts_before)

    cancel_backfill(backfill, user=None)

    assert (stands(backfill), NodeRun.objects.get().stop) == (Standing.ENDING, "")


def test_forgotten_backfill_cannot_be_paused():
    backfill = made(flow())
    Backfill.objects.filter(pk=backfill.pk).delete()

    with pytest.raises(NotFound, match="any more"):
        pause_backfill(backfill, user=None)
