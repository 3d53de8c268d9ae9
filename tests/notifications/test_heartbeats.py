"""The heartbeat: a URL is called each minute while the engine lives, and holds nothing up."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models import F
from django.utils import timezone

from apps.core.errors import Invalid
from apps.engine.roles import Role
from apps.notifications.models import Heartbeat
from apps.notifications.services import heartbeats
from apps.notifications.services.heartbeats import ring, set_heartbeat
from apps.notifications.tasks import heartbeat as task
from apps.runs.models import Pulse
from apps.runs.services.sweep import stamp_pulse
from tests.api import program
from tests.factories import workspace
from tests.html import errors
from tests.people import member
from tests.waiting import until

pytestmark = pytest.mark.django_db

PAGE = "/w/default/notifications/channels/"


def a_minute_passes() -> None:
    Heartbeat.objects.update(rung_at=F("rung_at") - timedelta(minutes=1))
    stamp_pulse()


@pytest.fixture(autouse=True)
def alive() -> None:
    stamp_pulse()


def test_it_is_called_once_a_minute(receiver):
    set_heartbeat(workspace(), f"{receiver.url}/ping/canary", user=None)

    assert [ring(), ring(), ring()] == [1, 0, 0]
    a_minute_passes()
    assert ring() == 1

    assert [got.path for got in receiver.got] == ["/ping/canary"] * 2
    row = Heartbeat.objects.get()
    assert (row.address, row.why) == (f"{receiver.url}/…", "")
    assert row.answered_at is not None
    assert b"canary" not in bytes(row.sealed_url)


def test_without_one_a_look_is_one_statement(django_assert_num_queries):
    with django_assert_num_queries(1):
        assert ring() == 0


def test_it_stops_where_nobody_looks_around(receiver):
    set_heartbeat(workspace(), receiver.url, user=None)
    Pulse.objects.update(at=F("at") - timedelta(seconds=11))

    assert ring() == 0
    assert receiver.got == []

    stamp_pulse()
    heartbeats.look()
    assert len(receiver.got) == 1


def test_one_that_fails_is_shown_and_is_called_again(receiver, caplog):
    receiver.answers["/"] = (404, {})
    set_heartbeat(workspace(), receiver.url, user=None)
    ring()
    a_minute_passes()
    ring()

    assert Heartbeat.objects.get().why == "it answered 404 Not Found"
    assert caplog.text.count("fails: it answered 404 Not Found") == 1
    html = member(Role.GUEST).get(PAGE).content.decode()
    assert "it answered 404 Not Found" in html
    receiver.answers.clear()
    a_minute_passes()
    ring()
    assert Heartbeat.objects.get().why == ""
    assert "it answered" not in member().get(PAGE).content.decode()


def test_it_goes_nowhere_that_a_webhook_may_not(receiver, inner, settings):
    settings.INTERNAL_RECEIVERS = type(settings.INTERNAL_RECEIVERS)()
    set_heartbeat(workspace(), f"http://localhost:{inner.port}/", user=None)

    ring()

    assert inner.got == []
    assert "localhost is not on the public internet" in Heartbeat.objects.get().why
    with pytest.raises(Invalid, match="not on the public internet"):
        set_heartbeat(workspace(), f"{inner.url}/", user=None)


def test_one_that_does_not_answer_is_let_go_of_soon(receiver, monkeypatch):
    monkeypatch.setattr(heartbeats, "SECONDS", 0.3)
    receiver.is_silent.set()
    set_heartbeat(workspace(), receiver.url, user=None)
    begun = timezone.now()

    ring()

    assert timezone.now() - begun < timedelta(seconds=3)
    assert "it took longer than 0.3 s" in Heartbeat.objects.get().why


def test_what_was_replaced_meanwhile_is_not_overwritten(receiver, monkeypatch):
    set_heartbeat(workspace(), receiver.url, user=None)
    real = heartbeats.call

    def slow(*args: object, **kwargs: object) -> object:
        set_heartbeat(workspace(), f"{receiver.url}/new", user=None)
        return real(*args, **kwargs)

    monkeypatch.setattr(heartbeats, "call", slow)
    ring()

    row = Heartbeat.objects.get()
    assert (row.rung_at, row.answered_at) == (None, None)


def test_it_was_deleted_or_another_process_was_first(receiver):
    row = set_heartbeat(workspace(), receiver.url, user=None)

    with heartbeats._under_way:
        assert ring() == 0
    assert heartbeats._ring(row.pk) == 1
    assert heartbeats._ring(row.pk) == 0
    row.delete()
    assert heartbeats._ring(workspace().pk) == 0


def test_a_worker_alone_calls_it_without_a_beat(start, receiver):
    set_heartbeat(workspace(), receiver.url, user=None)
    Pulse.objects.all().delete()
    start(internal_receivers="127.0.0.2")

    until(lambda: receiver.got, "the call of a worker that ticks by itself", seconds=50)


@pytest.mark.django_db(transaction=True)
def test_many_are_called_side_by_side(receiver):
    for n in range(5):
        set_heartbeat(workspace(f"w{n}"), f"{receiver.url}/{n}", user=None)

    task()

    assert sorted(got.path for got in receiver.got) == [f"/{n}" for n in range(5)]


def test_it_is_set_and_removed_on_the_page(receiver):
    client, url = member(Role.OWNER), "/w/default/notifications/heartbeat/"

    refused = client.post(url, {"url": "http://10.0.0.1/"})
    assert errors(refused.content.decode())[0].startswith("10.0.0.1 is not on the public internet")
    assert client.post(url, {"url": f"{receiver.url}/canary"})["Location"] == PAGE
    html = client.get(PAGE).content.decode() + client.get(url).content.decode()
    assert f"{receiver.url}/…" in html
    assert "canary" not in html
    assert client.post(f"{url}delete/").status_code == 303
    assert "None is set" in client.get(PAGE).content.decode()
    assert member(Role.DATA_ENGINEERING).post(url, {"url": receiver.url}).status_code == 403


def test_rest_sets_it_and_gives_it_not_back(receiver):
    owner = program(Role.OWNER)

    assert owner.get("heartbeat").json()["address"] is None
    made = owner.put("heartbeat", {"url": f"{receiver.url}/canary"})
    assert made.json()["address"] == f"{receiver.url}/…"
    ring()
    shown = owner.get("heartbeat")
    assert shown.json()["answered_at"] is not None
    assert b"canary" not in made.content + shown.content
    assert owner.put("heartbeat", {"url": "x"}).status_code == 422
    assert owner.delete("heartbeat").status_code == 204
    assert owner.get("heartbeat").json()["address"] is None
