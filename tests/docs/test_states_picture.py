"""The pictures and tables of the states in docs/engine.md are those of engine/states.py."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path

import pytest

from apps.engine.states import (
    ARROWS,
    ENDED,
    NODE_ACTS,
    NODE_ACTS_IN,
    RUN_ACTS,
    RUN_ARROWS,
    RUN_ENDED,
    NodeState,
    RunState,
    Standing,
)

PAGE = Path(__file__).parents[2] / "docs" / "engine.md"


def picture(arrows: Mapping[tuple[str, str], Set[str]], ended: list[str]) -> str:
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> pending"]
    lines += [f"    {old} --> {new}: {', '.join(sorted(by))}" for (old, new), by in arrows.items()]
    lines += [f"    {state} --> [*]" for state in ended]
    return "\n".join([*lines, "```"])


def table(acts: Mapping[str, Mapping[str, Set[str]]], columns: list[str]) -> str:
    """Acts downwards, where one may stand across; in each cell where the act leads."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for act, leads in acts.items():
        cells = [", ".join(sorted(leads.get(where, ()))) or "–" for where in columns]
        lines.append(f"| **{act.replace('_', ' ')}** | {' | '.join(cells)} |")
    return "\n".join(lines)


def where() -> str:
    lines = ["| | in runs that are |", "|---|---|"]
    for act, standings in NODE_ACTS_IN.items():
        named = ", ".join(each for each in Standing if each in standings)
        lines.append(f"| **{act}** | {named} |")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("states", picture(ARROWS, [each for each in NodeState if each in ENDED])),
        ("run states", picture(RUN_ARROWS, [each for each in RunState if each in RUN_ENDED])),
        ("acts on runs", table(RUN_ACTS, list(Standing))),
        ("acts on nodes", table(NODE_ACTS, list(NodeState))),
        ("where acts on nodes are", where()),
    ],
)
def test_picture_equals_the_table(name, expected):
    text = PAGE.read_text(encoding="utf-8")
    after = text.partition(f"<!-- {name}: begin -->\n")[2]

    assert after.partition(f"\n<!-- {name}: end -->")[0] == expected
