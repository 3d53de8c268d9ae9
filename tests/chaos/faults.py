"""What is done to the processes and servers of a machine, by kind.

A fault is a generator: it does its harm, yields how many seconds that lasts, and heals what does
not heal by itself. It takes what it harms in hand, so that no two of them meet at one worker:
a worker that is frozen while its guard is dead is more than any lease can stand.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg
import redis

from tests.chaos.inside import POINTS
from tests.chaos.machine import Machine, Process

Fault = Callable[["Harm"], Iterator[float]]
#: Kind -> (what does it, how often it is chosen).
KINDS: dict[str, tuple[Fault, int]] = {}
#: What is left out here, and why.
NOT_DONE = {
    "several hosts (host lost, clocks of two hosts)": "everything runs on one machine",
    "failover to a replica, disk full, pool exhausted": "one embedded database",
    "packet loss and delay": "Unix sockets have none; connections are stalled and cut instead",
    "faults of Spark clusters (group F), of the mail server (group G)": "no cluster here; the "
    "mail server is left in peace",
    "change of summer time (H3, H4), suspend of the machine (H5)": "tested without processes, or "
    "not to be had here",
}


class Skip(Exception):
    """There is nothing to harm in this way now."""


def fault(name: str, weight: int = 2) -> Callable[[Fault], Fault]:
    def register(do: Fault) -> Fault:
        KINDS[name] = (do, weight)
        return do

    return register


@dataclass
class Harm:
    """Everything that a fault may reach, and its chance."""

    machine: Machine
    random: random.Random
    done: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    #: Processes that ended since they found no database as they began; a supervisor's business.
    gone: Counter[str] = field(default_factory=Counter)
    #: (when it ends its wait, its name, the rest of it)
    under_way: list[tuple[float, str, Iterator[float]]] = field(default_factory=list)

    @property
    def lease(self) -> float:
        return self.machine.lease_seconds

    def inject(self, name: str) -> None:
        rest = KINDS[name][0](self)
        self._go_on(name, rest, first=True)

    def look(self) -> None:
        """Go on with what has waited long enough."""
        now = time.monotonic()
        due = [each for each in self.under_way if each[0] <= now]
        for each in due:
            self.under_way.remove(each)
            self._go_on(each[1], each[2])

    def heal(self) -> None:
        """End every fault now."""
        while self.under_way:
            _, name, rest = self.under_way.pop(0)
            self._go_on(name, rest)
            time.sleep(0.05)

    def _go_on(self, name: str, rest: Iterator[float], *, first: bool = False) -> None:
        try:
            self.under_way.append((time.monotonic() + next(rest), name, rest))
        except StopIteration:
            pass
        except Skip:
            self.skipped[name] += 1
            if not first:
                self.done[name] -= 1
            return
        if first:
            self.done[name] += 1

    # --- what there is to harm ----------------------------------------------------------------

    def worker(self) -> Process:
        return self._one_of(self.machine.workers)

    def beat(self) -> Process:
        return self._one_of(self.machine.beats)

    def _one_of(self, processes: list[Process]) -> Process:
        free = [each for each in processes if not each.in_hand and each.is_alive()]
        # One worker at the least stays as it is, so that harm has something to spread to.
        if not free or (len(processes) > 1 and len(free) == 1 and processes[0].name[0] == "w"):
            raise Skip
        chosen = self.random.choice(free)
        chosen.in_hand = True
        return chosen

    def server(self, name: str) -> None:
        if name in self.machine.harmed:
            raise Skip
        self.machine.harmed.add(name)

    def back(self, process: Process) -> None:
        """Start it if it has ended, and let go of it."""
        process.signal(signal.SIGCONT)
        if not process.is_alive():
            process.point.unlink(missing_ok=True)
            process.start()
        process.in_hand = False

    def broker(self) -> redis.Redis:
        """Raises Skip while another fault has the broker in hand."""
        if "valkey" in self.machine.harmed:
            raise Skip
        path = self.machine.home.sockets / "valkey.sock"
        return redis.Redis(unix_socket_path=str(path), socket_timeout=2, retry=None)

    def database(self) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.machine.home.sockets), user="runyard", dbname="runyard",
            connect_timeout=5, autocommit=True,
        )  # fmt: skip


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


# --- B: workers, their guards, their children -------------------------------------------------


@fault("worker killed", 4)
def worker_killed(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    worker.signal(signal.SIGKILL)
    yield harm.random.uniform(0, 1.5) * harm.lease
    harm.back(worker)


@fault("worker ended by SIGTERM (a deploy)", 4)
def worker_deployed(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    worker.signal(signal.SIGTERM)
    while worker.is_alive():
        yield 0.3
    harm.back(worker)


@fault("worker ended by SIGTERM twice")
def worker_hurried(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    worker.signal(signal.SIGTERM)
    yield 0.8
    worker.signal(signal.SIGTERM)
    while worker.is_alive():
        yield 0.3
    harm.back(worker)


@fault("worker frozen for longer than its lease", 4)
def worker_frozen(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    worker.signal(signal.SIGSTOP)
    yield harm.random.uniform(1.1, 3) * harm.lease
    harm.back(worker)


@fault("worker frozen for less than its lease")
def worker_paused(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    worker.signal(signal.SIGSTOP)
    yield harm.random.uniform(0.1, 0.7) * harm.lease
    harm.back(worker)


@fault("guard killed")
def guard_killed(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    for guard in worker.guards():
        kill(guard)
    yield 3  # until it has another one
    harm.back(worker)


@fault("worker killed, then its guard")
def worker_and_guard_killed(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    guards = worker.guards()
    worker.signal(signal.SIGKILL)
    for guard in guards:
        kill(guard)
    yield harm.random.uniform(0, 1.5) * harm.lease
    harm.back(worker)


@fault("guard killed, then its worker")
def guard_and_worker_killed(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    for guard in worker.guards():
        kill(guard)
    worker.signal(signal.SIGKILL)
    yield harm.random.uniform(0, 1.5) * harm.lease
    harm.back(worker)


@fault("job's process killed")
def child_killed(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    worker.in_hand = False
    children = worker.children()
    if not children:
        raise Skip
    kill(harm.random.choice(children))
    yield 0


@fault("job's process killed, and its worker")
def child_and_worker_killed(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    for child in worker.children():
        kill(child)
    worker.signal(signal.SIGKILL)
    yield harm.random.uniform(0, 1) * harm.lease
    harm.back(worker)


@fault("job's process frozen")
def child_frozen(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    worker.in_hand = False
    children = worker.children()
    if not children:
        raise Skip
    child = harm.random.choice(children)
    kill(child, signal.SIGSTOP)
    yield harm.random.uniform(0.2, 1.2) * harm.lease
    kill(child, signal.SIGCONT)


def at_point(point: str, action: str) -> Fault:
    def run_into_it(harm: Harm) -> Iterator[float]:
        if point == "between a launch and its bells":
            process = harm.machine.web
            if process is None or process.in_hand or action == "freeze":
                raise Skip
            process.in_hand = True
        else:
            process = harm.worker()
        process.point.write_text(f"{point}: {action}")
        for _ in range(20):
            yield 0.25
            if not process.is_alive() or process.is_frozen():
                break
        else:
            process.point.unlink(missing_ok=True)
        reached = process.is_frozen() or not process.is_alive()
        if process.is_frozen():
            yield harm.random.uniform(1.1, 2) * harm.lease
        elif not process.is_alive():
            yield harm.random.uniform(0, 1) * harm.lease
        harm.back(process)
        if not reached:
            raise Skip

    return run_into_it


for _point in POINTS:
    fault(f"killed {_point}", 1)(at_point(_point, "kill"))
fault("frozen between a child's end and its finish", 3)(
    at_point("between a child's end and its finish", "freeze")
)
fault("frozen between a claim and its child", 2)(
    at_point("between a claim and its child", "freeze")
)
fault("frozen between a look at the lease and a child's start", 2)(
    at_point("between a look at the lease and a child's start", "freeze")
)
fault("frozen between a renewal and the guard's knowing", 1)(
    at_point("between a renewal and the guard's knowing", "freeze")
)


# --- A: beats ---------------------------------------------------------------------------------


@fault("beat killed")
def beat_killed(harm: Harm) -> Iterator[float]:
    beat = harm.beat()
    beat.signal(signal.SIGKILL)
    yield harm.random.uniform(0, 2) * harm.lease
    harm.back(beat)


@fault("beat frozen")
def beat_frozen(harm: Harm) -> Iterator[float]:
    beat = harm.beat()
    beat.signal(signal.SIGSTOP)
    yield harm.random.uniform(0.5, 3) * harm.lease
    harm.back(beat)


@fault("every beat killed; workers tick", 1)
def beats_killed(harm: Harm) -> Iterator[float]:
    beats = [each for each in harm.machine.beats if not each.in_hand]
    if len(beats) < len(harm.machine.beats):
        raise Skip
    for beat in beats:
        beat.in_hand = True
        beat.signal(signal.SIGKILL)
    yield 15 + harm.random.uniform(0, 1) * harm.lease
    for beat in beats:
        harm.back(beat)


@fault("web process killed", 1)
def web_killed(harm: Harm) -> Iterator[float]:
    web = harm.machine.web
    if web is None or web.in_hand:
        raise Skip
    web.in_hand = True
    web.signal(signal.SIGKILL)
    yield harm.random.uniform(0, 3)
    harm.back(web)


# --- C: the broker ----------------------------------------------------------------------------


@fault("broker killed, and started again")
def broker_killed(harm: Harm) -> Iterator[float]:
    harm.server("valkey")
    harm.machine.end_server("valkey", signal.SIGKILL)
    yield harm.random.choice([0, 1, 5, 1.5 * harm.lease])
    harm.machine.start_server("valkey")
    harm.machine.harmed.discard("valkey")


@fault("broker flushed (FLUSHALL)")
def broker_flushed(harm: Harm) -> Iterator[float]:
    with suppress(redis.RedisError), harm.broker() as broker:
        broker.flushall()
    yield 0


@fault("every connection to the broker cut (CLIENT KILL)")
def broker_cut(harm: Harm) -> Iterator[float]:
    with suppress(redis.RedisError), harm.broker() as broker:
        broker.client_kill_filter(_type="normal", skipme=True)
        broker.client_kill_filter(_type="pubsub", skipme=True)
    yield 0


@fault("broker frozen")
def broker_frozen(harm: Harm) -> Iterator[float]:
    harm.server("valkey")
    child = harm.machine.servers["valkey"]
    child.send_signal(signal.SIGSTOP)
    yield harm.random.uniform(1, 15)
    child.send_signal(signal.SIGCONT)
    harm.machine.harmed.discard("valkey")


@fault("bells lost")
def bells_lost(harm: Harm) -> Iterator[float]:
    for _ in range(20):
        with suppress(redis.RedisError), harm.broker() as broker:
            broker.delete("runyard", "runyard.tick")
        yield 0.1


@fault("bells doubled, fivefold")
def bells_doubled(harm: Harm) -> Iterator[float]:
    for _ in range(20):
        with suppress(redis.RedisError), harm.broker() as broker:
            for name in ("runyard", "runyard.tick"):
                for message in broker.lrange(name, 0, 3):
                    broker.lpush(name, *[message] * 4)
        yield 0.1


@fault("bells late and out of order")
def bells_late(harm: Harm) -> Iterator[float]:
    kept: list[tuple[str, bytes]] = []
    for _ in range(15):
        with suppress(redis.RedisError), harm.broker() as broker:
            for name in ("runyard", "runyard.tick"):
                if (message := broker.rpop(name)) is not None:
                    kept.append((name, message))
        yield 0.1
    yield harm.random.uniform(0.2, 2) * harm.lease
    harm.random.shuffle(kept)
    with suppress(redis.RedisError), harm.broker() as broker:
        for name, message in kept:
            broker.lpush(name, message)


@fault("bells for queues that do not exist", 1)
def bells_false(harm: Harm) -> Iterator[float]:
    from config.celery import app

    for queue in (0, -1, 10**9):
        with suppress(Exception):  # the broker may be away
            app.send_task("runs.execute", args=[queue], ignore_result=True)
    yield 0


# --- D: the database --------------------------------------------------------------------------


def database_down(number: int) -> Fault:
    def end_it(harm: Harm) -> Iterator[float]:
        harm.server("postgres")
        harm.machine.end_server("postgres", number)
        yield harm.random.choice([0, 0, 2, 0.6 * harm.lease, 1.6 * harm.lease])
        harm.machine.start_server("postgres")
        harm.machine.harmed.discard("postgres")

    return end_it


fault("database killed, and started again")(database_down(signal.SIGKILL))
fault("database restarted", 3)(database_down(signal.SIGINT))


@fault("every connection to the database cut", 3)
def database_cut(harm: Harm) -> Iterator[float]:
    with suppress(psycopg.Error), harm.database() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    yield 0


@fault("rows of running nodes locked by someone else")
def rows_locked(harm: Harm) -> Iterator[float]:
    try:
        connection = harm.database()
    except psycopg.Error:
        raise Skip from None
    try:
        connection.execute("BEGIN")
        connection.execute(
            "SELECT FROM runs_noderun WHERE state IN ('running', 'queued')"
            " ORDER BY id LIMIT 3 FOR UPDATE SKIP LOCKED"
        )
        yield harm.random.uniform(0.1, 0.5) * harm.lease
    except psycopg.Error:
        return
    finally:
        connection.close()


# --- E: the network ---------------------------------------------------------------------------


@fault("worker cut off from the database for longer than its lease", 3)
def worker_cut_off(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    worker.database.down()
    yield harm.random.uniform(1.2, 2.5) * harm.lease
    worker.database.flow()
    harm.back(worker)


@fault("worker's connections to the database cut")
def worker_cut(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    for _ in range(harm.random.randint(1, 15)):
        worker.database.cut()
        yield harm.random.uniform(0, 0.5)
    harm.back(worker)


@fault("worker's connections to the database stalled")
def worker_stalled(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    worker.database.stall()
    yield harm.random.uniform(0.2, 2) * harm.lease
    worker.database.flow()
    harm.back(worker)


def reply_lost(statement: bytes) -> Fault:
    def lose(harm: Harm) -> Iterator[float]:
        worker = harm.worker()
        for _ in range(harm.random.randint(1, 6)):
            before = worker.database.lost
            worker.database.lose_reply(statement)
            for _ in range(12):
                yield 0.25
                if worker.database.lost > before:
                    break
        worker.database.flow()
        harm.back(worker)

    return lose


fault("reply to a finish lost after its commit", 4)(reply_lost(b"runyard_finish("))
fault("reply to a claim lost after its commit", 3)(reply_lost(b"runyard_claim("))
fault("reply to a renewal lost after its commit", 1)(reply_lost(b"lease_until = clock_timestamp"))


@fault("worker cut off from the broker")
def worker_without_broker(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    worker.broker.down()
    yield harm.random.uniform(0.5, 2) * harm.lease
    worker.broker.flow()
    harm.back(worker)


@fault("worker's connections to the broker stalled")
def worker_deaf(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    worker.broker.stall()
    yield harm.random.uniform(0.5, 3) * harm.lease
    worker.broker.flow()
    harm.back(worker)


@fault("worker's connections to the broker silent for ever")
def worker_forgotten(harm: Harm) -> Iterator[float]:
    worker = harm.worker()
    worker.broker.forget()
    yield 1
    harm.back(worker)


# --- H: clocks --------------------------------------------------------------------------------


@fault("clock of a worker or beat set off by up to an hour")
def clock_off(harm: Harm) -> Iterator[float]:
    faked = [each for each in harm.machine.processes if each.clock.exists()]
    if not faked:
        raise Skip
    process = harm.random.choice(faked)
    process.clock.write_text(
        harm.random.choice(["+5", "-5", "+30", "-30", "+3600", "-3600"]) + "\n"
    )
    yield harm.random.uniform(0.5, 3) * harm.lease
    process.clock.write_text("+0\n")
