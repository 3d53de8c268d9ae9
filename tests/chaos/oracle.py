"""What must hold, whatever was done: the invariants, and who looks.

The cheap ones are asked while harm is done, each in one statement, so on one snapshot. The rest
is asked once everything has ended. No check knows the time: what happened before what is read
from the journal's order, and from the order of a node's own events.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from django.db import connection

from apps.engine.retry import LOSSES_ALLOWED
from apps.engine.states import ARROWS, ENDED, AttemptState, Missed, NodeState
from apps.notifications.models import Delivery, Incident
from apps.runs.logs import AttemptLog, log_of
from apps.runs.models import (
    Attempt,
    Backfill,
    BackfillCycle,
    NodeRun,
    Run,
    RunEvent,
    SchedulePoint,
)
from apps.runs.services.rerun import graph_of
from apps.workflows.services.schedules import timetable_of
from apps.workspaces.models import ResourceQueue, WorkspaceHold
from tests.chaos.machine import Machine
from tests.chaos.work import ADDRESS, WELL_BEHAVED, People, Works
from tests.mail import MailServer

INVARIANTS = {
    "I1": "each due point of a schedule, and each cycle of a backfill's preview, once: with its "
    "run, or the reason why it has none",
    "I2": "attempts <= 1 + retries + losses + hand-backs; no two of a node overlap in the journal",
    "I3": "no run or node that is not over stands still without a stated reason",
    "I4": "every event is an arrow of the engine's; what has ended changes by a person alone",
    "I5": "a node starts after all that it waits for has succeeded",
    "I6": "bytes of the log = bytes that the job wrote",
    "I7": "in use of a queue = what its running nodes hold, and never above its capacity; a run's "
    "counters = its nodes",
    "I8": "one mail per incident and address, which comes as often as it was sent",
    "I9": "no process, lock or transaction is left behind",
    "I10": "nothing accepted is lost; no attempt fails by the engine's own doing",
}


@dataclass
class Verdict:
    """How often each invariant was asked, and what was found against it."""

    checks: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[str, str]] = field(default_factory=list)

    def asked(self, invariant: str, times: int = 1) -> None:
        self.checks[invariant] += times

    def broken(self, invariant: str, evidence: str) -> None:
        if (invariant, evidence) not in self.violations:
            self.violations.append((invariant, evidence))

    def hold(self, invariant: str, holds: bool, evidence: str) -> None:
        self.asked(invariant)
        if not holds:
            self.broken(invariant, evidence)


#: Each gives the evidence against an invariant, as rows of one text; on one snapshot.
_ALWAYS = {
    "I7 in use": """
        SELECT format('queue %s: %s in use on its row, %s held, of %s', q.name, q.used, h.held,
                      q.capacity)
          FROM workspaces_resourcequeue q
          CROSS JOIN LATERAL (SELECT coalesce(sum(n.demand), 0) AS held FROM runs_noderun n
                               WHERE n.state = 'running' AND n.queue_id = q.id) h
         WHERE q.used <> h.held OR q.used > q.capacity""",
    "I7 counters": """
        SELECT format('run %s (%s, hold %s): active %s, open %s, succeeded %s, failed %s on its '
                      'row; %s, %s, %s, %s in its nodes', r.id, r.state, r.hold, r.active, r.open,
                      r.succeeded, r.failed, n.active, n.open, n.succeeded, n.failed)
          FROM runs_run r
          CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE state IN ('queued', 'running')) AS active,
                   count(*) FILTER (WHERE state IN ('queued', 'running', 'retrying')
                                       OR state = 'pending' AND need = 0) AS open,
                   count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
                   count(*) FILTER (WHERE state = 'failed') AS failed
              FROM runs_noderun WHERE run_id = r.id) n
         WHERE (r.active, r.open, r.succeeded, r.failed)
               <> (n.active, n.open, n.succeeded, n.failed)""",
    "I3 over": """
        SELECT format('run %s has %s with node %s %s (need %s)', r.id, r.state, n.key, n.state,
                      n.need)
          FROM runs_run r JOIN runs_noderun n ON n.run_id = r.id
         WHERE r.ended_at IS NOT NULL
           AND (n.state IN ('queued', 'running', 'retrying')
                OR n.state = 'pending' AND n.need = 0)""",
    "I2 attempts": """
        SELECT format('node run %s is %s at attempt %s, and attempt %s is %s', n.id, n.state,
                      n.attempt, a.number, a.state)
          FROM runs_noderun n JOIN runs_attempt a ON a.node_run_id = n.id
         WHERE (a.state = 'running') <> (n.state = 'running' AND a.number = n.attempt)""",
}


class Watcher:
    """Asks what is cheap to ask, again and again, until it is told to leave."""

    def __init__(self, machine: Machine, verdict: Verdict) -> None:
        self._machine = machine
        self._verdict = verdict
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            try:
                with psycopg.connect(
                    host=str(self._machine.home.sockets), user="runyard", dbname="runyard",
                    connect_timeout=5, autocommit=True,
                ) as link:  # fmt: skip
                    while not self._over.wait(0.5):
                        ask_always(link, self._verdict)
            except psycopg.OperationalError:
                continue  # the database is being harmed


def ask_always(link: psycopg.Connection, verdict: Verdict) -> None:
    for name, statement in _ALWAYS.items():
        invariant = name.partition(" ")[0]
        verdict.asked(invariant)
        for (evidence,) in link.execute(statement).fetchall():
            verdict.broken(invariant, evidence)


# --- the journal ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    place: int
    node: int
    attempt: int
    word: str
    number: int = 0


def read_journal(file: Path) -> list[Line]:
    lines = []
    for place, text in enumerate(file.read_text().splitlines()):
        mark, word, *rest = text.split()
        node, _, attempt = mark.partition(".")
        lines.append(Line(place, int(node), int(attempt), word, int(rest[0]) if rest else 0))
    return lines


def judge(
    machine: Machine, works: Works, people: People, mail: MailServer, verdict: Verdict
) -> Counter[str]:
    """Ask everything, once all has ended and every worker is gone; what there was to judge."""
    journal = read_journal(works.journal)
    by_node: dict[int, list[Line]] = defaultdict(list)
    for line in journal:
        by_node[line.node].append(line)
    events: dict[int, list[RunEvent]] = defaultdict(list)
    for event in RunEvent.objects.exclude(node_run=None).exclude(new="").order_by("pk"):
        events[event.node_run_id].append(event)
    attempts: dict[int, list[Attempt]] = defaultdict(list)
    for attempt in Attempt.objects.order_by("node_run_id", "number"):
        attempts[attempt.node_run_id].append(attempt)
    nodes = list(NodeRun.objects.select_related("job_version__job").order_by("pk"))

    _every_point_once(works, verdict)
    _backfills_as_previewed(people, verdict)
    _one_mail_an_incident(mail, verdict)
    for node in nodes:
        _history(node, events[node.pk], attempts[node.pk], verdict)
        _no_overlap(node, by_node[node.pk], verdict)
        _logs(works, node, attempts[node.pk], by_node[node.pk], verdict)
        _no_doing_of_ours(works, node, attempts[node.pk], verdict)
    _order(nodes, by_node, events, verdict)
    _nothing_left(machine, verdict)
    with psycopg.connect(
        host=str(machine.home.sockets), user="runyard", dbname="runyard", autocommit=True
    ) as link:
        ask_always(link, verdict)

    found: Counter[str] = Counter(runs=Run.objects.count(), nodes=len(nodes))
    found["events"] = RunEvent.objects.count()
    found["schedule points"] = SchedulePoint.objects.count()
    found["backfill cycles"] = BackfillCycle.objects.count()
    found["mails"] = len(mail.got)
    found["journal lines"] = len(journal)
    for each in attempts.values():
        for attempt in each:
            found["attempts"] += 1
            found[f"attempts {attempt.state}"] += 1
    for state in NodeRun.objects.values_list("state", flat=True):
        found[f"nodes {state}"] += 1
    return found


def _every_point_once(works: Works, verdict: Verdict) -> None:
    """What a schedule's timetable has between its switch on and off has one row each."""
    runs = Run.objects.filter(trigger="schedule").values_list("workflow", "cycle")
    for point, times in Counter(runs).items():
        verdict.hold("I1", times == 1, f"workflow {point[0]} ran {times} times for {point[1]}")
    holds = list(WorkspaceHold.objects.all())
    for flow in works.scheduled:
        assert flow.published is not None
        timetable = timetable_of(flow.published)
        assert timetable is not None
        due = list(timetable.points(works.on_at[flow.pk], works.off_at[flow.pk]))
        rows = list(SchedulePoint.objects.filter(workflow=flow).order_by("cycle"))
        got = [row.cycle for row in rows]
        told = f"schedule {flow.name!r}: due {due}, and there are points {got}"
        verdict.hold("I1", got == due, told)
        for row in rows:
            told = f"schedule {flow.name!r}, point {row.cycle}: {row.reason} {row.note}"
            reason = SchedulePoint.Reason(row.reason)
            verdict.hold("I1", reason is not SchedulePoint.Reason.FAULT, told)
            held = any(
                hold.created_at <= row.cycle and (hold.released_at or row.cycle) >= row.cycle
                for hold in holds
            )
            if timetable.missed is Missed.ALL and not held:
                verdict.hold("I1", reason is not SchedulePoint.Reason.MISSED, told)


def _backfills_as_previewed(people: People, verdict: Verdict) -> None:
    """Preview, rows and runs are the same cycles; of one that was cancelled the runs are some."""
    for backfill in Backfill.objects.all():
        rows = list(backfill.cycles.order_by("position").values_list("cycle", "run"))
        cycles = [cycle for cycle, _ in rows]
        runs = Run.objects.filter(backfill_cycle__backfill=backfill, trigger="backfill")
        launched = sorted(runs.values_list("cycle", flat=True))
        told = f"backfill {backfill.pk}: rows {cycles}, runs {launched}"
        if backfill.pk in people.previews:  # else the answer to its creation was lost
            shown = people.previews[backfill.pk]
            verdict.hold("I1", cycles == shown, f"{told}, preview {shown}")
        ran = sorted(cycle for cycle, run in rows if run is not None)
        verdict.hold("I1", launched == ran, told)
        if backfill.cancelled_at is None:
            verdict.hold("I1", launched == sorted(cycles), told)
        flows = Run.objects.filter(flow=backfill.flow).exclude(trigger="manual").count()
        verdict.hold("I1", flows == len(launched), f"{told}, {flows} runs of its flow")


def _one_mail_an_incident(mail: MailServer, verdict: Verdict) -> None:
    """Each message came, under one id, no more often than it was sent."""
    came = Counter((address, str(message["Message-ID"])) for address, message in mail.got)
    for incident in Incident.objects.all():
        opened = list(incident.deliveries.filter(kind="opened"))
        told = f"incident {incident.pk} of {incident.name}: {len(opened)} opening messages"
        verdict.hold("I8", [each.address for each in opened] == [ADDRESS], told)
    known = set()
    for each in Delivery.objects.all():
        times = came[each.address, each.message_id]
        known.add((each.address, each.message_id))
        told = f"{each.event} ({each.status}) came {times} times, sent {each.tries} times"
        verdict.hold("I8", each.status == "sent" and 1 <= times <= each.tries, told)
    for address, message_id in came.keys() - known:
        verdict.broken("I8", f"{message_id} came to {address}, and nobody knows of it")


def _history(
    node: NodeRun, events: list[RunEvent], attempts: list[Attempt], verdict: Verdict
) -> None:
    """Its events are a way through the engine's arrows that leads to where it stands."""
    stands = NodeState.SUCCEEDED if node.kept_from_id else NodeState.PENDING
    failures = losses = successes = 0
    state_of = {attempt.number: attempt.state for attempt in attempts}
    for event in events:
        told = f"{node} ({node.pk}): event {event.pk}: {event.old} to {event.new}"
        old, new = NodeState(event.old), NodeState(event.new)
        verdict.hold("I4", old is stands, f"{told}, and it stood at {stands}")
        verdict.hold("I4", (old, new) in ARROWS, f"{told}: there is no such arrow")
        if old in ENDED:
            verdict.hold("I4", event.user_id is not None, f"{told} without a person")
        if old is NodeState.RUNNING:
            ended = state_of.get(event.attempt or 0)
            failures += ended == AttemptState.FAILED
            losses += ended == AttemptState.LOST
            successes += ended == AttemptState.SUCCEEDED
        if (new is NodeState.PENDING and old in ENDED) or new in ENDED:
            counts = f"{failures} failures, {losses} losses, {successes} successes"
            verdict.hold(
                "I2",
                failures <= node.retries + 1 and losses <= LOSSES_ALLOWED + 1 and successes <= 1,
                f"{node} ({node.pk}), retries {node.retries}: {counts} until event {event.pk}",
            )
        if old in ENDED and new is NodeState.PENDING:
            failures = losses = successes = 0
        stands = new
    verdict.hold("I4", stands == node.state, f"{node} is {node.state}, its events say {stands}")
    numbers = [attempt.number for attempt in attempts]
    verdict.hold(
        "I2",
        numbers == list(range(1, node.attempt + 1)),
        f"{node} ({node.pk}) is at attempt {node.attempt} and has {numbers}",
    )
    claims = sum(event.new == NodeState.RUNNING for event in events)
    verdict.hold("I2", claims == node.attempt, f"{node}: {claims} claims, attempt {node.attempt}")


def _no_overlap(node: NodeRun, lines: list[Line], verdict: Verdict) -> None:
    started: Counter[int] = Counter()
    newest = 0
    for line in lines:
        verdict.hold(
            "I2",
            line.attempt >= newest,
            f"{node} ({node.pk}): attempt {line.attempt} wrote {line.word!r} after attempt "
            f"{newest} had begun (line {line.place + 1} of the journal)",
        )
        newest = max(newest, line.attempt)
        started[line.attempt] += line.word == "start"
    for attempt, times in started.items():
        verdict.hold("I2", times == 1, f"{node} ({node.pk}): attempt {attempt} began {times} times")


def _logs(
    works: Works, node: NodeRun, attempts: list[Attempt], lines: list[Line], verdict: Verdict
) -> None:
    """A success has run to its end, and its log is what it wrote."""
    ends = {line.attempt: line.number for line in lines if line.word == "end"}
    path = node.job_version.job.path
    for attempt in attempts:
        if attempt.state != AttemptState.SUCCEEDED:
            continue
        told = f"{node} ({node.pk}), attempt {attempt.number}"
        verdict.hold("I10", attempt.number in ends, f"{told} succeeded and never came to its end")
        if attempt.number not in ends:
            continue
        log = log_of(node.run_id, node.pk, attempt.number)
        size = log.size()
        # A shell says of its child that it was killed.
        said = sum(map(len, _KILLED.findall(_whole(log)))) if size != ends[attempt.number] else 0
        wrote = ends[attempt.number] + said
        verdict.hold(
            "I6",
            attempt.log_bytes == size == wrote,
            f"{told} wrote {wrote} bytes, its log has {size}, its row says {attempt.log_bytes}",
        )
        if path == "ugly_log":
            same = _whole(log) == (works.folder / "ugly").read_bytes()
            verdict.hold("I6", same, f"{told}: its log is not what it wrote")


_KILLED = re.compile(rb"^main\.sh: line \d+: +\d+ Killed .*\n", re.MULTILINE)


def _whole(log: AttemptLog) -> bytes:
    """All of a log, as the product reads it."""
    data, offset = [], 0
    while (stretch := log.read(offset, 1 << 20)).data:
        data.append(stretch.data)
        offset = stretch.next
    return b"".join(data)


_OUR_DOING = ("the worker failed at it", "cannot be started", "its Python environment")


def _no_doing_of_ours(
    works: Works, node: NodeRun, attempts: list[Attempt], verdict: Verdict
) -> None:
    good = {works.jobs[name] for name in WELL_BEHAVED}
    for attempt in attempts:
        if attempt.state != AttemptState.FAILED:
            continue
        fault = attempt.reason.startswith(_OUR_DOING)
        # A well-behaved job fails only where its process was killed, or frozen until its limit.
        if node.job_version.job.path in good:
            fault = not attempt.reason.startswith(("killed by SIGKILL", "timed out"))
        verdict.hold(
            "I10",
            not fault,
            f"{node} ({node.pk}), {node.job_version.job.path}, attempt {attempt.number} failed: "
            f"{attempt.reason!r}",
        )


def _order(
    nodes: list[NodeRun],
    by_node: dict[int, list[Line]],
    events: dict[int, list[RunEvent]],
    verdict: Verdict,
) -> None:
    """Before each start of a node, the last that each upstream wrote was the end of a success.

    But for upstreams that a person declared done, and for those outside of a rerun's scope.
    """
    by_run: dict[int, dict[str, NodeRun]] = defaultdict(dict)
    for node in nodes:
        by_run[node.run_id][node.key] = node
    reruns: dict[int, list[tuple[int, set[str]]]] = defaultdict(list)
    for event in RunEvent.objects.filter(node_run=None, note__startswith="rerun of ").exclude(
        note__startswith="rerun of run "  # a new run, of which everything runs
    ):
        scope = set(event.note.removeprefix("rerun of ").split(", "))
        reruns[event.run_id].append((event.pk, scope))
    for run in Run.objects.select_related("version"):
        upstream = graph_of(run).upstream
        for key, node in by_run[run.pk].items():
            claims = {e.attempt: e.pk for e in events[node.pk] if e.new == NodeState.RUNNING}
            for start in (line for line in by_node[node.pk] if line.word == "start"):
                event = claims.get(start.attempt, 0)
                for name in upstream[key]:
                    up = by_run[run.pk][name]
                    if up.kept_from_id or _is_excused(up, key, event, reruns[run.pk], events):
                        continue
                    before = [
                        line
                        for line in by_node[up.pk]
                        if line.place < start.place and line.word != "stray"
                    ]
                    last = before[-1].word if before else "nothing"
                    verdict.hold(
                        "I5",
                        last == "end",
                        f"{node} ({node.pk}) began attempt {start.attempt} when {name} ({up.pk}) "
                        f"had last written {last!r} (line {start.place + 1} of the journal)",
                    )


def _is_excused(
    up: NodeRun,
    key: str,
    event: int,
    reruns: list[tuple[int, set[str]]],
    events: dict[int, list[RunEvent]],
) -> bool:
    by_hand = any(
        e.pk < event and e.new == NodeState.SUCCEEDED and e.old != NodeState.RUNNING
        for e in events[up.pk]
    )
    outside = any(pk < event and key in scope and up.key not in scope for pk, scope in reruns)
    return by_hand or outside


def all_over(launched: list[int], verdict: Verdict) -> None:
    """What was accepted is there and has ended, and holds nothing."""
    there = set(Run.objects.filter(pk__in=launched).values_list("pk", flat=True))
    for pk in launched:
        verdict.hold("I10", pk in there, f"run {pk} was accepted and is not there")
    for run in Run.objects.all():
        verdict.hold("I3", run.ended_at is not None, f"{run} is {run.state} in the end")
    for backfill in Backfill.objects.all():
        verdict.hold("I3", backfill.ended_at is not None, f"{backfill} goes on in the end")
    for queue in ResourceQueue.objects.all():
        verdict.hold("I7", queue.used == 0, f"queue {queue.name}: {queue.used} in use in the end")


def _nothing_left(machine: Machine, verdict: Verdict) -> None:
    left = machine.leftovers()
    verdict.hold("I9", not left, f"processes are left: {'; '.join(left)}")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database() AND state <> 'idle'"
        )
        [busy] = cursor.fetchone()
        cursor.execute(
            "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
            " WHERE d.datname = current_database() AND l.pid <> pg_backend_pid()"
        )
        [locks] = cursor.fetchone()
    verdict.hold("I9", busy == 0, f"{busy} connections are in a statement or a transaction")
    verdict.hold("I9", locks == 0, f"{locks} locks are held")
