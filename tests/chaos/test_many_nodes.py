"""A thousand nodes and a dead worker; fifty running nodes and a restarted database."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from apps.engine.states import Trigger
from apps.runs.models import Attempt, NodeRun, Run
from apps.runs.services.launch import launch
from apps.workflows.services.drafting import WholeNode, create_workflow, replace_draft
from apps.workflows.services.publishing import publish
from apps.workspaces.models import ResourceQueue
from apps.workspaces.selectors import default_queue
from tests.factories import job, workspace
from tests.waiting import until
from tests.workers import ended, ticking

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(240),
]


def fan(leaves: int, content: str):
    """A run of a root, so many leaves, and an end that waits for all; room for all at once."""
    ResourceQueue.objects.filter(pk=default_queue(workspace()).pk).update(capacity=10**6)
    used = job("leaf", content)
    names = [f"leaf{n:04}" for n in range(leaves)]
    flow = create_workflow(workspace(), "fan", user=None)
    replace_draft(
        flow,
        [WholeNode(name=name, job_path=used.path) for name in ("root", *names, "end")],
        [("root", name) for name in names] + [(name, "end") for name in names],
        revision=flow.revision,
        queue="root_queue",
    )
    version = publish(flow, remarks="", user=None)
    [run] = launch(version, cycles=[timezone.now()], trigger=Trigger.MANUAL, by=None)
    return run


def journaled(file: Path, between: str) -> str:
    """A job that says when it begins and when it ends: the order of lines is that of events."""
    say = f'>> {file} echo "$RUNYARD_ATTEMPT'
    return f'{say} start"; {between}; {say} end"'


def overlaps(file: Path) -> list[str]:
    """Lines that an attempt wrote after a later one of its node had begun, or began twice."""
    newest: dict[str, int] = {}
    begun: set[str] = set()
    wrong = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        mark, word = line.split()
        node, attempt = mark.split(".")
        if int(attempt) < newest.get(node, 0) or (word == "start" and mark in begun):
            wrong.append(f"line {number}: {line}")
        newest[node] = max(newest.get(node, 0), int(attempt))
        if word == "start":
            begun.add(mark)
    return wrong


def test_thousand_nodes_survive_one_of_two_workers_killed_in_their_middle(start, tmp_path):
    journal = tmp_path / "journal"
    start("survivor")
    killed = start("killed")
    run = fan(1000, journaled(journal, "sleep 0.05"))
    until(lambda: run.nodes.filter(state="succeeded").count() > 300, "the middle", seconds=90)
    until(lambda: run.nodes.filter(worker=killed.name, state="running").exists(), "its nodes")

    killed.end(signal.SIGKILL)
    ticking(lambda: ended(run), "the run's end", seconds=120)

    assert run.state == "succeeded"
    assert run.nodes.filter(state="succeeded").count() == 1002
    assert run.nodes.filter(losses__gt=0).exists()
    ends = {line.split(".")[0] for line in journal.read_text().splitlines() if "end" in line}
    assert (len(ends), overlaps(journal)) == (1002, [])
    assert set(ResourceQueue.objects.values_list("used", flat=True)) == {0}


def test_database_restarted_under_fifty_running_nodes_runs_none_twice(start, tmp_path):
    journal = tmp_path / "journal"
    workers = [start(f"w{n}", worker_slots=25, lease_seconds=30) for n in range(2)]
    gate = f"[ $RUNYARD_NODE = root ] || until [ -e {tmp_path}/go ]; do sleep 0.5; done"
    run = fan(50, journaled(journal, gate))
    running = run.nodes.filter(state="running")
    until(lambda: running.count() == 50, "fifty running nodes", seconds=60)

    crash_the_database()
    (tmp_path / "go").touch()
    ticking(lambda: ended(run), "the run's end", seconds=60)

    assert run.state == "succeeded"
    assert Attempt.objects.filter(node_run__run=run).count() == 52
    assert set(NodeRun.objects.filter(run=run).values_list("attempt", "losses")) == {(1, 0)}
    assert overlaps(journal) == []
    # Each of them works again.
    (tmp_path / "go").unlink()
    again = launch(run.version, cycles=[timezone.now()], trigger=Trigger.MANUAL, by=None)[0]
    assert [worker.process.poll() for worker in workers] == [None, None]
    (tmp_path / "go").touch()
    ticking(lambda: ended(again), "another run's end", seconds=60)


def crash_the_database() -> None:
    """Kill one of its processes: it ends every connection, recovers, and is back."""
    connection.ensure_connection()
    os.kill(connection.connection.info.backend_pid, signal.SIGKILL)
    connection.close()

    def answers() -> bool:
        try:
            return Run.objects.exists()
        except (OperationalError, InterfaceError):
            connection.close()
            return False

    until(answers, "the database's return", seconds=60)
