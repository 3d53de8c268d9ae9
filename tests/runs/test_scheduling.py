"""The scheduler: every due point once, with its run or the reason why it has none."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from django.utils import timezone

from apps.core.errors import Conflict
from apps.engine.states import Missed, Overlap, RunState, Trigger
from apps.runs.models import Run, SchedulePoint
from apps.runs.services import scheduling, sweep
from apps.runs.services.holding import hold, release, tag_workflow
from apps.runs.services.launch import launch
from apps.runs.services.prune import prune
from apps.runs.services.scheduling import due, due_soon, latest_today, switch, take_due
from apps.workflows.models import Schedule, Workflow, WorkflowVersion
from apps.workflows.services.drafting import delete_workflow, edit_workflow
from apps.workflows.services.publishing import publish
from apps.workflows.services.schedules import timetable_of
from apps.workspaces.models import ResourceQueue, WorkspaceHold
from tests.factories import published, workspace
from tests.runs.test_races import in_threads
from tests.waiting import until

pytestmark = pytest.mark.django_db

HOURLY = {"kind": "hours", "every": 1, "started_at": "2026-01-01T00:00:00Z"}
#: When all versions here were published, and the schedules turned on.
DAWN = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


def at(hours: float) -> Callable[[], datetime]:
    """A clock that stands so many hours after midnight of that day."""
    return lambda: DAWN - HOUR / 2 + hours * HOUR


def scheduled(name: str = "flow", *, on: bool = True, **settings: object) -> Workflow:
    flow = published("a", name=name, **{"schedule": HOURLY, **settings}).workflow
    WorkflowVersion.objects.filter(workflow=flow).update(created_at=DAWN)
    if on:
        switch(flow, on=True, user=None, clock=lambda: DAWN)
    return Workflow.objects.get(pk=flow.pk)


def look(hours: float) -> None:
    take_due(due(at(hours)), at(hours))


def points(flow: Workflow) -> list[tuple[int, str]]:
    """Hours of that day, and what came of them."""
    rows = SchedulePoint.objects.filter(workflow=flow).order_by("cycle")
    return [(row.cycle.hour, row.reason or "run") for row in rows]


def test_point_is_launched_once_however_often_somebody_looks():
    flow = scheduled()

    for hours in (0.9, 1, 1, 1.001, 1.5):
        look(hours)

    run = Run.objects.get()
    assert (run.cycle, run.trigger, run.version, run.created_by) == (
        at(1)(),
        Trigger.SCHEDULE,
        flow.published,
        None,
    )
    assert run.schedule_point.workflow == flow
    assert flow.scheduling.next_at == at(2)()
    assert points(flow) == [(1, "run")]


def test_schedule_that_is_off_launches_nothing_and_what_was_due_before_still_runs():
    flow = scheduled(on=False)
    look(1.5)
    assert (Run.objects.count(), Schedule.objects.count()) == (0, 0)

    switch(flow, on=True, user=None, clock=at(1.5))
    switch(flow, on=False, user=None, clock=at(2.01))
    look(5)

    assert points(flow) == [(2, "run")]
    assert Schedule.objects.get().next_at is None


def test_switching_twice_changes_nothing_the_second_time():
    flow = scheduled()

    switch(flow, on=True, user=None, clock=at(1.5))

    assert Schedule.objects.get().done_until == DAWN


def test_a_late_switch_runs_nothing_of_before_but_the_latest_of_today_where_asked():
    flow, other = scheduled(on=False), scheduled("other", on=False)

    assert latest_today(flow, at(3.5)()) == at(3)()
    switch(flow, on=True, user=None, run_latest=True, clock=at(3.5))
    switch(other, on=True, user=None, clock=at(3.5))
    look(3.5)

    assert (points(flow), points(other)) == ([(3, "run")], [])
    assert latest_today(flow, at(3.5)()) is None


@pytest.mark.parametrize(
    ("published_first", "settings", "fault"),
    [(True, {"schedule": None}, "has no schedule in v1"), (False, {}, "is not published")],
)
def test_what_cannot_be_turned_on_says_why(published_first, settings, fault):
    flow = scheduled(on=False, **settings)
    if not published_first:
        Workflow.objects.update(published=None)

    with pytest.raises(Conflict, match=fault):
        switch(flow, on=True, user=None)


@pytest.mark.parametrize(
    ("missed", "expected"),
    [
        ("latest", [(1, "missed"), (2, "missed"), (3, "missed"), (4, "run")]),
        ("all", [(1, "run"), (2, "run"), (3, "run"), (4, "run")]),
        ("none", [(1, "missed"), (2, "missed"), (3, "missed"), (4, "missed")]),
    ],
)
def test_missed_cycles_after_everything_was_down(missed, expected):
    flow = scheduled(schedule={**HOURLY, "missed": missed})

    look(4.5)

    assert points(flow) == expected


def test_a_point_that_is_found_a_little_late_was_not_missed():
    flow = scheduled(schedule={**HOURLY, "missed": "none"})

    look(1 + 59 / 3600)

    assert points(flow) == [(1, "run")]


def test_what_is_more_than_a_batch_is_taken_batch_by_batch_and_one_alone_is_the_latest():
    flow = scheduled(schedule={**HOURLY, "kind": "minutes", "every": 1})
    look(1)
    first = SchedulePoint.objects.count()
    assert due(at(8)) == [flow.pk]
    for _ in range(5):
        look(8)

    rows = SchedulePoint.objects.order_by("cycle")
    assert first == 30
    assert [row.cycle for row in rows] == [DAWN + timedelta(minutes=n) for n in range(1, 451)]
    a_minute_ago = [at(1 - 1 / 60)(), at(8 - 1 / 60)()]
    assert [row.cycle for row in rows if row.run_id] == sorted([at(1)(), at(8)(), *a_minute_ago])
    assert due(at(8)) == []


def test_overlap_skip_notes_the_run_that_was_in_the_way():
    flow = scheduled(overlap=Overlap.SKIP)

    look(1)
    look(2)

    assert points(flow) == [(1, "run"), (2, "overlap")]
    note = SchedulePoint.objects.get(reason="overlap").note
    assert note.startswith(f"run {Run.objects.get().pk} of workflow 'flow' is not over")


def test_what_cannot_be_launched_is_noted_and_not_tried_for_ever():
    flow = scheduled()
    ResourceQueue.objects.update(capacity=1)

    look(1)
    look(1.1)

    assert points(flow) == [(1, "fault")]
    assert "asks for 0.25 CU" in SchedulePoint.objects.get().note


def test_changing_a_schedule_neither_repeats_nor_drops_a_point_that_was_due():
    flow = scheduled(schedule={**HOURLY, "missed": "all"})
    look(1)
    half = {"kind": "cron", "cron": "30 * * * *", "missed": "all"}
    edit_workflow(flow, revision=2, schedule={**half, "started_at": HOURLY["started_at"]})
    second = publish(flow, remarks="", user=None)
    WorkflowVersion.objects.filter(pk=second.pk).update(created_at=at(3.25)())
    Schedule.objects.update(next_at=at(4.75)())

    look(4.75)

    cycles = SchedulePoint.objects.order_by("cycle").values_list("cycle", flat=True)
    assert list(cycles) == [at(h)() for h in (1, 2, 3, 3.5, 4.5)]
    assert {run.version.number for run in Run.objects.exclude(cycle=at(1)())} == {2}


def test_publishing_wakes_the_scheduler_at_once():
    flow = scheduled()
    before = timezone.now()
    edit_workflow(flow, revision=2, schedule={**HOURLY, "every": 2})

    publish(flow, remarks="", user=None)

    assert before <= Schedule.objects.get().next_at <= timezone.now()


def test_version_without_a_schedule_leaves_the_switch_and_nothing_falls_due():
    flow = scheduled()
    edit_workflow(flow, revision=2, schedule=None)
    second = publish(flow, remarks="", user=None)
    WorkflowVersion.objects.filter(pk=second.pk).update(created_at=at(1.5)())
    Schedule.objects.update(next_at=at(1.5)())

    look(5)

    schedule = Schedule.objects.get()
    assert (schedule.on, schedule.next_at, points(flow)) == (True, None, [(1, "run")])


@pytest.mark.parametrize("on", ["workspace", "queue", "tag"])
@pytest.mark.parametrize("missed", list(Missed))
@pytest.mark.django_db(transaction=True)
def test_release_of_a_hold_says_what_becomes_of_the_cycles_that_fell_due_meanwhile(on, missed):
    flow = scheduled(schedule={**HOURLY, "missed": "all"})
    Workflow.objects.update(tags={"team": "finance"})
    queue = ResourceQueue.objects.get(name="root_queue") if on == "queue" else None
    made = hold(workspace(), queue=queue, tag="team" if on == "tag" else "", user=None)
    WorkspaceHold.objects.update(created_at=at(1.5)())
    look(1)
    look(3)
    assert points(flow) == []

    release(made, missed=missed, user=None)
    WorkspaceHold.objects.update(released_at=at(3.5)())
    assert Schedule.objects.get().next_at <= timezone.now()
    Schedule.objects.update(next_at=at(4)())
    look(4.5)

    held = {
        Missed.LATEST: [(2, "missed"), (3, "missed")],
        Missed.ALL: [(2, "run"), (3, "run")],
        Missed.NONE: [(2, "missed"), (3, "missed")],
    }
    assert points(flow) == [(1, "run"), *held[missed], (4, "run")]
    notes = set(SchedulePoint.objects.exclude(note="").values_list("note", flat=True))
    assert all(note.startswith(f"held: {on} ") for note in notes)


def test_a_tick_launches_what_is_due_and_waits_for_what_falls_due_within_a_second():
    now = sweep.database_clock()
    past, soon, later = (scheduled(name) for name in ("past", "soon", "later"))
    for flow, when in ((past, -1), (soon, 0.4), (later, 30)):
        moment = now + timedelta(seconds=when)
        WorkflowVersion.objects.filter(workflow=flow).update(created_at=DAWN)
        done = now.replace(minute=0, second=0, microsecond=0) - timedelta(microseconds=1)
        Schedule.objects.filter(workflow=flow).update(next_at=moment, done_until=done)

    sweep.tick()

    found = {point.workflow.name for point in SchedulePoint.objects.all()}
    assert found == {"past", "soon"}


def test_nothing_due_is_rest_and_a_point_within_a_second_is_not():
    assert sweep.is_at_rest()
    scheduled()
    Schedule.objects.update(next_at=timezone.now() + timedelta(seconds=30))
    assert sweep.is_at_rest()
    Schedule.objects.update(next_at=timezone.now() + timedelta(seconds=0.5))

    assert not sweep.is_at_rest()
    assert 0 < due_soon(timezone.now() + timedelta(seconds=1), timezone.now) <= 0.5


def test_schedule_that_is_on_keeps_its_workflow_from_being_deleted():
    flow = scheduled()
    with pytest.raises(Conflict, match="turn it off first"):
        delete_workflow(flow)

    switch(flow, on=False, user=None, clock=lambda: DAWN)
    delete_workflow(flow)

    look(5)
    assert points(flow) == []


def test_scheduled_run_waits_for_one_by_hand_of_the_same_cycle():
    flow = scheduled()
    [first] = launch(flow.published, cycles=[at(1)()], trigger=Trigger.MANUAL, by=None)

    look(1)

    assert Run.objects.get(trigger="schedule").waits_for == first


def test_points_are_forgotten_with_their_runs_and_none_comes_again():
    flow = scheduled()
    look(2.5)
    Run.objects.update(state=RunState.STOPPED, ended_at=timezone.now() - timedelta(days=9))
    SchedulePoint.objects.update(made_at=timezone.now() - timedelta(days=9))
    assert points(flow) == [(1, "missed"), (2, "run")]

    prune(days=8)
    look(2.5)

    assert (points(flow), Run.objects.count()) == ([], 0)


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(120)
def test_many_who_look_at_once_take_every_point_once():
    flows = [scheduled(f"flow{n}", schedule={**HOURLY, "missed": "all"}) for n in range(6)]

    in_threads(lambda _: look(3.5), 6)
    until(lambda: not due(at(3.5)) or look(3.5), "the last of them")

    assert [points(flow) for flow in flows] == [[(1, "run"), (2, "run"), (3, "run")]] * 6
    assert Run.objects.count() == 18


@pytest.mark.parametrize("count", [2, 12])
def test_however_many_are_due_at_once_they_cost_so_many_statements(
    django_assert_num_queries, count
):
    flows = [scheduled(f"flow{n:02}") for n in range(count)]
    for flow in flows:
        tag_workflow(flow, {"team": "sales"}, user=None)

    with django_assert_num_queries(21):
        look(1)

    assert [points(flow) for flow in flows] == [[(1, "run")]] * count


def test_of_many_that_are_due_at_once_each_gets_what_is_its_own():
    alone, skips = scheduled("alone"), scheduled("skips", overlap=Overlap.SKIP)
    waits, held = scheduled("waits", overlap=Overlap.WAIT), scheduled("held")
    lost = scheduled("lost")
    tag_workflow(held, {"team": "sales"}, user=None)
    look(1)
    hold(workspace(), tag="team=sales", user=None)
    graph = lost.published.graph
    graph["nodes"][0]["job"] = 0
    WorkflowVersion.objects.filter(pk=lost.published_id).update(graph=graph)

    look(2)

    assert points(alone) == points(waits) == [(1, "run"), (2, "run")]
    assert points(skips) == [(1, "run"), (2, "overlap")]
    assert points(held) == [(1, "run")]
    assert points(lost) == [(1, "run"), (2, "fault")]
    of_lane = {flow.name: [] for flow in (alone, waits)}
    for run in Run.objects.filter(name__in=of_lane).order_by("pk"):
        of_lane[run.name].append(run.waits)
    assert of_lane == {"alone": [False, False], "waits": [False, True]}


def test_a_look_makes_so_many_node_runs_and_who_had_no_room_comes_first_next_time(monkeypatch):
    monkeypatch.setattr(scheduling, "BATCH_NODES", 10)
    missed = {**HOURLY, "missed": "all"}
    flows = [scheduled(f"flow{n}", schedule=missed) for n in range(4)]
    had = []
    for _ in range(5):
        look(6.5)
        had.append([len(points(flow)) for flow in flows])

    # Six points each, of one node.
    assert had[:3] == [[6, 4, 0, 0], [6, 4, 6, 4], [6, 6, 6, 6]]
    assert Run.objects.count() == 24
    assert due(at(6.5)) == []


def test_schedule_that_is_turned_off_while_it_is_held_says_what_was_missed():
    flow = scheduled()
    held = hold(workspace(), user=None)
    look(2.5)

    switch(flow, on=False, user=None, clock=at(3.5))
    release(held, missed=Missed.ALL, user=None)
    switch(flow, on=True, user=None, clock=at(3.6))
    look(4)

    assert points(flow) == [(1, "missed"), (2, "missed"), (3, "missed"), (4, "run")]
    note = SchedulePoint.objects.filter(reason="missed").values_list("note", flat=True)[0]
    assert note == "held: workspace default; then the schedule was turned off"


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(120)
def test_one_that_is_broken_costs_the_others_that_are_due_with_it_nothing():
    flows = [scheduled(f"flow{n}") for n in range(4)]
    WorkflowVersion.objects.filter(pk=flows[1].published_id).update(graph={"settings": {}})
    hour = sweep.database_clock().replace(minute=0, second=0, microsecond=0)
    Schedule.objects.update(next_at=hour, done_until=hour - timedelta(seconds=1))

    sweep.tick()

    found = SchedulePoint.objects.filter(run__isnull=False).order_by("workflow__name")
    assert [row.workflow.name for row in found] == ["flow0", "flow2", "flow3"]


OF_EVERY_KIND = [
    {"kind": "days", "time": "02:30"},
    {"kind": "hours", "every": 5, "from": "22:00", "to": "19:00"},
    {"kind": "minutes", "every": 50},
    {"kind": "cron", "cron": "*/40 * * * *"},
    {"kind": "weekly", "days": ["sun"], "time": "03:00"},
]


@pytest.mark.timeout(120)
def test_a_day_of_irregular_doubled_looks_takes_every_point_once():
    """24 hours of a simulated clock, the night in which Berlin's is put forward among them."""
    begin = datetime(2026, 3, 28, 22, tzinfo=UTC)
    flows = {}
    for n, said in enumerate(OF_EVERY_KIND):
        said = {**said, "started_at": HOURLY["started_at"], "missed": "all"}
        flow = scheduled(f"flow{n}", schedule=said, zone="Europe/Berlin", on=False)
        switch(flow, on=True, user=None, clock=lambda: begin)
        flows[flow] = timetable_of(flow.published)
    rng = random.Random(24)  # noqa: S311 -- the same day each time
    now = begin
    while now < begin + timedelta(hours=24):
        # From beats in time to an hour in which nobody looked.
        now += timedelta(seconds=rng.choice([1, 60, 600, 3600]) * rng.random())
        now = min(now, begin + timedelta(hours=24))
        clock = partial(datetime.fromtimestamp, now.timestamp(), UTC)
        for some in (due(clock), due(clock)):
            take_due(some, clock)

    for flow, timetable in flows.items():
        rows = SchedulePoint.objects.filter(workflow=flow).order_by("cycle")
        assert [row.cycle for row in rows] == list(timetable.points(begin, now))
        assert all(row.run.cycle == row.cycle for row in rows.select_related("run"))
    assert Run.objects.count() == SchedulePoint.objects.count() > 50
