"""What waits long rises: the first of each line alone, a level at a time."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db.models import F
from django.db.models.functions import Now

from apps.engine.states import NodeState
from apps.runs.models import NodeRun, Pulse, Run
from apps.runs.services import sweep
from apps.runs.services.aging import age
from apps.runs.services.hot_path import Claim, Outcome, claim, finish
from apps.runs.services.pause import pause_run, resume_run
from tests.factories import by_hand, published, workspace

pytestmark = pytest.mark.django_db


def waited(run: Run, minutes: float) -> None:
    run.nodes.update(queued_at=Now() - timedelta(minutes=minutes))


def minute_passes() -> None:
    Pulse.objects.filter(name="aging").update(at=F("at") - timedelta(minutes=1))


def at_priority(run: Run, priority: int) -> Run:
    run.nodes.update(priority=priority, level=priority)
    return run


def levels(run: Run) -> list[int]:
    return list(run.nodes.order_by("pk").values_list("level", flat=True))


def take() -> Claim | None:
    return claim(workspace().queues.get(name="root_queue").pk, "w", uuid4())


def test_first_of_a_line_rises_a_level_for_each_ten_minutes_and_no_further_than_the_highest():
    run = at_priority(by_hand(published("a", "b", "c")), 1)
    waited(run, 19)

    assert (age(), levels(run)) == (1, [2, 1, 1])
    minute_passes()
    assert (age(), levels(run)) == (0, [2, 1, 1])
    waited(run, 20)
    minute_passes()
    assert (age(), levels(run)) == (1, [3, 1, 1])
    waited(run, 500)
    for _ in range(3):
        minute_passes()
        age()
    assert levels(run) == [4, 1, 1]


def test_the_sweep_looks_once_a_minute_whoever_asks():
    run = by_hand(published("a"))
    waited(run, 100)

    sweep.tick()
    sweep.tick()
    age()

    assert levels(run) == [3]


def test_next_of_the_line_rises_once_the_first_is_taken():
    run = by_hand(published("a", "b"))
    waited(run, 15)
    age()

    taken = take()
    minute_passes()
    age()

    assert (taken.key, levels(run)) == ("a", [3, 3])


def test_low_priority_that_has_waited_comes_before_the_flood_of_a_higher_one():
    old = at_priority(by_hand(published("old", name="old")), 1)
    flood = by_hand(published(*[f"n{n}" for n in range(5)], name="flood"))
    # The flood has long been taking turns.
    flood.nodes.update(turn=F("turn") + 1000)
    waited(old, 11)
    assert NodeRun.objects.order_by("-level", "turn", "queued_at").first().key == "n0"

    age()

    assert take().key == "old"


def test_newcomer_stands_behind_one_node_of_an_old_backlog_and_its_head():
    old = by_hand(published(*[f"o{n}" for n in range(6)], name="old"))
    waited(old, 60)
    age()
    by_hand(published("new", name="new"))

    assert [take().key for _ in range(3)] == ["o0", "o1", "new"]


def test_node_that_is_queued_anew_stands_at_its_priority_again():
    run = by_hand(published("a", "b", retries=1, node={"retry_interval_seconds": 0}))
    waited(run, 15)
    age()
    mine = take()
    retrying = Outcome(NodeState.RETRYING, exit_code=1, retry_in=0)
    finish(mine, retrying, worker="w", request=uuid4(), take=False)
    assert levels(run) == [3, 2]

    sweep.start_due_retries()

    assert levels(run) == [2, 2]
    run.nodes.update(level=4)
    pause_run(run, user=None)
    resume_run(run, user=None)
    assert levels(run) == [2, 2]
