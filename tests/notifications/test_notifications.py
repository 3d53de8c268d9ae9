"""A workflow fails and recovers: who gets which mail, through a real mail server."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import OperationalError, connection
from django.db.models import F, Q
from django.db.models.functions import Now
from django.urls import reverse

from apps.core.errors import Conflict, Invalid, NotFound
from apps.engine.roles import Role
from apps.engine.states import NodeState, Trigger
from apps.notifications.addresses import MAX_ADDRESSES, read_addresses
from apps.notifications.letters import (
    letter_test,
    message_of,
    path_of_backfill,
    path_of_incidents,
    path_of_log,
    path_of_rerun,
    path_of_schedule,
)
from apps.notifications.models import Delivery, Incident, Kind, Silence
from apps.notifications.services import incidents, outbox
from apps.notifications.services import tick as look
from apps.notifications.services.incidents import acknowledge, note_failure
from apps.notifications.services.one_by_one import alone
from apps.notifications.services.outbox import deliver, post
from apps.notifications.services.silences import silence
from apps.notifications.services.subscriptions import addresses_of, subscribe
from apps.notifications.services.tick import forget, tick
from apps.runs.models import NodeRun, Run, RunEnd
from apps.runs.services import sweep
from apps.runs.services.endings import tell_of
from apps.runs.services.hot_path import Outcome, claim, finish
from apps.runs.services.launch import launch
from apps.runs.services.rerun import rerun_nodes
from apps.workflows.models import WorkflowVersion
from apps.workflows.services.drafting import delete_workflow
from apps.workspaces.models import Workspace
from tests.factories import by_hand, job, mail, published, workspace
from tests.people import member, user
from tests.waiting import until

ME = "worker@here:1"
MAYA, LI = "maya@example.com", "li.wei@example.com"
SUCCEEDED = Outcome(NodeState.SUCCEEDED, exit_code=0)
FAILED = Outcome(
    NodeState.FAILED,
    exit_code=1,
    reason="exit code 1",
    log_bytes=90,
    log_lines=12,
    log_tail="Traceback (most recent call last):\nKeyError: 'carrier'\nbye\n",
    error_line="KeyError: 'carrier'",
)

pytestmark = pytest.mark.django_db


def take():
    return claim(workspace().queues.get(name="root_queue").pk, ME, uuid4())


def end(mine, outcome=SUCCEEDED):
    done = finish(mine, outcome, worker=ME, request=uuid4(), take=False)
    tell_of(mine.run_id)  # as the worker does
    return done


def watched(*nodes: str, addresses=(MAYA,), **settings):
    """A published workflow that tells these addresses of its failures."""
    version = published(*nodes or ("load",), **settings)
    subscribe(version.workflow, list(addresses))
    return version


def run_through(version, outcome):
    """A run in which every node that starts ends so."""
    run = by_hand(version)
    while (mine := take()) is not None:
        end(mine, outcome)
    return run


def said_by(mail) -> str:
    return mail.get_body(("plain",)).get_content().replace("\r\n", "\n")


def subjects(server) -> list[tuple[str, str]]:
    return [(address, mail["Subject"]) for address, mail in server.got]


def make_due() -> None:
    """Let the pause after a failed try be over."""
    Delivery.objects.filter(status="waiting").update(due_at=Now())


# --- one mail a failure ---------------------------------------------------------------------


def test_a_failed_workflow_is_told_once_to_each_address(server):
    version = watched(addresses=[MAYA, LI], description="Loads the flights.")

    run = run_through(version, FAILED)
    tick()
    tick()

    assert sorted(subjects(server)) == [
        (LI, "Failed: flow at load [default]"),
        (MAYA, "Failed: flow at load [default]"),
    ]
    mail = server.got[0][1]
    node = run.nodes.get()
    text = said_by(mail)
    assert mail.get_content_type() == "multipart/alternative"
    assert (mail["From"], mail["Auto-Submitted"]) == (
        "Runyard <runyard@example.org>",
        "auto-generated",
    )
    for said in (
        "flow failed at load.",
        "Loads the flights.",
        "Node:   load, attempt 1",
        "Reason: exit code 1",
        "KeyError: 'carrier'",
        f"https://runyard.example.org/w/default/runs/{run.pk}/nodes/{node.pk}/?attempt=1#L11",
        f"The run: https://runyard.example.org/w/default/runs/{run.pk}/\n",
        f"as you choose there: https://runyard.example.org/w/default/runs/{run.pk}/rerun/\n",
    ):
        assert said in text
    html = mail.get_body(("html",)).get_content()
    assert f'/runs/{run.pk}/nodes/{node.pk}/?attempt=1#L11"' in html
    assert "<img" not in html
    assert "KeyError: &#x27;carrier&#x27;" in html


def test_twenty_five_failed_nodes_are_one_mail_and_one_recovery(server):
    version = watched(*(f"n{i:02}" for i in range(25)))

    run_through(version, FAILED)
    tick()
    again = run_through(version, FAILED)
    tick()
    good = run_through(version, SUCCEEDED)
    tick()
    tick()

    incident = Incident.objects.get()
    again.refresh_from_db()
    assert again.failed == 25
    assert (incident.runs, incident.recovered_by) == (2, good.pk)
    assert subjects(server) == [
        (MAYA, "Failed: flow at n00 [default]"),
        (MAYA, "Recovered: flow [default]"),
    ]
    opened, recovered = (mail for _, mail in server.got)
    assert recovered["In-Reply-To"] == opened["Message-ID"]
    assert "in 2 runs" in said_by(recovered)
    assert not RunEnd.objects.exists()


def test_the_mail_goes_at_the_first_node_that_failed_for_good_not_at_the_runs_end(server):
    version = watched("a", "b", retries=1)
    by_hand(version)

    end(take(), Outcome(NodeState.RETRYING, exit_code=1, reason="exit code 1", retry_in=60))
    tick()
    assert server.got == []  # it is tried again
    end(take(), FAILED)
    tick()

    assert subjects(server) == [(MAYA, "Failed: flow at b [default]")]


def test_a_failure_after_the_recovery_is_a_new_incident_and_a_doubled_word_is_none(server):
    version = watched()
    run = run_through(version, FAILED)
    run_through(version, SUCCEEDED)
    tick()

    note_failure(run.pk)
    assert Incident.objects.count() == 1
    rerun_nodes(run, ["load"], user=None)
    end(take(), FAILED)
    tick()

    assert [subject for _, subject in subjects(server)] == [
        "Failed: flow at load [default]",
        "Recovered: flow [default]",
        "Failed: flow at load [default]",
    ]


def test_a_rerun_in_place_that_succeeds_recovers(server):
    run = run_through(watched(), FAILED)

    rerun_nodes(run, ["load"], user=None)
    end(take(), SUCCEEDED)
    tick()

    assert Incident.objects.get().recovered_by == run.pk


def test_a_run_that_succeeded_before_the_failure_recovers_nothing(server):
    version = watched()
    run_through(version, SUCCEEDED)
    run_through(version, FAILED)

    tick()

    assert Incident.objects.get().recovered_at is None


def test_debug_runs_and_jobs_alone_tell_nobody(server):
    version = watched()
    dev = workspace().queues.get(name="dev_queue")
    launch(version, cycles=[version.created_at], trigger=Trigger.DEBUG, by=None, queue=dev)
    root = workspace().queues.get(name="root_queue")
    manual = {"cycles": [version.created_at], "trigger": Trigger.MANUAL, "by": None}
    launch(job().published, queue=root, **manual)
    end(claim(dev.pk, ME, uuid4()), FAILED)
    end(take(), FAILED)

    tick()

    assert not Incident.objects.exists()
    assert server.got == []


def test_a_run_that_fails_without_a_failed_node_is_an_incident_too(server):
    version = watched(timeout_seconds=60)
    run = by_hand(version)
    mine = take()
    Run.objects.update(started_at=Now() - timedelta(seconds=61))
    sweep.tick()
    end(mine, Outcome(NodeState.CANCELLED, reason="cut off"))

    sweep.tick()
    tick()

    run.refresh_from_db()
    assert (run.state, run.failed) == ("failed", 0)
    assert subjects(server) == [(MAYA, "Failed: flow [default]")]


def test_what_the_engine_fails_is_told_by_the_sweep(server):
    by_hand(watched(queue_timeout_seconds=10))
    NodeRun.objects.update(queued_at=Now() - timedelta(seconds=11))

    sweep.tick()
    tick()

    assert "waited longer than 10 s" in said_by(server.got[0][1])


def test_a_word_that_comes_late_or_twice_changes_nothing(server):
    run = run_through(version := watched(), FAILED)

    note_failure(run.pk)
    note_failure(999_999)
    good = run_through(version, SUCCEEDED)
    note_failure(good.pk)
    incidents._recover(Incident.objects.get().pk)
    incidents._recover(Incident.objects.get().pk)
    tick()

    assert list(Incident.objects.values_list("runs", "recovered_by")) == [(1, good.pk)]
    assert len(server.got) == 2


def test_nothing_recovers_while_no_run_has_succeeded(server):
    run_through(watched(), FAILED)

    incidents._recover(Incident.objects.get().pk)

    assert Incident.objects.get().recovered_at is None


def test_a_line_that_is_not_near_the_end_of_the_log_has_no_number(server):
    run_through(watched(), replace(FAILED, log_tail="at last\n" * 20))
    tick()

    assert Incident.objects.get().log_line is None
    assert "?attempt=1\n" in said_by(server.got[0][1])


def test_who_is_told_no_more_hears_of_no_recovery_either(server):
    version = watched(addresses=[MAYA, LI])
    run_through(version, FAILED)
    tick()
    subscribe(version.workflow, [LI, "new@example.com"])
    run_through(version, SUCCEEDED)
    tick()

    assert [each for each, mail in server.got if "Recovered" in mail["Subject"]] == [LI]


def test_a_deleted_workflow_has_no_open_incident(server):
    version = watched()
    run_through(version, FAILED)
    delete_workflow(version.workflow)

    tick()

    incident = Incident.objects.get()
    assert (incident.recovered_at is not None, incident.recovered_by) == (True, None)
    assert len(server.got) == 1  # of its failure
    with pytest.raises(NotFound, match="'flow' was deleted"):
        subscribe(version.workflow, [LI])


# --- the outbox -----------------------------------------------------------------------------


def test_nothing_is_lost_while_the_server_is_down_and_it_is_sent_once_later(server):
    run_through(watched(addresses=[MAYA, LI]), FAILED)
    server.stop()

    tick()
    tried = Delivery.objects.get(tries=1)
    assert "does not answer" in tried.why
    assert Delivery.objects.filter(status="waiting").count() == 2
    assert tried.due_at > tried.tried_at + timedelta(seconds=29)
    server.start()
    make_due()
    tick()
    tick()

    assert sorted(address for address, _ in server.got) == [LI, MAYA]


def test_a_crash_between_send_and_mark_repeats_the_same_mail(server, monkeypatch):
    run_through(watched(), FAILED)

    def crash(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as broken:
        broken.setattr(outbox, "_end", crash)
        with pytest.raises(SystemExit):
            tick()
    tick()
    assert len(server.got) == 1  # its lease lasts
    make_due()
    tick()
    make_due()
    tick()

    (_, first), (_, second) = server.got
    assert first.as_bytes() == second.as_bytes()
    assert first["Message-ID"] == Delivery.objects.get().message_id


def test_one_refused_address_does_not_hold_up_the_others(server):
    server.answers = {MAYA: "550 no such user", LI: "451 later"}
    run_through(watched(addresses=[MAYA, LI, "ok@example.com"]), FAILED)

    tick()

    states = dict(Delivery.objects.values_list("address", "status"))
    assert states == {MAYA: "failed", LI: "waiting", "ok@example.com": "sent"}
    whys = dict(Delivery.objects.values_list("address", "why"))
    assert whys[MAYA] == "the mail server said 550 no such user"
    assert whys[LI] == "the mail server said 451 later"


def test_one_mail_that_cannot_be_made_does_not_hold_up_the_others(server, caplog):
    run_through(watched(addresses=[MAYA, LI]), FAILED)
    Delivery.objects.filter(address=MAYA).update(address="no address")

    tick()

    assert [address for address, _ in server.got] == [LI]
    assert Delivery.objects.get(address="no address").status == "waiting"
    assert "could not be sent" in caplog.text


@pytest.fixture
def lost():
    """A workspace whose zone this machine does not know any more."""
    row = workspace("lost")
    Workspace.objects.filter(pk=row.pk).update(zone="Europe/Nowhere")
    row.refresh_from_db()
    return row


def test_a_recovery_that_cannot_be_told_holds_up_neither_others_nor_mail(server, lost, caplog):
    for name in ("first", "second"):
        run_through(watched(name=name, uses={"load": job()}), FAILED)
    tick()
    Incident.objects.filter(name="first").update(workspace=lost)
    for version in WorkflowVersion.objects.order_by("pk"):
        run_through(version, SUCCEEDED)
    mail(LI)
    tick()

    assert sorted(subjects(server)[2:]) == [
        (LI, "Test message from Runyard [default]"),
        (MAYA, "Recovered: second [default]"),
    ]
    assert Incident.objects.get(recovered_at=None).name == "first"
    assert "the recovery of incident" in caplog.text

    Workspace.objects.filter(pk=lost.pk).update(zone="UTC")
    tick()
    assert subjects(server)[-1] == (MAYA, "Recovered: first [lost]")


def test_a_digest_or_a_silences_end_that_cannot_be_told_holds_up_no_other(server, lost, settings):
    settings.MAIL_PER_HOUR = 0
    for place in (lost, workspace()):
        post(place, letter_test(place.name, "m"), [MAYA], kind=Kind.OPENED, event=f"of {place.pk}")
    tick()
    settings.MAIL_PER_HOUR = 20
    Delivery.objects.update(held_at=F("held_at") - timedelta(minutes=6))
    for name in ("first", "second"):
        version = watched(name=name, uses={"load": job()})
        silence(version.workflow, minutes=60, reason="", user=None)
        run_through(version, FAILED)
    Incident.objects.filter(name="first").update(workspace=lost)
    Silence.objects.update(until=Now())
    tick()

    assert sorted(subjects(server)) == [
        (MAYA, "1 more notifications [default]"),
        (MAYA, "Still failing: second at load [default]"),
    ]


def test_a_database_that_is_away_is_no_message_that_cannot_be_told():
    with pytest.raises(OperationalError), alone("it"):
        raise OperationalError("the connection is lost")


def test_a_tick_does_not_wait_for_one_that_is_under_way(server):
    run_through(watched(), FAILED)

    with look._mails:
        tick()

    assert server.got == []


def test_what_could_not_be_sent_for_days_is_given_up(server):
    server.answers = {"": "451 later"}
    run_through(watched(), FAILED)
    Delivery.objects.update(created_at=Now() - timedelta(days=4))

    tick()

    mail = Delivery.objects.get()
    assert (mail.status, mail.why) == (
        "failed",
        "given up after 3 days: the mail server said 451 later",
    )


def test_without_a_mail_server_nothing_piles_up(server, settings):
    settings.SMTP_HOST = ""
    run_through(watched(), FAILED)
    tick()
    assert Delivery.objects.get().status == "unsent"

    settings.SMTP_HOST = "127.0.0.1"
    tick()

    assert server.got == []


def test_what_is_over_the_hours_limit_comes_in_one_digest(server, settings):
    settings.MAIL_PER_HOUR = 3
    for n in range(8):
        run_through(watched(name=f"flow_{n}", uses={"load": job()}), FAILED)

    tick()
    tick()
    assert len(server.got) == 3
    assert Delivery.objects.filter(status="held").count() == 5
    Delivery.objects.update(held_at=F("held_at") - timedelta(minutes=6))
    tick()
    tick()

    assert [subject for _, subject in subjects(server)] == [
        *(f"Failed: flow_{n} at load [default]" for n in range(3)),
        "5 more notifications [default]",
    ]
    text = said_by(server.got[-1][1])
    assert re.findall(r"^- (.*),", text, re.MULTILINE) == [
        f"Failed: flow_{n} at load" for n in range(3, 8)
    ]
    assert Delivery.objects.filter(status="digested", digest__kind="digest").count() == 5

    run_through(watched(name="late", uses={"load": job()}), FAILED)
    tick()
    Delivery.objects.update(held_at=F("held_at") - timedelta(minutes=6))
    tick()
    assert len(server.got) == 4  # one digest an hour


def test_no_workspace_and_no_test_message_uses_up_what_a_failure_may_send(server, settings):
    settings.MAIL_PER_HOUR = 2
    other = workspace("other")
    for place in (other, workspace()):
        for n in range(3):
            event = f"test {place.name} {n}"
            post(place, letter_test(place.name, "m"), [MAYA], kind=Kind.TEST, event=event)
    for n in range(3):
        letter = letter_test("other", "m")
        post(other, letter, [MAYA], kind=Kind.OPENED, event=f"incident {n} opened")
    run_through(watched(), FAILED)

    tick()

    sent = Delivery.objects.filter(status="sent").values_list("workspace__name", "kind")
    assert sorted(sent) == [
        ("default", "opened"),
        *[("default", "test")] * 2,
        *[("other", "opened")] * 2,
        *[("other", "test")] * 2,
    ]
    assert Delivery.objects.filter(status="held").count() == 3


def test_a_thousand_failures_at_once_are_the_limit_and_a_digest(server):
    letter = letter_test("default", "maya")
    for n in range(1000):
        post(workspace(), letter, [MAYA], kind=Kind.OPENED, event=f"incident {n} opened")

    tick()
    Delivery.objects.update(held_at=F("held_at") - timedelta(minutes=6))
    tick()
    tick()

    assert len(server.got) == 21
    assert server.got[-1][1]["Subject"] == "980 more notifications [default]"
    assert "and 880 more." in said_by(server.got[-1][1])


def test_two_who_deliver_at_once_send_each_mail_once(server):
    run_through(watched(addresses=[MAYA, LI]), FAILED)

    mine, other = outbox._claim(Q()), outbox._claim(Q())

    assert {mine.address, other.address} == {MAYA, LI}
    assert outbox._claim(Q()) is None
    assert deliver() == 0


def test_a_try_that_took_too_long_does_not_undo_the_next_one(server):
    run_through(watched(), FAILED)
    late = outbox._claim(Q())
    make_due()
    assert deliver() == 1

    outbox._try_again(late, "too late")

    assert Delivery.objects.get().status == "sent"


def test_what_is_over_for_long_is_forgotten(server, settings):
    run_through(version := watched(), FAILED)
    run_through(version, SUCCEEDED)
    tick()
    settings.RETENTION_DAYS = 0
    forget()
    settings.RETENTION_DAYS = 90
    forget()
    assert (Delivery.objects.count(), Incident.objects.count()) == (2, 1)
    Delivery.objects.update(created_at=Now() - timedelta(days=91))
    Incident.objects.update(recovered_at=Now() - timedelta(days=91))

    forget()

    assert (Delivery.objects.count(), Incident.objects.count()) == (0, 0)


# --- what a mail is made of -----------------------------------------------------------------


def test_a_name_cannot_make_a_header(server):
    letter = letter_test("default", "mallory")
    evil = type(letter)("Hi\r\nBcc: all@example.com\n\nbody", letter.text, letter.html)
    post(workspace(), evil, [MAYA], kind=Kind.TEST, event="test 1")

    message = message_of(Delivery.objects.get())

    assert message["Subject"] == "Hi Bcc: all@example.com body"
    assert message["Bcc"] is None
    assert message["To"] == MAYA


def test_the_link_to_the_rerun_opens_a_dialog_and_does_nothing(server):
    run = run_through(watched(), FAILED)
    client, link = member(Role.DATA_ENGINEERING), path_of_rerun("default", run.pk)

    dialog = client.get(link)

    assert (dialog.status_code, Run.objects.count()) == (200, 1)
    assert f"Rerun run {run.pk}" in dialog.content.decode()
    assert client.post(link, {"scope": "all"}).status_code in (303, 422)


def test_links_in_mails_are_the_consoles_addresses():
    incident = Incident(run_id=7, node_run_id=9, attempt=2, log_line=14)

    assert path_of_log("default", incident) == (
        reverse("runs:node", args=["default", 7, 9]) + "?attempt=2#L14"
    )
    assert path_of_rerun("default", 7) == reverse("runs:rerun", args=["default", 7])
    assert path_of_backfill("default", 5) == reverse("runs:backfill", args=["default", 5])
    assert path_of_schedule("default", 4) == reverse("workflows:schedule", args=["default", 4])
    assert path_of_incidents("default") == reverse("notifications:list", args=["default"])


@pytest.mark.parametrize(
    "wrong",
    [
        "maya",
        "maya@",
        "maya@example",
        "Maya <maya@example.com>",
        '"a b"@example.com',
        "maya@example.com\r\nBcc:x@example.com",
        f"{'m' * 65}@example.com",
        "mäya@example.com",
    ],
)
def test_what_is_no_address_is_refused(wrong):
    version = published("load")

    with pytest.raises(Invalid, match=r"is no e-mail address; write it as name@example\.com"):
        subscribe(version.workflow, [wrong])
    assert addresses_of(version.workflow) == []


def test_addresses_are_kept_once_and_not_too_many():
    assert read_addresses("maya@example.com, LI@example.com\nMaya@Example.com") == [
        "maya@example.com",
        "LI@example.com",
    ]
    assert read_addresses("  ") == []
    with pytest.raises(Invalid, match="21 addresses; 20 are allowed"):
        read_addresses(" ".join(f"a{n}@example.com" for n in range(MAX_ADDRESSES + 1)))


def test_an_incident_is_acknowledged_once_and_while_it_is_open(server):
    run_through(version := watched(), FAILED)
    incident = Incident.objects.get()

    acknowledge(incident, user=user("maya"))
    acknowledge(incident, user=user("li"))

    incident.refresh_from_db()
    assert incident.acknowledged_by.username == "maya"
    run_through(version, SUCCEEDED)
    tick()
    with pytest.raises(Conflict, match="flow has recovered"):
        acknowledge(incident, user=user("li"))


def test_a_real_worker_tells_of_its_node_as_it_fails(start, server):
    run = by_hand(watched(content="echo one; echo 'Error: no such table' >&2; exit 3"))
    start(
        smtp_host="127.0.0.1",
        smtp_port=server.port,
        smtp_security="none",
        mail_from="runyard@example.org",
    )

    until(lambda: server.got, "the mail, without a beat", seconds=60)

    incident = Incident.objects.get()
    assert (incident.run_id, incident.reason, incident.error_line, incident.log_line) == (
        run.pk,
        "exit code 3",
        "Error: no such table",
        2,
    )
    assert subjects(server) == [(MAYA, "Failed: flow at load [default]")]


def test_a_workflow_that_tells_nobody_is_an_incident_all_the_same(server):
    run_through(watched(addresses=[]), FAILED)

    tick()

    assert (Incident.objects.get().runs, Delivery.objects.count()) == (1, 0)


@pytest.mark.django_db(transaction=True)
def test_runs_that_fail_at_once_are_one_incident_and_each_is_counted_once(server):
    version = watched()
    runs = [by_hand(version) for _ in range(6)]
    # Runs of one moment have cycles of their own, so that none waits for another.
    while (mine := take()) is not None:
        finish(mine, FAILED, worker=ME, request=uuid4(), take=False)

    def note(run: Run) -> None:
        try:
            note_failure(run.pk)
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(note, [*runs, *runs]))
    tick()

    assert list(Incident.objects.values_list("runs", flat=True)) == [6]
    assert len(server.got) == 1


@pytest.mark.django_db(transaction=True)
def test_no_two_who_deliver_at_once_go_over_the_limit(server, settings):
    settings.MAIL_PER_HOUR = 5
    letter = letter_test("default", "maya")
    for n in range(40):
        post(workspace(), letter, [MAYA], kind=Kind.OPENED, event=f"incident {n} opened")

    def work(_: int) -> int:
        try:
            return deliver()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        sent = sum(pool.map(work, range(4)))

    assert (sent, len(server.got)) == (5, 5)
    assert len({mail["Message-ID"] for _, mail in server.got}) == 5
    assert Delivery.objects.filter(status="held").count() == 35
