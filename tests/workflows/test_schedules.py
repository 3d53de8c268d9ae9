"""A schedule from the form or REST into draft and version, and what is shown of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from apps.core.errors import Conflict, Invalid
from apps.engine.roles import Role
from apps.workflows.clock import moment_of, zone_of
from apps.workflows.models import Workflow
from apps.workflows.services.drafting import create_workflow, edit_workflow
from apps.workflows.services.publishing import draft_differs, publish
from tests.api import program
from tests.factories import published, workspace
from tests.html import errors, rows
from tests.people import member

pytestmark = pytest.mark.django_db

DAILY = {"kind": "days", "time": "02:30", "started_at": "2026-01-01T00:00:00Z"}
WRITTEN = {**DAILY, "ends_on": None, "left_out": [], "instead": None, "missed": "latest"}


def test_schedule_is_part_of_the_version_and_a_change_of_it_makes_another():
    first = published("a", schedule=DAILY, zone="Europe/Berlin")
    flow = Workflow.objects.get()

    assert (first.graph["settings"]["schedule"], first.graph["settings"]["zone"]) == (
        WRITTEN,
        "Europe/Berlin",
    )
    edit_workflow(flow, revision=2, schedule={**DAILY, "ends_on": None, "missed": "latest"})
    with pytest.raises(Conflict, match="has not changed"):
        publish(flow, remarks="", user=None)
    for revision, changes in enumerate([{"schedule": None}, {"zone": "Asia/Tokyo"}], start=3):
        edit_workflow(flow, revision=revision, **changes)
        assert draft_differs(Workflow.objects.get())
        publish(flow, remarks="", user=None)
    assert first.graph["settings"]["schedule"] == WRITTEN


def test_time_variables_are_those_of_the_workflows_zone():
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    settings = published("a", zone="Pacific/Auckland").graph["settings"]

    found = [moment_of(noon, said, zone_of(said, "Asia/Tokyo")).local for said in (settings, {})]

    assert [f"{at:%d %H}" for at in found] == ["02 01", "01 21"]


def test_schedule_that_says_no_start_begins_now():
    flow = create_workflow(
        workspace(), "flow", user=None, schedule={"kind": "days", "time": "02:30"}
    )

    assert flow.schedule["started_at"] == f"{flow.created_at:%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"zone": "Mars/Olympus"}, ["zone"]),
        ({"zone": "Mars/Olympus", "schedule": DAILY}, ["zone"]),
        ({"schedule": {"kind": "days", "time": "25:00"}, "parallelism": 0}, ["parallelism"]),
        ({"schedule": {"kind": "hours", "every": 99, "from": "1"}}, ["schedule.every"]),
        ({"schedule": {**DAILY, "ends_on": "2025-01-01"}}, ["schedule"]),
    ],
)
def test_schedule_that_cannot_be_is_refused_at_its_field(changes, fields):
    with pytest.raises(Invalid) as caught:
        create_workflow(workspace(), "flow", user=None, **changes)

    found = [fault.field for fault in caught.value.faults]
    assert found[: len(fields)] == fields


def test_rest_takes_shows_and_refuses_a_schedule():
    caller = program()
    body = {"name": "flow", "zone": "Europe/Berlin", "schedule": DAILY}

    made = caller.post("workflows", body).json()
    wrong = caller.send(
        "PATCH", f"workflows/{made['id']}", {"revision": 1, "schedule": {**DAILY, "time": "2"}}
    )
    off = caller.send("PATCH", f"workflows/{made['id']}", {"revision": 1, "schedule": None})

    assert (made["zone"], made["schedule"]) == ("Europe/Berlin", WRITTEN)
    assert (wrong.status_code, [e["field"] for e in wrong.json()["errors"]]) == (
        422,
        ["schedule.time"],
    )
    assert (off.status_code, off.json()["schedule"]) == (200, None)


def test_rest_previews_points_in_the_schedules_zone():
    asked = {"schedule": DAILY, "zone": "Europe/Berlin", "after": "2026-03-28T12:00:00Z"}

    shown = program(Role.GUEST).post("schedule-preview", {**asked, "count": 2}).json()

    assert shown == {
        "words": "every day at 02:30",
        "zone": "Europe/Berlin",
        "points": ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        "local": ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
    }


FORM = {"name": "flow", "strategy": "continue", "schedule_missed": "all"}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"kind": "days", "time": "02:30"}, {"kind": "days", "time": "02:30"}),
        (
            {"kind": "hours", "every": "3", "from": "", "to": "18:00"},
            {"kind": "hours", "every": 3, "from": "00:00", "to": "18:00"},
        ),
        (
            {"kind": "weekly", "weekdays": ["fri", "mon"], "time": "07:00"},
            {"kind": "weekly", "days": ["mon", "fri"], "time": "07:00"},
        ),
        (
            {"kind": "monthly", "month_days": "last, 15 1", "time": "07:00"},
            {"kind": "monthly", "days": [1, 15, "last"], "time": "07:00"},
        ),
        ({"kind": "cron", "cron": "30 2 * * mon"}, {"kind": "cron", "cron": "30 2 * * MON"}),
        (
            {"kind": "minutes", "every": "10", "calendar": "instead", "dates": "2026-12-24"},
            {
                "kind": "minutes",
                "every": 10,
                "from": "00:00",
                "to": "23:59",
                "instead": ["2026-12-24"],
            },
        ),
    ],
)
def test_form_says_a_schedule_and_shows_what_it_said(typed, said):
    client = member()
    flow = create_workflow(workspace(), "flow", user=None)
    here = f"/w/default/workflows/{flow.pk}/settings/"
    common = {**FORM, "zone": "Europe/Berlin", "schedule_started_at": "2026-01-01T09:00"}
    fields = {f"schedule_{name}": value for name, value in typed.items()}

    client.post(here, {**common, **fields, "revision": 1})
    flow.refresh_from_db()
    form = client.get(here).context["form"]
    again = {name: form[name].value() for name in form.fields}
    client.post(here, {k: v for k, v in again.items() if v is not None})

    expected = {**WRITTEN, "started_at": "2026-01-01T08:00:00Z", "missed": "all", **said}
    expected = {k: v for k, v in expected.items() if k != "time" or "time" in said}
    assert flow.schedule == expected
    assert Workflow.objects.get().schedule == expected
    assert Workflow.objects.get().revision == 3


def test_fault_of_a_schedule_stands_at_the_field_where_it_was_typed():
    client = member()
    typed = {"schedule_kind": "monthly", "schedule_month_days": "32", "schedule_time": ""}

    answer = client.post("/w/default/workflows/create/", {**FORM, **typed})

    assert answer.status_code == 422
    assert sorted(answer.context["form"].errors) == ["schedule_month_days", "schedule_time"]
    assert len(errors(answer.content.decode())) == 2


def test_preview_shows_the_next_five_points_in_the_zone_and_in_utc():
    client = member(Role.GUEST)
    asked = {
        "schedule_kind": "weekly",
        "schedule_weekdays": ["mon"],
        "schedule_time": "00:30",
        "schedule_started_at": "2099-01-01T00:00",
        "zone": "Europe/Berlin",
    }
    here = "/w/default/workflows/schedule-preview/"

    html = client.get(here, asked, headers={"HX-Request": "true"}).content.decode()
    wrong = client.get(here, {**asked, "zone": "Mars"}, headers={"HX-Request": "true"})
    nothing = client.get(here, {"schedule_kind": ""}, headers={"HX-Request": "true"})

    found = rows(html)
    assert '<th scope="col">Europe/Berlin</th>' in html
    assert [row[:2] for row in found] == [
        ["Mon 2099-01-05 00:30 +0100", "2099-01-04 23:30"],
        ["Mon 2099-01-12 00:30 +0100", "2099-01-11 23:30"],
        ["Mon 2099-01-19 00:30 +0100", "2099-01-18 23:30"],
        ["Mon 2099-01-26 00:30 +0100", "2099-01-25 23:30"],
        ["Mon 2099-02-02 00:30 +0100", "2099-02-01 23:30"],
    ]
    assert "Due every Mon at 00:30." in html
    assert "&#x27;Mars&#x27; is no time zone" in wrong.content.decode()
    assert rows(nothing.content.decode()) == []
