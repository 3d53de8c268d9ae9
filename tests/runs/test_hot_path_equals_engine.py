"""The hot path's SQL and the pure engine, driven side by side through random lives of runs.

After each step the nodes stand where the engine says that they should, the run has ended
just when the engine says so, and counters and capacity equal what the nodes add up to.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from datetime import timedelta
from itertools import combinations, pairwise
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
    precondition,
    rule,
    run_state_machine_as_test,
)

from apps.core.errors import Conflict
from apps.engine.graph import Graph
from apps.engine.scope import Scope, next_step
from apps.engine.states import (
    ACTIVE,
    ARROWS,
    ENDED,
    RUN_ARROWS,
    RUN_ENDED,
    NodeState,
    RunState,
    Trigger,
)
from apps.runs.models import Attempt, NodeRun, Run, RunEvent
from apps.runs.services.holding import hold, release, tag_workflow
from apps.runs.services.hot_path import Claim, Outcome, claim, finish
from apps.runs.services.launch import launch
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.rerun import rerun_failed, rerun_nodes, rerun_scope
from apps.runs.services.stop import stop_node, stop_run
from apps.runs.services.success import set_success
from apps.runs.services.sweep import (
    end_long_waits,
    hand_back,
    lose,
    recount_idle_runs,
    start_due_retries,
)
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workspaces.models import ResourceQueue, Workspace
from tests.factories import job

N = NodeState
ME = "worker@here:1"
#: What a queued or running node asks for, and room for two of them at first.
DEMAND, CAPACITY = 250, 500
#: The runs of a workflow with this tag are held.
HELD = {"layer": "held"}
#: How many random lives; thousands before a release.
LIVES = int(os.environ.get("LIVES", "25"))
#: Runs that are stopped at once would show little else.
SELDOM = st.sampled_from([False] * 9 + [True])


class Lives(RuleBasedStateMachine):
    """One run of a random graph, in a queue of its own."""

    @initialize(
        # One bit for each pair of nodes that an edge may lead along.
        bits=st.integers(0, 2**15 - 1),
        nodes=st.integers(1, 6),
        limit=st.sampled_from([None, None, 1, 2]),
        chain=st.sampled_from([False, False, True]),
    )
    def start(self, bits: int, nodes: int, limit: int | None, chain: bool) -> None:
        names = [f"n{i}" for i in range(nodes)]
        pairs = [pair for bit, pair in enumerate(combinations(names, 2)) if bits >> bit & 1]
        self.graph = Graph.build(names, pairwise(names) if chain else pairs)
        used = job()
        self.queue = ResourceQueue.objects.create(
            workspace=Workspace.objects.get(name="default"),
            name=f"queue_{uuid4().hex}",
            capacity=CAPACITY,
            production=True,
        )
        self.capacity, self.shut, self.barred = CAPACITY, None, False
        workflow = Workflow.objects.create(workspace=self.queue.workspace, name=uuid4().hex)
        common = {"retries": None, "retry_interval_seconds": None, "timeout_seconds": None}
        version = WorkflowVersion.objects.create(
            workflow=workflow,
            number=1,
            digest="",
            graph={
                "settings": {
                    "queue": self.queue.pk,
                    "retries": 5,
                    "retry_interval_seconds": 0,
                    "queue_timeout_seconds": 3600,
                    "timeout_seconds": None,
                    "parallelism": limit,
                    "strategy": "continue",
                },
                "nodes": [
                    {"name": name, "job": used.pk, "job_version_number": None, "queue": None}
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
        self.stopping = False
        self.asked: set[str] = set()
        self.settle()

    # --- the model ----------------------------------------------------------------------

    def settle(self) -> None:
        """Queue what the engine would start, lowest first, as far as the run's limit allows."""
        if self.stopping or self.paused or self.barred:
            return
        for key in self.graph.in_order:
            active = sum(s in (N.QUEUED, N.RUNNING) for s in self.states.values())
            if self.limit is not None and active >= self.limit:
                return
            if key in next_step(self.scope, self.states).start:
                self.states[key] = N.QUEUED

    def taken(self, mine: Claim | None) -> None:
        if mine is not None:
            assert self.states[mine.key] is N.QUEUED
            self.states[mine.key] = N.RUNNING
            self.held.append(mine)

    def running(self) -> int:
        return sum(s is N.RUNNING for s in self.states.values())

    def can_take(self, used: int) -> bool:
        """Whether a node is there to take, if that much is in use with it."""
        return N.QUEUED in self.states.values() and self.shut is None and used <= self.capacity

    # --- what can happen ----------------------------------------------------------------

    @rule()
    def claims(self) -> None:
        fits = self.can_take((self.running() + 1) * DEMAND)

        mine = claim(self.queue.pk, ME, uuid4())

        assert (mine is not None) == fits
        self.taken(mine)

    @precondition(lambda self: self.held)
    @rule(
        pick=st.integers(0, 100),
        how=st.sampled_from([N.SUCCEEDED, N.SUCCEEDED, N.SUCCEEDED, N.FAILED, N.RETRYING]),
        take=st.booleans(),
    )
    def finishes(self, pick: int, how: NodeState, take: bool) -> None:
        used = self.running() * DEMAND
        mine = self.held.pop(pick % len(self.held))
        if mine.key in self.asked and how is N.FAILED:
            how = N.STOPPED  # its worker ended the child
        request = uuid4()
        retry_in = 0.0 if how is N.RETRYING else None

        done = finish(mine, Outcome(how, retry_in=retry_in), worker=ME, request=request, take=take)

        if how is N.RETRYING and mine.key in self.asked:
            how = N.STOPPED  # a stop takes the retry away
        self.asked.discard(mine.key)
        assert (done.accepted, done.state) == (True, how)
        self.states[mine.key] = how
        self.settle()
        if take:
            assert (done.next is not None) == self.can_take(used)
            self.taken(done.next)
        else:
            assert done.next is None
        self.past.append((mine, request, done.next))

    @precondition(lambda self: self.past)
    @rule(pick=st.integers(0, 100))
    def repeats_a_finish_whose_reply_was_lost(self, pick: int) -> None:
        mine, request, following = self.past[pick % len(self.past)]

        again = finish(mine, Outcome(N.FAILED), worker=ME, request=request, take=True)

        node = NodeRun.objects.get(pk=mine.node_run_id)
        if node.state == N.RUNNING and node.attempt == mine.attempt:
            raise AssertionError("a finished attempt runs again")
        assert again.accepted is True
        still = following is not None and following in self.held
        assert again.next == (following if still else None)

    @precondition(lambda self: self.past)
    @rule(pick=st.integers(0, 100))
    def finishes_late(self, pick: int) -> None:
        mine, _, _ = self.past[pick % len(self.past)]

        late = finish(mine, Outcome(N.SUCCEEDED), worker=ME, request=uuid4(), take=True)

        assert late.accepted is False

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 100), lost=st.booleans())
    def gives_up(self, pick: int, lost: bool) -> None:
        """A worker is lost, or hands its node back."""
        mine = self.held.pop(pick % len(self.held))
        node = NodeRun.objects.get(pk=mine.node_run_id)
        if lost and node.losses >= 3:
            self.states[mine.key] = N.FAILED
        else:
            self.states[mine.key] = N.PENDING
        if mine.key in self.asked:
            self.states[mine.key] = N.STOPPED
        self.asked.discard(mine.key)
        if lost:
            lose(NodeRun.objects.select_for_update().get(pk=mine.node_run_id))
        else:
            assert hand_back(mine.node_run_id, mine.attempt, ME) is True
        self.settle()

    @precondition(lambda self: N.RETRYING in self.states.values())
    @rule()
    def retries_come_due(self) -> None:
        self.states = {k: N.PENDING if s is N.RETRYING else s for k, s in self.states.items()}
        start_due_retries()
        self.settle()

    @precondition(lambda self: N.QUEUED in self.states.values())
    @rule(pick=st.integers(0, 6), seldom=SELDOM)
    def waits_too_long(self, pick: int, seldom: bool) -> None:
        if not seldom:
            return
        queued = [key for key in self.graph.keys if self.states[key] is N.QUEUED]
        key = queued[pick % len(queued)]
        rows = NodeRun.objects.filter(run=self.run, key=key)
        rows.update(queued_at=F("queued_at") - timedelta(hours=2))
        end_long_waits()
        self.states[key] = N.FAILED
        self.settle()

    @rule(pick=st.integers(0, 6), seldom=SELDOM)
    def stops_a_node(self, pick: int, seldom: bool) -> None:
        key = self.graph.keys[pick % len(self.graph.keys)]
        if self.states[key] in ENDED or not seldom or self.over():
            return
        stop_node(self.run.nodes.get(key=key), user=None)
        if self.states[key] is N.RUNNING:
            self.asked.add(key)
        else:
            self.states[key] = N.STOPPED
            self.settle()

    @precondition(lambda self: not self.over())
    @rule(seldom=SELDOM)
    def stops_the_run(self, seldom: bool) -> None:
        if not seldom:
            return
        stop_run(self.run, user=None)
        for key, state in self.states.items():
            ready = key in next_step(self.scope, self.states).start
            if state is N.RUNNING:
                self.asked.add(key)
            elif state in ACTIVE or (state is N.PENDING and ready):
                self.states[key] = N.STOPPED
        self.stopping, self.paused = True, False

    @precondition(lambda self: not (self.paused or self.stopping or self.over()))
    @rule(seldom=SELDOM)
    def pauses(self, seldom: bool) -> None:
        if not seldom:
            return
        pause_run(self.run, user=None)
        self.paused = True
        self.states = {k: N.PENDING if s is N.QUEUED else s for k, s in self.states.items()}

    @precondition(lambda self: self.paused and not self.over())
    @rule()
    def resumes(self) -> None:
        resume_run(self.run, user=None)
        self.paused = False
        self.settle()

    @rule(seldom=SELDOM)
    def a_tag_holds_the_run_or_lets_it_go(self, seldom: bool) -> None:
        if not (seldom or self.barred):
            return
        over = self.over()
        self.barred = not self.barred
        tag_workflow(self.run.workflow, HELD if self.barred else {}, user=None)
        if self.barred and not over:
            self.states = {k: N.PENDING if s is N.QUEUED else s for k, s in self.states.items()}
        self.settle()

    @rule(seldom=SELDOM)
    def the_queue_is_held_or_let_go(self, seldom: bool) -> None:
        if self.shut is not None:
            release(self.shut, user=None)
            self.shut = None
        elif seldom:
            self.shut = hold(self.queue.workspace, queue=self.queue, user=None)

    @rule(capacity=st.sampled_from([DEMAND, CAPACITY, 3 * DEMAND]), seldom=SELDOM)
    def capacity_is_set(self, capacity: int, seldom: bool) -> None:
        """Also below what is in use: then what ends is not handed on."""
        if not seldom:
            return
        self.capacity = capacity
        ResourceQueue.objects.filter(pk=self.queue.pk).update(capacity=capacity)

    @rule(pick=st.integers(0, 5), seldom=SELDOM)
    def sets_a_node_to_success(self, pick: int, seldom: bool) -> None:
        key = self.graph.keys[pick % len(self.graph.keys)]
        before, over = self.states[key], self.over()
        if before is N.PENDING and not seldom:
            return
        if before in (N.RUNNING, N.SUCCEEDED) or (self.stopping and not over):
            with pytest.raises(Conflict):
                set_success(self.run.nodes.get(key=key), reason="known", user=None)
            return
        set_success(self.run.nodes.get(key=key), reason="known", user=None)
        self.scope = self.scope.done(self.graph, self.states, key)
        self.states[key] = N.SUCCEEDED
        self.stopping, self.paused = False, self.paused and not over
        self.settle()

    @rule(seldom=SELDOM)
    def reruns_what_failed(self, seldom: bool) -> None:
        over = self.over()
        if not over and not seldom:
            return
        alive = frozenset() if over else self.scope.alive(self.states)
        chosen = {k for k, s in self.states.items() if s is not N.SUCCEEDED} - alive
        if not chosen or (self.stopping and not over):
            with pytest.raises(Conflict):
                rerun_failed(self.run, user=None)
            return
        assert set(rerun_failed(self.run, user=None)) == chosen
        self.has_rerun(chosen, over)

    @rule(pick=st.integers(0, 5), downstream=st.booleans(), seldom=SELDOM)
    def reruns_a_node(self, pick: int, downstream: bool, seldom: bool) -> None:
        over = self.over()
        if not over and not seldom:
            return
        key = self.graph.keys[pick % len(self.graph.keys)]
        chosen = {key} | (self.graph.below(key) if downstream else set())
        scope = rerun_scope(self.run, key, downstream=downstream)
        assert set(scope) == chosen
        now = {self.states[each] for each in chosen}
        waits = not over and chosen <= self.scope.alive(self.states)
        if now & ACTIVE or waits or (self.stopping and not over):
            with pytest.raises(Conflict):
                rerun_nodes(self.run, scope, user=None)
            return
        rerun_nodes(self.run, scope, user=None)
        self.has_rerun(chosen, over)

    def has_rerun(self, chosen: Collection[str], over: bool) -> None:
        before, alive = dict(self.states), self.scope.alive(self.states)
        self.scope = self.scope.rerun(self.graph, before, chosen, over=over)
        self.states = {k: N.PENDING if k in chosen else s for k, s in before.items()}
        self.stopping, self.paused = False, self.paused and not over
        assert self.scope.alive(self.states) == set(chosen) | (set() if over else alive)
        self.settle()
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

    @rule()
    def sweep_looks_at_an_idle_run(self) -> None:
        """It finds nothing to mend, which the invariants see; what was lost it counts anew."""
        idle = not set(self.states.values()) & ACTIVE and not self.over()
        if idle and not (self.paused or self.stopping or self.barred):
            Run.objects.filter(pk=self.run.pk).update(open=0, succeeded=0)
            NodeRun.objects.filter(run=self.run, state="pending").update(need=7)
        recount_idle_runs()

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
        over = not busy if self.stopping else step.ends_as is not None
        assert (run.state in RUN_ENDED) == over
        if over:
            assert run.state == (RunState.STOPPED if self.stopping else step.ends_as)

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
        assert self.stopping or {n.key: n.need for n in nodes if n.state == "pending"} == {
            key: lacking.get(key, 0) + (key not in self.scope.keys)
            for key, state in self.states.items()
            if state is N.PENDING
        }
        running = NodeRun.objects.filter(queue=self.queue, state="running")
        self.queue.refresh_from_db()
        assert self.queue.used == (running.aggregate(sum=Sum("demand"))["sum"] or 0)
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
