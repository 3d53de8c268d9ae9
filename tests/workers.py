"""Real workers for tests: `celery -A config worker` as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from apps.core.home import Home
from apps.engine.states import NodeState
from apps.runs.models import NodeRun, Run
from apps.runs.services import sweep
from tests.waiting import until

ROOT = Path(__file__).resolve().parent.parent
#: Short, so that a lost worker is found within a test; long enough for a loaded machine.
LEASE_SECONDS = 4

#: A worker that stops itself, until SIGCONT, between its last look at a lease and the start.
_SLEEPS = """
import django, os, signal
django.setup()
from apps.runs import execution
real = execution.start
def start(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGSTOP)
    return real(*args, **kwargs)
execution.start = start
"""

T = TypeVar("T")


class RealWorker:
    """A worker process on the session's home, its output in a file."""

    def __init__(
        self,
        home: Home,
        name: str,
        folder: Path,
        base_python: str = "",
        sleeps_before_a_start: bool = False,
        **settings: object,
    ) -> None:
        main = "from celery.__main__ import main; main()"
        if sleeps_before_a_start:
            main = _SLEEPS + main
        if base_python:  # what it takes for the machine's Python
            main = f"import sys; sys._base_executable = {base_python!r}; {main}"
        self._output = folder / f"{name}.out"
        own = {
            "RUNYARD_HOME": str(home.path),
            "RUNYARD_ROLE": "worker",
            "RUNYARD_LEASE_SECONDS": str(LEASE_SECONDS),
            "RUNYARD_STOP_GRACE_SECONDS": "1",
            "RUNYARD_WORKER_SLOTS": "8",
            "DJANGO_SETTINGS_MODULE": "config.settings",
            **{f"RUNYARD_{key.upper()}": str(value) for key, value in settings.items()},
        }
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", main, "-A", "config", "worker", "-n", f"{name}@%h"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=ROOT,
                env={**os.environ, **own},
                start_new_session=True,
            )
        self.pid = self.process.pid
        until(
            lambda: " ready." in self.said() or self.process.poll() is not None,
            "the worker's start",
            seconds=30,
        )
        # Killed: what it ran, it may have been for that very purpose.
        assert self.process.poll() in (None, -signal.SIGKILL), self.said()

    def said(self) -> str:
        return self._output.read_text(errors="replace")

    @property
    def name(self) -> str:
        """The name under which it holds nodes. It may speak of others before: of those gone."""
        found = re.search(r"worker: worker (\S+) has ", self.said())
        return found[1] if found else ""

    @property
    def guard(self) -> int:
        """The process id of its guard, 0 where it has none at this moment."""
        for pid in pids():
            if _read(pid, "cmdline").endswith(f"{self.name}\0".encode()) and alive(pid):
                return pid
        return 0

    def end(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal and wait for the end; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)
        return self.process.wait(timeout=seconds)

    def children(self) -> list[int]:
        """The live processes of its jobs, by the mark that each of them carries."""
        mark = f"RUNYARD_WORKER={self.name}".encode()
        return [pid for pid in pids() if mark in _read(pid, "environ").split(b"\0")]


Start = Callable[..., RealWorker]


def pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def alive(pid: int) -> bool:
    state = _read(pid, "stat").rpartition(b")")[2].split()
    return bool(state) and state[0] not in (b"Z", b"X")


def ticking(condition: Callable[[], T], what: str = "it", *, seconds: float = 30) -> T:
    """Wait as `until` does, while the engine looks around as beat would have it."""

    def look() -> T:
        sweep.tick()
        return condition()

    return until(look, what, seconds=seconds)


def ended(run: Run) -> bool:
    run.refresh_from_db()
    return run.ended_at is not None


def nodes(run: Run) -> dict[str, str]:
    return dict(run.nodes.order_by("pk").values_list("key", "state"))


def running(run: Run, key: str) -> NodeRun:
    """A node once it runs."""
    node = run.nodes.get(key=key)

    def is_running() -> bool:
        node.refresh_from_db()
        return bool(node.state == NodeState.RUNNING)

    until(is_running, f"the start of {key}")
    return node


def attempts(node: NodeRun) -> list[str]:
    """How a node's attempts ended, the first first."""
    return list(node.attempts.order_by("number").values_list("state", flat=True))
