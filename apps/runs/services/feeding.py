"""A backfill's runs, bit by bit: so many at once, a few more in line, and no more than these.

    feed(7)                     # after its creation, after each end of a run of it, with each tick

It looks at how things stand and does what is missing, under the backfill's row lock, which comes
before those of its workflow, its lane and all others. A cycle gets its run in the transaction
that launches it, so that nobody who dies, or comes twice or at once, gives it none or two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from django.db import connection, transaction
from django.db.models import BooleanField, Count, ExpressionWrapper, Q
from django.db.models.functions import Now

from apps.core.errors import Conflict, Invalid
from apps.engine.backfill import Counts, Standing, standing
from apps.engine.graph import Graph
from apps.engine.states import Hold, RunState, Trigger
from apps.nodes.kinds.registry import UnknownKind
from apps.nodes.models import JobVersion
from apps.runs.models import Backfill, BackfillCycle, BackfillEvent, Lane, Run
from apps.runs.services.advance import cut_off
from apps.runs.services.endings import when_run_ended
from apps.runs.services.launch import launch
from apps.runs.services.rerun import shape_of
from apps.runs.services.scope import lock_nodes
from apps.workspaces.models import User

#: Runs in line behind those that are under way, so that the next one starts at once: as many as
#: there may be at once, within these.
LEAST_AHEAD, MOST_AHEAD = 4, 50
#: Node runs that one transaction makes.
BATCH_NODES = 500
#: Transactions of one call; what is left is the next one's.
BATCHES = 4


def feed(backfill_id: int, batches: int = BATCHES) -> None:
    """Let a backfill's next cycles start as far as it has room, and end it once all is over.

    May be called twice, late, or at once; outside a transaction. Where a cycle cannot be
    launched the backfill pauses and says why.
    """
    for _ in range(batches):
        look = _look(backfill_id)
        if look is None or not look.is_to_do:
            return
        with transaction.atomic():
            rows = Backfill.objects.select_for_update(no_key=True, of=("self",))
            rows = rows.select_related("version__workflow", "lane", "queue", "created_by")
            backfill = rows.filter(pk=backfill_id).first()
            found = _look(backfill_id)  # nobody else changes it now
            if backfill is None or found is None or not found.is_to_do:
                return
            _do(backfill, found)


@when_run_ended("backfill")
def feed_after(run_id: int) -> None:
    cycles = BackfillCycle.objects.filter(run=run_id)
    for backfill_id in cycles.values_list("backfill", flat=True):
        feed(backfill_id)


def to_feed() -> list[int]:
    """Ids of the backfills that are not over; of paused ones each end of a run says enough."""
    rows = Backfill.objects.filter(ended_at=None, paused_at=None)
    return list(rows.order_by("pk").values_list("pk", flat=True))


def counts_of(backfills: Iterable[Backfill]) -> dict[int, Counts]:
    """How the cycles of each stand, by its id; one query."""
    found = {backfill.pk: Counts(backfill.total) for backfill in backfills}
    rows = BackfillCycle.objects.filter(backfill__in=found)
    rows = rows.annotate(to_come=ExpressionWrapper(Q(launched_at=None), BooleanField()))
    stood = rows.values_list("backfill", "to_come", "run__state", "ended_as")
    for pk, to_come, state, ended_as, n in stood.annotate(n=Count("pk")):
        word = "to_come" if to_come else _WORDS[state or ended_as]
        found[pk] = replace(found[pk], **{word: getattr(found[pk], word) + n})
    return found


_WORDS = {
    RunState.PENDING: "waiting",
    RunState.RUNNING: "running",
    RunState.SUCCEEDED: "succeeded",
    RunState.FAILED: "failed",
    RunState.STOPPED: "stopped",
    "": "stopped",  # its run is gone with no word of how it ended: it did not succeed
}


def standing_of(backfill: Backfill, counts: Counts) -> Standing:
    return standing(
        counts,
        paused=backfill.paused_at is not None,
        cancelled=backfill.cancelled_at is not None,
    )


def stop_rest(backfill_id: int) -> None:
    """Stop what of a cancelled backfill has not started, and what runs if that was asked for.

    May be called twice, late, or at once; outside a transaction. What a person opened again
    since then goes on.
    """
    rows = Backfill.objects.filter(pk=backfill_id, ended_at=None, cancelled_at__isnull=False)
    backfill = rows.select_related("cancelled_by").first()
    if backfill is None:
        return
    runs = Run.objects.filter(lane=backfill.lane_id).exclude(hold=Hold.STOPPED)
    runs = runs.filter(Q(waits=True) | Q(waits=False, state__in=_OPEN))
    if backfill.stop_running:
        runs = runs.exclude(reopened_at__gte=backfill.cancelled_at)
    else:
        runs = runs.filter(state=RunState.PENDING)
    for run_id in runs.order_by("pk").values_list("pk", flat=True):
        with transaction.atomic():
            lock_nodes(run_id)  # none of them starts from here on
            if backfill.stop_running or Run.objects.get(pk=run_id).state == RunState.PENDING:
                note = f"backfill {backfill.pk} was cancelled"
                cut_off(run_id, Hold.STOPPED, note=note, user=backfill.cancelled_by)
    feed(backfill_id)


_OPEN = (RunState.PENDING, RunState.RUNNING)


@dataclass(frozen=True)
class _Look:
    """How a backfill that is not over stands."""

    paused: bool
    cancelled: bool
    at_once: int
    stop_after: int | None
    #: Runs that hold a place, and those in line; of these the ones that let others pass: they
    #: wait for another run of their cycle, or a person paused them.
    placed: int
    in_line: int
    blocked: int
    #: Whether a cycle has no run yet.
    more: bool
    #: Since it was last resumed; 0 where nobody asks.
    failures: int

    @property
    def is_over(self) -> bool:
        return not self.placed + self.in_line and (self.cancelled or not self.more)

    @property
    def has_failed_enough(self) -> bool:
        return self.stop_after is not None and self.failures >= self.stop_after

    @property
    def room(self) -> int:
        """How many runs are to be made now; 0 while there are nearly enough."""
        if self.paused or self.cancelled or not self.more:
            return 0
        if self.stop_after is not None:
            # Nothing stands in line: it would start before the failure that ends it all is seen.
            return max(self.at_once - self.placed - self.in_line, 0)
        ahead = max(LEAST_AHEAD, min(self.at_once, MOST_AHEAD))
        room = self.at_once + ahead - self.placed - (self.in_line - self.blocked)
        return room if room >= ahead // 2 else 0

    @property
    def is_to_do(self) -> bool:
        return self.is_over or self.room > 0


def _look(backfill_id: int) -> _Look | None:
    """None: it is over, or gone. One statement."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT b.paused_at IS NOT NULL, b.cancelled_at IS NOT NULL, b.at_once, b.stop_after,
                   (SELECT count(*) FROM runs_run WHERE lane_id = b.lane_id AND NOT waits
                       AND state IN ('pending', 'running')),
                   line.n, line.blocked,
                   EXISTS (SELECT FROM runs_backfillcycle
                            WHERE backfill_id = b.id AND launched_at IS NULL),
                   CASE WHEN b.stop_after IS NULL THEN 0 ELSE
                       (SELECT count(*) FROM runs_backfillcycle c JOIN runs_run r ON r.id = c.run_id
                         WHERE c.backfill_id = b.id AND r.state = 'failed'
                           AND (b.resumed_at IS NULL OR r.ended_at > b.resumed_at)) END
              FROM runs_backfill b, LATERAL (
                  SELECT count(*) AS n,
                         count(*) FILTER (WHERE waits_for_id IS NOT NULL OR hold <> '') AS blocked
                    FROM runs_run WHERE lane_id = b.lane_id AND waits) AS line
             WHERE b.id = %s AND b.ended_at IS NULL
            """,
            [backfill_id],
        )
        row = cursor.fetchone()
    return None if row is None else _Look(*row)


# --- under the backfill's row lock ------------------------------------------------------------


def _do(backfill: Backfill, look: _Look) -> None:
    if look.is_over:
        note = "over, cancelled" if look.cancelled else "over"
        Backfill.objects.filter(pk=backfill.pk).update(ended_at=Now(), paused_at=None)
        tell(backfill, note)
    elif look.has_failed_enough:
        many = "1 cycle has" if look.failures == 1 else f"{look.failures} cycles have"
        hold_back(backfill, why=f"{many} failed")
    else:
        try:
            with transaction.atomic():
                _launch(backfill, look.room)
        except (Conflict, Invalid, UnknownKind) as error:
            hold_back(backfill, why=str(error))


def _launch(backfill: Backfill, room: int) -> None:
    """Give the next cycles their runs. Raises as `launch` does."""
    count = max(min(room, BATCH_NODES // max(len(backfill.job_versions), 1)), 1)
    rows = backfill.cycles.filter(launched_at=None).order_by("position")
    cycles = dict(rows.values_list("cycle", "pk")[:count])
    runs = launch(
        backfill.version,
        cycles=list(cycles),
        trigger=Trigger.BACKFILL,
        by=backfill.created_by,
        queue=backfill.queue,
        parameters=backfill.parameters,
        remarks=backfill.remarks,
        lane=backfill.lane,
        on_end=["backfill"],
        versions=_versions(backfill),
        part=nodes_of(backfill) if backfill.node else None,
        flow=backfill.flow,
    )
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE runs_backfillcycle AS mine
               SET run_id = made.run_id, launched_at = clock_timestamp()
              FROM unnest(%s::bigint[], %s::bigint[]) AS made (id, run_id)
             WHERE mine.id = made.id AND mine.launched_at IS NULL
            """,
            [[cycles[run.cycle] for run in runs], [run.pk for run in runs]],
        )
        assert cursor.rowcount == len(cycles)  # noqa: S101 -- under the lock none else launches


def _versions(backfill: Backfill) -> dict[str, JobVersion]:
    """The version of each node's job, as it was when the backfill was made."""
    rows = JobVersion.objects.select_related("job")
    found = rows.in_bulk(set(backfill.job_versions.values()))
    gone = sorted(name for name, pk in backfill.job_versions.items() if pk not in found)
    if gone:
        raise Conflict(f"node {gone[0]!r}: the version of its job that it was to run was deleted")
    return {name: found[pk] for name, pk in backfill.job_versions.items()}


def nodes_of(backfill: Backfill) -> list[str]:
    """The nodes that are run, in the graph's order."""
    return nodes_within(shape_of(backfill.version), backfill.node, backfill.downstream)


def nodes_within(graph: Graph, node: str, downstream: bool) -> list[str]:
    """A node, and what is below it with `downstream`, in the graph's order; "": every node."""
    if not node:
        return list(graph.in_order)
    below = graph.below(node) if downstream else frozenset()
    return [key for key in graph.in_order if key == node or key in below]


def hold_back(backfill: Backfill, *, why: str = "", user: User | None = None) -> None:
    """Pause a backfill whose row the caller has locked: no further run of it starts."""
    Backfill.objects.filter(pk=backfill.pk).update(paused_at=Now(), paused_by=user, why=why)
    Lane.objects.filter(pk=backfill.lane_id).update(limit=0)
    tell(backfill, f"paused: {why}" if why else "paused", user=user)


def tell(backfill: Backfill, note: str, *, user: User | None = None) -> None:
    """Add to what happened to a backfill."""
    BackfillEvent.objects.create(backfill=backfill, note=note, user=user)
