"""The hot path's SQL and the pure engine, driven side by side through random lives of runs.

After each step the nodes stand where the engine says that they should, the run has ended
just when the engine says so, and counters and capacity equal what the nodes add up to.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection
from datetime import timedelta
from itertools import combinations, pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db.models import F, Sum
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from hypothesis.strategies import SearchStrategy

from apps.core.errors import Conflict
from apps.engine.graph import Graph
from apps.engine.scope import Scope, next_step, run_end
from apps.engine.states import (
    ACTIVE,
    ARROWS,
    ENDED,
    RUN_ARROWS,
    RUN_ENDED,
    NodeState,
    RunState,
    Strategy,
    Trigger,
)
from apps.runs.models import Attempt, NodeRun, Run, RunEvent
from apps.runs.services.advance import advance
from apps.runs.services.holding import hold, release, tag_workflow
from apps.runs.services.hot_path import Claim, Outcome, claim, finish
from apps.runs.services.launch import launch
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.rerun import rerun_failed, rerun_nodes, rerun_scope, to_repeat
from apps.runs.services.stop import stop_node, stop_run
from apps.runs.services.success import set_success
from apps.runs.services.sweep import (
    end_long_waits,
    hand_back,
    lose,
    needs_advance,
    recount_idle_runs,
    start_due_retries,
)
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workspaces.models import ResourceQueue, Workspace, WorkspaceHold
from tests.factories import job

N = NodeState
ME = "worker@here:1"
#: What a queued or running node asks for, and room for two of them at first.
DEMAND, CAPACITY = 250, 500
#: The runs of a workflow with this tag are held.
HELD = {"layer": "held"}
#: How many random lives; thousands before a release.
LIVES = int(os.environ.get("LIVES", "8"))


Step = Callable[..., None]


def often(
    share: int, when: Callable[[Any], object] = lambda _: True, **draws: SearchStrategy[Any]
) -> Any:
    """A step of a walk that comes in this proportion where it can, with what is drawn for it."""

    def mark(step: Step) -> Step:
        step.__dict__["often"] = (share, when, draws)
        return step

    return mark


class Walk(RuleBasedStateMachine):
    """Random steps in the proportions that `often` gives them.

    As rules of their own all would come alike, and the rare ones would leave little to be seen:
    of 30 such lives two came to an end.
    """

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        marked = {
            name: step.often
            for name, step in inspect.getmembers(type(self), inspect.isfunction)
            if hasattr(step, "often")
        }
        # The most frequent first: what is drawn leans to the front.
        order = sorted(marked, key=lambda each: -marked[each][0])
        can = [each for each in order if marked[each][1](self) for _ in range(marked[each][0])]
        name = data.draw(st.sampled_from(can), "step")
        _, _, draws = marked[name]
        getattr(self, name)(**{each: data.draw(draw, each) for each, draw in draws.items()})


class Lives(Walk):
    """One run of a random graph, in two queues of its own."""

    @initialize(
        # One bit for each pair of nodes that an edge may lead along.
        bits=st.integers(0, 2**15 - 1),
        nodes=st.integers(1, 6),
        limit=st.sampled_from([None, None, 1, 2]),
        chain=st.sampled_from([False, False, True]),
        strategy=st.sampled_from([Strategy.CONTINUE, Strategy.CONTINUE, Strategy.END]),
        # One bit for each node that stands in the second queue.
        second=st.sampled_from([0, 0, *range(2**6)]),
    )
    def start(
        self,
        bits: int,
        nodes: int,
        limit: int | None,
        chain: bool,
        strategy: Strategy = Strategy.CONTINUE,
        second: int = 0,
    ) -> None:
        names = [f"n{i}" for i in range(nodes)]
        pairs = [pair for bit, pair in enumerate(combinations(names, 2)) if bits >> bit & 1]
        self.graph = Graph.build(names, pairwise(names) if chain else pairs)
        used = job()
        workspace = Workspace.objects.get(name="default")
        self.queues = [
            ResourceQueue.objects.create(
                workspace=workspace,
                name=f"queue_{uuid4().hex}",
                capacity=CAPACITY,
                production=True,
            )
            for _ in range(2)
        ]
        self.queue_of = {name: second >> i & 1 for i, name in enumerate(names)}
        self.capacity: list[int] = [CAPACITY, CAPACITY]
        self.shut: list[WorkspaceHold | None] = [None, None]
        self.barred = False
        self.strategy = strategy
        workflow = Workflow.objects.create(workspace=workspace, name=uuid4().hex)
        common = {"retries": None, "retry_interval_seconds": None, "timeout_seconds": None}
        version = WorkflowVersion.objects.create(
            workflow=workflow,
            number=1,
            digest="",
            graph={
                "settings": {
                    "queue": self.queues[0].pk,
                    "retries": 5,
                    "retry_interval_seconds": 0,
                    "queue_timeout_seconds": 3600,
                    "timeout_seconds": None,
                    "parallelism": limit,
                    "strategy": strategy,
                },
                "nodes": [
                    {
                        "name": name,
                        "job": used.pk,
                        "job_version_number": None,
                        "queue": self.queues[1].pk if self.queue_of[name] else None,
                    }
                    | common
                    for name in names
                ],
                "edges": [list(edge) for edge in self.graph.edges],
            },
        )
        [self.run] = launch(version, cycles=[timezone.now()], trigger=Trigger.MANUAL, by=None)
        self.limit = limit
        self.states = dict.fromkeys(names, N.PENDING)
        self.scope = Scope.whole(self.graph)
        self.paused = False
        self.held: list[Claim] = []
        self.past: list[tuple[Claim, UUID, Claim | None]] = []
        #: What was asked of the whole run, and so of what still ran: to end as this.
        self.ending: NodeState | None = None
        self.asked: dict[str, NodeState] = {}
        #: What failed since the run was opened: an older failure calls for nothing.
        self.failures: set[str] = set()
        self.settle()

    # --- the model ----------------------------------------------------------------------

    def settle(self) -> None:
        """Queue what the engine would start, lowest first, as far as the run's limit allows."""
        if self.ending or self.paused or self.barred:
            return
        for key in self.graph.in_order:
            active = sum(s in (N.QUEUED, N.RUNNING) for s in self.states.values())
            if self.limit is not None and active >= self.limit:
                return
            if key in next_step(self.scope, self.states).start:
                self.states[key] = N.QUEUED

    def goes_further(self) -> None:
        """Cut the run off where its strategy says so, unless it is held back; else settle."""
        if self.ending or (self.must_end() and not (self.paused or self.barred)):
            self.cut_off(self.ending or N.CANCELLED)
        else:
            self.settle()

    def taken(self, mine: Claim | None) -> None:
        if mine is not None:
            assert self.states[mine.key] is N.QUEUED
            self.states[mine.key] = N.RUNNING
            self.held.append(mine)

    def standing(self, queue: int, state: NodeState) -> int:
        """How many nodes of one of the queues stand there."""
        return sum(s is state and self.queue_of[k] == queue for k, s in self.states.items())

    def can_take(self, queue: int, running: int) -> bool:
        """Whether a node is there to take, if so many of its queue run with it."""
        return (
            self.standing(queue, N.QUEUED) > 0
            and self.shut[queue] is None
            and running * DEMAND <= self.capacity[queue]
        )

    def must_end(self) -> bool:
        """Whether its strategy wants the rest of the run to be cut off."""
        failed = any(self.states[key] is N.FAILED for key in self.failures)
        return self.strategy is Strategy.END and failed

    def cut_off(self, how: NodeState) -> None:
        for key, state in self.states.items():
            ready = key in next_step(self.scope, self.states).start
            if state is N.RUNNING:
                self.asked.setdefault(key, how)
            elif state in ACTIVE or (state is N.PENDING and ready):
                self.states[key] = how
        self.ending, self.paused = how, False

    # --- what can happen ----------------------------------------------------------------

    @often(
        16,
        when=lambda self: N.QUEUED in self.states.values(),
        queue=st.sampled_from([0, 0, 1]),
    )
    def claims(self, queue: int = 0) -> None:
        fits = self.can_take(queue, self.standing(queue, N.RUNNING) + 1)

        mine = claim(self.queues[queue].pk, ME, uuid4())

        assert (mine is not None) == fits
        assert mine is None or self.queue_of[mine.key] == queue
        self.taken(mine)

    @often(
        16,
        when=lambda self: self.held,
        pick=st.integers(0, 100),
        how=st.sampled_from([N.SUCCEEDED, N.SUCCEEDED, N.SUCCEEDED, N.FAILED, N.RETRYING]),
        take=st.booleans(),
    )
    def finishes(self, pick: int, how: NodeState, take: bool) -> None:
        mine = self.held.pop(pick % len(self.held))
        queue = self.queue_of[mine.key]
        running = self.standing(queue, N.RUNNING)
        if mine.key in self.asked and how is N.FAILED:
            how = self.asked[mine.key]  # its worker ended the child
        request = uuid4()
        retry_in = 0.0 if how is N.RETRYING else None

        done = finish(mine, Outcome(how, retry_in=retry_in), worker=ME, request=request, take=take)

        if how is N.RETRYING and mine.key in self.asked:
            how = self.asked[mine.key]  # a stop takes the retry away
        self.asked.pop(mine.key, None)
        assert (done.accepted, done.state) == (True, how)
        self.states[mine.key] = how
        if how is N.FAILED:
            self.failures.add(mine.key)
            # What would come next is about to be cut off.
            take = take and self.strategy is not Strategy.END
        self.settle()
        if take:
            assert (done.next is not None) == self.can_take(queue, running)
            assert done.next is None or self.queue_of[done.next.key] == queue
            self.taken(done.next)
        else:
            assert done.next is None
        self.past.append((mine, request, done.next))

    @often(2, when=lambda self: self.past, pick=st.integers(0, 100))
    def repeats_a_finish_whose_reply_was_lost(self, pick: int) -> None:
        mine, request, following = self.past[pick % len(self.past)]

        again = finish(mine, Outcome(N.FAILED), worker=ME, request=request, take=True)

        node = NodeRun.objects.get(pk=mine.node_run_id)
        if node.state == N.RUNNING and node.attempt == mine.attempt:
            raise AssertionError("a finished attempt runs again")
        assert again.accepted is True
        still = following is not None and following in self.held
        assert again.next == (following if still else None)

    @often(1, when=lambda self: self.past, pick=st.integers(0, 100))
    def finishes_late(self, pick: int) -> None:
        mine, _, _ = self.past[pick % len(self.past)]

        late = finish(mine, Outcome(N.SUCCEEDED), worker=ME, request=uuid4(), take=True)

        assert late.accepted is False

    @often(2, when=lambda self: self.held, pick=st.integers(0, 100), lost=st.booleans())
    def gives_up(self, pick: int, lost: bool) -> None:
        """A worker is lost, or hands its node back."""
        mine = self.held.pop(pick % len(self.held))
        node = NodeRun.objects.get(pk=mine.node_run_id)
        if lost and node.losses >= 3:
            self.states[mine.key] = N.FAILED
        else:
            self.states[mine.key] = N.PENDING
        if mine.key in self.asked:
            self.states[mine.key] = self.asked.pop(mine.key)
        if self.states[mine.key] is N.FAILED:
            self.failures.add(mine.key)
        if lost:
            lose(NodeRun.objects.select_for_update().get(pk=mine.node_run_id))
        else:
            assert hand_back(mine.node_run_id, mine.attempt, ME) is True
        self.settle()

    @often(4, when=lambda self: N.RETRYING in self.states.values())
    def retries_come_due(self) -> None:
        self.states = {k: N.PENDING if s is N.RETRYING else s for k, s in self.states.items()}
        start_due_retries()
        self.settle()

    @often(1, when=lambda self: N.QUEUED in self.states.values(), pick=st.integers(0, 6))
    def waits_too_long(self, pick: int) -> None:
        queued = [key for key in self.graph.keys if self.states[key] is N.QUEUED]
        key = queued[pick % len(queued)]
        rows = NodeRun.objects.filter(run=self.run, key=key)
        rows.update(queued_at=F("queued_at") - timedelta(hours=2))
        end_long_waits()
        self.states[key] = N.FAILED
        self.failures.add(key)
        if self.strategy is not Strategy.END:
            self.settle()

    @often(1, pick=st.integers(0, 6))
    def stops_a_node(self, pick: int) -> None:
        key = self.graph.keys[pick % len(self.graph.keys)]
        if self.states[key] in ENDED or self.over():
            return
        stop_node(self.run.nodes.get(key=key), user=None)
        if self.states[key] is N.RUNNING:
            self.asked[key] = N.STOPPED
        else:
            self.states[key] = N.STOPPED
            self.settle()

    @often(1, when=lambda self: not self.over())
    def stops_the_run(self) -> None:
        stop_run(self.run, user=None)
        self.cut_off(N.STOPPED)

    @often(2)
    def its_failures_are_answered(self) -> None:
        """A worker whose node failed asks for it, or else the sweep."""
        over = self.over()
        waits = self.paused or self.barred
        assert self.run.pk in needs_advance() or over or waits or not self.must_end()
        advance(self.run.pk)
        if not over:
            self.goes_further()

    @often(1, when=lambda self: not (self.paused or self.ending or self.over()))
    def pauses(self) -> None:
        pause_run(self.run, user=None)
        self.paused = True
        self.states = {k: N.PENDING if s is N.QUEUED else s for k, s in self.states.items()}

    @often(4, when=lambda self: self.paused and not self.over())
    def resumes(self) -> None:
        resume_run(self.run, user=None)
        self.paused = False
        self.goes_further()

    @often(2)
    def a_tag_holds_the_run_or_lets_it_go(self) -> None:
        over = self.over()
        self.barred = not self.barred
        tag_workflow(self.run.workflow, HELD if self.barred else {}, user=None)
        if self.barred and not over:
            self.states = {k: N.PENDING if s is N.QUEUED else s for k, s in self.states.items()}
        if not over:
            self.goes_further()

    @often(2, queue=st.sampled_from([0, 0, 1]))
    def the_queue_is_held_or_let_go(self, queue: int = 0) -> None:
        held = self.shut[queue]
        if held is not None:
            release(held, user=None)
            self.shut[queue] = None
        else:
            row = self.queues[queue]
            self.shut[queue] = hold(row.workspace, queue=row, user=None)

    @often(
        2,
        queue=st.sampled_from([0, 0, 1]),
        capacity=st.sampled_from([DEMAND, CAPACITY, 3 * DEMAND]),
    )
    def capacity_is_set(self, capacity: int, queue: int = 0) -> None:
        """Also below what is in use: then what ends is not handed on."""
        self.capacity[queue] = capacity
        ResourceQueue.objects.filter(pk=self.queues[queue].pk).update(capacity=capacity)

    @often(1, pick=st.integers(0, 5))
    def sets_a_node_to_success(self, pick: int) -> None:
        key = self.graph.keys[pick % len(self.graph.keys)]
        before, over = self.states[key], self.over()
        if before in (N.RUNNING, N.SUCCEEDED) or (self.ending and not over):
            with pytest.raises(Conflict):
                set_success(self.run.nodes.get(key=key), reason="known", user=None)
            return
        set_success(self.run.nodes.get(key=key), reason="known", user=None)
        self.scope = self.scope.done(self.graph, self.states, key)
        self.states[key] = N.SUCCEEDED
        self.goes_on(over)

    @often(4)
    def reruns_what_failed(self) -> None:
        over = self.over()
        alive = frozenset() if over else self.scope.alive(self.states)
        chosen = {k for k, s in self.states.items() if s is not N.SUCCEEDED} - alive
        assert bool(to_repeat([Run.objects.get(pk=self.run.pk)])) == bool(chosen)
        if not chosen or (self.ending and not over):
            with pytest.raises(Conflict):
                rerun_failed(self.run, user=None)
            return
        assert set(rerun_failed(self.run, user=None)) == chosen
        self.has_rerun(chosen, over)

    @often(8, pick=st.integers(0, 5), downstream=st.booleans())
    def reruns_a_node(self, pick: int, downstream: bool) -> None:
        over = self.over()
        key = self.graph.keys[pick % len(self.graph.keys)]
        chosen = {key} | (self.graph.below(key) if downstream else set())
        scope = rerun_scope(self.run, key, downstream=downstream)
        assert set(scope) == chosen
        now = {self.states[each] for each in chosen}
        waits = not over and chosen <= self.scope.alive(self.states)
        if now & ACTIVE or waits or (self.ending and not over):
            with pytest.raises(Conflict):
                rerun_nodes(self.run, scope, user=None)
            return
        rerun_nodes(self.run, scope, user=None)
        self.has_rerun(chosen, over)

    def goes_on(self, over: bool) -> None:
        """A rerun or a set-to-success has let the run go on, and opened it if it was over."""
        if over:
            self.ending, self.paused, self.failures = None, False, set()
        self.settle()

    def has_rerun(self, chosen: Collection[str], over: bool) -> None:
        before, alive = dict(self.states), self.scope.alive(self.states)
        self.scope = self.scope.rerun(self.graph, before, chosen, over=over)
        self.states = {k: N.PENDING if k in chosen else s for k, s in before.items()}
        assert self.scope.alive(self.states) == set(chosen) | (set() if over else alive)
        self.goes_on(over)
        # Said once more without the scope: what was chosen and has nothing chosen or under
        # way above it starts at once, and in a run that was over nothing else does.
        ready = next_step(self.scope, self.states).start
        started = {k for k, s in self.states.items() if s is N.QUEUED and before[k] is not s}
        busy = {k for k, s in before.items() if s in ACTIVE} | set(chosen)
        for key in chosen:
            if not self.graph.upstream[key] & (busy | self.scope.keys):
                assert key in started | ready
            if self.graph.upstream[key] & busy:
                assert key not in started | ready
        if over:
            assert started | ready <= set(chosen)

    @often(1)
    def sweep_looks_at_an_idle_run(self) -> None:
        """It finds nothing to mend, which the invariants see; what was lost it counts anew."""
        idle = not set(self.states.values()) & ACTIVE and not self.over()
        if idle and not (self.paused or self.ending or self.barred):
            Run.objects.filter(pk=self.run.pk).update(open=0, succeeded=0)
            NodeRun.objects.filter(run=self.run, state="pending").update(need=7)
        recount_idle_runs()
        if idle:
            self.settle()

    # --- what always holds --------------------------------------------------------------

    def over(self) -> bool:
        return Run.objects.get(pk=self.run.pk).state in RUN_ENDED

    @invariant()
    def nodes_stand_where_the_engine_says(self) -> None:
        found = {
            key: NodeState(state)
            for key, state in NodeRun.objects.filter(run=self.run).values_list("key", "state")
        }
        assert found == self.states

    @invariant()
    def run_ends_when_the_engine_says(self) -> None:
        run = Run.objects.get(pk=self.run.pk)
        step = next_step(self.scope, self.states)
        busy = set(self.states.values()) & ACTIVE
        over = not busy if self.ending else step.ends_as is not None
        assert (run.state in RUN_ENDED) == over
        if over:
            stopped = self.ending is N.STOPPED
            assert run.state == (RunState.STOPPED if stopped else run_end(self.states.values()))

    @invariant()
    def counters_and_capacity_add_up(self) -> None:
        run = Run.objects.get(pk=self.run.pk)
        nodes = list(NodeRun.objects.filter(run=self.run))
        active = sum(n.state in ("queued", "running") for n in nodes)
        waiting = sum(
            n.state == "retrying" or (n.state == "pending" and n.need == 0) for n in nodes
        )
        ended = {s: sum(n.state == s for n in nodes) for s in ENDED}
        assert (run.active, run.open) == (active, active + waiting)
        assert {s: getattr(run, s) for s in ENDED} == ended
        lacking = self.scope.lacking(self.states)
        # In a run that is being stopped nothing is counted down: a rerun counts anew.
        assert self.ending or {n.key: n.need for n in nodes if n.state == "pending"} == {
            key: lacking.get(key, 0) + (key not in self.scope.keys)
            for key, state in self.states.items()
            if state is N.PENDING
        }
        for queue in self.queues:
            running = NodeRun.objects.filter(queue=queue, state="running")
            queue.refresh_from_db()
            assert queue.used == (running.aggregate(sum=Sum("demand"))["sum"] or 0)
        assert Attempt.objects.filter(node_run__run=self.run, state="running").count() == len(
            self.held
        )

    @invariant()
    def every_event_is_an_arrow_and_none_is_missing(self) -> None:
        told: dict[str | None, list[tuple[str, str]]] = {}
        events = RunEvent.objects.filter(run=self.run).exclude(old="", new="").order_by("pk")
        for key, old, new in events.values_list("node_run__key", "old", "new"):
            told.setdefault(key, []).append((old, new))

        of_run = told.pop(None)
        assert of_run[0] == ("", RunState.PENDING)
        assert set(of_run[1:]) <= set(RUN_ARROWS)
        # That its first node has started is told by the node.
        self.run.refresh_from_db(fields=["state"])
        started = any(new == N.RUNNING for moves in told.values() for _, new in moves)
        for (_, before), (old, _) in pairwise([*of_run, (self.run.state, "")]):
            assert before == old or (
                started and (before, old) == (RunState.PENDING, RunState.RUNNING)
            )
        if self.run.state not in RUN_ENDED:
            assert (self.run.state == RunState.RUNNING) == (started or len(of_run) > 1)
        for key, moves in told.items():
            assert set(moves) <= set(ARROWS)
            assert [old for old, _ in moves] == [N.PENDING, *(new for _, new in moves[:-1])]
            assert moves[-1][1] == self.states[key]


def hold_what_is_tagged() -> None:
    [[key, value]] = HELD.items()
    hold(Workspace.objects.get(name="default"), tag=f"{key}={value}", user=None)


@pytest.mark.django_db
@pytest.mark.timeout(300 + 5 * LIVES)
def test_sql_and_engine_agree():
    job()  # made once, outside the examples
    hold_what_is_tagged()
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=LIVES,
            stateful_step_count=40,
            deadline=None,
            # A failure prints its steps; shrinking them takes minutes, so it is left to a
            # run by hand.
            phases=[Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
