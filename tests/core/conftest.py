from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from apps.core.home import Home
from apps.core.ledger import standing
from tests.waiting import until

ROOT = Path(__file__).resolve().parent.parent.parent


class Up:
    """A real `manage.py up` in a home of its own."""

    def __init__(self, home: Home, *arguments: str, **variables: str) -> None:
        self.home = home
        descriptor, name = tempfile.mkstemp(prefix="output-", dir=home.path.parent)
        self.output = Path(name)
        with open(descriptor, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up", "--port", "0", *arguments],
                cwd=ROOT,
                env={**environment(home), **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def ready(self) -> Up:
        until(lambda: self.address or self.process.poll() is not None, "the first page", seconds=40)
        assert self.process.poll() is None, self.text
        return self

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def address(self) -> str:
        found = re.search(r"^Runyard is ready: (\S+)$", self.text, re.MULTILINE)
        return found[1] if found else ""

    @property
    def password(self) -> str:
        found = re.search(r"with the password (\S+) ", self.text)
        return found[1] if found else ""

    def pids(self) -> dict[str, int]:
        runs = standing(self.home)
        return {child.name: child.id for child in runs.children} if runs else {}

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def connect(home: Home) -> psycopg.Connection:
    return psycopg.connect(
        host=str(home.sockets), user="runyard", dbname="runyard", autocommit=True
    )


def environment(home: Home) -> dict[str, str]:
    """A person's environment with this home, without the one of the test session."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DJANGO_")}
    return {**kept, "RUNYARD_HOME": str(home.path)}


def processes_of(home: Home) -> dict[int, str]:
    """Every process of the machine that a home has brought about: id and command line."""
    marks = (os.fsencode(home.path), os.fsencode(home.sockets))
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            told = (
                command + (entry / "environ").read_bytes() + os.fsencode((entry / "cwd").readlink())
            )
        except OSError:  # it has ended
            continue
        if any(mark in told for mark in marks):
            found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


@pytest.fixture
def fresh_home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "höme of two")
    yield home
    shutil.rmtree(home.sockets, ignore_errors=True)


@pytest.fixture
def up(fresh_home: Home) -> Iterator[Callable[..., Up]]:
    """Start `up`; whatever of it the test leaves behind is killed."""
    started: list[Up] = []

    def start(*arguments: str, home: Home = fresh_home, **variables: str) -> Up:
        started.append(Up(home, *arguments, **variables))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.end()
        for pid in processes_of(each.home):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(each.home.sockets, ignore_errors=True)
