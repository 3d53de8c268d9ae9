"""The picture of the states in docs/engine.md is the table in engine/states.py."""

from __future__ import annotations

from pathlib import Path

from apps.engine.states import ARROWS, ENDED, NodeState

PAGE = Path(__file__).parents[2] / "docs" / "engine.md"


def picture() -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {NodeState.PENDING}"]
    lines += [f"    {old} --> {new}: {', '.join(sorted(by))}" for (old, new), by in ARROWS.items()]
    lines += [f"    {state} --> [*]" for state in NodeState if state in ENDED]
    return "\n".join([*lines, "```"])


def test_picture_equals_the_table():
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition("<!-- states: begin -->\n")[2].partition("\n<!-- states: end -->")[0]

    assert shown == picture()
