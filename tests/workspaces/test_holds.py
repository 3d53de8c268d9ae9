"""Holds and tags as a person and a program make them."""

from __future__ import annotations

import html
import re

import pytest
from django.http import HttpResponse
from django.urls import reverse

from apps.engine.roles import Role
from apps.runs.services.holding import hold, tag_workflow
from apps.workflows.models import Workflow
from apps.workspaces.models import WorkspaceHold
from tests.api import Program, program
from tests.factories import by_hand, published, workspace
from tests.people import client_of, member, user

pytestmark = pytest.mark.django_db

QUEUES = "/w/default/queues/"
CREATE = "/w/default/holds/create/"
HOLDS = "/api/v1/workspaces/default/holds"


def text_of(answer: HttpResponse) -> str:
    """What it says, without markup; the blank before a full stop or comma is taken out."""
    words = html.unescape(re.sub(r"<[^>]*>", " ", answer.content.decode()))
    return re.sub(r" ([.,:])", r"\1", re.sub(r"\s+", " ", words))


def queue_pk(name: str = "root_queue") -> int:
    return workspace().queues.get(name=name).pk


def held() -> dict[str, bool]:
    return dict(workspace().queues.values_list("name", "held"))


def test_queue_is_held_from_its_row_and_released_from_the_banner():
    client = client_of(user("maya", Role.DATA_ENGINEERING))
    dialog = client.get(f"{CREATE}?queue=root_queue", headers={"HX-Request": "true"})
    assert f'<option value="{queue_pk()}" selected>Queue root_queue' in dialog.content.decode()

    made = client.post(CREATE, {"on": queue_pk(), "reason": "disk full"})

    row = WorkspaceHold.objects.get()
    page = client.get(QUEUES)
    assert made.headers["Location"] == QUEUES
    assert held() == {"dev_queue": False, "root_queue": True}
    assert "Queue root_queue is held by maya since" in text_of(page)
    assert ": disk full. Nothing new starts" in text_of(page)
    release = reverse("workspaces:hold-release", args=["default", row.pk])
    assert release in page.content.decode()

    client.post(release, {"missed": "all"})

    row.refresh_from_db()
    assert (row.missed, row.released_by.username) == ("all", "maya")
    assert held() == {"dev_queue": False, "root_queue": False}
    assert "is held" not in text_of(client.get(QUEUES))
    again = client.post(release, {"missed": "all"})
    assert (again.status_code, "released already" in text_of(again)) == (422, True)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        pytest.param({"on": "tag"}, "Name the tag that is to be held", id="no tag"),
        pytest.param({"on": "tag", "tag": "a b"}, "the key 'a b' is not allowed", id="wrong tag"),
        pytest.param({"on": "workspace", "tag": "a"}, "Take it out, or choose", id="both"),
        pytest.param({"on": "999999999"}, "Select a valid choice", id="no such queue"),
        pytest.param({"on": "tag", "tag": "team"}, "Tag team is held already", id="twice"),
    ],
)
def test_hold_that_makes_no_sense_is_refused_at_its_field(form, said):
    hold(workspace(), tag="team", user=None)

    answer = member().post(CREATE, form)

    assert answer.status_code == 422
    assert said in text_of(answer)
    assert WorkspaceHold.objects.count() == 1


def test_whoever_may_not_operate_runs_may_not_hold_and_is_offered_nothing():
    row = hold(workspace(), reason="audit", user=user("maya"))
    client = member(Role.DATA_SCIENCE)

    page = client.get(QUEUES)

    assert "Workspace default is held by maya" in text_of(page)
    assert "Release" not in text_of(page)
    assert client.post(CREATE, {"on": "workspace"}).status_code == 403
    assert client.post(f"/w/default/holds/{row.pk}/release/").status_code == 403


def test_tags_are_saved_by_themselves_and_hold_what_has_them():
    version = published("a", name="report")
    run = by_hand(version)
    client = member()
    hold(workspace(), tag="team=finance", user=None)
    tags = f"/w/default/workflows/{version.workflow_id}/tags/"

    saved = client.post(tags, {"tags": "tier=gold,\n team = finance,"})

    flow = Workflow.objects.get(pk=version.workflow_id)
    settings = client.get(f"/w/default/workflows/{flow.pk}/settings/")
    assert saved.status_code == 303
    assert flow.tags == {"team": "finance", "tier": "gold"}
    assert 'value="team=finance, tier=gold"' in settings.content.decode()
    assert run.nodes.get().state == "pending"
    shown = text_of(client.get(f"/w/default/runs/{run.pk}/"))
    assert f"Run {run.pk} of report waits until tag team=finance is released;" in shown
    wrong = client.post(tags, {"tags": "team, team=x"})
    assert wrong.status_code == 422
    assert "Tag 'team' is there twice; a key has one value" in text_of(wrong)


def test_program_holds_and_releases_a_tag():
    caller = program(Role.DATA_ENGINEERING)
    version = published("a")
    flow = f"/api/v1/workspaces/default/workflows/{version.workflow_id}"
    assert caller.send("PUT", f"{flow}/tags", {"tags": {"team": "x"}}).status_code == 200
    run = by_hand(version)

    made = caller.send("POST", HOLDS, {"what": "tag", "name": "team", "reason": "audit"}).json()

    where = f"{HOLDS}/{made['id']}"
    assert (made["what"], made["name"], made["released_at"]) == ("tag", "team", None)
    assert caller.get(f"/api/v1/workspaces/default/runs/{run.pk}").json()["held"] is True
    standing = caller.get(f"{HOLDS}?standing=true").json()["items"]
    assert standing == [made]
    done = caller.send("POST", f"{where}/release", {"missed": "none"}).json()
    assert (done["missed"], done["released_by"]) == ("none", done["created_by"])
    assert caller.get(f"{HOLDS}?standing=true").json()["items"] == []
    assert caller.get(f"{HOLDS}?standing=false").json()["items"] == [done]
    assert caller.send("POST", f"{where}/release").status_code == 409
    assert run.nodes.get().state == "queued"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param({"what": "workspace", "name": "default"}, "name", id="name of a workspace"),
        pytest.param({"what": "queue"}, "name", id="no queue"),
        pytest.param({"what": "queue", "name": "nowhere"}, "name", id="no such queue"),
        pytest.param({"what": "tag", "name": ""}, "name", id="empty tag"),
        pytest.param({"what": "run"}, "what", id="what is not there"),
        pytest.param({}, "what", id="nothing"),
    ],
)
def test_programs_hold_that_makes_no_sense_is_refused(body, field):
    caller: Program = program(Role.OWNER)

    answer = caller.send("POST", HOLDS, body)

    assert answer.status_code == 422
    assert [each["field"] for each in answer.json()["errors"]] == [field]
    assert WorkspaceHold.objects.count() == 0


def test_number_of_holds_and_queues_adds_no_query(django_assert_num_queries):
    client = member()
    client.get(QUEUES)
    for count in (1, 3):
        version = published("a", name=f"flow{count}")
        tag_workflow(version.workflow, {"k": "v"}, user=None)
        hold(workspace(), tag=f"team{count}", user=user("maya"))
        with django_assert_num_queries(7):
            client.get(QUEUES)
