"""Why a run or a node does not move: one sentence, with the things that hold it.

    waiting = why(snapshot)
    waiting.run                    # of the whole run; None while it moves or is over
    waiting.nodes[501]             # of one node, the most important reason first

The snapshot says how things stand; nothing here asks or looks at a clock. A sentence comes in
parts, and a part that is a `Thing` names an object: pages and programs make links of these
without reading the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from apps.engine.serving import concerns, serves
from apps.engine.states import ENDED, RUN_ENDED, Hold, NodeState, RunState


class Code(StrEnum):
    """Every way to wait, the one that most needs a person first.

    The names are part of the REST API: they stay. docs/waiting.md says what to do about each.
    """

    STOPPING = "stopping"  # it, or its run, is being ended
    HELD_WORKSPACE = "held_workspace"  # a person holds the whole workspace
    HELD_QUEUE = "held_queue"  # a person holds the queue
    HELD_TAG = "held_tag"  # a person holds a tag of the run's workflow
    PAUSED = "paused"  # a person paused the run
    SAME_CYCLE = "same_cycle"  # another run of its workflow's same cycle is not over
    OVERLAP = "overlap"  # earlier runs of its workflow, which do not overlap, are not over
    RUN_IN_LANE = "run_in_lane"  # the run's lane has as many under way as it may
    LARGER_THAN_QUEUE = "larger_than_queue"  # the capacity was lowered below it after launch
    NO_WORKER = "no_worker"  # no worker is alive that serves the queue
    ENGINE_SILENT = "engine_silent"  # what is due is not done: neither beat nor worker looks
    RECOVERING = "recovering"  # its worker is silent, and the lease not yet over
    QUEUE_FULL = "queue_full"  # the queue has less free than it asks for
    BEHIND_LARGER = "behind_larger"  # it would fit, but a larger one waits for room before it
    WORKERS_BUSY = "workers_busy"  # the queue has room, the workers have no free slot
    RETRY_INTERVAL = "retry_interval"  # the pause before the next attempt
    PARALLELISM = "parallelism"  # the run's limit of nodes at once
    BEHIND_OTHERS = "behind_others"  # others are before it in a line that moves
    STARTING = "starting"  # nothing is in its way
    UPSTREAM_FAILED = "upstream_failed"  # an upstream has ended without success
    LEFT_OUT = "left_out"  # the last rerun is about other nodes
    UPSTREAM = "upstream"  # upstreams that have not succeeded yet
    NOT_RUN = "not_run"  # the run is over, and it never started
    SCHEDULE_OFF = "schedule_off"  # of a workflow: nobody turned its schedule on, or somebody off


#: Not why a run stands still: what these name is said of the node that holds it.
_FOLLOWS = frozenset({Code.UPSTREAM_FAILED, Code.LEFT_OUT, Code.UPSTREAM, Code.NOT_RUN})


class Kind(StrEnum):
    RUN = "run"
    NODE = "node"
    QUEUE = "queue"
    WORKFLOW = "workflow"
    HOLD = "hold"
    WORKER = "worker"
    PERSON = "person"


@dataclass(frozen=True)
class Thing:
    """An object that a sentence names. `run` is the run of a node, by id."""

    kind: Kind
    id: int | str
    name: str
    run: int | None = None


Part = str | Thing


@dataclass(frozen=True)
class Reason:
    """`subject` and `parts` together are a sentence; `parts` alone go on after a node's name."""

    code: Code
    subject: tuple[Part, ...]
    parts: tuple[Part, ...]

    @property
    def clause(self) -> str:
        return _text(self.parts)

    @property
    def sentence(self) -> str:
        whole = f"{_text(self.subject)} {self.clause}."
        first = self.subject[0]
        if isinstance(first, Thing) and first.kind is Kind.NODE:
            return whole  # its name is written as it is
        return whole[0].upper() + whole[1:]

    @property
    def links(self) -> tuple[Thing, ...]:
        """What holds it, in the order of the text, each once."""
        return tuple(dict.fromkeys(part for part in self.parts if isinstance(part, Thing)))


# --- how things stand -----------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What was asked of a run or node: by whom (None: the engine), when, and in what words."""

    by: Thing | None = None
    at: datetime | None = None
    note: str = ""


@dataclass(frozen=True)
class HoldStanding:
    """A hold on a workspace, a queue or a tag, and who made it when; the note is the reason."""

    hold: Thing
    code: Code
    asked: Asked


@dataclass(frozen=True)
class LaneStanding:
    """The lane in whose line a run stands."""

    #: Runs at once; None: no limit, 0: none starts for now.
    limit: int | None
    #: Runs that hold a place, the first few, and how many there are in all.
    holders: tuple[Thing, ...]
    holding: int
    #: Runs before it in line, counted up to `AHEAD`.
    ahead: int
    #: It keeps the runs of one workflow apart.
    is_overlap: bool
    #: Whose it is: "backfill 7".
    owner: str = ""


@dataclass(frozen=True)
class SameCycleStanding:
    """The run of the same cycle that a run waits for, and the cycle, aware, in people's zone."""

    run: Thing
    cycle: datetime


#: As far as runs in a lane's line are counted.
AHEAD = 100


@dataclass(frozen=True)
class Place:
    """A node run that holds capacity of a queue, or stands in its line."""

    node: Thing
    run: Thing
    demand: int  # thousandths of a CU
    #: It runs, or stands in line, from then on.
    since: datetime | None = None


@dataclass(frozen=True)
class QueueStanding:
    queue: Thing
    capacity: int
    used: int
    #: workspace/queue, as workers name it.
    path: str = ""
    #: Those that hold most of it, the largest first, and how many there are in all.
    holders: tuple[Place, ...] = ()
    holding: int = 0
    #: Why nothing of it starts; None where it is open.
    hold: HoldStanding | None = None
    #: The first in line, in the order of claims, as far as a claim looks; more may follow. A
    #: claim passes over what asks for more than the capacity.
    line: tuple[Place, ...] = ()

    @property
    def free(self) -> int:
        return max(self.capacity - self.used, 0)


@dataclass(frozen=True)
class WorkerStanding:
    worker: Thing
    slots: int
    busy: int
    #: Names of the queues that it serves (engine.serving); none: every one.
    queues: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineStanding:
    """The workers that showed life, and when somebody last looked around (None: never)."""

    workers: tuple[WorkerStanding, ...] = ()
    pulse_at: datetime | None = None
    #: No lease expires before.
    grace_until: datetime | None = None
    lease: timedelta = timedelta(seconds=30)


@dataclass(frozen=True)
class NodeStanding:
    node: Thing
    state: NodeState
    queue: int
    demand: int
    #: Ids of the nodes that wait for this one: the edges that count, also in a rerun.
    down: tuple[int, ...] = ()
    #: Left out by the last rerun.
    outside: bool = False
    attempt: int = 0
    queued_at: datetime | None = None
    #: It fails if it is still queued then.
    queued_until: datetime | None = None
    retry_at: datetime | None = None
    #: How its last attempt ended.
    said: str = ""
    #: Set while its running attempt is asked to end.
    stop: Asked | None = None
    worker: Thing | None = None
    lease_until: datetime | None = None

    @property
    def pk(self) -> int:
        return int(self.node.id)


@dataclass(frozen=True)
class RunStanding:
    run: Thing
    state: RunState
    hold: Hold = Hold.NONE
    #: Who set `hold`, and when.
    asked: Asked = Asked()
    #: On a tag of its workflow.
    tag_hold: HoldStanding | None = None
    #: In whose line it stands; None once it was admitted.
    lane: LaneStanding | None = None
    #: Before it may stand in a lane's line, or start.
    same_cycle: SameCycleStanding | None = None
    parallelism: int | None = None


@dataclass(frozen=True)
class ScheduleStanding:
    """The published schedule of a workflow: its switch, and who set it when (None: nobody yet)."""

    workflow: Thing
    on: bool
    asked: Asked = Asked()
    #: On its workspace, its queue or one of its tags.
    hold: HoldStanding | None = None


@dataclass(frozen=True)
class Snapshot:
    """One run with all of its nodes in the graph's order, and what they may wait for."""

    now: datetime
    run: RunStanding
    nodes: tuple[NodeStanding, ...]
    #: By id; those in which one of the nodes is queued.
    queues: Mapping[int, QueueStanding]
    engine: EngineStanding


@dataclass(frozen=True)
class Waiting:
    run: Reason | None
    #: By node run, for those that wait; never an empty tuple.
    nodes: Mapping[int, tuple[Reason, ...]]


# --- why ------------------------------------------------------------------------------------

#: Leases are renewed at a sixth of their length; unrenewed for so much of it, a worker is silent.
_SILENT = 0.4
#: Somebody looks around every second; without a beat a worker does so after 10.
_NO_PULSE = timedelta(seconds=15)
#: After so long in line, a node that does not fit holds back those behind it (hot_path.sql).
_HOLDS_BACK = timedelta(seconds=60)
#: Things named in one sentence; the rest are counted.
_NAMED = 3


def why(snapshot: Snapshot) -> Waiting:
    """Why the run and each of its nodes wait; nothing of what moves, or has ended by itself."""
    dead, lacking = _blocked(snapshot.nodes)
    found = {}
    for node in snapshot.nodes:
        reasons = _node(node, snapshot, dead.get(node.pk, ()), lacking.get(node.pk, ()))
        if reasons:
            found[node.pk] = tuple(
                Reason(code, (node.node,), parts)
                for code, parts in sorted(reasons, key=lambda each: _RANK[each[0]])
            )
    return Waiting(_run(snapshot, found), found)


def why_in_line(
    queue: QueueStanding, engine: EngineStanding, *, now: datetime
) -> list[tuple[Place, Reason]]:
    """Why each node in a queue's line waits, in the line's order."""
    return [
        (place, Reason(code, (place.node, " in ", place.run), parts))
        for place in queue.line
        for code, parts in _queued(place, queue, engine, now)[:1]
    ]


def why_not_due(schedule: ScheduleStanding, *, now: datetime) -> Reason | None:
    """Why a workflow that has a schedule is not started by it; None while it is."""
    subject = ("workflow ", schedule.workflow)
    if schedule.on:
        if schedule.hold is None:
            return None
        return Reason(schedule.hold.code, subject, _until_released(schedule.hold, now))
    asked = schedule.asked
    off: tuple[Part, ...] = ("its schedule is off",)
    if asked.at:
        by: tuple[Part, ...] = (asked.by, " turned") if asked.by else ("somebody turned",)
        off = (*by, f" its schedule off{_ago(asked.at, now)}")
    return Reason(Code.SCHEDULE_OFF, subject, ("does not start by itself: ", *off))


_RANK = {code: n for n, code in enumerate(Code)}
_Found = list[tuple[Code, tuple[Part, ...]]]


def _run(snapshot: Snapshot, nodes: Mapping[int, tuple[Reason, ...]]) -> Reason | None:
    run, now = snapshot.run, snapshot.now
    if run.state in RUN_ENDED:
        return None
    if run.hold in (Hold.STOPPED, Hold.CANCELLED):
        return Reason(Code.STOPPING, (run.run,), ("is being ", *_ended_by(run.asked)))
    if run.hold == Hold.PAUSED:
        by: tuple[Part, ...] = (" by ", run.asked.by) if run.asked.by else ()
        parts = ("was paused", *by, _ago(run.asked.at, now))
        return Reason(Code.PAUSED, (run.run,), parts)
    if run.tag_hold:
        return Reason(Code.HELD_TAG, (run.run,), _until_released(run.tag_hold, now))
    gate = _gate(snapshot)
    if gate:
        code, parts = gate
        return Reason(code, (run.run,), parts)
    moving = any(
        node.state is NodeState.RUNNING and node.pk not in nodes for node in snapshot.nodes
    )
    first = [each[0] for each in nodes.values() if each[0].code not in _FOLLOWS]
    return None if moving or not first else min(first, key=lambda reason: _RANK[reason.code])


def _node(
    node: NodeStanding,
    snapshot: Snapshot,
    dead: Sequence[NodeStanding],
    lacking: Sequence[NodeStanding],
) -> _Found:
    run, now = snapshot.run, snapshot.now
    over = run.state in RUN_ENDED
    match node.state:
        case NodeState.PENDING if over:
            return [(Code.NOT_RUN, ("was not run", *_because(dead, node)))]
        case _ if over:
            return []
        case NodeState.PENDING | NodeState.RETRYING if run.hold in (Hold.STOPPED, Hold.CANCELLED):
            return [
                (Code.STOPPING, ("does not start: ", run.run, " is being ", *_ended_by(run.asked)))
            ]
        case NodeState.PENDING if node.outside:
            return [(Code.LEFT_OUT, ("does not run: the last rerun left it out",))]
        case NodeState.PENDING if dead:
            return [(Code.UPSTREAM_FAILED, ("cannot start", *_because(dead, node)))]
        case NodeState.PENDING if lacking:
            return [(Code.UPSTREAM, ("waits for ", *_named([each.node for each in lacking])))]
        case NodeState.PENDING:
            return _held(snapshot)
        case NodeState.RETRYING:
            return [_retry(node, snapshot), *_paused(run, now)]
        case NodeState.QUEUED:
            place = Place(node.node, run.run, node.demand, node.queued_at)
            found = _queued(place, snapshot.queues[node.queue], snapshot.engine, now)
            if node.queued_until is None:
                return found
            last = f"; it fails in {_span(node.queued_until - now)} if it waits until then"
            return [(code, (*parts, last)) for code, parts in found]
        case NodeState.RUNNING:
            return [*_stopping(node), *_recovering(node, snapshot)]
    return []


def _blocked(
    nodes: Iterable[NodeStanding],
) -> tuple[dict[int, list[NodeStanding]], dict[int, list[NodeStanding]]]:
    """(what ended without success somewhere above, the upstreams that have not succeeded)."""
    dead: dict[int, list[NodeStanding]] = {}
    lacking: dict[int, list[NodeStanding]] = {}
    for node in nodes:  # in the graph's order: all that is above has been looked at
        if node.state is NodeState.SUCCEEDED:
            continue
        causes = [node] if node.state in ENDED else dead.get(node.pk, [])
        for below in node.down:
            lacking.setdefault(below, []).append(node)
            known = dead.setdefault(below, []) if causes else []
            known += [cause for cause in causes if cause not in known]
    return dead, lacking


_ENDED_WORDS = {
    NodeState.FAILED: " failed",
    NodeState.STOPPED: " was stopped",
    NodeState.CANCELLED: " was cancelled",
}


def _because(dead: Sequence[NodeStanding], node: NodeStanding) -> tuple[Part, ...]:
    if dead:
        said: list[Part] = [": "]
        for n, cause in enumerate(dead[:_NAMED]):
            said += [*([", "] if n else []), cause.node, _ENDED_WORDS[cause.state]]
        return (*said, *_more(len(dead) - _NAMED))
    return (": the last rerun left it out",) if node.outside else ()


def _held(snapshot: Snapshot) -> _Found:
    """A node that lacks nothing but leave."""
    run, now = snapshot.run, snapshot.now
    found = _paused(run, now)
    gate = _gate(snapshot)
    if gate:
        code, (verb, *rest) = gate
        # The run whose end it is about is named, its own is known.
        said = ("waits with its run for ",) if rest else ("waits for its run, which ", verb)
        return [*found, (code, (*said, *rest))]
    busy = [n.node for n in snapshot.nodes if n.state in (NodeState.QUEUED, NodeState.RUNNING)]
    if run.parallelism is not None and len(busy) >= run.parallelism:
        limit = f": at most {_count(run.parallelism, 'node')} of its run at once"
        found.append((Code.PARALLELISM, ("waits for ", *_named(busy), limit)))
    return found or [_due("is about to be queued", snapshot)]


def _paused(run: RunStanding, now: datetime) -> _Found:
    """What a person holds the whole run back by."""
    found: _Found = []
    if run.tag_hold:
        found.append((run.tag_hold.code, _until_released(run.tag_hold, now)))
    if run.hold == Hold.PAUSED:
        ago = _ago(run.asked.at, now)
        which: tuple[Part, ...] = (", which was paused", ago)
        if run.asked.by:
            which = (", which ", run.asked.by, " paused", ago)
        found.append((Code.PAUSED, ("waits for ", run.run, *which)))
    return found


def _gate(snapshot: Snapshot) -> tuple[Code, tuple[Part, ...]] | None:
    """Of a run: what it waits for before anything of it may start."""
    run = snapshot.run
    if run.same_cycle:
        cycle = run.same_cycle.cycle
        point = f"{cycle:%Y-%m-%d %H:%M:%S}" if cycle.second else f"{cycle:%Y-%m-%d %H:%M}"
        which = f", which runs the same cycle {point}"
        return Code.SAME_CYCLE, ("waits for ", run.same_cycle.run, which)
    return _in_line(run.lane, snapshot) if run.lane else None


def _in_line(lane: LaneStanding, snapshot: Snapshot) -> tuple[Code, tuple[Part, ...]]:
    """Of a run: what its lane lacks."""
    if lane.limit == 0:
        return Code.RUN_IN_LANE, (f"waits until {lane.owner} is resumed",)
    if lane.limit is None or lane.holding < lane.limit:
        return _due("is about to leave its lane's line", snapshot)
    code, rule = Code.RUN_IN_LANE, f"at most {_count(lane.limit, 'run')} of its lane at once"
    if lane.is_overlap:
        code, rule = Code.OVERLAP, "runs of its workflow wait for each other"
        if lane.limit > 1:
            rule = f"at most {lane.limit} runs of its workflow at once"
    least = "at least " if lane.ahead >= AHEAD else ""
    are = "is" if lane.ahead == 1 else "are"
    before = f"; {least}{_count(lane.ahead, 'run')} {are} before it" if lane.ahead else ""
    runs = _named(lane.holders, "run", count=lane.holding)
    return code, ("waits for ", *runs, f": {rule}{before}")


def _until_released(hold: HoldStanding, now: datetime) -> tuple[Part, ...]:
    asked = hold.asked
    by: tuple[Part, ...] = (asked.by, " held it") if asked.by else ("it was held",)
    why = f": {asked.note}" if asked.note else ""
    return ("waits until ", hold.hold, " is released; ", *by, f"{_ago(asked.at, now)}{why}")


def _retry(node: NodeStanding, snapshot: Snapshot) -> tuple[Code, tuple[Part, ...]]:
    assert node.retry_at is not None  # noqa: S101 -- the database keeps it
    if node.retry_at <= snapshot.now:
        return _due(f"is about to start attempt {node.attempt + 1}", snapshot)
    since = f", since attempt {node.attempt} failed" + (f": {node.said}" if node.said else "")
    left = _span(node.retry_at - snapshot.now)
    return Code.RETRY_INTERVAL, (f"starts attempt {node.attempt + 1} in {left}{since}",)


def _due(what: str, snapshot: Snapshot) -> tuple[Code, tuple[Part, ...]]:
    """Something that whoever looks around next will do."""
    pulse = snapshot.engine.pulse_at
    if pulse is not None and snapshot.now - pulse < _NO_PULSE:
        return Code.STARTING, (what,)
    silent = f"for {_span(snapshot.now - pulse)}" if pulse else "yet"
    text = f"{what}, but nobody has looked around {silent}: start the beat or a worker"
    return Code.ENGINE_SILENT, (text,)


def _queued(place: Place, queue: QueueStanding, engine: EngineStanding, now: datetime) -> _Found:
    """A node that lacks nothing but capacity, in the order in which that can be mended."""
    found: _Found = []
    if place.demand > queue.capacity:
        asks = f"asks for {_cu(place.demand)} CU, and queue "
        return [(Code.LARGER_THAN_QUEUE, (asks, queue.queue, f" has {_cu(queue.capacity)} in all"))]
    if queue.hold:
        found.append((queue.hold.code, _until_released(queue.hold, now)))
    serving = [each for each in engine.workers if serves(each.queues, queue.path)]
    if not engine.workers:
        found.append((Code.NO_WORKER, ("waits for a worker: none is alive",)))
    elif not serving:
        text = "waits for a worker that serves queue "
        found.append((Code.NO_WORKER, (text, queue.queue, ": ", *_others(queue, engine))))
    ahead, beyond = [], True
    for other in queue.line:
        if other.node.id == place.node.id:
            beyond = False
            break
        ahead.append(other)
    before = [other for other in ahead if other.demand <= queue.capacity]
    many = ("at least " if beyond else "") + _count(len(before), "node")
    if place.demand > queue.free:
        first = f"; {many} {'is' if len(before) == 1 else 'are'} before it" if before else ""
        found.append((Code.QUEUE_FULL, (*_lack(place, queue), *([first] if first else []))))
    else:
        larger = next((other for other in before if _holds_back(other, queue, now)), None)
        if larger is not None and larger.since is not None:
            waited = f", which has waited {_span(now - larger.since)} for "
            asks = f"{waited}{_cu(larger.demand)} CU in queue "
            parts = ("waits behind ", *_of(larger, place), asks, queue.queue)
            found.append((Code.BEHIND_LARGER, parts))
    if serving and all(each.busy >= each.slots for each in serving):
        slots = sum(each.slots for each in serving)
        taken = "the only slot of " if slots == 1 else f"all {slots} slots of "
        workers = _named([each.worker for each in serving], "worker")
        ends = " is taken" if slots == 1 else " are taken"
        found.append((Code.WORKERS_BUSY, ("waits for a worker: ", taken, *workers, ends)))
    if not found and before:
        head = (
            (", first of them ", *_of(before[0], place))
            if len(before) > 1
            else (": ", *_of(before[0], place))
        )
        found.append((Code.BEHIND_OTHERS, (f"waits behind {many} in queue ", queue.queue, *head)))
    return sorted(found, key=lambda each: _RANK[each[0]]) or [
        (Code.STARTING, ("is about to start in queue ", queue.queue))
    ]


def _others(queue: QueueStanding, engine: EngineStanding) -> tuple[Part, ...]:
    """What the living workers do, where none serves a queue. Those of other workspaces are named
    to nobody."""
    workspace = queue.path.partition("/")[0]
    here = [each.worker for each in engine.workers if concerns(each.queues, workspace)]
    if not here:
        return ("none that is alive does",)
    return (*_named(here, "worker"), f" {'serves' if len(here) == 1 else 'serve'} others")


def _holds_back(other: Place, queue: QueueStanding, now: datetime) -> bool:
    return other.demand > queue.free and other.since is not None and now - other.since > _HOLDS_BACK


def _lack(place: Place, queue: QueueStanding) -> tuple[Part, ...]:
    parts: list[Part] = [
        f"waits for {_cu(place.demand)} CU in queue ",
        queue.queue,
        f", which has {_cu(queue.free)} of {_cu(queue.capacity)} free",
    ]
    named = queue.holders[:_NAMED]
    for n, holder in enumerate(named):
        parts += [", " if n else ": ", *_of(holder, place), f" has {_cu(holder.demand)}"]
    rest = queue.holding - len(named)
    if named and rest > 0:
        left = queue.used - sum(holder.demand for holder in named)
        parts.append(f", {_count(rest, 'more node')} {'has' if rest == 1 else 'have'} {_cu(left)}")
    return tuple(parts)


def _stopping(node: NodeStanding) -> _Found:
    if node.stop is None:
        return []
    return [(Code.STOPPING, ("is being ", *_ended_by(node.stop)))]


def _recovering(node: NodeStanding, snapshot: Snapshot) -> _Found:
    """Its worker renews every few seconds, unless it is gone, frozen or cut off."""
    now, engine = snapshot.now, snapshot.engine
    if node.lease_until is None or node.worker is None:
        return []
    heard = node.lease_until - engine.lease
    if now - heard < engine.lease * _SILENT:
        return []
    ends = max(node.lease_until, engine.grace_until or node.lease_until)
    then = f"in {_span(ends - now)} it starts again elsewhere"
    if ends <= now:
        code, parts = _due("it is about to start again elsewhere", snapshot)
        then = str(parts[0])
        if code is Code.ENGINE_SILENT:
            return [(code, (f"has lost its worker; {then}",))]
    waits = f", which was last heard of {_span(now - heard)} ago; {then}"
    return [(Code.RECOVERING, ("waits for worker ", node.worker, waits))]


# --- words ----------------------------------------------------------------------------------


def _text(parts: Iterable[Part]) -> str:
    return "".join(part.name if isinstance(part, Thing) else part for part in parts)


def _cu(thousandths: int) -> str:
    return f"{thousandths / 1000:g}"


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _span(length: timedelta) -> str:
    """In one unit, as people say it."""
    seconds = max(length.total_seconds(), 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{round(seconds)} s"


def _named(
    things: Sequence[Thing], word: str = "node", *, count: int | None = None
) -> tuple[Part, ...]:
    """`a`, `a and b`, `a, b, c and 4 more nodes`. `count`: how many there are in all."""
    shown = list(things[:_NAMED])
    rest = (len(things) if count is None else count) - len(shown)
    parts: list[Part] = []
    for n, thing in enumerate(shown):
        last = rest <= 0 and n == len(shown) - 1
        parts += [*([" and " if last else ", "] if n else []), thing]
    return (*parts, *_more(rest, word))


def _more(n: int, word: str = "node") -> tuple[Part, ...]:
    return (f" and {_count(n, 'more ' + word)}",) if n > 0 else ()


def _of(other: Place, mine: Place) -> tuple[Part, ...]:
    """A node, with its run where that is another one."""
    same = other.run.id == mine.run.id
    return (other.node,) if same else (other.node, " in ", other.run)


def _ago(at: datetime | None, now: datetime) -> str:
    return f" {_span(now - at)} ago" if at else ""


def _ended_by(asked: Asked) -> tuple[Part, ...]:
    if asked.by:
        return ("stopped by ", asked.by)
    return (f"ended: {asked.note}",) if asked.note else ("ended",)
