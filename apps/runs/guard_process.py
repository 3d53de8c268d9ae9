"""The guard: ends a worker's children when the worker cannot.

Started by `guard.Guard` as `python -I -S guard_process.py NAME`: the standard library alone,
for it lives as long as its worker and should weigh nothing. It reads lines from its standard
input, whose other end only the worker holds:

    open MARK END DIR   an attempt is about to start, in this folder; its lease ends then
    group MARK PGID     it has started, and leads this process group
    lease END MARK...   these leases were renewed until then
    end MARK            it is over and nothing of it is left

The folder's path is in hex. Times are seconds of CLOCK_BOOTTIME, which also counts while the
machine sleeps. When a lease ends unrenewed (the worker is frozen or cut off), that attempt is
killed, before anyone else may claim its node. When the input ends (the worker is gone, however
it went), all are killed, and the guard ends.
"""

import contextlib
import os
import select
import signal
import sys
import time

#: Between two looks at the input, so that a busy worker does not wake the guard a thousand
#: times a second. It delays the news of the worker's end by as much.
NAP = 0.05
#: What the name of a folder ends with in which no child may start any more.
CLOSED = b".closed"


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def margin(lease_seconds: float) -> float:
    """How long before a lease's end its child is killed: it must be dead at the end."""
    return min(2.0, lease_seconds / 8)


class Attempts:
    """What lives: mark -> process group (0: not known yet) and when it has to die."""

    def __init__(self, worker: str) -> None:
        self.worker = worker.encode()
        self.groups: dict[str, int] = {}
        self.ends: dict[str, float] = {}
        self.folders: dict[str, bytes] = {}

    def read(self, line: str) -> None:
        word, *rest = line.split(" ")
        if word == "open":
            self.groups[rest[0]] = 0
            self.ends[rest[0]] = float(rest[1])
            self.folders[rest[0]] = bytes.fromhex(rest[2])
        elif word == "group":
            self.groups[rest[0]] = int(rest[1])
        elif word == "lease":
            for mark in rest[1:]:
                if mark in self.ends:
                    self.ends[mark] = float(rest[0])
        elif word == "end":
            self.groups.pop(rest[0], None)
            self.ends.pop(rest[0], None)
            self.folders.pop(rest[0], None)

    def due(self) -> list[str]:
        return [mark for mark, end in self.ends.items() if end <= now()]

    def kill(self, marks: list[str]) -> None:
        """Kill these attempts' groups, then whatever else carries their marks.

        First of all their folders are moved aside, so that a worker which was frozen on its way
        to a start finds no place to start in when it wakes.
        """
        for mark in marks:
            with contextlib.suppress(OSError):
                os.rename(self.folders[mark], self.folders[mark] + CLOSED)
        for mark in marks:
            # The leader is a zombie at the least until its worker reaps it, which it does
            # only after `end`: the group's id cannot be anyone else's.
            if self.groups[mark]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.groups[mark], signal.SIGKILL)
        # A worker that dies between fork and exec leaves a child that carries its mark only
        # from its exec on; one that forks while it is looked for needs a second look.
        patience = now() + 2
        clean = 0
        while clean < 3 and now() < patience:
            clean = 0 if self.kill_marked(marks) else clean + 1
            time.sleep(0.02)
        for mark in marks:
            del self.groups[mark], self.ends[mark], self.folders[mark]

    def kill_marked(self, marks: list[str]) -> int:
        wanted = {b"RUNYARD_ATTEMPT=" + mark.encode() for mark in marks}
        count = 0
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    entries = set(file.read().split(b"\0"))
            except OSError:
                continue
            if b"RUNYARD_WORKER=" + self.worker in entries and wanted & entries:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(int(name), signal.SIGKILL)
                    count += 1
        return count


def say(text: str) -> None:
    """A line for the worker's own log, which may be gone already."""
    with contextlib.suppress(OSError):
        os.write(2, f"guard: {text}\n".encode())


def main(worker: str) -> None:
    # A terminal's Ctrl-C and a service's SIGTERM are for the worker: the guard outlives it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    attempts = Attempts(worker)
    rest = b""
    while True:
        wait = None
        if attempts.ends:
            # poll() stands still while the machine sleeps, the leases do not.
            wait = max(0.0, min(1.0, min(attempts.ends.values()) - now()))
        if select.select([0], [], [], wait)[0]:
            data = os.read(0, 1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                attempts.read(line.decode())
        due = attempts.due()
        if due:
            say(f"{worker} did not renew {' '.join(due)} in time; killing")
            attempts.kill(due)
        time.sleep(NAP)
    if attempts.ends:
        left = list(attempts.ends)
        say(f"{worker} is gone; killing {' '.join(left)}")
        attempts.kill(left)


if __name__ == "__main__":
    main(sys.argv[1])
