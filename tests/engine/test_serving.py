from __future__ import annotations

import pytest

from apps.engine.serving import EVERY_BELL, bell_of, bells_for, concerns, read_names, serves

SPARK = ("default/spark",)
ANY = ("default/*",)


@pytest.mark.parametrize(
    ("names", "queue", "expected"),
    [
        pytest.param("", "default/spark", True, id="none names every one"),
        pytest.param(" , ", "default/spark", True, id="nothing between commas"),
        pytest.param("default/spark", "default/spark", True, id="by name"),
        pytest.param("default/spark", "default/Spark", False, id="letters count"),
        pytest.param("a/b, default/sp*", "default/spark", True, id="by part of a name"),
        pytest.param("default/*", "other/spark", False, id="another workspace"),
        pytest.param("*/spark", "other/spark", True, id="of every workspace"),
        pytest.param("spark", "default/spark", False, id="without a workspace"),
    ],
)
def test_which_queues_a_worker_serves(names, queue, expected):
    assert serves(read_names(names), queue) is expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param("", True, id="it serves every one"),
        pytest.param("other/spark, default/gone", True, id="it names a queue there"),
        pytest.param("def*/spark", True, id="by part of a name"),
        pytest.param("other/*, default2/spark", False, id="other workspaces"),
        pytest.param("*spark", True, id="of every workspace"),
        pytest.param("other*", False, id="others by part of a name"),
    ],
)
def test_which_workspaces_a_worker_is_there_for(names, expected):
    assert concerns(read_names(names), "default") is expected


def test_order_and_repetition_of_names_make_no_other_bell():
    assert bell_of(read_names("b/b,a/a,a/a")) == bell_of(read_names("a/a, b/b"))
    assert bell_of(()) == EVERY_BELL


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        pytest.param([], [EVERY_BELL], id="no worker lives: the next one hears it"),
        pytest.param([()], [EVERY_BELL], id="a worker that serves all"),
        pytest.param([SPARK], [bell_of(SPARK)], id="a worker that names it"),
        pytest.param([("default/other",)], [], id="nobody serves it"),
        pytest.param([SPARK, ANY], sorted([bell_of(SPARK), bell_of(ANY)]), id="two that name it"),
        pytest.param([(), ("default/other",)], [EVERY_BELL], id="the one that serves all"),
    ],
)
def test_where_it_rings_for_a_queue(workers, expected):
    assert bells_for("default/spark", workers) == expected


def test_for_a_queue_that_is_not_known_yet_only_those_are_rung_that_serve_all():
    assert bells_for(None, [(), SPARK]) == [EVERY_BELL]
