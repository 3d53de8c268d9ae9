"""./runyard test: everything that a change must pass, and what of it was left out.

Takes --browser, --long, and arguments for pytest. Every step runs, so that all faults are seen
at once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
DJADE = str(Path(PYTHON).with_name("djade"))
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def main(arguments: list[str]) -> int:
    browser = "--browser" in arguments
    long = "--long" in arguments
    arguments = [each for each in arguments if each not in ("--browser", "--long")]
    if browser and not any(map(shutil.which, CHROMIUM)):
        print(f"--browser needs one of {', '.join(CHROMIUM)} on the PATH", file=sys.stderr)
        return 1

    left_out = {} if browser else {"browser": "not asked for by --browser"}
    if not long:
        left_out["long"] = "not asked for by --long"
    if find_spec("pyspark") is None:
        left_out["spark"] = "pyspark is not installed; ./runyard demo and up --spark install it"
    choice = ["-m", " and ".join(f"not {mark}" for mark in left_out)] if left_out else []

    templates = [str(path) for path in (ROOT / "templates").rglob("*.html")]
    steps = {
        "lint": [PYTHON, "-m", "ruff", "check"],
        "format": [PYTHON, "-m", "ruff", "format", "--check"],
        "templates": [DJADE, "--check", *templates],
        "types": [PYTHON, "-m", "mypy"],
        "import contracts": [
            PYTHON,
            "-c",
            "import importlinter.cli as c; c.lint_imports_command()",
        ],
        "tests": [PYTHON, "-m", "pytest", *choice, *arguments],
    }
    failed = [name for name, step in steps.items() if not passes(name, step)]

    for mark, why in left_out.items():
        print(f"left out: the {mark} tests: {why}")
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


def passes(name: str, step: list[str]) -> bool:
    print(f"--- {name}", flush=True)
    # Types are checked with the settings read, and these write a key.
    with tempfile.TemporaryDirectory(prefix="runyard-check-") as home:
        env = {**os.environ, "RUNYARD_HOME": home}
        return subprocess.run(step, cwd=ROOT, env=env).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
