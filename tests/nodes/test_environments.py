from __future__ import annotations

import ast
import base64
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pytest

from apps.nodes.kinds.base import CannotStart, Command, write_files
from apps.nodes.python_environments import (
    BUILDER,
    Environment,
    build,
    check_interpreter,
    default_interpreter,
    find,
    request_digest,
)
from tests.nodes.attempts import context, start

#: Each build starts pip twice.
pytestmark = pytest.mark.timeout(180)


def wheel(index: Path, name: str, version: str, needs: str = "") -> Path:
    """A wheel of one module that knows its version."""
    about = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{about}/METADATA": metadata + (f"Requires-Dist: {needs}\n" if needs else ""),
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    records = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        records.append(f"{path},sha256={digest.decode()},{len(text)}\n")
    files[f"{about}/RECORD"] = "".join(records) + f"{about}/RECORD,,\n"
    index.mkdir(exist_ok=True)
    archive = index / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as opened:
        for path, text in files.items():
            # A fixed time, so that the same wheel has the same hash.
            opened.writestr(zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0)), text)
    return archive


@pytest.fixture
def index(tmp_path) -> Path:
    index = tmp_path / "index"
    wheel(index, "acme", "1.0", needs="acme_core")
    wheel(index, "acme_core", "2.0")
    return index


@pytest.fixture
def builder(tmp_path, index):
    """Builds with nothing but the test's own index to install from."""

    def command(root: str, requirements: list[str], lock: str | None = None) -> Command:
        where = context(Path(tempfile.mkdtemp(dir=tmp_path, prefix="attempt ")))
        return build(
            tmp_path / root,
            check_interpreter(default_interpreter()),
            requirements,
            lock=lock,
            context=where,
            environ={
                "PIP_CONFIG_FILE": "/dev/null",
                "PIP_NO_INDEX": "1",
                "PIP_FIND_LINKS": str(index),
                "DATABASE_URL": "postgres://secret",
            },
        )

    return command


def found(root: Path, requirements: list[str], lock: str | None = None) -> Environment | None:
    return find(root, check_interpreter(default_interpreter()), requirements, lock=lock)


def version_in(environment: Environment, module: str) -> str:
    code = f"import {module}; print({module}.version)"
    return subprocess.run(
        [environment.python, "-I", "-c", code], capture_output=True, check=True, text=True
    ).stdout.strip()


def sha256(archive: Path) -> str:
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def test_environment_is_resolved_locked_and_built_once(tmp_path, builder, index):
    root = tmp_path / "Umgebung 1"
    assert found(root, ["acme>=1"]) is None

    ended = start(builder(root.name, ["acme>=1"]))
    built = found(root, ["acme>=1 "])

    assert ended.status == 0, ended.log
    assert built is not None
    assert built.lock == (
        f"acme==1.0 --hash=sha256:{sha256(index / 'acme-1.0-py3-none-any.whl')}\n"
        f"acme_core==2.0 --hash=sha256:{sha256(index / 'acme_core-2.0-py3-none-any.whl')}\n"
    )
    assert (version_in(built, "acme"), version_in(built, "acme_core")) == ("1.0", "2.0")
    assert subprocess.run(
        [built.python, "-I", "-c", "import django"], capture_output=True
    ).returncode
    assert found(root, ["acme==1.0"]) is None


def test_later_worker_installs_what_the_first_one_locked(tmp_path, builder, index):
    start(builder("first", ["acme"]))
    first = found(tmp_path / "first", ["acme"])
    wheel(index, "acme", "1.1")

    ended = start(builder("second", ["acme"], first.lock))
    second = found(tmp_path / "second", ["acme"], first.lock)

    assert (ended.status, second.lock, version_in(second, "acme")) == (0, first.lock, "1.0")


def test_second_builder_waits_for_the_first(tmp_path, builder):
    commands = [builder("both", ["acme"]) for _ in range(2)]
    for command in commands:
        write_files(command)
    children = [
        subprocess.Popen(each.argv, env=dict(each.env), cwd=each.cwd, stdout=subprocess.PIPE)
        for each in commands
    ]

    logs = [child.communicate()[0].decode() for child in children]

    assert [child.returncode for child in children] == [0, 0]
    assert sum("installing" in log for log in logs) == 1
    assert found(tmp_path / "both", ["acme"]) is not None


def test_build_that_was_cut_off_is_made_anew(tmp_path, builder):
    root = tmp_path / "cut"
    start(builder("cut", ["acme"]))
    built = found(root, ["acme"])
    folder = built.python.parent.parent
    (folder / "ready").unlink()
    (folder / "half").touch()
    assert found(root, ["acme"]) is None

    ended = start(builder("cut", ["acme"]))

    assert ended.status == 0
    assert found(root, ["acme"]) == built
    assert not (folder / "half").exists()


def test_changed_package_is_refused_by_its_hash(tmp_path, builder, index):
    start(builder("first", ["acme"]))
    lock = found(tmp_path / "first", ["acme"]).lock
    archive = wheel(index, "acme", "1.0", needs="acme_core>1")

    ended = start(builder("second", ["acme"], lock))

    assert ended.status == 1
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in ended.log
    assert sha256(archive) in ended.log
    assert found(tmp_path / "second", ["acme"], lock) is None


def test_requirement_that_nobody_has_fails_with_pips_reason(tmp_path, builder):
    ended = start(builder("none", ["acme", "nobody-has-this"]))

    assert (ended.status, ended.log.splitlines()[-1]) == (
        1,
        "ERROR: No matching distribution found for nobody-has-this",
    )
    assert found(tmp_path / "none", ["acme", "nobody-has-this"]) is None


def test_builder_gets_pips_settings_and_no_secrets(builder):
    env = builder("x", ["acme"]).env

    assert env["PIP_NO_INDEX"] == "1"
    assert "DATABASE_URL" not in env


def test_order_of_requirements_does_not_matter_and_the_python_does():
    mine = check_interpreter(default_interpreter())

    assert request_digest(mine, ["b", "a "]) == request_digest(mine, ["a", "b"])
    assert request_digest(mine, ["a"]) != request_digest(mine, ["a", "b"])
    assert mine.tag.startswith(f"cpython-3.{sys.version_info[1]}-")


def test_builder_runs_on_old_pythons():
    ast.parse(BUILDER.read_text(), feature_version=(3, 9))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda path: "bin/python", "the interpreter bin/python is not absolute; give "
                     "a path", id="a relative path"),
        pytest.param(lambda path: path, "the interpreter {0} is not on this worker (No such file "
                     "or directory); install it, or change the job's Python", id="a missing one"),
        pytest.param(lambda path: path.parent, "{0} cannot be run (Permission denied); change the "
                     "job's Python", id="a folder"),
        pytest.param(lambda path: "/bin/true", "/bin/true is no Python; change the job's Python",
                     id="another program"),
        pytest.param(lambda path: sys.executable, "{0} is Runyard's own environment, which an "
                     "upgrade changes; leave the interpreter empty, or name another",
                     id="the product's own"),
    ],
)  # fmt: skip
def test_interpreter_that_is_not_fit_is_refused_with_the_reason(tmp_path, make, reason):
    path = make(tmp_path / "python")

    with pytest.raises(CannotStart) as refused:
        check_interpreter(Path(path))

    assert str(refused.value) == reason.format(path)


def test_default_interpreter_is_the_machines_not_the_products():
    path = default_interpreter()

    assert check_interpreter(path).path == path
    assert Path(sys.prefix) not in path.parents


HASH = "--hash=sha256:" + "0a" * 32
MORE = (
    "the lock of its Python environment holds more than lines name==version "
    "--hash=sha256:…, and is not used; change its requirements"
)


@pytest.mark.parametrize(
    "lock",
    [
        pytest.param(f"acme==1.0 {HASH}\n--index-url https://evil.example/\n", id="an option"),
        pytest.param(f"acme==1.0 {HASH} --config-settings=a=b\n", id="an option on a line"),
        pytest.param("acme==1.0\n", id="no hash"),
        pytest.param(f"acme==1.0 {HASH}\\\n", id="a line that goes on"),
        pytest.param(f"acme>=1.0 {HASH}\n", id="no exact version"),
        pytest.param(f"acme==1.0 {HASH}\r-e .\n", id="another line end"),
        pytest.param(f"acme @ file:///etc {HASH}\n", id="a file"),
        pytest.param(f"acme @ https://evil.example/a.whl {HASH}\n", id="an archive unasked"),
        pytest.param("\n", id="an empty line"),
    ],
)
def test_lock_that_says_more_than_versions_and_hashes_is_refused(tmp_path, builder, lock):
    with pytest.raises(CannotStart) as used:
        found(tmp_path, ["acme"], lock)
    with pytest.raises(CannotStart) as built:
        builder("root", ["acme"], lock)
    _lock_file(tmp_path).write_text(lock, newline="")
    with pytest.raises(CannotStart) as read:
        found(tmp_path, ["acme"])

    assert [str(each.value) for each in (used, built, read)] == [MORE] * 3


def test_lock_may_hold_the_archive_that_was_asked_for(tmp_path):
    archive = "https://example.org/a.whl"

    lock = f"acme @ {archive} {HASH}\n"

    assert found(tmp_path, [f"acme @ {archive}"], lock) is None


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(os.mkfifo, "is no plain file", id="a pipe"),
        pytest.param(os.mkdir, "is no plain file", id="a folder"),
        pytest.param(
            lambda path: os.symlink("/dev/zero", path),
            "cannot be read (Too many levels of symbolic links)",
            id="a link",
        ),
        pytest.param(
            lambda path: (path.touch(), os.truncate(path, 1 << 40)),
            "is larger than 1 MiB",
            id="a terabyte",
        ),
    ],
)
def test_what_a_job_puts_in_a_locks_place_is_refused_at_once(tmp_path, make, reason):
    file = _lock_file(tmp_path)
    make(file)

    with pytest.raises(CannotStart) as refused:
        found(tmp_path, ["acme"])

    assert str(refused.value) == f"the lock {file} {reason}; remove it"


def _lock_file(root: Path) -> Path:
    digest = request_digest(check_interpreter(default_interpreter()), ["acme"])
    (root / "locks").mkdir()
    return root / "locks" / f"{digest}.txt"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param("exec cat /dev/zero", "{0} is no Python: it says too much or nothing for "
                     "10 s; change the job's Python", id="without end"),
        pytest.param("sleep 1000 & exec sleep 1000", "{0} is no Python: it says too much or "
                     "nothing for 1 s; change the job's Python", id="silent"),
        pytest.param("exec >&-; exec sleep 1000", "{0} is no Python; change the job's Python",
                     id="silent with its output closed"),
        pytest.param("echo /; echo 3 x; echo y", "{0} is no Python; change the job's Python",
                     id="no version"),
    ],
)  # fmt: skip
def test_interpreter_that_does_not_answer_is_refused_and_ended(
    tmp_path, monkeypatch, script, reason
):
    if "sleep" in script:
        monkeypatch.setattr("apps.nodes.python_environments._ANSWER_SECONDS", 1.0)
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    began = time.monotonic()

    with pytest.raises(CannotStart) as refused:
        check_interpreter(path)

    assert str(refused.value) == reason.format(path)
    assert time.monotonic() - began < 8
