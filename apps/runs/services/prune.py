"""Forgetting: runs that have been over for long, with their logs, and bytes that nobody names.

    prune(days=90, seconds=60)      # what the beat rings for
    doomed(days=90)                 # the same as a question: what would go?

In small batches, oldest first, each its own transaction: whoever works beside it waits for no
more than one. It may be ended anywhere and called again.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from django.core.files.storage import default_storage
from django.db import connection, transaction
from django.db.models import Exists, Min, OuterRef, QuerySet, Sum
from django.db.models.functions import Now
from django.utils import timezone

from apps.nodes.models import File, JobVersion
from apps.nodes.services.files import REUSED_HOURS, blob_name
from apps.runs.logs import remove_logs
from apps.runs.models import (
    Attempt,
    Backfill,
    BackfillCycle,
    BackfillEvent,
    Lane,
    NodeRun,
    Output,
    Run,
    RunEnd,
    RunEvent,
    SchedulePoint,
)
from apps.workflows.models import WorkflowVersion

log = logging.getLogger(__name__)

#: Node runs of one batch, and runs that are looked at to fill it.
BATCH_NODES, BATCH_RUNS = 2000, 200
#: Bytes that no row names are kept for so long: a row may be on its way.
UNNAMED_HOURS = 2 * REUSED_HOURS
_BLOB = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Forgotten:
    """What a prune has removed, or would remove."""

    runs: int = 0
    node_runs: int = 0
    #: Bytes that jobs wrote into the logs that went.
    log_bytes: int = 0
    #: End of the oldest of these runs, aware; None without any.
    oldest: datetime | None = None

    def __add__(self, other: Forgotten) -> Forgotten:
        ends = [end for end in (self.oldest, other.oldest) if end is not None]
        return Forgotten(
            self.runs + other.runs,
            self.node_runs + other.node_runs,
            self.log_bytes + other.log_bytes,
            min(ends, default=None),
        )


def prune(*, days: int, seconds: float | None = None) -> Forgotten:
    """Remove runs that ended over `days` days ago, on the database's clock; 0: none.

    Stops after `seconds`, if given, at the end of a batch; half of that time is left to
    others. Does nothing where another prune is under way. Outside a transaction.
    """
    removed = Forgotten()
    if not days:
        return removed
    began = time.monotonic()
    while seconds is None or time.monotonic() - began < seconds:
        batch_began = time.monotonic()
        batch = _prune_batch(days)
        if batch is None:
            break
        removed += batch
        time.sleep(min(time.monotonic() - batch_began, 1.0))
    # A schedule knows by itself up to where it is done: none of these points comes again.
    old = SchedulePoint.objects.filter(run=None, made_at__lt=Now() - timedelta(days=days))
    while ids := list(old.values_list("pk", flat=True)[:BATCH_NODES]):
        SchedulePoint.objects.filter(pk__in=ids).delete()
    _prune_backfills(days)
    # Drafts that were frozen for a run: it comes with them, and they go when it has gone.
    drafts = WorkflowVersion.objects.filter(number=None, created_at__lt=Now() - timedelta(days=1))
    drafts.exclude(Exists(Run.objects.filter(version=OuterRef("pk")))).delete()
    if removed.runs:
        log.info("%d runs that were over for %d days are forgotten", removed.runs, days)
    return removed


def doomed(*, days: int) -> Forgotten:
    """What `prune` would remove now, without removing it; 0 days: nothing."""
    if not days:
        return Forgotten()
    rows = _over(days)
    runs = rows.aggregate(oldest=Min("ended_at"), nodes=Sum("total"))
    written = Attempt.objects.filter(node_run__run__in=rows).aggregate(n=Sum("log_bytes"))["n"]
    return Forgotten(rows.count(), runs["nodes"] or 0, written or 0, runs["oldest"])


def _over(days: int) -> QuerySet[Run]:
    # One that another waits for is not forgotten before the sweep has let that one go on.
    return Run.objects.filter(ended_at__lt=Now() - timedelta(days=days)).exclude(
        Exists(Run.objects.filter(waits_for=OuterRef("pk")))
    )


@transaction.atomic
def _prune_batch(days: int) -> Forgotten | None:
    """Remove the oldest runs, some thousand nodes of them; None: there is nothing to do."""
    if not _alone():
        return None
    room = BATCH_NODES
    chosen: list[int] = []
    rows = _over(days).order_by("ended_at")
    for pk, total in rows.values_list("pk", "total")[:BATCH_RUNS]:
        if chosen and total > room:
            break
        chosen.append(pk)
        room -= total
    # Node runs before runs, as everyone locks them; a rerun may just have opened one again.
    nodes = list(
        NodeRun.objects.select_for_update()
        .filter(run__in=chosen)
        .order_by("pk")
        .values_list("pk", "run_id")
    )
    runs = dict(
        _over(days)
        .select_for_update()
        .filter(pk__in=chosen)
        .order_by("pk")
        .values_list("pk", "ended_at")
    )
    if not runs:
        return None
    gone = [pk for pk, run_id in nodes if run_id in runs]
    attempts = Attempt.objects.filter(node_run__in=gone)
    written = attempts.aggregate(n=Sum("log_bytes"))["n"] or 0
    # Logs first: if it ends here, the rows are still there to say what is left to remove.
    remove_logs(runs)
    # Not through the collector of `.delete()`, which would read all rows first.
    Run.objects.filter(rerun_of__in=runs).update(rerun_of=None)
    _keep_ends(list(runs))
    for rows_of in (
        Output.objects.filter(attempt__in=attempts),
        attempts,
        RunEvent.objects.filter(run__in=runs),
        RunEnd.objects.filter(run__in=runs),
        SchedulePoint.objects.filter(run__in=runs),
        NodeRun.objects.filter(pk__in=gone),
        Run.objects.filter(pk__in=runs),
    ):
        rows_of._raw_delete(rows_of.db)
    return Forgotten(len(runs), len(gone), written, min(filter(None, runs.values())))


def _keep_ends(runs: list[int]) -> None:
    """Let the cycles of backfills keep how these runs of theirs ended, as they go."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE runs_backfillcycle AS mine SET ended_as = r.state, run_id = NULL
              FROM runs_run r WHERE r.id = mine.run_id AND r.id = ANY (%s)
            """,
            [runs],
        )


def _prune_backfills(days: int) -> None:
    """Remove the backfills that were over for so long and none of whose runs is left."""
    left = Exists(BackfillCycle.objects.filter(backfill=OuterRef("pk"), run__isnull=False))
    old = Backfill.objects.filter(ended_at__lt=Now() - timedelta(days=days)).exclude(left)
    for pk, lane in list(old.order_by("pk").values_list("pk", "lane")[:BATCH_RUNS]):
        with transaction.atomic():
            for rows_of in (
                BackfillCycle.objects.filter(backfill=pk),
                BackfillEvent.objects.filter(backfill=pk),
                Backfill.objects.filter(pk=pk),
                Lane.objects.filter(pk=lane),
            ):
                rows_of._raw_delete(rows_of.db)


def _alone() -> bool:
    """Whether this transaction is the only one that prunes; the lock goes with it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtext('runyard.prune'))")
        return bool(cursor.fetchone()[0])


# --- bytes ----------------------------------------------------------------------------------


def collect_bytes() -> int:
    """Remove stored bytes that no file, job version or output names any more; how many.

    What is younger than `UNNAMED_HOURS` stays. So does what was stored again lately: storing
    bytes that lie there already makes them young.
    """
    limit = timezone.now() - timedelta(hours=UNNAMED_HOURS)
    there: set[str] = set()
    for folder in default_storage.listdir("")[0]:
        there.update(filter(_BLOB.fullmatch, default_storage.listdir(folder)[1]))
    unnamed: set[str] = set()
    for folder, hashes in groupby(sorted(there), key=lambda sha256: sha256[:2]):
        unnamed.update(hashes)
        # A folder's hashes are one stretch of each index.
        for model in (File, Output):
            rows = model.objects.filter(sha256__gte=folder, sha256__lt=f"{folder}g")
            unnamed.difference_update(rows.values_list("sha256", flat=True).iterator())
    # Versions last: who publishes locks the files that he names, so that a file that was gone
    # just now has its version by now.
    for files in JobVersion.objects.exclude(files={}).values_list("files", flat=True).iterator():
        unnamed.difference_update(files.values())
    removed = 0
    for name in map(blob_name, sorted(unnamed)):
        # Right before, not for all at first: someone may store them again meanwhile.
        if default_storage.get_modified_time(name) < limit:
            default_storage.delete(name)
            removed += 1
    if removed:
        log.info("%d stored files that nothing names any more are removed", removed)
    return removed
