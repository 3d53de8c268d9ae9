"""Why runs and nodes wait: every reason, to the letter, with what it links to."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from apps.engine.states import Hold, NodeState, RunState
from apps.engine.waiting import (
    Asked,
    Code,
    EngineStanding,
    HoldStanding,
    Kind,
    LaneStanding,
    NodeStanding,
    Place,
    QueueStanding,
    Reason,
    RunStanding,
    SameCycleStanding,
    ScheduleStanding,
    Snapshot,
    Thing,
    Waiting,
    WorkerStanding,
    why,
    why_in_line,
    why_not_due,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MAYA = Thing(Kind.PERSON, 3, "maya")
N = NodeState


def ago(**length: float) -> datetime:
    return NOW - timedelta(**length)


def thing(key: str, pk: int, run: int = 12) -> Thing:
    return Thing(Kind.NODE, pk, key, run=run)


def run_thing(pk: int = 12) -> Thing:
    return Thing(Kind.RUN, pk, f"run {pk} of {'etl' if pk == 12 else 'load'}")


def worker(name: str = "w1", slots: int = 4, busy: int = 0) -> WorkerStanding:
    return WorkerStanding(Thing(Kind.WORKER, name, name), slots, busy)


def place(key: str, pk: int, run: int, demand: int = 250, **since: float) -> Place:
    return Place(thing(key, pk, run), run_thing(run), demand, ago(**(since or {"seconds": 5})))


ENGINE = EngineStanding((worker(),), pulse_at=ago(seconds=1))
QUEUE = QueueStanding(
    Thing(Kind.QUEUE, 7, "nightly"), capacity=4000, used=0, path="default/nightly"
)
ELSEWHERE = replace(worker("w3"), queues=("default/spark",))
RUN = RunStanding(run_thing(), RunState.RUNNING)


def node(key: str, pk: int, state: NodeState = N.PENDING, **more: object) -> NodeStanding:
    return NodeStanding(thing(key, pk), state, queue=7, demand=1000, **more)  # type: ignore[arg-type]


def snapshot(
    *nodes: NodeStanding,
    run: RunStanding = RUN,
    queue: QueueStanding = QUEUE,
    engine: EngineStanding = ENGINE,
) -> Snapshot:
    return Snapshot(NOW, run, nodes, {7: queue}, engine)


def written(reason: Reason | None) -> str:
    """The whole sentence, each link as `[kind id name]`."""
    if reason is None:
        return ""
    parts = (*reason.subject, " ", *reason.parts, ".")
    return "".join(
        f"[{part.kind} {part.id} {part.name}]" if isinstance(part, Thing) else part
        for part in parts
    )


QUEUED = node("clean", 2, N.QUEUED, queued_at=ago(seconds=30))
FULL = replace(
    QUEUE,
    used=3500,
    holders=(place("big", 90, 40, 2000), place("extract", 1, 12, 1000), place("s", 91, 40)),
    holding=4,
    line=(place("first", 80, 30, 2000), place("clean", 2, 12, 1000)),
)
UPGRADE = Asked(MAYA, ago(minutes=12), "upgrade")
WORKSPACE_HOLD = HoldStanding(
    Thing(Kind.HOLD, 5, "workspace default"), Code.HELD_WORKSPACE, UPGRADE
)
QUEUE_HOLD = HoldStanding(Thing(Kind.HOLD, 6, "queue nightly"), Code.HELD_QUEUE, UPGRADE)
TAG_HOLD = HoldStanding(
    Thing(Kind.HOLD, 8, "tag layer=raw"), Code.HELD_TAG, Asked(at=ago(seconds=40))
)
PAUSED = replace(RUN, hold=Hold.PAUSED, asked=Asked(MAYA, ago(minutes=12)))
OVERLAP = LaneStanding(1, (run_thing(11),), 1, 0, is_overlap=True)
SAME_CYCLE = SameCycleStanding(run_thing(9), datetime(2026, 3, 1, tzinfo=UTC))
LANE = LaneStanding(4, (run_thing(8), run_thing(9), run_thing(10)), 4, 1, is_overlap=False)
STOPPED = replace(RUN, hold=Hold.STOPPED, asked=Asked(MAYA, ago(seconds=3)))
LATE = replace(RUN, hold=Hold.CANCELLED, asked=Asked(note="run timed out after 60 s"))
OVER = replace(RUN, state=RunState.FAILED)
RETRYING = node(
    "clean", 2, N.RETRYING, attempt=1, said="exit code 1", retry_at=NOW + timedelta(seconds=40)
)
RUNNING = node(
    "extract", 1, N.RUNNING, worker=worker().worker, lease_until=NOW + timedelta(seconds=19)
)
SILENT = replace(RUNNING, lease_until=NOW + timedelta(seconds=10), down=(2,))
NO_PULSE = EngineStanding((), pulse_at=ago(seconds=90))

CLEAN = "[node 2 clean] "
#: What each reason looks like; the last node is the one asked about.
FIXTURES: list[tuple[Code, str, Snapshot, str]] = [
    (
        Code.STOPPING,
        "a running node whose run a person stops",
        snapshot(node("clean", 2, N.RUNNING, stop=STOPPED.asked), run=STOPPED),
        f"{CLEAN}is being stopped by [person 3 maya].",
    ),
    (
        Code.STOPPING,
        "a node that was to start in a run that the engine ends",
        snapshot(node("clean", 2), run=LATE),
        f"{CLEAN}does not start: [run 12 run 12 of etl] is being ended: run timed out after 60 s.",
    ),
    (
        Code.STOPPING,
        "a running node that is ended, nobody knows why",
        snapshot(node("clean", 2, N.RUNNING, stop=Asked())),
        f"{CLEAN}is being ended.",
    ),
    (
        Code.HELD_WORKSPACE,
        "the whole workspace is held",
        snapshot(QUEUED, queue=replace(QUEUE, hold=WORKSPACE_HOLD)),
        f"{CLEAN}waits until [hold 5 workspace default] is released; [person 3 maya] held it "
        "12 min ago: upgrade.",
    ),
    (
        Code.HELD_QUEUE,
        "its queue is held, and no worker is alive besides",
        snapshot(QUEUED, queue=replace(QUEUE, hold=QUEUE_HOLD), engine=NO_PULSE),
        f"{CLEAN}waits until [hold 6 queue nightly] is released; [person 3 maya] held it "
        "12 min ago: upgrade.",
    ),
    (
        Code.HELD_TAG,
        "a tag of its workflow is held, by somebody who has gone",
        snapshot(node("clean", 2), run=replace(RUN, tag_hold=TAG_HOLD)),
        f"{CLEAN}waits until [hold 8 tag layer=raw] is released; it was held 40 s ago.",
    ),
    (
        Code.PAUSED,
        "a node that lacks nothing in a paused run",
        snapshot(node("clean", 2), run=PAUSED),
        f"{CLEAN}waits for [run 12 run 12 of etl], which [person 3 maya] paused 12 min ago.",
    ),
    (
        Code.PAUSED,
        "a run that nobody remembers pausing",
        snapshot(node("clean", 2), run=replace(RUN, hold=Hold.PAUSED)),
        f"{CLEAN}waits for [run 12 run 12 of etl], which was paused.",
    ),
    (
        Code.SAME_CYCLE,
        "another run of the same cycle is not over, whatever its lane",
        snapshot(node("clean", 2), run=replace(RUN, lane=OVERLAP, same_cycle=SAME_CYCLE)),
        f"{CLEAN}waits with its run for [run 9 run 9 of load], which "
        "runs the same cycle 2026-03-01 00:00.",
    ),
    (
        Code.OVERLAP,
        "the run before it is not over",
        snapshot(node("clean", 2), run=replace(RUN, lane=OVERLAP)),
        f"{CLEAN}waits with its run for [run 11 run 11 of load]: runs "
        "of its workflow wait for each other.",
    ),
    (
        Code.OVERLAP,
        "the workflow has as many scheduled runs under way as it may",
        snapshot(node("clean", 2), run=replace(RUN, lane=replace(LANE, is_overlap=True))),
        f"{CLEAN}waits with its run for [run 8 run 8 of load], "
        "[run 9 run 9 of load], [run 10 run 10 of load] and 1 more run: at most 4 runs of its "
        "workflow at once; 1 run is before it.",
    ),
    (
        Code.RUN_IN_LANE,
        "the lane has as many under way as it may",
        snapshot(node("clean", 2), run=replace(RUN, lane=LANE)),
        f"{CLEAN}waits with its run for [run 8 run 8 of load], "
        "[run 9 run 9 of load], [run 10 run 10 of load] and 1 more run: at most 4 runs of its "
        "lane at once; 1 run is before it.",
    ),
    (
        Code.LARGER_THAN_QUEUE,
        "the capacity was lowered after launch",
        snapshot(QUEUED, queue=replace(QUEUE, capacity=500)),
        f"{CLEAN}asks for 1 CU, and queue [queue 7 nightly] has 0.5 in all.",
    ),
    (
        Code.NO_WORKER,
        "no worker is alive, and the queue is full besides",
        snapshot(QUEUED, queue=FULL, engine=NO_PULSE),
        f"{CLEAN}waits for a worker: none is alive.",
    ),
    (
        Code.NO_WORKER,
        "the only worker alive serves other queues",
        snapshot(QUEUED, engine=replace(ENGINE, workers=(ELSEWHERE,))),
        f"{CLEAN}waits for a worker that serves queue [queue 7 nightly]: [worker w3 w3] serves "
        "others.",
    ),
    (
        Code.NO_WORKER,
        "workers serve other queues",
        snapshot(
            QUEUED,
            engine=replace(ENGINE, workers=(replace(worker(), queues=("*/spark",)), ELSEWHERE)),
        ),
        f"{CLEAN}waits for a worker that serves queue [queue 7 nightly]: [worker w1 w1] and "
        "[worker w3 w3] serve others.",
    ),
    (
        Code.NO_WORKER,
        "a worker of another workspace, which is not named here",
        snapshot(QUEUED, engine=replace(ENGINE, workers=(replace(worker(), queues=("x/*",)),))),
        f"{CLEAN}waits for a worker that serves queue [queue 7 nightly]: none that is alive does.",
    ),
    (
        Code.ENGINE_SILENT,
        "a retry is due and nobody looks",
        snapshot(replace(RETRYING, retry_at=ago(seconds=60)), engine=NO_PULSE),
        f"{CLEAN}is about to start attempt 2, but nobody has looked around for 90 s: start the "
        "beat or a worker.",
    ),
    (
        Code.ENGINE_SILENT,
        "nobody has ever looked",
        snapshot(node("clean", 2), engine=EngineStanding()),
        f"{CLEAN}is about to be queued, but nobody has looked around yet: start the beat or a "
        "worker.",
    ),
    (
        Code.ENGINE_SILENT,
        "its worker is lost and nobody looks",
        snapshot(replace(SILENT, lease_until=ago(seconds=60)), engine=NO_PULSE),
        "[node 1 extract] has lost its worker; it is about to start again elsewhere, but nobody "
        "has looked around for 90 s: start the beat or a worker.",
    ),
    (
        Code.RECOVERING,
        "its worker does not renew",
        snapshot(SILENT),
        "[node 1 extract] waits for worker [worker w1 w1], which was last heard of 20 s ago; in "
        "10 s it starts again elsewhere.",
    ),
    (
        Code.RECOVERING,
        "its worker does not renew, after a gap in which nobody could",
        snapshot(SILENT, engine=replace(ENGINE, grace_until=NOW + timedelta(seconds=25))),
        "[node 1 extract] waits for worker [worker w1 w1], which was last heard of 20 s ago; in "
        "25 s it starts again elsewhere.",
    ),
    (
        Code.RECOVERING,
        "its lease has just ended",
        snapshot(replace(SILENT, lease_until=ago(seconds=1))),
        "[node 1 extract] waits for worker [worker w1 w1], which was last heard of 31 s ago; it "
        "is about to start again elsewhere.",
    ),
    (
        Code.QUEUE_FULL,
        "held by three that are named and one more, with one before it",
        snapshot(QUEUED, queue=FULL),
        f"{CLEAN}waits for 1 CU in queue [queue 7 nightly], which has 0.5 of 4 free: "
        "[node 90 big] in [run 40 run 40 of load] has 2, [node 1 extract] has 1, "
        "[node 91 s] in [run 40 run 40 of load] has 0.25, 1 more node has 0.25; "
        "1 node is before it.",
    ),
    (
        Code.QUEUE_FULL,
        "more is in use than there is, after the capacity was lowered",
        snapshot(QUEUED, queue=replace(FULL, capacity=2000, holders=FULL.holders[:1], holding=1)),
        f"{CLEAN}waits for 1 CU in queue [queue 7 nightly], which has 0 of 2 free: "
        "[node 90 big] in [run 40 run 40 of load] has 2; 1 node is before it.",
    ),
    (
        Code.BEHIND_LARGER,
        "a larger one has waited for over a minute",
        snapshot(
            QUEUED,
            queue=replace(
                FULL,
                used=3000,
                line=(place("huge", 81, 30, 4000, minutes=3), place("clean", 2, 12, 1000)),
            ),
        ),
        f"{CLEAN}waits behind [node 81 huge] in [run 30 run 30 of load], which has waited 3 min "
        "for 4 CU in queue [queue 7 nightly].",
    ),
    (
        Code.WORKERS_BUSY,
        "every slot is taken",
        snapshot(
            QUEUED,
            engine=replace(ENGINE, workers=(worker(busy=4), worker("w2", 2, 2), ELSEWHERE)),
        ),
        f"{CLEAN}waits for a worker: all 6 slots of [worker w1 w1] and [worker w2 w2] are taken.",
    ),
    (
        Code.WORKERS_BUSY,
        "the only slot is taken",
        snapshot(QUEUED, engine=replace(ENGINE, workers=(worker(slots=1, busy=1),))),
        f"{CLEAN}waits for a worker: the only slot of [worker w1 w1] is taken.",
    ),
    (
        Code.RETRY_INTERVAL,
        "its last attempt failed",
        snapshot(RETRYING),
        f"{CLEAN}starts attempt 2 in 40 s, since attempt 1 failed: exit code 1.",
    ),
    (
        Code.PARALLELISM,
        "the run's limit is reached",
        snapshot(
            RUNNING,
            node("stats", 3, N.QUEUED),
            node("clean", 2),
            run=replace(RUN, parallelism=2),
        ),
        f"{CLEAN}waits for [node 1 extract] and [node 3 stats]: at most 2 nodes of its run at "
        "once.",
    ),
    (
        Code.BEHIND_OTHERS,
        "in a line that moves",
        snapshot(
            QUEUED,
            queue=replace(
                QUEUE, line=(place("a", 80, 30), place("b", 1, 12), place("clean", 2, 12, 1000))
            ),
        ),
        f"{CLEAN}waits behind 2 nodes in queue [queue 7 nightly], first of them [node 80 a] in "
        "[run 30 run 30 of load].",
    ),
    (
        Code.BEHIND_OTHERS,
        "one is before it, and one that can never start",
        snapshot(
            QUEUED,
            queue=replace(
                QUEUE, line=(place("x", 79, 30, 9000), place("b", 1, 12), place("clean", 2, 12))
            ),
        ),
        f"{CLEAN}waits behind 1 node in queue [queue 7 nightly]: [node 1 b].",
    ),
    (
        Code.BEHIND_OTHERS,
        "farther behind than a claim looks",
        snapshot(QUEUED, queue=replace(QUEUE, line=(place("a", 80, 30), place("b", 1, 12)))),
        f"{CLEAN}waits behind at least 2 nodes in queue [queue 7 nightly], first of them "
        "[node 80 a] in [run 30 run 30 of load].",
    ),
    (
        Code.STARTING,
        "first in line with room and a free slot",
        snapshot(QUEUED, queue=replace(QUEUE, line=(place("clean", 2, 12, 1000),))),
        f"{CLEAN}is about to start in queue [queue 7 nightly].",
    ),
    (
        Code.STARTING,
        "it may wait for so long and no longer",
        snapshot(replace(QUEUED, queued_until=NOW + timedelta(minutes=9))),
        f"{CLEAN}is about to start in queue [queue 7 nightly]; it fails in 9 min if it waits "
        "until then.",
    ),
    (
        Code.STARTING,
        "it was just made ready",
        snapshot(node("clean", 2)),
        f"{CLEAN}is about to be queued.",
    ),
    (
        Code.UPSTREAM_FAILED,
        "what it waits for can never come, however far up it failed",
        snapshot(
            node("a", 4, N.FAILED, down=(5,)),
            node("b", 5, down=(2,)),
            node("c", 6, N.STOPPED, down=(2,)),
            node("e", 7, N.CANCELLED, down=(2,)),
            node("f", 8, N.FAILED, down=(2,)),
            node("clean", 2),
        ),
        f"{CLEAN}cannot start: [node 4 a] failed, [node 6 c] was stopped, "
        "[node 7 e] was cancelled and 1 more node.",
    ),
    (
        Code.LEFT_OUT,
        "the rerun under way is about other nodes",
        snapshot(RUNNING, node("clean", 2, outside=True)),
        f"{CLEAN}does not run: the last rerun left it out.",
    ),
    (
        Code.UPSTREAM,
        "five upstreams have not succeeded, one has",
        snapshot(
            node("z", 30, N.SUCCEEDED, down=(2,)),
            *(node(key, 31 + n, N.RUNNING, down=(2,)) for n, key in enumerate("abcde")),
            node("clean", 2),
        ),
        f"{CLEAN}waits for [node 31 a], [node 32 b], [node 33 c] and 2 more nodes.",
    ),
    (
        Code.UPSTREAM,
        "in a paused run, an upstream still runs",
        snapshot(replace(RUNNING, down=(2,)), node("clean", 2), run=PAUSED),
        f"{CLEAN}waits for [node 1 extract].",
    ),
    (
        Code.NOT_RUN,
        "the run is over",
        snapshot(
            node("a", 4, N.FAILED, down=(5,)),
            node("b", 5, down=(2,)),
            node("clean", 2),
            run=OVER,
        ),
        f"{CLEAN}was not run: [node 4 a] failed.",
    ),
    (
        Code.NOT_RUN,
        "the run is over, and its last rerun was about other nodes",
        snapshot(node("a", 4, N.FAILED), node("clean", 2, outside=True), run=OVER),
        f"{CLEAN}was not run: the last rerun left it out.",
    ),
    (
        Code.NOT_RUN,
        "the run was stopped before it was its turn",
        snapshot(node("clean", 2), run=OVER),
        f"{CLEAN}was not run.",
    ),
]


def test_every_reason_has_a_fixture_and_stands_in_its_place():
    in_order = list(dict.fromkeys(code for code, *_ in FIXTURES))

    assert [*in_order, Code.SCHEDULE_OFF] == list(Code)


@pytest.mark.parametrize(
    ("code", "snapshot", "sentence"),
    [pytest.param(code, at, text, id=f"{code}: {about}") for code, about, at, text in FIXTURES],
)
def test_a_node_says_why_it_waits(code: Code, snapshot: Snapshot, sentence: str):
    [reason, *_] = why(snapshot).nodes[snapshot.nodes[-1].pk]

    assert (reason.code, written(reason)) == (code, sentence)


def test_a_queued_node_says_all_that_is_in_its_way():
    found = why(snapshot(QUEUED, queue=FULL, engine=NO_PULSE))
    busy = why(snapshot(QUEUED, queue=FULL, engine=EngineStanding((worker(busy=4),))))

    assert [reason.code for reason in found.nodes[2]] == [Code.NO_WORKER, Code.QUEUE_FULL]
    assert [reason.code for reason in busy.nodes[2]] == [Code.QUEUE_FULL, Code.WORKERS_BUSY]


def test_a_retry_in_a_paused_run_names_the_pause_first():
    found = why(snapshot(RETRYING, run=PAUSED)).nodes[2]

    assert [reason.code for reason in found] == [Code.PAUSED, Code.RETRY_INTERVAL]


@pytest.mark.parametrize(
    ("snapshot", "sentence"),
    [
        pytest.param(snapshot(RUNNING, QUEUED, queue=FULL), "", id="something runs"),
        pytest.param(snapshot(node("a", 4, N.FAILED), run=OVER), "", id="it is over"),
        pytest.param(
            snapshot(RUNNING, node("clean", 2), run=PAUSED),
            "[run 12 run 12 of etl] was paused by [person 3 maya] 12 min ago.",
            id="it is paused, though something runs",
        ),
        pytest.param(
            snapshot(RUNNING, node("a", 4), run=replace(RUN, tag_hold=TAG_HOLD)),
            "[run 12 run 12 of etl] waits until [hold 8 tag layer=raw] is released; it was held "
            "40 s ago.",
            id="a tag of its workflow is held, though something runs",
        ),
        pytest.param(
            snapshot(node("a", 4), run=replace(RUN, lane=replace(LANE, ahead=100))),
            "[run 12 run 12 of etl] waits for [run 8 run 8 of load], [run 9 run 9 of load], "
            "[run 10 run 10 of load] and 1 more run: at most 4 runs of its lane at once; at least "
            "100 runs are before it.",
            id="it is in a long line",
        ),
        pytest.param(
            snapshot(
                node("a", 4), run=replace(RUN, lane=replace(LANE, limit=0, owner="backfill 7"))
            ),
            "[run 12 run 12 of etl] waits until backfill 7 is resumed.",
            id="its lane is shut",
        ),
        pytest.param(
            snapshot(node("a", 4), run=replace(RUN, lane=replace(LANE, holding=3))),
            "[run 12 run 12 of etl] is about to leave its lane's line.",
            id="its lane has room",
        ),
        pytest.param(
            snapshot(node("a", 4), run=replace(RUN, hold=Hold.PAUSED)),
            "[run 12 run 12 of etl] was paused.",
            id="it is paused",
        ),
        pytest.param(
            snapshot(RUNNING, run=STOPPED),
            "[run 12 run 12 of etl] is being stopped by [person 3 maya].",
            id="it is being stopped",
        ),
        pytest.param(
            snapshot(RUNNING, run=LATE),
            "[run 12 run 12 of etl] is being ended: run timed out after 60 s.",
            id="it is being ended",
        ),
        pytest.param(
            snapshot(SILENT, node("clean", 2)),
            "[node 1 extract] waits for worker [worker w1 w1], which was last heard of 20 s ago; "
            "in 10 s it starts again elsewhere.",
            id="the worker of all that runs is silent",
        ),
        pytest.param(
            snapshot(node("x", 9, N.QUEUED), RETRYING, replace(QUEUED, node=thing("y", 10))),
            f"{CLEAN}starts attempt 2 in 40 s, since attempt 1 failed: exit code 1.",
            id="of several nodes, the one that most needs a person",
        ),
        pytest.param(
            snapshot(node("a", 4, N.FAILED, down=(2,)), node("clean", 2)),
            "",
            id="nothing is left to start: it is about to end",
        ),
    ],
)
def test_a_run_says_why_it_does_not_move(snapshot: Snapshot, sentence: str):
    assert written(why(snapshot).run) == sentence


def test_nothing_is_said_of_what_moves_or_has_ended():
    moving = snapshot(RUNNING, node("a", 4, N.SUCCEEDED), node("b", 5, N.FAILED))

    assert why(moving) == Waiting(None, {})


def test_a_line_says_of_each_why_it_waits():
    line = (place("first", 80, 30, 2000), place("x", 81, 30, 9000), place("clean", 2, 12))
    found = why_in_line(replace(QUEUE, used=3000, line=line), ENGINE, now=NOW)

    assert [(at.node.name, reason.code, written(reason)) for at, reason in found] == [
        (
            "first",
            Code.QUEUE_FULL,
            "[node 80 first] in [run 30 run 30 of load] waits for 2 CU in queue "
            "[queue 7 nightly], which has 1 of 4 free.",
        ),
        (
            "x",
            Code.LARGER_THAN_QUEUE,
            "[node 81 x] in [run 30 run 30 of load] asks for 9 CU, and queue [queue 7 nightly] "
            "has 4 in all.",
        ),
        (
            "clean",
            Code.BEHIND_OTHERS,
            "[node 2 clean] in [run 12 run 12 of etl] waits behind 1 node in queue "
            "[queue 7 nightly]: [node 80 first] in [run 30 run 30 of load].",
        ),
    ]


def test_a_reason_is_a_sentence_a_clause_and_its_links():
    [reason] = why(snapshot(RETRYING, replace(QUEUED, node=thing("q", 8)))).nodes[8]

    assert reason.sentence == "q is about to start in queue nightly."
    assert reason.clause == "is about to start in queue nightly"
    assert reason.links == (QUEUE.queue,)
    assert why(snapshot(RUNNING, run=PAUSED)).run.sentence == (  # type: ignore[union-attr]
        "Run 12 of etl was paused by maya 12 min ago."
    )


@pytest.mark.parametrize(
    ("length", "said"),
    [
        ({"seconds": 0.4}, "0 s"),
        ({"seconds": 119}, "119 s"),
        ({"minutes": 119}, "119 min"),
        ({"hours": 47}, "47 h"),
        ({"days": 9}, "9 d"),
    ],
)
def test_lengths_are_said_in_one_unit(length: dict[str, float], said: str):
    at = replace(RETRYING, retry_at=NOW + timedelta(**length))
    [reason] = why(snapshot(at)).nodes[2]

    assert reason.clause == f"starts attempt 2 in {said}, since attempt 1 failed: exit code 1"


ETL = Thing(Kind.WORKFLOW, 4, "etl")


@pytest.mark.parametrize(
    ("schedule", "code", "sentence"),
    [
        (
            ScheduleStanding(ETL, on=False),
            Code.SCHEDULE_OFF,
            "workflow [workflow 4 etl] does not start by itself: its schedule is off.",
        ),
        (
            ScheduleStanding(ETL, on=False, asked=UPGRADE),
            Code.SCHEDULE_OFF,
            "workflow [workflow 4 etl] does not start by itself: [person 3 maya] turned its "
            "schedule off 12 min ago.",
        ),
        (
            ScheduleStanding(ETL, on=True, hold=QUEUE_HOLD),
            Code.HELD_QUEUE,
            "workflow [workflow 4 etl] waits until [hold 6 queue nightly] is released; "
            "[person 3 maya] held it 12 min ago: upgrade.",
        ),
    ],
)
def test_a_workflow_says_why_its_schedule_does_not_start_it(
    schedule: ScheduleStanding, code: Code, sentence: str
):
    reason = why_not_due(schedule, now=NOW)

    assert (reason.code, written(reason)) == (code, sentence)
    assert reason.sentence.startswith("Workflow etl ")
    assert why_not_due(ScheduleStanding(ETL, on=True), now=NOW) is None
