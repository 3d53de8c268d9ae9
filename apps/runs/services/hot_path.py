"""Claim, renew, finish: what a worker says to the database, one round trip each.

The statements are the functions of sql/hot_path.sql. What a worker holds over time is a
frozen Claim, never a row.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection

from apps.engine.retry import RetryPolicy
from apps.engine.states import NodeState


@dataclass(frozen=True)
class Claim:
    """One worker's right to one attempt of one node run, while its lease lasts."""

    node_run_id: int
    run_id: int
    attempt: int
    queue_id: int
    key: str
    job_version_id: int
    #: Of the attempt, from its child's start; None: no limit.
    timeout_seconds: int | None
    #: Failures before this attempt.
    failures: int
    retries: int
    retry_interval_seconds: int
    retry_backoff: float
    retry_max_interval_seconds: int
    final_exit_codes: tuple[int, ...]

    @property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(
            self.retries,
            self.retry_interval_seconds,
            self.retry_backoff,
            self.retry_max_interval_seconds,
            self.final_exit_codes,
        )

    @property
    def mark(self) -> str:
        """RUNYARD_ATTEMPT in the child's environment: by it strays are found."""
        return f"{self.node_run_id}.{self.attempt}"


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended, and where its log does."""

    #: succeeded, failed, retrying (failed, another attempt follows), stopped or cancelled.
    state: NodeState
    exit_code: int | None = None
    reason: str = ""
    #: Seconds until the next attempt; only with `retrying`.
    retry_in: float | None = None
    log_bytes: int = 0
    log_lines: int = 0
    log_tail: str = ""
    error_line: str = ""


@dataclass(frozen=True)
class Finished:
    """What became of a finish."""

    #: False: the lease had been given away; nothing was written.
    accepted: bool
    #: Where the node stands now: a stop that came meanwhile turns `retrying` into its own.
    state: NodeState | None = None
    next: Claim | None = None
    #: Resource queue -> how many more workers should look there.
    bells: Mapping[int, int] = field(default_factory=dict)
    run_ended: bool = False
    #: The run ended, and its lane or an owner waits for that: `endings.run_ended` is due.
    awaited: bool = False

    @property
    def needs_advance(self) -> bool:
        """A node failed for good: the run's strategy may ask for more than the hot path does."""
        return self.state is NodeState.FAILED and not self.run_ended


@dataclass(frozen=True)
class Renewal:
    #: None: someone else has the row locked. The lease stands as it did; ask again soon.
    lease_until: datetime | None
    #: "" or the state that the attempt shall end in: "stopped" (by a person) or "cancelled".
    stop: str


def _interval(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds} s"


def call(sql: str, params: list[Any]) -> Any:
    """What one of the functions of sql/hot_path.sql answers; of jsonb what it says."""
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return json.loads(row) if isinstance(row := cursor.fetchone()[0], str) else row


def _claim(found: dict[str, Any] | None) -> Claim | None:
    if not found:
        return None
    return Claim(**{**found, "final_exit_codes": tuple(found["final_exit_codes"])})


def _text(value: str) -> str:
    """PostgreSQL stores no NUL."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")


def claim(queue_id: int, worker: str, request: UUID, *, again: bool = False) -> Claim | None:
    """Take the next node of a queue; None if there is nothing that fits.

    `again`: the reply to this request may have been lost; the same claim is given again.
    """
    found = call(
        "SELECT runyard_claim(%s, %s, %s, %s, %s::interval)",
        [queue_id, worker, request, again, _interval(settings.LEASE_SECONDS)],
    )
    return _claim(found)


def finish(mine: Claim, outcome: Outcome, *, worker: str, request: UUID, take: bool) -> Finished:
    """End an attempt and take the next node of its queue, if `take`.

    Idempotent by (node run, attempt, request): repeated after a lost reply it gives the
    same answer and the same next claim, its lease renewed.
    """
    log = {
        "bytes": outcome.log_bytes,
        "lines": outcome.log_lines,
        "tail": _text(outcome.log_tail),
        "error_line": _text(outcome.error_line),
    }
    found = call(
        "SELECT runyard_finish(%s, %s, %s, %s, %s::interval, %s, %s, %s, %s, %s::interval, %s)",
        [
            mine.node_run_id,
            mine.attempt,
            request,
            worker,
            _interval(settings.LEASE_SECONDS),
            take,
            outcome.state,
            outcome.exit_code,
            _text(outcome.reason),
            _interval(outcome.retry_in),
            json.dumps(log),
        ],
    )
    if not found["accepted"]:
        return Finished(accepted=False)
    return Finished(
        accepted=True,
        state=NodeState(found["state"]),
        next=_claim(found["next"]),
        bells=dict(found["bells"]),
        run_ended=found["run_ended"],
        awaited=found["awaited"],
    )


def renew(worker: str, claims: Collection[Claim]) -> dict[tuple[int, int], Renewal]:
    """Push on exactly these leases; by (node run, attempt). One that is missing is lost.

    Waits for no lock: else one row that someone holds would cost the worker all its leases.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH mine AS (
                SELECT n.id, n.attempt, n.stop FROM runs_noderun n
                  JOIN unnest(%s::bigint[], %s::integer[]) AS m(id, attempt)
                    ON n.id = m.id AND n.attempt = m.attempt
                 WHERE n.state = 'running' AND n.worker = %s
            ), free AS (
                SELECT n.id FROM runs_noderun n JOIN mine USING (id)
                 WHERE n.state = 'running' AND n.worker = %s AND n.attempt = mine.attempt
                 ORDER BY n.id FOR NO KEY UPDATE OF n SKIP LOCKED
            ), renewed AS (
                UPDATE runs_noderun n SET lease_until = clock_timestamp() + %s::interval
                  FROM free WHERE n.id = free.id
                RETURNING n.id, n.lease_until, n.stop
            )
            SELECT mine.id, mine.attempt, renewed.lease_until, coalesce(renewed.stop, mine.stop)
              FROM mine LEFT JOIN renewed USING (id)
            """,
            [
                [c.node_run_id for c in claims],
                [c.attempt for c in claims],
                worker,
                worker,
                _interval(settings.LEASE_SECONDS),
            ],
        )
        return {(pk, no): Renewal(until, stop) for pk, no, until, stop in cursor.fetchall()}


def asked_to_stop(worker: str) -> dict[tuple[int, int], str]:
    """This worker's attempts that shall end: (node run, attempt) -> the state to end in."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, attempt, stop FROM runs_noderun"
            " WHERE worker = %s AND state = 'running' AND stop <> ''",
            [worker],
        )
        return {(pk, no): stop for pk, no, stop in cursor.fetchall()}


def queues_with_work(most: int) -> dict[int, int]:
    """Resource queues that have a node queued and are not held, by id: how many nodes.

    Counted up to `most` and up to the capacity that is free; of a full queue it is 1, since
    what runs there may end at any moment.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT q.id, least(line.nodes, greatest(q.capacity - q.used, 1))
              FROM workspaces_resourcequeue q
             CROSS JOIN LATERAL (
                    SELECT count(*) AS nodes
                      FROM (SELECT FROM runs_noderun n
                             WHERE n.queue_id = q.id AND n.state = 'queued' LIMIT %s) few
                   ) line
             WHERE NOT q.held AND line.nodes > 0
             ORDER BY q.id
            """,
            [most],
        )
        return dict(cursor.fetchall())


def note_application(mine: Claim, application_id: str, ui_url: str) -> None:
    """Keep an attempt's Spark application as soon as it is known."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE runs_attempt SET application_id = %s, ui_url = %s"
            " WHERE node_run_id = %s AND number = %s",
            [application_id[:100], ui_url[:255], mine.node_run_id, mine.attempt],
        )
