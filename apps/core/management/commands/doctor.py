"""Look at the machine and the settings: each line says how a thing stands, and how to mend it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from kombu import Connection
from kombu.exceptions import OperationalError

from apps.core.command import OwnCommand
from apps.core.embedded import EmbeddedError, servers
from apps.core.home import HomeError, HomeInUse
from apps.core.ledger import standing
from apps.core.management.commands.up import add_address
from apps.core.up import CannotRun, listen, refuse_colon
from apps.nodes.java import find_java
from apps.nodes.kinds.base import CannotStart
from apps.nodes.spark import find_spark
from apps.notifications.smtp import can_mail, connected
from apps.notifications.verdicts import Unreachable
from apps.runs.worker import find_identity

OLDEST_POSTGRESQL = 150_000
#: Below the first a warning, below the second nothing can be promised.
ROOM_BYTES, TIGHT_BYTES = 5 << 30, 500 << 20
CLOCK_SECONDS = 1.0
JAVA_MEND = (
    "install Java 17, or take the one that comes with Spark: `./runyard up --spark` (with "
    "RUNYARD_JAVA=wheel whatever the machine has); shell and Python jobs need none"
)


@dataclass(frozen=True)
class Finding:
    level: str
    what: str
    said: str
    mend: str = ""

    def __str__(self) -> str:
        mend = f"\n        to mend it: {self.mend}" if self.mend else ""
        return f"{self.level:<5} {self.what:<14} {self.said}{mend}"


def ok(what: str, said: str) -> Finding:
    return Finding("ok", what, said)


def warn(what: str, said: str, mend: str) -> Finding:
    return Finding("warn", what, said, mend)


def fail(what: str, said: str, mend: str = "") -> Finding:
    """`mend` may be left out where what is said names the fix."""
    return Finding("fail", what, said, mend)


class Command(OwnCommand):
    help = "Say what is missing or misconfigured, and how to mend it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_address(parser)

    def handle(self, *, host: str, port: int, **_: Any) -> None:
        failed = False
        for finding in findings(host, port):
            self.stdout.write(str(finding))
            failed |= finding.level == "fail"
        if failed:
            sys.exit(1)


def findings(host: str, port: int) -> Iterator[Finding]:
    yield python()
    yield checkout()
    yield home()
    yield room()
    yield from data()
    yield java()
    yield spark()
    yield jobs_user()
    yield mail()
    yield address(host, port)


def python() -> Finding:
    # ./runyard has refused one that is not fit.
    return ok("Python", f"{sys.version.split()[0]}, {sys.executable}")


def checkout() -> Finding:
    try:
        refuse_colon(str(settings.BASE_DIR))
    except CannotRun as error:
        return fail("checkout", str(error), "move the folder")
    return ok("checkout", str(settings.BASE_DIR))


def home() -> Finding:
    try:
        settings.HOME.make()
        if settings.EMBEDDED_DATABASE or settings.EMBEDDED_BROKER:
            settings.HOME.make_sockets()
    except HomeError as error:
        return fail("home", str(error))
    return ok("home", str(settings.HOME.path))


def room() -> Finding:
    free = shutil.disk_usage(settings.HOME.path).free
    said = f"{free / (1 << 30):.1f} GiB free below the home"
    mend = "make room, or set RUNYARD_HOME to a folder on a larger disk"
    if free < TIGHT_BYTES:
        return fail("disk", said, mend)
    return warn("disk", said, mend) if free < ROOM_BYTES else ok("disk", said)


def data() -> Iterator[Finding]:
    """Database and broker, those of the settings. Embedded ones that do not run are started
    for as long as it takes to ask them."""
    with ExitStack() as stack:
        if settings.EMBEDDED_DATABASE or settings.EMBEDDED_BROKER:
            try:
                stack.enter_context(servers(settings.HOME))
                yield ok("servers", "the embedded ones start")
            except HomeInUse:
                yield ok("servers", "the embedded ones run")
            except (HomeError, EmbeddedError) as error:
                yield fail(
                    "servers", str(error), "set DATABASE_URL and BROKER_URL to servers of your own"
                )
                return
        stack.callback(connection.close)
        yield from database()
        yield broker()


def database() -> Iterator[Finding]:
    which = "embedded" if settings.EMBEDDED_DATABASE else "DATABASE_URL"
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT extract(epoch FROM clock_timestamp()),"
                " current_setting('server_version_num')::int, current_setting('server_version')"
            )
            clock, number, version = cursor.fetchone()
            ahead = float(clock) - time.time()
        pending, total = _migrations()
    except DatabaseError as error:
        yield fail("database", f"{which}: {error}".strip(), "start it, or correct DATABASE_URL")
        return
    said = f"{which}, PostgreSQL {version}"
    if number < OLDEST_POSTGRESQL:
        yield fail("database", f"{said} is too old", "use PostgreSQL 15 or newer")
    else:
        yield ok("database", said)
    if pending and pending == total:
        yield ok("tables", "not made yet; ./runyard up makes them")
    elif pending:
        yield warn(
            "tables",
            f"{pending} migrations are not applied",
            "./runyard up applies them; in production ./runyard manage migrate",
        )
    else:
        yield ok("tables", "up to date")
    if abs(ahead) > CLOCK_SECONDS:
        yield warn(
            "clock",
            f"the database's is {ahead:+.1f} s against this machine's",
            "set both by NTP; Runyard goes by the database's",
        )
    else:
        yield ok("clock", f"agrees with the database's to {CLOCK_SECONDS:g} s")


def broker() -> Finding:
    which = "embedded" if settings.EMBEDDED_BROKER else "BROKER_URL"
    try:
        with Connection(settings.BROKER_URL, connect_timeout=5) as link:
            link.ensure_connection(max_retries=1, timeout=5)
    except OperationalError as error:
        return fail("broker", f"{which}: {error}", "start it, or correct BROKER_URL")
    return ok("broker", f"{which}, answers")


def java() -> Finding:
    try:
        found = find_java(os.environ, settings.HOME.java)
    except CannotStart as error:
        return warn("Java", str(error), JAVA_MEND)
    return ok("Java", f"{found.version} ({found.origin}), {found.home}")


def spark() -> Finding:
    try:
        found = find_spark(os.environ, settings.HOME.java)
    except CannotStart as error:
        return warn("Spark", str(error), "./runyard up --spark")
    return ok("Spark", str(found.home))


def jobs_user() -> Finding:
    whom = find_identity()
    if whom.base is None:
        return warn(
            "jobs",
            f"jobs are trusted: they run as the worker's own user, because {whom.why_trusted}",
            "run the worker as root with a Python that every user can reach, or let only people "
            "write jobs whom you would give this account",
        )
    return ok("jobs", f"run as users of their own, one a workspace, from {whom.base} up")


def mail() -> Finding:
    """The mail server, talked to as for a mail; none is an answer too."""
    if not can_mail():
        return ok("mail", "none is sent of failures: RUNYARD_SMTP_HOST names no mail server")
    try:
        with connected():
            pass
    except Unreachable as error:
        return fail("mail", str(error), "correct RUNYARD_SMTP_*, or start the server")
    said = f"{settings.SMTP_HOST} port {settings.SMTP_PORT} answers, from {settings.MAIL_FROM}"
    if not settings.PUBLIC_URL:
        return warn("mail", f"{said}; mails have no links", "set RUNYARD_PUBLIC_URL")
    return ok("mail", said)


def address(host: str, port: int) -> Finding:
    try:
        with settings.HOME.lock():
            pass
    except HomeInUse:
        runs = standing(settings.HOME)
        return ok("address", f"served by this home: {runs.address if runs else 'it starts'}")
    try:
        listen(host, port).close()
    except CannotRun as error:
        return fail("address", str(error))
    return ok("address", f"{host} port {port} is free")


def _migrations() -> tuple[int, int]:
    """How many migrations are to be applied, and how many there are."""
    executor = MigrationExecutor(connection)
    graph = executor.loader.graph
    return len(executor.migration_plan(graph.leaf_nodes())), len(graph.nodes)
