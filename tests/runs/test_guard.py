"""The guard against real processes: it kills what its worker can no longer answer for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apps.runs import guard_process
from apps.runs.guard import now

#: A worker as far as the guard is concerned: starts children, tells its guard, and obeys
#: one command a line.
WORKER = """
import json, os, subprocess, sys, tempfile
from pathlib import Path
from apps.runs.guard import Guard, now

guard = Guard(sys.argv[1], float(sys.argv[2]))
guard.start()
children = {}
for line in sys.stdin:
    word, *rest = line.split()
    if word in ("start", "unreported"):
        mark, script = rest[0], " ".join(rest[1:])
        env = {"PATH": os.environ["PATH"], "RUNYARD_WORKER": sys.argv[1], "RUNYARD_ATTEMPT": mark}
        folder = Path(tempfile.mkdtemp())
        guard.opening(mark, guard.deadline(now()), folder)
        child = subprocess.Popen(["/bin/sh", "-c", script], env=env, start_new_session=True)
        if word == "start":
            guard.started(mark, child.pid)
        children[mark] = child
        print(json.dumps({"pid": child.pid, "guard": guard.pid}), flush=True)
    elif word == "renew":
        guard.renewed(rest, guard.deadline(now()))
    elif word == "end":
        guard.ended(rest[0])
    elif word == "check":
        guard.check()
        print(json.dumps({"guard": guard.pid}), flush=True)
"""


class Worker:
    def __init__(self, name: str, lease: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, name, str(lease)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")

    def ask(self, line: str) -> dict[str, int]:
        self.tell(line)
        assert self.process.stdout is not None
        answer: dict[str, int] = json.loads(self.process.stdout.readline())
        return answer

    def end(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    started = Worker(f"test-{os.getpid()}-{request.node.name}", getattr(request, "param", 60))
    yield started
    if started.process.returncode is None:
        started.end()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def pid_in(file: Path) -> int:
    until(lambda: file.exists() and file.read_text().endswith("\n"))
    return int(file.read_text())


def test_children_and_what_left_their_group_die_with_a_killed_worker(worker, tmp_path):
    told = worker.ask(
        f"start 1.1 sleep 100 & echo $! > {tmp_path}/kid;"
        f" setsid sh -c 'echo $$ > {tmp_path}/stray; exec sleep 100' & wait"
    )
    pids = [told["pid"], pid_in(tmp_path / "kid"), pid_in(tmp_path / "stray")]
    assert [alive(pid) for pid in pids] == [True, True, True]

    worker.end()

    until(lambda: not any(alive(pid) for pid in [*pids, told["guard"]]), 3)


def test_child_that_was_started_but_not_yet_reported_dies_with_its_worker(worker):
    told = worker.ask("unreported 1.1 exec sleep 100")

    worker.end()

    until(lambda: not alive(told["pid"]), 3)


def test_guard_outlives_the_signals_of_a_terminal(worker):
    told = worker.ask("start 1.1 exec sleep 100")
    until(lambda: b"guard_process" in Path(f"/proc/{told['guard']}/cmdline").read_bytes())
    until(lambda: ignores(told["guard"]) >= {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(told["guard"], number)
    worker.end()

    assert os.getsid(told["guard"]) == told["guard"]
    until(lambda: not alive(told["pid"]), 3)


def ignores(pid: int) -> set[int]:
    status = Path(f"/proc/{pid}/status").read_text()
    bits = int(status.partition("SigIgn:")[2].split()[0], 16)
    return {n for n in range(1, 65) if bits >> (n - 1) & 1}


@pytest.mark.parametrize("worker", [2.0], indirect=True)
def test_children_of_a_frozen_worker_die_before_their_lease_ends(worker):
    asked = now()
    told = worker.ask("start 1.1 exec sleep 100")
    # After `asked`, so the true lease ends later still.
    os.kill(worker.process.pid, signal.SIGSTOP)

    until(lambda: not alive(told["pid"]), 2.0)

    assert asked + 2.0 - guard_process.margin(2.0) <= now() < asked + 2.0


@pytest.mark.parametrize("worker", [2.0], indirect=True)
def test_renewed_child_lives_on_and_the_one_left_out_dies(worker):
    renewed = worker.ask("start 1.1 exec sleep 100")
    lost = worker.ask("start 2.1 exec sleep 100")

    def look() -> bool:
        worker.tell("renew 1.1")
        time.sleep(0.1)
        return not alive(lost["pid"])

    until(look, 4)

    assert alive(renewed["pid"])


def test_attempt_that_has_ended_is_forgotten(worker):
    """By its mark or its group's id it could otherwise kill what came later."""
    told = worker.ask("unreported 1.1 exec sleep 100")
    worker.tell("end 1.1")
    other = worker.ask("start 2.1 exec sleep 100")

    worker.end()

    until(lambda: not alive(other["pid"]), 3)
    until(lambda: not alive(other["guard"]), 3)
    assert alive(told["pid"])
    os.kill(told["pid"], signal.SIGKILL)


def test_other_workers_child_with_the_same_mark_is_left_alone(worker):
    """Two homes on one machine count their node runs from 1 both."""
    other = Worker("another", 60)
    theirs = other.ask("start 1.1 exec sleep 100")
    mine = worker.ask("start 1.1 exec sleep 100")

    worker.end()

    until(lambda: not alive(mine["guard"]), 3)
    assert (alive(mine["pid"]), alive(theirs["pid"])) == (False, True)
    other.end()
    until(lambda: not alive(theirs["pid"]), 3)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_guard_that_was_lost_is_replaced_by_one_that_knows_all(worker, number):
    told = worker.ask("start 1.1 exec sleep 100")
    os.kill(told["guard"], number)

    if number == signal.SIGKILL:
        until(lambda: not alive(told["guard"]))
        new = worker.ask("check")["guard"]
    else:
        # A frozen guard shows when its pipe is full.
        for n in range(10_000):
            worker.tell(f"end 9{n}.1")
        new = worker.ask("start 2.1 exec sleep 100")["guard"]

    assert new != told["guard"]
    assert (alive(told["guard"]), alive(told["pid"])) == (False, True)
    worker.end()
    until(lambda: not alive(told["pid"]), 3)


def test_guard_holds_nothing_of_the_workers(worker):
    told = worker.ask("start 1.1 exec sleep 100")
    until(lambda: b"guard_process" in Path(f"/proc/{told['guard']}/cmdline").read_bytes())

    environment = Path(f"/proc/{told['guard']}/environ").read_bytes()

    assert environment == b""
