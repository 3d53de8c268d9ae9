"""Where runs, node runs and attempts can stand, and which moves there are between.

This table is the only place that says what is allowed: `move()` asks it, the hot path's
SQL is held to it by a test.
"""

from __future__ import annotations

from enum import StrEnum


class NodeState(StrEnum):
    PENDING = "pending"  # waits for upstreams, a pause, a limit: `queued` lacks only capacity
    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"  # failed, waits for the start of its next attempt
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"  # by a person
    CANCELLED = "cancelled"  # by the engine; never outranks a failure


class RunState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


class AttemptState(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    LOST = "lost"  # its worker or host went away; costs a loss, not a failure
    HANDED_BACK = "handed_back"  # by a worker that was asked to end; costs nothing


class Trigger(StrEnum):
    MANUAL = "manual"
    SCHEDULE = "schedule"
    BACKFILL = "backfill"
    DEBUG = "debug"
    API = "api"


class Hold(StrEnum):
    """What a person or the engine asked of a whole run."""

    NONE = ""
    PAUSED = "paused"
    STOPPED = "stopped"  # by a person
    CANCELLED = "cancelled"  # by the engine: strategy *end*, the run's timeout


class Missed(StrEnum):
    """What becomes of the cycles that fell due while a hold stood, once it is released."""

    LATEST = "latest"  # the newest of them is run
    ALL = "all"
    NONE = "none"


class Strategy(StrEnum):
    """What a node's final failure means for the rest of the run."""

    CONTINUE = "continue"
    END = "end"


class By(StrEnum):
    """Who takes an arrow."""

    ENGINE = "engine"
    WORKER = "worker"
    PERSON = "person"


ACTIVE = frozenset({NodeState.QUEUED, NodeState.RUNNING, NodeState.RETRYING})
ENDED = frozenset({NodeState.SUCCEEDED, NodeState.FAILED, NodeState.STOPPED, NodeState.CANCELLED})
RUN_ENDED = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED})

_N = NodeState
#: Every arrow of a node run, and who may take it.
ARROWS: dict[tuple[NodeState, NodeState], frozenset[By]] = {
    # Under way. Only `admit` and `finish` make a node queued; only `claim` makes it run.
    (_N.PENDING, _N.QUEUED): frozenset({By.ENGINE}),
    (_N.QUEUED, _N.PENDING): frozenset({By.ENGINE, By.PERSON}),  # pause
    (_N.QUEUED, _N.RUNNING): frozenset({By.WORKER}),
    (_N.QUEUED, _N.FAILED): frozenset({By.ENGINE}),  # waited longer than it may
    (_N.RUNNING, _N.SUCCEEDED): frozenset({By.WORKER}),
    (_N.RUNNING, _N.FAILED): frozenset({By.WORKER, By.ENGINE}),  # engine: losses used up
    (_N.RUNNING, _N.RETRYING): frozenset({By.WORKER}),
    (_N.RUNNING, _N.STOPPED): frozenset({By.WORKER, By.ENGINE}),
    (_N.RUNNING, _N.CANCELLED): frozenset({By.WORKER, By.ENGINE}),
    (_N.RUNNING, _N.PENDING): frozenset({By.WORKER, By.ENGINE}),  # handed back; lease lost
    (_N.RETRYING, _N.PENDING): frozenset({By.ENGINE}),  # its pause is over
    # Ended before it ran.
    (_N.PENDING, _N.STOPPED): frozenset({By.PERSON}),
    (_N.QUEUED, _N.STOPPED): frozenset({By.PERSON}),
    (_N.RETRYING, _N.STOPPED): frozenset({By.PERSON}),
    (_N.PENDING, _N.CANCELLED): frozenset({By.ENGINE}),
    (_N.QUEUED, _N.CANCELLED): frozenset({By.ENGINE}),
    (_N.RETRYING, _N.CANCELLED): frozenset({By.ENGINE}),
    # By hand: rerun.
    (_N.SUCCEEDED, _N.PENDING): frozenset({By.PERSON}),
    (_N.FAILED, _N.PENDING): frozenset({By.PERSON}),
    (_N.STOPPED, _N.PENDING): frozenset({By.PERSON}),
    (_N.CANCELLED, _N.PENDING): frozenset({By.PERSON}),
    # By hand: set to success, any node that is not running.
    (_N.PENDING, _N.SUCCEEDED): frozenset({By.PERSON}),
    (_N.QUEUED, _N.SUCCEEDED): frozenset({By.PERSON}),
    (_N.RETRYING, _N.SUCCEEDED): frozenset({By.PERSON}),
    (_N.FAILED, _N.SUCCEEDED): frozenset({By.PERSON}),
    (_N.STOPPED, _N.SUCCEEDED): frozenset({By.PERSON}),
    (_N.CANCELLED, _N.SUCCEEDED): frozenset({By.PERSON}),
}


class IllegalMove(Exception):
    """A move that the table has no arrow for: a mistake in the program, not a lost race."""


def check_move(old: NodeState, new: NodeState, *, by: By) -> None:
    """Raise IllegalMove unless `by` may take a node run from `old` to `new`."""
    who = ARROWS.get((old, new))
    if who is None:
        raise IllegalMove(f"no arrow from {old} to {new}")
    if by not in who:
        raise IllegalMove(f"the arrow from {old} to {new} is not for {by}")
