"""What is told though nothing has failed: late cycles, slow runs, numbers that nodes leave."""

from __future__ import annotations

import re
from copy import copy
from datetime import datetime, time, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from apps.core.errors import Invalid, NotFound
from apps.engine.roles import Role
from apps.engine.states import NodeState, RunState, Trigger
from apps.notifications.models import Delivery, ValueCheck, Watch
from apps.notifications.services.lateness import tell_late, tell_overdue, tell_slow
from apps.notifications.services.numbers import tell_numbers
from apps.notifications.services.outbox import deliver
from apps.notifications.services.subscriptions import subscribe
from apps.notifications.services.tick import tick
from apps.notifications.services.watching import Watched, read_time, set_watch, watch_of
from apps.runs.models import Run, SchedulePoint
from apps.runs.services.holding import hold
from apps.runs.services.hot_path import Claim, Outcome, claim, finish
from apps.runs.services.launch import launch
from apps.runs.services.scheduling import switch, take_due
from apps.runs.services.values import store_values
from apps.workflows.models import WorkflowVersion
from apps.workflows.services.drafting import delete_workflow
from tests.api import program
from tests.factories import by_hand, published, workspace
from tests.html import errors
from tests.people import member

pytestmark = pytest.mark.django_db

ME, MAYA = "worker@here:1", "maya@example.com"
SUCCEEDED = Outcome(NodeState.SUCCEEDED, exit_code=0)
FAILED = Outcome(NodeState.FAILED, exit_code=1, reason="exit code 1")
BOGOTA = ZoneInfo("America/Bogota")  # its clock never changes
_SOON = timezone.now() + timedelta(hours=1)
#: The next daily cycle at 02:00 UTC, over an hour ahead.
DUE = _SOON.replace(hour=2, minute=0, second=0, microsecond=0)
DUE += timedelta(days=DUE <= _SOON)


def daily(name: str = "flow", *, on: bool = True, **settings: object) -> WorkflowVersion:
    schedule = {"kind": "days", "time": "02:00", "started_at": "2026-01-01T00:00:00Z"}
    version = published("load", name=name, **{"schedule": schedule, **settings})
    subscribe(version.workflow, [MAYA])
    if on:
        switch(version.workflow, on=True, user=None)
    return version


def look(at: datetime) -> None:
    tell_late(clock=lambda: at)


def schedule_runs(version: WorkflowVersion, at: datetime = DUE) -> Run:
    """What the scheduler does then; the run."""
    take_due([version.workflow_id], clock=lambda: at + timedelta(seconds=1))
    return Run.objects.get(workflow=version.workflow_id, cycle=at)


def take() -> Claim:
    mine = claim(workspace().queues.get(name="root_queue").pk, ME, uuid4())
    assert mine is not None
    return mine


def end(outcome: Outcome = SUCCEEDED, values: dict[str, str] | None = None) -> None:
    mine = take()
    if values is not None:
        store_values(mine, values)
    finish(mine, outcome, worker=ME, request=uuid4(), take=False)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def told() -> list[str]:
    """What was told, of the newest first."""
    rows = Delivery.objects.exclude(kind__in=["opened", "recovered"]).order_by("-pk")
    return [
        subject.removesuffix(" [default]") for subject in rows.values_list("subject", flat=True)
    ]


def said() -> str:
    """The newest message."""
    row = Delivery.objects.order_by("-pk").first()
    assert row is not None
    return row.text


# --- cycles -----------------------------------------------------------------------------------


def test_a_cycle_that_has_not_started_in_time_is_told_once_and_one_that_has_is_not(server):
    version = daily()
    set_watch(version.workflow, Watched(start_within_minutes=15))
    run = schedule_runs(version)

    for at in (14, 14.9, 15, 15.1, 16, 17, 200):
        look(DUE + minutes(at))
        assert len(told()) == int(at >= 15)
    deliver()

    [(address, mail)] = server.got
    assert (address, mail["Subject"]) == (
        MAYA,
        f"Late: flow of {DUE:%Y-%m-%d} 02:00 is not started [default]",
    )
    assert (
        f"flow: Late. The cycle of {DUE:%Y-%m-%d} 02:00 was not started by {DUE:%Y-%m-%d} 02:15. "
        f"Run {run.pk} is pending.\n" in said()
    )
    assert f"https://runyard.example.org/w/default/runs/{run.pk}/\n" in said()

    following = DUE + timedelta(days=1)
    schedule_runs(version, following)
    take()
    take()
    look(following + minutes(20))
    assert len(told()) == 1


def test_a_cycle_without_a_run_is_late_from_when_it_was_due(server):
    version = daily()
    set_watch(version.workflow, Watched(start_within_minutes=15))

    look(DUE + minutes(15))

    assert "It has no run.\n" in said()
    assert f"/w/default/workflows/{version.workflow_id}/schedule/\n" in said()


def test_a_held_schedule_and_a_missed_point_say_why_nothing_runs():
    version = daily()
    set_watch(version.workflow, Watched(start_within_minutes=15))
    SchedulePoint.objects.create(
        workflow=version.workflow, cycle=DUE, reason="missed", note="nothing could start"
    )
    look(DUE + minutes(15))
    assert "It has no run: nothing could start.\n" in said()

    hold(workspace(), reason="moving", user=None)
    look(DUE + timedelta(days=1) + minutes(15))

    assert "It has no run: workspace default is held.\n" in said()


@pytest.mark.parametrize(
    ("watched", "outcome", "done_after", "late"),
    [
        ({"done_within_minutes": 60}, SUCCEEDED, 60, False),
        ({"done_within_minutes": 60}, SUCCEEDED, 61, True),
        ({"done_within_minutes": 60}, FAILED, 5, True),
        ({"done_by": time(7)}, SUCCEEDED, 300, False),
        ({"done_by": time(7)}, SUCCEEDED, 301, True),
        ({"done_by": time(2)}, SUCCEEDED, 1440, False),
        ({"done_by": time(2)}, SUCCEEDED, 1441, True),
        ({"start_within_minutes": 10}, FAILED, 100, False),
    ],
)
def test_a_cycle_is_done_in_time_once_a_run_of_it_has_succeeded(watched, outcome, done_after, late):
    version = daily()
    set_watch(version.workflow, Watched(**watched))
    run = schedule_runs(version)
    end(outcome)
    Run.objects.filter(pk=run.pk).update(
        started_at=DUE + minutes(1), ended_at=DUE + minutes(done_after)
    )

    for hour in range(1, 26):
        look(DUE + timedelta(hours=hour))

    # The next day's has no run at all.
    mine = [subject for subject in told() if f"{DUE:%Y-%m-%d} 02:00" in subject]
    assert mine == [f"Late: flow of {DUE:%Y-%m-%d} 02:00 is not done"] * late


def test_a_wall_clock_time_is_that_of_the_workflows_zone():
    version = daily(zone="America/Bogota")
    set_watch(version.workflow, Watched(done_by=time(7)))
    due = DUE.replace(tzinfo=BOGOTA)
    seven = due.replace(hour=7)

    look(seven - minutes(1))
    assert told() == []
    look(seven)

    assert told() == [f"Late: flow of {due:%Y-%m-%d} 02:00 is not done"]
    assert f"Deadline: {due:%Y-%m-%d} 07:00:00 America/Bogota\n" in said()


def test_another_run_of_the_cycle_counts_and_a_debug_run_does_not():
    version = daily()
    set_watch(version.workflow, Watched(done_within_minutes=60))
    given = {"cycles": [DUE], "by": None}
    launch(version, trigger=Trigger.MANUAL, **given)
    end()

    look(DUE + minutes(61))
    assert told() == []

    following = DUE + timedelta(days=1)
    dev = workspace().queues.get(name="dev_queue")
    launch(version, trigger=Trigger.DEBUG, queue=dev, cycles=[following], by=None)
    Run.objects.filter(cycle=following).update(state=RunState.SUCCEEDED, ended_at=Now())
    look(following + minutes(61))

    assert len(told()) == 1


def test_a_run_of_the_cycle_counts_however_many_came_after_it():
    version = daily()
    set_watch(version.workflow, Watched(done_within_minutes=60))
    [run] = launch(version, cycles=[DUE], trigger=Trigger.MANUAL, by=None)
    end()
    newer = [copy(run) for _ in range(500)]
    for n, each in enumerate(newer):
        each.pk, each.cycle = None, DUE - timedelta(days=400, hours=n)
    Run.objects.bulk_create(newer)

    look(DUE + minutes(61))

    assert told() == []


def test_nobody_is_told_where_the_schedule_is_off_or_the_workflow_deleted():
    never, off, gone = daily("never", on=False), daily(), daily("gone")
    for version in (never, off, gone):
        set_watch(version.workflow, Watched(start_within_minutes=15))
    for version in (off, gone):
        switch(version.workflow, on=False, user=None)
    delete_workflow(gone.workflow)

    look(DUE + minutes(15))

    assert told() == []
    with pytest.raises(NotFound):
        set_watch(gone.workflow, Watched())


def test_who_is_added_later_hears_of_no_deadline_of_before():
    version = daily()
    set_watch(version.workflow, Watched(start_within_minutes=15))
    look(DUE + minutes(15))

    subscribe(version.workflow, [MAYA, "li@example.com"])
    look(DUE + minutes(17))

    assert list(Delivery.objects.values_list("address", flat=True)) == [MAYA]


def test_a_look_says_when_to_look_again():
    version = daily()
    set_watch(version.workflow, Watched(start_within_minutes=15, done_by=time(7)))

    def next_after(at: datetime) -> timedelta:
        look(at)
        return Watch.objects.get().next_at - at

    assert next_after(DUE) == timedelta(seconds=60)
    assert next_after(DUE + minutes(14.5)) == timedelta(seconds=30)
    assert next_after(DUE + minutes(299.75)) == timedelta(seconds=15)


def test_after_long_silence_a_days_deadlines_are_told():
    version = daily(schedule={"kind": "hours", "every": 1, "started_at": "2026-01-01T00:00:00Z"})
    set_watch(version.workflow, Watched(start_within_minutes=15))

    look(DUE + timedelta(days=3) + minutes(15))

    assert len(told()) == 24


@pytest.mark.parametrize("n", [1, 4])
def test_a_look_is_as_many_statements_for_any_number_of_watches(n, django_assert_num_queries):
    for i in range(n):
        set_watch(
            daily(f"flow_{i}").workflow,
            Watched(start_within_minutes=15, done_within_minutes=60, done_by=time(7)),
        )

    with django_assert_num_queries(6):
        look(DUE + minutes(5))  # nothing is late
    with django_assert_num_queries(4):
        look(DUE + minutes(5))  # nothing is due

    assert told() == []


def test_where_nothing_is_watched_a_look_is_a_statement_each(django_assert_num_queries):
    by_hand(daily(on=False))

    for each in (tell_late, tell_overdue, tell_slow, tell_numbers):
        with django_assert_num_queries(1):
            each()


def test_a_zone_that_is_not_known_any_more_keeps_no_other_watch_from_its_look(caplog):
    lost, version = daily("lost", zone="Europe/Berlin"), daily()
    for each in (lost, version):
        set_watch(each.workflow, Watched(start_within_minutes=15))
    lost.graph["settings"]["zone"] = "Europe/Nowhere"
    WorkflowVersion.objects.filter(pk=lost.pk).update(graph=lost.graph)

    look(DUE + minutes(15))

    assert told() == [f"Late: flow of {DUE:%Y-%m-%d} 02:00 is not started"]
    assert "cannot be watched" in caplog.text


def test_what_cannot_be_told_of_one_run_keeps_nothing_back_of_the_others(caplog):
    versions = [daily(name, on=False) for name in ("lost", "flow")]
    for version in versions:
        watched = Watched(start_within_minutes=1, slow=True, values=["load.rows < 1"])
        set_watch(version.workflow, watched)
        by_hand(version)
        end(values={"rows": "0"})
    for version in versions:
        by_hand(version)
    Watch.objects.update(since=F("since") - minutes(9))
    Run.objects.filter(state="pending").update(created_at=Now() - minutes(5))
    Run.objects.filter(workflow=versions[0].workflow_id).update(zone="Europe/Nowhere")

    tell_numbers()
    tell_overdue()

    [late, number] = told()
    assert number == "flow: load.rows is 0"
    assert re.sub(r"\d+", "7", late) == "Late: run 7 of flow"
    assert caplog.text.count("cannot be told") == 2


# --- runs -------------------------------------------------------------------------------------


def test_a_run_by_hand_is_due_from_when_it_was_asked_for():
    version = daily(on=False)
    set_watch(version.workflow, Watched(start_within_minutes=15, done_within_minutes=60))
    Watch.objects.update(since=Now() - timedelta(days=1))
    run = by_hand(version)

    def after(count: float) -> list[str]:
        Run.objects.filter(pk=run.pk).update(created_at=Now() - minutes(count))
        tell_overdue()
        tell_overdue()
        return told()

    assert after(14.9) == []
    assert after(15.1) == [f"Late: run {run.pk} of flow"]
    assert f"Run {run.pk} is not started 15 min after it was asked for.\n" in said()
    take()
    assert len(after(59.9)) == 1
    assert len(after(60.1)) == 2
    assert f"Run {run.pk} is not done 60 min after it was asked for.\n" in said()


@pytest.mark.parametrize(
    ("usual", "past", "runs_for", "slow"),
    [
        pytest.param(100, 5, 155, True, id="longer than 1.5 times the usual"),
        pytest.param(100, 5, 145, False, id="a little longer"),
        pytest.param(10, 5, 50, False, id="within a minute nothing is slow"),
        pytest.param(100, 4, 500, False, id="too little is known"),
    ],
)
def test_a_run_is_slow_against_its_own_history(usual, past, runs_for, slow):
    version = daily(on=False)
    set_watch(version.workflow, Watched(slow=True))
    for _ in range(past):
        run = by_hand(version)
        end()
        Run.objects.filter(pk=run.pk).update(started_at=F("ended_at") - timedelta(seconds=usual))
    run = by_hand(version)
    take()
    Run.objects.filter(pk=run.pk).update(started_at=Now() - timedelta(seconds=runs_for))

    tell_slow()
    tell_slow()

    assert told() == [f"Slow: run {run.pk} of flow"] * slow


# --- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "left", "what"),
    [
        ("load.rows < 1", {"rows": "0"}, "load.rows is 0"),
        ("load.rows < 1", {"rows": "1"}, None),
        ("load.rows <= 1", {"rows": "1"}, "load.rows is 1"),
        ("load.rows > 1e3", {"rows": "1000.5"}, "load.rows is 1000.5"),
        ("load.rows >= 5", {"rows": "4"}, None),
        ("load.rows = 0", {"rows": "-0.0"}, "load.rows is -0.0"),
        ("load.rows != 7", {"rows": "7"}, None),
        ("load.rows < 1", {"rows": "many"}, "load.rows is no number"),
        ("load.rows < 1", {"rows": "nan"}, "load.rows is no number"),
        ("load.rows < 1", {"rows": "1_0"}, "load.rows is no number"),
        ("load.rows < 1", {"other": "1"}, "load.rows is missing"),
        ("load.rows < 1", None, "load.rows is missing"),
    ],
)
def test_a_number_that_a_node_leaves_is_told_where_it_is_so(check, left, what):
    version = daily(on=False)
    set_watch(version.workflow, Watched(values=[check]))
    by_hand(version)
    end(values=left)

    tell_numbers()
    tell_numbers()

    assert told() == ([f"flow: {what}"] if what else [])


def test_numbers_of_failed_attempts_and_of_debug_runs_and_backfills_are_not_checked():
    version = daily(on=False)
    set_watch(version.workflow, Watched(values=["load.rows < 1"]))
    given = {"cycles": [version.created_at], "by": None}
    dev = workspace().queues.get(name="dev_queue")
    launch(version, trigger=Trigger.DEBUG, queue=dev, **given)
    mine = claim(dev.pk, ME, uuid4())
    finish(mine, SUCCEEDED, worker=ME, request=uuid4(), take=False)
    launch(version, trigger=Trigger.BACKFILL, **given)
    end()
    by_hand(version)
    end(FAILED, values={"rows": "0"})

    tell_numbers()

    assert told() == []


# --- setting it -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"values": ["rows < 1"]},
        {"values": ["load.rows < one"]},
        {"values": ["load.rows << 1"]},
        {"values": ["load.rows < 1e999"]},
        {"values": ["lod.rows < 1"]},
        {"values": ["load.rows < 1\x00"]},
        {"values": [f"load.rows < {n}" for n in range(51)]},
        {"start_within_minutes": 0},
        {"done_within_minutes": 10_081},
    ],
)
def test_what_cannot_be_watched_is_refused(wrong):
    row = published("load").workflow

    with pytest.raises(Invalid):
        set_watch(row, Watched(**wrong))

    assert watch_of(row) == Watched()


def test_a_check_that_stays_stays_and_what_changes_counts_from_then_on():
    row = published("load").workflow
    set_watch(row, Watched(slow=True, values=["load.rows < 1", "load.rows<1", "load.x > 2"]))
    kept = ValueCheck.objects.get(key="rows")
    since = Watch.objects.get().since

    set_watch(row, Watched(slow=True, values=["load.rows < 1"]))

    assert watch_of(row) == Watched(slow=True, values=["load.rows < 1"])
    assert ValueCheck.objects.get() == kept
    assert Watch.objects.get().since == since
    set_watch(row, Watched())
    assert not Watch.objects.exists()


@pytest.mark.parametrize("text", ["7", "24:00", "07:60", "07:00:00", "seven", ""])
def test_what_is_no_time_of_day_is_refused(text):
    with pytest.raises(Invalid, match="is no time of day; write it as 07:00"):
        read_time(text)


def test_a_workflows_settings_say_what_is_watched():
    row = published("load").workflow
    url, client = f"/w/default/workflows/{row.pk}/watch/", member(Role.DATA_ENGINEERING)

    done = client.post(url, {"start_within_minutes": 15, "done_by": "07:00", "values": "load.n<1"})

    assert done["Location"] == f"/w/default/workflows/{row.pk}/settings/"
    assert watch_of(row) == Watched(15, None, time(7), values=["load.n < 1"])
    html = client.get(f"/w/default/workflows/{row.pk}/settings/").content.decode()
    assert 'value="07:00"' in html
    assert "load.n &lt; 1</textarea>" in html
    refused = client.post(url, {"values": "load.n is small"})
    assert errors(refused.content.decode()) == [
        "&#x27;load.n is small&#x27; is no condition; write it as load.rows &lt; 1"
    ]
    row.refresh_from_db()
    assert row.revision == 2  # the node's


def test_rest_says_what_is_watched():
    row = published("load").workflow
    place, caller = f"workflows/{row.pk}/watch", program(Role.DATA_ENGINEERING)
    nothing = {
        "start_within_minutes": None,
        "done_within_minutes": None,
        "done_by": None,
        "slow": False,
        "values": [],
    }

    assert caller.get(place).json() == nothing
    asked = {"done_by": "07:30", "slow": True, "values": ["load.rows < 1"]}
    assert caller.put(place, asked).json() == {**nothing, **asked}
    refused = caller.put(place, {"done_by": "25:00"})
    assert [each["field"] for each in refused.json()["errors"]] == ["done_by"]
    assert caller.get(place).json() == {**nothing, **asked}
    assert caller.put(place, {}).json() == nothing


def test_the_tick_looks_for_all_of_it(server):
    version = daily(on=False)
    set_watch(version.workflow, Watched(done_within_minutes=60, values=["load.rows < 1"]))
    Watch.objects.update(since=Now() - timedelta(days=1))
    by_hand(version)
    end()
    run = by_hand(version)
    Run.objects.filter(pk=run.pk).update(created_at=Now() - minutes(61))

    tick()

    assert sorted(mail["Subject"] for _, mail in server.got) == [
        f"Late: run {run.pk} of flow [default]",
        "flow: load.rows is missing [default]",
    ]
