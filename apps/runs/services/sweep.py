"""Look around: what did a crash, a lost message or the passing of time leave undone?

Every part is level-triggered and safe to double: two beats, or a beat and ten workers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import Exists, F, OuterRef, Q, Sum
from django.db.models.functions import Now
from django.db.models.lookups import GreaterThan

from apps.engine.retry import LOSSES_ALLOWED
from apps.engine.states import AttemptState, By, Hold, NodeState, Strategy
from apps.runs.doorbell import ring
from apps.runs.models import NodeRun, Pulse, Run
from apps.runs.services.advance import HAS_FAILED, IS_LATE, advance, recount
from apps.runs.services.aging import age
from apps.runs.services.endings import tell_ends
from apps.runs.services.feeding import feed, stop_rest, to_feed
from apps.runs.services.holding import mend_held, settle
from apps.runs.services.lanes import fill, follow, lanes_to_fill, to_follow
from apps.runs.services.moves import admit, close, end_attempt, move
from apps.runs.services.scheduling import AHEAD, database_clock, due, due_soon, take_due
from apps.runs.services.scope import lock_nodes
from apps.workspaces.models import ResourceQueue

log = logging.getLogger(__name__)

#: Older than this, and any worker ticks by itself.
PULSE_SECONDS = 10
BATCH = 200
#: Schedules that are taken in one transaction. Another tick takes the next ones meanwhile.
TOGETHER = 50


Look = Callable[[], None]
#: What apps above this one look at from time to time.
OTHERS: list[Look] = []


def also(look: Look) -> Look:
    """Register what a worker looks at too where it ticks by itself, since no beat does, or no
    message gets through. Outside a transaction; it may be called twice, or at once."""
    OTHERS.append(look)
    return look


def tick() -> None:
    """Everything that needs a look from time to time, once. Outside a transaction.

    What fails for one run or part is logged and leaves the others alone.
    """
    may_expire = stamp_pulse()
    if is_at_rest():
        return
    _launch_due()
    if may_expire:
        with _alone("expiring leases"):
            expire_leases()
    with _alone("starting retries"):
        start_due_retries()
    with _alone("ending what waited too long"):
        end_long_waits()
    with _alone("letting runs follow those of their cycle"):
        for run_id in to_follow():
            with _alone(f"letting what waits for run {run_id} go on"):
                follow(run_id)
    with _alone("feeding backfills"):
        for backfill_id in to_feed():
            with _alone(f"feeding backfill {backfill_id}"):
                stop_rest(backfill_id)
                feed(backfill_id, batches=1)  # schedules wait for the end of this tick
    with _alone("filling lanes"):
        for lane_id in lanes_to_fill():
            with _alone(f"filling lane {lane_id}"):
                fill(lane_id)
    with _alone("advancing runs"):
        for run_id in needs_advance():
            with _alone(f"advancing run {run_id}"):
                advance(run_id)
    with _alone("settling holds"):
        for run_id in mend_held():
            with _alone(f"settling the hold of run {run_id}"):
                settle(run_id)
    with _alone("aging"):
        age()
    with _alone("telling of ends"):
        tell_ends()
    with _alone("recounting"):
        recount_idle_runs()
        recount_queues()
    ring(bells())
    _wait_for_due()


def _launch_due() -> None:
    with _alone("asking what is due"):
        found = due()
        for first in range(0, len(found), TOGETHER):
            _take(found[first : first + TOGETHER])


def _take(workflow_ids: Sequence[int]) -> None:
    """Take what is due of some workflows; one that is broken costs the others nothing."""
    with _alone(f"launching what is due of {len(workflow_ids)} workflows"):
        take_due(workflow_ids)
        return
    if len(workflow_ids) > 1:
        for workflow_id in workflow_ids:
            _take([workflow_id])


def _wait_for_due() -> None:
    """Wait for what falls due within a second, so that the beat's interval delays nothing."""
    with _alone("waiting for what is due"):
        end = database_clock() + AHEAD
        _launch_due()  # what fell due during the sweep
        while (seconds := due_soon(end)) is not None:
            time.sleep(seconds)
            _launch_due()


@contextmanager
def _alone(what: str) -> Iterator[None]:
    """Log what goes wrong and go on, unless the database itself is away."""
    try:
        yield
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        log.exception("%s failed; the rest of the sweep goes on", what)


@transaction.atomic
def stamp_pulse() -> bool:
    """Say that someone looks; False while leases must not expire.

    After a gap in the pulse (the database was away, everything was asleep) leases may have
    run out that no worker could renew: all get one whole lease of grace.
    """
    gap = timedelta(seconds=PULSE_SECONDS)
    lease = timedelta(seconds=settings.LEASE_SECONDS)
    Pulse.objects.get_or_create(name="tick", defaults={"at": Now()})
    Pulse.objects.filter(name="tick", at__lt=Now() - gap).update(grace_until=Now() + lease)
    Pulse.objects.filter(name="tick").update(at=Now())
    return not Pulse.objects.filter(name="tick", grace_until__gt=Now()).exists()


def is_at_rest() -> bool:
    """Whether there is nothing for a tick to do: by far the most ticks, and so one statement."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT NOT EXISTS (SELECT FROM runs_run WHERE state IN ('pending', 'running'))
               AND NOT EXISTS (SELECT FROM workspaces_resourcequeue WHERE used <> 0)
               AND NOT EXISTS (SELECT FROM runs_runend)
               AND NOT EXISTS (SELECT FROM runs_backfill
                                WHERE ended_at IS NULL AND paused_at IS NULL)
               AND NOT EXISTS (SELECT FROM workflows_schedule
                                WHERE "on" AND next_at < clock_timestamp() + interval '1 s')
            """
        )
        return bool(cursor.fetchone()[0])


def pulse_is_old() -> bool:
    """Whether nobody has looked around for so long that this worker should."""
    limit = Now() - timedelta(seconds=PULSE_SECONDS)
    return not Pulse.objects.filter(name="tick", at__gte=limit).exists()


def expire_leases() -> None:
    """Give away what workers hold that did not renew; their guards have killed the children."""
    expired = NodeRun.objects.filter(state=NodeState.RUNNING, lease_until__lt=Now())
    for pk in expired.order_by("pk").values_list("pk", flat=True)[:BATCH]:
        with _alone(f"expiring the lease of node run {pk}"), transaction.atomic():
            node = expired.select_for_update(no_key=True, skip_locked=True).filter(pk=pk).first()
            if node is not None:
                lose(node)


def lose(node: NodeRun) -> None:
    """End a running attempt whose worker or host is gone; the node tries again, a few times.

    The caller holds the node's row lock.
    """
    note = f"worker {node.worker} was lost during attempt {node.attempt}"
    end_attempt(node, AttemptState.LOST, note)
    if node.stop:
        move(node, NodeState(node.stop), by=By.ENGINE, note=note)
    elif node.losses >= LOSSES_ALLOWED:
        note += f"; it has lost {LOSSES_ALLOWED + 1} workers, so it may be what ends them"
        move(node, NodeState.FAILED, by=By.ENGINE, note=note, losses=F("losses") + 1)
    else:
        move(node, NodeState.PENDING, by=By.ENGINE, note=note, losses=F("losses") + 1)
    admit(node.run_id)


@transaction.atomic
def hand_back(node_run_id: int, attempt: int, worker: str) -> bool:
    """Return a running node that its worker will not finish; it costs neither retry nor loss.

    False if the worker no longer holds it.
    """
    node = (
        NodeRun.objects.select_for_update(no_key=True)
        .filter(pk=node_run_id, attempt=attempt, state=NodeState.RUNNING, worker=worker)
        .first()
    )
    if node is None:
        return False
    note = f"handed back by worker {worker}"
    end_attempt(node, AttemptState.HANDED_BACK, note)
    if node.stop:
        move(node, NodeState(node.stop), by=By.WORKER, note=note)
    else:
        move(node, NodeState.PENDING, by=By.WORKER, note=note)
    admit(node.run_id)
    return True


def orphans_of(worker: str) -> list[tuple[int, int]]:
    """(node run, attempt) of every node that runs under this worker's name."""
    rows = NodeRun.objects.filter(worker=worker, state=NodeState.RUNNING)
    return list(rows.values_list("pk", "attempt"))


def start_due_retries() -> None:
    """Queue the nodes whose pause before the next attempt is over."""
    due = NodeRun.objects.filter(state=NodeState.RETRYING, retry_at__lte=Now())
    for pk in due.order_by("pk").values_list("pk", flat=True)[:BATCH]:
        with _alone(f"the retry of node run {pk}"), transaction.atomic():
            node = due.select_for_update(no_key=True, skip_locked=True).filter(pk=pk).first()
            if node is not None and move(node, NodeState.PENDING, by=By.ENGINE):
                admit(node.run_id)


def end_long_waits() -> None:
    """Fail the nodes that have been queued for longer than they may be.

    A wait is no attempt: it is not retried, whatever retries are left. What the run's strategy
    makes of the failure follows with `needs_advance`.
    """
    long = NodeRun.objects.filter(
        GreaterThan(Now(), F("queued_at") + F("queue_timeout_seconds") * timedelta(seconds=1)),
        state=NodeState.QUEUED,
        queue_timeout_seconds__isnull=False,
    )
    # By the index's order: by id, a plan might read the table for them.
    for pk in long.order_by("queued_at").values_list("pk", flat=True)[:BATCH]:
        with _alone(f"ending the wait of node run {pk}"), transaction.atomic():
            rows = long.select_for_update(no_key=True, skip_locked=True, of=("self",))
            node = rows.select_related("queue", "run").filter(pk=pk).first()
            if node is None:
                continue  # a worker is taking it, or has
            note = f"waited longer than {node.queue_timeout_seconds} s in queue {node.queue.name!r}"
            move(node, NodeState.FAILED, by=By.ENGINE, note=note, ended_at=Now(), exit_code=None)
            if node.run.strategy != Strategy.END:
                admit(node.run_id)  # its place in a limited run is free


def needs_advance() -> list[int]:
    """Runs that are over their time, have a failure that their strategy answers, are being
    ended, or have room for a node that lacks nothing.

    The last where a node was locked just as a finish had a place for it.
    """
    ready = NodeRun.objects.filter(run=OuterRef("pk"), state=NodeState.PENDING, need=0)
    has_room = Q(parallelism=None) | Q(active__lt=F("parallelism"))
    return list(
        Run.objects.filter(ended_at=None, state__in=["pending", "running"], waits=False)
        .filter(
            Q(hold=Hold.NONE, held=False)
            & (IS_LATE | Q(HAS_FAILED, strategy=Strategy.END) | has_room & Q(Exists(ready)))
            | Q(hold__in=[Hold.STOPPED, Hold.CANCELLED])
        )
        .order_by("pk")
        .values_list("pk", flat=True)[:BATCH]
    )


def recount_idle_runs() -> None:
    """Mend runs in which nothing is under way though they are not over."""
    retrying = NodeRun.objects.filter(run=OuterRef("pk"), state=NodeState.RETRYING)
    idle = Run.objects.filter(
        ~Exists(retrying),
        ended_at=None,
        state__in=["pending", "running"],
        waits=False,
        active=0,
        hold="",
        held=False,
    )
    for pk in idle.order_by("pk").values_list("pk", flat=True)[:BATCH]:
        with _alone(f"recounting run {pk}"), transaction.atomic():
            nodes = lock_nodes(pk)
            rows = Run.objects.select_for_update(no_key=True, skip_locked=True)
            still = {"ended_at": None, "waits": False, "active": 0, "hold": "", "held": False}
            run = rows.filter(pk=pk, **still).first()
            if run is not None:
                recount(run, nodes)
                admit(pk)
                close(pk)


def recount_queues() -> None:
    """Set what is in use of each queue to what its running nodes hold, should it differ.

    Under the queue's row lock: whoever changes either side writes that row in the same
    transaction, or hands over exactly what it gives back.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT q.id FROM workspaces_resourcequeue q
             WHERE q.used <> (SELECT coalesce(sum(n.demand), 0) FROM runs_noderun n
                               WHERE n.state = 'running' AND n.queue_id = q.id)
            """
        )
        suspects = [pk for (pk,) in cursor.fetchall()]
    for pk in suspects:
        with transaction.atomic():
            queue = ResourceQueue.objects.select_for_update(no_key=True).get(pk=pk)
            running = NodeRun.objects.filter(queue=pk, state=NodeState.RUNNING)
            held = running.aggregate(held=Sum("demand"))["held"] or 0
            if queue.used != held:
                log.warning("queue %s: %d in use on its row, %d held", queue, queue.used, held)
                ResourceQueue.objects.filter(pk=pk).update(used=held)


def bells() -> dict[int, int]:
    """One ring for each queue that has both room and a node queued."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT q.id FROM workspaces_resourcequeue q
             WHERE q.used < q.capacity AND NOT q.held
               AND EXISTS (SELECT FROM runs_noderun n
                            WHERE n.queue_id = q.id AND n.state = 'queued'
                              AND n.queued_at < clock_timestamp() - interval '1 s')
            """
        )
        return {pk: 1 for (pk,) in cursor.fetchall()}
