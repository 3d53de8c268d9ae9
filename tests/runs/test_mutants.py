"""The property tests of hot path and engine can fail: each mutant of either turns one red.

Random lives meet a mutant when luck has it; here each is met by a short life that needs what
it broke. A life is judged as in the property test, and is green without a mutant.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection

from apps.engine import gates
from apps.engine.priority import Priority
from apps.engine.retry import RetryPolicy, retry_delay
from apps.engine.scope import Scope, next_step, run_end
from apps.engine.states import NodeState, Overlap, Strategy, Trigger
from apps.runs.services import advance, aging, moves, scope, sweep
from tests.factories import job
from tests.runs.test_gates_equal_engine import SLOT, Gates
from tests.runs.test_hot_path_equals_engine import Lives, hold_what_is_tagged

pytestmark = pytest.mark.django_db
N = NodeState

#: Edges of three nodes, by the bits of `Lives.start`: 0-1, 0-2, 1-2.
FORK, BESIDE, JOIN, APART = 0b011, 0b010, 0b110, 0b000


class Life:
    """A life whose steps are told; all that always holds is looked at after each."""

    def __init__(
        self,
        bits: int = APART,
        nodes: int = 3,
        limit: int | None = None,
        chain: bool = False,
        **more: object,
    ) -> None:
        self.told = Lives()
        self.step("start", bits=bits, nodes=nodes, limit=limit, chain=chain, **more)

    def step(self, name: str, **how: object) -> None:
        getattr(self.told, name)(**how)
        self.told.nodes_stand_where_the_engine_says()
        self.told.run_ends_when_the_engine_says()
        self.told.counters_and_capacity_add_up()
        self.told.every_event_is_an_arrow_and_none_is_missing()

    def claim(self, queue: int = 0) -> None:
        self.step("claims", queue=queue)

    def end(self, how: NodeState = N.SUCCEEDED, *, take: bool = False, pick: int = 0) -> None:
        self.step("finishes", pick=pick, how=how, take=take)


class Together:
    """Steps of the runs of three workflows, told and looked at as those of one life."""

    def __init__(
        self,
        overlap: Overlap = Overlap.WAIT,
        nodes: int = 1,
        priorities: tuple[Priority, ...] = (Priority.MEDIUM,) * 3,
        demands: tuple[int, ...] = (SLOT,) * 3,
        chain: bool = False,
    ) -> None:
        self.told = Gates()
        self.step(
            "start",
            shapes=[
                (nodes, chain, 0, priority, demand, overlap)
                for priority, demand in zip(priorities, demands, strict=True)
            ],
        )

    def step(self, name: str, **how: object) -> None:
        getattr(self.told, name)(**how)
        self.told.runs_wait_as_the_engine_says()
        self.told.nodes_stand_where_the_engine_says()
        self.told.lines_stand_as_the_engine_says()
        self.told.counters_add_up()

    def start(self, which: int = 0, day: int = 0, how: Trigger = Trigger.MANUAL) -> None:
        self.step("starts", which=which, day=day, how=how)

    def scheduled(self, *days: int) -> None:
        for day in days:
            self.start(day=day, how=Trigger.SCHEDULE)

    def claim(self) -> None:
        self.step("claims")

    def end(self, *, take: bool = False, heard: bool = True) -> None:
        self.step("finishes", take=take, heard=heard)

    def waits(self, seconds: int) -> None:
        self.step("time_passes", seconds=seconds)


def chain() -> None:
    """From hop to hop to the end, then once more."""
    life = Life(chain=True)
    life.claim()
    life.end(take=True)
    life.end(take=True)
    life.end(take=True)
    life.step("reruns_a_node", pick=0, downstream=True)
    life.claim()
    life.end(take=True)


def fork() -> None:
    life = Life(FORK)
    life.claim()
    life.end(take=True)
    life.claim()
    life.end()
    life.end()


def join() -> None:
    life = Life(JOIN)
    life.claim()
    life.claim()
    life.end(take=True)
    life.end(take=True)
    life.end()


def full_queue() -> None:
    life = Life(APART)
    life.claim()
    life.claim()
    life.claim()
    life.end(take=True)
    life.end()
    life.end()


def lowered_capacity() -> None:
    life = Life(APART)
    life.claim()
    life.claim()
    life.step("capacity_is_set", capacity=250)
    life.end(take=True)
    life.end(take=True)


def limited() -> None:
    life = Life(APART, limit=1)
    life.claim()
    life.end(take=True)
    life.end(N.FAILED)
    life.claim()
    life.end()


def slot_of_a_limited_run() -> None:
    """A node's place in its run goes to the first that waits, not to its own successor."""
    life = Life(BESIDE, limit=1)
    life.claim()
    life.end(take=True)
    life.end(take=True)


def lowered_beside_a_chain() -> None:
    life = Life(BESIDE)
    life.claim()
    life.claim()
    life.step("capacity_is_set", capacity=250)
    life.end(take=True)


def paused() -> None:
    life = Life(chain=True)
    life.step("pauses")
    life.step("resumes")
    life.claim()
    life.step("pauses")
    life.end(take=True)
    life.step("resumes")


def paused_when_it_is_lost() -> None:
    life = Life(APART)
    life.claim()
    life.step("pauses")
    life.step("gives_up", pick=0, lost=True)


def held() -> None:
    life = Life(chain=True)
    life.claim()
    life.step("a_tag_holds_the_run_or_lets_it_go")
    life.end(take=True)
    life.step("a_tag_holds_the_run_or_lets_it_go")
    life.claim()
    life.step("a_tag_holds_the_run_or_lets_it_go")
    life.step("gives_up", pick=0, lost=True)


def held_queue() -> None:
    life = Life(APART)
    life.claim()
    life.step("the_queue_is_held_or_let_go")
    life.claim()
    life.end(take=True)
    life.step("the_queue_is_held_or_let_go")
    life.claim()


def held_queue_of_a_chain() -> None:
    life = Life(chain=True)
    life.claim()
    life.step("the_queue_is_held_or_let_go")
    life.end(take=True)


def lost_reply() -> None:
    life = Life(chain=True)
    life.claim()
    life.end(take=True)
    life.step("repeats_a_finish_whose_reply_was_lost", pick=0)
    life.step("finishes_late", pick=0)


def lost_worker() -> None:
    """The node runs again; its first worker comes back and is fenced off."""
    life = Life(APART, nodes=1)
    life.claim()
    lost = life.told.held[0]
    life.step("gives_up", pick=0, lost=True)
    life.claim()
    life.told.past.append((lost, uuid4(), None))
    life.step("finishes_late", pick=0)
    life.end()


def retried() -> None:
    life = Life(chain=True)
    life.claim()
    life.end(N.RETRYING)
    life.step("retries_come_due")
    life.claim()
    life.end(take=True)


def stopped_while_it_runs() -> None:
    life = Life(chain=True)
    life.claim()
    life.step("stops_a_node", pick=0)
    life.end(N.RETRYING)


def stopped_beside_others() -> None:
    life = Life(APART)
    life.step("stops_a_node", pick=0)
    life.step("stops_a_node", pick=1)
    life.claim()
    life.end()


def stopped_run() -> None:
    life = Life(chain=True)
    life.claim()
    life.step("stops_the_run")
    life.end(take=True)


def stopped_before_it_started() -> None:
    life = Life(APART)
    life.step("stops_the_run")


def failed_and_repeated() -> None:
    life = Life(JOIN)
    life.claim()
    life.end(N.FAILED)
    life.claim()
    life.end()
    life.step("reruns_what_failed")
    life.claim()
    life.end(take=True)
    life.end()


def one_node_again() -> None:
    life = Life(chain=True, nodes=2)
    life.claim()
    life.end(N.FAILED)
    life.step("reruns_a_node", pick=1, downstream=False)
    life.claim()
    life.end()


def upstream_alone_again() -> None:
    """What waited for it and was not chosen stays as it is."""
    life = Life(chain=True, nodes=2)
    life.claim()
    life.end(N.FAILED)
    life.step("reruns_a_node", pick=0, downstream=False)
    life.claim()
    life.end(take=True)


def one_of_two_again() -> None:
    """In a run that is not over the rest goes on, whatever runs again beside it."""
    life = Life(BESIDE)
    life.claim()
    life.claim()
    life.end(N.FAILED, pick=1)
    life.step("reruns_a_node", pick=1, downstream=False)
    life.end(take=True)


def lost_four_times() -> None:
    life = Life(nodes=1)
    for _ in range(4):
        life.claim()
        life.step("gives_up", pick=0, lost=True)


def set_to_success() -> None:
    life = Life(chain=True)
    life.claim()
    life.end(N.FAILED)
    life.step("sets_a_node_to_success", pick=0)
    life.claim()


def strategy_end() -> None:
    """A node fails while another runs and a third is queued: one is stopped, one never starts."""
    life = Life(APART, strategy=Strategy.END)
    life.claim()
    life.claim()
    life.end(N.FAILED, take=True)
    life.step("its_failures_are_answered")
    life.end(N.RETRYING)
    life.step("reruns_a_node", pick=2, downstream=False)
    life.step("its_failures_are_answered")
    life.claim()


def strategy_end_in_a_paused_run() -> None:
    """It is answered once the run is resumed, and then nothing starts before."""
    life = Life(APART, strategy=Strategy.END)
    life.claim()
    life.step("pauses")
    life.end(N.FAILED)
    life.step("its_failures_are_answered")
    life.step("resumes")


def strategy_end_in_a_held_run() -> None:
    life = Life(APART, strategy=Strategy.END)
    life.claim()
    life.step("a_tag_holds_the_run_or_lets_it_go")
    life.end(N.FAILED)
    life.step("its_failures_are_answered")
    life.step("a_tag_holds_the_run_or_lets_it_go")


def two_queues() -> None:
    """A chain whose second node stands in another queue: the first one's worker passes it by."""
    life = Life(chain=True, second=0b010)
    life.claim()
    life.end(take=True)
    life.claim(1)
    life.end(take=True)
    life.claim()


def lane_of_one() -> None:
    together = Together()
    together.scheduled(0, 1, 2, 3)
    together.claim()
    together.end()
    together.claim()
    together.end(heard=False)
    together.step("the_sweep_looks")


def paused_in_line() -> None:
    together = Together()
    together.scheduled(0, 1, 2)
    together.step("is_paused", pick=1)
    together.claim()
    together.end()
    together.step("is_resumed", pick=0)
    together.claim()
    together.end()


def held_in_line() -> None:
    together = Together()
    together.scheduled(0, 1)
    together.claim()
    together.step("a_tag_holds_a_workflow_or_lets_it_go", which=0)
    together.end()
    together.step("a_tag_holds_a_workflow_or_lets_it_go", which=0)
    together.step("the_sweep_looks")


def one_cycle_in_a_lane() -> None:
    """Of two runs of a cycle in a lane with room the later waits, and another passes it."""
    together = Together(Overlap.PARALLEL)
    together.scheduled(0, 0, 1)


def one_cycle_stopped_in_the_middle() -> None:
    """Who waited for the stopped run waits for the newest before it, not for the oldest."""
    together = Together()
    for _ in range(4):
        together.start()
    together.step("is_stopped", pick=2)
    together.claim()
    together.end()
    together.claim()
    together.end()


def one_cycle_beside_another() -> None:
    together = Together()
    together.start(day=0)
    together.start(day=1)
    together.start(day=0)
    together.claim()
    together.end()


def from_a_cycle_into_a_full_lane() -> None:
    """A run whose cycle is free stands in its lane's line again, and starts where there is room."""
    together = Together()
    together.start(day=1)
    together.scheduled(0, 1)
    together.claim()
    together.end()
    together.claim()
    together.end()


def from_a_cycle_into_a_free_lane() -> None:
    together = Together()
    together.start(day=0)
    together.scheduled(0)
    together.claim()
    together.end()


def two_flows() -> None:
    """Three runs of the first, then one of the second, which stands with the head of the line."""
    together = Together()
    for day in range(3):
        together.start(0, day)
    together.start(1)
    together.claim()
    together.end(take=True)
    together.start(2)
    together.end(take=True)
    together.end(take=True)


def beside_each_other() -> None:
    Together(nodes=3).start()


def two_priorities() -> None:
    together = Together(priorities=(Priority.LOW, Priority.MEDIUM, Priority.MEDIUM))
    together.start(0)
    together.start(1)
    together.claim()
    together.end(take=True)


def risen_and_handed_back() -> None:
    together = Together()
    together.start()
    together.waits(600)
    together.claim()
    together.step("is_handed_back", pick=0)


def low_priority_that_waits() -> None:
    """It rises to the next level, and there stands with the head of the line."""
    together = Together(priorities=(Priority.LOW, Priority.MEDIUM, Priority.MEDIUM), nodes=2)
    together.start(1, 0)
    together.start(1, 1)
    together.claim()
    together.end()
    together.start(0)
    together.waits(61)
    together.waits(600)
    together.waits(600)
    together.claim()


def large_node() -> None:
    """It is passed at first, and holds the others back once it has waited."""
    together = Together(demands=(SLOT, 2 * SLOT, SLOT))
    together.start(0)
    together.claim()
    together.start(1)
    together.start(0, 1)
    together.claim()
    together.start(0, 2)
    together.end()
    together.waits(61)
    together.claim()


def node_larger_than_all() -> None:
    together = Together(demands=(SLOT, 2 * SLOT, SLOT))
    together.start(1)
    together.start(0)
    together.waits(61)
    together.step("capacity_is_set", queue=0, capacity=SLOT)
    together.claim()


def retries_run_out() -> None:
    """What a worker asks when a node has failed: the pauses grow, and end."""
    policy = RetryPolicy(retries=3, interval_seconds=10, backoff=2, max_interval_seconds=25)
    pauses = [retry_delay(policy, failures=n, exit_code=1) for n in (1, 2, 3, 4)]
    assert pauses == [10.0, 20.0, 25.0, None]


#: A function of the hot path, what it says, what it says wrongly, and a life that sees it.
SQL_MUTANTS = {
    "a past attempt ends its successor": (
        "finish",
        "AND attempt = p_attempt AND state = 'running'",
        "AND state = 'running'",
        lost_worker,
    ),
    "an attempt ends twice": (
        "finish",
        "AND attempt = p_attempt AND state = 'running'",
        "AND attempt = p_attempt",
        lost_reply,
    ),
    "any late finish is accepted": (
        "finish",
        "past.finish_request IS DISTINCT FROM p_request",
        "false",
        lost_reply,
    ),
    "a repeated finish is refused": (
        "finish",
        "past.finish_request IS DISTINCT FROM p_request",
        "true",
        lost_reply,
    ),
    "an upstream counts twice": ("finish", "SET need = need - 1", "SET need = need - 2", join),
    "an upstream does not count": ("finish", "SET need = need - 1", "SET need = need", fork),
    "a failure counts as success": (
        "finish",
        "NOT direct AND me.state = 'succeeded'",
        "NOT direct",
        failed_and_repeated,
    ),
    "a finish that takes nothing keeps its capacity": (
        "finish",
        "SET used = used - me.demand",
        "SET used = used",
        full_queue,
    ),
    "what was in hand is kept": (
        "take",
        "SET used = used - have WHERE id = p_queue;",
        "SET used = used;",
        chain,
    ),
    "capacity is taken without asking": (
        "ask",
        "used + p_more <= capacity",
        "used + p_more <= capacity + 250",
        full_queue,
    ),
    "capacity is handed on above its limit": (
        "take",
        "have > 0 AND (above OR shut)",
        "have > 0 AND shut",
        lowered_capacity,
    ),
    "a held queue's capacity is kept": (
        "take",
        "have > 0 AND (above OR shut)",
        "have > 0 AND above",
        held_queue,
    ),
    "an attempt has the number of the one before": (
        "take",
        "attempt = attempt + 1",
        "attempt = attempt",
        lost_worker,
    ),
    "a pause is not seen as nodes are admitted": (
        "admit",
        "run.hold <> ''",
        "run.hold = '-'",
        paused_when_it_is_lost,
    ),
    "a hold is not seen as nodes are admitted": ("admit", "OR run.held", "", held),
    "a limited run is admitted as if nothing were under way": (
        "admit",
        "run.parallelism - run.active",
        "run.parallelism",
        limited,
    ),
    "a place in a limited run is handed on twice": (
        "finish",
        "ORDER BY id LIMIT 1",
        "ORDER BY id LIMIT 2",
        limited,
    ),
    "a hop goes on in a paused run": (
        "finish",
        "AND run.hold = '' AND NOT run.held AND",
        "AND NOT run.held AND",
        paused,
    ),
    "a hop goes on in a held run": (
        "finish",
        "AND run.hold = '' AND NOT run.held AND",
        "AND run.hold = '' AND",
        held,
    ),
    "a hop passes who waits in a limited run": (
        "finish",
        "AND NOT run.held AND run.parallelism IS NULL",
        "AND NOT run.held",
        slot_of_a_limited_run,
    ),
    "a hop does not wait for a second upstream": (
        "finish",
        "state = 'pending' AND need = 1",
        "state = 'pending' AND need > 0",
        join,
    ),
    "a hop goes on in a held queue": (
        "finish",
        "used <= capacity AND NOT held",
        "used <= capacity",
        held_queue_of_a_chain,
    ),
    "a hop goes on above the limit": (
        "finish",
        "used <= capacity AND NOT held",
        "NOT held",
        lowered_beside_a_chain,
    ),
    "a pause loses what became ready": (
        "finish",
        "run.hold IN ('', 'paused')",
        "run.hold IN ('')",
        paused,
    ),
    "a stopped node is tried again": (
        "finish",
        "'retrying' AND stop <> ''",
        "'retrying' AND stop = '-'",
        stopped_while_it_runs,
    ),
    "a failure that ends its run takes a node first": (
        "finish",
        "run.strategy = 'end'",
        "run.strategy = '-'",
        strategy_end,
    ),
    "a hop goes on into another queue": (
        "finish",
        "AND queue_id = me.queue_id AND demand",
        "AND demand",
        two_queues,
    ),
    "a node that is tried again counts as ended": (
        "finish",
        "(me.state <> 'retrying')::integer",
        "1",
        retried,
    ),
    "a run ends while a node waits": (
        "close",
        "run.open = 0",
        "run.open <= 1",
        stopped_beside_others,
    ),
    "a run with a stopped node has failed": (
        "close",
        "stopped > 0",
        "stopped > 2",
        stopped_beside_others,
    ),
    "a run ends from where it never was": (
        "close",
        "p_run, was,",
        "p_run, 'running',",
        stopped_before_it_started,
    ),
    "a run that has started still waits": (
        "run_started",
        "state = 'running'",
        "state = state",
        chain,
    ),
    "a lane has room for one run more": (
        "fill",
        "most - count(*)",
        "most + 1 - count(*)",
        lane_of_one,
    ),
    "a lane's limit is not looked at": ("fill", "LIMIT room", "LIMIT NULL", lane_of_one),
    "the last in line comes first": (
        "fill",
        "ORDER BY id LIMIT room",
        "ORDER BY id DESC LIMIT room",
        lane_of_one,
    ),
    "who waits in line takes a place": (
        "fill",
        "('pending', 'running') AND NOT waits",
        "('pending', 'running')",
        lane_of_one,
    ),
    "who has not started takes no place": (
        "fill",
        "state IN ('pending', 'running')",
        "state = 'running'",
        lane_of_one,
    ),
    "a paused run is let out of its line": (
        "fill",
        "AND hold = '' AND NOT held",
        "AND NOT held",
        paused_in_line,
    ),
    "a held run is let out of its line": (
        "fill",
        "AND hold = '' AND NOT held",
        "AND hold = ''",
        held_in_line,
    ),
    "a lane lets two runs of a cycle start": (
        "fill",
        "AND waits_for_id IS NULL",
        "",
        one_cycle_in_a_lane,
    ),
    "an earlier run of the cycle that has not started is passed": (
        "follow",
        "state IN ('pending', 'running') AND trigger <> 'debug' AND id < one.id",
        "state = 'running' AND id < one.id",
        one_cycle_stopped_in_the_middle,
    ),
    "a run waits for the oldest of its cycle": (
        "follow",
        "max(id)",
        "min(id)",
        one_cycle_stopped_in_the_middle,
    ),
    "a run waits for one of another cycle": (
        "follow",
        "AND cycle = one.cycle",
        "",
        one_cycle_beside_another,
    ),
    "a run passes its lane when its cycle is free": (
        "follow",
        "before IS NOT NULL OR lane_id IS NOT NULL",
        "before IS NOT NULL",
        from_a_cycle_into_a_full_lane,
    ),
    "nobody looks at the lane of one whose cycle is free": (
        "follow",
        "lanes := lanes || one.lane_id",
        "NULL",
        from_a_cycle_into_a_free_lane,
    ),
    "a flow's next node stands with its last": (
        "turn",
        "DESC LIMIT 1) + 1",
        "DESC LIMIT 1)",
        two_flows,
    ),
    "a newcomer stands before the head of the line": (
        "turn",
        "level DESC, turn, queued_at LIMIT 1",
        "level DESC, turn, queued_at LIMIT 0",
        two_flows,
    ),
    "nodes of a flow that are queued at once stand at one turn": (
        "enqueue",
        "first.turn + batch.place",
        "first.turn",
        beside_each_other,
    ),
    "a node keeps the level that it rose to": (
        "enqueue",
        "priority AS level, flow INTO one",
        "level, flow INTO one",
        risen_and_handed_back,
    ),
    "the lowest priority comes first": ("take", "level DESC", "level", two_priorities),
    "flows take no turns": ("take", "level DESC, turn,", "level DESC,", two_flows),
    "a large node is passed for ever": ("take", "'60 s'", "'60 h'", large_node),
    "a large node is passed by nobody": ("take", "'60 s'", "'0 s'", large_node),
    "a node larger than all holds back the rest": (
        "take",
        "AND demand <= whole",
        "",
        node_larger_than_all,
    ),
}

#: The same of the engine, and of what reads and writes for it.
ENGINE_MUTANTS = {
    "a node starts before its upstreams": (next_step, "not lacking.get(key)", "True", chain),
    "a node outside the scope starts": (
        next_step,
        "key for key in scope.keys if",
        "key for key in states if",
        upstream_alone_again,
    ),
    "a run is over while nodes run": (next_step, "now & ACTIVE", "not now", chain),
    "a stopped node makes no stopped run": (
        run_end,
        "NodeState.STOPPED in now",
        "not now",
        stopped_beside_others,
    ),
    "one success is enough": (
        run_end,
        "now <= {NodeState.SUCCEEDED}",
        "NodeState.SUCCEEDED in now",
        failed_and_repeated,
    ),
    "a failed upstream counts as succeeded": (
        Scope.lacking,
        "is not NodeState.SUCCEEDED",
        "is NodeState.PENDING",
        failed_and_repeated,
    ),
    "a rerun waits for what it left out": (
        Scope.rerun,
        "if up in keys and key in keys",
        "if key in keys",
        one_node_again,
    ),
    "a rerun forgets what goes on besides": (
        Scope.rerun,
        "if over else",
        "if True else",
        one_of_two_again,
    ),
    "what a rerun left out becomes ready": (
        scope.count_needs,
        "lacking[node.pk] + node.outside",
        "lacking[node.pk]",
        upstream_alone_again,
    ),
    "a rerun's scope is not kept": (
        scope.keep_scope,
        'bulk_update(changed, ["down"',
        'bulk_update([], ["down"',
        upstream_alone_again,
    ),
    "a lost worker's capacity is gone": (
        moves._give_back,
        'F("used") - demand',
        'F("used")',
        lost_worker,
    ),
    "a move is not counted": (
        moves._count,
        "F(name) + n",
        "F(name)",
        stopped_beside_others,
    ),
    "a failure ends a paused run": (
        advance.advance,
        "may_go_on = run.hold == Hold.NONE and not",
        "may_go_on = not",
        strategy_end_in_a_paused_run,
    ),
    "a failure ends a held run": (
        advance.advance,
        "and not run.held",
        "",
        strategy_end_in_a_held_run,
    ),
    "an answered failure ends the run again": (
        advance.advance,
        "run.strategy == Strategy.END and run.has_failed",
        "run.strategy == Strategy.END and run.failed",
        strategy_end,
    ),
    "a lane counts nobody": (
        gates.admitted,
        "max(limit - under_way, 0)",
        "limit",
        lane_of_one,
    ),
    "of its cycle a run waits for the oldest": (
        gates.waits_for,
        "max(",
        "min(",
        one_cycle_stopped_in_the_middle,
    ),
    "a large node never holds back": (
        gates.next_node,
        "now - each.since > PATIENCE_SECONDS",
        "False",
        large_node,
    ),
    "all in line rise": (
        aging._raise_first.__wrapped__,
        "DISTINCT ON (queue_id, flow, priority)",
        "",
        low_priority_that_waits,
    ),
    "a node rises too early": (
        aging._raise_first.__wrapped__,
        "(level - priority + 1)",
        "(level - priority)",
        low_priority_that_waits,
    ),
    "what rises stands before all": (
        aging._raise_first.__wrapped__,
        "LIMIT 1), 0)",
        "LIMIT 0), 0)",
        low_priority_that_waits,
    ),
    "a node loses workers for ever": (
        sweep.lose,
        "node.losses >= LOSSES_ALLOWED",
        "node.losses > LOSSES_ALLOWED",
        lost_four_times,
    ),
    "one retry too few": (
        retry_delay,
        "failures > policy.retries",
        "failures >= policy.retries",
        retries_run_out,
    ),
    "pauses do not grow": (
        retry_delay,
        "policy.backoff <= 1",
        "policy.backoff <= 2",
        retries_run_out,
    ),
}

LIVES = {each[3] for each in (*SQL_MUTANTS.values(), *ENGINE_MUTANTS.values())}


@pytest.fixture(autouse=True)
def prepared() -> None:
    job()
    hold_what_is_tagged()


@pytest.mark.parametrize("life", sorted(LIVES, key=lambda each: each.__name__))
def test_life_is_green_without_a_mutant(life: Callable[[], None]) -> None:
    life()


@pytest.mark.parametrize("mutant", SQL_MUTANTS)
def test_mutant_of_the_hot_path_is_seen(mutant: str) -> None:
    function, sound, wrong, life = SQL_MUTANTS[mutant]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = %s",
            [f"runyard_{function}"],
        )
        [[text]] = cursor.fetchall()
        assert sound in text
        cursor.execute(text.replace(sound, wrong))

    with pytest.raises((AssertionError, IntegrityError)):
        life()


@pytest.mark.parametrize("mutant", ENGINE_MUTANTS)
def test_mutant_of_the_engine_is_seen(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, sound, wrong, life = ENGINE_MUTANTS[mutant]
    text = textwrap.dedent(inspect.getsource(function))
    text = text[text.index("def ") :]  # a decorator stays as it is
    assert sound in text
    made: dict[str, object] = {}
    exec(text.replace(sound, wrong), {**function.__globals__}, made)  # noqa: S102 -- our own code
    [code] = [each.__code__ for each in made.values()]

    # In place: whoever has imported the function has the mutant.
    monkeypatch.setattr(function, "__code__", code)
    with pytest.raises((AssertionError, IntegrityError)):
        life()
