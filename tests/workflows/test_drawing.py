"""Where a graph's boxes stand: left to right, none on another, lines from box to box."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.workflows.drawing import CARD, COLUMN, COMPACT, MAX_LANES, MAX_NODES, draw

#   extract ─→ clean ─┐
#           └→ stats ─┴→ report
DIAMOND = (
    ["extract", "clean", "stats", "report"],
    [("extract", "clean"), ("extract", "stats"), ("clean", "report"), ("stats", "report")],
)


def columns(drawing) -> dict[str, int]:
    pitch = drawing.size.width + drawing.size.across
    return {box.key: round((box.x - 8) / pitch) for box in drawing.boxes}


def ends(path: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", path)]
    return (numbers[0], numbers[1]), (numbers[-2], numbers[-1])


def test_each_node_stands_right_of_what_it_waits_for():
    drawing = draw(*DIAMOND)

    assert columns(drawing) == {"extract": 0, "clean": 1, "stats": 1, "report": 2}


def test_what_two_branches_meet_in_stands_between_them():
    y = {box.key: box.y for box in draw(*DIAMOND).boxes}

    assert y["extract"] == y["report"] == (y["clean"] + y["stats"]) / 2


@pytest.mark.parametrize("size", [COMPACT, CARD])
def test_lines_go_from_the_right_side_to_the_left_side(size):
    drawing = draw(*DIAMOND, size)
    at = {box.key: box for box in drawing.boxes}

    for line in drawing.lines:
        up, down = at[line.upstream], at[line.downstream]
        assert ends(line.path) == (
            (up.x + size.width, up.y + size.height / 2),
            (down.x, down.y + size.height / 2),
        )


def test_boxes_without_edges_fill_columns_instead_of_one_tower():
    drawing = draw([f"n{n}" for n in range(3 * COLUMN)], [])

    assert max(columns(drawing).values()) == 2
    assert drawing.height < COLUMN * 2 * (COMPACT.height + COMPACT.between)


def test_a_draft_with_a_circle_and_an_edge_to_nowhere_is_drawn_all_the_same():
    drawing = draw(["a", "b", "c"], [("a", "b"), ("b", "c"), ("c", "a"), ("c", "gone")])

    assert columns(drawing) == {"a": 0, "b": 1, "c": 2}
    assert {(line.upstream, line.downstream) for line in drawing.lines} == {
        ("a", "b"),
        ("b", "c"),
        ("c", "a"),
    }


def test_nothing_is_drawn_for_nothing():
    assert draw([], []).boxes == ()


graphs = st.integers(1, 25).flatmap(
    lambda n: st.tuples(
        st.just([f"n{i}" for i in range(n)]),
        st.lists(
            st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).map(
                lambda pair: (f"n{min(pair)}", f"n{max(pair)}")
            ),
            max_size=50,
        ),
    )
)


@settings(max_examples=100, deadline=None)
@given(graphs)
def test_no_box_lies_on_another_and_none_outside(graph):
    drawing = draw(*graph)
    rows: dict[float, list[float]] = {}
    for box in drawing.boxes:
        rows.setdefault(box.x, []).append(box.y)
        assert 0 <= box.y <= drawing.height - COMPACT.height
        assert 0 <= box.x <= drawing.width - COMPACT.width
    for column in rows.values():
        for above, below in pairwise(sorted(column)):
            assert below - above >= COMPACT.height
    at = columns(drawing)
    assert all(at[line.upstream] < at[line.downstream] for line in drawing.lines)


def chain(n: int) -> tuple[list[str], list[tuple[str, str]]]:
    names = [f"n{number:04}" for number in range(n)]
    return names, list(pairwise(names))


def every_pair(names: list[str]) -> list[tuple[str, str]]:
    return [(a, b) for n, a in enumerate(names) for b in names[n + 1 :]]


NAMES, CHAIN = chain(MAX_NODES)


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(chain(5000), id="a chain too long"),
        pytest.param((NAMES[:300], every_pair(NAMES[:104])), id="too many edges"),
        pytest.param((NAMES, CHAIN + [(NAMES[0], b) for b in NAMES[2:]]), id="too many lanes"),
    ],
)
def test_what_is_too_large_is_not_drawn_and_costs_nothing(graph):
    began = time.process_time()

    assert draw(*graph) is None

    assert time.process_time() - began < 1


def shuttle() -> tuple[list[str], list[tuple[str, str]]]:
    """As many layers, edges and lanes as are drawn."""
    over, edges = MAX_LANES, list(CHAIN)
    for a in range(MAX_NODES - 12):
        for far in (9, 10):
            if over >= far:
                over -= far
                edges.append((NAMES[a], NAMES[a + far]))
    return NAMES, edges


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param((NAMES, CHAIN), id="a chain"),
        pytest.param(shuttle(), id="lanes"),
        pytest.param((NAMES[:80], [(a, b) for a in NAMES[:40] for b in NAMES[40:80]]), id="dense"),
    ],
)
def test_the_largest_that_is_drawn_is_drawn_at_once_and_then_from_memory(graph):
    began = time.process_time()

    drawing = draw(*graph)

    assert drawing is not None
    assert len(drawing.boxes) == len(graph[0])
    assert time.process_time() - began < 3
    assert draw(*graph) is drawing
