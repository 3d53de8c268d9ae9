"""The two gates: which runs a lane lets start, and which node a queue gives next.

The hot path and the sweep do this in SQL, many at once; here it is said over plain values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from apps.engine.priority import Priority

#: Waited so long, a node stands one level above its priority; twice as long, two.
RISES_AFTER_SECONDS = 600
#: Waited longer than this, a node that does not fit holds back those behind it.
PATIENCE_SECONDS = 60
#: How far into its line a queue is read for a node that fits.
LOOKED_AT = 50


@dataclass(frozen=True)
class InLine:
    """A run that has not been admitted yet. Ids grow in the order of the launches."""

    run: int
    #: Another run of its cycle that is not over.
    waits_for: int | None = None
    #: Paused, or held by a tag of its workflow.
    held_back: bool = False


def admitted(line: Iterable[InLine], *, under_way: int, limit: int | None) -> list[int]:
    """The runs that a lane lets start now, the longest in line first.

    What is held back, or waits for a run of its cycle, keeps its place and lets others pass.
    `under_way` may be above the limit: after a rerun in a run that was over, or a lowered limit.
    """
    free = sorted(each.run for each in line if each.waits_for is None and not each.held_back)
    return free if limit is None else free[: max(limit - under_way, 0)]


def waits_for(run: int, not_over: Iterable[int]) -> int | None:
    """Which of its cycle's runs that are not over a run waits for: the newest before it."""
    return max((each for each in not_over if each < run), default=None)


@dataclass(frozen=True)
class Place:
    """Where a queued node stands in its queue."""

    node: int
    flow: int
    demand: int  # thousandths of a CU
    priority: int
    level: int  # priority as raised by waiting
    turn: int
    since: float  # when it was queued, in seconds


def in_line(places: Iterable[Place]) -> list[Place]:
    """The places of a queue, the first served first."""
    return sorted(places, key=lambda each: (-each.level, each.turn, each.since))


def turn_of(places: Iterable[Place], *, level: int, flow: int) -> int:
    """The turn of a flow's newcomer: with the head of the line, but behind its own last node."""
    here = [each for each in places if each.level == level]
    head = min((each.turn for each in here), default=0)
    return max([head, *(each.turn + 1 for each in here if each.flow == flow)])


def next_node(places: Iterable[Place], *, free: int, capacity: int, now: float) -> Place | None:
    """The node that a queue gives, where so much of its capacity is free; None: none fits.

    The first in line that fits. One that does not holds back those behind it once it has waited
    long, else it would starve; one larger than the whole capacity never does.
    """
    looked_at = [each for each in in_line(places) if each.demand <= capacity][:LOOKED_AT]
    for each in looked_at:
        if each.demand <= free:
            return each
        if now - each.since > PATIENCE_SECONDS:
            return None
    return None


def risen(places: Iterable[Place], *, now: float) -> list[Place]:
    """The places in a queue that waiting raises by a level now, as they are then.

    Of each flow and priority only the first in line rises; were all to rise, a backlog of an
    old flow would stand before every newcomer. It takes the turn of the head of that level.
    """
    places = in_line(places)
    first: dict[tuple[int, int], Place] = {}
    for each in places:
        first.setdefault((each.flow, each.priority), each)
    return [
        replace(
            each,
            level=each.level + 1,
            turn=min((p.turn for p in places if p.level == each.level + 1), default=0),
        )
        for each in first.values()
        if each.level < Priority.HIGHEST
        and each.since + RISES_AFTER_SECONDS * (each.level - each.priority + 1) <= now
    ]
