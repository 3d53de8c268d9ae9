"""Attempts without a database: a context in a folder of its own, and the child for real."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apps.nodes.kinds.base import Command, Context, Given, write_files
from apps.nodes.kinds.fields import Spec
from apps.nodes.kinds.registry import kind


def context(folder: Path, *, parameters: dict[str, str] | None = None, **given: Any) -> Context:
    """Attempt 1 of node run 12, in a new folder below `folder`; `parameters` are the run's."""
    given.setdefault("given", Given(run=parameters or {}))
    place = folder / "attempt"
    place.mkdir(parents=True)
    data = folder / "data"
    data.mkdir(exist_ok=True)
    plain = Context(
        workspace="sample",
        workflow="flight_delays",
        node="load",
        run=7,
        node_run=12,
        attempt=1,
        folder=place,
        data=data,
    )
    return replace(plain, **given)


def workspace_file(where: Context, path: str, content: str | bytes) -> None:
    """Put a workspace file where the worker would: a local copy under its path."""
    local = where.files_folder / path
    local.parent.mkdir(parents=True, exist_ok=True)
    local.write_bytes(content.encode() if isinstance(content, str) else content)
    where.files[path] = local  # type: ignore[index]


@dataclass(frozen=True)
class Ended:
    status: int
    log: str


def run(name: str, spec: Spec, where: Context) -> Ended:
    """Check a spec, make its command and run it; both outputs go to the log."""
    assert kind(name).validate(spec) == []
    return start(kind(name).command(spec, where))


def start(command: Command) -> Ended:
    write_files(command)
    done = subprocess.run(
        command.argv,
        env=dict(command.env),
        cwd=command.cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(errors="replace"))


def recorder(folder: Path) -> Path:
    """A SPARK_HOME whose spark-submit prints its arguments and environment as JSON."""
    home = folder / "spark"
    (home / "bin").mkdir(parents=True)
    (home / "jars").mkdir()
    program = home / "bin" / "spark-submit"
    # Through sh: a `#!` line has no room for an interpreter's path with spaces.
    report = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    program.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -c {shlex.quote(report)} "$@"\n'
    )
    program.chmod(0o755)
    return home
