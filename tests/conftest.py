"""The tests' servers: embedded PostgreSQL and Valkey in a home of this session alone.

The environment is set while this file is imported, before Django's settings are. Tests and
the processes that they start share the home, and so the database `runyard` in it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.conf import settings

from apps.core import embedded
from apps.core.home import Home

if TYPE_CHECKING:
    from tests.workers import Start

#: What a person's shell may hold and a test must not depend on. RUNYARD_JAVA stays: it names
#: a part of the machine, not of a home.
_KEPT = {"RUNYARD_JAVA"}


def _set_environment(home: Path) -> None:
    for name in list(os.environ):
        if name.startswith("RUNYARD_") and name not in _KEPT:
            del os.environ[name]
    for name in ("DATABASE_URL", "BROKER_URL"):
        os.environ.pop(name, None)
    os.environ["RUNYARD_HOME"] = str(home)
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"


if "config.settings" in sys.modules:
    pytest.exit("unset DJANGO_SETTINGS_MODULE: the settings were read before the tests' home was")

HOME = Home(Path(tempfile.mkdtemp(prefix="runyard-tests-")))
_set_environment(HOME.path)
settings.DATABASES  # noqa: B018 -- reads the settings; pytest-django sets Django up only then


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME.path, ignore_errors=True)


@pytest.fixture(scope="session")
def home() -> Home:
    """The home of this test session."""
    return HOME


@pytest.fixture(scope="session")
def servers(home: Home) -> Iterator[Home]:
    """The embedded servers. Tests with the `db` fixture have them already."""
    with embedded.servers(home):
        yield home


@pytest.fixture(scope="session")
def django_db_modify_db_settings(servers: Home) -> None:
    """Make the test database under its real name, so that child processes find it."""
    from django.db import connections

    connections["default"].settings_dict["TEST"]["NAME"] = "runyard"


@pytest.fixture
def start(home: Home, tmp_path: Path, transactional_db: None) -> Iterator[Start]:
    """Starts real workers; at the end none of them, nor of their processes, is left."""
    from tests.waiting import until
    from tests.workers import RealWorker

    started: list[RealWorker] = []

    def _start(name: str = "w", **own: object) -> RealWorker:
        started.append(RealWorker(home, name, tmp_path, **own))
        return started[-1]

    yield _start
    for worker in started:
        worker.end()
        print(worker.said())  # shown with a failed test
        until(lambda worker=worker: not worker.children(), "the end of all children")
