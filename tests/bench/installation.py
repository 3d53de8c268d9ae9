"""A real Runyard in a home of its own: `manage.py up`, and a program that speaks REST to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGINT
from typing import Any

import psycopg

from apps.core.embedded import tethered
from apps.core.home import Home
from tests.bench.children import JOB, PATIENCE_SECONDS, Late

ROOT = Path(__file__).resolve().parent.parent.parent
READY_SECONDS = 90.0
#: A server closes a connection on which nothing was asked for some seconds.
_KEPT_SECONDS = 2.0


class Client:
    """One connection to the web process, kept open."""

    def __init__(self, address: str, token: str = "") -> None:
        self._connection = http.client.HTTPConnection(
            address.removeprefix("http://"), timeout=PATIENCE_SECONDS
        )
        self._asked = 0.0
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def send(self, method: str, place: str, body: Any = None) -> Any:
        """The answer's JSON. Raises Late with the server's words if it is a refusal."""
        content = None if body is None else json.dumps(body)
        if time.monotonic() - self._asked > _KEPT_SECONDS:
            self._connection.close()  # and opened anew by the request
        self._asked = time.monotonic()
        self._connection.request(method, place, content, self._headers)
        answer = self._connection.getresponse()
        said = answer.read()
        if answer.status >= 400:
            raise Late(f"{method} {place}: {answer.status} {said.decode(errors='replace')[:1000]}")
        return json.loads(said) if said else None

    def close(self) -> None:
        self._connection.close()


class Installation:
    """What runs on a home. `slots`: nodes that its worker runs at once."""

    def __init__(self, home: Home, slots: int) -> None:
        self.home = home
        self.slots = slots
        self.password = ""
        self.address = ""
        #: From the start of `up` to its first page, in s; the first one makes the database.
        self.starts: list[float] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs: set[str] = set()
        self._count = 0

    # --- start and end ----------------------------------------------------------------------

    def start(self) -> None:
        log = self.home.path.parent / "up.out"
        began = time.monotonic()
        with log.open("wb") as output:
            self._process = tethered(
                [sys.executable, str(ROOT / "manage.py"), "up", "--port", "0"],
                SIGINT,
                output=output,
                env=self.environment(),
            )
        while not (found := re.search(rb"^Runyard is ready: (\S+)$", log.read_bytes(), re.M)):
            if self._process.poll() is not None or time.monotonic() - began > READY_SECONDS:
                raise Late(f"Runyard has not started: {log.read_text(errors='replace')}")
            time.sleep(0.01)
        self.starts.append(time.monotonic() - began)
        self.address = found[1].decode()
        if password := re.search(rb"with the password (\S+) ", log.read_bytes()):
            self.password = password[1].decode()

    def end(self) -> None:
        """End it as Ctrl-C does. What is left then is killed and told: it is a fault."""
        if self._process is None:
            return
        self._process.send_signal(SIGINT)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        if left := self.processes():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise Late(f"`up` has left processes behind: {sorted(left.values())}")

    def environment(self) -> dict[str, str]:
        """Defaults, whatever the person's shell sets; the worker is the one that is measured."""
        dropped = ("RUNYARD_", "DJANGO_", "BENCH_", "DATABASE_URL", "BROKER_URL")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(dropped)}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            "RUNYARD_HOME": str(self.home.path),
            "RUNYARD_WORKER_SLOTS": str(self.slots),
            # The same children as the others start, without a switch of user before each.
            "RUNYARD_JOB_UID_BASE": "0",
        }

    def processes(self) -> dict[int, str]:
        """Every process that this home has brought about, but for ours: id -> command line."""
        marks = (os.fsencode(self.home.path), os.fsencode(self.home.sockets))
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with suppress(OSError):  # it has ended
                command = (entry / "cmdline").read_bytes()
                told = command + (entry / "environ").read_bytes()
                told += os.fsencode((entry / "cwd").readlink())
                if any(mark in told for mark in marks):
                    found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        return found

    # --- what a program says to it ----------------------------------------------------------

    def login(self) -> Client:
        """A client with a token of its own."""
        asking = Client(self.address)
        wanted = {"username": "admin", "password": self.password, "name": "bench", "scope": "edit"}
        token = asking.send("POST", "/api/v1/token", wanted)["token"]
        asking.close()
        return Client(self.address, token)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=str(self.home.sockets), user="runyard", dbname="runyard", autocommit=True
        )

    def workflow(
        self,
        client: Client,
        upstream: Mapping[str, Sequence[str] | set[str]],
        jobs: Mapping[str, str] | None = None,
    ) -> int:
        """A published workflow, made as a program would; its id. `jobs`: node -> a job's text,
        where it is another one than that which writes the time."""
        uses = {node: self._job(client, (jobs or {}).get(node, JOB)) for node in upstream}
        self._count += 1
        made = client.send("POST", f"{HERE}/workflows", {"name": f"bench_{self._count}"})
        flow = made["id"]
        draft = {
            "revision": made["revision"],
            "nodes": [{"name": node, "job": uses[node]} for node in upstream],
            "edges": [[up, node] for node, above in upstream.items() for up in sorted(above)],
        }
        client.send("PUT", f"{HERE}/workflows/{flow}/draft", draft)
        client.send("POST", f"{HERE}/workflows/{flow}/publish")
        return int(flow)

    def _job(self, client: Client, text: str) -> str:
        path = f"bench/job_{abs(hash(text))}"
        if path not in self._jobs:
            body = {"path": path, "kind": "shell", "queue": "root_queue", "spec": {"content": text}}
            job = client.send("POST", f"{HERE}/jobs", body)["id"]
            client.send("POST", f"{HERE}/jobs/{job}/publish")
            self._jobs.add(path)
        return path

    def run(self, client: Client, workflow: int, file: Path) -> int:
        body = {"parameters": {"FILE": str(file)}}
        return int(client.send("POST", f"{HERE}/workflows/{workflow}/run", body)["runs"][0])

    def wait_until_over(self, connection: psycopg.Connection[Any]) -> None:
        """Until no run is under way."""
        until = time.monotonic() + PATIENCE_SECONDS
        ask = "SELECT EXISTS (SELECT FROM runs_run WHERE state IN ('pending', 'running'))"
        while connection.execute(ask).fetchone() == (True,):
            if time.monotonic() > until:
                raise Late(f"a run is not over after {PATIENCE_SECONDS:g} s")
            time.sleep(0.01)


HERE = "/api/v1/workspaces/default"


@contextmanager
def installation(folder: Path, slots: int) -> Iterator[Installation]:
    """A Runyard that runs for as long as the block lasts; no process is left."""
    it = Installation(Home(folder / "home"), slots)
    try:
        it.start()
        yield it
    finally:
        it.end()
        shutil.rmtree(it.home.sockets, ignore_errors=True)
