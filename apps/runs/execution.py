"""One attempt on this machine, from its claim to its outcome: desk, child, log.

A slot's thread calls `run`, which blocks until the child has ended. The worker's other threads
meanwhile call `look`, `end`, `release` and `lose`: they only signal the child and leave word,
and what follows is said by the slot.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import random
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

from apps.engine.retry import retry_delay
from apps.engine.states import NodeState
from apps.nodes import python_environments as pythons
from apps.nodes.kinds.base import CannotStart, Command, Context, Kind, Spark
from apps.nodes.kinds.fields import Spec
from apps.nodes.kinds.registry import UnknownKind, kind
from apps.nodes.last_error import last_error_line
from apps.nodes.process import WORKER, Child, Identity, Strays, exit_reason, hand_over, start
from apps.nodes.spark import SparkTrace, find_spark
from apps.runs.desks import Desk, Desks
from apps.runs.guard import Guard, now
from apps.runs.logs import TAIL_BYTES, AttemptLog, Blanks, Reader, log_of
from apps.runs.masking import MaskedPipe
from apps.runs.services.hot_path import Claim, Outcome
from apps.runs.services.outputs import store_outputs
from apps.runs.services.prepare import (
    Prepared,
    check_secrets,
    context_of,
    fetch_file,
    keep_python_lock,
    prepare,
    python_lock,
    spark_master,
    with_values,
)
from apps.runs.services.values import nodes_named, read_values, store_values, values_of_nodes
from apps.workspaces.secrets import Unreadable, secret_values

logger = logging.getLogger(__name__)

#: How much of a failed log's end is searched for the line that says why.
_ERROR_BYTES = 64 * 1024
#: Read of a log at one look, and at its end. Of what a job prints faster, lines go uncounted.
_LOOK_BYTES = 32 << 20
_LAST_LOOK_BYTES = 256 << 20
#: What it may take a guard to hear that a lease was renewed.
_NEWS_SECONDS = 0.5
#: What a masked log waits for its last lines, before and after the group is ended.
_DRAIN_SECONDS = 1.0
#: With less room than this the disk of the logs counts as full.
_FULL_BYTES = 1 << 20

Answer = TypeVar("Answer")


def insist(call: Callable[[], Answer], patient: Callable[[], bool]) -> Answer:
    """Ask the database again, over a new connection, for as long as `patient` says so.

    For calls that may be repeated. A lost connection, a restart and a deadlock are all
    OperationalErrors; after each of them the old connection is of no use or of no matter.
    """
    pause = 0.05
    while True:
        try:
            return call()
        except (OperationalError, InterfaceError) as error:
            connection.close()
            if not patient():
                raise
            logger.warning("the database does not answer (%s); asking again", str(error).strip())
            time.sleep(pause)
            pause = min(pause * 2, 2.0)


@dataclass(frozen=True)
class Bench:
    """What a worker offers each attempt that it runs."""

    worker: str
    desks: Desks
    blanks: Blanks
    identity: Identity
    guard: Guard
    strays: Strays
    #: Called with each log that has begun.
    began: Callable[[AttemptLog], None]


class Execution:
    """An attempt that this worker holds."""

    def __init__(self, mine: Claim, deadline: float, bench: Bench) -> None:
        self.mine = mine
        #: CLOCK_BOOTTIME at which the guard kills the child unless the lease is renewed.
        self.deadline = deadline
        #: Set where the lease is gone: nothing may be written any more.
        self.is_lost = False
        #: Set where the lease ran out while the child lived: then the guard has killed it, even
        #: if the lease was renewed right after.
        self._has_lapsed = False
        #: Set where the node goes back to its queue: the worker is to end.
        self.is_released = False
        #: Spark's application, newly found and not yet saved: (id, address of its UI).
        self.news: tuple[str, str] | None = None
        self._bench = bench
        #: Between the start of a child and whoever wants none to start, or it to end.
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._ends_as: NodeState | None = None
        self._why = ""
        self._times_out_at: float | None = None
        self._kill_at: float | None = None
        #: Between the slot and the supervisor, who both read the log on.
        self._reading = threading.Lock()
        self._log: AttemptLog | None = None
        self._handle = -1
        self._reader: Reader | None = None
        self._trace: SparkTrace | None = None
        #: Whether its log's middle could not be left out; said once.
        self._is_uncut = False

    @property
    def log(self) -> AttemptLog | None:
        """None before it has begun."""
        return self._log

    # --- by the slot ------------------------------------------------------------------------

    def run(self) -> Outcome | None:
        """Run the attempt and say how it ended; None if that is no longer ours to say."""
        code: int | None = None
        fault = ""
        try:
            try:
                code = self._run()
            except CannotStart as error:
                fault = str(error)
            except (UnknownKind, OSError) as error:
                fault = f"cannot be started: {error}"
            except (OperationalError, InterfaceError):
                return None  # the database was away for longer than the lease
            except Exception as error:  # a kind may be anyone's code; people see it at the run
                logger.exception("attempt %s cannot be started", self.mine.mark)
                fault = f"cannot be started: {type(error).__name__}: {error}"
            return self._outcome(code, fault)
        finally:
            with self._reading:
                handle, self._handle, self._reader = self._handle, -1, None
            if handle >= 0:
                with contextlib.suppress(OSError):  # a disk that is full may say so only now
                    os.close(handle)

    def _run(self) -> int | None:
        mine = self.mine
        self._log = log_of(mine.run_id, mine.node_run_id, mine.attempt)
        self._handle = self._log.open_for_child(self._bench.blanks.take())
        self._bench.began(self._log)
        prepared = insist(lambda: prepare(mine), self.is_ours)
        uid = self._bench.identity.uid(prepared.run.workspace_id)
        if uid is not None:
            # Programs that open /dev/stderr open the file anew, under the job's own rights.
            os.fchown(self._handle, uid, uid)
        what = kind(prepared.job.kind)
        desk = self._bench.desks.take(what.name)
        try:
            return self._work(prepared, what, desk, uid)
        finally:
            self._bench.desks.leave(desk)

    def _work(self, prepared: Prepared, what: Kind, desk: Desk, uid: int | None) -> int | None:
        """Make the command of a job, lay out what it needs, run it and keep its outputs."""
        job = prepared.job
        context = self._context(prepared, what, desk.path, uid)
        for path, sha256 in job.files.items():
            context.files[path].parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fetch_file(sha256, context.files[path])
        secrets = self._secrets(prepared)
        context = self._with_values(what, job.spec, context)
        command = what.command(job.spec, context)
        desk.lay_out(command)
        reader = Reader(self._handle, marks=self._log.marks_path if self._log else None)
        if what.needs_spark:
            self._trace = SparkTrace(command)
            reader.each = self._follow
        with self._reading:
            self._reader = reader
        code = self._child_of(
            command, desk.path, uid, timeout=self.mine.timeout_seconds, secrets=secrets
        )
        if code is not None and not self.is_lost:
            self._keep_outputs(context, secrets.values())
        return code

    def _secrets(self, prepared: Prepared) -> Mapping[str, str]:
        """What the job is to be given of the workspace's secrets, as it is now."""
        names = prepared.job.spec.get("secrets") or []
        if not names:
            return {}
        workspace_id = prepared.run.workspace_id
        try:
            values = insist(lambda: secret_values(workspace_id, names), self.is_ours)
        except Unreadable as error:
            raise CannotStart(str(error)) from None
        check_secrets(names, values)
        return values

    def _context(self, prepared: Prepared, what: Kind, folder: Path, uid: int | None) -> Context:
        """What the kind may know; here the job's Python is built, should it need building."""
        run, job, mine = prepared.run, prepared.job, self.mine
        user, known = _user(uid, run.workspace_id)
        context = context_of(
            prepared,
            mine.key,
            run=mine.run_id,
            node_run=mine.node_run_id,
            attempt=mine.attempt,
            folder=folder,
            data=_own_folder(settings.HOME.data, run.workspace_id, uid),
            user=user,
            known_user=known,
        )
        if what.needs_spark:
            master = insist(lambda: spark_master(mine.queue_id), self.is_ours)
            context = replace(context, master=master, spark=_spark())
        if any(field.name.startswith("python.") for field in what.fields):
            python = self._python(job.spec, context, run.workspace_id, uid)
            context = replace(context, python=python)
        return context

    def _python(
        self, spec: Mapping[str, Any], context: Context, workspace_id: int, uid: int | None
    ) -> Path:
        wanted = spec.get("python") or {}
        named = wanted.get("interpreter")
        if named:
            interpreter = pythons.check_interpreter(Path(named), uid)
        else:
            interpreter = pythons.check_interpreter(pythons.default_interpreter())
        requirements = wanted.get("requirements")
        if not requirements:
            return interpreter.path
        root = _own_folder(settings.HOME.environments, workspace_id, uid)
        digest = pythons.request_digest(interpreter, requirements)
        lock = insist(lambda: python_lock(workspace_id, digest), self.is_ours)
        ready = pythons.find(root, interpreter, requirements, lock=lock)
        if ready is None:
            # At a desk of its own: what it installs may run code, as the job's user, and we
            # write to the attempt's desk after it.
            desk = self._bench.desks.take("environment")
            try:
                command = pythons.build(
                    root,
                    interpreter,
                    requirements,
                    lock=lock,
                    context=replace(context, folder=desk.path),
                    environ=os.environ,
                )
                desk.lay_out(command)
                self._child_of(command, desk.path, uid, timeout=None)
            finally:
                self._bench.desks.leave(desk)
            ready = pythons.find(root, interpreter, requirements, lock=lock)
        if ready is None:
            raise CannotStart("its Python environment could not be built; the log says why")
        if lock is None:
            built = ready.lock
            insist(lambda: keep_python_lock(workspace_id, digest, built), self.is_ours)
        return ready.python

    def _child_of(
        self,
        command: Command,
        folder: Path,
        uid: int | None,
        *,
        timeout: float | None,
        secrets: Mapping[str, str] = MappingProxyType({}),
    ) -> int | None:
        """Run a command in `folder` to its end: its exit code, None if it must not start.

        With secrets it prints to a pipe that hides them, else straight to the log.
        """
        mark, bench = self.mine.mark, self._bench
        hand_over(folder, uid)
        env = {**command.env, **secrets, WORKER: bench.worker}
        pipe: MaskedPipe | None = None
        with self._lock:
            # Before the start: a worker that dies right after it leaves a child that its
            # guard knows. And before the last look at the lease: a worker that is frozen between
            # that look and the start finds its folder closed.
            bench.guard.opening(mark, self.deadline, folder)
            if not self.is_ours():
                self.is_lost = True
            if self._ends_as or self.is_released or self.is_lost:
                bench.guard.ended(mark)
                return None
            if secrets:
                pipe = MaskedPipe(secrets.values(), self._handle, uid)
            try:
                child = start(
                    command.argv,
                    env=env,
                    cwd=command.cwd,
                    log=self._handle if pipe is None else pipe.child_end,
                    uid=uid,
                    processes=settings.JOB_PROCESSES,
                )
            except OSError:
                bench.guard.ended(mark)
                if pipe is not None:
                    pipe.give_up()
                if not folder.exists():  # the guard closed it: the lease is over
                    self.is_lost = True
                    return None
                raise
            if pipe is not None:
                pipe.start()
            self._child = child
            with self._unhindered("its guard"):
                bench.guard.started(mark, child.pid)
            if timeout is not None:
                self._times_out_at = time.monotonic() + timeout
        # While the child runs: what the next one will not have to wait for.
        with self._unhindered("the next one's desk"):
            bench.desks.sort()
            bench.blanks.make()
        child.wait()
        if pipe is not None:
            pipe.drain(_DRAIN_SECONDS)
        with self._lock:
            self._note_lapse(now() + 0.01)  # the guard was told milliseconds
        with self._unhindered("its strays"):
            bench.strays.end(mark)
        # Told before the leader is reaped: after that its group's id may be anyone's.
        with self._unhindered("its guard"):
            bench.guard.ended(mark)
        with self._lock:
            self._child = self._times_out_at = self._kill_at = None
        code = child.reap()
        # Nothing of its group is left to write; what left the group without a mark may be.
        if pipe is not None and not pipe.drain(_DRAIN_SECONDS):
            logger.warning("attempt %s: something of it still holds its output", mark)
        return code

    @contextlib.contextmanager
    def _unhindered(self, what: str) -> Iterator[None]:
        """From the child's start on it is waited for, and how it ended is told, come what may."""
        try:
            yield
        except Exception:
            logger.exception("attempt %s goes on without %s", self.mine.mark, what)

    def _with_values(self, what: Kind, spec: Spec, context: Context) -> Context:
        mine = self.mine

        def left(texts: Sequence[str]) -> Mapping[str, str]:
            nodes = nodes_named(texts)
            return insist(lambda: values_of_nodes(mine.run_id, mine.key, nodes), self.is_ours)

        return with_values(what, spec, context, left)

    def _keep_outputs(self, context: Context, secrets: Collection[str]) -> None:
        def store() -> list[str]:
            values, left_out = read_values(context.output_file, secrets)
            if values:
                store_values(self.mine, values)
            return left_out + store_outputs(self.mine, context.outputs_folder)

        try:
            left_out = insist(store, self.is_ours)
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:  # a name may be no text, a disk full: the job has ended
            left_out = [f"the outputs could not be kept: {error}"]
        for line in left_out:
            self._say(line)

    def _say(self, line: str) -> None:
        """A line of ours in the attempt's log."""
        try:
            os.write(self._handle, f"runyard: {line}\n".encode(errors="replace"))
        except OSError as error:
            logger.warning("attempt %s: %s: %s", self.mine.mark, line, error)

    def _outcome(self, code: int | None, fault: str) -> Outcome | None:
        if code == -signal.SIGKILL and self._has_lapsed:
            # Unrenewed for a whole lease: the guard killed it. That is no failure of the node's.
            self.is_lost = True
        if self.is_lost or self.is_released:
            return None
        reason = self._why or fault or exit_reason(code or 0)
        if fault and self._handle >= 0:
            self._say(fault)
        if self._ends_as is not None and self._ends_as is not NodeState.FAILED:
            return self._ended(self._ends_as, code, reason)
        if code == 0 and not reason:
            return self._ended(NodeState.SUCCEEDED, code, "")
        if self._log is not None and _is_full(self._log):
            reason += " (the disk of the logs is full)"
        mine = self.mine
        delay = retry_delay(
            mine.retry_policy,
            failures=mine.failures + 1,
            # Of a child that we ended the code says nothing about the job.
            exit_code=code if self._ends_as is None else None,
            jitter=random.random(),  # noqa: S311 -- spreads retries, guards nothing
        )
        state = NodeState.FAILED if delay is None else NodeState.RETRYING
        return self._ended(state, code, reason, delay)

    def _ended(
        self, state: NodeState, code: int | None, reason: str, retry_in: float | None = None
    ) -> Outcome:
        size = lines = 0
        tail = error = ""
        if self._handle >= 0 and self._log is not None:
            with self._unhindered("the end of its log"):
                with self._reading:
                    reader = self._reader = self._reader or Reader(self._handle)
                    self._read_on(reader, _LAST_LOOK_BYTES)
                    reader.close()
                    size, lines = os.fstat(self._handle).st_size, reader.lines
                tail = self._end_of_log(size, TAIL_BYTES)
                if state in (NodeState.FAILED, NodeState.RETRYING):
                    error = last_error_line(self._end_of_log(size, _ERROR_BYTES))
        return Outcome(
            state=state,
            exit_code=code,
            reason=reason.encode(errors="replace").decode(),  # it may name a file that is no text
            retry_in=retry_in,
            log_bytes=size,
            log_lines=lines,
            log_tail=tail,
            error_line=error,
        )

    def _read_on(self, reader: Reader, most: int) -> None:
        """Read on, so that lines are counted, then leave out the middle of a log too long.

        The caller has `_reading`. A middle that cannot be left out, on a full disk or where
        the job put something in the way, costs space and nothing else.
        """
        log = self._log
        try:
            reader.advance(most)
        finally:
            try:
                if log is not None:
                    log.keep_ends(self._handle, settings.LOG_LIMIT_BYTES)
            except (OSError, ValueError) as error:
                if not self._is_uncut:
                    logger.warning("attempt %s: its log is not cut: %s", self.mine.mark, error)
                self._is_uncut = True

    def _end_of_log(self, size: int, limit: int) -> str:
        data = os.pread(self._handle, limit, max(size - limit, 0))
        if size > limit:
            data = data.partition(b"\n")[2] or data  # no half a line, and no half a character
        return data.decode(errors="replace")

    # --- by the supervisor ------------------------------------------------------------------

    def is_ours(self) -> bool:
        """Whether the lease holds, as far as this machine can know."""
        return not self.is_lost and now() < self.deadline

    def renewed(self, deadline: float) -> None:
        """The lease goes on; a child whose guard may not hear of it in time does not."""
        with self._lock:
            if self._child is not None:
                self._note_lapse(now() + _NEWS_SECONDS)
            self.deadline = deadline

    def _note_lapse(self, at: float) -> None:
        self._has_lapsed = self._has_lapsed or at >= self.deadline

    def look(self) -> None:
        """Time out, kill what did not end in time, read the log on. Once a second."""
        late = time.monotonic()
        with self._lock:
            timed_out = self._times_out_at is not None and late >= self._times_out_at
            if self._kill_at is not None and late >= self._kill_at and self._child:
                self._child.signal(signal.SIGKILL)
        if timed_out:
            self.end(NodeState.FAILED, f"timed out after {self.mine.timeout_seconds} s")
        # Where the slot is reading, nothing is left for us to do.
        if self._reading.acquire(blocking=False):
            try:
                if self._reader is not None:
                    self._read_on(self._reader, _LOOK_BYTES)
            finally:
                self._reading.release()

    def end(self, state: NodeState, why: str) -> None:
        """Have the child end, now politely, after the grace by force. The first reason counts."""
        with self._lock:
            if self._ends_as is None:
                self._ends_as, self._why = state, why
                self._ask_to_end(settings.STOP_GRACE_SECONDS)

    def release(self, grace_seconds: float) -> None:
        """The worker is to end: have the child end, so that the node can be handed back."""
        with self._lock:
            self.is_released = True
            self._ask_to_end(grace_seconds)

    def lose(self) -> None:
        """The lease is gone: the child is killed, and nothing will be written."""
        with self._lock:
            self.is_lost = True
            if self._child is not None:
                self._child.signal(signal.SIGKILL)

    def _ask_to_end(self, grace_seconds: float) -> None:
        self._times_out_at = None
        if self._child is not None:
            self._child.signal(signal.SIGTERM)
            self._child.signal(signal.SIGCONT)  # one that is suspended could not hear it
            self._kill_at = time.monotonic() + grace_seconds

    def _follow(self, data: bytes) -> None:
        trace = self._trace
        if trace is not None and trace.feed(data):
            self.news = (trace.application_id, trace.ui_url)


def _own_folder(above: Path, workspace_id: int, uid: int | None) -> Path:
    """A folder that belongs to one workspace, in one that belongs to the worker."""
    folder = above / str(workspace_id)
    _make_own(folder, uid)
    return folder


@cache
def _make_own(folder: Path, uid: int | None) -> None:
    folder.parent.mkdir(mode=0o711, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if uid is not None:
        os.chown(folder, uid, uid, follow_symlinks=False)


@cache
def _user(uid: int | None, workspace_id: int) -> tuple[str, bool]:
    """Name of the user that a job runs as, and whether the machine knows it by that name."""
    try:
        return pwd.getpwuid(os.geteuid() if uid is None else uid).pw_name, True
    except KeyError:
        return f"runyard-{workspace_id}", False


@cache
def _spark() -> Spark:
    return find_spark(os.environ, settings.HOME.java)


def _is_full(log: AttemptLog) -> bool:
    try:
        disk = os.statvfs(log.path.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _FULL_BYTES
