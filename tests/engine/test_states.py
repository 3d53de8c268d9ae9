"""The table of moves."""

from __future__ import annotations

import pytest

from apps.engine.states import ARROWS, ENDED, By, IllegalMove, NodeState, check_move


def test_only_a_worker_makes_a_queued_node_run_and_nothing_else_does():
    into_running = {
        (old, who) for (old, new), by in ARROWS.items() for who in by if new == "running"
    }

    assert into_running == {(NodeState.QUEUED, By.WORKER)}


def test_only_a_person_moves_what_has_ended():
    out_of_ended = {who for (old, _), by in ARROWS.items() if old in ENDED for who in by}

    assert out_of_ended == {By.PERSON}


def test_unknown_arrow_and_wrong_hand_are_told_apart():
    with pytest.raises(IllegalMove, match="no arrow from succeeded to running"):
        check_move(NodeState.SUCCEEDED, NodeState.RUNNING, by=By.WORKER)
    with pytest.raises(IllegalMove, match="from queued to running is not for person"):
        check_move(NodeState.QUEUED, NodeState.RUNNING, by=By.PERSON)
