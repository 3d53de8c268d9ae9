"""Pages of backfills: the dialog with its preview, the list, one backfill."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.db.models.functions import Now

from apps.engine.roles import Role
from apps.engine.states import Trigger
from apps.runs.models import Backfill, BackfillCycle, Run, SchedulePoint
from apps.runs.services.backfill import Asked, cancel_backfill, create_backfill, pause_backfill
from apps.runs.services.feeding import feed
from apps.runs.services.launch import launch
from apps.workflows.models import Workflow
from tests.factories import published
from tests.html import errors, requests, rows
from tests.people import member

pytestmark = pytest.mark.django_db

DAILY = {"kind": "days", "time": "02:00", "started_at": "2030-01-01T00:00:00Z"}
WEEK = {"first_date": "2026-03-01", "last_date": "2026-03-07"}
HTMX = {"HX-Request": "true"}


@pytest.fixture
def flow() -> Workflow:
    version = published("load", "count", edges=[("load", "count")], schedule=DAILY)
    return Workflow.objects.select_related("workspace", "published").get(pk=version.workflow_id)


def dialog(flow: Workflow) -> str:
    return f"/w/default/workflows/{flow.pk}/run/"


def preview(flow: Workflow, **sent: str) -> str:
    sent = {"how": "backfill", "which": "all", "order": "oldest", "at_once": "1", **sent}
    return member().get(dialog(flow), {"part": "preview", **sent}).content.decode()


def token(html: str) -> str:
    return re.search(r'name="token" value="([^"]*)"', html)[1]


def backfill(flow: Workflow, days: int = 7, **given) -> Backfill:
    """Of so many days up to the end of 2025. Nothing of it has been fed."""
    last = datetime(2025, 12, 31, tzinfo=UTC).date()
    asked = Asked(first_date=last - timedelta(days=days - 1), last_date=last)
    return create_backfill(flow, asked, user=None, sure=days, **given)


def ran(of: Backfill, **states: str) -> None:
    """Give cycles runs that ended so, by their positions."""
    for position, state in states.items():
        cycle = of.cycles.get(position=int(position.removeprefix("n")))
        [run] = launch(of.version, cycles=[cycle.cycle], trigger=Trigger.BACKFILL, by=None)
        ended = None if state in ("pending", "running") else Now()
        Run.objects.filter(pk=run.pk).update(state=state, ended_at=ended)
        BackfillCycle.objects.filter(pk=cycle.pk).update(run=run, launched_at=Now())


# --- the dialog -----------------------------------------------------------------------------


def test_the_preview_lists_every_cycle_with_its_due_time_and_how_it_stands(flow):
    due, missed = (datetime(2026, 3, day, 2, tzinfo=UTC) for day in (2, 3))
    [done] = launch(flow.published, cycles=[due], trigger=Trigger.MANUAL, by=None)
    SchedulePoint.objects.create(workflow=flow, cycle=missed, reason="missed")

    html = preview(flow, **WEEK)

    assert rows(html) == [
        ["2026-03-01", "03-02 02:00", f"Pending {done.pk}"],
        ["2026-03-02", "03-03 02:00", "Missed"],
        *([f"2026-03-0{day}", f"03-0{day + 1} 02:00", "no run"] for day in range(3, 8)),
    ]
    assert "Backfill 7 cycles</button>" in html
    assert "<span>ds_nodash</span><b>20260301</b>" in html
    assert Backfill.objects.count() == 0


def test_a_run_of_some_nodes_alone_is_shown_as_a_part_and_leads_to_its_backfill(flow):
    asked = Asked(dates=[datetime(2026, 3, 1, tzinfo=UTC).date()], node="load")
    made = create_backfill(flow, asked, user=None)
    feed(made.pk)
    run = Run.objects.get()

    html = preview(flow, dates="2026-03-01")

    assert rows(html) == [["2026-03-01", "03-02 02:00", f"Pending {run.pk} part"]]
    page = member().get(f"/w/default/runs/{run.pk}/").content.decode()
    assert f'<a class="oc-action" href="/w/default/backfills/{made.pk}/">{made.pk}</a>' in page


def test_what_the_preview_showed_is_made(flow):
    shown = preview(flow, **WEEK, order="newest")

    answer = member().post(
        dialog(flow),
        {
            **{"how": "backfill", "which": "all", "order": "newest", "at_once": "3"}, **WEEK,
            "token": token(shown), "remarks": "after the repair", "stop_after": "2",
            "addresses": "maya@example.com li@example.com", "parameters": "since=$[MM]",
            "node": "load", "downstream": "",
        },
    )  # fmt: skip

    # It is about one node alone, which the preview did not show.
    assert answer.status_code == 422
    assert "it is about other nodes" in errors(answer.content.decode())[0]
    again = token(answer.content.decode())
    answer = member().post(
        dialog(flow),
        {
            **{"how": "backfill", "which": "all", "order": "newest", "at_once": "3"}, **WEEK,
            "token": again, "remarks": "after the repair", "stop_after": "2",
            "addresses": "maya@example.com li@example.com", "parameters": "since=$[MM]",
            "node": "load",
        },
    )  # fmt: skip
    made = Backfill.objects.get()
    assert answer.headers["Location"] == f"/w/default/backfills/{made.pk}/"
    days = [cycle.day for cycle in made.cycles.order_by("position").values_list("cycle", flat=True)]
    assert days == [8, 7, 6, 5, 4, 3, 2]
    assert (made.order, made.at_once, made.stop_after, made.node, made.downstream) == (
        "newest", 3, 2, "load", False,
    )  # fmt: skip
    assert (made.remarks, made.addresses, made.parameters) == (
        "after the repair", ["maya@example.com", "li@example.com"], {"since": "$[MM]"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        ({"first_date": "2026-03-07", "last_date": "2026-03-01"}, "is before"),
        ({"first_date": "2026-03-07", "last_date": ""}, "say both"),
        ({"first_date": "", "last_date": ""}, "say which cycles"),
        ({"dates": "2026-03-01 soon"}, "&#x27;soon&#x27; is none"),
        ({"cycles": "2026-03-01T00:00:00"}, "write times with an offset"),
        ({**WEEK, "at_once": "0"}, "greater than or equal to 1"),
        ({**WEEK, "node": "nope"}, "Select a valid choice"),
        ({**WEEK, "addresses": "nobody"}, "is no e-mail address"),
        ({"first_date": "2026-03-01", "last_date": "2199-03-01"}, "still to come"),
    ],
)
def test_a_preview_says_what_is_wrong_and_nothing_can_be_started(flow, sent, fault):
    html = preview(flow, **sent)

    assert fault in html
    assert 'aria-disabled="true" title="Nothing to start yet"' in html


def test_the_preview_says_how_long_it_takes_and_what_it_does_again(flow):
    for day in (2, 3, 4):
        due = datetime(2026, 3, day, 2, tzinfo=UTC)
        [run] = launch(flow.published, cycles=[due], trigger=Trigger.MANUAL, by=None)
        begun, ended = Now() - timedelta(minutes=day), Now()
        Run.objects.filter(pk=run.pk).update(state="succeeded", started_at=begun, ended_at=ended)

    html = " ".join(preview(flow, **WEEK, at_once="2").split())

    assert "about 12m 00s: 7 × 3m 00s, 2 at once" in html
    assert '<span class="oc-warn">3 cycles</span> that have succeeded' in html
    assert "Takes" not in preview(flow, **WEEK, node="load")


def test_thirty_days_are_one_click_away_and_what_was_typed_stays(flow):
    asked = member().get(dialog(flow), {"how": "backfill"}, headers=HTMX).content.decode()
    [place] = re.findall(r'hx-get="([^"]*)"[^>]*>Last 30 days<', asked)

    place = place.replace("&amp;", "&") + "&which=all&order=newest&at_once=3&remarks=again"
    html = member().get(place, headers=HTMX).content.decode()

    assert "Backfill 30 cycles</button>" in html
    assert re.search(r'aria-current="true">Last 30 days<', html)
    assert 'name="at_once" value="3"' in html


def test_a_list_of_dates_counts_for_more_than_the_range(flow):
    html = preview(flow, **WEEK, dates="2026-01-05, 2026-01-03\n2026-01-05")

    assert [row[0] for row in rows(html)] == ["2026-01-03", "2026-01-05"]


def test_it_begins_with_the_last_seven_data_dates_that_are_past(flow):
    html = member().get(dialog(flow), {"how": "backfill"}, headers=HTMX).content.decode()

    now = datetime.now(UTC)
    newest = now.replace(hour=2, minute=0)
    newest -= timedelta(days=newest > now)
    found = [row[0] for row in rows(html)]
    assert found == [f"{newest - timedelta(days=7 - n):%Y-%m-%d}" for n in range(7)]
    assert "Backfill 7 cycles</button>" in html


def test_a_missed_point_is_one_click_from_its_backfill(flow):
    cycle = datetime(2026, 3, 3, 2, tzinfo=UTC)
    SchedulePoint.objects.create(workflow=flow, cycle=cycle, reason="missed", note="held")
    html = member().get(f"/w/default/workflows/{flow.pk}/schedule/").content.decode()
    [place] = re.findall(r'hx-get="([^"]*how=backfill[^"]*)"', html)

    asked = member().get(place.replace("&amp;", "&"), headers=HTMX).content.decode()

    assert rows(asked) == [["2026-03-02", "03-03 02:00", "Missed"]]


def test_a_long_list_comes_as_one_scrolls_and_many_are_asked_for_twice(flow):
    sent = {"first_date": "2020-01-01", "last_date": "2023-12-31"}
    html = preview(flow, **sent)
    assert (len(rows(html)), "Backfill 1461 cycles" in html) == (201, True)
    assert "Yes, run all 1461 cycles" in html

    asked = {"part": "cycles", "start": "1400", "how": "backfill", **sent}
    last = member().get(dialog(flow), asked)
    assert [row[0] for row in rows(last.content.decode())][::60] == ["2023-11-01", "2023-12-31"]
    assert "intersect" not in last.content.decode()

    body = {"how": "backfill", "token": token(html), "remarks": "", **sent}
    answer = member().post(dialog(flow), body)
    assert answer.status_code == 422
    assert "These are 1,461 cycles; say that you are sure: 1461" in errors(answer.content.decode())
    assert member().post(dialog(flow), {**body, "sure": "1461"}).status_code == 303
    assert BackfillCycle.objects.count() == 1461


@pytest.mark.parametrize("days", [2, 150])
def test_a_preview_asks_as_often_for_many_cycles_as_for_few(flow, django_assert_num_queries, days):
    client = member()
    last = datetime(2025, 1, 1, tzinfo=UTC).date() + timedelta(days=days - 1)
    sent = {"part": "preview", "how": "backfill", "first_date": "2025-01-01", "last_date": last}

    # session, user, member; workflow; clock; variables, jobs, queues; missed points, newest runs
    # (and of what versions these are, where there are any); how long the last ones took
    with django_assert_num_queries(11):
        assert len(rows(client.get(dialog(flow), sent).content.decode())) == days


def test_who_may_not_run_makes_no_backfill(flow):
    for role in (Role.GUEST, Role.DATA_SCIENCE):
        answer = member(role).post(dialog(flow), {"how": "backfill", **WEEK, "remarks": ""})
        assert answer.status_code == 403
    assert Backfill.objects.count() == 0


# --- the list and the page ------------------------------------------------------------------


@pytest.mark.parametrize("many", [1, 3])
def test_backfills_with_their_progress(flow, django_assert_num_queries, many):
    for _ in range(many):
        ran(backfill(flow), n0="succeeded", n1="failed", n2="running")
    client = member()

    # session, user, member; backfills, their counts, their first and last cycles
    with django_assert_num_queries(6):
        html = client.get("/w/default/backfills/").content.decode()

    assert [row[1:5] for row in rows(html)] == [
        [
            "Running", "flow v1", "2025-12-25 to 2025-12-31",
            "(Succeeded) 1 succeeded(Failed) 1 failed(Running) 1 running(Not run) 4 to come",
        ]
    ] * many  # fmt: skip


def test_a_workspace_without_backfills_says_what_they_are():
    assert "<h2>No backfills yet</h2>" in member().get("/w/default/backfills/").content.decode()


@pytest.mark.parametrize("days", [3, 250])
def test_a_backfill_with_its_cycles_by_pages(flow, django_assert_num_queries, days):
    made = backfill(flow, days)
    ran(made, n0="succeeded", n1="failed")
    client, here = member(), f"/w/default/backfills/{made.pk}/"

    # session, user, member; backfill, counts, first and last cycle, cycles, events
    with django_assert_num_queries(8):
        html = client.get(here, headers=HTMX).content.decode()

    found = rows(html)
    assert found[0][2] == "Succeeded"
    assert (found[1][2], found[2][2]) == ("Failed", "to come")
    assert requests(html) == [here]
    following = re.search(r'href="(\?after=\d+)">Next', html)
    assert bool(following) is (days == 250)
    if following:
        second = rows(client.get(here + following[1], headers=HTMX).content.decode())
        assert second[0][0] == "2025-08-04"
    failed = rows(client.get(f"{here}?state=failed", headers=HTMX).content.decode())
    assert [row[2] for row in failed if len(row) == 5] == ["Failed"]


def test_a_backfill_is_paused_resumed_and_cancelled_from_its_page(flow):
    made = backfill(flow)
    client, here = member(), f"/w/default/backfills/{made.pk}/"

    client.post(f"{here}pause/")
    html = client.get(here).content.decode()
    assert "Paused by a owner" in html
    assert ">Resume</button>" in html
    client.post(f"{here}resume/")
    assert ">Pause</button>" in client.get(here).content.decode()
    assert "7 cycles get no run" in client.get(f"{here}cancel/").content.decode()
    client.post(f"{here}cancel/", {"stop_running": "1"})

    made.refresh_from_db()
    assert (made.cancelled_by.username, made.stop_running) == ("a owner", True)
    html = client.get(here).content.decode()
    notes = [row[2] for row in rows(html) if len(row) == 3]
    assert notes == ["cancelled, with what runs", "resumed", "paused", "made, of 7 cycles"]
    assert "Not run" in html


def test_what_still_runs_of_a_cancelled_backfill_is_stopped_later(flow):
    made = backfill(flow)
    ran(made, n0="running")
    cancel_backfill(made, user=None)
    client, here = member(), f"/w/default/backfills/{made.pk}/"

    html = client.get(here).content.decode()
    assert "being cancelled" in html
    assert '6 <span class="oc-quiet">not run</span>' in html
    assert ">Stop what runs</button>" in client.get(f"{here}cancel/").content.decode()
    assert client.post(f"{here}cancel/").status_code == 409
    client.post(f"{here}cancel/", {"stop_running": "1"})

    made.refresh_from_db()
    assert made.stop_running


def test_what_is_over_asks_for_nothing_more(flow):
    made = backfill(flow, 2)
    ran(made, n0="succeeded", n1="succeeded")
    Backfill.objects.filter(pk=made.pk).update(ended_at=Now())

    html = member().get(f"/w/default/backfills/{made.pk}/", headers=HTMX).content.decode()

    assert requests(html) == []
    assert "oc-pill oc-is-succeeded" in html


def test_pausing_twice_says_so_and_a_guest_may_not(flow):
    made = backfill(flow)
    pause_backfill(made, user=None)
    here = f"/w/default/backfills/{made.pk}/"

    assert member().post(f"{here}pause/").status_code == 409
    assert member(Role.DATA_SCIENCE).post(f"{here}resume/").status_code == 403
    assert ">Resume</button>" not in member(Role.GUEST).get(here).content.decode()
    cancel_backfill(made, user=None)
    assert member().post(f"{here}resume/").status_code == 409
