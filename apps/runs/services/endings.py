"""What follows from a run's end: what waited for it goes on, and its owner is told.

    @when_run_ended("emr")                  # in an app above this one, as it is loaded
    def next_step(run_id: int) -> None: …

    launch(version, on_end=["emr"], …)      # this run's end is told to it

    @when_failed("incidents")               # the failures of every workflow's runs are told to it
    def note_failure(run_id: int) -> None: …

The row that says who has yet to be told is written in the transaction that ends the run or the
node. It is told right after the commit by whoever ended it, and what a crash left untold by the
sweep.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

from django.db import InterfaceError, OperationalError, connection
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now

from apps.engine.states import Trigger
from apps.runs.models import Run, RunEnd
from apps.runs.services.lanes import fill, follow

log = logging.getLogger(__name__)

Hook = Callable[[int], None]
_hooks: dict[str, Hook] = {}
#: Those of `_hooks` that are told of failures.
_of_failures: set[str] = set()

#: How many are told in one sweep.
BATCH = 200
#: What a call may take before another may be made beside it.
CALL_SECONDS = 30
#: The pause after a call that failed doubles with each up to this.
LONGEST_PAUSE_SECONDS = 600


def when_run_ended(name: str) -> Callable[[Hook], Hook]:
    """Register what is called with a run's id after it ended, for runs that name it in `on_end`.

    It is called outside a transaction, at least once for each end and perhaps twice or at once,
    in whatever process ended the run; by the time it is called a rerun may have opened the run
    again. So it looks at how things stand and does what is missing. If it raises, it is called
    again later; other runs and hooks go on. It should take milliseconds.
    """

    def register(hook: Hook) -> Hook:
        if name in _hooks and _hooks[name] is not hook:
            raise ValueError(f"two hooks are named {name!r}; rename one")
        _hooks[name] = hook
        return hook

    return register


def when_failed(name: str) -> Callable[[Hook], Hook]:
    """Register what is called with a run's id once a node of it has failed for good, its retries
    used up, or the run has ended as failed without such a node.

    For the runs of every workflow that are launched from then on, but no debug runs. Else as
    `when_run_ended`: the run may not be over by then.
    """
    _of_failures.add(name)
    return when_run_ended(name)


def told_of_failures(trigger: Trigger) -> list[str]:
    """The hooks that a workflow's run with this trigger tells of its failures."""
    return [] if trigger is Trigger.DEBUG else sorted(_of_failures)


def check_hooks(names: Sequence[str]) -> None:
    """Raise ValueError if one is not registered: its runs would tell nobody."""
    unknown = sorted(set(names) - _hooks.keys())
    if unknown:
        raise ValueError(f"no hook is registered as {', '.join(map(repr, unknown))}")


def run_ended(run_id: int) -> None:
    """Do what follows from the end of a run, after the commit that ended it.

    The short way: what is not done here, because this process died or this call was never made,
    the sweep does.
    """
    followers = Exists(Run.objects.filter(waits_for=OuterRef("pk")))
    rows = Run.objects.filter(pk=run_id).only("lane_id", "on_end").annotate(awaited=followers)
    run = rows.first()
    if run is None:
        return
    if run.awaited:
        follow(run_id)
    if run.lane_id is not None:
        fill(run.lane_id)
    if run.on_end:
        tell_of(run_id)


def tell_of(run_id: int) -> None:
    """Tell of the ends in one run that somebody has yet to hear of."""
    for pk in RunEnd.objects.filter(run=run_id).order_by("pk").values_list("pk", flat=True):
        _tell(pk)


def tell_ends() -> None:
    """Tell of every end that somebody has yet to hear of and whose time has come."""
    due = RunEnd.objects.filter(due_at__lte=Now()).order_by("due_at")
    for pk in due.values_list("pk", flat=True)[:BATCH]:
        _tell(pk)


def _tell(pk: int) -> None:
    """Call one hook, unless someone else just does, and forget it once it has been heard."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE runs_runend
               SET tries = tries + 1, due_at = clock_timestamp() + %s * interval '1 s'
             WHERE id = %s AND due_at <= clock_timestamp()
            RETURNING run_id, hook, tries
            """,
            [CALL_SECONDS, pk],
        )
        row = cursor.fetchone()
    if row is None:
        return
    run_id, name, tries = row
    try:
        _hooks[name](run_id)
    except Exception as error:  # an owner's own code: its fault is no other owner's
        if isinstance(error, (OperationalError, InterfaceError)) and not connection.is_usable():
            raise
        pause = min(2**tries, LONGEST_PAUSE_SECONDS)
        why = f"{type(error).__name__}: {error}"
        log.exception("%r was not told of an end in run %d; again in %d s", name, run_id, pause)
        RunEnd.objects.filter(pk=pk).update(
            due_at=Now() + timedelta(seconds=pause), why=why.replace("\0", "")[:1000]
        )
    else:
        RunEnd.objects.filter(pk=pk, tries=tries).delete()
