"""A worker: slots that take nodes from the queues, run them, and say how they ended.

    worker = Worker("worker-1@host", slots=16)
    worker.start()
    worker.ring(queue_id)       # there may be work; from any thread
    worker.drain()              # claim nothing more
    worker.close()              # wait for what runs, hand the rest back

A slot goes from node to node by itself: `finish` brings the next claim along. Two threads
look after all slots: one watches the children and never waits for the database, so that a
timeout is kept while the database is away; the other renews leases, asks who shall stop, and
looks for work that no bell has told of.

Every call to the database may be repeated (`insist`), so no connection is tested before use:
that would double the round trips of a hop.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from uuid import UUID, uuid4

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection, transaction

from apps.engine.serving import serves
from apps.engine.states import NodeState
from apps.nodes.process import Identity, Strays, hide_memory, kill_all_of, probe, remove_folder
from apps.nodes.python_environments import default_interpreter
from apps.runs.desks import Desks
from apps.runs.doorbell import queue_names, ring
from apps.runs.execution import Bench, Execution, insist
from apps.runs.guard import Guard, now
from apps.runs.log_bucket import the_bucket
from apps.runs.log_sealing import Sealer
from apps.runs.log_shipping import Shipper
from apps.runs.logs import Blanks
from apps.runs.models import NodeRun
from apps.runs.services import sweep
from apps.runs.services.advance import advance
from apps.runs.services.endings import run_ended, tell_of
from apps.runs.services.hot_path import (
    Claim,
    Finished,
    Outcome,
    asked_to_stop,
    claim,
    finish,
    note_application,
    queues_with_work,
    renew,
)
from apps.runs.services.workers import leave, show_life

logger = logging.getLogger(__name__)

#: A slot's thread that had nothing to do for so long ends, and closes its connection.
_IDLE_SECONDS = 60
#: How often a worker with a free slot looks for work that no bell told it of.
_LOOK_SECONDS = 2.0
#: A full worker hands a bell on so many times, and so often at most; another may have room.
_PASSES = 3
_PASS_SECONDS = 0.1
#: What the thread that renews leases waits for a lock. All that it holds waits with it.
_LOCK_SECONDS = 2
#: A worker's folder in which no life was shown for so long belongs to nobody any more.
_SILENT_SECONDS = 86_400
#: How long one look kills what a dead worker left. Meanwhile nobody watches the children.
_CLEAR_SECONDS = 0.5
#: What a child gets between SIGTERM and SIGKILL when its worker ends.
_DRAIN_GRACE_SECONDS = 3.0

#: The worker of this process, for its Celery tasks.
current: Worker | None = None


class Worker:
    def __init__(self, name: str, slots: int) -> None:
        pid, tag = os.getpid(), secrets.token_hex(3)
        #: Unique for ever: a row that names it can only be this process's.
        self.name = f"{name[:80]}-{pid}-{tag}"
        self.slots = slots
        self.guard = Guard(self.name, settings.LEASE_SECONDS)
        self.strays = Strays()
        bucket = the_bucket()
        #: What becomes of logs once they have begun, or are over.
        self._logs = Sealer() if bucket is None else Shipper(bucket)
        self._seat = Seat(settings.HOME.work, self.name, f"{pid}-{tag}")
        self._bench: Bench  # from start on

        self._lock = threading.Condition()
        self._busy = 0
        self._threads = 0
        self._draining = False
        self._work: SimpleQueue[int] = SimpleQueue()
        #: Resource queues that rang while every slot was busy.
        self._waiting: dict[int, None] = {}
        self._passed_at = 0.0
        #: Of those queues that are known: whether this worker serves them.
        self._serves: dict[int, bool] = {}
        #: mark -> what this worker holds. A claim is in here, or its request is open.
        self._held: dict[str, Execution] = {}
        self._requests: set[UUID] = set()
        #: Rows under this worker's name that nobody here holds -> requests open at first sight.
        self._suspects: dict[tuple[int, int], frozenset[UUID]] = {}
        #: Whether leases could not be renewed because someone had locked their rows.
        self._some_locked = False
        self._ticking = threading.Lock()
        self._closed = threading.Event()
        self._keepers: list[threading.Thread] = []

    # --- the whole --------------------------------------------------------------------------

    def start(self) -> None:
        """Make this process a worker. Its main thread must not start children afterwards."""
        hide_memory()
        self.strays.adopt()
        identity = find_identity()
        if identity.why_trusted:
            logger.warning("jobs are trusted: %s", identity.why_trusted)
        settings.HOME.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._seat.take()
        self._seat.clear_abandoned()
        self.guard.start()
        self.strays.known.add(self.guard.pid)
        desks = Desks(self._seat.folder, reuse=identity.base is None, most=self.slots)
        blanks = Blanks(self.slots)
        began = self._logs.began
        self._bench = Bench(self.name, desks, blanks, identity, self.guard, self.strays, began)
        self._logs.start()
        for work in (self._watch, self._keep):
            thread = threading.Thread(target=work, name=work.__name__, daemon=True)
            thread.start()
            self._keepers.append(thread)
        logger.info("worker %s has %d slots", self.name, self.slots)
        if settings.WORKER_QUEUES:
            logger.info("it serves %s", ", ".join(settings.WORKER_QUEUES))
            with self._quiet("looking up the queues it serves"):
                self._warn_of_unknown_queues()
            connection.close()

    def drain(self) -> None:
        """Claim nothing more. Callable from a signal handler."""
        self._draining = True

    def close(self) -> None:
        """Let what runs end within the grace, hand the rest back, and leave nothing behind."""
        self.drain()
        if not self._idle_within(settings.STOP_GRACE_SECONDS):
            for held in self._all_held():
                logger.info("%s is handed back: this worker ends", held.mine.mark)
                held.release(_DRAIN_GRACE_SECONDS)
            self._idle_within(_DRAIN_GRACE_SECONDS + 5)
        self._closed.set()
        for thread in self._keepers:
            thread.join(timeout=5)
        with self._quiet("ending strays"):
            self.strays.sweep(frozenset)  # no attempt is left that one could belong to
        self._logs.close()
        self.guard.close()
        self._seat.leave()
        with self._quiet("leaving"):
            leave(self.name)
        connection.close()

    def _idle_within(self, seconds: float) -> bool:
        """Whether no slot is at work, be it only on its way to a claim."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._busy, seconds)

    # --- slots ------------------------------------------------------------------------------

    def ring(self, queue_id: int, passed: int = 0) -> None:
        """Someone says that there is work. With every slot busy another worker may hear it."""
        if not self.serves(queue_id):
            if passed < _PASSES:
                ring({queue_id: 1}, passed=passed + 1)
            return
        if self._take_slot(queue_id):
            return
        self._let_wait(queue_id)
        last, self._passed_at = self._passed_at, time.monotonic()
        if passed < _PASSES and self._passed_at - last > _PASS_SECONDS:
            ring({queue_id: 1}, passed=passed + 1)

    def serves(self, queue_id: int) -> bool:
        """Whether it may take nodes of a resource queue; of a new one it asks the database."""
        if not settings.WORKER_QUEUES:
            return True
        if queue_id not in self._serves:
            self._learn_queues()
        return self._serves.get(queue_id, False)

    def _learn_queues(self) -> None:
        names = settings.WORKER_QUEUES
        self._serves = {pk: serves(names, name) for pk, name in queue_names().items()}

    def _warn_of_unknown_queues(self) -> None:
        """A queue may be made later, so a name that is unknown is no error."""
        known = queue_names().values()
        for name in settings.WORKER_QUEUES:
            if not any(serves([name], queue) for queue in known):
                logger.warning(
                    "no resource queue is called %r yet; --queues takes workspace/queue, such as "
                    "default/root_queue or default/*",
                    name,
                )

    def _take_slot(self, queue_id: int) -> bool:
        """Put a free slot to work on a queue; False if none is free."""
        with self._lock:
            if self._draining or self._busy >= self.slots:
                return False
            if self._threads <= self._busy:
                try:
                    threading.Thread(target=self._slot, name="slot", daemon=True).start()
                except RuntimeError as error:  # as many as this machine allows
                    logger.warning("%s cannot use all of its slots: %s", self.name, error)
                    return False
                self._threads += 1
            self._busy += 1
            self._work.put(queue_id)
        return True

    def _slot(self) -> None:
        while True:
            try:
                queue_id = self._work.get(timeout=_IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._threads <= self._busy:
                        continue  # work is on its way
                    self._threads -= 1
                connection.close()
                return
            try:
                self._serve(queue_id)
                while (other := self._next_waiting()) is not None:
                    self._serve(other)
            except Exception:
                connection.close()
                logger.exception("a slot of %s failed", self.name)
            finally:
                with self._lock:
                    self._busy -= 1
                    self._lock.notify_all()

    def _let_wait(self, queue_id: int) -> None:
        with self._lock:
            self._waiting[queue_id] = None

    def _should_take(self, queue_id: int) -> bool:
        """Whether a slot may go on in its queue, or has to become free for another one."""
        with self._lock:
            return not self._draining and not self._waiting.keys() - {queue_id}

    def _next_waiting(self) -> int | None:
        with self._lock:
            if self._draining or not self._waiting:
                return None
            queue_id = next(iter(self._waiting))
            del self._waiting[queue_id]
            return queue_id

    def _serve(self, queue_id: int) -> None:
        """Run nodes of a queue one after the other until there is none, or another queue waits."""
        held = self._claim(queue_id)
        while held is not None:
            held = self._carry_out(held)

    def _carry_out(self, held: Execution) -> Execution | None:
        """Run an attempt to its end, report it, and return the next one."""
        try:
            outcome = held.run()
            if outcome is not None:
                return self._finish(held, outcome)
            self._let_go(held)
            return None
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:
            logger.exception("%s failed at %s", self.name, held.mine.mark)
            why = f"the worker failed at it: {type(error).__name__}"
            return self._finish(held, Outcome(NodeState.FAILED, reason=why))
        finally:
            self._drop(held)

    def _claim(self, queue_id: int) -> Execution | None:
        request, asked = uuid4(), 0.0
        give_up = now() + settings.LEASE_SECONDS
        again = False

        def ask() -> Claim | None:
            nonlocal asked, again
            repeat, again, asked = again, True, now()
            return claim(queue_id, self.name, request, again=repeat)

        if self._draining:
            return None
        with self._open(request):
            mine = insist(ask, lambda: now() < give_up and not self._closed.is_set())
            held = self._hold(mine, asked) if mine else None
        if held is not None and self._draining:
            held.release(0)  # so that it does not start
        return held

    def _finish(self, held: Execution, outcome: Outcome) -> Execution | None:
        """Report an outcome, pass its bells on, and return the next attempt to run."""
        request, asked = uuid4(), 0.0
        take = self._should_take(held.mine.queue_id)

        def tell() -> Finished:
            nonlocal asked
            asked = now()
            return finish(held.mine, outcome, worker=self.name, request=request, take=take)

        with self._open(request):
            # The fence decides, not the clock: an outcome is worth telling even late.
            done = insist(tell, lambda: not self._closed.is_set())
            following = self._hold(done.next, asked) if done.next else None
        if not done.accepted:
            logger.warning("%s had been given away; its outcome is void", held.mine.mark)
            return None
        if following is not None and self._draining:
            following.release(0)  # so that it does not start
        # Whatever fails from here on: the next attempt is ours and has to be run.
        with self._quiet("bells"):
            self._spread(done.bells)
        if done.needs_advance:
            with self._quiet("advance"):
                advance(held.mine.run_id)
        if done.state is NodeState.FAILED:
            with self._quiet("telling of a failure"):
                tell_of(held.mine.run_id)
        if done.awaited:
            with self._quiet("what follows from the end of a run"):
                run_ended(held.mine.run_id)
        return following

    def _spread(self, bells: Mapping[int, int]) -> None:
        """Wake as many slots as there is work for: own ones first, others over the broker."""
        for queue_id, n in bells.items():
            while n > 0 and self.serves(queue_id) and self._take_slot(queue_id):
                n -= 1
            if n > 0:
                ring({queue_id: n})

    def _let_go(self, held: Execution) -> None:
        """Give a node back that was not run to its end here, if it is still ours to give."""
        mine = held.mine
        back = insist(
            lambda: sweep.hand_back(mine.node_run_id, mine.attempt, self.name),
            lambda: not self._closed.is_set() and not held.is_lost,
        )
        logger.info("%s %s", mine.mark, "was handed back" if back else "had been given away")

    @contextlib.contextmanager
    def _open(self, request: UUID) -> Iterator[None]:
        """A request whose reply has not been read: a row that it claimed is not an orphan."""
        self._requests.add(request)
        try:
            yield
        finally:
            with self._lock:
                self._requests.discard(request)
                self._lock.notify_all()

    def _hold(self, mine: Claim, asked: float) -> Execution:
        held = Execution(mine, self.guard.deadline(asked), self._bench)
        with self._lock:
            self._held[mine.mark] = held
        return held

    def _drop(self, held: Execution) -> None:
        with self._lock:
            self._held.pop(held.mine.mark, None)
            self._lock.notify_all()
        if held.log is not None:
            self._logs.ended(held.log)

    def _all_held(self) -> list[Execution]:
        with self._lock:
            return list(self._held.values())

    # --- watching the children --------------------------------------------------------------

    def _watch(self) -> None:
        """Timeouts, logs, strays, the guard: nothing here waits for the database."""
        while not self._closed.wait(0.5 if self._held else 1.0):
            with self._quiet("watching"):
                self.guard.check()
                self.strays.known.add(self.guard.pid)
            for held in self._all_held():
                with self._quiet(f"watching {held.mine.mark}"):
                    held.look()
            with self._quiet("looking for strays"):
                self.strays.sweep(lambda: frozenset(self._held))
                self._seat.show_life()
                self._seat.clear_abandoned()
                self._bench.desks.clear()

    # --- talking to the database ------------------------------------------------------------

    def _keep(self) -> None:
        """Renew, ask who shall stop, look for work, see that someone ticks."""
        _give_up_on_locks_after(_LOCK_SECONDS)
        beat = settings.LEASE_SECONDS / 6
        renew_leases = Duty(beat, self._renew)
        duties = [
            renew_leases,
            Duty(1.0, self._obey),
            Duty(1.0, self._save_news),
            Duty(_LOOK_SECONDS, self._look_for_work),
            Duty(settings.LEASE_SECONDS / 3, self._show_life),
            Duty(settings.LEASE_SECONDS / 3, self._find_orphans),
            Duty(sweep.PULSE_SECONDS / 2, self._tick_if_nobody_does),
        ]
        while not self._closed.wait(min(beat, 0.5)):
            for duty in duties:
                if duty.is_due():
                    with self._quiet(duty.do.__name__):
                        duty.do()
            if self._some_locked:
                renew_leases.hasten()
        connection.close()

    def _renew(self) -> None:
        """Push on the leases of exactly what is held. What the database does not know is lost."""
        self._some_locked = False
        held = self._all_held()
        if not held:
            return
        asked = now()
        answers = renew(self.name, [each.mine for each in held])
        deadline = self.guard.deadline(asked)
        renewed = []
        for each in held:
            answer = answers.get((each.mine.node_run_id, each.mine.attempt))
            if answer is None:
                if self._held.get(each.mine.mark) is each:
                    # Or just finished: then there is no child, and the word is not read.
                    each.lose()
                continue
            if answer.lease_until is None:
                self._some_locked = True
            else:
                each.renewed(deadline)
                renewed.append(each.mine.mark)
            if answer.stop:
                _stop(each, answer.stop)
        self.guard.renewed(renewed, deadline)

    def _obey(self) -> None:
        if not self._held:
            return
        stops = asked_to_stop(self.name)
        for each in self._all_held():
            if state := stops.get((each.mine.node_run_id, each.mine.attempt)):
                _stop(each, state)

    def _save_news(self) -> None:
        for each in self._all_held():
            if each.news is not None:
                note_application(each.mine, *each.news)
                each.news = None

    def _look_for_work(self) -> None:
        """Bells get lost; and a full worker should know which other queues wait for a slot."""
        if self._draining:
            return
        if settings.WORKER_QUEUES:
            self._learn_queues()
        for queue_id, nodes in queues_with_work(self.slots).items():
            if self.serves(queue_id):
                while nodes > 0 and self._take_slot(queue_id):
                    nodes -= 1
                if nodes > 0:
                    self._let_wait(queue_id)

    def _find_orphans(self) -> None:
        """Give away what runs under this worker's name and nobody here holds.

        A claim's reply may have been lost for good, or a slot failed in a way that it could not
        tell. It costs a loss: what ends its slot each time must not run for ever. While a
        request is open that was open when the row was first seen, the row may be that request's.
        """
        rows = sweep.orphans_of(self.name)
        with self._lock:
            open_now = frozenset(self._requests)
            held = {(each.mine.node_run_id, each.mine.attempt) for each in self._held.values()}
        alone = [row for row in rows if row not in held]
        for row in alone:
            if row in self._suspects and not self._suspects[row] & open_now:
                logger.warning("node run %d, attempt %d is held by nobody here", *row)
                self._lose(*row)
        self._suspects = {row: self._suspects.get(row, open_now) for row in alone}

    def _lose(self, node_run_id: int, attempt: int) -> None:
        with transaction.atomic():
            mine = NodeRun.objects.select_for_update(no_key=True, skip_locked=True).filter(
                pk=node_run_id, attempt=attempt, state=NodeState.RUNNING, worker=self.name
            )
            for node in mine:
                sweep.lose(node)

    def _show_life(self) -> None:
        why = self._bench.identity.why_trusted
        show_life(
            self.name,
            host=socket.gethostname(),
            slots=self.slots,
            queues=",".join(settings.WORKER_QUEUES),
            why_trusted=why,
        )

    def _tick_if_nobody_does(self) -> None:
        if sweep.pulse_is_old():
            threading.Thread(target=self._tick_apart, name="tick", daemon=True).start()

    def _tick_apart(self) -> None:
        self.tick()
        for look in sweep.OTHERS:
            with self._quiet(look.__module__):
                look()
        connection.close()

    def tick(self) -> None:
        """Look around for all, unless a tick is under way here already."""
        if self._ticking.acquire(blocking=False):
            try:
                with self._quiet("tick"):
                    sweep.tick()
            finally:
                self._ticking.release()

    @contextlib.contextmanager
    def _quiet(self, what: str) -> Iterator[None]:
        """Nothing that fails here may end a thread that all slots depend on."""
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            connection.close()
            logger.warning("%s: the database does not answer: %s", what, str(error).strip())
        except DatabaseError:
            connection.close()
            logger.exception("%s: %s failed", self.name, what)
        except Exception:
            logger.exception("%s: %s failed", self.name, what)


class Duty:
    """Something to do every so often."""

    def __init__(self, seconds: float, do: Callable[[], None]) -> None:
        self.seconds = seconds
        self.do = do
        self._next = 0.0

    def is_due(self) -> bool:
        at = time.monotonic()
        if at < self._next:
            return False
        self._next = at + self.seconds
        return True

    def hasten(self) -> None:
        """Let it be due at the next look."""
        self._next = 0.0


class Seat:
    """A worker's own folder below `work`, and the sign that it lives: a lock held on it.

    Whoever finds a folder without its lock knows that the worker is gone, guard or no guard:
    what it left running on this machine is killed and the folder removed. A folder of another
    host, or of a container that was replaced, goes when nobody has shown life in it for a day.
    """

    def __init__(self, work: Path, worker: str, name: str) -> None:
        self.folder = work / name
        self.worker = worker
        self._lock = -1

    def take(self) -> None:
        self.folder.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        new = self.folder.with_name(f".{self.folder.name}")
        new.mkdir(mode=0o711)
        self._lock = os.open(new / "worker", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(self._lock, f"{socket.gethostname()} {self.worker}".encode())
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self.folder)  # visible to others only with its lock held

    def show_life(self) -> None:
        os.utime(self._lock)

    def leave(self) -> None:
        remove_folder(self.folder)
        os.close(self._lock)

    def clear_abandoned(self) -> None:
        """End and remove what dead workers of this machine left."""
        for file in self.folder.parent.glob("[!.]*/worker"):
            if file.parent == self.folder:
                continue
            try:
                handle = os.open(file, os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                host, _, worker = os.read(handle, 1000).decode(errors="replace").partition(" ")
                if host == socket.gethostname() and worker:
                    count = kill_all_of(worker)
                    logger.info("worker %s is gone; killed %d processes of it", worker, count)
                    # One that started another while it was looked for left that one.
                    patience = time.monotonic() + _CLEAR_SECONDS
                    while count and (count := kill_all_of(worker)):
                        if time.monotonic() > patience:
                            break
                        time.sleep(0.01)
                    if count:
                        continue  # the next look goes on
                elif time.time() - os.fstat(handle).st_mtime < _SILENT_SECONDS:
                    continue  # another host's lock may not be seen from here
                remove_folder(file.parent)
            except BlockingIOError:
                pass  # it lives
            except Exception:  # what a dead worker left must not keep this one from its work
                logger.exception("%s cannot be cleared away", file.parent)
            finally:
                os.close(handle)


def find_identity() -> Identity:
    """Whom jobs run as on this machine. Opens the home for them to pass through, no more."""
    home = settings.HOME
    shared = (home.work, home.data, home.environments)
    if os.geteuid() != 0 or settings.JOB_UID_BASE <= 0:
        return probe(settings.JOB_UID_BASE, shared, str(default_interpreter()))
    mode = home.path.stat().st_mode
    for entry in home.path.iterdir():
        if entry not in (*shared, home.java) and not entry.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # another process's, gone by now
                entry.chmod(entry.stat().st_mode & 0o700)
    home.path.chmod(mode | 0o111)
    identity = probe(settings.JOB_UID_BASE, shared, str(default_interpreter()))
    if identity.base is None:
        home.path.chmod(mode)
    return identity


def _give_up_on_locks_after(seconds: int) -> None:
    """For each statement of this thread, over whatever connection. Call it before the first."""
    own = connection.settings_dict
    options = own.get("OPTIONS", {})
    said = f"{options.get('options', '')} -c lock_timeout={seconds}s".strip()
    connection.settings_dict = {**own, "OPTIONS": {**options, "options": said}}


def _stop(held: Execution, state: str) -> None:
    ends_as = NodeState(state)
    why = "stopped" if ends_as is NodeState.STOPPED else "cancelled"
    held.end(ends_as, why)
