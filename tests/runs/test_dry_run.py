"""Dry runs: what would be started, and that nothing is."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from itertools import pairwise

import pytest
from django.core.files.storage import default_storage

from apps.core.errors import Invalid
from apps.engine.states import RunState, Trigger
from apps.nodes.models import Job
from apps.nodes.services.files import blob_name, put_file
from apps.runs.models import Run, RunEvent
from apps.runs.services.dry_run import FILE_BYTES, TEXT, DryNode, dry_run
from apps.runs.services.launch import launch
from apps.runs.variables import resolved
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workflows.services.drafting import WholeNode, replace_draft
from apps.workflows.services.publishing import drafted
from apps.workspaces.secrets import set_secret
from apps.workspaces.variables import set_variable
from tests.factories import job, published, workspace
from tests.people import member
from tests.waiting import until
from tests.workers import ended

#: 02:30 of the next day in Berlin.
CYCLE = datetime(2026, 3, 2, 1, 30, tzinfo=UTC)


def only(version: WorkflowVersion, **given) -> DryNode:
    [node] = dry_run(version, cycle=CYCLE, **given).nodes
    return node


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(120)
def test_a_node_is_started_with_what_its_dry_run_shows(start):
    set_variable(workspace(), "region", "eu", user=None)
    set_secret(workspace(), "WAREHOUSE_PASSWORD", "canary-4711", user=None)
    load = job("load", "echo rows=42 >> $RUNYARD_OUTPUT")
    count = job(
        "count", 'for each in "$0" "$@"; do echo "[$each]"; done',
        arguments=["${ds}", "${path}", "${nodes.load.rows:-none}", "a b"],
        parameters={"path": "/data/${region}/$[yyyyMMdd-1]"},
        secrets=["WAREHOUSE_PASSWORD"],
    )  # fmt: skip
    used = {"load": load, "count": count}
    version = published(*used, edges=[("load", "count")], uses=used)
    given = {"parameters": {"since": "$[MM]"}, "queue": workspace().queues.get(name="root_queue")}

    dry = dry_run(version, cycle=CYCLE, **given)

    assert Run.objects.count() == RunEvent.objects.count() == 0
    start()
    [run] = launch(version, cycles=[CYCLE], trigger=Trigger.MANUAL, by=None, **given)
    until(lambda: ended(run), "the end of the run")
    assert run.state == RunState.SUCCEEDED
    for shown, node in zip(dry.nodes, run.nodes.order_by("pk"), strict=True):
        found = {each.name: each for each in resolved(node, node.attempts.get()).variables}
        told = {each.name: each for each in shown.variables.variables}
        if shown.key == "count":
            assert told.pop("nodes.load.rows").value == "${nodes.load.rows}"
            assert found.pop("nodes.load.rows").value == "42"
            assert told["WAREHOUSE_PASSWORD"].value == "***"
        assert told == found
        assert (shown.key, shown.demand, shown.chosen.queue, shown.chosen.version) == (
            node.key, node.demand, node.queue, node.job_version,
        )  # fmt: skip
        assert (shown.priority, shown.faults) == (node.priority, ())
    tail = run.nodes.get(key="count").attempts.get().log_tail
    begun = [line[1:-1] for line in tail.splitlines()]
    assert ("bash", *begun) == tuple(
        word.replace("${nodes.load.rows}", "42") for word in dry.nodes[1].argv
    )
    assert dry.nodes[1].upstream == ("load",)
    assert "canary-4711" not in repr(dry)


@pytest.mark.django_db
def test_text_of_sql_is_shown_with_its_values_and_read_from_the_file_that_was_published():
    put_file(workspace(), "q.sql", BytesIO(b"SELECT '${ds}', '${hiveconf:x}'"), user=None)
    used = job("query", "", kind="sql", entry_file="q.sql")
    version = published("query", uses={"query": used})

    node = only(version)

    assert node.files["statements.sql"] == "SELECT '2026-03-01', '${hiveconf:x}'"
    assert node.argv[:3] == ("$SPARK_HOME/bin/spark-submit", "--master", "local[1]")
    assert "spark.test.appId=local-${RUNYARD_ATTEMPT}" in node.argv


@pytest.mark.django_db
def test_faults_stand_with_their_node_and_the_others_are_shown():
    fine, lost = job("fine", "echo fine"), job("lost")
    version = published("fine", "lost", uses={"fine": fine, "lost": lost})
    lost.versions.update(spec={"content": "x", "secrets": ["KEY_OF_NOBODY"]})
    queue = workspace().queues.get(name="dev_queue")

    dry = dry_run(version, cycle=CYCLE, queue=queue)

    assert [(node.key, node.faults) for node in dry.nodes] == [
        ("fine", ("queue 'dev_queue' is not a production queue; choose one that is",)),
        (
            "lost",
            (
                "queue 'dev_queue' is not a production queue; choose one that is",
                "the workspace has no secret KEY_OF_NOBODY; set it and rerun, or take it out of "
                "the job",
            ),
        ),
    ]
    assert dry.nodes[0].argv == ("bash", "main.sh")


@pytest.mark.django_db
def test_a_draft_is_shown_though_nothing_of_it_is_published():
    job("etl/load", arguments=["${region}"])
    flow = published("old", uses={"old": job("etl/old")}).workflow
    flow.refresh_from_db()
    replace_draft(
        flow, [WholeNode("load", "etl/load", variables={"region": "us"})], set(),
        revision=flow.revision,
    )  # fmt: skip

    assert only(drafted(flow)).argv == ("bash", "main.sh", "us")
    assert flow.versions.count() == 1


@pytest.mark.django_db
def test_an_empty_draft_says_so():
    flow = Workflow.objects.create(workspace=workspace(), name="empty")

    with pytest.raises(Invalid, match="the workflow has no node"):
        drafted(flow)


@pytest.mark.django_db
def test_long_texts_are_cut_and_say_how_long_they_are():
    version = published("long", uses={"long": job("long", "#" * 100_000)})

    assert only(version).files["main.sh"] == "#" * TEXT + "… (100,000 characters)"


@pytest.mark.django_db
@pytest.mark.parametrize("many", [1, 3])
def test_dry_run_asks_as_often_for_many_nodes_as_for_one(django_assert_num_queries, many):
    names = [f"n{n}" for n in range(many)]
    version = published(*names, edges=pairwise(names))
    version = WorkflowVersion.objects.select_related("workflow__workspace").get(pk=version.pk)

    # variables; jobs with their versions, queues; secrets
    with django_assert_num_queries(4):
        assert len(dry_run(version, cycle=CYCLE).nodes) == many


@pytest.mark.django_db
def test_page_shows_each_node_and_starts_nothing(django_assert_num_queries):
    used = job("speak", "echo hi", arguments=["${ds}", "${since}"], parameters={"since": "x"})
    flow = published("speak", uses={"speak": used}).workflow
    client = member()
    here = f"/w/default/workflows/{flow.pk}/dry-run/?data_date=2026-03-01&parameters=since%3Dlast"

    html = client.get(here).content.decode()

    assert "bash main.sh 2026-03-01 last</pre>" in html
    assert Run.objects.count() == 0
    assert client.get(f"{here}&draft=1").status_code == 200
    assert client.get(f"{here}&queue=999").status_code == 422


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("lacks", "fault"),
    [
        ({"kind": "notebook"}, "no kind 'notebook'"),
        ({"spec": {}}, "no command can be made: KeyError: 'content'"),
        ({"spec": {"content": "true", "secrets": ["PATH"]}}, "no secret can be given as PATH"),
    ],
)
def test_what_a_worker_would_stumble_over_is_said_of_the_node(lacks, fault):
    used = job("odd")
    version = published("odd", "fine", uses={"odd": used})
    used.versions.update(**lacks)

    odd, fine = dry_run(version, cycle=CYCLE).nodes[::-1]

    assert (odd.argv, fine.faults) == ((), ())
    assert odd.faults[-1].startswith(fault)


@pytest.mark.django_db
def test_a_file_that_is_lost_or_too_long_is_said_of_its_node():
    content = {"lost.sql": b"SELECT 1", "long.sql": b"-" * (FILE_BYTES + 1)}
    uses = {}
    for path, text in content.items():
        put_file(workspace(), path, BytesIO(text), user=None)
        uses[path[:4]] = job(path[:4], "", kind="sql", entry_file=path)
    version = published("lost", "long", uses=uses)
    gone = uses["lost"].published.files["lost.sql"]
    default_storage.delete(blob_name(gone))

    faults = {node.key: node.faults for node in dry_run(version, cycle=CYCLE).nodes}

    assert faults["lost"] == ("the storage has lost lost.sql; upload it and publish",)
    assert "has over 4 MiB and is not read in a dry run" in faults["long"][0]


@pytest.mark.django_db
def test_a_node_without_job_or_queue_says_so():
    alone, lost = job("alone"), job("lost")
    version = published("alone", "lost", uses={"alone": alone, "lost": lost})
    version.graph["settings"]["queue"] = None
    Job.objects.filter(pk=lost.pk).update(published=None)

    nodes = dry_run(version, cycle=CYCLE).nodes

    assert [(node.key, node.demand, node.faults) for node in nodes] == [
        ("alone", None, ("node 'alone' has no resource queue; choose one",)),
        ("lost", None, ("job 'lost' is not published; publish it",)),
    ]
    assert nodes[0].argv == ("bash", "main.sh")
