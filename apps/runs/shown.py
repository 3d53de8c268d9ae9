"""What the pages of runs show, read in few queries whatever the number of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import Count, F, Func, IntegerField, QuerySet
from django.utils import timezone

from apps.engine.priority import Priority
from apps.engine.states import ACTIVE, RUN_ENDED, NodeState, RunState, Strategy, Trigger
from apps.engine.waiting import Reason
from apps.runs.models import Attempt, NodeRun, Output, Run, RunEvent, SchedulePoint
from apps.runs.waiting import waiting_of
from apps.workflows.drawing import COMPACT, Drawing, draw
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workspaces.models import ResourceQueue

NOT_RUN = "notrun"
FORCED = "forced"
#: The order in which states are counted out.
ORDER = ("succeeded", "failed", "running", "retrying", "queued", "pending", "stopped", "cancelled")


# --- lists ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Past:
    """One bar of a row of bars."""

    pk: int
    state: str
    seconds: float | None


@dataclass(frozen=True)
class Bar:
    """A past run drawn: a rectangle in a row of 24 px."""

    past: Past
    x: int
    y: float
    height: float


def last_runs(workflow_ids: Iterable[int], *, count: int = 30) -> dict[int, list[Past]]:
    """The newest runs of each workflow, oldest first, in one query that reads no more of them."""
    ids = list(workflow_ids)
    found: dict[int, list[Past]] = {pk: [] for pk in ids}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT w.id, r.id, r.state, extract(epoch FROM r.ended_at - r.started_at)
            FROM unnest(%s::bigint[]) AS w (id)
            CROSS JOIN LATERAL (
                SELECT id, state, started_at, ended_at FROM runs_run
                WHERE workflow_id = w.id AND trigger <> 'debug' ORDER BY id DESC LIMIT %s
            ) AS r
            ORDER BY r.id
            """,
            [ids, count],
        )
        for workflow, pk, state, seconds in cursor.fetchall():
            found[workflow].append(Past(pk, state, None if seconds is None else float(seconds)))
    return found


@dataclass(frozen=True)
class Stand:
    """How a cycle stands: its newest run, or that its point was missed."""

    state: str
    run: int | None = None
    #: The run is of some nodes alone, and says nothing of the whole cycle.
    is_part: bool = False


def cycles_stand(workflow: Workflow, cycles: Collection[datetime]) -> dict[datetime, Stand]:
    """How each of a workflow's cycles stands, in three queries; what nothing is known of is left
    out.

    Debug runs do not count.
    """
    missed = SchedulePoint.objects.filter(workflow=workflow, cycle__in=cycles, run=None)
    found = {cycle: Stand("missed") for cycle in missed.values_list("cycle", flat=True)}
    runs = Run.objects.filter(workflow=workflow, cycle__in=cycles).exclude(trigger=Trigger.DEBUG)
    newest = list(runs.order_by("cycle", "-pk").distinct("cycle").defer("variables"))
    size = Func(F("graph__nodes"), function="jsonb_array_length", output_field=IntegerField())
    versions = WorkflowVersion.objects.filter(pk__in={run.version_id for run in newest})
    size_of: dict[int | None, int] = dict(versions.annotate(size=size).values_list("pk", "size"))
    for run in newest:
        found[run.cycle] = Stand(run.state, run.pk, run.total < size_of[run.version_id])
    return found


def bars_of(past: Sequence[Past]) -> list[Bar]:
    """Bars as high as the runs were long."""
    longest = max((each.seconds or 0 for each in past), default=0) or 1
    bars = []
    for n, each in enumerate(past):
        share = 0.5 if each.seconds is None else max(each.seconds / longest, 0.2)
        height = round(18 * share, 1)
        bars.append(Bar(each, n * 4, round(19 - height, 1), height))
    return bars


def counts_of(past: Sequence[Past]) -> list[tuple[str, int]]:
    """(state, how many), in the usual order, zeros left out."""
    found = Counter(each.state for each in past)
    return [(state, found[state]) for state in ORDER if found[state]]


@dataclass(frozen=True)
class Share:
    state: str
    x: float
    width: float


def shares_of(counts: Sequence[tuple[str, int]]) -> list[Share]:
    """A bar of 100 divided as the counts are; a share under 5 % still gets 5."""
    total = sum(count for _, count in counts) or 1
    raw = [max(100 * count / total, 5.0) for _, count in counts]
    shares, x = [], 0.0
    for (state, _), width in zip(counts, raw, strict=True):
        width *= 100 / sum(raw)
        shares.append(Share(state, round(x, 2), round(width, 2)))
        x += width
    return shares


def with_line(queues: QuerySet[ResourceQueue]) -> list[ResourceQueue]:
    """Queues with how many nodes run and wait in each (`running`, `waiting`, `percent`)."""
    rows = list(queues)
    found: dict[tuple[int, str], int] = {
        (row["queue"], row["state"]): row["n"]
        for row in NodeRun.objects.filter(
            queue__in=rows, state__in=[NodeState.QUEUED, NodeState.RUNNING]
        )
        .values("queue", "state")
        .annotate(n=Count("pk"))
        .order_by()
    }
    for row in rows:
        row.running = found.get((row.pk, "running"), 0)  # type: ignore[attr-defined]
        row.waiting = found.get((row.pk, "queued"), 0)  # type: ignore[attr-defined]
        row.percent = min(round(100 * row.used / row.capacity), 100)  # type: ignore[attr-defined]
    return rows


# --- one run --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Part of a node's row in the Gantt; x and width in thousandths of the run's time."""

    kind: str  # waiting, pause, or an attempt's state
    x: float
    width: float


@dataclass
class NodeShown:
    """One node as the run page shows it."""

    node: NodeRun
    mark: str
    attempts: list[Attempt] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    reasons: tuple[Reason, ...] = ()  # why it has not run, or does not run yet
    said: str = ""  # of one that ended without an attempt: why
    waited: timedelta | None = None
    ran: timedelta | None = None
    x: float = 0
    y: float = 0

    @property
    def why(self) -> Reason | None:
        """The most important of its reasons."""
        return self.reasons[0] if self.reasons else None

    @property
    def waited_in_vain(self) -> bool:
        """Whether it failed in its queue, without another attempt."""
        node = self.node
        if node.state != NodeState.FAILED or node.queued_at is None:
            return False
        return not self.attempts or node.queued_at > self.attempts[-1].started_at

    @property
    def waited_long(self) -> bool:
        return self.waited is not None and self.waited > timedelta(minutes=1)


@dataclass(frozen=True)
class EdgeShown:
    path: str
    idle: bool  # nothing has gone along it


@dataclass(frozen=True)
class Trouble:
    """The first node that failed, and what that means."""

    shown: NodeShown
    attempt: Attempt | None
    error_class: str
    error_rest: str
    blocked: list[str]
    others: list[NodeShown]  # what failed after it

    @property
    def facts(self) -> list[str]:
        """How it failed, each thing once: a reason is often the exit code in words."""
        tries = self.shown.node.attempt
        return [f"after {tries} attempts"] * (tries > 1) + ended_how(self.attempt)


@dataclass(frozen=True)
class RunShown:
    run: Run
    why: Reason | None  # why it does not move
    nodes: list[NodeShown]
    edges: list[EdgeShown]
    drawing: Drawing | None  # None: too large
    counts: list[tuple[str, int]]
    ticks: list[tuple[float, str]]
    trouble: Trouble | None
    left: int  # nodes that a rerun of the failed part would run
    outputs: list[Output]

    @property
    def fits(self) -> bool:
        """Whether the graph can be shrunk to its panel's width and still be read."""
        return self.drawing is not None and self.drawing.width <= 840

    @property
    def over(self) -> bool:
        return self.run.state in RUN_ENDED

    @property
    def limits(self) -> list[str]:
        """What was said of the whole run, where it is not the usual."""
        run = self.run
        said = {
            f"at most {run.parallelism} at once": run.parallelism,
            f"cancelled after {run.timeout_seconds} s": run.timeout_seconds,
            "ends when a node fails": run.strategy == Strategy.END,
        }
        if run.priority is not None:
            said[f"{Priority(run.priority).word} priority, chosen for this run"] = True
        return [words for words, holds in said.items() if holds]

    @property
    def running(self) -> bool:
        return any(shown.node.state == NodeState.RUNNING for shown in self.nodes)

    def selected(self, wanted: str) -> NodeShown | None:
        """The node that the side panel shows: the one asked for, else the first that failed,
        that runs, that has run."""
        by_key = {shown.node.key: shown for shown in self.nodes}
        if wanted in by_key:
            return by_key[wanted]
        if self.trouble:
            return self.trouble.shown
        for states in ({NodeState.RUNNING}, ACTIVE):
            for shown in self.nodes:
                if shown.node.state in states:
                    return shown
        ran = [shown for shown in self.nodes if shown.attempts]
        return ran[-1] if ran else next(iter(self.nodes), None)


def run_shown(run: Run) -> RunShown:
    """Everything on the run page but the side panel; three queries, and those of `waiting_of`.

    `run.state` was read before: a run that ends meanwhile is shown as under way, and so the
    page asks once more.
    """
    now = timezone.now()
    over = run.state in RUN_ENDED
    rows = run.nodes.select_related("job_version__job", "queue").order_by("pk")
    nodes = [NodeShown(node, mark_of(node, over=over)) for node in rows]
    by_pk = {shown.node.pk: shown for shown in nodes}
    by_key = {shown.node.key: shown for shown in nodes}
    attempts = Attempt.objects.filter(node_run__in=by_pk).defer("values")
    for attempt in attempts.order_by("number"):
        by_pk[attempt.node_run_id].attempts.append(attempt)
    outputs = list(
        Output.objects.filter(attempt__node_run__in=by_pk)
        .select_related("attempt__node_run")
        .order_by("attempt__node_run", "name")
    )
    edges = [(a, b) for a, b in (run.version.graph["edges"] if run.version else [])]
    waiting = waiting_of(run, [shown.node for shown in nodes])
    for shown in nodes:
        _time(shown, now)
        shown.reasons = waiting.nodes.get(shown.node.pk, ())
        tells = shown.waited_in_vain or not (shown.attempts or shown.reasons)
        shown.said = shown.node.reason if tells else ""
    ticks = _gantt(run, nodes, now)
    # As wide as the longest name asks for, within reason: the whole of it is in the tooltip.
    longest = max((len(key) for key in by_key), default=0)
    width = min(max(32 + 6 * longest, COMPACT.width), 190)
    drawing = draw(list(by_key), edges, replace(COMPACT, width=width))
    for box in drawing.boxes if drawing else ():
        by_key[box.key].x, by_key[box.key].y = box.x, box.y
    counted = Counter(shown.mark for shown in nodes)
    return RunShown(
        run=run,
        why=waiting.run,
        nodes=nodes,
        edges=[
            EdgeShown(line.path, by_key[line.downstream].node.attempt == 0)
            for line in (drawing.lines if drawing else ())
        ],
        drawing=drawing,
        counts=[(mark, n) for mark in (*ORDER, FORCED, NOT_RUN) if (n := counted[mark])],
        ticks=ticks,
        trouble=_trouble(nodes, edges, over),
        left=sum(shown.node.state != NodeState.SUCCEEDED for shown in nodes),
        outputs=[
            output for output in outputs if output.attempt.number == output.attempt.node_run.attempt
        ],
    )


def mark_of(node: NodeRun, *, over: bool) -> str:
    """Its state as pages show it; `over`: its run is."""
    if node.state == NodeState.PENDING and over:
        return NOT_RUN
    if node.state == NodeState.SUCCEEDED and node.forced:
        return FORCED
    return str(node.state)


def _time(shown: NodeShown, now: datetime) -> None:
    """How long it waited in its queue, and ran, the last time."""
    node = shown.node
    if node.state == NodeState.QUEUED and node.queued_at:
        shown.waited = now - node.queued_at
        return
    if shown.waited_in_vain and node.queued_at and node.ended_at:
        shown.waited = node.ended_at - node.queued_at
        return
    if shown.attempts:
        last = shown.attempts[-1]
        if node.queued_at and node.queued_at <= last.started_at:
            shown.waited = last.started_at - node.queued_at
        shown.ran = (last.ended_at or now) - last.started_at


#: Marks of the time axis: as many as have room side by side on a phone.
TICKS = 4


def _gantt(run: Run, nodes: list[NodeShown], now: datetime) -> list[tuple[float, str]]:
    """Fill each node's pieces; return the axis: (place, time of day in the page's zone)."""
    starts = [shown.attempts[0].started_at for shown in nodes if shown.attempts]
    first = min([run.started_at or run.created_at, *starts])
    ends = [a.ended_at or now for shown in nodes for a in shown.attempts]
    last = max([run.ended_at or now, *ends, first + timedelta(seconds=1)])
    whole = (last - first).total_seconds()

    def piece(kind: str, start: datetime, end: datetime) -> Piece:
        x = max((start - first).total_seconds() / whole * 1000, 0)
        width = (end - start).total_seconds() / whole * 1000
        return Piece(kind, round(x, 1), round(max(width, 4), 1))

    for shown in nodes:
        node, previous = shown.node, None
        if node.queued_at and node.state == NodeState.QUEUED:
            shown.pieces.append(piece("waiting", max(node.queued_at, first), now))
        elif shown.attempts and node.queued_at and node.queued_at >= first:
            begun = shown.attempts[-1].started_at
            if begun - node.queued_at > timedelta(seconds=whole / 500):
                shown.pieces.append(piece("waiting", node.queued_at, begun))
        for attempt in shown.attempts:
            if previous and previous.ended_at and len(shown.attempts) < 50:
                shown.pieces.append(piece("pause", previous.ended_at, attempt.started_at))
            shown.pieces.append(piece(attempt.state, attempt.started_at, attempt.ended_at or now))
            previous = attempt
    return _ticks(first, whole)


def _ticks(first: datetime, seconds: float) -> list[tuple[float, str]]:
    """The axis. Marks that would read like the one before are left out."""
    form = "%H:%M" if seconds >= 300 else "%H:%M:%S"
    ticks: list[tuple[float, str]] = []
    for n in range(TICKS):
        at = first + timedelta(seconds=seconds * n / TICKS)
        text = timezone.localtime(at).strftime(form)
        if not ticks or ticks[-1][1] != text:
            ticks.append((1000 * n / TICKS, text))
    return ticks


def _trouble(
    nodes: Sequence[NodeShown], edges: Sequence[tuple[str, str]], over: bool
) -> Trouble | None:
    failed = [shown for shown in nodes if shown.node.state == NodeState.FAILED]
    if not failed:
        return None
    first, *others = sorted(failed, key=lambda shown: shown.node.ended_at or timezone.now())
    attempt = first.attempts[-1] if first.attempts and not first.waited_in_vain else None
    line = (attempt.error_line if attempt else "") or first.node.reason
    if not line and attempt and attempt.log_tail.strip():
        line = attempt.log_tail.strip().splitlines()[-1]
    head, colon, rest = line.partition(":")
    named = bool(colon) and len(head) < 120 and " " not in head.strip()
    return Trouble(
        shown=first,
        attempt=attempt,
        error_class=head if named else "",
        error_rest=(colon + rest) if named else line,
        blocked=[shown.node.key for shown in nodes if shown.mark == NOT_RUN],
        others=others,
    )


def ended_how(attempt: Attempt | None) -> list[str]:
    """Exit code and reason of an attempt, without saying one thing twice."""
    if attempt is None:
        return []
    code = "" if attempt.exit_code is None else f"exit code {attempt.exit_code}"
    return [each for each in (code if code not in attempt.reason else "", attempt.reason) if each]


def stopped_by(run: Run) -> str:
    """Who stopped a run, or a node of it; "" if nobody did."""
    if RunState.STOPPED not in (run.state, run.hold):
        return ""
    rows = RunEvent.objects.filter(run=run.pk, note__in=["stopped", "stop asked"])
    names = rows.order_by("-pk").values_list("user__username", flat=True)
    return names.exclude(user=None).first() or ""


def forced_by(node: NodeRun) -> RunEvent | None:
    """The event of a node's being set to success: who, when, why. None: it was not."""
    if not node.forced:
        return None
    rows = RunEvent.objects.filter(run=node.run_id, node_run=node.pk, new=NodeState.SUCCEEDED)
    return rows.select_related("user").order_by("-pk").first()


def is_live(run: Run) -> bool:
    return run.state in (RunState.PENDING, RunState.RUNNING)
