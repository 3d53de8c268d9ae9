"""Keep programs running: start, restart with back-off, one prefixed log, end them together.

It knows nothing of what the programs are; `apps.core.up` says that.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from logging import LogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, Self

from apps.core.embedded import tethered

#: The pause before a program that ended is started again; it doubles from the first to the
#: last, and begins anew once the program has run for LIVED_SECONDS.
FIRST_PAUSE_SECONDS = 0.25
LAST_PAUSE_SECONDS = 30.0
LIVED_SECONDS = 30.0
#: How often to look whether a program has ended.
LOOK_SECONDS = 0.1
LOG_BYTES = 10_000_000


class Log:
    """One file for all programs, each line with the time and a prefix; also shown if `echo`."""

    def __init__(self, file: Path, *, echo: bool) -> None:
        self.file = file
        self.echo = echo
        file.touch(mode=0o600)
        self._handler = RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=3)

    def say(self, name: str, text: str) -> None:
        line = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {name:<9}| {text}"
        self._handler.handle(LogRecord(name, 0, "", 0, line, None, None))
        if self.echo:
            try:
                print(line, flush=True)
            except OSError:  # the terminal is gone; the file goes on
                self.echo = False

    def close(self) -> None:
        self._handler.close()


@dataclass(frozen=True)
class Program:
    #: What its lines in the log begin with.
    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    stop_signal: signal.Signals = signal.SIGTERM
    #: How long it may take to end before it is killed.
    stop_seconds: float = 20.0
    pass_fds: tuple[int, ...] = ()


@dataclass
class _Kept:
    """A program and its process of the moment."""

    program: Program
    #: When it is due to be started; it counts only while there is no process.
    start_at: float
    process: subprocess.Popen[bytes] | None = None
    reader: threading.Thread | None = None
    started: float = 0.0
    pause: float = FIRST_PAUSE_SECONDS


class Supervisor:
    """Programs that are kept running until the block ends, and are then ended together.

    `started` is told each time a process was started: (program, process id).
    """

    def __init__(self, log: Log, started: Callable[[Program, int], None]) -> None:
        self._log = log
        self._started = started
        self._kept: list[_Kept] = []
        self._wake = threading.Event()
        self._ending = False
        # All are started by this one thread: the kernel ends a tethered process with the
        # *thread* that started it.
        self._thread = threading.Thread(target=self._keep, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._wake.set()
        self._thread.join()

    def start(self, program: Program) -> None:
        """Start a program soon, and keep it running."""
        self._kept.append(_Kept(program, time.monotonic()))
        self._wake.set()

    def _keep(self) -> None:
        while not self._ending:
            for kept in list(self._kept):
                self._look_after(kept)
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
        self._end()

    def _look_after(self, kept: _Kept) -> None:
        now = time.monotonic()
        if kept.process is None:
            if now >= kept.start_at:
                self._spawn(kept)
            return
        status = kept.process.poll()
        if status is None:
            return
        if now - kept.started > LIVED_SECONDS:
            kept.pause = FIRST_PAUSE_SECONDS
        self._log.say(kept.program.name, f"[{_ending(status)}; started again in {kept.pause:g} s]")
        kept.process = None
        kept.start_at = now + kept.pause
        kept.pause = min(kept.pause * 2, LAST_PAUSE_SECONDS)

    def _spawn(self, kept: _Kept) -> None:
        program = kept.program
        kept.process = tethered(
            [*program.argv],
            program.stop_signal,
            output=subprocess.PIPE,
            env=dict(program.env),
            pass_fds=program.pass_fds,
        )
        kept.started = time.monotonic()
        self._started(program, kept.process.pid)
        kept.reader = threading.Thread(
            target=self._read, args=(program.name, kept.process.stdout), daemon=True
        )
        kept.reader.start()

    def _read(self, name: str, output: IO[bytes]) -> None:
        with output:
            while line := output.readline(65_536):
                self._log.say(name, line.decode(errors="replace").rstrip("\r\n"))

    def _end(self) -> None:
        """Ask all to end, and wait; kill what takes longer than it may.

        A program's helpers hold its output open. So the end of the output is waited for too:
        then they are gone as well.
        """
        running = [(kept, kept.process) for kept in self._kept if kept.process is not None]
        asked = time.monotonic()
        for kept, process in running:
            process.send_signal(kept.program.stop_signal)
        for kept, process in running:
            until = asked + kept.program.stop_seconds
            try:
                process.wait(max(until - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                self._log.say(kept.program.name, "[does not end; killed]")
                process.kill()
                process.wait()
            if kept.reader is not None:
                kept.reader.join(max(until - time.monotonic(), 1))


def _ending(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
