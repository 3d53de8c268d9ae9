"""Who looks after a workflow, its severity and its runbook: set, shown and told."""

from __future__ import annotations

from uuid import uuid4

import pytest

from apps.core.errors import Invalid, NotFound
from apps.engine.roles import Role
from apps.engine.states import NodeState, Severity
from apps.notifications.services.subscriptions import subscribe
from apps.notifications.services.tick import tick
from apps.runs.services.endings import tell_of
from apps.runs.services.hot_path import Outcome, claim, finish
from apps.workflows.services.drafting import create_workflow, delete_workflow
from apps.workflows.services.ownership import Ownership, own, ownership_of
from tests.api import program
from tests.factories import by_hand, incident, published, workspace
from tests.html import errors, rows
from tests.people import member

pytestmark = pytest.mark.django_db

RUNBOOK = "https://wiki.example.com/flights?a=1&b=2#late"


def flow(name: str = "flow"):
    return create_workflow(workspace(), name, user=None)


def test_ownership_is_saved_by_itself_and_changes_no_draft():
    row = flow()
    url, client = f"/w/default/workflows/{row.pk}/ownership/", member(Role.DATA_ENGINEERING)

    done = client.post(url, {"owner": " aviation ", "severity": "high", "runbook": RUNBOOK})

    assert (done.status_code, done["Location"]) == (303, f"/w/default/workflows/{row.pk}/settings/")
    row.refresh_from_db()
    assert ownership_of(row) == Ownership("aviation", RUNBOOK, Severity.HIGH)
    assert row.revision == 1
    shown = client.get(f"/w/default/workflows/{row.pk}/settings/").content.decode()
    assert 'value="aviation"' in shown
    refused = client.post(url, {"owner": "x", "severity": "high", "runbook": "javascript:alert(1)"})
    assert refused.status_code == 422
    assert errors(refused.content.decode()) == [
        "&#x27;javascript:alert(1)&#x27; is no address of a page; write it as "
        "https://wiki.example.com/…"
    ]


@pytest.mark.parametrize(
    "runbook",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "ftp://example.com/",
        "//example.com",
        "wiki/page",
        "https://",
        "https:///path",
        "https://[bad",
        "https://example.com/\r\nBcc: all@example.com",
        "https://example.com/a b",
        "https://exämple.com/",
        "https://example.com/" + "x" * 500,
    ],
)
def test_what_is_no_address_of_a_page_is_refused(runbook):
    row = flow()

    with pytest.raises(Invalid, match="address"):
        own(row, Ownership("aviation", runbook, Severity.LOW))

    row.refresh_from_db()
    assert ownership_of(row) == Ownership()


def test_an_owner_is_one_line_and_not_of_a_workflow_that_is_gone():
    row = flow()
    for owner, why in (("a\r\nBcc: b", "control character"), ("x" * 101, "101 characters")):
        with pytest.raises(Invalid, match=why):
            own(row, Ownership(owner))
    delete_workflow(row)

    with pytest.raises(NotFound, match="was deleted"):
        own(row, Ownership("aviation"))


def test_a_mail_says_who_looks_after_it_and_what_to_do(server):
    version = published("load")
    subscribe(version.workflow, ["maya@example.com"])
    own(version.workflow, Ownership("Émile <b>", RUNBOOK, Severity.CRITICAL))
    run = by_hand(version)
    mine = claim(workspace().queues.get(name="root_queue").pk, "worker@here:1", uuid4())
    finish(mine, Outcome(NodeState.FAILED, 1), worker="worker@here:1", request=uuid4(), take=False)
    tell_of(run.pk)
    tick()

    [(_, mail)] = server.got
    text = mail.get_body(("plain",)).get_content().replace("\r\n", "\n")
    html = mail.get_body(("html",)).get_content()
    assert mail["Subject"] == "Failed (critical): flow at load [default]"
    assert f"Severity: critical\nOwner:  Émile <b>\nRunbook: {RUNBOOK}\n" in text
    assert "Émile &lt;b&gt;" in html
    assert 'href="https://wiki.example.com/flights?a=1&amp;b=2#late"' in html


def test_the_list_shows_and_finds_owner_and_severity():
    own(flow("sales"), Ownership("Finance", "", Severity.CRITICAL))
    own(flow("flights"), Ownership("aviation"))
    client = member()

    def found(query: str) -> list[str]:
        html = client.get(f"/w/default/workflows/{query}").content.decode()
        return [row[0] for row in rows(html)]

    assert found("") == ["flights", "sales Critical"]
    assert found("?q=finance") == ["sales Critical"]
    assert found("?severity=critical") == ["sales Critical"]
    assert found("?severity=low") == []
    assert found("?severity=no") == ["flights", "sales Critical"]


def test_an_incident_shows_them_as_they_stand_now():
    row = incident(published("load", description="Loads the flights.").workflow)
    own(row.workflow, Ownership("aviation", RUNBOOK, Severity.HIGH))

    html = member().get("/w/default/notifications/").content.decode()
    said = program().get(f"incidents/{row.pk}").json()

    assert "Loads the flights." in html
    assert "aviation" in html
    assert 'href="https://wiki.example.com/flights?a=1&amp;b=2#late"' in html
    assert {name: said[name] for name in ("owner", "severity", "runbook", "description")} == {
        "owner": "aviation",
        "severity": "high",
        "runbook": RUNBOOK,
        "description": "Loads the flights.",
    }
