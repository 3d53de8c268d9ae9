"""What is told of cycles that are late, and of runs that are slow.

    tell_late()         # cycles of a schedule, whether they have a run or not
    tell_overdue()      # runs by hand and by API, from when they were asked for
    tell_slow()         # runs that take longer than theirs usually do

A cycle is late from when it was due, so that one is told of too where no run is: the schedule is
held, no worker lives, the point was missed. Each watch says when to look again: at its next
deadline, and once a minute, since switches and publishing move deadlines.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.db import connection, transaction
from django.db.models import F
from django.db.models.fields.json import KeyTransform

from apps.core.errors import Invalid
from apps.engine.states import RunState
from apps.engine.timetable import Kind as Pattern
from apps.engine.timetable import Timetable
from apps.notifications.letters import Notice, letter_of, local, path_of_run, path_of_schedule
from apps.notifications.models import Kind, Watch
from apps.notifications.services.nodes import (
    HISTORY,
    HISTORY_LEAST,
    SLOW_LEAST_SECONDS,
    SLOW_TIMES,
    lasted,
)
from apps.notifications.services.one_by_one import alone
from apps.notifications.services.outbox import post
from apps.notifications.services.subscriptions import addresses_of_all
from apps.runs.models import Run
from apps.runs.services.scheduling import Clock, database_clock, standing_hold
from apps.workflows.clock import zone_of
from apps.workflows.models import Workflow
from apps.workflows.services.schedules import frozen_timetable

log = logging.getLogger(__name__)

#: A deadline that passed longer ago is told to nobody.
PAST = timedelta(days=1)
#: A watch is looked at again within.
AGAIN = timedelta(seconds=60)
#: Watches of one look; cycles of one watch in it; messages of one look.
WATCHES, CYCLES, BATCH = 1000, 50, 500
_JUST = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)
_FOOT = "You get it because you are told of the failures of this workflow."


@dataclass(frozen=True)
class _Deadline:
    """Up to when a cycle was to have started, or to be done."""

    workflow: Workflow
    zone: ZoneInfo
    #: Of start_within_minutes, done_within_minutes and done_by.
    rule: str
    cycle: datetime
    at: datetime

    @property
    def event(self) -> str:
        return f"late {self.workflow.pk} {self.cycle.timestamp():.0f} {_RULES[self.rule]}"


#: As events have them.
_RULES = {"start_within_minutes": "start", "done_within_minutes": "done", "done_by": "done by"}


@dataclass(frozen=True)
class _Point:
    """How a cycle stands: its run, or why it has none."""

    run: int | None
    state: str
    started_at: datetime | None
    ended_at: datetime | None
    note: str


def tell_late(clock: Clock = database_clock) -> None:
    """Tell of each cycle whose deadline has passed since the last look and that missed it."""
    if Watch.objects.filter(next_at__isnull=False).exists():
        _tell_passed(clock())


@transaction.atomic
def _tell_passed(now: datetime) -> None:
    rows = Watch.objects.select_for_update(no_key=True, skip_locked=True, of=("self",))
    rows = rows.filter(next_at__lte=now, workflow__deleted_at=None)
    rows = rows.select_related("workflow__workspace", "workflow__scheduling").annotate(
        settings=KeyTransform("settings", "workflow__published__graph"),
        published_at=F("workflow__published__created_at"),
    )
    watches = list(rows.order_by("next_at")[:WATCHES])
    if not watches:
        return
    readable = {watch.pk: watch for watch in watches if _is_readable(watch)}
    windows = [window for watch in readable.values() for window in _windows(watch, now)]
    passed = _passed(windows)
    stands = _stands(passed)
    late = [each for each in passed if _is_late(each, stands[each.workflow.pk, each.cycle])]
    told = addresses_of_all({each.workflow for each in late}) if late else {}
    # By workflow, as every look: see `outbox.post`.
    for each in sorted(late, key=lambda each: each.workflow.pk):
        if told[each.workflow.pk]:
            with alone(each.event):
                _tell_late(each, stands[each.workflow.pk, each.cycle], told[each.workflow.pk])
    _look_again(now, {pk: _next_look(watch, now) for pk, watch in readable.items()}, watches)


@dataclass(frozen=True)
class _Window:
    """The cycles due in (after, until] have a deadline of one rule that has just passed."""

    watch: Any
    rule: str
    after: datetime
    until: datetime
    #: From a cycle to its deadline; None: the deadline is `at`.
    within: timedelta | None
    at: datetime | None


def _windows(watch: Any, now: datetime) -> Iterable[_Window]:
    begin = max(watch.looked_until, watch.since, now - PAST)
    for rule in ("start_within_minutes", "done_within_minutes"):
        minutes = getattr(watch, rule)
        if minutes is not None:
            within = minutes * _MINUTE
            yield _Window(watch, rule, begin - within, now - within, within, None)
    if watch.done_by is not None:
        daily = Timetable(Pattern.DAYS, _zone(watch), at=watch.done_by)
        times = list(daily.points(begin - timedelta(days=3), now))
        for before, at in pairwise(times):
            if at > begin:
                yield _Window(watch, "done_by", before - _JUST, at - _JUST, None, at)


def _is_readable(watch: Any) -> bool:
    """False where this machine does not know the zone any more: that is no other watch's fault."""
    try:
        _timetable(watch)
    except (Invalid, ZoneInfoNotFoundError) as error:
        log.warning("workflow %d cannot be watched: %s", watch.workflow_id, error)
        return False
    return True


def _zone(watch: Any) -> ZoneInfo:
    return ZoneInfo(zone_of(watch.settings or {}, watch.workflow.workspace.zone))


def _timetable(watch: Any) -> Timetable | None:
    """What starts the workflow; None: nothing does by itself."""
    schedule, zone = getattr(watch.workflow, "scheduling", None), _zone(watch)
    said = (watch.settings or {}).get("schedule")
    if schedule is None or not schedule.on or said is None:
        return None
    return frozen_timetable(said, str(zone))


def _passed(windows: Sequence[_Window]) -> list[_Deadline]:
    """The deadlines in these windows: of what is due now, and of what had a point then."""
    found: dict[tuple[int, str, datetime], _Deadline] = {}
    recorded = _recorded(windows)
    for number, window in enumerate(windows):
        watch = window.watch
        cycles = set(recorded[number])
        timetable = _timetable(watch)
        if timetable is not None:
            # Before, another version was published, or the schedule was off.
            since = max(window.after, watch.published_at, watch.workflow.scheduling.changed_at)
            if since < window.until:
                cycles |= set(list(timetable.points(since, window.until))[-CYCLES:])
        for cycle in sorted(cycles)[-CYCLES:]:
            at = window.at or cycle + (window.within or timedelta())
            key = (watch.workflow_id, window.rule, cycle)
            found[key] = _Deadline(watch.workflow, _zone(watch), window.rule, cycle, at)
    return list(found.values())


def _recorded(windows: Sequence[_Window]) -> dict[int, list[datetime]]:
    """Cycles that the scheduler has seen, by the number of the window. One statement."""
    found: dict[int, list[datetime]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT asked.n - 1, p.cycle
              FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[])
                   WITH ORDINALITY AS asked (workflow, after, until, n)
              JOIN runs_schedulepoint p ON p.workflow_id = asked.workflow
                   AND p.cycle > asked.after AND p.cycle <= asked.until
            """,
            [
                [each.watch.workflow_id for each in windows],
                [each.after for each in windows],
                [each.until for each in windows],
            ],
        )
        for number, cycle in cursor.fetchall():
            found[number].append(cycle)
    return found


def _stands(deadlines: Sequence[_Deadline]) -> dict[tuple[int, datetime], list[_Point]]:
    """How these cycles stand: the scheduled run, and others of the same cycle. One statement."""
    asked = sorted({(each.workflow.pk, each.cycle) for each in deadlines})
    found: dict[tuple[int, datetime], list[_Point]] = {each: [] for each in asked}
    if not asked:
        return found
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH asked AS (
                SELECT * FROM unnest(%s::bigint[], %s::timestamptz[]) AS asked (workflow, cycle)
            )
            SELECT asked.workflow, asked.cycle, r.id, coalesce(r.state, ''), r.started_at,
                   r.ended_at, p.note
              FROM asked
              JOIN runs_schedulepoint p ON p.workflow_id = asked.workflow
                   AND p.cycle = asked.cycle
              LEFT JOIN runs_run r ON r.id = p.run_id
             UNION ALL
            SELECT asked.workflow, asked.cycle, r.id, r.state, r.started_at, r.ended_at, ''
              FROM asked
              JOIN runs_run r ON r.workflow_id = asked.workflow AND r.cycle = asked.cycle
             WHERE r.trigger NOT IN ('schedule', 'debug')
               AND NOT EXISTS (SELECT FROM runs_backfillcycle c
                                 JOIN runs_backfill b ON b.id = c.backfill_id
                                WHERE c.run_id = r.id AND b.node <> '')
            """,
            [[workflow for workflow, _ in asked], [cycle for _, cycle in asked]],
        )
        for workflow, cycle, *rest in cursor.fetchall():
            found[workflow, cycle].append(_Point(*rest))
    return found


def _look_again(now: datetime, at: dict[int, datetime], watches: Sequence[Watch]) -> None:
    """Note up to when these were looked at, and when to look again. One statement: Django's own
    takes half as long as all else."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE notifications_watch AS mine SET looked_until = %s, next_at = again.at
              FROM unnest(%s::bigint[], %s::timestamptz[]) AS again (workflow, at)
             WHERE mine.workflow_id = again.workflow
            """,
            [
                now,
                [watch.pk for watch in watches],
                [at.get(watch.pk, now + AGAIN) for watch in watches],
            ],
        )


def _is_late(deadline: _Deadline, points: Sequence[_Point]) -> bool:
    if deadline.rule == "start_within_minutes":
        times = [each.started_at for each in points]
    else:
        times = [each.ended_at for each in points if each.state == RunState.SUCCEEDED]
    return not any(at is not None and at <= deadline.at for at in times)


def _next_look(watch: Any, now: datetime) -> datetime:
    """When the next deadline passes, if that is within a minute; else in a minute."""
    soon = now + AGAIN
    timetable = _timetable(watch)
    for minutes in (watch.start_within_minutes, watch.done_within_minutes):
        if minutes is not None and timetable is not None:
            within = minutes * _MINUTE
            due = next(timetable.points(now - within, soon - within), None)
            soon = due + within if due is not None else soon
    if watch.done_by is not None:
        daily = Timetable(Pattern.DAYS, _zone(watch), at=watch.done_by)
        soon = next(daily.points(now, soon), soon)
    return soon


def _tell_late(deadline: _Deadline, points: Sequence[_Point], addresses: list[str]) -> None:
    workflow, zone = deadline.workflow, str(deadline.zone)
    workspace = workflow.workspace
    point = max(points, key=lambda each: each.run or 0, default=None)
    what = "not started" if deadline.rule == "start_within_minutes" else "not done"
    due = local(deadline.cycle, zone)[:16]
    run = point.run if point is not None else None
    hold = standing_hold(workflow) if run is None else None
    if run is not None and point is not None:
        how = f"Run {run} is {point.state}."
    elif point is not None and point.note:
        how = f"It has no run: {point.note}."
    elif hold is not None:
        how = f"It has no run: {hold} is held."
    else:
        how = "It has no run."
    notice = Notice(
        subject=f"Late: {workflow.name} of {due} is {what}",
        word="Late",
        tone="bad",
        title=workflow.name,
        said=f"The cycle of {due} was {what} by {local(deadline.at, zone)[:16]}. {how}",
        facts=[
            ("Due", f"{local(deadline.cycle, zone)} {zone}"),
            ("Deadline", f"{local(deadline.at, zone)} {zone}"),
        ],
        links=[(f"Open run {run}", path_of_run(workspace.name, run))]
        if run is not None
        else [("Open its schedule", path_of_schedule(workspace.name, workflow.pk))],
        foot=_FOOT,
    )
    letter = letter_of(notice, workspace, workflow)
    post(
        workspace,
        letter,
        addresses,
        kind=Kind.LATE,
        event=deadline.event,
        workflow_id=workflow.pk,
    )


# --- runs under way ---------------------------------------------------------------------------


def tell_overdue() -> None:
    """Tell of runs by hand and by API that have not started, or are not done, in time.

    They are due from when they were asked for.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT r.id, r.workflow_id, rule.name, rule.minutes
              FROM notifications_watch w
              JOIN runs_run r ON r.workflow_id = w.workflow_id
                   AND r.state IN ('pending', 'running') AND r.trigger IN ('manual', 'api')
             CROSS JOIN LATERAL (VALUES
                   ('start', w.start_within_minutes), ('done', w.done_within_minutes)
                   ) AS rule (name, minutes)
             WHERE (rule.name = 'done' OR r.started_at IS NULL)
               AND coalesce(r.reopened_at, r.created_at) + rule.minutes * interval '1 min'
                   BETWEEN w.since AND clock_timestamp()
               AND NOT EXISTS (SELECT FROM notifications_delivery d
                                WHERE d.event = 'run ' || r.id || ' late ' || rule.name)
             ORDER BY r.id
            """
        )
        found = cursor.fetchall()
    said = {"start": "not started", "done": "not done"}
    for run, told, (rule, minutes) in _to_tell(found):
        what = f"is {said[rule]} {minutes:,} min after it was asked for"
        with alone(event := f"run {run.pk} late {rule}"):
            _tell_of_run(run, told, kind=Kind.LATE, event=event, what=what)


def tell_slow() -> None:
    """Tell of runs that take longer than those of their workflow usually do."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT r.id, r.workflow_id, usual.p90
              FROM notifications_watch w
              JOIN runs_run r ON r.workflow_id = w.workflow_id AND r.state = 'running'
                   AND r.trigger NOT IN ('debug', 'backfill')
                   AND coalesce(r.reopened_at, r.started_at)
                       < clock_timestamp() - %(least)s * interval '1 s'
             CROSS JOIN LATERAL (
                   SELECT count(*) AS n,
                          percentile_cont(0.9) WITHIN GROUP (
                              ORDER BY extract(epoch FROM past.ended_at - past.started_at)) AS p90
                     FROM (SELECT started_at, ended_at FROM runs_run
                            WHERE workflow_id = w.workflow_id AND state = 'succeeded'
                              AND trigger NOT IN ('debug', 'backfill') AND reopened_at IS NULL
                              AND started_at IS NOT NULL
                            ORDER BY ended_at DESC LIMIT %(history)s) past) usual
             WHERE w.slow AND usual.n >= %(history_least)s
               AND extract(epoch FROM clock_timestamp() - coalesce(r.reopened_at, r.started_at))
                   > %(times)s * usual.p90
               AND NOT EXISTS (SELECT FROM notifications_delivery d
                                WHERE d.event = 'run ' || r.id || ' slow')
             ORDER BY r.id
            """,
            {
                "least": SLOW_LEAST_SECONDS,
                "history": HISTORY,
                "history_least": HISTORY_LEAST,
                "times": SLOW_TIMES,
            },
        )
        found = cursor.fetchall()
    for run, told, (usual,) in _to_tell(found):
        what = (
            f"runs for longer than {SLOW_TIMES:g} times {lasted(usual)}, within which nine in ten "
            "of its last successful runs were done"
        )
        with alone(event := f"run {run.pk} slow"):
            _tell_of_run(run, told, kind=Kind.SLOW, event=event, what=what)


def _to_tell(
    found: Sequence[tuple[Any, ...]],
) -> Iterator[tuple[Run, list[str], tuple[Any, ...]]]:
    """The run of each row, which begins with its id and its workflow's; who is told; the rest."""
    if not found:
        return
    rows = Workflow.objects.filter(pk__in={row[1] for row in found}, deleted_at=None)
    told = addresses_of_all(list(rows))
    # Of those that nobody is told of there may be any number, each time.
    found = [row for row in found if told.get(row[1])][:BATCH]
    runs = Run.objects.select_related("workspace", "workflow").in_bulk({row[0] for row in found})
    for run_id, workflow_id, *rest in found:
        if run_id in runs:  # else it was forgotten meanwhile
            yield runs[run_id], told[workflow_id], tuple(rest)


def _tell_of_run(run: Run, addresses: list[str], *, kind: Kind, event: str, what: str) -> None:
    assert run.workflow is not None  # noqa: S101 -- watches are of workflows
    word = "Slow" if kind is Kind.SLOW else "Late"
    zone = run.workspace.zone
    notice = Notice(
        subject=f"{word}: run {run.pk} of {run.name}",
        word=word,
        tone="plain" if kind is Kind.SLOW else "bad",
        title=run.name,
        said=f"Run {run.pk} {what}.",
        facts=[
            ("Cycle", f"{local(run.cycle, run.zone)} {run.zone}"),
            ("Started", f"{local(run.started_at, zone)} {zone}" if run.started_at else "not yet"),
        ],
        links=[(f"Open run {run.pk}", path_of_run(run.workspace.name, run.pk))],
        foot=_FOOT,
    )
    letter = letter_of(notice, run.workspace, run.workflow)
    post(
        run.workspace,
        letter,
        addresses,
        kind=kind,
        event=event,
        workflow_id=run.workflow_id,
    )
