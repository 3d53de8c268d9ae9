"""What a run needs next, and what is wrong with a graph."""

from __future__ import annotations

import itertools

import pytest

from apps.engine.graph import Graph, InvalidGraph, Step, graph_faults, next_step
from apps.engine.states import NodeState, RunState

#   extract ─→ clean ─┐
#           └→ stats ─┴→ report
DIAMOND = Graph.build(
    ["extract", "clean", "stats", "report"],
    [("extract", "clean"), ("extract", "stats"), ("clean", "report"), ("stats", "report")],
)


@pytest.mark.parametrize(
    ("states", "start", "ends_as"),
    [
        pytest.param("pending pending pending pending", {"extract"}, None, id="first node starts"),
        pytest.param(
            "succeeded pending pending pending", {"clean", "stats"}, None, id="both sides start"
        ),
        pytest.param(
            "succeeded succeeded running pending", set(), None, id="join waits for the slower side"
        ),
        pytest.param(
            "succeeded failed running pending", set(), None, id="other side runs on after a failure"
        ),
        pytest.param(
            "succeeded failed retrying pending", set(), None, id="a retry keeps the run open"
        ),
        pytest.param(
            "succeeded failed succeeded pending",
            set(),
            RunState.FAILED,
            id="nothing can start any more",
        ),
        pytest.param(
            "succeeded stopped failed pending",
            set(),
            RunState.STOPPED,
            id="a person's stop outranks a failure",
        ),
        pytest.param(
            "succeeded cancelled cancelled pending",
            set(),
            RunState.FAILED,
            id="a run that was cut off has failed",
        ),
        pytest.param(
            "succeeded succeeded succeeded succeeded", set(), RunState.SUCCEEDED, id="all done"
        ),
    ],
)
def test_next_step(states, start, ends_as):
    where = dict(zip(DIAMOND.keys, map(NodeState, states.split()), strict=True))

    assert next_step(DIAMOND, where) == Step(frozenset(start), ends_as)


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
