"""The shape of a workflow, and what is wrong with one."""

from __future__ import annotations

import itertools

import pytest

from apps.engine.graph import Graph, InvalidGraph, graph_faults

#   extract ─→ clean ─┐
#           └→ stats ─┴→ report
DIAMOND = Graph.build(
    ["extract", "clean", "stats", "report"],
    [("extract", "clean"), ("extract", "stats"), ("clean", "report"), ("stats", "report")],
)


def test_order_puts_each_node_behind_its_upstreams_and_else_keeps_the_given_one():
    graph = Graph.build(["d", "c", "b", "a"], [("a", "c"), ("b", "c"), ("c", "d")])

    assert graph.in_order == ("b", "a", "c", "d")


def test_below_is_everything_that_waits_however_far_down():
    assert DIAMOND.below("extract") == {"clean", "stats", "report"}
    assert DIAMOND.below("report") == frozenset()


@pytest.mark.parametrize(
    ("keys", "edges", "faults"),
    [
        pytest.param([], [], [("", "the workflow has no node; add one")], id="empty"),
        pytest.param(
            ["a", "a"], [], [("a", "two nodes are named 'a'; names are unique")], id="double"
        ),
        pytest.param([" "], [], [(" ", "a node has no name; name it")], id="no name"),
        pytest.param(
            ["a"],
            [("a", "b")],
            [("a", "node 'a' is connected to 'b', which is not there")],
            id="edge to nowhere",
        ),
        pytest.param(
            ["a"],
            [("a", "a")],
            [("a", "node 'a' waits for itself; remove that upstream")],
            id="loop",
        ),
        pytest.param(
            ["a", "b", "c"],
            [("a", "b"), ("b", "c"), ("c", "a")],
            [("a", "nodes wait for each other in a circle: a → b → c → a")],
            id="circle",
        ),
    ],
)
def test_faults_name_their_node(keys, edges, faults):
    found = [(fault.node, fault.message) for fault in graph_faults(keys, edges)]

    if faults and "circle" in faults[0][1]:  # where a circle begins is anybody's choice
        [(node, message)] = found
        ring = message.rpartition(": ")[2].split(" → ")
        assert (ring[0], ring[-1], len(ring)) == (node, node, 4)
        assert all((a, b) in edges for a, b in itertools.pairwise(ring))
    else:
        assert found == faults


def test_all_faults_come_at_once():
    with pytest.raises(InvalidGraph) as caught:
        Graph.build(["a", "a", "", "b"], [("a", "x"), ("b", "b")])

    assert [fault.node for fault in caught.value.faults] == ["a", "", "a", "b"]


@pytest.mark.parametrize("name", ["a/b", "a b", "-a", "a" * 65, "a\0", "../x", "a\n"])
def test_odd_names_are_refused(name):
    [fault] = graph_faults([name], [])

    assert "is not allowed" in fault.message


@pytest.mark.parametrize("name", ["a", "load_2", "清洗", "größe", "a.b-c", "a" * 64])
def test_names_in_any_script_are_allowed(name):
    assert graph_faults([name], []) == []
