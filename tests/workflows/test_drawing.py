"""Where a graph's boxes stand: left to right, none on another, lines from box to box."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.workflows.drawing import CARD, COLUMN, COMPACT, draw

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
