"""The shape of a workflow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

#: Names of nodes: they stand in URLs, file names and `${nodes.NAME.key}`.
NODE_NAME = re.compile(r"[^\W]([\w.\-]{0,62}[\w])?", re.UNICODE)


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a graph. `node` is the node it stands on, empty for the whole."""

    node: str
    message: str


class InvalidGraph(ValueError):
    """Every fault of a graph at once."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = tuple(faults)


def above(edges: Iterable[tuple[str, str]], key: str) -> set[str]:
    """Everything that a node comes after, by edges that may still have faults; not itself."""
    upstream: dict[str, list[str]] = {}
    for up, down in edges:
        upstream.setdefault(down, []).append(up)
    found: set[str] = set()
    left = [key]
    while left:
        new = set(upstream.get(left.pop(), ())) - found
        found |= new
        left += new
    return found - {key}


@dataclass(frozen=True)
class Graph:
    """Nodes by key and the edges between them. Only `build` makes one, so it has no cycle."""

    keys: tuple[str, ...]
    edges: frozenset[tuple[str, str]]

    @classmethod
    def build(cls, keys: Iterable[str], edges: Iterable[tuple[str, str]]) -> Graph:
        """A graph without faults.

        Raises InvalidGraph with all faults: no node, an empty, odd or repeated name, an
        edge to nowhere, a node that waits for itself, a cycle (naming its nodes in order).
        """
        keys, edges = tuple(keys), frozenset(edges)
        faults = graph_faults(keys, edges)
        if faults:
            raise InvalidGraph(faults)
        return cls(keys, edges)

    @cached_property
    def upstream(self) -> Mapping[str, frozenset[str]]:
        up: dict[str, set[str]] = {key: set() for key in self.keys}
        for a, b in self.edges:
            up[b].add(a)
        return {key: frozenset(above) for key, above in up.items()}

    @cached_property
    def downstream(self) -> Mapping[str, frozenset[str]]:
        down: dict[str, set[str]] = {key: set() for key in self.keys}
        for a, b in self.edges:
            down[a].add(b)
        return {key: frozenset(below) for key, below in down.items()}

    @cached_property
    def in_order(self) -> tuple[str, ...]:
        """Keys so that each stands behind its upstreams; among equals, as given."""
        place = {key: n for n, key in enumerate(self.keys)}
        left = dict.fromkeys(self.keys, 0)
        for _, b in self.edges:
            left[b] += 1
        ready = sorted((key for key in self.keys if not left[key]), key=place.__getitem__)
        done: list[str] = []
        while ready:
            following: list[str] = []
            for key in ready:
                done.append(key)
                for below in sorted(self.downstream[key], key=place.__getitem__):
                    left[below] -= 1
                    if not left[below]:
                        following.append(below)
            ready = following
        return tuple(done)

    def below(self, key: str) -> frozenset[str]:
        """Every node that waits for `key`, however far down; without `key` itself."""
        seen: set[str] = set()
        stack = [key]
        while stack:
            for below in self.downstream[stack.pop()]:
                if below not in seen:
                    seen.add(below)
                    stack.append(below)
        return frozenset(seen)


def graph_faults(keys: Sequence[str], edges: Iterable[tuple[str, str]]) -> list[Fault]:
    """Everything wrong with these nodes and edges, in the order of the nodes; [] if nothing."""
    faults: list[Fault] = []
    known: set[str] = set()
    if not keys:
        faults.append(Fault("", "the workflow has no node; add one"))
    for key in keys:
        if not key.strip():
            faults.append(Fault(key, "a node has no name; name it"))
        elif not NODE_NAME.fullmatch(key):
            faults.append(
                Fault(
                    key,
                    f"node name {key!r} is not allowed; use 1 to 64 letters, digits, "
                    "'_', '-' and '.', the first and last a letter or digit or '_'",
                )
            )
        if key in known:
            faults.append(Fault(key, f"two nodes are named {key!r}; names are unique"))
        known.add(key)
    upstream: dict[str, set[str]] = {key: set() for key in known}
    for a, b in sorted(edges):
        if a == b:
            faults.append(Fault(a, f"node {a!r} waits for itself; remove that upstream"))
            continue
        for end, other in ((a, b), (b, a)):
            if end not in known:
                faults.append(
                    Fault(
                        other,
                        f"node {other!r} is connected to {end!r}, which is not there",
                    )
                )
        if a in known and b in known:
            upstream[b].add(a)
    try:
        TopologicalSorter(upstream).prepare()
    except CycleError as error:
        ring = error.args[1]  # each is an immediate upstream of the next
        faults.append(Fault(ring[0], "nodes wait for each other in a circle: " + " → ".join(ring)))
    return faults
