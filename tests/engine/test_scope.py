"""What of a run may start, and what a run needs next."""

from __future__ import annotations

import pytest

from apps.engine.graph import Graph
from apps.engine.scope import Scope, Step, next_step
from apps.engine.states import NodeState, RunState

#   extract ─→ clean ─┐
#           └→ stats ─┴→ report
DIAMOND = Graph.build(
    ["extract", "clean", "stats", "report"],
    [("extract", "clean"), ("extract", "stats"), ("clean", "report"), ("stats", "report")],
)


def standing(states: str) -> dict[str, NodeState]:
    return dict(zip(DIAMOND.keys, map(NodeState, states.split()), strict=True))


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
    assert next_step(Scope.whole(DIAMOND), standing(states)) == Step(frozenset(start), ends_as)


@pytest.mark.parametrize(
    ("states", "chosen", "over", "keys", "edges"),
    [
        pytest.param(
            "succeeded failed succeeded pending",
            {"report"},
            True,
            {"report"},
            set(),
            id="one node alone waits for nothing, whatever became of its upstreams",
        ),
        pytest.param(
            "failed pending pending pending",
            {"stats", "report"},
            True,
            {"stats", "report"},
            {("stats", "report")},
            id="edges inside count",
        ),
        pytest.param(
            "succeeded failed running pending",
            {"clean", "report"},
            False,
            {"clean", "stats", "report"},
            {("clean", "report"), ("stats", "report")},
            id="what is under way is waited for as well",
        ),
        pytest.param(
            "succeeded failed running pending",
            {"extract"},
            False,
            {"extract", "stats"},
            set(),
            id="what runs is not held back, and what was held back by a failure is left out",
        ),
        pytest.param(
            "succeeded succeeded running pending",
            {"clean"},
            False,
            {"clean", "stats", "report"},
            {("clean", "report"), ("stats", "report")},
            id="what has yet to start waits for its upstream again",
        ),
    ],
)
def test_scope_of_a_rerun(states, chosen, over, keys, edges):
    whole = Scope.whole(DIAMOND)

    after = whole.rerun(DIAMOND, standing(states), chosen, over=over)

    assert after == Scope(frozenset(keys), frozenset(edges))


def test_second_rerun_waits_for_what_the_first_has_under_way():
    first = Scope.whole(DIAMOND).rerun(
        DIAMOND, standing("succeeded failed failed pending"), {"clean", "report"}, over=True
    )

    second = first.rerun(
        DIAMOND, standing("succeeded running failed pending"), {"stats"}, over=False
    )

    assert second == Scope(
        frozenset({"clean", "stats", "report"}),
        frozenset({("clean", "report"), ("stats", "report")}),
    )


def test_what_waits_for_a_node_set_to_success_comes_back_with_all_its_edges():
    alone = Scope(frozenset({"clean"}), frozenset())

    after = alone.done(DIAMOND, standing("succeeded failed failed pending"), "clean")

    assert after.keys == {"clean", "report"}
    assert after.edges == {("clean", "report"), ("stats", "report")}
    done = standing("succeeded succeeded failed pending")
    assert next_step(after, done) == Step(frozenset(), RunState.FAILED)


def test_node_set_to_success_brings_back_nothing_that_does_not_hang_on_it():
    alone = Scope(frozenset({"clean"}), frozenset())

    assert alone.done(DIAMOND, standing("succeeded failed failed succeeded"), "clean") == alone
