"""What the bench found, as JSON and as a table."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.goals import GOALS, TITLES
from tests.bench.workloads import Figures, Size

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def machine(folder: Path) -> dict[str, Any]:
    """What the figures were taken on."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "fsync_ms": round(_fsync_ms(folder), 2),
    }


def _fsync_ms(folder: Path) -> float:
    """The median of what a commit must wait for: 8 KiB written and on the disk."""
    file = os.open(folder / "fsync", os.O_WRONLY | os.O_CREAT, 0o600)
    took = []
    try:
        for _ in range(50):
            began = time.perf_counter()
            os.pwrite(file, bytes(8192), 0)
            os.fdatasync(file)
            took.append((time.perf_counter() - began) * 1e3)
    finally:
        os.close(file)
    return statistics.median(took)


def as_json(found: Mapping[str, Figures], size: Size, where: Mapping[str, Any]) -> dict[str, Any]:
    workloads = {}
    for name, figures in found.items():
        goals = [
            {
                "figure": goal.figure,
                "what": goal.what,
                "value": round(figures.all[goal.figure], 4),
                "goal": goal.text,
                "reached": goal.is_reached_by(figures.all[goal.figure]),
            }
            for goal in GOALS
            if goal.workload == name
        ]
        workloads[name] = {
            "title": TITLES[name],
            "ours": _rounded(figures.ours),
            "bare": _rounded(figures.bare),
            "celery": _rounded(figures.celery),
            "ratios": _rounded(figures.ratios),
            "goals": goals,
        }
    return {"machine": dict(where), "size": dict(vars(size)), "workloads": workloads}


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}


def as_markdown(report: Mapping[str, Any]) -> str:
    where = report["machine"]
    lines = [
        f"{where['cores']} cores, {where['memory_gib']:g} GiB, {where['system']}, "
        f"Python {where['python']}; 8 KiB are on the disk after {where['fsync_ms']:g} ms; "
        f"load {where['load']:g} at the start.",
        "",
        "| | Runyard | bare | Celery | | figure | goal | reached |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(report["workloads"]):
        one = report["workloads"][name]
        for number, goal in enumerate(one["goals"]):
            first = number == 0
            cells = [
                f"**{name}** {one['title']}" if first else "",
                *(_told(one[who]) if first else "" for who in ("ours", "bare", "celery")),
                goal["what"],
                _number(goal["value"]),
                goal["goal"],
                "yes" if goal["reached"] else "no",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


_UNITS = {
    "p50_ms": "p50 {} ms",
    "p95_ms": "p95 {} ms",
    "p50_alone_ms": "alone {} ms",
    "nodes_per_s": "{} nodes/s",
    "requests_per_s": "{} requests/s",
    "p50_s": "p50 {} s",
    "p95_s": "p95 {} s",
    "most_s": "at most {} s",
    "started_p95_s": "p95 of the start {} s",
    "launch_s": "created in {} s",
    "pss_mb": "{} MB",
    "cpu_percent": "{} %",
    "first_page_s": "first start {} s",
    "next_page_s": "later start {} s",
}


def _told(figures: Mapping[str, float]) -> str:
    return ", ".join(_UNITS[name].format(_number(value)) for name, value in figures.items())


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}".rstrip("0").rstrip(".")


def put_into(page: Path, table: str) -> None:
    """Replace what stands between the page's two marks. Raises ValueError if it lacks them."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no lines {BEGIN} and {END}; write them where the table goes")
    page.write_text(f"{before}{BEGIN}\n{table}{END}{after}")
