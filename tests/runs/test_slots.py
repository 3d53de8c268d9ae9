"""A worker's slots and executions within this process, where a moment has to be met exactly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from django.db import connection

from apps.engine.states import RunState
from apps.nodes.process import Identity, Strays
from apps.runs import doorbell, worker
from apps.runs.desks import Desks
from apps.runs.execution import Bench, Execution
from apps.runs.guard import Guard, now
from apps.runs.logs import Blanks
from apps.runs.services.hot_path import claim
from apps.runs.worker import Worker
from tests.factories import by_hand, published
from tests.waiting import until
from tests.workers import alive, nodes

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]
#: Of the guard: it kills after seven eighths of it.
LEASE_SECONDS = 1.0


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bell reaches anyone."""
    monkeypatch.setattr(doorbell, "ring", lambda bells, **_: None)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    guard = Guard("here", LEASE_SECONDS)
    guard.start()
    desks = Desks(tmp_path, reuse=False, most=2)
    yield Bench("here", desks, Blanks(2), Identity(None), guard, Strays(), lambda log: None)
    guard.close()


def aside(work: object) -> threading.Thread:
    """Run something in a thread of its own, which closes its connection."""

    def run() -> None:
        work()  # type: ignore[operator]
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_guards_kill_is_no_failure_of_the_node_though_the_lease_was_renewed_right_after(
    quiet, bench, tmp_path
):
    run = by_hand(published("a", content=f"echo $$ > {tmp_path}/pid; sleep 100"))
    mine = claim(run.nodes.get().queue_id, "here", uuid4())
    outcomes: list[object] = []
    held = Execution(mine, now() + 600, bench)
    with bench.strays._lock:  # so that the slot cannot go on from its child's end
        slot = aside(lambda: outcomes.append(held.run()))
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        held.renewed(soon := bench.guard.deadline(now()))
        bench.guard.renewed([mine.mark], soon)
        until(lambda: not alive(int((tmp_path / "pid").read_text())), "the guard's kill")
        held.renewed(now() + 600)
    slot.join()

    assert outcomes == [None]


def test_next_attempt_is_run_even_if_no_bell_can_be_rung(quiet, bench, monkeypatch):
    def break_down(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    run = by_hand(published("a", "b", "c", "d", edges=[("a", key) for key in "bcd"]))
    mine = Worker("here", slots=0)
    mine._bench = bench
    monkeypatch.setattr(worker, "ring", break_down)

    aside(lambda: mine._serve(run.nodes.get(key="a").queue_id)).join()

    run.refresh_from_db()
    assert (run.state, nodes(run)) == (RunState.SUCCEEDED, dict.fromkeys("abcd", "succeeded"))


def test_slot_whose_thread_cannot_start_stays_free(monkeypatch):
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    mine = Worker("here", slots=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not mine._take_slot(1)

    assert mine._idle_within(0)


def test_worker_that_ends_waits_for_a_slot_on_its_way_which_then_claims_nothing(quiet, bench):
    run = by_hand(published("a"))
    mine = Worker("here", slots=1)
    mine._bench = bench
    on_its_way, may_go = threading.Event(), threading.Event()

    def claim_late(queue_id: int) -> Execution | None:
        on_its_way.set()
        may_go.wait()
        return Worker._claim(mine, queue_id)

    mine._claim = claim_late  # type: ignore[method-assign]
    assert mine._take_slot(run.nodes.get().queue_id)
    on_its_way.wait()
    mine.drain()

    assert not mine._idle_within(0.1)
    may_go.set()
    assert mine._idle_within(10)
    assert nodes(run) == {"a": "queued"}
