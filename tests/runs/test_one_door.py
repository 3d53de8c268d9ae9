"""A state is written by the module of `move`, by the hot path's SQL, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: What writes columns by their keywords, and the rows that have a state.
WRITES = {"update", "create", "get_or_create", "update_or_create", "Run", "NodeRun", "Attempt"}
#: A row's first state is no change of one: here of a node that is kept from an earlier run.
BIRTHS = [("apps/runs/services/launch.py", "NodeRun(state=)")]


def writes(source: str) -> Iterator[str]:
    """Where a program writes a column `state`: through the ORM, by saving a row, or by SQL."""
    tree = list(ast.walk(ast.parse(source)))
    # In memory alone a state may follow its row, as long as nobody saves it.
    follows = any(
        isinstance(node, ast.Attribute) and node.attr == "state" and isinstance(node.ctx, ast.Store)
        for node in tree
    )
    for node in tree:
        match node:
            case ast.Call(func=ast.Attribute(attr=name)) | ast.Call(func=ast.Name(id=name)):
                if name in WRITES and any(each.arg == "state" for each in node.keywords):
                    yield f"{name}(state=)"
                elif name == "bulk_update" and "'state'" in ast.unparse(node):
                    yield "bulk_update(state)"
                elif name == "save" and follows:
                    yield "save()"
            case ast.Constant(value=str(text)) if "set state" in " ".join(text.lower().split()):
                yield "SET state"


def test_states_are_written_by_one_module():
    found = [
        (str(path.relative_to(ROOT)), what)
        for path in sorted((ROOT / "apps").rglob("*.py"))
        if "migrations" not in path.parts
        for what in writes(path.read_text())
    ]
    door = "apps/runs/services/moves.py"
    assert [each for each in found if each[0] != door] == BIRTHS
    assert {what for path, what in found if path == door} == {"update(state=)"}


def test_the_search_finds_every_way_to_write_a_state():
    ways = """
NodeRun.objects.filter(pk=1).update(state=NodeState.QUEUED)
Attempt.objects.create(state="running")
NodeRun.objects.bulk_update(rows, ["need", "state"])
node.state = NodeState.QUEUED
node.save()
cursor.execute("UPDATE runs_run   SET state = 'failed'")
NodeRun.objects.filter(state="queued").update(need=0)
"""
    assert sorted(writes(ways)) == [
        "SET state",
        "bulk_update(state)",
        "create(state=)",
        "save()",
        "update(state=)",
    ]
