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
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

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


@cache
def _ask(path: Path, stamp: int, uid: int | None) -> Interpreter:
    try:
        done = subprocess.run(
            as_user(uid, [str(path), "-I", "-c", _QUESTION]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = getattr(error, "strerror", None) or error
        raise CannotStart(f"{path} cannot be run ({why}); change the job's Python") from None
    said = done.stdout.decode(errors="replace").splitlines()
    if done.returncode or len(said) != 3:
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


def request_digest(interpreter: Interpreter, requirements: Sequence[str]) -> str:
    """SHA-256 of what a lock is the answer to: requirements in any order, and the Python's tag."""
    lines = sorted({line.strip() for line in requirements})
    return hashlib.sha256("\n".join([interpreter.tag, *lines]).encode()).hexdigest()


def find(
    root: Path, interpreter: Interpreter, requirements: Sequence[str], *, lock: str | None
) -> Environment | None:
    """The environment, if it is built on this worker. Needs no network.

    `lock` is the one that the first worker to build these requirements got; without it, the
    one that this worker resolved itself.
    """
    if lock is None:
        try:
            file = root / "locks" / f"{request_digest(interpreter, requirements)}.txt"
            lock = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
    folder = root / hashlib.sha256(f"{_identity(interpreter)}\n{lock}".encode()).hexdigest()[:20]
    python = folder / "bin" / "python"
    # The link is dangling where the base interpreter was taken away.
    if (folder / "ready").is_file() and python.exists():
        return Environment(python, lock)
    return None


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
