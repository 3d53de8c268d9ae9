"""What is told of a backfill: its first failed cycle and its end, to its own addresses."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import pytest
from django.db.models.functions import Now

from apps.engine.states import NodeState, Trigger
from apps.notifications.models import Delivery, Incident
from apps.notifications.services.incidents import note_failure
from apps.notifications.services.subscriptions import subscribe
from apps.notifications.services.tick import tick
from apps.runs.models import Backfill, Run
from apps.runs.services.backfill import Asked, cancel_backfill, create_backfill
from apps.runs.services.endings import run_ended, tell_of
from apps.runs.services.hot_path import Outcome, claim, finish
from apps.runs.services.launch import launch
from apps.workflows.models import Workflow
from apps.workflows.services.drafting import delete_workflow
from tests.factories import published, workspace
from tests.people import user

pytestmark = pytest.mark.django_db(transaction=True)

OWNER, MAYA = "backfill@example.com", "maya@example.com"
DAILY = {"kind": "days", "time": "02:00", "started_at": "2026-01-01T00:00:00Z"}
FAILED = Outcome(
    NodeState.FAILED,
    exit_code=1,
    reason="exit code 1",
    log_lines=3,
    log_tail="a\nKeyError: 'day'\nb\n",
    error_line="KeyError: 'day'",
)
SUCCEEDED = Outcome(NodeState.SUCCEEDED, exit_code=0)


def flow() -> Workflow:
    version = published("load", "b", schedule=DAILY)
    subscribe(version.workflow, [MAYA])
    return Workflow.objects.select_related("workspace", "published").get(pk=version.workflow_id)


def backfill(workflow: Workflow, *, last: int = 3, **settings: object) -> Backfill:
    asked = Asked(first_date=date(2026, 3, 1), last_date=date(2026, 3, last))
    return create_backfill(workflow, asked, user=None, **settings)


def work(bad: set[int]) -> None:
    """Let everything run as a worker would; the cycles of these days fail."""
    queue = workspace().queues.get(name="root_queue").pk
    while (mine := claim(queue, "worker@here:1", uuid4())) is not None:
        day = Run.objects.get(pk=mine.run_id).cycle.day
        done = FAILED if day in bad else SUCCEEDED
        ended = finish(mine, done, worker="worker@here:1", request=uuid4(), take=False)
        tell_of(mine.run_id)
        if ended.run_ended:
            run_ended(mine.run_id)
        tick()


def said_by(mail) -> str:
    return mail.get_body(("plain",)).get_content().replace("\r\n", "\n")


def test_its_own_addresses_hear_of_the_first_failed_cycle_and_of_the_end(server):
    made = backfill(flow(), addresses=[OWNER], remarks="after the repair")

    work(bad={2, 3})
    tick()

    assert [(address, mail["Subject"]) for address, mail in server.got] == [
        (OWNER, "Failed: backfill of flow, cycle 2026-03-02 02:00 [default]"),
        (OWNER, "Backfill of flow: 1 of 3 cycles succeeded [default]"),
    ]
    (_, failed), (_, over) = server.got
    run = Run.objects.get(cycle__day=2)
    node = run.nodes.order_by("pk").filter(state="failed").first()
    assert f"/runs/{run.pk}/nodes/{node.pk}/?attempt=1#L2\n" in said_by(failed)
    for said in ("Cycle: 2026-03-02 02:00:00 UTC", "KeyError: 'day'", "Remarks: after the repair"):
        assert said in said_by(failed)
    assert f"Backfill {made.pk} of flow: Over. It is over. It has 3 cycles." in said_by(over)
    assert "Succeeded: 1\nFailed: 2\n" in said_by(over)
    place = f"https://runyard.example.org/w/default/backfills/{made.pk}/\n"
    assert f"Open the backfill: {place}" in said_by(failed)
    assert f"Open the backfill: {place}" in said_by(over)
    assert over["In-Reply-To"] == failed["Message-ID"]
    assert not Incident.objects.exists()


def test_without_addresses_of_its_own_those_of_the_workflow_are_told(server):
    backfill(flow())

    work(bad=set())

    assert [(address, mail["Subject"]) for address, mail in server.got] == [
        (MAYA, "Backfill of flow: succeeded [default]")
    ]


def test_who_is_named_after_the_first_failed_cycle_hears_of_the_next_as_what_it_is(server):
    workflow = flow()
    subscribe(workflow, [])
    backfill(workflow, last=4)
    queue = workspace().queues.get(name="root_queue").pk
    while Run.objects.filter(state="failed").count() < 2:
        if Run.objects.filter(state="failed").exists():
            subscribe(workflow, [MAYA])
        mine = claim(queue, "worker@here:1", uuid4())
        ended = finish(mine, FAILED, worker="worker@here:1", request=uuid4(), take=False)
        tell_of(mine.run_id)
        if ended.run_ended:
            run_ended(mine.run_id)
        tick()

    [(_, mail)] = server.got
    assert mail["Subject"] == "Failed: backfill of flow, cycle 2026-03-03 02:00 [default]"
    assert "A cycle of it has failed. You hear" in said_by(mail)
    assert "first" not in said_by(mail)


def test_one_that_was_cancelled_says_by_whom(server):
    made = backfill(flow(), addresses=[OWNER])

    cancel_backfill(made, user=user("li"), stop_running=True)
    tick()

    [(_, mail)] = server.got
    assert mail["Subject"] == "Backfill of flow: 0 of 3 cycles succeeded [default]"
    assert "It was cancelled by li. It has 3 cycles." in said_by(mail)
    assert "Stopped: 3\n" in said_by(mail)


def test_a_word_that_comes_twice_or_long_after_tells_nothing_more(server):
    made = backfill(flow(), addresses=[OWNER])
    work(bad={2})
    note_failure(Run.objects.get(cycle__day=2).pk)
    tick()
    assert len(server.got) == 2

    Delivery.objects.all().delete()
    Backfill.objects.filter(pk=made.pk).update(ended_at=Now() - timedelta(days=2))
    tick()

    assert len(server.got) == 2


def test_the_end_of_one_whose_workflow_is_deleted_is_told_to_nobody(server):
    made = backfill(flow(), addresses=[OWNER])
    cancel_backfill(made, user=None, stop_running=True)
    delete_workflow(made.workflow)

    tick()

    assert server.got == []


@pytest.mark.parametrize(("days", "recovered"), [((1, 2), False), ((2, 3), True)])
def test_a_backfill_ends_an_incident_only_where_it_runs_a_cycle_that_failed(
    server, days, recovered
):
    workflow = flow()
    cycle = datetime(2026, 3, 4, 2, tzinfo=UTC)
    launch(workflow.published, cycles=[cycle], trigger=Trigger.MANUAL, by=None)
    work(bad={4})
    first, last = days

    asked = Asked(first_date=date(2026, 3, first), last_date=date(2026, 3, last))
    create_backfill(workflow, asked, user=None)
    work(bad=set())
    tick()

    assert (Incident.objects.get().recovered_at is not None) is recovered
