"""What runs on a home: where it answers and which processes it has, in <home>/up.json.

For the next `up`: it points at the one that runs, and ends what a killed one left behind.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from apps.core.home import Home, private
from apps.core.supervisor import Program


@dataclass(frozen=True)
class Process:
    name: str
    id: int
    #: What the system says of its start. With the id it means one process for all time.
    born: str
    #: What asks it to end.
    stop_signal: int

    def lives(self) -> bool:
        return bool(self.born) and _born(self.id) == self.born


class Ledger:
    """Written by `up`, who holds the home's lock; read by anyone."""

    def __init__(self, home: Home) -> None:
        self._file = home.path / "up.json"
        self._lock = threading.Lock()
        self._address = ""
        self._processes: dict[str, Process] = {}

    def open(self, address: str) -> None:
        with self._lock:
            self._address = address
            self._write()

    def started(self, program: Program, process_id: int) -> None:
        with self._lock:
            self._processes[program.name] = Process(
                program.name, process_id, _born(process_id), int(program.stop_signal)
            )
            self._write()

    def close(self) -> None:
        self._file.unlink(missing_ok=True)

    def _write(self) -> None:
        content = {
            "address": self._address,
            "process": os.getpid(),
            "children": [asdict(process) for process in self._processes.values()],
        }
        fresh = self._file.with_suffix(".new")
        with open(fresh, "w", opener=private) as file:
            json.dump(content, file, indent=1)
        fresh.rename(self._file)


@dataclass(frozen=True)
class Standing:
    """What a ledger says: of the `up` that runs, or of the last one if that was killed."""

    address: str
    process: int
    children: tuple[Process, ...]


def standing(home: Home) -> Standing | None:
    try:
        content = json.loads((home.path / "up.json").read_text())
        children = tuple(Process(**child) for child in content["children"])
        return Standing(content["address"], content["process"], children)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def end_leftovers(home: Home, patience_seconds: float = 10.0) -> list[Process]:
    """End what a killed `up` left behind. Only for the one who holds the home's lock.

    The kernel has asked them to end already (`tether`); the worker may need its time for it.
    Returns those that were still there.
    """
    last = standing(home)
    left = [process for process in last.children if process.lives()] if last else []
    for process in left:
        _signal(process, process.stop_signal)
    until = time.monotonic() + patience_seconds
    while any(process.lives() for process in left) and time.monotonic() < until:
        time.sleep(0.05)
    for process in left:
        if process.lives():
            _signal(process, signal.SIGKILL)
    return left


def _signal(process: Process, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.id, number)


def _born(process_id: int) -> str:
    """When a process was started, as the system counts it; "" if there is none."""
    if sys.platform == "linux":
        try:
            state, *fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if state in "ZX" else fields[18]
    ask = ["ps", "-o", "lstart=", "-p", str(process_id)]
    return subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
