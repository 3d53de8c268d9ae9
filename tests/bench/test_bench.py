"""`./runyard bench` as a person meets it, with very little of the smallest workloads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import report
from tests.bench.goals import GOALS, TITLES
from tests.bench.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parent.parent.parent


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.bench", *arguments],
        cwd=ROOT,
        env={name: text for name, text in os.environ.items() if not name.startswith("DJANGO_")},
        capture_output=True,
        text=True,
        timeout=110,
    )


def processes_below(folder: Path) -> list[bytes]:
    """Command lines of processes that name the folder, or have it in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            told = command + (entry / "environ").read_bytes()
        except OSError:  # it has ended
            continue
        if os.fsencode(f"{folder}/runyard-bench-") in told:
            found.append(command)
    return found


@pytest.mark.timeout(120)
def test_bench_measures_a_chain_beside_bare_and_celery_and_leaves_nothing(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Performance\n\n{report.BEGIN}\nold\n{report.END}\n\nMore.\n")
    figures = tmp_path / "figures.json"
    folder = tmp_path / "disk"
    folder.mkdir()

    done = bench(
        *("--only", "W1", "--small", "--folder", str(folder)),
        *("--json", str(figures), "--markdown", str(page)),
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert list(found) == ["machine", "size", "workloads"]
    assert list(found["workloads"]) == ["W1"]
    one = found["workloads"]["W1"]
    assert {name: list(figures) for name, figures in one.items() if name != "title"} == {
        "ours": ["p50_ms", "p95_ms"],
        "bare": ["p50_ms", "p95_ms"],
        "celery": ["p50_ms", "p95_ms"],
        "ratios": ["p50_ratio", "p95_ratio"],
        "goals": one["goals"],
    }
    assert [list(goal) for goal in one["goals"]] == [
        ["figure", "what", "value", "goal", "reached"]
    ] * 2
    # Two processes cannot start, and end, within a tenth of a millisecond.
    assert all(figure > 0.1 for who in ("ours", "bare", "celery") for figure in one[who].values())
    for goal in one["goals"]:
        limit = float(goal["goal"].removeprefix("≤ "))
        assert goal["value"] == one["ratios"][goal["figure"]]
        assert goal["reached"] == (goal["value"] <= limit)

    table = report.as_markdown(found)
    assert done.stdout == table
    assert page.read_text() == (f"# Performance\n\n{report.BEGIN}\n{table}{report.END}\n\nMore.\n")
    assert list(folder.iterdir()) == []
    assert processes_below(folder) == []


def test_bench_refuses_a_workload_that_there_is_not():
    refused = bench("--only", "W1,W77")

    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.endswith("error: argument --only: no such workload: W77\n")


def test_every_workload_has_a_title_and_goals_with_one_limit_each():
    assert list(WORKLOADS) == list(TITLES)
    assert {goal.workload for goal in GOALS} == set(TITLES)
    assert [goal for goal in GOALS if (goal.most is None) == (goal.least is None)] == []


@pytest.mark.parametrize(
    ("values", "part", "expected"),
    [([5.0, 1.0, 3.0], 0.5, 3.0), ([1.0], 0.95, 1.0), ([float(n) for n in range(100)], 0.95, 95.0)],
)
def test_percentile(values, part, expected):
    from tests.bench.children import percentile

    assert percentile(values, part) == expected
