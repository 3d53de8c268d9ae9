"""Silence: nobody is told of a workflow for a while, and what still fails is told once after."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from apps.core.errors import Invalid, NotFound
from apps.engine.roles import Role
from apps.notifications.letters import letter_test
from apps.notifications.models import Delivery, Incident, Kind, Silence, Tells
from apps.notifications.services.incidents import _end_silence
from apps.notifications.services.nodes import subscribe_node
from apps.notifications.services.outbox import post
from apps.notifications.services.silences import MOST_MINUTES, silence, standing_of, unsilence
from apps.notifications.services.tick import forget, tick
from apps.workflows.services.drafting import delete_workflow
from tests.api import program
from tests.factories import incident, job, published, workspace
from tests.html import errors, rows
from tests.notifications.test_notifications import (
    FAILED,
    MAYA,
    SUCCEEDED,
    run_through,
    said_by,
    subjects,
    watched,
)
from tests.people import member, user
from tests.waiting import until

pytestmark = pytest.mark.django_db


def silenced(version, minutes: int = 60, reason: str = "the warehouse is down") -> Silence:
    return silence(version.workflow, minutes=minutes, reason=reason, user=user("maya"))


def let_end() -> None:
    """Let the hour of the silence be over, with all that fell into it."""
    Silence.objects.filter(ended_at=None).update(until=Now())


def test_nobody_is_told_meanwhile_and_what_still_fails_is_told_once_after(server):
    version = watched()
    silenced(version)
    run_through(version, FAILED)
    again = run_through(version, FAILED)
    tick()
    assert server.got == []
    assert (Incident.objects.get().runs, Silence.objects.get().silenced) == (2, 1)
    assert Delivery.objects.get().status == "silenced"
    let_end()

    tick()
    tick()

    assert subjects(server) == [(MAYA, "Still failing: flow at load [default]")]
    text = said_by(server.got[0][1])
    assert "flow still fails at load." in text
    assert "by maya: the warehouse is down. That is over. 1 message went to nobody." in text
    assert "2 runs failed since it began" in text
    assert f"/runs/{again.pk}/" not in text

    run_through(version, SUCCEEDED)
    tick()
    recovered = server.got[1][1]
    assert recovered["Subject"] == "Recovered: flow [default]"
    assert recovered["In-Reply-To"] == server.got[0][1]["Message-ID"]


def test_what_failed_and_recovered_in_a_silence_is_told_to_nobody(server):
    version, told = watched(), watched(name="told", uses={"load": job()})
    run_through(told, FAILED)
    tick()
    for each in (version, told):
        silenced(each)
    run_through(version, FAILED)
    for each in (version, told):
        run_through(each, SUCCEEDED)
    tick()
    let_end()
    tick()

    assert subjects(server) == [(MAYA, "Failed: told at load [default]")]
    assert list(Delivery.objects.order_by("pk").values_list("kind", "status")) == [
        ("opened", "sent"),
        ("opened", "silenced"),
        ("recovered", "silenced"),  # of the one that was told
    ]
    assert list(Silence.objects.values_list("silenced", flat=True)) == [1, 1]


def test_what_a_node_does_is_silenced_with_its_workflow_and_counted_once(server):
    version = watched(addresses=[])
    subscribe_node(version.workflow, "load", [MAYA], [Tells.FAILED])
    silenced(version)
    run_through(version, FAILED)

    tick()
    tick()  # it reads the last minutes once more

    assert server.got == []
    told = Delivery.objects.get()
    assert (told.kind, told.status) == ("node", "silenced")
    assert Silence.objects.get().silenced == 1
    letter = letter_test("default", "maya")
    flow = version.workflow_id
    post(workspace(), letter, [MAYA], kind=Kind.NODE, event=told.event, workflow_id=flow)
    assert Silence.objects.get().silenced == 1


@pytest.mark.django_db(transaction=True)
def test_two_who_tell_the_same_at_once_count_it_once():
    version = watched()
    silenced(version)
    letter = letter_test("default", "maya")

    def tell() -> None:
        with closing(connection), transaction.atomic():
            flow = version.workflow_id
            post(workspace(), letter, [MAYA], kind=Kind.LATE, event="late", workflow_id=flow)

    def is_waiting() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
            return cursor.fetchone()[0]

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            flow = version.workflow_id
            post(workspace(), letter, [MAYA], kind=Kind.LATE, event="late", workflow_id=flow)
            other = pool.submit(tell)
            until(is_waiting)
        other.result()

    assert (Delivery.objects.count(), Silence.objects.get().silenced) == (1, 1)


def test_who_heard_of_no_failure_hears_of_no_recovery(server):
    version = watched()
    silenced(version)
    run_through(version, FAILED)
    unsilence(version.workflow, user=user("maya"))
    run_through(version, SUCCEEDED)

    tick()

    assert server.got == []


def test_a_failure_that_was_told_is_told_again_only_if_it_failed_in_the_silence(server):
    version = watched()
    run_through(version, FAILED)
    tick()
    silenced(version)
    let_end()
    tick()
    assert len(server.got) == 1  # nothing new

    silenced(version)
    run_through(version, FAILED)
    let_end()
    tick()

    first, second = (mail for _, mail in server.got)
    assert second["Subject"] == "Still failing: flow at load [default]"
    assert second["In-Reply-To"] == first["Message-ID"]


def test_a_silence_is_of_one_workflow_and_ends_by_itself(server):
    version = watched()
    silenced(version)
    let_end()
    run_through(version, FAILED)
    other = watched(name="other", uses={"load": job()})
    run_through(other, FAILED)

    tick()
    tick()

    assert sorted(subject for _, subject in subjects(server)) == [
        "Failed: flow at load [default]",
        "Failed: other at load [default]",
    ]
    assert Silence.objects.get().ended_at is not None


def test_a_silence_is_made_longer_and_ended_before_its_time(server):
    version = watched()
    first = silenced(version)
    Silence.objects.update(created_at=F("created_at") - timedelta(hours=1), silenced=3)
    second = silence(version.workflow, minutes=120, reason="", user=user("li"))
    assert (second.pk, second.silenced, second.created_by.username) == (first.pk, 3, "li")
    run_through(version, FAILED)

    assert unsilence(version.workflow, user=user("maya")) is True
    assert unsilence(version.workflow, user=user("maya")) is False
    tick()

    assert [subject for _, subject in subjects(server)] == ["Still failing: flow at load [default]"]
    assert Silence.objects.get().ended_by.username == "maya"
    _end_silence(first.pk, version.workflow_id)  # somebody else was first
    assert not standing_of(version.workflow_id).exists()


def test_a_silence_that_is_over_for_long_is_forgotten():
    version = published("load")
    silenced(version)
    unsilence(version.workflow, user=None)
    tick()
    silenced(version)
    Silence.objects.exclude(ended_at=None).update(ended_at=Now() - timedelta(days=91))

    forget()

    assert Silence.objects.get().ended_at is None


def test_a_deleted_workflow_is_silent_for_good(server):
    version = watched()
    silenced(version)
    run_through(version, FAILED)
    delete_workflow(version.workflow)
    let_end()

    _end_silence(Silence.objects.get().pk, version.workflow_id)
    tick()

    assert server.got == []
    with pytest.raises(NotFound, match="'flow' was deleted"):
        silenced(version)


@pytest.mark.parametrize("minutes", [0, -1, MOST_MINUTES + 1])
def test_a_silence_has_an_end_that_somebody_remembers(minutes):
    version = published("load")

    with pytest.raises(Invalid, match="silence it for 1 to 43,200 minutes"):
        silenced(version, minutes)
    with pytest.raises(Invalid, match="more than 200 characters"):
        silenced(version, reason="x" * 201)
    assert silenced(version, reason=" a\nb\0 ").reason == "a b"


def test_an_incident_is_silenced_on_the_page():
    row = incident(published("load").workflow)
    here, url = "/w/default/notifications/", f"/w/default/workflows/{row.workflow_id}/silence/"
    client = member(Role.DATA_ENGINEERING)

    assert "Nobody is told of its failures" in client.get(url).content.decode()
    assert client.post(url, {"minutes": "240", "reason": "moving"})["Location"] == here
    Silence.objects.update(silenced=2)
    assert "silenced until" in rows(client.get(here).content.decode())[0][1]
    assert "2 messages went to nobody so far" in client.get(url).content.decode()
    refused = client.post(url, {"minutes": "7"})
    assert (refused.status_code, len(errors(refused.content.decode()))) == (422, 1)
    done = client.post(f"{url.replace('silence', 'unsilence')}?from=settings")
    assert done["Location"] == f"/w/default/workflows/{row.workflow_id}/settings/"
    assert "silenced until" not in client.get(here).content.decode()
    assert member(Role.DATA_SCIENCE).post(url, {"minutes": "60"}).status_code == 403


def test_rest_silences_a_workflow_and_ends_it():
    flow = published("load").workflow
    caller, here = program(Role.DATA_ENGINEERING), f"workflows/{flow.pk}/silence"
    nothing = {"until": None, "by": None, "reason": "", "since": None, "silenced": 0}

    assert caller.get(here).json() == nothing
    made = caller.put(here, {"minutes": 30, "reason": "moving"}).json()
    assert (made["by"], made["reason"]) == (Role.DATA_ENGINEERING, "moving")
    assert caller.get(here).json() == made
    assert caller.put(here, {"minutes": 0}).status_code == 422
    assert caller.delete(here).status_code == 204
    assert caller.delete(here).status_code == 204
    assert caller.get(here).json() == nothing
