"""What a node's variables were, where each came from, and what it left: for page and API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from apps.engine.states import Trigger
from apps.engine.timevars import (
    BUILT_IN,
    RUN_NAMES,
    Moment,
    Unresolved,
    built_in,
    names_in,
    resolve,
)
from apps.nodes.kinds.base import Given, definitions
from apps.nodes.kinds.registry import UnknownKind, kind
from apps.nodes.models import JobVersion
from apps.runs.models import Attempt, NodeRun, Run
from apps.runs.services.prepare import ValuesNamed
from apps.runs.services.values import nodes_named, values_of_nodes
from apps.workflows.clock import moment_of
from apps.workflows.services.publishing import whole

#: Runs that a trend looks back over, this one among them.
TREND_RUNS = 30
_WIDTH, _HEIGHT = 120, 24


@dataclass(frozen=True)
class Variable:
    name: str
    #: Of a secret "***".
    value: str
    #: "run", "node", "workflow", "job", "workspace", "built-in", "secret" or "node load".
    source: str
    #: As it is written, where that differs from the value.
    written: str = ""


@dataclass(frozen=True)
class Resolved:
    variables: list[Variable]
    #: Why they have no values; "" where they have.
    fault: str = ""


@dataclass(frozen=True)
class Left:
    """A value that an attempt left, and how its number went over the last runs."""

    key: str
    value: str
    #: (run, number), the oldest first; empty for what is no number.
    past: tuple[tuple[int, float], ...] = ()

    @property
    def least(self) -> float:
        return min(number for _, number in self.past)

    @property
    def most(self) -> float:
        return max(number for _, number in self.past)

    @property
    def points(self) -> list[tuple[float, float]]:
        """Where they stand in a picture of 120 by 24, to the right the newest."""
        span = self.most - self.least
        step = (_WIDTH - 6) / max(len(self.past) - 1, 1)
        return [
            (
                round(_WIDTH - 3 - step * (len(self.past) - 1 - n), 1),
                round(_HEIGHT - 3 - (_HEIGHT - 6) * ((number - self.least) / span), 1)
                if span
                else _HEIGHT / 2,
            )
            for n, (_, number) in enumerate(self.past)
        ]

    @property
    def line(self) -> str:
        return " ".join(f"{x},{y}" for x, y in self.points)


def resolved(node: NodeRun, attempt: Attempt | None) -> Resolved:
    """Every variable of a node as an attempt of it found them; None: as one would now.

    Made anew of what was fixed at launch and of what upstreams had left when the attempt began.
    Paths of the worker's stay names.
    """
    run, version = node.run, node.job_version
    settings: Mapping[str, Any] = {}
    own: Mapping[str, str] = {}
    if run.version is not None:
        graph = whole(run.version.graph)
        settings = graph["settings"]
        own = next((n["variables"] for n in graph["nodes"] if n["name"] == node.key), {})
    given = Given(run.variables, settings.get("variables", {}), own, run.parameters)
    begun = attempt.started_at if attempt else None

    def left(texts: Sequence[str]) -> Mapping[str, str]:
        return values_of_nodes(run.pk, node.key, nodes_named(texts), before=begun)

    return resolved_as(version, given, moment_of(run.cycle, settings, run.zone), left)


def resolved_as(version: JobVersion, given: Given, moment: Moment, left: ValuesNamed) -> Resolved:
    """Every variable of a job that is given these, at this moment; `left` as in `with_values`."""
    defined = definitions(version.spec, given)
    texts = [each.text for each in defined.values()]
    with suppress(UnknownKind):  # the package that brought it is gone; its variables are not
        texts += [text for _, _, text in kind(version.kind).texts(version.spec)]
    of_nodes = left(texts)
    fixed = {**{name: f"${{{name}}}" for name in RUN_NAMES}, **built_in(moment)}
    fault = ""
    try:
        values = resolve({n: d.text for n, d in defined.items()}, {**fixed, **of_nodes}, moment)
    except Unresolved as error:
        fault, values = str(error), {}
    used = {name for text in texts for name in names_in(text)}
    secrets = set(version.spec.get("secrets") or ())
    shown = [
        Variable(name, values.get(name, ""), str(each.source), each.text)
        for name, each in sorted(defined.items())
        if name not in BUILT_IN and name not in secrets
    ]
    shown = [replace(each, written=each.written * (each.written != each.value)) for each in shown]
    shown += [Variable(name, "***", "secret") for name in sorted(secrets)]
    shown += [
        Variable(name, of_nodes[name], f"node {name.split('.', 1)[1].rpartition('.')[0]}")
        for name in sorted(of_nodes.keys() & used)
    ]
    shown += [Variable(name, fixed[name], "built-in") for name in BUILT_IN]
    return Resolved(shown, fault)


def left_by(node: NodeRun, attempt: Attempt | None) -> list[Left]:
    """What an attempt left in $RUNYARD_OUTPUT, its numbers with those of the runs before."""
    values = (attempt and attempt.values) or {}
    numbers = {key: n for key in values if (n := _number(values[key])) is not None}
    past: dict[str, list[tuple[int, float]]] = {key: [] for key in numbers}
    for run, before in _before(node) if numbers else ():
        for key in numbers.keys() & before.keys():
            if (number := _number(before[key])) is not None:
                past[key].append((run, number))
    for key, number in numbers.items():
        past[key].append((node.run_id, number))
    return [Left(key, value, tuple(past.get(key, ()))) for key, value in sorted(values.items())]


def _before(node: NodeRun) -> list[tuple[int, dict[str, str]]]:
    """What the node left in the runs before this one, the oldest first: the last attempt's."""
    run = node.run
    mine = {"workflow": run.workflow_id} if run.workflow_id else {"job": run.job_id}
    earlier = Run.objects.filter(**mine, pk__lt=run.pk).order_by("-pk")
    if run.workflow_id:  # of a draft of a workflow no number counts; a job's are often all drafts'
        earlier = earlier.exclude(trigger=Trigger.DEBUG)
    ids = list(earlier.values_list("pk", flat=True)[: TREND_RUNS - 1])
    rows = Attempt.objects.filter(
        node_run__run__in=ids, node_run__key=node.key, values__isnull=False
    ).order_by("node_run__run", "number")
    found = {run_id: values or {} for run_id, values in rows.values_list("node_run__run", "values")}
    return list(found.items())


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None
