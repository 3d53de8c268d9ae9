"""One attempt's child process: who it is, how it starts, and how it and its kin are ended.

A child is the leader of a session and a process group of its own, and writes straight to
the log file of its attempt. Whatever it leaves behind is ended with it: a job that wants
something to outlive it has to put it somewhere else than under its own process.

Nothing here knows the database. Linux only where it matters (`/proc`, `prctl`, `setpriv`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger(__name__)

#: In every child's environment, and in that of all it starts: by the two together its
#: processes are found again. The first alone would also match another home's children.
ATTEMPT = "RUNYARD_ATTEMPT"
WORKER = "RUNYARD_WORKER"

#: The job's environment, in its folder, where it runs as a user of its own.
ENVIRONMENT = ".environment"

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SH = "/bin/sh"
_SETPRIV = shutil.which("setpriv", path=_PATH)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

#: What runs between the switch to the job's user and the job. Its first argument says how many
#: processes that user may have; shells do not agree on the letter.
_AFTER_SWITCH = """\
echo 500 2>&- > /proc/self/oom_score_adj
ulimit -c 0 2>&-
if [ "$1" != 0 ]; then ulimit -p "$1" 2>&- || ulimit -u "$1" 2>&-; fi
shift
. ./.environment || exit
exec "$@"
"""

#: How long a process that was killed is waited for, and all strays of an attempt together.
_KILL_SECONDS = 0.2
_END_SECONDS = 2.0
#: What it may take to remove one folder.
_REMOVE_SECONDS = 30

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36


# --- who the child is -----------------------------------------------------------------------


@dataclass(frozen=True)
class Identity:
    """Whom jobs run as on this machine."""

    #: First of the range of user ids, one per workspace; None: the worker's own user.
    base: int | None
    #: Why jobs run as the worker's own user, one sentence for people; "" where they do not.
    why_trusted: str = ""

    def uid(self, workspace_id: int) -> int | None:
        return None if self.base is None else self.base + workspace_id


def probe(
    base: int,
    folders: Iterable[Path],
    interpreter: str,
    installed: Path = Path(sys.prefix),
) -> Identity:
    """Find out whether jobs can run as users of their own: by doing it once.

    That user must reach `folders` (of which each is made, for all to pass through but only
    for us to read), be able to run `interpreter`, and read what is `installed`: Spark, its
    Java and pip lie there. Mere root is not enough: a Python or a checkout below /root is
    out of reach for everyone else.
    """
    if base <= 0:
        return Identity(None, "RUNYARD_JOB_UID_BASE is 0: jobs run as the worker's own user")
    if os.geteuid() != 0:
        return Identity(None, "the worker does not run as root, so it cannot switch users")
    if _SETPRIV is None:
        return Identity(None, "the program setpriv (package util-linux) is not installed")
    for folder in folders:
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        folder.chmod(0o711)
        mine = Path(tempfile.mkdtemp(dir=folder, prefix="probe-"))
        try:
            os.chown(mine, base, base)
            for what, script in [
                (f"enter {folder}", 'cd "$1" && : > file'),
                (f"run {interpreter}", 'cd / && exec "$2" -E -S -c pass'),
                (f"read {installed}", 'exec ls "$3" > /dev/null'),
            ]:
                arguments = [str(mine), interpreter, str(installed)]
                tried = subprocess.run(
                    as_user(base, [_SH, "-c", script, "sh", *arguments]),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    env=base_environment(),
                    cwd="/",
                    check=False,
                )
                if tried.returncode:
                    said = tried.stderr.decode(errors="replace").strip().rpartition(": ")[2]
                    return Identity(None, f"user {base} cannot {what}: {said}")
        finally:
            remove_folder(mine)
    return Identity(base)


def as_user(uid: int | None, argv: Sequence[str]) -> list[str]:
    """`argv` run by user `uid`, with no group but its own and no way to gain rights.

    By an exec of setpriv: `user=` and `preexec_fn` of Popen would fork the whole worker,
    26 ms at 460 MB. As setpriv is root until then, its environment must not be a job's: with
    LD_PRELOAD it would run the job's code.
    """
    if uid is None:
        return list(argv)
    switch = [_SETPRIV or "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return [*switch, "--no-new-privs", "--", *argv]


def base_environment() -> dict[str, str]:
    """What every child's environment starts from. Nothing of the worker's own is in it."""
    return {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
    }


# --- the child ------------------------------------------------------------------------------


class Child:
    """A started child. Its pid is also the id of its process group and session."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lock = threading.Lock()
        self._reaped = False
        self.pid = process.pid

    def signal(self, number: int) -> None:
        """Send a signal to the child's whole group; nothing once it was reaped."""
        with self._lock:
            if not self._reaped:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, number)

    def wait(self) -> None:
        """Block until the child itself has ended. It stays a zombie, so its pid stays ours."""
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def reap(self) -> int:
        """End what is left of its group and take its exit code (negative: the signal).

        While the leader is a zombie nobody else can have the group's id, so this cannot hit
        a stranger. Call it after `wait`.
        """
        self.signal(signal.SIGKILL)
        with self._lock:
            self._reaped = True
            return self._process.wait()


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: int,
    uid: int | None = None,
    processes: int = 0,
) -> Child:
    """Start a child in a session of its own, both its outputs going to the descriptor `log`.

    As user `uid` it gets its environment after the switch, from a file in `cwd`, and that user
    may have `processes` processes at once (0: no limit). Raises OSError if it cannot be
    executed; then there is no child.
    """
    given = dict(env)
    if uid is not None:
        _write_environment(cwd, given, uid)
        argv = as_user(uid, [_SH, "-c", _AFTER_SWITCH, "sh", str(processes), *argv])
        given = _clean(given)
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=given,
        cwd=cwd,
        start_new_session=True,
    )
    if uid is None:
        # When memory runs out, the job goes before the worker. No matter where there is no such
        # file, or the job is over already.
        with (
            contextlib.suppress(OSError),
            open(f"/proc/{process.pid}/oom_score_adj", "wb", buffering=0) as file,
        ):
            file.write(b"500")
    return Child(process)


def _clean(env: Mapping[str, str]) -> dict[str, str]:
    """What setpriv gets while it is root: of the job's environment, what is ours in it."""
    marks = {name: env[name] for name in (ATTEMPT, WORKER) if name in env}
    return {"PATH": _PATH, "LC_ALL": "C.UTF-8", **marks}


def _write_environment(folder: Path, env: Mapping[str, str], uid: int) -> None:
    """Write the file from which the shell takes the job's environment, for its user alone.

    A file, for everyone can read arguments. The folder is the job's user's already.
    """
    lines = ["unset PWD OLDPWD SHLVL", *(f"unset {name}" for name in _clean(env))]
    for name, value in env.items():
        if not _NAME.fullmatch(name) or "\0" in value:
            raise OSError(errno.EINVAL, f"the variable {name!r} cannot be set")
        lines.append(f"export {name}={shlex.quote(value)}")
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(ENVIRONMENT, flags, 0o600, dir_fd=inside), "wb") as file:
            file.write(os.fsencode("\n".join(lines) + "\n"))
            file.flush()
            os.fchown(file.fileno(), uid, uid)
    finally:
        os.close(inside)


def exit_reason(code: int) -> str:
    """How a child ended, in words: "" for success."""
    if code == 0:
        return ""
    if code > 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


# --- its folder -----------------------------------------------------------------------------


def hand_over(folder: Path, uid: int | None) -> None:
    """Give an attempt's complete folder to the user that the job runs as.

    The folder above it stays the worker's, and this one changes hands last: no job can slip
    a link between us and a file that we write as root.
    """
    if uid is None:
        return
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            os.chown(os.path.join(parent, name), uid, uid, follow_symlinks=False)
        os.chown(parent, uid, uid, follow_symlinks=False)


def remove_folder(path: Path) -> None:
    """Remove an attempt's folder, whatever the job put there. Links are not followed.

    Never raises: what cannot be removed stays, and is said. Python goes into folders by
    recursion, and cannot into thousands of them within each other; rm can.
    """
    with contextlib.suppress(RecursionError):
        shutil.rmtree(path, ignore_errors=True)
    if not os.path.lexists(path):
        return
    try:
        subprocess.run(
            ["/bin/rm", "-rf", "--", path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": _PATH},
            timeout=_REMOVE_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("%s cannot be removed: %s", path, error)


# --- what it leaves behind ------------------------------------------------------------------


def hide_memory() -> None:
    """Make this process unreadable for others of its user: no /proc/<pid>/environ, no trace.

    Jobs that run as the worker's own user could otherwise read its keys. Children become
    readable again with their exec.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


def marks_of(pid: int) -> tuple[str, str] | None:
    """(worker, attempt) that a process carries in its environment; None: none, or not ours
    to read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return None
    found = dict(entry.partition(b"=")[::2] for entry in entries if b"=" in entry)
    worker, attempt = found.get(WORKER.encode()), found.get(ATTEMPT.encode())
    if worker is None or attempt is None:
        return None
    return worker.decode(errors="replace"), attempt.decode(errors="replace")


def kill_all_of(worker: str) -> int:
    """Kill every process that carries this worker's mark; how many there were."""
    count = 0
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit() and (marks_of(int(name)) or ("", ""))[0] == worker:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(name), signal.SIGKILL)
                count += 1
    return count


@dataclass
class Strays:
    """Processes that lost their parent: from here on they are this process's own children.

    As the nearest subreaper the worker inherits everything that a job leaves behind, in
    whatever session, and so looks at a short list of its own instead of at all of /proc.
    Slots start their children from threads of their own; what hangs from the main thread
    was inherited.
    """

    #: Children of the main thread that were started there on purpose.
    known: set[int] = field(default_factory=set)
    #: Held from listing to killing: only we reap these, so until then a pid is who it was.
    _lock: threading.Lock = field(default_factory=threading.Lock)
    #: Strays without a readable mark -> the attempts that ran when they were first seen.
    _unmarked: dict[int, frozenset[str]] = field(default_factory=dict)

    def adopt(self) -> None:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def end(self, mark: str) -> int:
        """Kill the strays of one attempt, which has ended, and say how many there were.

        What they had started becomes a stray when they die, hence the loop. One that is stuck
        in the kernel is not waited for, and of those that multiply faster than they are killed
        the next sweep has the rest: others wait for the lock.
        """
        killed: set[int] = set()
        patience = time.monotonic() + _END_SECONDS
        with self._lock:
            while time.monotonic() < patience:
                strays = {pid for pid in self._children() if _attempt(pid) == mark}
                if strays <= killed:
                    break
                killed |= strays
                self._kill(list(strays))
        return len(killed)

    def sweep(self, live: Callable[[], frozenset[str]]) -> int:
        """Kill the strays whose attempt is over, reap those that have ended by themselves.

        One without a mark (its environment emptied, or not ours to read) belongs to one of
        the attempts that ran when it was first seen, and goes when all of those are over.
        """
        with self._lock:
            children = [pid for pid in self._children() if not _reap(pid)]
            running = live()  # after the list: an attempt is live before its child starts
            for pid in self._unmarked.keys() - set(children):
                del self._unmarked[pid]
            over = []
            for pid in children:
                mark = _attempt(pid)
                if mark is None:
                    if not self._unmarked.setdefault(pid, running) & running:
                        over.append(pid)
                elif mark not in running:
                    over.append(pid)
            self._kill(over)
            return len(over)

    def _children(self) -> list[int]:
        main = os.getpid()
        try:
            with open(f"/proc/{main}/task/{main}/children", "rb") as file:
                children = [int(pid) for pid in file.read().split()]
        except OSError:  # a kernel without CONFIG_PROC_CHILDREN, or no Linux
            return []
        return [pid for pid in children if pid not in self.known]

    def _kill(self, pids: list[int]) -> None:
        """Kill and reap; what is stuck in the kernel is left to the next sweep."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        patience = time.monotonic() + _KILL_SECONDS
        while (pids := [pid for pid in pids if not _reap(pid)]) and time.monotonic() < patience:
            time.sleep(0.001)


def _attempt(pid: int) -> str | None:
    marks = marks_of(pid)
    return marks and marks[1]


def _reap(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError):  # no prctl outside Linux
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
