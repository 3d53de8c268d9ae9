"""Variables from a draft to what a node finds, and where a wrong one is said."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO

import pytest

from apps.core.errors import Invalid
from apps.engine.states import RunState, Trigger
from apps.nodes.services.files import put_file
from apps.nodes.services.jobs import create_job, publish_job, save_draft
from apps.runs.models import Attempt, Run
from apps.runs.services.launch import launch
from apps.workflows.services.publishing import draft_faults, publish
from apps.workspaces.models import Workspace
from tests.factories import by_hand, job, published, workspace
from tests.waiting import until
from tests.workers import ended

#: 02:30 of the next day in Berlin.
CYCLE = datetime(2026, 3, 2, 1, 30, tzinfo=UTC)


def faults_of(name: str, used) -> list[str]:
    """What keeps a workflow with one node of this job from being published."""
    with pytest.raises(Invalid) as refused:
        published("load", name=name, uses={"load": used})
    return [f"{fault.field}: {fault.message}" for fault in refused.value.faults]


@pytest.mark.django_db
def test_unknown_names_are_found_when_a_workflow_is_published_with_node_and_field():
    used = job(
        "load",
        arguments=["${ds}", "${dss} ${since:-now}", "$${kept}"],
        parameters={"a": "${b}", "b": "${nope}"},
    )

    assert faults_of("flow", used) == [
        "load: node 'load': parameters: b: unknown variable ${nope}; define it, give it a default "
        "as in ${nope:-x}, or write $${nope} to keep it as text",
        "load: node 'load': arguments: item 2: unknown variable ${dss}, did you mean ${ds}?",
    ]


@pytest.mark.django_db
def test_entry_file_of_sql_is_read_when_a_workflow_is_published():
    put_file(workspace(), "q.sql", BytesIO(b"SELECT 1;\nSELECT '${dss}', '${spark.x}'"), user=None)
    used = job("query", "", kind="sql", entry_file="q.sql")

    assert faults_of("flow", used) == [
        "load: node 'load': q.sql: line 2: unknown variable ${dss}, did you mean ${ds}?"
    ]


@pytest.mark.django_db
def test_new_version_of_a_job_with_an_unknown_name_keeps_its_workflow_from_being_published():
    used = job("load")
    flow = published("load", uses={"load": used}).workflow
    save_draft(used, {"content": "true", "arguments": ["${dss}"]}, revision=used.revision)
    publish_job(used, remarks="", user=None)

    assert [fault.field for fault in draft_faults(flow)] == ["load"]
    with pytest.raises(Invalid):
        publish(flow, remarks="", user=None)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("shell", {"content": "true", "arguments": ["a", "$[yyyMM]"]},
         "arguments: item 2 $[yyyMM] is no time"),
        ("shell", {"content": "true", "parameters": {"ds": "1"}},
         "parameters: ds is set by Runyard; choose another name"),
        ("sql", {"content": "SELECT 1;\nSELECT '$[yyyy-x]'"}, "content: line 2: $[yyyy-x] is no"),
        ("pyspark", {"content": "x", "spark": {"conf": {"spark.x": "$[add_month(yyyy,1)]"}}},
         "spark.conf: spark.x $[add_month(yyyy,1)] is no time"),
        ("spark_submit", {"submit_line": "a.jar $[month_first_day(yyyy, 1)]"},
         "submit_line: $[month_first_day(yyyy, is not closed"),
    ],
)  # fmt: skip
def test_wrong_grammar_keeps_a_job_from_being_published(kind, spec, message):
    row = create_job(workspace(), "load", kind, user=None, spec=spec)

    with pytest.raises(Invalid) as refused:
        publish_job(row, remarks="", user=None)

    [fault] = refused.value.faults
    assert fault.message.startswith(message)


@pytest.mark.django_db
def test_job_run_by_itself_is_refused_where_a_name_is_unknown_and_takes_it_as_a_parameter():
    row = job("load", arguments=["${since}"])
    queue = workspace().queues.get(name="root_queue")

    def start(**parameters: str) -> list[Run]:
        return launch(
            row.published, cycles=[CYCLE], trigger=Trigger.MANUAL, by=None, queue=queue,
            parameters=parameters,
        )  # fmt: skip

    with pytest.raises(Invalid) as refused:
        start()
    assert [fault.field for fault in refused.value.faults] == ["arguments"]
    assert Run.objects.count() == 0

    [run] = start(since="$[yyyyMMdd-7]")
    assert run.parameters == {"since": "$[yyyyMMdd-7]"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(120)
def test_node_finds_the_values_of_its_cycle_whatever_started_its_run(start):
    Workspace.objects.filter(pk=workspace().pk).update(zone="Europe/Berlin")
    start()
    script = "echo ${ds} $1 $path $since ${cycle_time}"
    used = job(
        "speak", script,
        arguments=["$[yyyyMMddHH-3/24]"],
        parameters={"path": "/data/${since}/${ds_nodash}", "since": "never"},
    )  # fmt: skip
    version = published("say", uses={"say": used})
    runs = [
        launch(version, cycles=[CYCLE], trigger=trigger, by=None, parameters={"since": "$[MM]"})[0]
        for trigger in (Trigger.MANUAL, Trigger.SCHEDULE, Trigger.BACKFILL)
    ]

    for run in runs:
        until(lambda run=run: ended(run), "the run's end")

    assert {attempt.log_tail for attempt in Attempt.objects.all()} == {
        "2026-03-01 2026030123 /data/03/20260301 03 2026-03-02T02:30:00+01:00\n"
    }
    assert [run.state for run in runs] == [RunState.SUCCEEDED] * 3


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(120)
def test_node_whose_job_brought_an_unknown_name_since_fails_before_anything_of_it_runs(start):
    start()
    used = job("load")
    version = published("load", uses={"load": used})
    save_draft(used, {"content": "echo ran", "arguments": ["x", "${dss}"]}, revision=used.revision)
    publish_job(used, remarks="", user=None)
    run = by_hand(version)

    until(lambda: ended(run), "the run's end")

    assert (run.state, run.nodes.get().reason) == (
        RunState.FAILED,
        "arguments: item 2: unknown variable ${dss}, did you mean ${ds}?",
    )
    assert Attempt.objects.get().log_tail == f"runyard: {run.nodes.get().reason}\n"
