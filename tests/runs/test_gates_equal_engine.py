"""Lanes, cycles, queues and turns: the SQL and the pure engine, driven side by side.

Where one run's life is looked at in test_hot_path_equals_engine, here are many short runs of
several workflows. After each step the same runs wait, for the same; every queue's line stands
as the engine says, and gives the node that the engine names.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import pytest
from django.db import transaction
from django.db.models import F
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, run_state_machine_as_test

from apps.core.errors import Conflict
from apps.engine.gates import InLine, Place, admitted, in_line, next_node, risen, turn_of, waits_for
from apps.engine.graph import Graph
from apps.engine.priority import Priority
from apps.engine.scope import Scope, next_step, run_end
from apps.engine.states import ACTIVE, RUN_ENDED, NodeState, Overlap, RunState, Trigger
from apps.runs.models import Lane, NodeRun, Pulse, Run
from apps.runs.services.aging import age
from apps.runs.services.endings import run_ended
from apps.runs.services.holding import tag_workflow
from apps.runs.services.hot_path import Claim, Outcome, claim, finish
from apps.runs.services.lanes import fill, follow, lane_of, lanes_to_fill, to_follow
from apps.runs.services.launch import Skipped, launch
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.rerun import rerun_failed
from apps.runs.services.stop import stop_run
from apps.runs.services.sweep import hand_back
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workspaces.models import ResourceQueue, Workspace
from tests.factories import job
from tests.runs.test_hot_path_equals_engine import HELD, ME, Walk, hold_what_is_tagged, often

N = NodeState
SLOT = 250
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
#: How many random lives; thousands before a release.
LIVES = int(os.environ.get("LIVES", "5"))
#: The lane that is no workflow's own.
BACKFILL = "backfill"


@dataclass
class Flow:
    """A workflow: its nodes stand one after another, or beside each other."""

    version: WorkflowVersion
    graph: Graph
    queue_of: dict[str, int]
    priority: int
    demand: int
    overlap: Overlap
    held: bool = False

    @property
    def pk(self) -> int:
        return self.version.workflow_id

    @property
    def lane(self) -> str:
        return f"workflow {self.pk}"


@dataclass
class Under:
    """What is said of one run."""

    run: Run
    flow: Flow
    cycle: datetime
    lane: str | None
    states: dict[str, NodeState]
    scope: Scope
    ids: dict[str, int]
    waits: bool = False
    waits_for: int | None = None
    paused: bool = False
    stopping: bool = False
    asked: set[str] = field(default_factory=set)

    @property
    def over(self) -> bool:
        if self.stopping:
            return not set(self.states.values()) & ACTIVE
        return next_step(self.scope, self.states).ends_as is not None

    @property
    def held_back(self) -> bool:
        return self.paused or self.flow.held

    @property
    def ends_as(self) -> RunState:
        return RunState.STOPPED if self.stopping else run_end(self.states.values())


class Gates(Walk):
    """Runs of three workflows, in two queues."""

    @initialize(
        shapes=st.lists(
            st.tuples(
                st.integers(1, 3),
                st.booleans(),
                st.integers(0, 7),
                st.sampled_from([Priority.LOW, Priority.MEDIUM, Priority.MEDIUM]),
                st.sampled_from([SLOT, SLOT, 2 * SLOT]),
                st.sampled_from(list(Overlap)),
            ),
            min_size=3,
            max_size=3,
        )
    )
    def start(self, shapes: list[tuple[int, bool, int, int, int, Overlap]]) -> None:
        self.before = transaction.savepoint()
        self.workspace = Workspace.objects.get(name="default")
        self.queues = [
            ResourceQueue.objects.create(
                workspace=self.workspace,
                name=f"queue_{uuid4().hex}",
                capacity=2 * SLOT,
                production=True,
            )
            for _ in range(2)
        ]
        self.capacity = [2 * SLOT, 2 * SLOT]
        self.used = [0, 0]
        self.flows = [self.workflow(*shape) for shape in shapes]
        #: By lane: its limit.
        self.lanes: dict[str, int | None] = {}
        self.runs: dict[int, Under] = {}
        self.lines: list[dict[int, Place]] = [{}, {}]
        self.held: list[Claim] = []
        self.clock, self.count = 0.0, 0

    def workflow(
        self, nodes: int, chain: bool, second: int, priority: int, demand: int, overlap: Overlap
    ) -> Flow:
        names = [f"n{i}" for i in range(nodes)]
        graph = Graph.build(names, pairwise(names) if chain else [])
        queue_of = {name: second >> i & 1 for i, name in enumerate(names)}
        workflow = Workflow.objects.create(workspace=self.workspace, name=uuid4().hex)
        own = {"retries": None, "retry_interval_seconds": None, "timeout_seconds": None}
        version = WorkflowVersion.objects.create(
            workflow=workflow,
            number=1,
            digest="",
            graph={
                "settings": {
                    "queue": self.queues[0].pk,
                    "retries": 0,
                    "retry_interval_seconds": 0,
                    "timeout_seconds": None,
                    "parallelism": None,
                    "strategy": "continue",
                    "priority": priority,
                    "overlap": overlap,
                    "overlap_limit": 2,
                },
                "nodes": [
                    {
                        "name": name,
                        "job": job().pk,
                        "job_version_number": None,
                        "queue": self.queues[queue_of[name]].pk,
                    }
                    | own
                    for name in names
                ],
                "edges": [list(edge) for edge in graph.edges],
            },
        )
        return Flow(version, graph, queue_of, priority, demand, overlap)

    def teardown(self) -> None:
        """Nothing of one life stays: the sweep looks at all there is."""
        transaction.savepoint_rollback(self.before)

    # --- the model ----------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.clock + 1

    def open_of(self, flow: Flow, cycle: datetime | None = None) -> list[int]:
        return [
            pk
            for pk, each in self.runs.items()
            if each.flow is flow and cycle in (None, each.cycle) and not each.over
        ]

    def under_way(self, lane: str) -> int:
        return sum(e.lane == lane and not e.waits and not e.over for e in self.runs.values())

    def in_line(self, lane: str) -> list[InLine]:
        return [
            InLine(pk, each.waits_for, each.held_back)
            for pk, each in self.runs.items()
            if each.lane == lane and each.waits
        ]

    def settle(self, one: Under) -> None:
        """Queue what of a run lacks nothing: a flow's nodes stand one turn apart."""
        if one.waits or one.held_back or one.stopping:
            return
        start = next_step(one.scope, one.states).start
        ready = [key for key in one.flow.graph.in_order if key in start]
        level, flow = one.flow.priority, one.flow.pk
        for queue, line in enumerate(self.lines):
            newcomers = [key for key in ready if one.flow.queue_of[key] == queue]
            first = turn_of(line.values(), level=level, flow=flow)
            for place, key in enumerate(newcomers):
                self.count += 1
                line[one.ids[key]] = Place(
                    one.ids[key],
                    flow,
                    one.flow.demand,
                    level,
                    level,
                    first + place,
                    self.clock + self.count / 1_000_000,
                )
                one.states[key] = N.QUEUED

    def leaves(self, one: Under, key: str, state: NodeState) -> None:
        """A node leaves its queue's line, for where it stands then."""
        del self.lines[one.flow.queue_of[key]][one.ids[key]]
        one.states[key] = state

    def fills(self, lane: str) -> None:
        line, under_way = self.in_line(lane), self.under_way(lane)
        for pk in admitted(line, under_way=under_way, limit=self.lanes[lane]):
            self.runs[pk].waits = False
            self.settle(self.runs[pk])

    def follows(self, over: int) -> None:
        lanes = set()
        for pk, one in self.runs.items():
            if one.waits_for != over:
                continue
            one.waits_for = waits_for(pk, self.open_of(one.flow, one.cycle))
            one.waits = one.waits_for is not None or one.lane is not None
            if one.waits_for is None:
                self.settle(one)
                lanes |= {one.lane} - {None}
        for lane in sorted(lanes, key=self.pk_of):
            self.fills(lane)

    def ends(self, one: Under, heard: bool) -> None:
        """Whoever ended the run may die before it looks after those that wait for that."""
        one.waits, one.waits_for = False, None
        if heard:
            run_ended(one.run.pk)
            self.follows(one.run.pk)
            if one.lane is not None:
                self.fills(one.lane)

    def pk_of(self, lane: str) -> int:
        return Lane.objects.get(owner=lane).pk

    def limits(self, lane: str, limit: int | None) -> None:
        known = lane in self.lanes
        before, self.lanes[lane] = self.lanes.get(lane), limit
        if known and before != limit:
            self.fills(lane)

    def some(self, pick: int, of: Iterable[Under]) -> Under | None:
        found = list(of)
        return found[pick % len(found)] if found else None

    def taken(self, mine: Claim | None, expected: Place | None) -> None:
        assert (mine and mine.node_run_id) == (expected and expected.node)
        if mine is not None:
            one = self.runs[mine.run_id]
            self.leaves(one, mine.key, N.RUNNING)
            self.used[one.flow.queue_of[mine.key]] += one.flow.demand
            self.held.append(mine)

    def gives(self, queue: int) -> Place | None:
        return next_node(
            self.lines[queue].values(),
            free=self.capacity[queue] - self.used[queue],
            capacity=self.capacity[queue],
            now=self.now,
        )

    # --- what can happen ----------------------------------------------------------------

    @often(
        10,
        which=st.integers(0, 2),
        day=st.integers(0, 2),
        how=st.sampled_from([Trigger.SCHEDULE, Trigger.SCHEDULE, Trigger.MANUAL, Trigger.BACKFILL]),
        cycles=st.integers(1, 3),
    )
    def starts(self, which: int, day: int, how: Trigger, cycles: int = 1) -> None:
        flow = self.flows[which]
        many = cycles if how is Trigger.BACKFILL else 1
        days = [NOON + timedelta(days=day + n) for n in range(many)]
        lane, gate = None, None
        if how is Trigger.BACKFILL:
            lane = BACKFILL
            gate = lane_of(self.workspace, lane, limit=self.lanes.setdefault(lane, 1))
        elif how is Trigger.SCHEDULE and flow.overlap is Overlap.SKIP:
            if self.open_of(flow):
                with pytest.raises(Skipped):
                    launch(flow.version, cycles=days, trigger=how, by=None)
                return
        elif how is Trigger.SCHEDULE:
            lane = flow.lane

        made = launch(flow.version, cycles=days, trigger=how, by=None, lane=gate)

        if lane == flow.lane:
            self.limits(lane, 1 if flow.overlap is Overlap.WAIT else 2)
        for run, cycle in zip(made, days, strict=True):
            nodes = dict(run.nodes.values_list("key", "pk"))
            NodeRun.objects.filter(run=run).update(demand=flow.demand)
            before = waits_for(run.pk, self.open_of(flow, cycle))
            self.runs[run.pk] = one = Under(
                run,
                flow,
                cycle,
                lane,
                dict.fromkeys(flow.graph.keys, N.PENDING),
                Scope.whole(flow.graph),
                nodes,
                waits=lane is not None or before is not None,
                waits_for=before,
            )
            self.settle(one)
        if lane is not None:
            self.fills(lane)

    @often(16, queue=st.sampled_from([0, 0, 1]))
    def claims(self, queue: int = 0) -> None:
        expected = self.gives(queue)
        self.taken(claim(self.queues[queue].pk, ME, uuid4()), expected)

    @often(
        16,
        when=lambda self: self.held,
        pick=st.integers(0, 100),
        how=st.sampled_from([N.SUCCEEDED, N.SUCCEEDED, N.SUCCEEDED, N.FAILED]),
        take=st.booleans(),
        heard=st.booleans(),
    )
    def finishes(
        self, pick: int = 0, how: NodeState = N.SUCCEEDED, take: bool = False, heard: bool = True
    ) -> None:
        mine = self.held.pop(pick % len(self.held))
        one = self.runs[mine.run_id]
        queue = one.flow.queue_of[mine.key]
        if how is N.FAILED and mine.key in one.asked:
            how = N.STOPPED
        one.asked.discard(mine.key)

        done = finish(mine, Outcome(how), worker=ME, request=uuid4(), take=take)

        one.states[mine.key] = how
        self.used[queue] -= one.flow.demand
        self.settle(one)
        self.taken(done.next, self.gives(queue) if take else None)
        awaited = any(each.waits_for == mine.run_id for each in self.runs.values())
        assert (done.run_ended, done.awaited) == (
            one.over,
            one.over and (awaited or one.lane is not None),
        )
        if one.over:
            self.ends(one, heard)

    @often(1, when=lambda self: self.held, pick=st.integers(0, 100))
    def is_handed_back(self, pick: int) -> None:
        """And queued anew: at its priority, with a new turn."""
        mine = self.held.pop(pick % len(self.held))
        one = self.runs[mine.run_id]
        assert hand_back(mine.node_run_id, mine.attempt, ME) is True
        self.used[one.flow.queue_of[mine.key]] -= one.flow.demand
        one.states[mine.key] = N.STOPPED if mine.key in one.asked else N.PENDING
        one.asked.discard(mine.key)
        self.settle(one)
        if one.over:
            self.ends(one, False)

    @often(1, pick=st.integers(0, 100), heard=st.booleans())
    def is_stopped(self, pick: int, heard: bool = True) -> None:
        one = self.some(pick, (each for each in self.runs.values() if not each.over))
        if one is None:
            return
        stop_run(one.run, user=None)
        ready = next_step(one.scope, one.states).start
        for key, state in one.states.items():
            if state is N.RUNNING:
                one.asked.add(key)
            elif state is N.QUEUED:
                self.leaves(one, key, N.STOPPED)
            elif state is N.PENDING and key in ready:
                one.states[key] = N.STOPPED
        one.stopping, one.paused = True, False
        if one.over:
            self.ends(one, heard)

    @often(1, pick=st.integers(0, 100))
    def is_paused(self, pick: int) -> None:
        runs = self.runs.values()
        one = self.some(pick, (e for e in runs if not (e.over or e.paused or e.stopping)))
        if one is None:
            return
        pause_run(one.run, user=None)
        one.paused = True
        self.goes_out_of_line(one)

    def goes_out_of_line(self, one: Under) -> None:
        for key, state in one.states.items():
            if state is N.QUEUED:
                self.leaves(one, key, N.PENDING)

    @often(2, pick=st.integers(0, 100), heard=st.booleans())
    def is_resumed(self, pick: int, heard: bool = True) -> None:
        one = self.some(pick, (e for e in self.runs.values() if e.paused and not e.over))
        if one is None:
            return
        resume_run(one.run, user=None)
        one.paused = False
        self.settle(one)
        if heard and one.lane is not None:
            fill(self.pk_of(one.lane))
            self.fills(one.lane)

    @often(1, which=st.integers(0, 2))
    def a_tag_holds_a_workflow_or_lets_it_go(self, which: int) -> None:
        flow = self.flows[which]
        flow.held = not flow.held
        tag_workflow(flow.version.workflow, HELD if flow.held else {}, user=None)
        for one in self.runs.values():
            if one.flow is flow and not one.over:
                if flow.held:
                    self.goes_out_of_line(one)
                else:
                    self.settle(one)

    @often(1, pick=st.integers(0, 100))
    def what_failed_runs_again(self, pick: int) -> None:
        """In a run that was over: it does not wait for its lane."""
        one = self.some(
            pick, (e for e in self.runs.values() if e.over and e.ends_as is not RunState.SUCCEEDED)
        )
        if one is None:
            return
        if self.open_of(one.flow, one.cycle):
            with pytest.raises(Conflict):
                rerun_failed(one.run, user=None)
            return
        chosen = {key for key, state in one.states.items() if state is not N.SUCCEEDED}
        assert set(rerun_failed(one.run, user=None)) == chosen
        one.scope = one.scope.rerun(one.flow.graph, one.states, chosen, over=True)
        one.states |= dict.fromkeys(chosen, N.PENDING)
        one.stopping = one.paused = False
        self.settle(one)

    @often(
        1,
        when=lambda self: self.lanes,
        pick=st.integers(0, 3),
        limit=st.sampled_from([1, 2, 3, None]),
    )
    def a_lanes_limit_is_set(self, pick: int, limit: int | None) -> None:
        lane = sorted(self.lanes)[pick % len(self.lanes)]
        lane_of(self.workspace, lane, limit=limit)
        self.limits(lane, limit)

    @often(1, queue=st.integers(0, 1), capacity=st.sampled_from([SLOT, 2 * SLOT, 3 * SLOT]))
    def capacity_is_set(self, queue: int, capacity: int) -> None:
        self.capacity[queue] = capacity
        ResourceQueue.objects.filter(pk=self.queues[queue].pk).update(capacity=capacity)

    @often(3, seconds=st.sampled_from([61, 600]))
    def time_passes(self, seconds: int) -> None:
        """And the sweep raises what has waited long."""
        step = timedelta(seconds=seconds)
        NodeRun.objects.filter(state="queued").update(queued_at=F("queued_at") - step)
        Pulse.objects.filter(name="aging").update(at=F("at") - step)
        self.clock += seconds
        rise = [
            (line, place) for line in self.lines for place in risen(line.values(), now=self.now)
        ]

        assert age() == len(rise)

        for line, place in rise:
            line[place.node] = place

    @often(3)
    def the_sweep_looks(self) -> None:
        """It finds what nobody followed up, and nothing else."""
        awaited = {each.waits_for for each in self.runs.values()} - {None}
        over = sorted(pk for pk in awaited if self.runs[pk].over)
        assert to_follow() == over
        for pk in over:
            follow(pk)
            self.follows(pk)
        roomy = [
            lane
            for lane, limit in self.lanes.items()
            if self.in_line(lane) and (limit is None or self.under_way(lane) < limit)
        ]
        assert lanes_to_fill() == sorted(map(self.pk_of, roomy))
        for lane in sorted(roomy, key=self.pk_of):
            fill(self.pk_of(lane))
            self.fills(lane)

    # --- what always holds --------------------------------------------------------------

    @invariant()
    def runs_wait_as_the_engine_says(self) -> None:
        found = {
            pk: ((state if state in RUN_ENDED else None), waits, before)
            for pk, state, waits, before in Run.objects.filter(pk__in=self.runs).values_list(
                "pk", "state", "waits", "waits_for"
            )
        }
        assert found == {
            pk: (each.ends_as if each.over else None, each.waits, each.waits_for)
            for pk, each in self.runs.items()
        }

    @invariant()
    def nodes_stand_where_the_engine_says(self) -> None:
        found: dict[int, dict[str, NodeState]] = defaultdict(dict)
        rows = NodeRun.objects.filter(run__in=self.runs)
        for run, key, state in rows.values_list("run", "key", "state"):
            found[run][key] = NodeState(state)
        assert found == {pk: each.states for pk, each in self.runs.items()}

    @invariant()
    def lines_stand_as_the_engine_says(self) -> None:
        for queue, line, used in zip(self.queues, self.lines, self.used, strict=True):
            rows = NodeRun.objects.filter(queue=queue, state="queued")
            rows = rows.order_by("-level", "turn", "queued_at")
            assert list(rows.values_list("pk", "level", "turn")) == [
                (place.node, place.level, place.turn) for place in in_line(line.values())
            ]
            queue.refresh_from_db(fields=["used"])
            assert queue.used == used

    @invariant()
    def counters_add_up(self) -> None:
        found = {
            pk: (active, still)
            for pk, active, still in Run.objects.filter(pk__in=self.runs).values_list(
                "pk", "active", "open"
            )
        }
        expected = {}
        for pk, one in self.runs.items():
            active = sum(state in (N.QUEUED, N.RUNNING) for state in one.states.values())
            ready = 0 if one.stopping else len(next_step(one.scope, one.states).start)
            expected[pk] = (active, active + ready)
        assert found == expected


@pytest.mark.django_db
@pytest.mark.timeout(300 + 5 * LIVES)
def test_sql_and_engine_agree():
    job()  # made once, outside the examples
    hold_what_is_tagged()
    run_state_machine_as_test(
        Gates,
        settings=settings(
            max_examples=LIVES,
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
