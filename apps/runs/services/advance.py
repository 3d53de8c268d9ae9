"""Take a run further, from how it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Coalesce, Now
from django.db.models.lookups import GreaterThan

from apps.engine.states import By, Hold, NodeState, Strategy
from apps.runs.models import NodeRun, Run
from apps.runs.services.moves import admit, close, move_all, tell
from apps.runs.services.scope import count_needs, lock_nodes
from apps.workspaces.models import User


def advance(run_id: int) -> None:
    """Do what a run lacks: cut it off if its strategy or timeout says so, else go on or end.

    One that is paused or held is cut off once it may go on. Looks at the level, not at the
    edge: it may be called twice, late, at once, or after a crash. The hot path does the common
    part of this by itself; the sweep calls it for the rest, and a worker whose node has failed
    for good.
    """
    run = Run.objects.filter(pk=run_id).annotate(is_late=IS_LATE, has_failed=HAS_FAILED).get()
    if run.ended_at is not None:
        return
    may_go_on = run.hold == Hold.NONE and not run.held
    if run.hold in (Hold.STOPPED, Hold.CANCELLED):
        cut_off(run_id, Hold(run.hold), note="being ended")
    elif may_go_on and run.is_late:
        cut_off(run_id, Hold.CANCELLED, note=f"run timed out after {run.timeout_seconds} s")
    elif may_go_on and run.strategy == Strategy.END and run.has_failed:
        cut_off(run_id, Hold.CANCELLED, note="another node failed, and the strategy is *end*")
    else:
        with transaction.atomic():
            admit(run_id)
            close(run_id)


#: Since a run that was over was opened again its time and its failures count anew.
_SINCE = Coalesce("reopened_at", "started_at")
IS_LATE = Q(timeout_seconds__isnull=False) & GreaterThan(
    Now(), _SINCE + F("timeout_seconds") * timedelta(seconds=1)
)
HAS_FAILED = Exists(
    NodeRun.objects.filter(run=OuterRef("pk"), state=NodeState.FAILED).filter(
        Q(ended_at__gte=OuterRef("reopened_at")) | Q(run__reopened_at=None)
    )
)


@transaction.atomic
def cut_off(run_id: int, hold: Hold, *, note: str, user: User | None = None) -> bool:
    """Stop a run (a person) or cancel it (the engine); False if it was over.

    What waits ends at once. What runs is asked to: its worker ends the child and reports.
    Every node run is locked before the flag is set, so that no finish that read the flag
    before can queue a node behind it; not only those that are unfinished as this begins,
    since a rerun may just be making others so. A person's stop is never turned into the
    engine's cancel.
    """
    nodes = lock_nodes(run_id)
    run = Run.objects.select_for_update(no_key=True).get(pk=run_id)
    if run.ended_at is not None:
        return False
    if run.hold == Hold.STOPPED:
        hold = Hold.STOPPED
    by_person = hold is Hold.STOPPED
    ends_as = NodeState.STOPPED if by_person else NodeState.CANCELLED
    if run.hold != hold:
        Run.objects.filter(pk=run_id).update(hold=hold, revision=F("revision") + 1)
        tell(run_id, note, user=user)
    running = [node.pk for node in nodes if node.state == NodeState.RUNNING]
    NodeRun.objects.filter(pk__in=running, stop="").update(stop=ends_as)
    # What still waits for an upstream stays pending: in a run that is over it reads "not run".
    waiting = [
        node
        for node in nodes
        if node.state in (NodeState.QUEUED, NodeState.RETRYING)
        or (node.state == NodeState.PENDING and not node.need)
    ]
    move_all(waiting, ends_as, by=By.PERSON if by_person else By.ENGINE, user=user, note=note)
    close(run_id)
    return True


def recount(run: Run, nodes: Sequence[NodeRun]) -> None:
    """Set a locked run's counters, and what its pending nodes lack, from all its locked nodes.

    Counters serve speed; states and edges are the truth.
    """
    count_needs(nodes)
    counts = Counter(node.state for node in nodes)
    ready = sum(node.state == NodeState.PENDING and not node.need for node in nodes)
    active = counts["queued"] + counts["running"]
    Run.objects.filter(pk=run.pk).update(
        active=active,
        open=active + counts["retrying"] + ready,
        succeeded=counts["succeeded"],
        failed=counts["failed"],
        stopped=counts["stopped"],
        cancelled=counts["cancelled"],
        revision=F("revision") + 1,
    )
