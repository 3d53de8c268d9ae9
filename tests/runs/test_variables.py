"""Variables from a draft to what a node finds, and where a wrong one is said."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO

import pytest

from apps.core.errors import Invalid
from apps.engine.states import RunState, Trigger
from apps.engine.timevars import built_in
from apps.nodes.kinds.base import Given, definitions
from apps.nodes.services.files import put_file
from apps.nodes.services.jobs import create_job, publish_job, save_draft
from apps.runs.models import Attempt, Run
from apps.runs.services.anew import Change, rerun_anew
from apps.runs.services.launch import launch
from apps.workflows.clock import moment_of
from apps.workflows.services.drafting import (
    NodeSettings,
    WholeNode,
    edit_node,
    edit_workflow,
    replace_draft,
)
from apps.workflows.services.publishing import publish
from apps.workspaces.models import Variable, Workspace
from apps.workspaces.variables import set_variable
from tests.api import program
from tests.factories import by_hand, job, published, workspace
from tests.html import errors
from tests.people import member
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
def test_job_whose_new_version_a_published_workflow_lacks_a_name_for_is_not_published():
    used = job("load")
    flow = published("load", uses={"load": used}, name="flow").workflow
    published("load", uses={"load": used}, name="has it", variables={"place": "eu"})
    published("load", uses={"load": used}, name="pinned", node={"job_version_number": 1})
    save_draft(used, {"content": "true", "arguments": ["${place}"]}, revision=used.revision)

    with pytest.raises(Invalid) as refused:
        publish_job(used, remarks="", user=None)
    assert [(fault.field, fault.message) for fault in refused.value.faults] == [
        (
            "arguments",
            "node 'load' of workflow 'flow' would fail: arguments: item 1: unknown variable "
            "${place}; define it, give it a default as in ${place:-x}, or write $${place} to keep "
            "it as text",
        )
    ]

    edit_workflow(flow, revision=2, variables={"place": "us"})
    publish(flow, remarks="", user=None)
    publish_job(used, remarks="", user=None)
    used.refresh_from_db()
    assert used.published.number == 2


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
def test_node_that_lost_a_variable_since_fails_before_anything_of_it_runs(start):
    start()
    set_variable(workspace(), "place", "eu", user=None)
    used = job("load", "echo ran", arguments=["x", "${place}"])
    version = published("load", uses={"load": used})
    Variable.objects.all().delete()  # not by the service, which asks who uses it
    run = by_hand(version)

    until(lambda: ended(run), "the run's end")

    assert (run.state, run.nodes.get().reason) == (
        RunState.FAILED,
        "arguments: item 2: unknown variable ${place}; define it, give it a default as in "
        "${place:-x}, or write $${place} to keep it as text",
    )
    assert Attempt.objects.get().log_tail == f"runyard: {run.nodes.get().reason}\n"


@pytest.mark.django_db
def test_definition_nearest_to_the_run_counts_and_values_may_use_those_of_any_scope():
    spec = {"parameters": {"job": "j", "flow": "j", "node": "j", "run": "j"}}
    given = Given(
        workspace={"place": "w", "job": "w", "flow": "w", "node": "w", "run": "w"},
        workflow={"flow": "f", "node": "f", "run": "f", "path": "${node}/${place}/${ds}"},
        node={"node": "n", "run": "n"},
        run={"run": "r"},
    )

    found = definitions(spec, given)

    assert {name: (str(each.source), each.text) for name, each in found.items()} == {
        "place": ("workspace", "w"),
        "job": ("job", "j"),
        "flow": ("workflow", "f"),
        "node": ("node", "n"),
        "run": ("run", "r"),
        "path": ("workflow", "${node}/${place}/${ds}"),
    }


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(120)
def test_run_keeps_its_variables_zone_and_offset_and_a_rerun_takes_other_parameters(start):
    set_variable(workspace(), "region", "eu", user=None)
    set_variable(workspace(), "place", "/${region}", user=None)
    used = job("speak", "echo $path $region ${ds} $many")
    version = published(
        "say",
        uses={"say": used},
        variables={"path": "${place}/${many:-1}", "many": "2"},
        node={"variables": {"many": "3"}},
        data_offset=0,
    )
    [run] = launch(version, cycles=[CYCLE], trigger=Trigger.SCHEDULE, by=None)
    set_variable(workspace(), "region", "us", user=None)
    Workspace.objects.update(zone="Asia/Tokyo")
    edit_workflow(version.workflow, revision=2, variables={"many": "0"}, data_offset=9)
    publish(version.workflow, remarks="", user=None)
    start()

    until(lambda: ended(run), "the run's end")
    again = rerun_anew(run, change=Change(parameters={"many": "$[HH]"}), user=None)
    until(lambda: ended(again), "the rerun's end")

    said = [Attempt.objects.get(node_run__run=each).log_tail for each in (run, again)]
    assert said == ["/eu/3 eu 2026-03-02 3\n", "/us/10 us 2026-03-02 10\n"]


@pytest.mark.django_db
def test_parameters_that_cannot_be_resolved_are_refused_before_a_run_begins():
    flow = published("a", "b", variables={"x": "1"}).workflow
    caller = program()

    answer = caller.post(f"workflows/{flow.pk}/run", {"parameters": {"x": "${nope}"}})

    assert answer.status_code == 422
    assert [each["field"] for each in answer.json()["errors"]] == ["a", "b"]
    assert answer.json()["errors"][0]["message"] == (
        "node 'a': variables of the run: x: unknown variable ${nope}; define it, give it a default "
        "as in ${nope:-x}, or write $${nope} to keep it as text"
    )
    assert Run.objects.count() == 0


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"a b": "1"}, "'a b' is no name; use letters, digits and '_', no digit first"),
        ({"ds": "1"}, "ds is set by Runyard; choose another name"),
        ({"PATH": "1"}, "PATH is set by Runyard; choose another name"),
        ({"a": "$[yyyy"}, "a $[yyyy is not closed; end it with ], or write $$[yyyy for text"),
    ],
)
def test_variable_that_cannot_be_is_refused_where_it_stands(variables, message):
    flow = published("a").workflow

    with pytest.raises(Invalid) as of_workflow:
        edit_workflow(flow, revision=2, variables=variables)
    with pytest.raises(Invalid) as of_node:
        edit_node(flow, "a", NodeSettings("job_of_flow", variables=variables), revision=2)
    with pytest.raises(Invalid) as of_draft:
        replace_draft(flow, [WholeNode("a", "job_of_flow", variables=variables)], [], revision=2)

    found = [
        (fault.field, fault.message)
        for error in (of_workflow, of_node, of_draft)
        for fault in error.value.faults
    ]
    assert found == [
        ("variables", message), ("variables", message), ("a", f"node 'a': {message}")
    ]  # fmt: skip


@pytest.mark.django_db
def test_variables_and_offset_make_another_version_and_none_do_not():
    flow = published("a").workflow
    first = flow.versions.get()

    assert "variables" not in first.graph["settings"]
    edit_workflow(flow, revision=2, variables={"x": "1"})
    second = publish(flow, remarks="", user=None)
    edit_node(flow, "a", NodeSettings("job_of_flow", variables={"x": "2"}), revision=3)
    third = publish(flow, remarks="", user=None)
    edit_workflow(flow, revision=4, data_offset=2)
    fourth = publish(flow, remarks="", user=None)

    assert len({each.digest for each in (first, second, third, fourth)}) == 4
    with pytest.raises(Invalid) as refused:
        edit_workflow(flow, revision=5, data_offset=3_651)
    assert str(refused.value) == "3,651 days back is too far; 3,650 are allowed"


@pytest.mark.django_db
def test_rest_gives_and_takes_the_variables_of_a_workflow_and_its_nodes():
    flow = published("a").workflow
    caller = program()
    draft = {
        "revision": 2,
        "variables": {"region": "eu"},
        "data_offset": 0,
        "nodes": [{"name": "a", "job": "job_of_flow", "variables": {"path": "/${region}"}}],
        "edges": [],
    }

    assert caller.put(f"workflows/{flow.pk}/draft", draft).status_code == 200
    shown = caller.get(f"workflows/{flow.pk}").json()
    caller.post(f"workflows/{flow.pk}/publish")
    version = caller.get(f"workflows/{flow.pk}/versions/2").json()

    for each in (shown, {**version["settings"], "nodes": version["nodes"]}):
        assert (each["variables"], each["data_offset"]) == ({"region": "eu"}, 0)
        assert [node["variables"] for node in each["nodes"]] == [{"path": "/${region}"}]


@pytest.mark.django_db
def test_pages_take_variables_of_a_workflow_a_node_and_a_run():
    flow = published("a").workflow
    client, here = member(), f"/w/default/workflows/{flow.pk}"
    form = {"name": "flow", "strategy": "end", "variables": "region=eu\npath=/${region}=$[yyyy]"}

    client.post(f"{here}/settings/", {**form, "data_offset": "3", "revision": 2})
    node = {"job_path": "job_of_flow", "name": "a", "variables": "many=1"}
    client.post(f"{here}/node/?name=a", {**node, "revision": 3})
    flow.refresh_from_db()
    wrong = client.post(f"{here}/run/", {"remarks": "", "parameters": "many=${nope}"})
    client.post(f"{here}/run/", {"remarks": "", "parameters": "many=2"})

    assert (flow.variables, flow.data_offset) == ({"region": "eu", "path": "/${region}=$[yyyy]"}, 3)
    assert flow.nodes.get().variables == {"many": "1"}
    assert "unknown variable ${nope}" in " ".join(errors(wrong.content.decode()))
    assert Run.objects.get().parameters == {"many": "2"}
    html = client.get(f"{here}/settings/").content.decode()
    assert "path=/${region}=$[yyyy]\nregion=eu" in html


@pytest.mark.parametrize(
    ("schedule", "start"),
    [
        (None, "2026-03-01T02:30:00+01:00"),
        ({"kind": "days", "time": "02:30"}, "2026-03-01T02:30:00+01:00"),
        ({"kind": "minutes", "every": 15, "from": "00:00", "to": "23:59"},
         "2026-03-02T02:15:00+01:00"),
        ({"kind": "monthly", "days": [1], "time": "00:00"}, "2026-03-01T00:00:00+01:00"),
        ({"kind": "cron", "cron": "0 0 29 2 *"}, "2024-02-29T00:00:00+01:00"),
    ],
)  # fmt: skip
def test_interval_begins_at_the_schedules_point_before_the_cycle(schedule, start):
    begun = schedule and {**schedule, "started_at": "2026-03-02T01:30:00Z"}

    found = built_in(moment_of(CYCLE, {"schedule": begun}, "Europe/Berlin"))

    assert (found["interval_start"], found["interval_end"]) == (start, "2026-03-02T02:30:00+01:00")
