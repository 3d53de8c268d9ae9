"""`./runyard chaos` itself: it turns red where the product is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(250)]


def chaos(folder: Path, *arguments: str) -> tuple[int, set[str]]:
    """Exit status of a run that ends with what it finds, and what that was found against."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.run", "--minutes", "2", "--lease", "4",
         "--json", folder / "report.json", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )  # fmt: skip
    print(done.stdout[-5000:], done.stderr[-5000:])  # shown with a failed test
    report = json.loads((folder / "report.json").read_text())
    return done.returncode, {violation["invariant"] for violation in report["violations"]}


def test_finish_without_a_fence_is_found(tmp_path):
    status, against = chaos(tmp_path, "--broken", "fence", "--only", "frozen between a child's end")

    # Whichever it shows in first: attempts over each other, counters, or history.
    assert (status, len(against & {"I2", "I4", "I7"}) > 0) == (1, True)


def test_claim_without_the_databases_say_is_found(tmp_path):
    status, against = chaos(tmp_path, "--broken", "claim", "--only", "bells doubled")

    assert (status, "I2" in against) == (1, True)
