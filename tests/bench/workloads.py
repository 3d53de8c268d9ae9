"""The workloads, one function each: what ours, bare and Celery do with the same children.

A round of a workload runs all of them within the same seconds, so that what else the machine
does hits them alike. Figures are medians of the rounds, ratios of a round's own figures.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from signal import SIGHUP
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from apps.core.embedded import tethered
from tests.bench.children import Late, Stamps, gaps_ms, percentile, rate
from tests.bench.installation import HERE, Client, Installation
from tests.bench.rivals import Bare, PlainCelery, plain_celery


@dataclass(frozen=True)
class Size:
    """How much of each workload is run."""

    rounds: int = 7
    #: Of those that take seconds each.
    long_rounds: int = 3
    chain: int = 50
    fan: int = 200
    calls: int = 40
    chains: int = 100
    backfill: int = 365
    rest_seconds: float = 20.0
    runs: int = 1_000_000
    requests: int = 400
    waiting: int = 5_000
    graph: tuple[int, int] = (1_000, 3_000)
    #: How many there are, and how many of them are due in one second.
    schedules: tuple[int, int] = (5_000, 100)


WHOLE = Size()
#: To see that the bench works. Its figures mean nothing.
SMALL = Size(1, 1, 5, 8, 3, 4, 5, 0.5, 2_000, 20, 50, (20, 40), (50, 5))


@dataclass
class Figures:
    """What a workload found: name -> value, for each of the three, and the ratios of them."""

    ours: dict[str, float] = field(default_factory=dict)
    bare: dict[str, float] = field(default_factory=dict)
    celery: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)

    @property
    def all(self) -> dict[str, float]:
        """What a goal may name."""
        return {**self.ours, **self.ratios}


class Bench:
    """What the workloads work with."""

    def __init__(self, it: Installation, folder: Path, size: Size, stack: ExitStack) -> None:
        self.it = it
        self.size = size
        self.bare = Bare(it.slots)
        self._folder = folder
        self._stack = stack
        self._files = 0

    @cached_property
    def client(self) -> Client:
        return self.it.login()

    @cached_property
    def database(self) -> psycopg.Connection[Any]:
        return self._stack.enter_context(self.it.connect())

    def restart(self) -> None:
        """End Runyard and start it again on the same home."""
        for name in ("client", "database"):
            if name in vars(self):
                vars(self).pop(name).close()
        self.it.end()
        self.it.start()

    @cached_property
    def celery(self) -> PlainCelery:
        return self._stack.enter_context(plain_celery(self._folder, self.it.slots))

    def stamps(self) -> Stamps:
        self._files += 1
        return Stamps(self._folder / f"stamps-{self._files}")

    def ours(self, workflow: int, count: int, runs: int = 1) -> list[int]:
        """Run a workflow so many times at once; when each of the `count` children ran."""
        stamps = self.stamps()
        for _ in range(runs):
            self.it.run(self.client, workflow, stamps.path)
        times = stamps.wait(count)
        self.it.wait_until_over(self.database)
        return times

    def theirs(self, do: Callable[[Stamps], object], count: int) -> list[int]:
        """When each of the `count` children ran that `do` starts."""
        stamps = self.stamps()
        do(stamps)
        return stamps.wait(count)


def chain_of(length: int) -> dict[str, list[str]]:
    """A chain's nodes, each with what it waits for."""
    names = [f"n{number:03}" for number in range(length)]
    return {names[0]: [], **{below: [above] for above, below in pairwise(names)}}


def medians(rounds: list[Figures]) -> Figures:
    """One figure of many rounds."""

    def of(part: Callable[[Figures], Mapping[str, float]]) -> dict[str, float]:
        names = part(rounds[0]) if rounds else {}
        return {name: statistics.median(part(each)[name] for each in rounds) for name in names}

    return Figures(
        of(lambda f: f.ours), of(lambda f: f.bare), of(lambda f: f.celery), of(lambda f: f.ratios)
    )


def in_rounds(count: int, one: Callable[[], Figures], warm: bool = True) -> Figures:
    """The medians of so many rounds; a first one, which warms everything up, does not count."""
    if warm:
        one()
    return medians([one() for _ in range(count)])


def hops(times: list[int]) -> dict[str, float]:
    gaps = gaps_ms(times)
    return {"p50_ms": percentile(gaps, 0.5), "p95_ms": percentile(gaps, 0.95)}


def rates(ours: list[int], bare: list[int], celery: list[int] | None = None) -> Figures:
    figures = Figures({"nodes_per_s": rate(ours)}, {"nodes_per_s": rate(bare)})
    figures.ratios["rate_ratio"] = rate(ours) / rate(bare)
    if celery:
        figures.celery["nodes_per_s"] = rate(celery)
        figures.ratios["celery_ratio"] = rate(ours) / rate(celery)
    return figures


# --- the workloads ----------------------------------------------------------------------------


def chain(bench: Bench) -> Figures:
    length = bench.size.chain
    flow = bench.it.workflow(bench.client, chain_of(length))

    def one() -> Figures:
        ours = hops(bench.ours(flow, length))
        bare = hops(bench.theirs(lambda s: bench.bare.chain(s, length), length))
        celery = hops(bench.theirs(lambda s: bench.celery.chain(s, length), length))
        ratios = {f"p{p}_ratio": ours[f"p{p}_ms"] / bare[f"p{p}_ms"] for p in (50, 95)}
        return Figures(ours, bare, celery, ratios)

    return in_rounds(bench.size.rounds, one)


def fan(bench: Bench) -> Figures:
    width = bench.size.fan
    middle = [f"m{number:03}" for number in range(width)]
    upstream = {"first": [], **{node: ["first"] for node in middle}, "last": middle}
    flow = bench.it.workflow(bench.client, upstream)

    def one() -> Figures:
        return rates(
            bench.ours(flow, width + 2),
            bench.theirs(lambda s: bench.bare.fan(s, width), width + 2),
            bench.theirs(lambda s: bench.celery.fan(s, width), width + 2),
        )

    return in_rounds(bench.size.rounds, one)


def call(bench: Bench) -> Figures:
    """From just before the request to what the first child says; the machine is idle before."""
    flow = bench.it.workflow(bench.client, chain_of(1))

    def ours() -> float:
        began = time.time_ns()
        [time_ns] = bench.ours(flow, 1)
        return (time_ns - began) / 1e6

    def theirs(do: Callable[[Stamps], object]) -> float:
        began = time.time_ns()
        [time_ns] = bench.theirs(do, 1)
        return (time_ns - began) / 1e6

    def one() -> tuple[float, float, float]:
        return (
            ours(),
            theirs(lambda s: bench.bare.chain(s, 1)),
            theirs(lambda s: bench.celery.chain(s, 1)),
        )

    for _ in range(3):
        one()
    found = [one() for _ in range(bench.size.calls)]
    three = [
        {"p50_ms": percentile(list(each), 0.5), "p95_ms": percentile(list(each), 0.95)}
        for each in zip(*found, strict=True)
    ]
    return Figures(*three)


def chains(bench: Bench) -> Figures:
    runs, count = bench.size.chains, bench.size.chains * 3
    flow = bench.it.workflow(bench.client, chain_of(3))

    def one() -> Figures:
        return rates(
            launched(bench, flow, runs, count)[0],
            bench.theirs(lambda s: bench.bare.many(s, runs, 3), count),
            bench.theirs(lambda s: bench.celery.many(s, runs, 3), count),
        )

    return in_rounds(bench.size.rounds, one)


def backfill(bench: Bench) -> Figures:
    runs, count = bench.size.backfill, bench.size.backfill * 3
    flow = bench.it.workflow(bench.client, chain_of(3))

    def one() -> Figures:
        ours, seconds = launched(bench, flow, runs, count)
        figures = rates(ours, bench.theirs(lambda s: bench.bare.many(s, runs, 3), count))
        figures.ours["launch_s"] = seconds
        return figures

    return in_rounds(bench.size.long_rounds, one)


def launched(bench: Bench, flow: int, runs: int, count: int) -> tuple[list[int], float]:
    """Start so many runs by one call: when each of the `count` children ran, and how many
    seconds the call took."""
    stamps = bench.stamps()
    told = subprocess.run(
        [
            *(sys.executable, "-m", "tests.bench.launch_many"),
            *(str(flow), str(runs), str(stamps.path)),
        ],
        env={**bench.it.environment(), "DJANGO_SETTINGS_MODULE": "config.settings"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    times = stamps.wait(count)
    bench.it.wait_until_over(bench.database)
    return times, float(told.stdout)


def rest(bench: Bench) -> Figures:
    """A second start of the same home, and then nothing at all."""
    bench.restart()
    time.sleep(min(5.0, bench.size.rest_seconds))  # what follows a start is no rest yet
    before, began = _ticks(bench.it), time.monotonic()
    time.sleep(bench.size.rest_seconds)
    took = time.monotonic() - began
    after = _ticks(bench.it)
    spent = sum(ticks - before.get(pid, 0) for pid, ticks in after.items())
    return Figures(
        {
            "pss_mb": sum(_pss_kb(pid) for pid in bench.it.processes()) / 1024,
            "cpu_percent": 100 * spent / os.sysconf("SC_CLK_TCK") / took,
            "first_page_s": bench.it.starts[0],
            "next_page_s": bench.it.starts[-1],
        }
    )


def _pss_kb(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def _ticks(it: Installation) -> dict[int, int]:
    """What each process has used of the processor, its dead children's share included."""
    found = {}
    for pid in it.processes():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[pid] = sum(int(field) for field in fields[11:15])
    return found


def waiting(bench: Bench) -> Figures:
    """A chain in a workflow whose other nodes wait for its end, beside runs that wait as well."""
    length, others = bench.size.chain, bench.size.waiting
    most = 1_900  # of a workflow's 2,000 nodes
    parts = [min(most, others - start) for start in range(0, others, most)]
    # A node that fails stands between the chain and the rest, which therefore never starts.
    big = {**chain_of(length), "wall": [f"n{length - 1:03}"]}
    big |= {f"w{number:04}": ["wall"] for number in range(parts.pop(0))}
    walled = bench.it.workflow(bench.client, big, {"wall": "exit 1\n"})
    alone = bench.it.workflow(bench.client, chain_of(length))
    runs = []
    for part in parts:
        graph = {"gate": [], **{f"w{number:04}": ["gate"] for number in range(part)}}
        gated = bench.it.workflow(bench.client, graph, {"gate": "sleep 3600\n"})
        runs.append(bench.it.run(bench.client, gated, bench.stamps().path))

    def run_of(flow: int) -> list[float]:
        stamps = bench.stamps()
        run = bench.it.run(bench.client, flow, stamps.path)
        times = stamps.wait(length)
        _until_run_is_over(bench, run)
        return gaps_ms(times)

    def one() -> Figures:
        beside, by_itself = run_of(walled), run_of(alone)
        ours = {"p50_ms": percentile(beside, 0.5), "p95_ms": percentile(beside, 0.95)}
        ours["p50_alone_ms"] = percentile(by_itself, 0.5)
        return Figures(ours, ratios={"size_ratio": ours["p50_ms"] / ours["p50_alone_ms"]})

    try:
        return in_rounds(bench.size.rounds, one)
    finally:
        for run in runs:
            bench.client.send("POST", f"{HERE}/runs/{run}/stop")
        bench.it.wait_until_over(bench.database)


def _until_run_is_over(bench: Bench, run: int) -> None:
    until = time.monotonic() + 60
    while bench.client.send("GET", f"{HERE}/runs/{run}")["ended_at"] is None:
        if time.monotonic() > until:
            raise Late(f"run {run} is not over after 60 s")
        time.sleep(0.02)


def graph(bench: Bench) -> Figures:
    nodes, edges = bench.size.graph
    dice = random.Random(9)  # noqa: S311 -- the same graph each time
    names = [f"n{number:03}" for number in range(nodes)]
    upstream: dict[str, set[str]] = {name: set() for name in names}
    left = edges
    while left:
        a, b = sorted(dice.sample(range(nodes), 2))
        if names[a] not in upstream[names[b]]:
            upstream[names[b]].add(names[a])
            left -= 1
    flow = bench.it.workflow(bench.client, upstream)

    def one() -> Figures:
        return rates(
            bench.ours(flow, nodes),
            bench.theirs(lambda s: bench.bare.graph(s, upstream), nodes),
        )

    return in_rounds(bench.size.long_rounds, one)


def schedules(bench: Bench) -> Figures:
    """From the second at which they are due until each has its run, and until its child starts."""
    count, due = bench.size.schedules
    flow = bench.it.workflow(bench.client, chain_of(1), {"n000": "true"})
    told = [sys.executable, "-m", "tests.bench.schedule_many", flow, due, count - due]
    environment = {**bench.it.environment(), "DJANGO_SETTINGS_MODULE": "config.settings"}
    subprocess.run(list(map(str, told)), env=environment, check=True)
    beat = tethered(
        [sys.executable, "-m", "celery", "--quiet", "--app=config", "beat"],
        SIGHUP,
        output=subprocess.DEVNULL,
        env={**environment, "RUNYARD_ROLE": "beat"},
    )
    try:
        rounds = [_due_minute(bench, due) for _ in range(bench.size.long_rounds + 1)]
    finally:
        bench.database.execute('UPDATE workflows_schedule SET "on" = false, next_at = NULL')
        beat.send_signal(SIGHUP)
        beat.wait(60)
        bench.it.wait_until_over(bench.database)
    return medians(rounds[1:])  # the first warms everything up


def _due_minute(bench: Bench, due: int) -> Figures:
    """What the next full minute brings."""
    [minute] = bench.database.execute(
        "SELECT date_trunc('minute', clock_timestamp()) + interval '1 min'"
    ).fetchone() or (None,)
    ask = """
        SELECT extract(epoch FROM r.created_at - p.cycle)::float8,
               extract(epoch FROM r.started_at - p.cycle)::float8
          FROM runs_schedulepoint p JOIN runs_run r ON r.id = p.run_id
         WHERE p.cycle = %s AND r.started_at IS NOT NULL
    """
    until = time.monotonic() + 60 + 60
    while len(found := bench.database.execute(ask, [minute]).fetchall()) < due:
        if time.monotonic() > until:
            raise Late(f"of {due} points at {minute} {len(found)} have a run after 60 s")
        time.sleep(0.1)
    assert len(found) == due
    delays, starts = (sorted(row[n] for row in found) for n in (0, 1))
    return Figures(
        {
            "p50_s": percentile(delays, 0.5),
            "p95_s": percentile(delays, 0.95),
            "most_s": delays[-1],
            "started_p95_s": percentile(starts, 0.95),
        }
    )


def newest(bench: Bench) -> Figures:
    flow = bench.it.workflow(bench.client, chain_of(3))
    bench.ours(flow, 3)
    _copy_run(bench, bench.size.runs)
    bench.database.execute("VACUUM ANALYZE runs_run, runs_noderun")
    bench.database.execute("CHECKPOINT")

    place = f"{HERE}/runs?limit=50"

    def ask(client: Client) -> float:
        began = time.perf_counter()
        found = client.send("GET", place)
        took = (time.perf_counter() - began) * 1e3
        assert len(found["items"]) == 50
        return took

    for _ in range(20):
        ask(bench.client)
    alone = [ask(bench.client) for _ in range(bench.size.requests)]
    clients = [bench.it.login() for _ in range(4)]
    each = bench.size.requests // len(clients)
    threads = [
        threading.Thread(target=lambda client=client: [ask(client) for _ in range(each)])
        for client in clients
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    return Figures(
        {
            "p50_ms": percentile(alone, 0.5),
            "p95_ms": percentile(alone, 0.95),
            "requests_per_s": each * len(clients) / took,
        }
    )


def _copy_run(bench: Bench, count: int) -> None:
    """Put so many copies of the only run, with its nodes, into the database, a second apart."""
    ask = bench.database.execute
    ask("SET session_replication_role = replica")  # no check of foreign keys, row by row
    [[run]] = ask("SELECT max(id) FROM runs_run").fetchall()
    at = sql.SQL("now() - n * interval '1 s'")
    _copy(
        bench,
        "runs_run",
        {"created_at": at, "started_at": at, "ended_at": at},
        "runs_run old, generate_series(1, {count}) n WHERE old.id = {run}",
        count=count,
        run=run,
    )
    _copy(
        bench,
        "runs_noderun",
        {"run_id": sql.SQL("new.id"), "down": sql.SQL("'{}'")},
        "runs_run new, runs_noderun old WHERE old.run_id = {run} AND new.id > {run}",
        run=run,
    )
    ask("SET session_replication_role = origin")


def _copy(
    bench: Bench, table: str, other: Mapping[str, sql.SQL], rows: LiteralString, **numbers: int
) -> None:
    """Insert copies of `old`, column by column but for its id and what is `other` in a copy."""
    asked = "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
    names = [name for (name,) in bench.database.execute(asked, [table]) if name != "id"]
    bench.database.execute(
        sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(other.get(name, sql.Identifier("old", name)) for name in names),
            sql.SQL(rows).format(**numbers),
        )
    )


#: In the order of goals.TITLES.
WORKLOADS: Mapping[str, Callable[[Bench], Figures]] = {
    "W1": chain,
    "W2": fan,
    "W3": call,
    "W4": chains,
    "W5": backfill,
    "W6": rest,
    "W8": waiting,
    "W9": graph,
    "SCHEDULES": schedules,
    "W7": newest,
}
