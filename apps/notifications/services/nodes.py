"""Node subscriptions: addresses that are told of what one node does, run for run.

    subscribe_node(workflow, "load", ["maya@example.com"], [Tells.FAILED, Tells.SLOW])
    tell_nodes()                    # with every tick

A node tells nobody itself: what it did stands in the events of its run, and the tick reads those
of the runs that are under way, or were over a moment ago. It reads some minutes twice, since
events are committed late; what was told stands in the outbox, and is told once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import Min
from django.db.models.functions import Now

from apps.core.errors import FieldFault, Invalid, NotFound
from apps.engine.states import NodeState
from apps.notifications.addresses import check_addresses
from apps.notifications.letters import (
    Letter,
    Notice,
    letter_of,
    local,
    path_of_attempt,
    path_of_run,
)
from apps.notifications.models import Kind, Look, NodeSubscription, Tells
from apps.notifications.services.channels import check_channels
from apps.notifications.services.incidents import line_in_log
from apps.notifications.services.one_by_one import alone
from apps.notifications.services.outbox import post
from apps.runs.models import Attempt, NodeRun
from apps.workflows.models import Workflow

#: How far back each look reads once more: longer than any transaction that writes an event.
MARGIN = timedelta(minutes=2)
#: Events that one look tells of; the rest is the next one's.
BATCH = 500
#: A node is slow that runs for so many times as long as nine in ten of its last successes ...
SLOW_TIMES = 1.5
#: ... of so many at most, and so many at least; but never within so many seconds.
HISTORY, HISTORY_LEAST, SLOW_LEAST_SECONDS = 30, 5, 60


@dataclass(frozen=True)
class Told:
    """What a subscription says."""

    node: str
    addresses: list[str]
    states: list[Tells]


def node_subscriptions(workflow: Workflow) -> list[Told]:
    """By the nodes' names."""
    rows = NodeSubscription.objects.filter(workflow=workflow).order_by("node")
    return [Told(row.node, row.addresses, [Tells(each) for each in row.states]) for row in rows]


@transaction.atomic
def subscribe_node(
    workflow: Workflow, node: str, addresses: Sequence[str], states: Collection[Tells]
) -> None:
    """Let a node tell these addresses, in place of those there were; none: nobody.

    It counts at once, for what happens from now on. Raises Invalid, NotFound.
    """
    workflow = _locked(workflow)
    others = [each for each in node_subscriptions(workflow) if each.node != node]
    mine = [Told(node, list(addresses), list(states))] if addresses or states else []
    set_node_subscriptions(workflow, [*others, *mine])


@transaction.atomic
def set_node_subscriptions(workflow: Workflow, said: Sequence[Told]) -> None:
    """All of a workflow's, in place of those there were; they count at once.

    One that stays as it was stays, whether its node is still there or not. Raises Invalid with
    every fault, each at its node; NotFound if the workflow was deleted.
    """
    workflow = _locked(workflow)
    stands = node_subscriptions(workflow)
    changed = [each for each in said if each not in stands]
    nodes = nodes_of(workflow)
    faults = [fault for each in changed for fault in _faults(workflow, each, nodes)]
    names = Counter(each.node for each in said)
    twice = sorted(name for name, count in names.items() if count > 1)
    faults += [FieldFault(name, f"node {name!r} is there twice") for name in twice]
    if faults:
        raise Invalid(faults)
    rows = NodeSubscription.objects.filter(workflow=workflow)
    rows.exclude(node__in=names).delete()
    for each in changed:
        columns = {
            "addresses": check_addresses(each.addresses),
            "states": [tells.value for tells in Tells if tells in each.states],
        }
        rows.update_or_create(
            workflow=workflow, node=each.node, defaults={**columns, "since": Now()}
        )


def _locked(workflow: Workflow) -> Workflow:
    rows = Workflow.objects.select_for_update(no_key=True, of=("self",))
    row = rows.select_related("published").get(pk=workflow.pk)
    if row.deleted_at is not None:
        raise NotFound(f"workflow {row.name!r} was deleted")
    return row


def nodes_of(workflow: Workflow) -> set[str]:
    """Of the draft, and of the version that runs."""
    names = set(workflow.nodes.values_list("name", flat=True))
    if workflow.published is not None:
        names |= {node["name"] for node in workflow.published.graph["nodes"]}
    return names


def _faults(workflow: Workflow, said: Told, nodes: Collection[str]) -> list[FieldFault]:
    faults = []
    if said.node not in nodes:
        faults.append(
            FieldFault(said.node, f"there is no node {said.node[:64]!r} in the draft or published")
        )
    try:
        kept = check_addresses(said.addresses, said.node)
        check_channels(workflow.workspace_id, kept, said.node)
        if not kept:
            faults.append(FieldFault(said.node, "name an address that is told"))
    except Invalid as error:
        faults += error.faults
    if not said.states:
        faults.append(FieldFault(said.node, "choose what is told: " + ", ".join(Tells)))
    return faults


# --- telling --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _News:
    """Something that a node did, and who is told."""

    addresses: list[str]
    tells: Tells
    #: Its name in the outbox.
    event: str
    node_run: int
    attempt: int | None
    at: datetime
    note: str = ""


def tell_nodes() -> None:
    """Tell of what subscribed nodes have done since the last look."""
    oldest = NodeSubscription.objects.aggregate(at=Min("since"))["at"]
    if oldest is not None:
        _tell_since(oldest)


@transaction.atomic
def _tell_since(oldest: datetime) -> None:
    since = look_from("nodes", oldest)
    if since is None:
        return
    events = _events(since)
    news = [*events, *_slow()]
    nodes = NodeRun.objects.select_related("run__workspace", "run__workflow").in_bulk(
        {each.node_run for each in news}
    )
    attempts = {
        (each.node_run_id, each.number): each
        for each in Attempt.objects.filter(node_run__in=nodes).defer("values")
    }
    told = 0
    # Those whose runs are there still. By workflow, as every look: see `outbox.post`.
    there = [(nodes[each.node_run], each) for each in news if each.node_run in nodes]
    for node, each in sorted(there, key=lambda pair: pair[0].run.workflow_id or 0):
        with alone(each.event):
            post(
                node.run.workspace,
                _letter(each, node, attempts.get((node.pk, each.attempt or 0))),
                each.addresses,
                kind=Kind.NODE,
                event=each.event,
                workflow_id=node.run.workflow_id,
            )
            told += 1
    if len(events) < BATCH:
        looked("nodes")
    elif not told:  # a batch that cannot be told must not come again and again
        Look.objects.filter(name="nodes").update(at=events[-1].at + MARGIN)


def look_from(name: str, oldest: datetime) -> datetime | None:
    """From when on to read what has happened; None: somebody else is at it.

    `oldest`: nobody asks for what was before. Nobody else looks before the transaction's end.
    """
    Look.objects.bulk_create([Look(name=name)], ignore_conflicts=True)
    rows = Look.objects.select_for_update(no_key=True, skip_locked=True)
    look = rows.filter(name=name).first()
    return None if look is None else max(look.at - MARGIN, oldest)


def looked(name: str) -> None:
    """Let the next look begin here. What is committed from now on with an earlier time lies
    within the margin."""
    Look.objects.filter(name=name).update(at=Now())


_SUBSCRIBED = """
    subscribed AS (
        SELECT s.* FROM notifications_nodesubscription s
          JOIN workflows_workflow w ON w.id = s.workflow_id AND w.deleted_at IS NULL
    ), run AS (
        -- Each half by an index of its own.
        SELECT id, workflow_id FROM runs_run
         WHERE state IN ('pending', 'running') AND trigger NOT IN ('debug', 'backfill')
           AND workflow_id IN (SELECT workflow_id FROM subscribed)
        UNION
        SELECT id, workflow_id FROM runs_run
         WHERE ended_at > %(since)s AND trigger NOT IN ('debug', 'backfill')
           AND workflow_id IN (SELECT workflow_id FROM subscribed)
    )
"""


def _events(since: datetime) -> list[_News]:
    """What nodes have done since then that nobody was told of, the oldest first. One statement.

    The node's attempts say first whether there can be any: a run may have thousands of events.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH {_SUBSCRIBED}
            SELECT s.addresses, e.id, e.node_run_id, e.attempt, e.new, e.at, e.note
              FROM subscribed s
              JOIN run r ON r.workflow_id = s.workflow_id
              JOIN runs_noderun n ON n.run_id = r.id AND n.key = s.node
              JOIN runs_runevent e ON e.run_id = r.id AND e.node_run_id = n.id
             WHERE (n.ended_at > %(since)s OR EXISTS (
                       SELECT FROM runs_attempt a WHERE a.node_run_id = n.id
                          AND (a.started_at > %(since)s OR a.ended_at > %(since)s)))
               AND e.at > %(since)s AND e.at >= s.since
               AND (CASE e.new WHEN 'running' THEN 'started' ELSE e.new END = ANY (s.states)
                    OR 'timed_out' = ANY (s.states) AND e.new IN ('failed', 'retrying')
                       AND starts_with(e.note, 'timed out after '))
               AND NOT EXISTS (SELECT FROM notifications_delivery d
                                WHERE d.event = 'node event ' || e.id)
             ORDER BY e.id LIMIT %(batch)s
            """,  # noqa: S608 -- a constant
            {"since": since, "batch": BATCH},
        )
        rows = cursor.fetchall()
    return [
        _News(addresses, _tells(new, note), f"node event {event}", node_run, attempt, at, note)
        for addresses, event, node_run, attempt, new, at, note in rows
    ]


_WORD_OF = {
    NodeState.RUNNING.value: Tells.STARTED,
    NodeState.SUCCEEDED.value: Tells.SUCCEEDED,
    NodeState.FAILED.value: Tells.FAILED,
    NodeState.RETRYING.value: Tells.RETRYING,
}


def _tells(new: str, note: str) -> Tells:
    """What an event is called: of one that is two things, what says more."""
    timed_out = note.startswith("timed out after ")
    return Tells.TIMED_OUT if timed_out else _WORD_OF[new]


def _slow() -> list[_News]:
    """Attempts that run for longer than their node usually does. One statement."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT s.addresses, n.id, n.attempt, n.started_at, usual.p90
              FROM notifications_nodesubscription s
              JOIN workflows_workflow w ON w.id = s.workflow_id AND w.deleted_at IS NULL
              JOIN runs_run r ON r.workflow_id = s.workflow_id
                   AND r.state IN ('pending', 'running')
                   AND r.trigger NOT IN ('debug', 'backfill')
              JOIN runs_noderun n ON n.run_id = r.id AND n.key = s.node
                   AND n.state = 'running'
                   AND n.started_at < clock_timestamp() - %(least)s * interval '1 s'
             CROSS JOIN LATERAL (
                   SELECT count(*) AS n,
                          percentile_cont(0.9) WITHIN GROUP (
                              ORDER BY extract(epoch FROM a.ended_at - a.started_at)) AS p90
                     FROM (SELECT id FROM runs_run
                            WHERE workflow_id = s.workflow_id AND state = 'succeeded'
                              AND trigger <> 'debug'
                            ORDER BY ended_at DESC LIMIT %(history)s) past
                     JOIN runs_noderun p ON p.run_id = past.id AND p.key = s.node
                     JOIN runs_attempt a ON a.node_run_id = p.id AND a.number = p.attempt
                          AND a.state = 'succeeded') usual
             WHERE 'slow' = ANY (s.states) AND usual.n >= %(history_least)s
               AND extract(epoch FROM clock_timestamp() - n.started_at) > %(times)s * usual.p90
               AND NOT EXISTS (
                   SELECT FROM notifications_delivery d
                    WHERE d.event = 'node ' || n.id || ' attempt ' || n.attempt || ' slow')
             ORDER BY n.id LIMIT %(batch)s
            """,
            {
                "least": SLOW_LEAST_SECONDS,
                "history": HISTORY,
                "history_least": HISTORY_LEAST,
                "times": SLOW_TIMES,
                "batch": BATCH,
            },
        )
        rows = cursor.fetchall()
    return [
        _News(
            addresses,
            Tells.SLOW,
            f"node {node} attempt {attempt} slow",
            node,
            attempt,
            at,
            f"it runs for longer than {SLOW_TIMES:g} times {lasted(usual)}, within which nine in "
            "ten of its last successes were done",
        )
        for addresses, node, attempt, at, usual in rows
    ]


def lasted(seconds: float) -> str:
    """A duration in words: 45 s, 12 min, 3 h 05 min."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


_WORDS = {
    Tells.STARTED: ("Started", "plain"),
    Tells.SUCCEEDED: ("Succeeded", "good"),
    Tells.FAILED: ("Failed", "bad"),
    Tells.RETRYING: ("Retrying", "plain"),
    Tells.TIMED_OUT: ("Timed out", "bad"),
    Tells.SLOW: ("Slow", "plain"),
}


def _letter(news: _News, node: NodeRun, attempt: Attempt | None) -> Letter:
    run, workspace = node.run, node.run.workspace
    word, tone = _WORDS[news.tells]
    has_failed = news.tells in (Tells.FAILED, Tells.RETRYING, Tells.TIMED_OUT)
    failed = attempt if attempt is not None and has_failed else None
    line = line_in_log(failed) if failed is not None else None
    tried = attempt.number if attempt is not None else None
    to_log = path_of_attempt(workspace.name, run.pk, node.pk, tried, line)
    retry = node.state == NodeState.RETRYING and news.tells is not Tells.FAILED
    number = f", attempt {tried}" if tried else ""
    notice = Notice(
        subject=f"{word}: {node.key} of {run.name}",
        word=word,
        tone=tone,
        title=f"{node.key} of {run.name}",
        said=f"Run {run.pk}, cycle {local(run.cycle, run.zone)[:16]}{number}.",
        facts=[
            ("At", f"{local(news.at, workspace.zone)} {workspace.zone}"),
            ("Reason", news.note),
            ("Tried again at", local(node.retry_at, workspace.zone) if retry else ""),
        ],
        line=failed.error_line if failed is not None else "",
        links=[
            ("Open the failing line" if line else "Open the log", to_log),
            (f"Open run {run.pk}", path_of_run(workspace.name, run.pk)),
        ],
        foot="You get it because your address is in this node's subscription.",
    )
    assert run.workflow is not None  # noqa: S101 -- subscriptions are of workflows
    return letter_of(notice, workspace, run.workflow)
