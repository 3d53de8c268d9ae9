"""Rules: who is told of workflows by tag, owner and severity."""

from __future__ import annotations

from uuid import uuid4

import pytest

from apps.core.errors import Conflict, Invalid, NotFound
from apps.engine.roles import Role
from apps.engine.states import NodeState, Severity
from apps.notifications.models import Rule
from apps.notifications.services import rules as making
from apps.notifications.services.rules import change_rule, make_rule, read_match, remove_rule
from apps.notifications.services.subscriptions import (
    addresses_of,
    addresses_of_all,
    subscribe,
)
from apps.notifications.services.tick import tick
from apps.runs.services.endings import tell_of
from apps.runs.services.holding import tag_workflow
from apps.runs.services.hot_path import Outcome, claim, finish
from apps.workflows.models import Workflow
from apps.workflows.services.drafting import create_workflow
from apps.workflows.services.ownership import Ownership, own
from tests.api import program
from tests.factories import by_hand, published, rule, workspace
from tests.html import errors, rows
from tests.people import member

pytestmark = pytest.mark.django_db

HERE = "/w/default/notifications/rules/"


def flow(name: str = "flow", tags: dict[str, str] | None = None, **ownership: object) -> Workflow:
    made = create_workflow(workspace(), name, user=None)
    tag_workflow(made, tags or {}, user=None)
    own(made, Ownership(**ownership))
    made.refresh_from_db()
    return made


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ({}, {"sales", "flights", "bare"}),
        ({"tag": "team"}, {"sales", "flights"}),
        ({"tag": "team=finance"}, {"sales"}),
        ({"tag": "tier=gold"}, set()),
        ({"owner": "MAYA"}, {"flights"}),
        ({"severity": "critical"}, {"sales"}),
        ({"severity": "normal"}, {"flights", "bare"}),
        ({"tag": "team", "severity": "normal"}, {"flights"}),
        ({"tag": "team=finance", "owner": "maya"}, set()),
    ],
)
def test_a_rule_tells_of_the_workflows_that_are_all_it_says(condition, told):
    flows = [
        flow("sales", {"team": "finance"}, severity=Severity.CRITICAL),
        flow("flights", {"team": "aviation", "kind": "tier"}, owner="Maya"),
        flow("bare"),
    ]
    rule(workspace(), "li@example.com", **condition)
    rule(workspace("other"), "stranger@example.com")

    found = {each.name for each in flows if addresses_of(each) == ["li@example.com"]}

    assert found == told
    assert all(addresses_of(each) == [] for each in flows if each.name not in told)


def test_who_is_named_by_several_is_told_once_and_its_own_addresses_come_first():
    row = flow(owner="maya")
    subscribe(row, ["maya@example.com"])
    rule(workspace(), "MAYA@example.com", "li@example.com")
    rule(workspace(), "li@example.com", "on-call@example.com", owner="Maya")

    assert addresses_of(row) == ["maya@example.com", "li@example.com", "on-call@example.com"]


@pytest.mark.parametrize("n", [1, 5])
def test_who_is_told_of_many_is_three_queries(n, django_assert_num_queries):
    flows = [flow(f"flow_{i}") for i in range(n)]
    for i in range(n):
        rule(workspace(), f"a{i}@example.com")

    with django_assert_num_queries(3):
        told = addresses_of_all(flows)

    assert told == {each.pk: [f"a{i}@example.com" for i in range(n)] for each in flows}


def test_a_failure_and_its_recovery_are_told_by_a_rule(server):
    version = published("load")
    own(version.workflow, Ownership(severity=Severity.HIGH))
    rule(workspace(), "on-call@example.com", severity="high")
    rule(workspace(), "nobody@example.com", severity="low")
    queue = workspace().queues.get(name="root_queue")
    for state in (NodeState.FAILED, NodeState.SUCCEEDED):
        run = by_hand(version)
        mine = claim(queue.pk, "worker@here:1", uuid4())
        finish(mine, Outcome(state, 1), worker="worker@here:1", request=uuid4(), take=False)
        tell_of(run.pk)
        tick()

    assert [(address, mail["Subject"]) for address, mail in server.got] == [
        ("on-call@example.com", "Failed (high): flow at load [default]"),
        ("on-call@example.com", "Recovered: flow [default]"),
    ]


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"tag": "te am=x"}, "tag"),
        ({"tag": "team="}, "tag"),
        ({"tag": "team=\x00"}, "tag"),
        ({"owner": "a\nb"}, "owner"),
        ({"owner": "x" * 101}, "owner"),
        ({"severity": "urgent"}, "severity"),
    ],
)
def test_a_condition_that_cannot_be_is_refused(said, field):
    with pytest.raises(Invalid) as refused:
        read_match(**said)

    assert {fault.field for fault in refused.value.faults} == {field}


def test_a_rule_tells_somebody_and_there_are_not_too_many(monkeypatch):
    with pytest.raises(Invalid, match="tells nobody"):
        make_rule(workspace(), read_match(), [], user=None)
    monkeypatch.setattr(making, "MAX_RULES", 1)
    made = rule(workspace(), "li@example.com")

    with pytest.raises(Conflict, match="1 rules already"):
        rule(workspace(), "li@example.com")

    remove_rule(made)
    with pytest.raises(NotFound, match="removed meanwhile"):
        change_rule(made, read_match(), ["li@example.com"], user=None)


def test_rules_are_made_changed_and_removed_on_their_page(django_assert_num_queries):
    client = member(Role.DATA_ENGINEERING)
    said = {"tag": "team=finance", "owner": "", "severity": "high", "addresses": "li@example.com"}

    assert client.post(f"{HERE}create/", said)["Location"] == HERE
    made = Rule.objects.get()
    html = client.post(f"{HERE}{made.pk}/", {**said, "severity": "", "addresses": "li"})
    assert (html.status_code, errors(html.content.decode())) == (
        422,
        ["&#x27;li&#x27; is no e-mail address; write it as name@example.com"],
    )
    client.post(f"{HERE}{made.pk}/", {**said, "severity": ""})
    rule(workspace(), "on-call@example.com")
    with django_assert_num_queries(4):
        html = client.get(HERE).content.decode()
    assert [row[:2] for row in rows(html)] == [
        ["all of them", "on-call@example.com"],
        ["team=finance", "li@example.com"],
    ]
    assert client.post(f"{HERE}{made.pk}/delete/").status_code == 303
    assert not Rule.objects.filter(pk=made.pk).exists()


def test_a_workflow_shows_who_is_told_by_rules():
    row = flow(tags={"team": "finance"})
    rule(workspace(), "li@example.com", tag="team")

    html = member().get(f"/w/default/workflows/{row.pk}/settings/").content.decode()
    said = program().get(f"workflows/{row.pk}/notifications").json()

    assert "Told besides: li@example.com" in html
    assert said == {"addresses": [], "by_rules": ["li@example.com"]}


def test_rest_makes_changes_and_removes_a_rule():
    caller = program(Role.DATA_ENGINEERING)

    made = caller.post(
        "notification-rules", {"tag": "team=finance", "addresses": ["li@example.com"]}
    ).json()
    place = f"notification-rules/{made['id']}"
    changed = caller.put(place, {"owner": "maya", "addresses": ["maya@example.com"]}).json()

    names = ("tag", "owner", "severity", "addresses", "changed_by")
    assert [made[name] for name in names] == [
        "team=finance",
        "",
        "",
        ["li@example.com"],
        Role.DATA_ENGINEERING,
    ]
    assert [changed[name] for name in names[:4]] == ["", "maya", "", ["maya@example.com"]]
    assert caller.get("notification-rules").json()["items"] == [changed]
    refused = caller.put(place, {"tag": "a b", "severity": "x", "addresses": []})
    assert refused.status_code == 422
    assert caller.delete(place).status_code == 204
    assert caller.get(place).status_code == 404


def test_rest_sets_and_finds_by_ownership():
    row, _ = flow(), flow("other")
    caller = program(Role.DATA_ENGINEERING)
    said = {"owner": "Aviation", "severity": "high", "runbook": "https://wiki.example.com/f"}

    shown = caller.put(f"workflows/{row.pk}/ownership", said).json()

    assert {name: shown[name] for name in said} == said
    for query in ("owner=aviation", "severity=high", "owner=AVIATION&severity=high"):
        assert [each["id"] for each in caller.get(f"workflows?{query}").json()["items"]] == [row.pk]
    assert caller.get("workflows?owner=avi").json()["items"] == []
    refused = caller.put(f"workflows/{row.pk}/ownership", {"runbook": "javascript:alert(1)"})
    assert [each["field"] for each in refused.json()["errors"]] == ["runbook"]
    assert caller.put(f"workflows/{row.pk}/ownership", {}).json()["severity"] == "normal"
