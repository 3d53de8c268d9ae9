"""What a worker holds of its guard (guard_process.py): a pipe, and the list of what lives.

One guard a worker, not one a node. If the guard dies the worker starts another one and tells
it everything again; if the worker dies, the guard kills what the worker had started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from . import guard_process
from .guard_process import now

log = logging.getLogger(__name__)

#: Lines stay below it, so that a write to the pipe goes whole or not at all.
_PIPE_BUF = 4096

__all__ = ["Guard", "now"]


class Charge(NamedTuple):
    """An attempt that the guard watches."""

    #: Process group; 0 before the child has started.
    group: int
    #: When the guard kills it, CLOCK_BOOTTIME.
    deadline: float
    #: Where its child starts. The guard closes it then: no child starts there any more.
    folder: Path

    def opening(self, mark: str) -> str:
        # In hex, whatever characters the path has.
        return f"open {mark} {self.deadline:.3f} {os.fsencode(self.folder).hex()}"


class Guard:
    """The worker's side. Every method may be called from any thread."""

    def __init__(self, worker: str, lease_seconds: float) -> None:
        self.worker = worker
        self.lease_seconds = lease_seconds
        self._lock = threading.Lock()
        #: mark -> what the guard has to know of it
        self._live: dict[str, Charge] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self) -> None:
        with self._lock:
            self._start()

    def deadline(self, since: float) -> float:
        """When a child must be dead whose lease was asked for at `since` (CLOCK_BOOTTIME).

        The database counts the lease from when the question got there, so this is early, and
        a margin earlier still: the child is dead before anyone else may claim its node.
        """
        return since + self.lease_seconds - guard_process.margin(self.lease_seconds)

    def opening(self, mark: str, deadline: float, folder: Path) -> None:
        """Before the child is started, so that no moment is left in which it is unknown.

        `folder` is its working directory, and nobody else's. It is moved aside as the deadline
        passes: of a worker that sleeps between its last look at the lease and the start, the
        start then fails with FileNotFoundError.
        """
        charge = Charge(0, deadline, folder)
        self._tell(mark, charge, charge.opening(mark))

    def started(self, mark: str, group: int) -> None:
        self._tell(mark, self._live[mark]._replace(group=group), f"group {mark} {group}")

    def renewed(self, marks: Iterable[str], deadline: float) -> None:
        with self._lock:
            line = ""
            for mark in marks:
                if mark not in self._live:
                    continue
                self._live[mark] = self._live[mark]._replace(deadline=deadline)
                if len(line) + len(mark) > _PIPE_BUF - 50:
                    self._write(line)
                    line = ""
                line = f"{line or f'lease {deadline:.3f}'} {mark}"
            if line:
                self._write(line)

    def ended(self, mark: str) -> None:
        """After the last of its processes is dead, and before its leader is reaped."""
        self._tell(mark, None, f"end {mark}")

    def check(self) -> None:
        """Start a new guard if this one has died."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._restart("the guard has ended")

    def close(self) -> None:
        """Let the guard end by itself; it kills what still lives."""
        with self._lock:
            os.close(self._pipe)
            self._pipe = -1
            if self._process:
                self._process.wait()

    def _tell(self, mark: str, charge: Charge | None, line: str) -> None:
        with self._lock:
            if charge is None:
                self._live.pop(mark, None)
            else:
                self._live[mark] = charge
            self._write(line)

    def _write(self, line: str) -> None:
        try:
            os.write(self._pipe, line.encode() + b"\n")
        except OSError as why:
            # Dead, or frozen and its pipe full. The list has this line's news already.
            self._restart(str(why))

    def _restart(self, why: str) -> None:
        log.warning("%s: %s; starting another guard", self.worker, why)
        if self._process:
            # Before its pipe is closed: a frozen one would wake, read "the worker is gone"
            # and kill all that lives.
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        self._start()
        for mark, charge in self._live.items():
            line = f"{charge.opening(mark)}\ngroup {mark} {charge.group}\n"
            os.write(self._pipe, line.encode())

    def _start(self) -> None:
        read, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                # -I and -S: nothing of the environment, no site-packages, quick and small.
                [sys.executable, "-I", "-S", Path(guard_process.__file__), self.worker],
                stdin=read,
                stdout=subprocess.DEVNULL,
                env={},
                cwd="/",
                # Ctrl-C in the worker's terminal must not reach it.
                start_new_session=True,
            )
        finally:
            os.close(read)
        os.set_blocking(self._pipe, False)
