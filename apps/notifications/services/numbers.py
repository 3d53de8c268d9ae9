"""What is told of the numbers that nodes leave in $RUNYARD_OUTPUT."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from datetime import datetime

from django.db import connection, transaction
from django.db.models import Min

from apps.notifications.letters import Notice, letter_of, local, path_of_attempt, path_of_run
from apps.notifications.models import Kind, ValueCheck
from apps.notifications.services.nodes import BATCH, look_from, looked
from apps.notifications.services.one_by_one import alone
from apps.notifications.services.outbox import post
from apps.notifications.services.subscriptions import addresses_of_all
from apps.runs.models import Attempt

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}


def tell_numbers() -> None:
    """Tell of each attempt that has succeeded and left a number that shall be told, or none at
    all: what cannot be checked is a finding too."""
    oldest = ValueCheck.objects.aggregate(at=Min("since"))["at"]
    if oldest is not None:
        _tell_since(oldest)


@transaction.atomic
def _tell_since(oldest: datetime) -> None:
    since = look_from("numbers", oldest)
    if since is None:
        return
    with connection.cursor() as cursor:
        # The number itself is judged below: PostgreSQL would fail at the first that is none.
        cursor.execute(
            """
            WITH run AS (
                SELECT id, workflow_id FROM runs_run
                 WHERE state IN ('pending', 'running') AND trigger NOT IN ('debug', 'backfill')
                   AND workflow_id IN (SELECT workflow_id FROM notifications_valuecheck)
                 UNION
                SELECT id, workflow_id FROM runs_run
                 WHERE ended_at > %(since)s AND trigger NOT IN ('debug', 'backfill')
                   AND workflow_id IN (SELECT workflow_id FROM notifications_valuecheck)
            )
            SELECT c.id, a.id, a.values->>c.key
              FROM notifications_valuecheck c
              JOIN run r ON r.workflow_id = c.workflow_id
              JOIN runs_noderun n ON n.run_id = r.id AND n.key = c.node
              JOIN runs_attempt a ON a.node_run_id = n.id AND a.state = 'succeeded'
                   AND a.ended_at > %(since)s AND a.ended_at >= c.since
             WHERE NOT EXISTS (SELECT FROM notifications_delivery d
                                WHERE d.event = 'value ' || c.id || ' ' || a.id)
             ORDER BY a.id, c.id
            """,
            {"since": since},
        )
        rows = cursor.fetchall()
    checks = ValueCheck.objects.select_related("workflow__workspace")
    found = checks.filter(workflow__deleted_at=None).in_bulk({row[0] for row in rows})
    addresses = addresses_of_all({check.workflow for check in found.values()}) if found else {}
    told = [
        (check, attempt_id, text)
        for check_id, attempt_id, text in rows
        if (check := found.get(check_id)) is not None
        and addresses[check.workflow_id]
        and _is_told(check, text)
    ]
    if len(told) <= BATCH:
        looked("numbers")
    attempts = Attempt.objects.select_related("node_run__run").in_bulk(
        {attempt_id for _, attempt_id, _ in told[:BATCH]}
    )
    # By workflow, as every look: see `outbox.post`.
    for check, attempt_id, text in sorted(told[:BATCH], key=lambda each: each[0].workflow_id):
        if attempt_id in attempts:  # else its run was forgotten meanwhile
            with alone(f"value {check.pk} {attempt_id}"):
                _tell(check, attempts[attempt_id], text, addresses[check.workflow_id])


def _is_told(check: ValueCheck, text: str | None) -> bool:
    number = _number(text)
    return number is None or _OPERATORS[check.operator](number, check.number)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    if text and "_" in text:  # Python's own way to write a number, and nobody else's
        return None
    return number if math.isfinite(number) else None


def _tell(check: ValueCheck, attempt: Attempt, text: str | None, addresses: list[str]) -> None:
    node, run = attempt.node_run, attempt.node_run.run
    workspace = check.workflow.workspace
    name = f"{check.node}.{check.key}"
    if text is None:
        what, said = f"{name} is missing", f"It left no {check.key} in $RUNYARD_OUTPUT"
    elif _number(text) is None:
        what, said = f"{name} is no number", f"It left {text[:80]!r} as {check.key}"
    else:
        what, said = f"{name} is {text[:40]}", f"It left {text[:40]} as {check.key}"
    notice = Notice(
        subject=f"{run.name}: {what}",
        word="Value",
        tone="bad",
        title=f"{node.key} of {run.name}",
        said=f"{said}, which is to be told when {check}.",
        facts=[
            ("Cycle", f"{local(run.cycle, run.zone)} {run.zone}"),
            ("At", f"{local(attempt.ended_at, workspace.zone)} {workspace.zone}"),
        ],
        links=[
            ("Open the log", path_of_attempt(workspace.name, run.pk, node.pk, attempt.number)),
            (f"Open run {run.pk}", path_of_run(workspace.name, run.pk)),
        ],
        foot="You get it because you are told of the failures of this workflow.",
    )
    letter = letter_of(notice, workspace, check.workflow)
    event = f"value {check.pk} {attempt.pk}"
    post(
        workspace,
        letter,
        addresses,
        kind=Kind.VALUE,
        event=event,
        workflow_id=check.workflow_id,
    )
