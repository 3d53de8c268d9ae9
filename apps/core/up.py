"""Everything on one machine: the embedded servers, web, worker and beat, as one context.

`up` serves until it is told to end; `demo` runs a workflow in it.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NoReturn

from django.conf import settings
from django.core.management import call_command
from django.db import connections

from apps.core.embedded import Postgres, Server, Valkey, clean_environment
from apps.core.home import Home, HomeInUse
from apps.core.ledger import Ledger, end_leftovers, standing
from apps.core.supervisor import Log, Program, Supervisor

#: How long a server may take until it answers, and so the first page.
READY_SECONDS = 60.0
#: Hosts that mean every address of the machine, and where this machine reaches them.
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- read, not bound


class CannotRun(Exception):
    """It cannot be brought up; the message says why and what to do."""


class RunsAlready(CannotRun):
    """Another `up` or `demo` has this home. `address` is empty while it still starts."""

    def __init__(self, home: Home) -> None:
        runs = standing(home)
        self.address = runs.address if runs else ""
        where = f"at {self.address} " if self.address else ""
        process = f"(process {runs.process})" if runs else ""
        super().__init__(f"Runyard already runs on {home.path} {where}{process}".rstrip())


@dataclass(frozen=True)
class Running:
    address: str
    log: Log
    #: Of the user `admin`, where this start has made it: the only time that it is known.
    password: str | None


@contextmanager
def running(
    *,
    host: str,
    port: int,
    workers: int = 1,
    queues: str = "",
    workspace: str,
    echo: bool = False,
) -> Iterator[Running]:
    """Run everything for as long as the block lasts; in it, the first page has answered.

    Embedded are only those servers that no URL names. A port of 0 takes any free one. The
    log goes to <home>/up.log, and to the terminal where `echo` (which may be changed later).
    No process is left when the block ends; and if this process is killed, the kernel tells
    its children.

    Raises CannotRun or HomeError, with nothing left running.
    """
    home: Home = settings.HOME
    home.make()
    refuse_colon(str(settings.BASE_DIR))
    with ExitStack() as stack:
        try:
            stack.enter_context(home.lock())
        except HomeInUse as error:
            raise RunsAlready(home) from error
        listener = stack.enter_context(listen(host, port))
        address = _address(host, listener.getsockname()[1])
        log = Log(home.path / "up.log", echo=echo)
        stack.callback(log.close)
        for left in end_leftovers(home):
            log.say("up", f"ended {left.name} (process {left.id}), left by a killed `up`")
        ledger = Ledger(home)
        ledger.open("")
        stack.callback(ledger.close)

        if settings.EMBEDDED_DATABASE or settings.EMBEDDED_BROKER:
            stack.callback(shutil.rmtree, home.sockets, ignore_errors=True)
        servers = stack.enter_context(Supervisor(log, ledger.started))
        _start_servers(home, servers, log)
        stack.callback(connections.close_all)
        log.say("up", "bringing the database's tables up to date")
        call_command("migrate", verbosity=0, interactive=False)
        connections.close_all()

        processes = stack.enter_context(Supervisor(log, ledger.started))
        for program in _programs(listener.fileno(), host, workers, queues):
            processes.start(program)
        _wait("the web process", lambda: _answers(address), log)
        ledger.open(address)
        # Last, since only who sees the password made can tell it.
        yield Running(address, log, first_rows(workspace))


def first_rows(workspace: str) -> str | None:
    """Make what a fresh installation starts with.

    Returns the password of the user `admin` where this call has made it.
    """
    # What that is, is the business of `workspaces`, above this app.
    from apps.workspaces.services import ensure_workspace, first_admin

    ensure_workspace(workspace)
    return first_admin()


def serve() -> NoReturn:
    """Do nothing until a signal ends it (`ends_on_signal`)."""
    while True:
        signal.pause()


def first_password(password: str) -> str:
    return f"Log in as admin with the password {password} (shown only this once)."


def introduction(it: Running, host: str) -> str:
    """What a person is told once everything runs."""
    lines = ["", f"Runyard is ready: {it.address}"]
    if it.password:
        lines.append(first_password(it.password))
    if host in EVERYWHERE and "RUNYARD_ALLOWED_HOSTS" not in os.environ:
        lines.append(
            f"It listens at every address, but answers only to {', '.join(settings.ALLOWED_HOSTS)};"
            " RUNYARD_ALLOWED_HOSTS names others."
        )
    return "\n".join([*lines, "Ctrl-C ends it.", ""])


@contextmanager
def ends_on_signal() -> Iterator[None]:
    """Let SIGTERM and SIGHUP mean what Ctrl-C means; leave the block quietly on any.

    What comes while all is being ended already is ignored: no process may be left. Under nohup,
    SIGHUP ends nothing.
    """

    def end(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    def stay(number: int, frame: object) -> None:
        """Not SIG_IGN: a child would inherit that, and beat is ended by SIGHUP."""

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.signal(each, end) for each in numbers}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, stay)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def refuse_colon(path: str) -> None:
    """Raise CannotRun where the checkout's path has a ':', which no JVM survives."""
    if ":" in path:
        raise CannotRun(
            f"the path {path} has a ':' in it; Java splits its class path there and no Spark "
            "job could start. Move the folder"
        )


def listen(host: str, port: int) -> socket.socket:
    """Take the port. Raises CannotRun where it is taken, or no address of this machine."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OverflowError as error:
        raise CannotRun(f"there is no port {port}; choose one from 1 to 65535") from error
    except OSError as error:
        # create_server adds the address to the system's word; a name that is unknown has none.
        system = None if isinstance(error, socket.gaierror) else error.errno
        why = os.strerror(system) if system else error.strerror
        raise CannotRun(
            f"cannot listen at {host} port {port} ({why}); choose another one with "
            "--host and --port, or RUNYARD_HOST and RUNYARD_PORT"
        ) from error


def _start_servers(home: Home, supervisor: Supervisor, log: Log) -> None:
    embedded: list[Server] = []
    postgres = Postgres(home)
    if settings.EMBEDDED_DATABASE:
        embedded.append(postgres)
    if settings.EMBEDDED_BROKER:
        embedded.append(Valkey(home))
    for server in embedded:
        server.prepare()
        supervisor.start(
            Program(server.name, server.argv(), clean_environment(), server.stop_signal)
        )
    for server in embedded:
        _wait(f"the embedded {server.name}", server.is_ready, log)
    if settings.EMBEDDED_DATABASE:
        postgres.create_database()


def _programs(listener: int, host: str, workers: int, queues: str) -> list[Program]:
    """Web, workers and beat, as docker-compose.yml runs them too.

    `queues` are those that the workers serve; "" leaves it to RUNYARD_WORKER_QUEUES.
    """
    served = {"RUNYARD_WORKER_QUEUES": queues} if queues else {}
    # Celery warns of root at each start. What runs people's code is the job, as another user.
    about_root = "-Wignore:You're running the worker with superuser privileges"
    celery = [sys.executable, about_root, "-m", "celery", "--quiet", "--app=config"]
    names = ["worker"] if workers == 1 else [f"worker-{n + 1}" for n in range(workers)]
    return [
        Program(
            "web",
            [sys.executable, "-m", "apps.core.web", str(listener)],
            _environment("web", host),
            stop_seconds=8,
            pass_fds=(listener,),
        ),
        *(
            Program(
                name,
                [*celery, "worker", "--without-mingle", "--without-gossip", f"-n{name}@%h"],
                _environment("worker", host) | served,
                # It first gives the jobs that it runs their own time to end.
                stop_seconds=settings.STOP_GRACE_SECONDS + 30,
            )
            for name in names
        ),
        # Not SIGTERM: Celery then writes to the database from within the signal's handler, and
        # waits for ever where it was just talking to it. It has nothing to keep.
        Program("beat", [*celery, "beat"], _environment("beat", host), stop_signal=signal.SIGHUP),
    ]


def _environment(role: str, host: str) -> dict[str, str]:
    return {
        **os.environ,
        "RUNYARD_HOME": str(settings.HOME.path),
        "RUNYARD_ROLE": role,
        # A name that is listened at is one that requests may come under.
        "RUNYARD_HOST": host,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PYTHONPATH": str(settings.BASE_DIR),
        "PYTHONUNBUFFERED": "1",
        "LC_ALL": "C.UTF-8",
    }


def _address(host: str, port: int) -> str:
    """Where a browser on this machine finds it."""
    host = EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _wait(what: str, is_ready: Callable[[], bool], log: Log) -> None:
    until = time.monotonic() + READY_SECONDS
    while not is_ready():
        if time.monotonic() > until:
            raise CannotRun(f"{what} does not answer; the reason should stand in {log.file}")
        time.sleep(0.03)


def _answers(address: str) -> bool:
    """Whether the first page comes, whatever stands on it."""
    host = address.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request("GET", "/", headers={"Host": host})
        return connection.getresponse().status < 500
    except OSError:
        return False
    finally:
        connection.close()
