"""What of a run may start, what each node of it waits for, and what the run needs next."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from apps.engine.graph import Graph
from apps.engine.states import ACTIVE, NodeState, RunState


@dataclass(frozen=True)
class Scope:
    """The nodes that a run means to run, and the edges that count for them.

    A run begins with all of both. A rerun narrows them: what is outside stays as it is, and
    nothing waits for it. So one node runs alone whatever became of its upstreams.
    """

    keys: frozenset[str]
    edges: frozenset[tuple[str, str]]

    @classmethod
    def whole(cls, graph: Graph) -> Scope:
        return cls(frozenset(graph.keys), graph.edges)

    def lacking(self, states: Mapping[str, NodeState]) -> dict[str, int]:
        """How many upstreams that count have not succeeded; nodes without any are left out."""
        found: dict[str, int] = {}
        for up, key in self.edges:
            if states[up] is not NodeState.SUCCEEDED:
                found[key] = found.get(key, 0) + 1
        return found

    def alive(self, states: Mapping[str, NodeState]) -> frozenset[str]:
        """What is under way or will be, unless something fails: of a run that is not over."""
        below: dict[str, list[str]] = {}
        for up, key in self.edges:
            below.setdefault(up, []).append(key)
        waits = {
            key for key in self.keys if states[key] is NodeState.PENDING or states[key] in ACTIVE
        }
        # What ended otherwise than well holds back all below it.
        stack = [key for key, state in states.items() if state is not NodeState.SUCCEEDED]
        stack = [key for key in stack if key not in waits]
        while stack:
            for key in below.get(stack.pop(), ()):
                if key in waits and states[key] is NodeState.PENDING:
                    waits.discard(key)
                    stack.append(key)
        return frozenset(waits)

    def rerun(
        self,
        graph: Graph,
        states: Mapping[str, NodeState],
        chosen: Collection[str],
        *,
        over: bool,
    ) -> Scope:
        """The scope once `chosen` run again; `states` are those before, `over` the run was.

        It is what was chosen and, in a run that is not over, what goes on besides. Edges among
        these count, but what has started is not held back.
        """
        keys = frozenset(chosen) | (frozenset() if over else self.alive(states))
        started = {key for key in keys - set(chosen) if states[key] in ACTIVE}
        return Scope(
            keys,
            frozenset(
                (up, key)
                for up, key in graph.edges
                if up in keys and key in keys and key not in started
            ),
        )

    def done(self, graph: Graph, states: Mapping[str, NodeState], key: str) -> Scope:
        """The scope once `key` counts as succeeded by hand: what waits for it goes on.

        Pending nodes that a rerun left outside come back in, as far down as they hang on it;
        for them every edge of the graph counts again.
        """
        back: set[str] = set()
        seen, stack = {key}, [key]
        while stack:
            for below in graph.downstream[stack.pop()] - seen:
                if states[below] is NodeState.PENDING:
                    seen.add(below)
                    stack.append(below)
                    if below not in self.keys:
                        back.add(below)
        return Scope(
            self.keys | back,
            self.edges | {(up, each) for each in back for up in graph.upstream[each]},
        )


@dataclass(frozen=True)
class Step:
    start: frozenset[str]  # pending nodes of the scope that wait for nothing that counts
    ends_as: RunState | None  # set when nothing is under way and nothing can start


def next_step(scope: Scope, states: Mapping[str, NodeState]) -> Step:
    """Say what a run needs next, from where its nodes stand now.

    It looks at the level, not at the edge: not "what just happened?" but "how do
    things stand?". So it may be asked twice, late, or after a crash, and a rerun or
    a "set to success" needs no case of its own. A node below a failed one simply
    stays pending.
    """
    lacking = scope.lacking(states)
    start = frozenset(
        key for key in scope.keys if states[key] is NodeState.PENDING and not lacking.get(key)
    )
    now = set(states.values())
    if start or now & ACTIVE:
        return Step(start, None)
    return Step(start, run_end(now))


def run_end(states: Iterable[NodeState]) -> RunState:
    """How a run in which nothing can happen any more has ended.

    Stopped only if a person stopped one of its nodes; else failed if any node failed or was
    cut off; else succeeded. (A person's stop of the whole run stops its nodes.)
    """
    now = set(states)
    if NodeState.STOPPED in now:
        return RunState.STOPPED
    if now <= {NodeState.SUCCEEDED}:
        return RunState.SUCCEEDED
    return RunState.FAILED
