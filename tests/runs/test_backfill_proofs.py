"""What a backfill promises, proven: the preview's cycles and no others, once each, whoever dies;
and that it neither holds up others nor is held up by them.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.core.errors import Invalid
from apps.core.home import Home
from apps.engine.backfill import Counts, Order, Which, of_dates, pattern_of
from apps.engine.states import NodeState, RunState, Trigger
from apps.engine.timetable import Timetable
from apps.runs.models import Attempt, Backfill, BackfillCycle, Run
from apps.runs.services.backfill import Asked, create_backfill, plan_backfill
from apps.runs.services.endings import run_ended
from apps.runs.services.feeding import counts_of, feed
from apps.runs.services.hot_path import Claim, Outcome, claim, finish
from apps.runs.services.launch import launch
from apps.workflows.models import Workflow
from apps.workspaces.models import ResourceQueue
from tests.factories import published, workspace
from tests.waiting import until
from tests.workers import ROOT, Start, ticking

SUCCEEDED = Outcome(NodeState.SUCCEEDED, exit_code=0)
HOURLY = {"kind": "hours", "every": 1, "started_at": "2026-01-01T00:00:00Z"}


def flow(name: str = "flow", **settings: object) -> Workflow:
    version = published("a", name=name, **settings)
    return Workflow.objects.select_related("workspace", "published").get(pk=version.workflow_id)


# --- the same three sets --------------------------------------------------------------------

SCHEDULES = st.one_of(
    st.none(),
    st.builds(
        lambda hour, minute: {"kind": "days", "time": f"{hour:02}:{minute:02}"},
        st.integers(0, 23),
        st.sampled_from([0, 30]),
    ),
    st.builds(lambda every: {"kind": "hours", "every": every}, st.integers(1, 23)),
    st.builds(
        lambda every: {"kind": "minutes", "every": every, "from": "23:00", "to": "02:00"},
        st.integers(20, 59),
    ),
    st.sampled_from(["30 2 * * *", "15 */6 * * 1-5", "0 0 L * *"]).map(
        lambda cron: {"kind": "cron", "cron": cron}
    ),
)
#: Around where a clock of these zones changes, and where none does.
DAYS = st.sampled_from(
    [date(2026, 3, 27), date(2026, 4, 3), date(2025, 10, 24), date(2026, 2, 26), date(2011, 12, 28)]
)
ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia"]


@pytest.mark.django_db
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    schedule=SCHEDULES,
    zone=st.sampled_from(ZONES),
    offset=st.integers(0, 2),
    first=DAYS,
    days=st.integers(0, 4),
    which=st.sampled_from(list(Which)),
    order=st.sampled_from(list(Order)),
    before=st.lists(st.booleans(), max_size=8),
)
def test_preview_creation_and_runs_are_the_same_set(
    schedule, zone, offset, first, days, which, order, before
):
    with transaction.atomic():
        workflow = flow(schedule=schedule, zone=zone, data_offset=offset)
        asked = Asked(first_date=first, last_date=first + timedelta(days=days))
        zone_of_it = ZoneInfo(zone)
        timetable = Timetable.read(schedule, zone_of_it) if schedule else None
        whole = list(
            of_dates(pattern_of(timetable, zone_of_it), offset, asked.first_date, asked.last_date)
        )
        if not whole:
            with pytest.raises(Invalid, match="no cycle lies in there"):
                plan_backfill(workflow, asked)
            transaction.set_rollback(True)
            return
        ran(workflow, dict(zip(whole, before, strict=False)))
        asked = Asked(
            first_date=asked.first_date, last_date=asked.last_date, which=which, order=order
        )
        old = set(Run.objects.values_list("pk", flat=True))

        plan = plan_backfill(workflow, asked)
        previewed = [each.cycle for each in plan.cycles]

        results = dict(zip(whole, before, strict=False))
        expected = {
            Which.ALL: whole,
            Which.MISSING: [cycle for cycle in whole if not results.get(cycle)],
            Which.FAILED: [cycle for cycle in whole if results.get(cycle) is False],
        }[which]
        assert previewed == (expected if order is Order.OLDEST else expected[::-1])
        if previewed:
            made = create_backfill(workflow, asked, user=None, token=plan.token, at_once=1000)
            created = made.cycles.order_by("position").values_list("cycle", flat=True)
            for _ in range(3):
                feed(made.pk)
            runs = Run.objects.exclude(pk__in=old).order_by("pk")
            assert list(created) == previewed
            assert list(runs.values_list("cycle", flat=True)) == previewed
        transaction.set_rollback(True)


def ran(workflow: Workflow, results: dict[datetime, bool]) -> None:
    """Runs of these cycles that are over, as if they had succeeded or failed."""
    if results:
        version = workflow.published
        launch(version, cycles=list(results), trigger=Trigger.MANUAL, by=None)
    for cycle, good in results.items():
        Run.objects.filter(cycle=cycle).update(
            state=RunState.SUCCEEDED if good else RunState.FAILED, ended_at=timezone.now()
        )


# --- whoever dies ---------------------------------------------------------------------------

#: Forks someone who does this over and over, and kills him at a random moment, over and over.
_MORTAL = """
import django, os, random, signal, sys, time
django.setup()
from django.db import connection, transaction
from apps.core.errors import Conflict
from apps.runs.models import Backfill
from apps.runs.services.backfill import Asked, create_backfill, plan_backfill
from apps.runs.services.feeding import feed
from apps.workflows.models import Workflow

def feeds():
    for pk in Backfill.objects.filter(ended_at=None).values_list("pk", flat=True):
        feed(pk)

def creates():
    workflow = Workflow.objects.get()
    asked = Asked(**{name: tuple(map(__import__("datetime").datetime.fromisoformat, value))
                     for name, value in {"cycles": sys.argv[3].split()}.items()})
    create_backfill(workflow, asked, user=None, at_once=3)

work, dice = {"feeds": feeds, "creates": creates}[sys.argv[1]], random.Random(int(sys.argv[2]))
os.setpgid(0, 0)
print("ready", flush=True)
while True:
    child = os.fork()
    if not child:
        while True:
            work()
    time.sleep(dice.uniform(0.005, 0.08))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@contextmanager
def mortal(home: Home, what: str, seed: int, cycles: str = "") -> Iterator[None]:
    own = {
        "RUNYARD_HOME": str(home.path),
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _MORTAL, what, str(seed), cycles],
        cwd=ROOT,
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def chaos(home: Home, start: Start, folder: Path, *, cycles: int, kills: int, seed: int) -> None:
    """A backfill among feeders who all die and workers of whom some do."""
    dice = random.Random(seed)  # noqa: S311 -- no secret
    journal = folder / "journal"
    workflow = flow(schedule=HOURLY, content=f'echo "$RUNYARD_CYCLE" >> {journal}')
    asked = Asked(
        first_cycle=datetime(2026, 2, 1, tzinfo=UTC),
        last_cycle=datetime(2026, 2, 1, tzinfo=UTC) + timedelta(hours=cycles - 1),
    )
    previewed = {each.cycle for each in plan_backfill(workflow, asked).cycles}
    assert len(previewed) == cycles
    workers = [start(f"w{seed}{n}") for n in range(2)]

    with mortal(home, "feeds", seed), mortal(home, "feeds", seed + 1000):
        backfill = create_backfill(workflow, asked, user=None, at_once=6)
        for n in range(kills):
            share = cycles * (n + 1) // (kills + 2)
            ticking(lambda share=share: counts_of([backfill])[backfill.pk].over >= share)
            victim = workers.pop(dice.randrange(2))
            victim.end(signal.SIGKILL)
            workers.append(start(f"x{seed}{n}"))

        def is_over() -> bool:
            backfill.refresh_from_db()
            return backfill.ended_at is not None

        ticking(is_over, "the end of the backfill", seconds=120)

    created = Counter(backfill.cycles.values_list("cycle", flat=True))
    runs = Counter(Run.objects.values_list("cycle", flat=True))
    assert created == runs == Counter(previewed)
    assert not BackfillCycle.objects.filter(run=None).exists()
    assert counts_of([backfill])[backfill.pk] == Counts(cycles, succeeded=cycles)
    # Who ran twice had been lost with a worker.
    journaled = Counter(journal.read_text().split())
    again = sum(journaled.values()) - len(journaled)
    assert len(journaled) == cycles
    assert again <= Attempt.objects.exclude(state="succeeded").count()


@pytest.mark.chaos
@pytest.mark.timeout(120)
def test_preview_is_what_runs_with_every_feeder_and_a_worker_killed(home, start, tmp_path):
    chaos(home, start, tmp_path, cycles=60, kills=1, seed=1)


@pytest.mark.chaos
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_preview_is_what_runs_through_long_chaos(home, start, tmp_path, seed):
    chaos(home, start, tmp_path, cycles=400, kills=8, seed=seed)


@pytest.mark.chaos
@pytest.mark.django_db(transaction=True)
def test_creator_who_is_killed_leaves_a_whole_backfill_or_none(home, servers):
    flow(schedule=HOURLY)
    first = datetime(2026, 2, 1, tzinfo=UTC)
    cycles = [first + timedelta(hours=n) for n in range(150)]

    with mortal(home, "creates", 5, " ".join(cycle.isoformat() for cycle in cycles)):
        until(lambda: Backfill.objects.count() >= 5, "some backfills", seconds=30)

    for backfill in Backfill.objects.all():
        places = backfill.cycles.order_by("position").values_list("position", "cycle")
        assert list(places) == list(enumerate(cycles))
        assert (backfill.total, backfill.lane.limit) == (150, 3)


# --- neither holds up the other -------------------------------------------------------------

pytestmark_of_queues = pytest.mark.django_db(transaction=True)


def queue(slots: int) -> ResourceQueue:
    row = workspace().queues.get(name="root_queue")
    ResourceQueue.objects.filter(pk=row.pk).update(capacity=slots * 250)
    return row


def next_of(mine: Claim) -> Claim | None:
    """End a node well and take the next, or what its run's end let start, as a worker does."""
    ended = finish(mine, SUCCEEDED, worker="w", request=uuid4(), take=True)
    if ended.awaited:
        run_ended(mine.run_id)
    return ended.next or claim(mine.queue_id, "w", uuid4())


def starts_before(run: Run, held: list[Claim]) -> int:
    """How many other nodes start, while the oldest claim always ends first, before this run's."""
    for others in range(1000):
        taken = next_of(held.pop(0))
        assert taken is not None
        held.append(taken)
        if taken.run_id == run.pk:
            return others
    raise AssertionError(f"{run} did not start")


@pytestmark_of_queues
@pytest.mark.parametrize("at_once", [4, 300])
def test_backfill_of_300_cycles_delays_others_by_one_nodes_end(at_once):
    row, workflow = queue(4), flow("past", schedule=HOURLY)
    last = datetime(2026, 2, 1, tzinfo=UTC) + timedelta(hours=299)
    asked = Asked(first_cycle=datetime(2026, 2, 1, tzinfo=UTC), last_cycle=last)
    backfill = create_backfill(workflow, asked, user=None, at_once=at_once)
    held = [claim(row.pk, "w", uuid4()) for _ in range(4)]
    for _ in range(20):
        held.append(next_of(held.pop(0)))

    single = flow("single").published
    waits = []
    for n in range(3):
        now = timezone.now()
        [run] = launch(single, cycles=[now], trigger=Trigger.MANUAL, by=None)
        waits.append(starts_before(run, held))
        # A schedule's run of the very workflow that is backfilled.
        cycle = last + timedelta(hours=n + 1)
        [run] = launch(workflow.published, cycles=[cycle], trigger=Trigger.SCHEDULE, by=None)
        waits.append(starts_before(run, held))

    print(f"starts before a single node: {waits}")
    assert max(waits) <= 1
    found = counts_of([backfill])[backfill.pk]
    # Four in line behind those at once, as far as there are so many, or one less before the next
    # two are made.
    left = 300 - found.succeeded
    open_ = found.waiting + found.running
    assert min(at_once + 3, left) <= open_ <= min(at_once + 4, left)


@pytestmark_of_queues
def test_backfill_goes_on_beside_a_flood_of_others():
    row, workflow = queue(4), flow("past", schedule=HOURLY)
    wide = published(*(f"n{n:03}" for n in range(100)), name="wide")
    asked = Asked(
        first_cycle=datetime(2026, 2, 1, tzinfo=UTC), last_cycle=datetime(2026, 2, 9, tzinfo=UTC)
    )
    launch(wide, cycles=[timezone.now()], trigger=Trigger.MANUAL, by=None)
    held = [claim(row.pk, "w", uuid4()) for _ in range(4)]
    backfill = create_backfill(workflow, asked, user=None, at_once=10)

    for _ in range(40):
        held.append(next_of(held.pop(0)))

    done = counts_of([backfill])[backfill.pk]
    assert 16 <= done.succeeded + done.running <= 22
