"""`./runyard`, the shell script: what it says where it cannot go on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.core.conftest import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The launcher in a folder of its own, without an environment."""
    folder = tmp_path / "a chéckout"
    (folder / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "runyard", folder)
    shutil.copy(ROOT / "requirements" / "install.py", folder / "requirements")
    (folder / "requirements" / "base.lock").write_text("")
    (folder / "manage.py").write_text("import sys; print(sys.prefix, *sys.argv[1:], sep='|')\n")
    return folder


def run(folder: Path, *arguments: str, path: str | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        ["/bin/sh", str(folder / "runyard"), *arguments],
        env={**os.environ, "PATH": path or os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=50,
    )
    return done.returncode, done.stdout, done.stderr


def test_unknown_command_prints_the_usage(checkout):
    status, out, said = run(checkout, "upp")

    assert (status, out) == (2, "")
    assert said.startswith("runyard: unknown command: upp\n\nusage: ./runyard COMMAND")


def test_first_call_makes_the_environment_and_the_next_is_quiet(checkout):
    first = run(checkout, "doctor", "--port", "1 2")
    second = run(checkout, "doctor")

    venv = checkout / ".venv"
    assert first == (
        0,
        f"{venv}|doctor|--port|1 2\n",
        f"runyard: making {venv}\nrunyard: installing requirements/base.lock\n",
    )
    assert second == (0, f"{venv}|doctor\n", "")

    # Another lock is installed anew.
    (checkout / "requirements" / "base.lock").write_text("# changed\n")
    assert run(checkout, "doctor")[2] == "runyard: installing requirements/base.lock\n"


def test_lock_that_cannot_be_installed_is_named_and_tried_again(checkout):
    (checkout / "requirements" / "base.lock").write_text("./nowhere\n")

    for _ in range(2):
        status, out, said = run(checkout, "doctor")

        assert (status, out) == (1, "")
        assert said.splitlines()[-1] == (
            "runyard: requirements/base.lock could not be installed; pip's words stand above. "
            "This step needs the network (or a package index that pip is configured for) and "
            "room on the disk; it can be repeated"
        )


def test_missing_python_is_said(checkout, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("cat", "cmp", "dirname", "readlink"):
        (programs / name).symlink_to(shutil.which(name))

    assert run(checkout, "doctor", path=str(programs)) == (
        1,
        "",
        "runyard: no Python 3.11 to 3.14 was found. Install one, or say where it is by "
        "RUNYARD_PYTHON.\n",
    )


def test_colon_in_the_checkouts_path_is_refused(checkout):
    moved = checkout.rename(checkout.with_name("a:b"))

    status, out, said = run(moved, "doctor")

    assert (status, out) == (1, "")
    assert said.startswith(f"runyard: this folder's path has a ':' in it: {moved}\n")
