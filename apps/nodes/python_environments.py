"""The Python of a job: the machine's, one that it names, or one built for its requirements.

Never the product's own. An environment is built once per list of exact versions and base
interpreter, below a folder that belongs to one workspace: whoever may change an environment may
change what runs in it.

    interpreter = check_interpreter(default_interpreter())
    ready = find(root, interpreter, requirements, lock=lock)
    if ready is None:
        ...start build(root, interpreter, requirements, lock=lock, …) as a child...
        ready = find(root, interpreter, requirements, lock=lock)
    ready.python, ready.lock
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import selectors
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, cast

from apps.nodes.kinds.base import (
    CannotStart,
    Command,
    Context,
    default_interpreter,
    environment,
)
from apps.nodes.process import as_user

BUILDER = Path(__file__).with_name("build_environment.py")
ORDER = "environment.json"

#: PySpark 4 needs it, and the builder works from 3.9.
OLDEST = (3, 9)
#: An interpreter that is asked what it is may say so much in so many seconds: it may be anyone's.
_ANSWER_BYTES = 64 << 10
_ANSWER_SECONDS = 10.0

#: A lock lies where jobs can write, and pip takes options such as another index from its lines.
_LOCK_BYTES = 1 << 20
_LOCKED = re.compile(
    r"(?P<name>[A-Z0-9][A-Z0-9._-]*)(?:==[A-Z0-9][A-Z0-9._+!-]*| @ (?P<archive>https://[!-~]+))"
    r" --hash=sha256:[0-9a-f]{64}",
    re.ASCII | re.IGNORECASE,
)
#: Variables of the worker that pip may have: its index, its proxy, its certificates.
_FOR_PIP = frozenset(
    {
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
    }
)


__all__ = [
    "Environment",
    "Interpreter",
    "build",
    "check_interpreter",
    "default_interpreter",
    "find",
    "request_digest",
]


@dataclass(frozen=True)
class Interpreter:
    """A Python that was found to work. `tag` tells what may be installed into it."""

    path: Path
    #: Implementation, version and platform, such as `cpython-3.11-linux-x86_64`.
    tag: str


@dataclass(frozen=True)
class Environment:
    """A built environment and the lock that it was built from (pip's format, with hashes)."""

    python: Path
    lock: str


def check_interpreter(path: Path, uid: int | None = None) -> Interpreter:
    """Ask an interpreter what it is. Raises CannotStart: what is wrong, and the fix.

    One that a job names is asked as the user `uid` that the job runs as: it is the job's code.
    """
    if not path.is_absolute():
        raise CannotStart(f"the interpreter {path} is not absolute; give a path")
    try:
        stamp = path.stat().st_mtime_ns
    except OSError as error:
        raise CannotStart(
            f"the interpreter {path} is not on this worker ({error.strerror}); install it, or "
            "change the job's Python"
        ) from None
    return _ask(path, stamp, uid)


_QUESTION = (
    "import sys, sysconfig; i = sys.implementation; v = sys.version_info; "
    "print(sys.prefix); print(v[0], v[1]); "
    "print(i.name, '%d.%d' % v[:2], sysconfig.get_platform(), sep='-')"
)


@lru_cache(maxsize=256)
def _ask(path: Path, stamp: int, uid: int | None) -> Interpreter:
    status, answer = _answer(path, uid)
    said = answer.decode(errors="replace").splitlines()
    if status or len(said) != 3 or not re.fullmatch("[0-9]{1,3} [0-9]{1,3}", said[1]):
        raise CannotStart(f"{path} is no Python; change the job's Python")
    prefix, version, tag = said
    major, minor = map(int, version.split())
    if (major, minor) < OLDEST:
        raise CannotStart(f"{path} is Python {major}.{minor}; take 3.9 or newer")
    if Path(prefix) == Path(sys.prefix) and sys.prefix != sys.base_prefix:
        raise CannotStart(
            f"{path} is Runyard's own environment, which an upgrade changes; "
            "leave the interpreter empty, or name another"
        )
    return Interpreter(path, tag)


def _answer(path: Path, uid: int | None) -> tuple[int, bytes]:
    """Exit code and output of an interpreter that is asked what it is, and its end at once."""
    try:
        child = subprocess.Popen(
            as_user(uid, [str(path), "-I", "-c", _QUESTION]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
    except OSError as error:
        raise CannotStart(
            f"{path} cannot be run ({error.strerror}); change the job's Python"
        ) from None
    end = time.monotonic() + _ANSWER_SECONDS
    answer = b""
    try:
        with cast(IO[bytes], child.stdout) as pipe, selectors.DefaultSelector() as ready:
            ready.register(pipe, selectors.EVENT_READ)
            while (
                len(answer) < _ANSWER_BYTES
                and (left := end - time.monotonic()) > 0
                and ready.select(left)
            ):
                data = os.read(pipe.fileno(), _ANSWER_BYTES)
                if not data:
                    break
                answer += data
            else:
                raise CannotStart(
                    f"{path} is no Python: it says too much or nothing for "
                    f"{_ANSWER_SECONDS:.0f} s; change the job's Python"
                )
        # Looked at without reaping it: until then the group's id is nobody else's.
        over = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while os.waitid(os.P_PID, child.pid, over) is None and time.monotonic() < end:
            time.sleep(0.001)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        status = child.wait()
    return status, answer


def request_digest(interpreter: Interpreter, requirements: Sequence[str]) -> str:
    """SHA-256 of what a lock is the answer to: requirements in any order, and the Python's tag."""
    lines = sorted({line.strip() for line in requirements})
    return hashlib.sha256("\n".join([interpreter.tag, *lines]).encode()).hexdigest()


def find(
    root: Path, interpreter: Interpreter, requirements: Sequence[str], *, lock: str | None
) -> Environment | None:
    """The environment, if it is built on this worker. Needs no network.

    `lock` is the one that the first worker to build these requirements got; without it, the
    one that this worker resolved itself. Raises CannotStart where the lock is none.
    """
    if lock is None:
        lock = _read_lock(root / "locks" / f"{request_digest(interpreter, requirements)}.txt")
        if lock is None:
            return None
    _check_lock(lock, requirements)
    folder = root / hashlib.sha256(f"{_identity(interpreter)}\n{lock}".encode()).hexdigest()[:20]
    python = folder / "bin" / "python"
    # The link is dangling where the base interpreter was taken away.
    if (folder / "ready").is_file() and python.exists():
        return Environment(python, lock)
    return None


def _read_lock(file: Path) -> str | None:
    """A lock that this worker resolved; None: there is none.

    The folder is the jobs' own: what lies there may be a link, a pipe or without end.
    """
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(file, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotStart(f"the lock {file} cannot be read ({error.strerror}); remove it") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CannotStart(f"the lock {file} is no plain file; remove it")
        data = b""
        while len(data) <= _LOCK_BYTES and (more := os.read(descriptor, _LOCK_BYTES + 1)):
            data += more
    finally:
        os.close(descriptor)
    if len(data) > _LOCK_BYTES:
        raise CannotStart(f"the lock {file} is larger than {_LOCK_BYTES >> 20} MiB; remove it")
    return data.decode(errors="replace")


def _check_lock(lock: str, requirements: Sequence[str]) -> None:
    """Refuse what is not exact versions with their hashes, or an archive that was asked for."""
    *lines, rest = lock.split("\n")
    for line in [*lines, rest] if rest else lines:
        found = _LOCKED.fullmatch(line)
        archive = found and found["archive"]
        if found is None or (archive and not any(archive in each for each in requirements)):
            raise CannotStart(
                "the lock of its Python environment holds more than lines "
                "name==version --hash=sha256:…, and is not used; change its requirements"
            )


def build(
    root: Path,
    interpreter: Interpreter,
    requirements: Sequence[str],
    *,
    lock: str | None,
    context: Context,
    environ: Mapping[str, str],
) -> Command:
    """The command that builds the environment; after status 0, `find` finds it.

    `context` is the attempt that it is built for: its folder, its user, its log. `environ` is
    the worker's environment, of which pip gets what concerns its index. Two builders of the
    same environment wait for each other. Without a lock, pip resolves one first.
    """
    if lock is not None:
        _check_lock(lock, requirements)
    order = {
        "root": str(root),
        "request": request_digest(interpreter, requirements),
        "requirements": sorted({line.strip() for line in requirements}),
        "lock": lock,
        "python": _identity(interpreter),
        "pip": _pip(),
    }
    for_pip = {
        name: value
        for name, value in environ.items()
        if name in _FOR_PIP or name.startswith("PIP_")
    }
    return Command(
        argv=(str(interpreter.path), "-I", str(BUILDER), ORDER),
        env={**for_pip, **environment({}, context)},
        cwd=context.folder,
        files={ORDER: json.dumps(order)},
        folders=("tmp",),
    )


def _identity(interpreter: Interpreter) -> str:
    """What an environment is bound to: it holds a link to its interpreter."""
    return f"{interpreter.path} {interpreter.tag}"


@cache
def _pip() -> str | None:
    """The product's pip as a program for other interpreters; None where there is none.

    Faster than a pip of each environment's own (2 s), and works where the machine's Python
    comes without ensurepip, as Debian's does.
    """
    spec = importlib.util.find_spec("pip")
    if spec is None or spec.origin is None:
        return None
    runner = Path(spec.origin).with_name("__pip-runner__.py")
    return str(runner) if runner.is_file() else None
