"""Workers that are killed, frozen or robbed of their guard, in the middle of their nodes.

Every node keeps a journal: a line every 50 ms, with its attempt. From it one sees what truly
ran, whatever the database believes: no line of an attempt after the first of the next one.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from apps.engine.states import RunState
from apps.runs.models import NodeRun
from apps.runs.services import sweep
from apps.workspaces.models import ResourceQueue
from tests.factories import by_hand, published
from tests.waiting import until
from tests.workers import LEASE_SECONDS, attempts, ended, running, ticking

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(180),
]


def journaled(folder: Path, *, until_file: str = "go") -> str:
    """A job that journals until a file appears, with a stray of its own that does as well."""
    line = f'echo "$RUNYARD_NODE $RUNYARD_ATTEMPT $(date +%s%N)" >> {folder}/journal'
    loop = f"until [ -e {folder}/{until_file} ]; do {line}; sleep 0.05; done"
    return f"(setsid sh -c '{loop}' &) ; {loop}; {line}"


def journal(folder: Path, node: str) -> list[tuple[int, int]]:
    """(attempt, time in ns) of each line that a node wrote."""
    lines = (folder / "journal").read_text().splitlines() if (folder / "journal").exists() else []
    found = []
    for line in lines:
        key, mark, at = line.split()
        if key == node:
            found.append((int(mark.partition(".")[2]), int(at)))
    return found


def overlaps(folder: Path, node: str) -> list[tuple[int, int]]:
    """Lines that an attempt wrote after its successor had begun."""
    lines = journal(folder, node)
    first: dict[int, int] = {}
    for attempt, at in lines:
        first[attempt] = min(at, first.get(attempt, at))
    return [
        (attempt, at)
        for attempt, at in lines
        if any(later > attempt and at > begun for later, begun in first.items())
    ]


def nothing_is_held() -> bool:
    """No capacity is taken, and no row runs."""
    used = set(ResourceQueue.objects.values_list("used", flat=True))
    return used == {0} and not NodeRun.objects.filter(state="running").exists()


def test_killed_workers_node_runs_again_and_its_children_are_dead_at_once(start, tmp_path):
    killed = start("killed")
    run = by_hand(published("a", content=journaled(tmp_path)))
    node = running(run, "a")
    until(lambda: journal(tmp_path, "a"), "the job's first line")

    killed.end(signal.SIGKILL)
    until(lambda: not killed.children(), "the end of its children", seconds=3)
    start("other")
    ticking(lambda: {n for n, _ in journal(tmp_path, "a")} == {1, 2}, "the second attempt")
    (tmp_path / "go").touch()
    ticking(lambda: ended(run), "the run's end")

    node.refresh_from_db()
    assert (run.state, attempts(node)) == (RunState.SUCCEEDED, ["lost", "succeeded"])
    assert (node.failures, node.losses) == (0, 1)
    assert (overlaps(tmp_path, "a"), nothing_is_held()) == ([], True)


def test_frozen_workers_children_die_before_their_nodes_run_again(start, tmp_path):
    frozen = start("frozen")
    names = ["a", "b", "c"]
    run = by_hand(published(*names, content=journaled(tmp_path)))
    for name in names:
        running(run, name)
    until(lambda: all(journal(tmp_path, name) for name in names), "the jobs' first lines")
    start("other")

    frozen.process.send_signal(signal.SIGSTOP)
    thaw = time.monotonic() + 3 * LEASE_SECONDS
    ticking(
        lambda: all(2 in dict(journal(tmp_path, name)) for name in names), "the second attempts"
    )
    ticking(lambda: time.monotonic() > thaw, "three leases")
    children = frozen.children()
    frozen.process.send_signal(signal.SIGCONT)
    time.sleep(LEASE_SECONDS / 2)  # it wakes, finds its leases gone, and must write nothing
    (tmp_path / "go").touch()
    ticking(lambda: ended(run), "the run's end")

    assert (run.state, children) == (RunState.SUCCEEDED, [])
    for node in run.nodes.all():
        assert (attempts(node), node.attempt) == (["lost", "succeeded"], 2)
        assert overlaps(tmp_path, node.key) == []
    assert nothing_is_held()
    again = by_hand(published("late", name="after", content="true"))
    ticking(lambda: ended(again), "a run on workers of which one was frozen")


def test_worker_that_sleeps_through_its_lease_right_before_a_start_starts_nothing(start, tmp_path):
    job = f'echo "$RUNYARD_NODE $RUNYARD_ATTEMPT $(date +%s%N)" >> {tmp_path}/journal'
    frozen = start("frozen", sleeps_before_a_start=True)
    run = by_hand(published("a", content=job))
    until(lambda: state_of(frozen.pid) == "T", "the worker's sleep")
    start("other")
    ticking(lambda: ended(run), "the run's end")

    frozen.process.send_signal(signal.SIGCONT)
    until(lambda: "had been given away" in frozen.said(), "the worker's word about it")

    assert run.state == RunState.SUCCEEDED
    assert [attempt for attempt, _ in journal(tmp_path, "a")] == [2]
    assert (attempts(run.nodes.get()), nothing_is_held()) == (["lost", "succeeded"], True)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_worker_without_its_guard_gets_another_and_its_jobs_run_on(start, tmp_path):
    worker = start()
    run = by_hand(published("a", content=journaled(tmp_path)))
    node = running(run, "a")
    until(lambda: journal(tmp_path, "a"), "the job's first line")
    first = worker.guard

    os.kill(first, signal.SIGKILL)
    until(lambda: worker.guard not in (0, first), "another guard")
    worker.end(signal.SIGKILL)

    until(lambda: not worker.children(), "the end of its children", seconds=3)
    (tmp_path / "go").touch()
    start("other")
    ticking(lambda: ended(run), "the run's end")
    assert attempts(node) == ["lost", "succeeded"]


def test_children_of_a_worker_that_died_with_its_guard_are_ended_by_the_next(start, tmp_path):
    dead = start("dead")
    run = by_hand(published("a", content=journaled(tmp_path)))
    running(run, "a")
    until(lambda: journal(tmp_path, "a"), "the job's first line")

    os.kill(dead.guard, signal.SIGKILL)
    dead.end(signal.SIGKILL)
    assert dead.children() != []
    start("next")

    until(lambda: not dead.children(), "the end of the dead worker's children", seconds=3)
    (tmp_path / "go").touch()
    ticking(lambda: ended(run), "the run's end")
    assert overlaps(tmp_path, "a") == []


def test_node_that_ends_its_worker_each_time_fails_in_the_end(start, tmp_path):
    """By its losses, which are few; its retries are for failures of its own."""
    run = by_hand(
        published("a", content=f"echo >> {tmp_path}/starts; kill -9 $PPID; sleep 100",
                  node={"retries": 5})
    )  # fmt: skip
    node = run.nodes.get()
    started = 0
    while not ended(run):
        worker = start(f"w{started}")
        started += 1
        ticking(lambda worker=worker: worker.process.poll() is not None or ended(run), "its end")
        ticking(lambda: state(node) != "running", "the lost lease")

    assert (run.state, attempts(node)) == (RunState.FAILED, ["lost"] * 4)
    assert (node.failures, node.losses) == (0, 4)
    assert len((tmp_path / "starts").read_text().splitlines()) == 4


def test_fan_out_over_two_workers_of_which_one_is_killed(start, tmp_path):
    start("survivor")
    killed = start("killed")
    leaves = [f"leaf{n}" for n in range(60)]
    line = f'echo "$RUNYARD_NODE $RUNYARD_ATTEMPT $(date +%s%N)" >> {tmp_path}/journal'
    run = by_hand(
        published(
            "root", *leaves, "end",
            edges=[("root", leaf) for leaf in leaves] + [(leaf, "end") for leaf in leaves],
            content=f"{line}; sleep 0.2; {line}",
        )
    )  # fmt: skip
    until(lambda: run.nodes.filter(worker=killed.name, state="running").exists(), "its nodes")
    until(lambda: run.nodes.filter(state="succeeded").count() > 10, "the middle of the run")

    killed.end(signal.SIGKILL)
    ticking(lambda: ended(run), "the run's end", seconds=60)

    assert run.state == RunState.SUCCEEDED
    assert {n.state for n in run.nodes.all()} == {"succeeded"}
    assert run.nodes.filter(losses__gt=0).count() > 0
    for node in run.nodes.all():
        last = [at for number, at in journal(tmp_path, node.key) if number == node.attempt]
        assert (len(last), overlaps(tmp_path, node.key)) == (2, [])
    assert nothing_is_held()


def test_deploys_under_a_node_without_retries_cost_it_nothing(start, tmp_path):
    run = by_hand(published("a", content=journaled(tmp_path), node={"retries": 0}))
    node = run.nodes.get()
    for n in range(3):
        worker = start(f"w{n}")
        until(lambda n=n: n + 1 in dict(journal(tmp_path, "a")), "the attempt")
        assert worker.end() == 0
    (tmp_path / "go").touch()
    start("last")
    ticking(lambda: ended(run), "the run's end")

    node.refresh_from_db()
    assert (run.state, attempts(node)) == ("succeeded", ["handed_back"] * 3 + ["succeeded"])
    assert (node.failures, node.losses, overlaps(tmp_path, "a")) == (0, 0, [])


def test_worker_keeps_its_nodes_when_the_database_was_restarted(start, home, tmp_path):
    start()
    run = by_hand(published("a", "b", edges=[("a", "b")], content=journaled(tmp_path)))
    node = running(run, "a")
    until(lambda: journal(tmp_path, "a"), "the job's first line")

    cut_all_connections()
    (tmp_path / "go").touch()
    ticking(lambda: ended(run), "the run's end")

    node.refresh_from_db()
    assert (run.state, attempts(node)) == ("succeeded", ["succeeded"])


def cut_all_connections() -> None:
    """What every client sees of a restart: its connection is gone in mid-air."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )


def test_job_goes_on_and_times_out_while_the_database_does_not_answer(start, tmp_path):
    """Renewals fail; before the lease ends the database is back, and nothing was lost."""
    start(lease_seconds=20)
    run = by_hand(published("a", content=journaled(tmp_path), node={"timeout_seconds": 3}))
    node = running(run, "a")
    for _ in range(30):
        cut_all_connections()
        time.sleep(0.1)

    ticking(lambda: ended(run), "the run's end")

    assert [(a.state, a.reason) for a in node.attempts.all()] == [("failed", "timed out after 3 s")]


def state(node: NodeRun) -> str:
    node.refresh_from_db()
    return node.state


def test_lease_that_is_renewed_is_not_given_away_by_any_number_of_ticks(start, tmp_path):
    start()
    run = by_hand(published("a", content=journaled(tmp_path)))
    node = running(run, "a")
    end = time.monotonic() + 2 * LEASE_SECONDS
    while time.monotonic() < end:
        sweep.tick()

    assert (state(node), node.attempt) == ("running", 1)
    (tmp_path / "go").touch()
    ticking(lambda: ended(run), "the run's end")
