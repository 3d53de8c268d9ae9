"""Debug runs: the draft in a development queue, which counts for nothing."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from django.db.models.functions import Now

from apps.core.errors import Invalid
from apps.engine.roles import Role
from apps.engine.states import NodeState, Overlap, RunState, Trigger
from apps.runs.models import NodeRun, Run
from apps.runs.services.launch import launch
from apps.runs.services.prune import prune
from apps.runs.shown import last_runs
from apps.runs.variables import left_by
from apps.workflows.clock import cycle_of
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workflows.services.drafting import WholeNode, replace_draft
from apps.workflows.services.publishing import draft_version, publish
from tests.api import ran
from tests.factories import by_hand, job, published, workspace
from tests.html import errors, rows
from tests.people import member

pytestmark = pytest.mark.django_db

FLOWS = "/w/default/workflows/"


@pytest.fixture
def flow() -> Workflow:
    """Published with one node; its draft has another one."""
    flow = published("old", uses={"old": job("etl/old")}).workflow
    flow.refresh_from_db()
    job("etl/new", arguments=["${ds}"])
    replace_draft(flow, [WholeNode("new", "etl/new")], set(), revision=flow.revision)
    flow.refresh_from_db()
    return flow


def dev():
    return workspace().queues.get(name="dev_queue")


def debug(flow: Workflow, **given) -> Run:
    version = draft_version(flow, user=None)
    [run] = launch(
        version, cycles=[datetime.now(UTC)], trigger=Trigger.DEBUG, by=None, queue=dev(), **given
    )
    return run


def test_debug_runs_the_draft_and_leaves_what_is_published(flow):
    published_before = flow.published_id

    answer = member().post(
        f"{FLOWS}{flow.pk}/run/", {"how": "debug", "queue": dev().pk, "data_date": "2026-03-01"}
    )

    run = Run.objects.get()
    assert answer.headers["Location"] == f"/w/default/runs/{run.pk}/"
    assert (run.trigger, run.version.number, run.cycle.date()) == ("debug", None, date(2026, 3, 2))
    assert [(n.key, n.queue.name) for n in run.nodes.all()] == [("new", "dev_queue")]
    flow.refresh_from_db()
    assert flow.published_id == published_before
    assert publish(flow, remarks="", user=None).number == 2
    client = member()
    assert rows(client.get("/w/default/runs/?trigger=debug").content.decode())[0][3] == "Debug"
    versions = client.get(f"{FLOWS}{flow.pk}/versions/").content.decode()
    assert [row[0] for row in rows(versions)] == ["v2 current", "v1"]
    assert client.get(f"/w/default/runs/{run.pk}/").status_code == 200


def test_debug_takes_a_development_queue_alone(flow):
    answer = member().post(
        f"{FLOWS}{flow.pk}/run/",
        {"how": "debug", "queue": workspace().queues.get(name="root_queue").pk, "remarks": ""},
    )

    assert answer.status_code == 422
    assert Run.objects.count() == WorkflowVersion.objects.filter(number=None).count() == 0


def test_faults_of_a_draft_are_said_in_the_dialog_and_nothing_is_kept(flow):
    job("etl/lacks", arguments=["${since}"], parameters={"since": "x"})
    Workflow.objects.filter(pk=flow.pk).update(variables={"since": "${nope}"})

    answer = member().post(
        f"{FLOWS}{flow.pk}/run/", {"how": "debug", "queue": dev().pk, "remarks": ""}
    )

    assert answer.status_code == 422
    [said] = errors(answer.content.decode())
    assert said.startswith("Node &#x27;new&#x27;: variables of the workflow: since: unknown")
    assert WorkflowVersion.objects.filter(number=None).count() == 0


def test_who_may_run_drafts_only_is_offered_no_production_run(flow):
    client = member(Role.DATA_SCIENCE)
    here = f"{FLOWS}{flow.pk}/run/"

    html = client.get(here, headers={"HX-Request": "true"}).content.decode()

    assert 'value="debug" checked' in html
    assert client.post(here, {"how": "manual"}).status_code == 403
    assert client.post(here, {"how": "debug", "queue": dev().pk}).status_code == 303
    assert member(Role.GUEST).post(here, {"how": "debug", "queue": dev().pk}).status_code == 403


def test_debug_runs_are_in_no_bar_and_no_trend(flow):
    publish(flow, remarks="", user=None)
    flow.refresh_from_db()
    good = []
    for _ in range(2):
        good.append(by_hand(flow.published))
        ran(good[-1].nodes.get()).node_run.attempts.update(values={"rows": "1"})
        ran(debug(flow).nodes.get()).node_run.attempts.update(values={"rows": "99"})

    node = good[-1].nodes.get()
    [left] = left_by(node, node.attempts.get())

    assert [past.pk for past in last_runs([flow.pk])[flow.pk]] == [run.pk for run in good]
    assert [number for _, number in left.past] == [1.0, 1.0]


def test_a_debug_run_under_way_makes_no_scheduled_point_skipped(flow):
    version = flow.published
    version.graph["settings"]["overlap"] = Overlap.SKIP.value
    version.save()
    debug(flow)

    [run] = launch(
        version, cycles=[datetime(2026, 3, 2, tzinfo=UTC)], trigger=Trigger.SCHEDULE, by=None
    )

    assert run.state == RunState.PENDING
    assert not run.waits


def test_a_draft_that_was_run_is_forgotten_with_its_run(flow):
    run = debug(flow)
    NodeRun.objects.filter(run=run).update(state=NodeState.SUCCEEDED)
    Run.objects.filter(pk=run.pk).update(state="succeeded", ended_at=Now() - timedelta(days=91))
    WorkflowVersion.objects.filter(pk=run.version_id).update(created_at=Now() - timedelta(days=91))
    other = debug(flow)

    prune(days=90)

    assert list(WorkflowVersion.objects.filter(number=None)) == [other.version]
    assert flow.versions.filter(number=1).exists()


DAILY = {"kind": "days", "time": "02:30"}
HOURLY = {"kind": "hours", "every": 3, "from": "08:00", "to": "20:00"}
MONDAYS = {"kind": "weekly", "days": ["mon"], "time": "07:00"}
LATER = {**DAILY, "started_at": "2030-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("schedule", "zone", "data_date", "cycle"),
    [
        pytest.param(None, "UTC", "2026-03-01", "03-02T00:00", id="by hand alone"),
        pytest.param(None, "Asia/Shanghai", "2026-03-01", "03-01T16:00", id="in its zone"),
        pytest.param(DAILY, "Europe/Berlin", "2026-03-28", "03-29T01:00", id="a skipped hour"),
        pytest.param(HOURLY, "UTC", "2026-03-01", "03-02T08:00", id="the first of several"),
        pytest.param(MONDAYS, "UTC", "2026-03-03", "03-04T00:00", id="a day without a point"),
        pytest.param(LATER, "UTC", "2026-03-01", "03-02T02:30", id="before it started"),
    ],
)
def test_a_data_date_leads_to_a_cycle(schedule, zone, data_date, cycle):
    settings = {"schedule": schedule, "data_offset": 1}

    assert (
        cycle_of(date.fromisoformat(data_date), settings, zone).isoformat()
        == f"2026-{cycle}:00+00:00"
    )


@pytest.mark.parametrize(
    ("data_date", "zone"),
    [("1899-12-31", "UTC"), ("3000-01-01", "UTC"), ("2011-12-29", "Pacific/Apia")],
)
def test_a_data_date_out_of_reach_is_refused(data_date, zone):
    with pytest.raises(Invalid):
        cycle_of(date.fromisoformat(data_date), {}, zone)


def test_the_dialog_shows_the_variables_of_the_date_before_it_starts_anything(flow):
    client = member()
    here = f"{FLOWS}{flow.pk}/run/?part=preview&how=manual"

    html = client.get(f"{here}&data_date=2026-03-01").content.decode()
    assert "<span>ds_nodash</span><b>20260301</b>" in html
    assert "<span>cycle_time</span><b>2026-03-02T00:00:00+00:00</b>" in html
    assert "Nothing to show yet" in client.get(f"{here}&data_date=3026-03-01").content.decode()
    assert "Nothing to show yet" in client.get(f"{here}&data_date=soon").content.decode()
    assert Run.objects.count() == 0

    answer = client.post(
        f"{FLOWS}{flow.pk}/run/", {"how": "manual", "data_date": "2026-03-01", "remarks": ""}
    )
    assert answer.status_code == 303
    assert Run.objects.get().cycle == datetime(2026, 3, 2, tzinfo=UTC)
