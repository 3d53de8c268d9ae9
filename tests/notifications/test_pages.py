"""The pages of incidents and mails, and the form of a workflow's addresses."""

from __future__ import annotations

import pytest
from django.db import connection

from apps.engine.roles import Role
from apps.notifications.models import Delivery, DeliveryStatus, Incident
from apps.notifications.services.subscriptions import addresses_of
from apps.notifications.services.tick import tick
from tests.api import program, queries
from tests.factories import by_hand, incident, mail, published
from tests.html import errors, rows
from tests.people import member

pytestmark = pytest.mark.django_db

HERE = "/w/default/notifications/"


def test_addresses_are_saved_by_themselves_and_count_at_once():
    flow = published("load").workflow
    url, client = f"/w/default/workflows/{flow.pk}/addresses/", member(Role.DATA_ENGINEERING)

    done = client.post(url, {"addresses": "maya@example.com, li@example.com"})

    assert (done.status_code, done["Location"]) == (
        303,
        f"/w/default/workflows/{flow.pk}/settings/",
    )
    assert addresses_of(flow) == ["maya@example.com", "li@example.com"]
    shown = client.get(f"/w/default/workflows/{flow.pk}/settings/").content.decode()
    assert 'value="maya@example.com, li@example.com"' in shown
    refused = client.post(url, {"addresses": "maya"})
    assert refused.status_code == 422
    assert errors(refused.content.decode()) == [
        "&#x27;maya&#x27; is no e-mail address; write it as name@example.com"
    ]
    flow.refresh_from_db()
    assert flow.revision == 2  # the node's; the draft has not changed


def test_without_a_mail_server_the_pages_say_so(server, settings):
    flow, client = published("load").workflow, member()
    pages = [HERE, f"{HERE}mails/", f"{HERE}test/", f"/w/default/workflows/{flow.pk}/settings/"]

    def say() -> list[bool]:
        said = [client.get(url).content.decode() for url in pages]
        return ["No mail can be sent:" in each for each in said]

    assert say() == [False] * 4
    settings.SMTP_HOST = ""
    assert say() == [True] * 4


@pytest.mark.parametrize("n", [1, 3])
def test_incidents_are_listed_open_ones_first(n, django_assert_num_queries):
    for i in range(n):
        version = published("load", name=f"flow_{i}")
        run = by_hand(version)
        incident(version.workflow, run_id=run.pk)
    over = published("load", name="over").workflow
    gone = incident(over, run_id=999_999)
    Incident.objects.filter(pk=gone.pk).update(recovered_at=gone.opened_at, recovered_by=1)
    client = member()
    client.get(HERE)

    with django_assert_num_queries(7):
        html = client.get(HERE).content.decode()

    assert [row[0] for row in rows(html)] == [*(f"flow_{i}" for i in reversed(range(n))), "over"]
    assert "/runs/999999/" not in html  # it is forgotten
    assert f"/runs/{run.pk}/" in html


def test_an_incident_is_acknowledged_by_a_button():
    row = incident(published("load").workflow)
    url = f"{HERE}incidents/{row.pk}/acknowledge/"

    assert member(Role.DATA_SCIENCE).post(url).status_code == 403
    assert member(Role.DATA_ENGINEERING).post(url).status_code == 303

    row.refresh_from_db()
    assert row.acknowledged_by.username == "a data_engineering"
    assert "a data_engineering" in rows(member().get(HERE).content.decode())[0][5]


def test_a_test_message_takes_the_way_of_a_failure(server):
    client = member()
    done = client.post(f"{HERE}test/", {"address": "maya@example.com"})
    assert done["Location"] == f"{HERE}mails/"
    tick()

    [(address, got)] = server.got
    assert (address, got["Subject"]) == ("maya@example.com", "Test message from Runyard [default]")
    [row] = rows(client.get(f"{HERE}mails/").content.decode())
    assert row[:3] == [
        "Test message from Runyard [default]",
        "maya@example.com",
        "(Succeeded) Sent",
    ]
    refused = client.post(f"{HERE}test/", {"address": "maya"})
    assert errors(refused.content.decode()) == [
        "&#x27;maya&#x27; is no e-mail address; write it as name@example.com"
    ]


def test_a_test_message_is_not_taken_where_it_could_not_be_sent(settings):
    settings.SMTP_HOST = ""

    refused = member().post(f"{HERE}test/", {"address": "maya@example.com"})

    assert refused.status_code == 422
    assert not Delivery.objects.exists()


def test_the_list_of_mails_says_what_has_become_of_each(django_assert_num_queries):
    said = {}
    for status in DeliveryStatus:
        each = mail(f"{status}@example.com")
        Delivery.objects.filter(pk=each.pk).update(status=status, why=f"why {status}")
        said[f"{status}@example.com"] = status
    client = member()
    client.get(f"{HERE}mails/")

    with django_assert_num_queries(4):
        html = client.get(f"{HERE}mails/").content.decode()

    assert {row[1]: row[2].partition(" why")[0] for row in rows(html)} == {
        "waiting@example.com": "(Pending) Waiting",
        "sent@example.com": "(Succeeded) Sent",
        "held@example.com": "(Waiting) Held back for a digest",
        "digested@example.com": "(Succeeded) Told in a digest",
        "failed@example.com": "(Failed) Given up",
        "unsent@example.com": "(Missed) Not sent",
        "silenced@example.com": "(Missed) Silenced",
    }


def test_a_mail_can_be_read_again():
    html = member().get(f"{HERE}mails/{mail().pk}/").content.decode()

    assert "maya sent this from workspace default." in html


def test_rest_sets_addresses_and_refuses_what_is_none():
    flow = published("load").workflow
    url = f"/api/v1/workspaces/default/workflows/{flow.pk}/notifications"
    caller = program(Role.DATA_ENGINEERING)

    assert caller.send("GET", url).json() == {"addresses": [], "by_rules": []}
    answer = caller.send("PUT", url, {"addresses": ["maya@example.com", "Maya@example.com"]})
    assert answer.json() == {"addresses": ["maya@example.com"], "by_rules": []}
    refused = caller.send("PUT", url, {"addresses": ["maya", "li@"]})
    assert refused.status_code == 422
    assert [each["field"] for each in refused.json()["errors"]] == ["addresses", "addresses"]
    assert addresses_of(flow) == ["maya@example.com"]


def test_rest_lists_incidents_and_acknowledges_one():
    row = incident(published("load").workflow)
    caller, here = program(Role.DATA_ENGINEERING), "/api/v1/workspaces/default/incidents"

    [found] = caller.send("GET", f"{here}?open=true").json()["items"]
    assert (found["id"], found["name"], found["acknowledged_by"]) == (row.pk, "flow", None)
    assert caller.send("GET", f"{here}?open=false").json()["items"] == []
    done = caller.send("POST", f"{here}/{row.pk}/acknowledge").json()
    assert done["acknowledged_by"] == Role.DATA_ENGINEERING
    Incident.objects.update(recovered_at=row.opened_at)
    assert caller.send("POST", f"{here}/{row.pk}/acknowledge").status_code == 409


def test_rest_lists_deliveries_by_what_has_become_of_them():
    caller, here = program(Role.GUEST), "deliveries"
    first, second = mail(), mail("li@example.com")
    Delivery.objects.filter(pk=first.pk).update(status="failed", why="550 no such user")
    about = incident(published("load").workflow)
    Delivery.objects.filter(pk=second.pk).update(incident=about)
    mail(place="other")

    def ids(query: str = "") -> list[int]:
        return [each["id"] for each in caller.get(here + query).json()["items"]]

    assert ids() == [second.pk, first.pk]
    assert ids("?status=failed") == [first.pk]
    assert ids("?address=li@example.com") == [second.pk]
    assert ids(f"?incident={about.pk}&kind=test") == [second.pk]
    assert ids("?kind=opened") == []
    assert ids("?limit=1") == [second.pk]
    assert caller.get(f"{here}?status=lost").status_code == 422
    whole = caller.get(f"{here}/{first.pk}").json()
    assert (whole["why"], "maya sent this" in whole["text"]) == ("550 no such user", True)
    assert (whole["message_id"], "html" in whole) == (first.message_id, False)


def test_the_filters_of_a_long_list_have_an_index_each():
    row = mail()
    Delivery.objects.bulk_create(
        Delivery(
            workspace_id=row.workspace_id,
            kind="opened",
            event=f"incident {n} opened",
            address=f"a{n % 3}@example.com",
            message_id=f"<{n}@example.com>",
            status="sent",
        )
        for n in range(10_000)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE notifications_delivery")
    newest = Delivery.objects.filter(workspace=row.workspace_id).order_by("-pk")

    assert "delivery_by_status" in newest.filter(status="failed")[:51].explain()
    assert "delivery_by_address" in newest.filter(address="li@example.com")[:51].explain()


@pytest.mark.parametrize("n", [1, 3])
def test_deliveries_come_by_few_queries(n):
    caller = program(Role.GUEST)
    for i in range(n):
        mail(f"a{i}@example.com")

    with queries(caller, 4):
        assert len(caller.get("deliveries").json()["items"]) == n
