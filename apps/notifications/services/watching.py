"""What of a workflow is watched: when a cycle is late, when a run is slow, which number is wrong.

    set_watch(workflow, Watched(done_by=time(7), values=["load.rows < 1"]))

services/lateness.py and services/numbers.py tell of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import time

from django.db import transaction
from django.db.models.functions import Now

from apps.core.errors import FieldFault, Invalid, NotFound
from apps.engine.timevars import NAME
from apps.notifications.models import ValueCheck, Watch
from apps.notifications.services.nodes import nodes_of
from apps.workflows.models import Workflow

#: A week.
MAX_MINUTES = 10_080
#: Of one workflow.
MAX_VALUES = 50
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_VALUE = re.compile(
    rf"(?P<node>\S+)\.(?P<key>{NAME.pattern})"
    rf"\s*(?P<operator><=|>=|!=|=|<|>)\s*(?P<number>{_NUMBER})"
)


@dataclass(frozen=True)
class Watched:
    #: Minutes from when a cycle is due; None: it may start, and be done, at any time.
    start_within_minutes: int | None = None
    done_within_minutes: int | None = None
    #: Of the day, in the workflow's zone: the first after the cycle is due.
    done_by: time | None = None
    slow: bool = False
    #: Each as `load.rows < 1`: told when it is so.
    values: list[str] = field(default_factory=list)


def watch_of(workflow: Workflow) -> Watched:
    row = Watch.objects.filter(workflow=workflow).first() or Watch()
    checks = ValueCheck.objects.filter(workflow=workflow).order_by("pk")
    return Watched(
        row.start_within_minutes,
        row.done_within_minutes,
        row.done_by,
        row.slow,
        [str(check) for check in checks],
    )


@transaction.atomic
def set_watch(workflow: Workflow, said: Watched) -> None:
    """All of it in place of what was watched; it counts at once, from now on.

    Raises Invalid with every fault, NotFound if the workflow was deleted.
    """
    rows = Workflow.objects.select_for_update(no_key=True, of=("self",))
    workflow = rows.select_related("published").get(pk=workflow.pk)
    if workflow.deleted_at is not None:
        raise NotFound(f"workflow {workflow.name!r} was deleted")
    checks, faults = _read_values(workflow, said.values)
    for name in ("start_within_minutes", "done_within_minutes"):
        minutes = getattr(said, name)
        if minutes is not None and not 1 <= minutes <= MAX_MINUTES:
            wrong = f"{minutes} is not between 1 and {MAX_MINUTES:,} minutes"
            faults.append(FieldFault(name, wrong))
    if faults:
        raise Invalid(faults)
    stands = watch_of(workflow)
    times = (said.start_within_minutes, said.done_within_minutes, said.done_by)
    stood = (stands.start_within_minutes, stands.done_within_minutes, stands.done_by)
    if times == (None, None, None) and not said.slow:
        Watch.objects.filter(workflow=workflow).delete()
    elif (times, said.slow) != (stood, stands.slow):
        is_timed = times != (None, None, None)
        Watch.objects.update_or_create(
            workflow=workflow,
            defaults={
                "start_within_minutes": said.start_within_minutes,
                "done_within_minutes": said.done_within_minutes,
                "done_by": said.done_by,
                "slow": said.slow,
                "since": Now(),
                "looked_until": Now(),
                "next_at": Now() if is_timed else None,
            },
        )
    kept = {str(check) for check in checks}
    for row in ValueCheck.objects.filter(workflow=workflow):
        if str(row) in kept:
            kept.remove(str(row))
        else:
            row.delete()
    ValueCheck.objects.bulk_create(check for check in checks if str(check) in kept)


def read_time(text: str) -> time:
    """`07:00`. Raises Invalid."""
    match = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text.strip())
    if match is None:
        raise Invalid(f"{text[:20]!r} is no time of day; write it as 07:00", "done_by")
    return time(int(match[1]), int(match[2]))


def _read_values(
    workflow: Workflow, values: Sequence[str]
) -> tuple[list[ValueCheck], list[FieldFault]]:
    """Checks to be, each once, and what is wrong with them."""
    checks: dict[str, ValueCheck] = {}
    faults: list[FieldFault] = []
    if len(values) > MAX_VALUES:
        faults.append(
            FieldFault("values", f"there are {len(values)} values; {MAX_VALUES} are allowed")
        )
    nodes = nodes_of(workflow)
    stands = {str(row) for row in ValueCheck.objects.filter(workflow=workflow)}
    for text in values[:MAX_VALUES]:
        match = _VALUE.fullmatch(text.strip())
        number = float(match["number"]) if match else math.nan
        if match is None or not math.isfinite(number) or len(match["key"]) > 64:
            what = f"{text.strip()[:80]!r} is no condition; write it as load.rows < 1"
            faults.append(FieldFault("values", what))
            continue
        said = match.groupdict() | {"number": number}
        check = ValueCheck(workflow=workflow, **said)
        if check.node not in nodes and str(check) not in stands:
            what = f"there is no node {check.node[:64]!r} in the draft or published"
            faults.append(FieldFault("values", what))
        checks[str(check)] = check
    return list(checks.values()), faults
