"""One machine's worth of Runyard to do harm to: servers, workers, beats, web, as real processes.

Each process reaches the servers over wires of its own. All are started by one thread, and the
kernel ends them with it: a chaos run that is killed leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from apps.core.embedded import EmbeddedError, Postgres, Server, Valkey, stop, tethered
from apps.core.embedded import start as start_server
from apps.core.home import Home
from tests.chaos.wires import Wire, Wires

ROOT = Path(__file__).resolve().parent.parent.parent
FAKETIME = [
    *Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"),
    *Path("/usr/lib/faketime").glob("libfaketimeMT.so.1"),
]


@dataclass
class Process:
    """A worker, a beat or the web process, over all its lives."""

    name: str
    argv: list[str]
    env: dict[str, str]
    folder: Path
    database: Wire
    broker: Wire
    pass_fds: tuple[int, ...] = ()
    #: Whether a fault has it in hand: then its end is meant.
    in_hand: bool = False
    popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid

    @property
    def said(self) -> Path:
        return self.folder / f"{self.name}.out"

    @property
    def point(self) -> Path:
        """The file that arms a point in it."""
        return self.folder / f"{self.name}.point"

    @property
    def clock(self) -> Path:
        """The file that says how far its clock is off, where it has one of its own."""
        return self.folder / f"{self.name}.clock"

    def start(self) -> None:
        with self.said.open("ab") as output:
            self.popen = tethered(
                self.argv, signal.SIGTERM, output=output, env=self.env, pass_fds=self.pass_fds
            )

    def signal(self, number: int) -> None:
        if self.is_alive():
            assert self.popen is not None
            self.popen.send_signal(number)

    def is_alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def is_frozen(self) -> bool:
        return self.is_alive() and state_of(self.pid) == "T"

    def is_ready(self) -> bool:
        """Whether this life of a worker has said that it is ready."""
        return self.is_alive() and any(
            mark.startswith(self._mark.encode()) for mark in _lines_after(self.said, b" worker ")
        )

    @property
    def _mark(self) -> str:
        return f"{self.name}@{socket.gethostname()}-{self.pid}-"

    def children(self) -> list[int]:
        """What runs for jobs of this life of it, by the mark that they carry."""
        wanted = b"RUNYARD_WORKER=" + self._mark.encode()
        return [pid for pid in pids() if any(e.startswith(wanted) for e in environment(pid))]

    def guards(self) -> list[int]:
        """Its guard; none at a moment in which it has none."""
        found = []
        for pid in pids():
            words = read(pid, "cmdline").split(b"\0")
            if words[-2:-1] and words[-2].startswith(self._mark.encode()):
                found.append(pid)
        return found


@dataclass
class Machine:
    folder: Path
    home: Home
    lease_seconds: int
    slots: int
    faketime: Path | None
    broken: str
    workers: list[Process] = field(default_factory=list)
    beats: list[Process] = field(default_factory=list)
    web: Process | None = None
    address: str = ""
    servers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    #: Servers that a fault has in hand.
    harmed: set[str] = field(default_factory=set)

    @property
    def digest(self) -> str:
        """In the name of each of its workers: by it their processes are found."""
        return self.home.digest

    @property
    def processes(self) -> list[Process]:
        return [*self.workers, *self.beats, *([self.web] if self.web else [])]

    def server(self, name: str) -> Server:
        return Postgres(self.home) if name == "postgres" else Valkey(self.home)

    def start_server(self, name: str) -> None:
        """Start a server again. A postmaster that was killed leaves backends that end first."""
        patience = time.monotonic() + 120
        while True:
            try:
                self.servers[name] = start_server(self.server(name))
                return
            except EmbeddedError:
                if time.monotonic() > patience:
                    raise

    def end_server(self, name: str, number: int) -> None:
        child = self.servers[name]
        child.send_signal(number)
        child.wait(timeout=60)

    def lay_processes(self, workers: int, beats: int, *, web: bool) -> None:
        """Make the processes and their wires; none is started yet."""
        wires = Wires()
        names = [*(f"w{n}" for n in range(workers)), *(f"beat{n}" for n in range(beats))]
        for number, name in enumerate([*names, *(["web"] if web else [])]):
            place = self.home.sockets / f"wires{number}"
            database = wires.lay(place / ".s.PGSQL.5432", self.home.sockets / ".s.PGSQL.5432")
            broker = wires.lay(place / "valkey.sock", self.home.sockets / "valkey.sock")
            role = name.rstrip("0123456789").replace("w", "worker", 1) if name != "web" else "web"
            own = f"{name}-{self.digest}"
            env = {
                **os.environ,
                "RUNYARD_HOME": str(self.home.path),
                "RUNYARD_ROLE": role,
                "RUNYARD_LOG_LEVEL": "INFO",
                "RUNYARD_LEASE_SECONDS": str(self.lease_seconds),
                "RUNYARD_STOP_GRACE_SECONDS": "2",
                "RUNYARD_WORKER_SLOTS": str(self.slots),
                "DATABASE_URL": f"postgres://runyard@{quote(str(place), safe='')}/runyard",
                "BROKER_URL": f"redis+socket://{place / 'valkey.sock'}?virtual_host=0",
                "DJANGO_SETTINGS_MODULE": "config.settings",
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
                "CHAOS_FOLDER": str(self.folder),
                "CHAOS_NAME": own,
                "CHAOS_BROKEN": self.broken,
            }
            argv = [sys.executable, "-Wignore", "-m", "tests.chaos.inside", role]
            process = Process(own, argv, env, self.folder, database, broker)
            if role == "worker":
                argv += ["--without-mingle", "--without-gossip", f"-n{own}@%h"]
                self.workers.append(process)
            elif role == "beat":
                self.beats.append(process)
            else:
                listener = socket.create_server(("127.0.0.1", 0), backlog=100)
                self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
                argv.append(str(listener.fileno()))
                process.pass_fds = (listener.fileno(),)
                self._listener = listener
                self.web = process
        if self.faketime:
            # The last of each, so that clocks differ within the machine.
            for process in (self.workers[-1], self.beats[-1]):
                process.clock.write_text("+0\n")
                process.env |= {
                    "LD_PRELOAD": str(self.faketime),
                    "FAKETIME_TIMESTAMP_FILE": str(process.clock),
                    "FAKETIME_CACHE_DURATION": "1",
                    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                }

    def heal(self) -> None:
        """Everything as it should be: wires, clocks, servers; whoever is dead is started."""
        for name in ("postgres", "valkey"):
            if self.servers[name].poll() is not None:
                self.start_server(name)
        for process in self.processes:
            process.database.flow()
            process.broker.flow()
            process.point.unlink(missing_ok=True)
            if process.clock.exists():
                process.clock.write_text("+0\n")
            process.signal(signal.SIGCONT)
            if not process.is_alive():
                process.start()
            process.in_hand = False

    def end_processes(self) -> list[str]:
        """End all as a deploy would; the names of those that had to be killed."""
        for process in self.processes:
            process.signal(signal.SIGHUP if process in self.beats else signal.SIGTERM)
        stuck = []
        for process in self.processes:
            try:
                if process.popen:
                    process.popen.wait(timeout=60)
            except subprocess.TimeoutExpired:
                stuck.append(process.name)
                process.signal(signal.SIGKILL)
                process.popen.wait()  # type: ignore[union-attr]
        return stuck

    def leftovers(self) -> list[str]:
        """Processes of its jobs and guards that live, as a person would see them."""
        sign, found = f"-{self.digest}@".encode(), []
        for pid in pids():
            words = read(pid, "cmdline")
            marks = [e for e in environment(pid) if e.startswith(b"RUNYARD_WORKER=")]
            guard = b"guard_process.py" in words and sign in words
            job = str(self.folder).encode() in words and b"journal" in words
            if (guard or job or any(sign in mark for mark in marks)) and state_of(pid) != "Z":
                found.append(
                    f"{pid} {words.replace(bytes(1), b' ').decode(errors='replace')[:200]}"
                )
        return found


@contextmanager
def machine(
    folder: Path, home: Home, *, lease_seconds: int, slots: int, broken: str = ""
) -> Iterator[Machine]:
    """The servers of a machine, running, with a database of its own; no process yet."""
    home.make()
    faketime = os.environ.get("FAKETIME_LIBRARY")
    library = Path(faketime) if faketime else next(iter(FAKETIME), None)
    made = Machine(folder, home, lease_seconds, slots, library, broken)
    with home.lock():
        try:
            for name in ("postgres", "valkey"):
                made.server(name).prepare()
                made.start_server(name)
            Postgres(home).create_database()
            yield made
        finally:
            for process in made.processes:
                with suppress(ProcessLookupError):
                    process.signal(signal.SIGKILL)
                    process.signal(signal.SIGCONT)
                if process.popen:
                    process.popen.wait()
            for name, child in made.servers.items():
                stop(child, made.server(name).stop_signal)
    shutil.rmtree(home.sockets, ignore_errors=True)


# --- /proc ------------------------------------------------------------------------------------


def pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def environment(pid: int) -> list[bytes]:
    return read(pid, "environ").split(b"\0")


def state_of(pid: int) -> str:
    """R, S, D, T, Z …; "" where it is gone."""
    fields = read(pid, "stat").rpartition(b")")[2].split()
    return fields[0].decode() if fields else ""


def _lines_after(file: Path, word: bytes) -> list[bytes]:
    try:
        return [line.partition(word)[2] for line in file.read_bytes().splitlines() if word in line]
    except OSError:
        return []
