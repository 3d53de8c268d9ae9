"""Scheduling Status: in the list, on the workflow's page, when it is published, and by REST."""

from __future__ import annotations

import pytest

from apps.engine.roles import Role
from apps.runs.models import Run, SchedulePoint
from apps.runs.services.scheduling import switch
from apps.workflows.models import Schedule, Workflow
from apps.workflows.services.drafting import edit_workflow
from tests.api import program
from tests.factories import published
from tests.html import rows
from tests.people import member

pytestmark = pytest.mark.django_db

#: Far ahead: nothing is due while a test looks.
YEARLY = {"kind": "cron", "cron": "0 0 1 1 *", "started_at": "2098-06-01T00:00:00Z"}
#: Its last point was within this hour.
EVERY_MINUTE = {"kind": "minutes", "every": 1, "started_at": "2026-01-01T00:00:00Z"}


def scheduled(**settings: object) -> Workflow:
    return published("a", **{"schedule": YEARLY, **settings}).workflow


def test_list_shows_the_switch_of_each():
    scheduled(name="off")
    switch(scheduled(name="on"), on=True, user=None)
    published("a", name="by_hand")

    html = member().get("/w/default/workflows/").content.decode()

    found = {row[0]: row[2].split()[0] for row in rows(html)}
    assert found == {"by_hand": "manual", "off": "Off", "on": "On"}


def test_page_turns_it_on_after_it_has_asked_and_off_at_once():
    flow, client = scheduled(), member(Role.DATA_ENGINEERING)
    here = f"/w/default/workflows/{flow.pk}/"

    asked = client.get(f"{here}switch/").content.decode()
    before = client.get(f"{here}schedule/").content.decode()
    client.post(f"{here}switch/", {"on": "1"})
    on = Schedule.objects.get()
    after = client.get(f"{here}schedule/").content.decode()
    client.post(f"{here}switch/", {"on": "0"})

    assert "Wed 2099-01-01" not in asked
    assert "Thu 2099-01-01 00:00" in asked
    assert "does not start by itself: its schedule is off." in before
    assert (on.on, on.changed_by.username) == (True, "a data_engineering")
    assert 'aria-checked="true"' in after
    assert Schedule.objects.get().on is False


def test_dialog_offers_todays_latest_point_and_runs_it():
    flow, client = scheduled(schedule=EVERY_MINUTE), member()
    here = f"/w/default/workflows/{flow.pk}/switch/"

    asked = client.get(here).content.decode()
    client.post(here, {"on": "1", "run_latest": "1"})

    [point] = SchedulePoint.objects.all()
    assert f"Run today's {point.cycle:%H:%M} now" in asked or point.run
    assert Run.objects.get() == point.run


def test_who_may_not_publish_sees_the_switch_and_cannot_turn_it():
    flow, client = scheduled(), member(Role.DATA_SCIENCE)
    here = f"/w/default/workflows/{flow.pk}/"

    assert 'aria-disabled="true"' in client.get(f"{here}schedule/").content.decode()
    assert client.post(f"{here}switch/", {"on": "1"}).status_code == 403
    assert Schedule.objects.count() == 0


def test_publishing_a_schedule_asks_whether_to_turn_it_on():
    flow, client = published("a").workflow, member()
    here = f"/w/default/workflows/{flow.pk}/publish/"
    assert "Turn scheduling on" not in client.get(here).content.decode()
    edit_workflow(flow, revision=2, schedule=YEARLY)

    asked = client.get(here).content.decode()
    client.post(here, {"remarks": "", "revision": "3", "turn_on": "1"})

    assert "Turn scheduling on: due by cron 0 0 1 1 *, UTC." in asked
    assert Schedule.objects.get().on is True


def test_rest_turns_it_and_shows_it_with_its_points():
    flow, caller = scheduled(), program()
    here = f"workflows/{flow.pk}/schedule"

    off = caller.get(here).json()
    on = caller.send("PUT", here, {"on": True}).json()
    points = caller.get(f"{here}/points").json()

    assert (off["on"], off["waiting"]["code"], off["words"]) == (
        False,
        "schedule_off",
        "by cron 0 0 1 1 *",
    )
    assert (on["on"], on["waiting"], on["next"][0]) == (True, None, "2099-01-01T00:00:00Z")
    assert points == {"items": [], "next": None}


def test_rest_refuses_to_turn_on_what_has_no_schedule():
    flow, caller = published("a").workflow, program()

    refused = caller.send("PUT", f"workflows/{flow.pk}/schedule", {"on": True})

    assert refused.status_code == 409
    assert "has no schedule in v1" in refused.json()["detail"]
