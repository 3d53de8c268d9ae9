"""Channels: a webhook and a service of apprise are told as an address is, by the same outbox."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date, timedelta
from urllib.parse import unquote, unquote_plus

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from apps.core.errors import Conflict, Invalid
from apps.engine.roles import Role
from apps.notifications import apprise_url
from apps.notifications.letters import letter_test
from apps.notifications.models import Channel, Delivery, Kind, Tells
from apps.notifications.services import outbox
from apps.notifications.services.channels import (
    MAX_CHANNELS,
    delete_channel,
    expand,
    set_channel,
)
from apps.notifications.services.nodes import subscribe_node
from apps.notifications.services.outbox import post
from apps.notifications.services.rules import change_rule, make_rule, read_match, remove_rule
from apps.notifications.services.subscriptions import addresses_of, subscribe
from apps.notifications.services.tick import tick
from apps.runs.services.backfill import Asked, cancel_backfill, create_backfill
from apps.workflows.models import Workflow
from apps.workflows.services.drafting import delete_workflow
from apps.workspaces.secrets import seal
from tests.api import program
from tests.factories import channel, job, published, workspace
from tests.html import errors, rows
from tests.notifications.test_notifications import (
    FAILED,
    LI,
    MAYA,
    SUCCEEDED,
    make_due,
    run_through,
    subjects,
    watched,
)
from tests.people import member
from tests.waiting import until

pytestmark = pytest.mark.django_db

SECRET = "whsec_" + base64.b64encode(b"0123456789" * 3).decode()


def webhook(url: str, name: str = "ops", **kwargs: object) -> Channel:
    return set_channel(
        workspace(), name, kind="webhook", url=url, secret=SECRET, user=None, **kwargs
    )


def is_signed(got, secret: bytes = b"0123456789" * 3) -> bool:
    """As a receiver checks it, by the words of the standard alone."""
    signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return got.headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


# --- webhooks -------------------------------------------------------------------------------


def test_a_webhook_is_told_of_the_failure_and_of_the_recovery(receiver):
    webhook(f"{receiver.url}/hook?token=abc")
    version = watched(addresses=["channel:ops"])

    run = run_through(version, FAILED)
    tick()
    tick()
    good = run_through(version, SUCCEEDED)
    tick()

    opened, recovered = receiver.got
    assert (opened.path, opened.headers["Content-Type"]) == (
        "/hook?token=abc",
        "application/json",
    )
    assert (is_signed(opened), is_signed(recovered)) == (True, True)
    assert not is_signed(opened, b"another")
    told = opened.told
    assert (told["type"], told["workspace"], told["subject"]) == (
        "opened",
        "default",
        "Failed: flow at load [default]",
    )
    node, facts = run.nodes.get(), told["data"]
    assert (facts["run"], facts["node"], facts["attempt"], facts["error_line"]) == (
        run.pk,
        "load",
        1,
        "KeyError: 'carrier'",
    )
    assert facts["links"]["log"] == (
        f"https://runyard.example.org/w/default/runs/{run.pk}/nodes/{node.pk}/?attempt=1#L11"
    )
    assert told["id"] == opened.headers["webhook-id"] != recovered.headers["webhook-id"]
    assert (recovered.told["type"], recovered.told["data"]["recovered_by"]) == (
        "recovered",
        good.pk,
    )


def test_a_channel_needs_no_mail_server(receiver, settings):
    settings.SMTP_HOST = ""
    webhook(receiver.url)
    run_through(watched(addresses=[MAYA, "channel:ops"]), FAILED)

    tick()

    assert dict(Delivery.objects.values_list("address", "status")) == {
        MAYA: "unsent",
        "channel:ops": "sent",
    }


@pytest.mark.parametrize(
    ("status", "becomes", "why"),
    [
        (204, "sent", ""),
        (500, "waiting", "the receiver answered 500 Internal Server Error"),
        (429, "waiting", "the receiver answered 429 Too Many Requests"),
        (404, "failed", "the receiver answered 404 Not Found"),
        (410, "failed", "the receiver answered 410 Gone"),
        (
            302,
            "failed",
            "the receiver answered 302 Found; redirects are not followed, give the channel the "
            "final URL",
        ),
    ],
)
def test_the_answer_decides_what_becomes_of_it(receiver, inner, status, becomes, why):
    receiver.answers["/"] = (status, {"Location": inner.url})
    webhook(receiver.url)
    run_through(watched(addresses=["channel:ops"]), FAILED)

    tick()

    told = Delivery.objects.get()
    assert (told.status, told.why) == (becomes, why)
    assert inner.got == []


def test_a_webhook_that_leads_inside_is_given_up_unasked(receiver, inner, settings):
    settings.INTERNAL_RECEIVERS = type(settings.INTERNAL_RECEIVERS)(names=("localhost",))
    webhook(f"http://localhost:{inner.port}/")
    settings.INTERNAL_RECEIVERS = type(settings.INTERNAL_RECEIVERS)()
    run_through(watched(addresses=["channel:ops"]), FAILED)

    tick()

    assert inner.got == []
    told = Delivery.objects.get()
    assert (told.status, told.why) == (
        "failed",
        "localhost is not on the public internet; messages go there only where "
        "RUNYARD_INTERNAL_RECEIVERS names it",
    )


def test_a_receiver_that_is_down_gets_it_later_and_once(receiver):
    receiver.answers["/"] = (503, {})
    webhook(receiver.url)
    run_through(watched(addresses=["channel:ops"]), FAILED)
    tick()
    tick()
    assert len(receiver.got) == 1  # it waits
    receiver.answers.clear()
    make_due()

    tick()
    tick()

    first, second = receiver.got
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert (Delivery.objects.get().status, is_signed(second)) == ("sent", True)


def test_a_crash_between_send_and_mark_repeats_the_same_message(receiver, monkeypatch):
    webhook(receiver.url)
    run_through(watched(addresses=["channel:ops"]), FAILED)

    def crash(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as broken:
        broken.setattr(outbox, "_end", crash)
        with pytest.raises(SystemExit):
            tick()
    tick()
    assert len(receiver.got) == 1  # its lease lasts
    make_due()
    tick()
    make_due()
    tick()

    first, second = receiver.got
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])


@pytest.mark.django_db(transaction=True)
def test_one_receiver_that_is_down_holds_up_neither_mail_nor_the_others(receiver, server):
    receiver.answers["/down"] = (500, {})
    webhook(f"{receiver.url}/down", "down")
    for name in ("a", "b", "c"):
        webhook(f"{receiver.url}/{name}", name)
    letter = letter_test("default", "maya")
    for n in range(3):
        everyone = [MAYA, *(f"channel:{name}" for name in ("down", "a", "b", "c"))]
        post(workspace(), letter, everyone, kind=Kind.OPENED, event=f"incident {n} opened")

    tick()

    assert sorted(got.path for got in receiver.got) == [
        *(f"/{name}" for name in "aaabbbccc"),
        "/down",  # one try says enough
    ]
    assert len(server.got) == 3


def test_what_is_over_the_hours_limit_comes_in_one_digest_too(receiver, settings):
    settings.MAIL_PER_HOUR = 2
    webhook(receiver.url)
    for n in range(5):
        run_through(
            watched(name=f"flow_{n}", uses={"load": job()}, addresses=["channel:ops"]), FAILED
        )
    tick()
    assert len(receiver.got) == 2
    Delivery.objects.update(held_at=F("held_at") - timedelta(minutes=6))

    tick()
    tick()

    assert [got.told["type"] for got in receiver.got] == ["opened", "opened", "digest"]
    digest = receiver.got[-1].told
    assert digest["subject"] == "3 more notifications [default]"
    assert (digest["data"]["count"], len(digest["data"]["told"])) == (3, 3)


def test_a_digest_of_a_channel_that_is_another_now_goes_to_nobody(receiver, server, settings):
    settings.MAIL_PER_HOUR = 1
    webhook(receiver.url)
    letter = letter_test("default", "maya")
    for n in range(2):
        post(workspace(), letter, ["channel:ops"], kind=Kind.OPENED, event=f"incident {n} opened")
    tick()
    Delivery.objects.update(held_at=F("held_at") - timedelta(minutes=6))
    set_channel(workspace(), "ops", kind="mail", addresses=MAYA, user=None)

    tick()

    assert (len(receiver.got), server.got) == (1, [])
    digest = Delivery.objects.get(kind="digest")
    assert (digest.status, "no channel 'ops' any more" in digest.why) == ("failed", True)
    assert Delivery.objects.filter(status="digested", digest=digest).count() == 1


def test_the_limit_of_a_channel_is_its_workspaces_own(receiver, settings):
    settings.MAIL_PER_HOUR = 1
    other = workspace("other")
    letter = letter_test("default", "maya")
    for place in (workspace(), other):
        set_channel(place, "ops", kind="webhook", url=receiver.url, secret=SECRET, user=None)
        post(place, letter, ["channel:ops"], kind=Kind.TEST, event=f"test {place.pk}")

    tick()

    assert sorted(got.told["workspace"] for got in receiver.got) == ["default", "other"]


def test_what_is_kept_of_a_channel_gives_nothing_away(receiver, settings):
    row = webhook(f"{receiver.url}/services/T0/canary-4711")

    assert row.address == f"{receiver.url}/…"
    kept = json.dumps(list(Channel.objects.values()), default=str)
    assert "canary" not in kept
    assert SECRET not in kept
    run_through(watched(addresses=["channel:ops"]), FAILED)
    with settings_of(settings, SECRETS_KEY="another key"):
        tick()
    told = Delivery.objects.get()
    assert (told.status, "was set with another key" in told.why) == ("waiting", True)
    make_due()
    tick()
    assert [got.path for got in receiver.got] == ["/services/T0/canary-4711"]


def test_a_message_that_cannot_be_made_waits_and_is_logged(receiver, caplog):
    row = webhook(receiver.url)
    broken = seal(workspace().pk, "channel ops/secret", "whsec_a")
    Channel.objects.filter(pk=row.pk).update(sealed_secret=broken)
    run_through(watched(addresses=["channel:ops"]), FAILED)

    tick()

    told = Delivery.objects.get()
    assert (told.status, told.why[:7], "could not be sent" in caplog.text) == (
        "waiting",
        "Error: ",
        True,
    )


class settings_of:
    """Settings for a while."""

    def __init__(self, settings, **values: object) -> None:
        self._settings, self._values = settings, values

    def __enter__(self) -> None:
        self._before = {name: getattr(self._settings, name) for name in self._values}
        self._set(self._values)

    def __exit__(self, *_: object) -> None:
        self._set(self._before)

    def _set(self, values: dict[str, object]) -> None:
        for name, value in values.items():
            setattr(self._settings, name, value)


# --- apprise --------------------------------------------------------------------------------


def test_a_service_of_apprise_is_told(receiver):
    port = receiver.port
    row = set_channel(
        workspace(), "chat", kind="apprise", url=f"json://127.0.0.2:{port}/canary", user=None
    )
    run_through(watched(addresses=["channel:chat"]), FAILED)

    tick()

    assert row.address == "JSON, json://…"
    [got] = receiver.got
    assert (got.path, got.told["title"], got.told["type"]) == (
        "/canary",
        "Failed: flow at load [default]",
        "failure",
    )
    assert "KeyError: 'carrier'" in got.told["message"]
    assert "One mail for this failure" not in got.told["message"]


def test_apprise_goes_nowhere_that_a_webhook_may_not(receiver, inner):
    receiver.answers["/away"] = (302, {"Location": f"{inner.url}/"})
    receiver.answers["/no"] = (403, {})
    for name, url in {
        "inside": f"json://localhost:{inner.port}/canary-4711",
        "away": f"json://127.0.0.2:{receiver.port}/away",
        "no": f"json://127.0.0.2:{receiver.port}/no",
    }.items():
        set_channel(workspace(), name, kind="apprise", url=url, user=None)
        post(
            workspace(),
            letter_test("default", "maya"),
            [f"channel:{name}"],
            kind=Kind.TEST,
            event=name,
        )
        tick()

    assert inner.got == []
    states = {each.event: (each.status, each.why) for each in Delivery.objects.all()}
    assert states["inside"] == (
        "failed",
        "localhost is not on the public internet; messages go there only where "
        "RUNYARD_INTERNAL_RECEIVERS names it",
    )
    assert states["away"][0] == "waiting"
    assert (states["no"][0], "error=403" in states["no"][1]) == ("failed", True)


@pytest.mark.parametrize(
    "url",
    [
        "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js/?template=/etc/passwd",
        "syslog://",
        "dbus://",
        "nonsense://a/b",
        "json://a b",
        "nonsense",
        "",
        "json://example.com/" + "a" * 2000,
    ],
)
def test_what_apprise_may_not_do_or_does_not_know_is_refused(url):
    with pytest.raises(Invalid) as caught:
        set_channel(workspace(), "chat", kind="apprise", url=url, user=None)

    [fault] = caught.value.faults
    assert fault.field == "url"
    assert not Channel.objects.exists()


# --- who is meant ---------------------------------------------------------------------------


def test_a_channel_of_addresses_is_these_and_each_is_told_once(server):
    set_channel(workspace(), "team", kind="mail", addresses=f"{LI}, {MAYA}", user=None)
    run_through(watched(addresses=["Channel:TEAM", MAYA.upper()]), FAILED)

    tick()

    assert sorted(address for address, _ in subjects(server)) == [LI, MAYA]


def test_the_default_channel_is_told_of_workflows_that_name_nobody(receiver):
    webhook(f"{receiver.url}/first", "first", is_default=True)
    webhook(f"{receiver.url}/default", is_default=True)
    version = watched(addresses=[])
    run_through(version, FAILED)
    run_through(version, SUCCEEDED)
    run_through(watched(name="named", uses={"load": job()}, addresses=[MAYA]), FAILED)

    tick()
    tick()

    assert [(got.path, got.told["type"]) for got in receiver.got] == [
        ("/default", "opened"),
        ("/default", "recovered"),
    ]
    assert list(Channel.objects.filter(is_default=True).values_list("name", flat=True)) == ["ops"]


def test_a_rule_names_channels_as_a_workflow_does(receiver, server):
    webhook(receiver.url)
    set_channel(workspace(), "team", kind="mail", addresses=LI, user=None)
    set_channel(workspace(), "rest", kind="mail", addresses=MAYA, is_default=True, user=None)
    told = make_rule(workspace(), read_match(), ["channel:ops", "channel:team"], user=None)
    run_through(watched(addresses=[]), FAILED)

    tick()

    assert (len(receiver.got), sorted(address for address, _ in server.got)) == (1, [LI, MAYA])
    with pytest.raises(Invalid, match="there is no channel 'none' here"):
        make_rule(workspace(), read_match(), ["channel:none"], user=None)
    with pytest.raises(Invalid, match="there is no channel 'none' here"):
        change_rule(told, read_match(), ["channel:none"], user=None)
    with pytest.raises(Conflict, match="a rule tells channel ops"):
        delete_channel(Channel.objects.get(name="ops"))
    remove_rule(told)
    flow = published("load", name="other", uses={"load": job()}).workflow
    subscribe_node(flow, "load", ["channel:ops"], [Tells.FAILED])
    with pytest.raises(Conflict, match="node load of other tells channel ops"):
        delete_channel(Channel.objects.get(name="ops"))


def test_a_workflow_names_no_channel_that_there_is_none_of(receiver):
    version = published("load")
    set_channel(workspace("other"), "theirs", kind="mail", addresses=LI, user=None)

    with pytest.raises(Invalid, match="there is no channel 'theirs' here"):
        subscribe(version.workflow, ["channel:theirs"])
    with pytest.raises(Invalid, match="is no name of a channel"):
        subscribe(version.workflow, ["channel:a b"])
    assert addresses_of(version.workflow) == []
    assert expand(workspace().pk, []) == []


def test_a_channel_that_is_named_is_not_deleted(receiver):
    row = webhook(receiver.url)
    versions = [
        watched(name=f"flow_{n}", uses={"load": job()}, addresses=["channel:ops"]) for n in range(4)
    ]
    flows = [version.workflow for version in versions]
    run_through(versions[0], FAILED)

    with pytest.raises(Conflict, match="of flow_0, flow_1, flow_2 and more; name another"):
        delete_channel(row)
    for flow in flows[1:]:
        delete_workflow(flow)
    with pytest.raises(Conflict, match="of flow_0; name another"):
        delete_channel(row)
    subscribe(flows[0], [])
    delete_channel(row)
    tick()

    told = Delivery.objects.get()
    assert (told.status, told.why) == (
        "failed",
        "there is no channel 'ops' any more that this could go to",
    )


@pytest.mark.django_db(transaction=True)
def test_a_channel_that_a_backfill_tells_is_not_deleted_before_its_end(receiver):
    row = webhook(receiver.url)
    schedule = {"kind": "days", "time": "02:00", "started_at": "2026-01-01T00:00:00Z"}
    flow = published("load", schedule=schedule).workflow
    asked = Asked(first_date=date(2026, 3, 1), last_date=date(2026, 3, 2))
    flow = Workflow.objects.select_related("workspace", "published").get(pk=flow.pk)
    made = create_backfill(flow, asked, user=None, addresses=["channel:ops"])

    with pytest.raises(Conflict, match=f"^backfill {made.pk} tells channel ops; wait for its end"):
        delete_channel(row)
    cancel_backfill(made, user=None, stop_running=True)
    tick()
    delete_channel(row)
    delete_channel(row)  # somebody else was first

    assert len(receiver.got) == 1


@pytest.mark.django_db(transaction=True)
def test_a_channel_that_is_being_named_is_not_deleted_meanwhile(receiver):
    row, flow = webhook(receiver.url), published("load").workflow

    def delete() -> None:
        with closing(connection):
            delete_channel(row)

    def is_waiting() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
            return cursor.fetchone()[0]

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            subscribe(flow, ["channel:ops"])
            other = pool.submit(delete)
            until(lambda: other.done() or is_waiting())
        with pytest.raises(Conflict, match="of flow; name another"):
            other.result()

    assert Channel.objects.count() == 1


@pytest.mark.parametrize(
    "url",
    [
        "slack://first%2Dcanary/second.canary/canarythird+canaryfourth",
        "json://first-canary@hooks.example.com/second.canary/?third=third%20canary",
        "slack://first-canary/second%2Ecanary/third%20canary",
    ],
)
def test_no_spelling_of_a_token_is_in_what_is_said(url):
    for said in (url, unquote(url), unquote_plus(url)):
        kept = apprise_url._without_tokens(f"{said} of hooks.example.com failed, error=403", url)
        assert "canary" not in kept
        assert kept.endswith(" of hooks.example.com failed, error=403")


def test_a_channel_is_changed_and_keeps_what_is_not_given(receiver):
    webhook(f"{receiver.url}/old")
    set_channel(workspace(), "ops", kind="webhook", url=f"{receiver.url}/new", user=None)
    set_channel(workspace(), "ops", kind="webhook", is_default=True, user=None)
    post(workspace(), letter_test("default", "m"), ["channel:ops"], kind=Kind.TEST, event="t")
    tick()

    [got] = receiver.got
    assert (got.path, is_signed(got)) == ("/new", True)
    with pytest.raises(Invalid, match="a channel of this kind needs a URL"):
        set_channel(workspace(), "ops", kind="apprise", user=None)
    set_channel(workspace(), "ops", kind="mail", addresses=MAYA, user=None)
    row = Channel.objects.get()
    assert (row.address, row.sealed_url, row.sealed_secret) == (MAYA, None, None)


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"name": "A B", "kind": "mail", "addresses": MAYA}, ["name"]),
        ({"name": "a\0", "kind": "mail", "addresses": MAYA}, ["name"]),
        ({"kind": "mail", "addresses": ""}, ["addresses"]),
        ({"kind": "mail", "addresses": "maya"}, ["addresses"]),
        ({"kind": "mail", "addresses": "channel:ops"}, ["addresses"]),
        ({"kind": "webhook", "url": "http://10.0.0.1/", "secret": "short"}, ["url", "secret"]),
        ({"kind": "webhook", "url": "https://example.com", "secret": "whsec_abc"}, ["secret"]),
        ({"kind": "webhook"}, ["url", "secret"]),
        ({"kind": "apprise", "secret": "ignored"}, ["url"]),
        ({"kind": "webhook", "url": "https://example.com", "secret": SECRET[6:]}, ["secret"]),
    ],
)
def test_what_makes_no_channel_is_refused(given, fields):
    with pytest.raises(Invalid) as caught:
        set_channel(workspace(), given.pop("name", "ops"), user=None, **given)

    assert [fault.field for fault in caught.value.faults] == fields
    assert not Channel.objects.exists()


def test_there_are_not_too_many_channels():
    Channel.objects.bulk_create(
        Channel(workspace=workspace(), name=f"c{n}", kind="mail", address=MAYA, changed_at=Now())
        for n in range(MAX_CHANNELS)
    )

    with pytest.raises(Invalid, match="there are 50 channels; delete one"):
        set_channel(workspace(), "one-more", kind="mail", addresses=MAYA, user=None)
    set_channel(workspace(), "c7", kind="mail", addresses=LI, user=None)


# --- pages and REST -------------------------------------------------------------------------

HERE = "/w/default/notifications/channels/"


def test_a_webhook_is_added_changed_tested_and_deleted_on_the_page(receiver):
    client = member(Role.OWNER)
    dialog = client.get(f"{HERE}create/?kind=webhook").content.decode()
    secret = re.search(r'value="(whsec_[^"]+)"', dialog)[1]

    made = client.post(
        f"{HERE}create/?kind=webhook",
        {"name": "ops", "url": f"{receiver.url}/canary", "secret": secret, "is_default": "on"},
    )
    assert (made.status_code, made["Location"]) == (303, HERE)
    row = Channel.objects.get()
    html = client.get(HERE).content.decode()
    assert [cells[:3] for cells in rows(html)] == [["ops default", "Webhook", f"{receiver.url}/…"]]
    edit = client.get(f"{HERE}{row.pk}/").content.decode()
    assert not {"canary", secret} & set(re.findall(r"canary|whsec_[\w+/=]+", html + edit))

    again = client.post(f"{HERE}create/?kind=webhook", {"name": "ops", "url": receiver.url})
    assert errors(again.content.decode())[0] == (
        "There is such a channel already; edit it in the list"
    )
    client.post(f"{HERE}{row.pk}/", {"is_default": "on"})
    client.post(f"{HERE}{row.pk}/test/")
    tick()
    [got] = receiver.got
    assert (got.path, got.told["type"]) == ("/canary", "test")
    assert is_signed(got, base64.b64decode(secret.removeprefix("whsec_")))
    assert client.post(f"{HERE}{row.pk}/delete/").status_code == 303
    assert "No channels yet" in client.get(HERE).content.decode()


def test_only_who_may_set_secrets_sets_channels(receiver):
    row = webhook(receiver.url)
    engineer = member(Role.DATA_ENGINEERING)

    assert engineer.get(f"{HERE}create/").status_code == 403
    assert engineer.post(f"{HERE}{row.pk}/", {"url": receiver.url}).status_code == 403
    assert engineer.post(f"{HERE}{row.pk}/delete/").status_code == 403
    assert engineer.post(f"{HERE}{row.pk}/test/").status_code == 303
    assert member().get(f"{HERE}create/?kind=pigeon").status_code == 404


def test_a_test_message_goes_to_a_channel_that_there_is(receiver, settings):
    settings.SMTP_HOST = ""
    webhook(receiver.url)
    client, url = member(), "/w/default/notifications/test/"

    refused = client.post(url, {"address": "channel:none"})
    assert errors(refused.content.decode()) == [
        "There is no channel &#x27;none&#x27; here; add it under Channels"
    ]
    assert client.post(url, {"address": "channel:ops"}).status_code == 303
    tick()
    assert len(receiver.got) == 1


@pytest.mark.parametrize("n", [1, 3])
def test_channels_are_listed_by_few_queries(n, django_assert_num_queries):
    for i in range(n):
        channel(f"c{i}")
    client = member()
    client.get(HERE)

    with django_assert_num_queries(5):
        html = client.get(HERE).content.decode()

    assert len(rows(html)) == n


def test_rest_sets_a_channel_and_gives_neither_url_nor_secret_back(receiver):
    owner = program(Role.OWNER)
    asked = {"kind": "webhook", "url": f"{receiver.url}/canary", "secret": SECRET}

    made = owner.put("channels/ops", asked)
    assert made.status_code == 200, made.content
    shown = owner.get("channels/ops")
    listed = owner.get("channels")
    assert (shown.json()["address"], shown.json()["default"]) == (f"{receiver.url}/…", False)
    assert [each["name"] for each in listed.json()["items"]] == ["ops"]
    for given, default in (({"default": True}, True), ({}, True), ({"default": False}, False)):
        set_to = owner.put("channels/ops", {"kind": "webhook", **given})
        assert (set_to.json()["default"], set_to.json()["address"]) == (
            default,
            f"{receiver.url}/…",
        )
    everything = made.content + shown.content + listed.content
    assert b"canary" not in everything
    assert SECRET.encode() not in everything
    assert owner.post("channels/ops/test").status_code == 202
    tick()
    assert is_signed(receiver.got[0])

    refused = owner.put("channels/x", {"kind": "webhook", "url": "http://[::1]/", "secret": "a"})
    assert [each["field"] for each in refused.json()["errors"]] == ["url", "secret"]
    assert owner.put("channels/x", {"kind": "pigeon"}).status_code == 422
    assert owner.delete("channels/ops").status_code == 204
    assert owner.get("channels/ops").status_code == 404
