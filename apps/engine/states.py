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


class Overlap(StrEnum):
    """What becomes of a workflow's scheduled run while an earlier one is not over."""

    PARALLEL = "parallel"
    WAIT = "wait"  # in line, one at a time
    SKIP = "skip"  # it is not started at all


class Severity(StrEnum):
    """How much it matters that a workflow fails."""

    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


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


_R = RunState
#: Every arrow of a run, and whose doing it is. Its state follows from its nodes'.
RUN_ARROWS: dict[tuple[RunState, RunState], frozenset[By]] = {
    (_R.PENDING, _R.RUNNING): frozenset({By.WORKER}),
    # A run that has not started ends where its nodes were stopped, cut off or set to success.
    (_R.PENDING, _R.SUCCEEDED): frozenset({By.PERSON}),
    (_R.PENDING, _R.FAILED): frozenset({By.ENGINE, By.PERSON}),
    (_R.PENDING, _R.STOPPED): frozenset({By.PERSON}),
    (_R.RUNNING, _R.SUCCEEDED): frozenset({By.WORKER, By.PERSON}),
    (_R.RUNNING, _R.FAILED): frozenset({By.ENGINE, By.WORKER, By.PERSON}),
    (_R.RUNNING, _R.STOPPED): frozenset({By.ENGINE, By.WORKER, By.PERSON}),
    # Rerun in place; set to success.
    (_R.SUCCEEDED, _R.RUNNING): frozenset({By.PERSON}),
    (_R.FAILED, _R.RUNNING): frozenset({By.PERSON}),
    (_R.STOPPED, _R.RUNNING): frozenset({By.PERSON}),
}


class Standing(StrEnum):
    """Where a person finds a run: its state, and what was asked of the whole of it."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    ENDING = "ending"  # being stopped, or cut off
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


def standing(state: str, hold: str) -> Standing:
    if state in RUN_ENDED:
        return Standing(state)
    if hold in (Hold.STOPPED, Hold.CANCELLED):
        return Standing.ENDING
    return Standing.PAUSED if hold == Hold.PAUSED else Standing(state)


class Act(StrEnum):
    """What a person may do to a run, or to a node of one."""

    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    RERUN = "rerun"  # of a run: as a new one; of a node: in its run
    RERUN_FAILED = "rerun_failed"  # in the run
    SUCCESS = "success"


_S = Standing
_OVER = frozenset({_S.SUCCEEDED, _S.FAILED, _S.STOPPED})

#: Where an act on a run is possible, and where the run may stand right after it.
RUN_ACTS: dict[Act, dict[Standing, frozenset[Standing]]] = {
    Act.PAUSE: {_S.PENDING: frozenset({_S.PAUSED}), _S.RUNNING: frozenset({_S.PAUSED})},
    Act.RESUME: {_S.PAUSED: frozenset({_S.PENDING, _S.RUNNING})},
    Act.STOP: {
        _S.PENDING: frozenset({_S.STOPPED}),
        _S.RUNNING: frozenset({_S.ENDING, _S.STOPPED}),
        _S.PAUSED: frozenset({_S.ENDING, _S.STOPPED}),
        _S.ENDING: frozenset({_S.ENDING, _S.STOPPED}),  # a person's stop outranks a cut-off
    },
    Act.RERUN: {each: frozenset({each}) for each in Standing if each in _OVER},
    # Where something has failed, or was stopped or left out.
    Act.RERUN_FAILED: {
        _S.PENDING: frozenset({_S.PENDING}),
        _S.RUNNING: frozenset({_S.RUNNING}),
        _S.PAUSED: frozenset({_S.PAUSED}),
        _S.FAILED: frozenset({_S.RUNNING}),
        _S.STOPPED: frozenset({_S.RUNNING}),
    },
}

_AGAIN = frozenset({_N.PENDING, _N.QUEUED})
_DONE = frozenset({_N.SUCCEEDED})
_ENDED_BY_HAND = frozenset({_N.STOPPED})

#: In which runs an act on a node is possible.
NODE_ACTS_IN: dict[Act, frozenset[Standing]] = {
    Act.STOP: frozenset({_S.PENDING, _S.RUNNING, _S.PAUSED, _S.ENDING}),
    Act.SUCCESS: frozenset(Standing) - {_S.ENDING},
    Act.RERUN: frozenset(Standing) - {_S.ENDING},
}

#: Where a node has to stand for an act, and where it may stand right after it.
NODE_ACTS: dict[Act, dict[NodeState, frozenset[NodeState]]] = {
    Act.STOP: {
        _N.PENDING: _ENDED_BY_HAND,
        _N.QUEUED: _ENDED_BY_HAND,
        _N.RUNNING: frozenset({_N.RUNNING}),  # its worker ends it
        _N.RETRYING: _ENDED_BY_HAND,
    },
    Act.SUCCESS: {
        _N.PENDING: _DONE,
        _N.QUEUED: _DONE,
        _N.RETRYING: _DONE,
        _N.FAILED: _DONE,
        _N.STOPPED: _DONE,
        _N.CANCELLED: _DONE,
    },
    Act.RERUN: {
        _N.PENDING: _AGAIN,  # unless it goes on by itself
        _N.SUCCEEDED: _AGAIN,
        _N.FAILED: _AGAIN,
        _N.STOPPED: _AGAIN,
        _N.CANCELLED: _AGAIN,
    },
}


def run_acts(now: Standing, *, to_repeat: bool) -> list[Act]:
    """What a person may do to a run that stands here.

    `to_repeat`: something of it failed, or was stopped or left out.
    """
    acts = [act for act, where in RUN_ACTS.items() if now in where]
    return [act for act in acts if to_repeat or act is not Act.RERUN_FAILED]


def node_acts(now: Standing, state: str) -> list[Act]:
    """What a person may do to a node in this state of a run that stands here."""
    return [act for act, where in NODE_ACTS.items() if state in where and now in NODE_ACTS_IN[act]]


class IllegalMove(Exception):
    """A move that the table has no arrow for: a mistake in the program, not a lost race."""


def check_move(old: NodeState, new: NodeState, *, by: By) -> None:
    """Raise IllegalMove unless `by` may take a node run from `old` to `new`."""
    who = ARROWS.get((old, new))
    if who is None:
        raise IllegalMove(f"no arrow from {old} to {new}")
    if by not in who:
        raise IllegalMove(f"the arrow from {old} to {new} is not for {by}")
