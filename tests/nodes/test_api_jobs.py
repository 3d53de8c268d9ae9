"""REST: jobs, their drafts and versions."""

from __future__ import annotations

import pytest

from apps.engine.roles import Role
from apps.nodes.models import Job, JobVersion
from apps.runs.models import Run
from apps.workspaces.models import TokenScope
from tests import factories
from tests.api import job, program, queries

pytestmark = pytest.mark.django_db

NEW = {"path": "etl/clean", "kind": "shell", "spec": {"content": "true"}, "queue": "root_queue"}


def create(**changes) -> dict:
    made = program().post("jobs", {**NEW, **changes})
    assert made.status_code == 201, made.content
    return made.json()


def fields(response) -> list[str]:
    return [each["field"] for each in response.json().get("errors", [])]


def test_job_is_created_with_its_draft():
    made = program(Role.DATA_SCIENCE).post("jobs", NEW)

    shown = made.json()
    assert (made.status_code, made["ETag"]) == (201, '"1"')
    assert shown == {
        "id": Job.objects.get().pk,
        "path": "etl/clean",
        "kind": "shell",
        "queue": "root_queue",
        "revision": 1,
        "published": None,
        "created_by": "data_science",
        "created_at": shown["created_at"],
        "updated_at": shown["updated_at"],
        "spec": {"content": "true"},
        "faults": [],
    }
    assert program().get(f"jobs/{shown['id']}").json() == shown


def test_every_fault_of_a_job_comes_at_once_and_detail_names_the_fields():
    bad = {"path": "a//b", "kind": "sql", "spec": {"row_limit": "x", "jars": "a.jar"},
           "queue": "nope", "colour": 1}  # fmt: skip

    created = program().post("jobs", bad)
    saved = program().put(f"jobs/{create(kind='sql', spec={})['id']}/draft", {
        "spec": {"row_limit": "x"}, "queue": "nope", "colour": 1})  # fmt: skip

    assert created.status_code == saved.status_code == 422
    assert sorted(fields(created)) == ["colour", "path", "queue", "spec.jars", "spec.row_limit"]
    assert sorted(fields(saved)) == ["colour", "queue", "revision", "spec.row_limit"]
    assert saved.json()["detail"] == (
        "colour: there is no such field here; take it out; "
        "spec.row_limit: is a string; give a whole number; "
        "there is no queue 'nope' in this workspace; "
        "send the revision that you began at, or its ETag as If-Match"
    )
    assert Job.objects.count() == 1


def test_draft_may_lack_something_and_says_what():
    shown = create(kind="spark_jar", spec={})

    assert shown["faults"] == [{"field": "entry_file", "message": "is missing; fill it in"}]


def test_job_of_a_kind_that_is_no_longer_installed_says_so():
    pk = create()["id"]
    Job.objects.filter(pk=pk).update(kind="notebook")

    [fault] = program().get(f"jobs/{pk}").json()["faults"]

    assert fault["field"] == "kind"
    assert "no kind 'notebook'" in fault["message"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"path": "/etl"}, ["path"], id="path"),
        pytest.param({"kind": "perl"}, ["kind"], id="kind"),
        pytest.param({"queue": "none_such"}, ["queue"], id="queue"),
        pytest.param({"spec": [1]}, ["spec"], id="spec is a list"),
        pytest.param({"spec": {"contents": "true"}}, ["spec.contents"], id="unknown setting"),
        pytest.param({"spec": {"content": 7}}, ["spec.content"], id="content is a number"),
        pytest.param(
            {"kind": "pyspark", "spec": {"spark": {"driver_cores": 0, "colour": 1}}},
            ["spec.spark.colour", "spec.spark.driver_cores"],
            id="inside a section, all at once",
        ),
        pytest.param({"kind": "pyspark", "spec": {"spark": 1}}, ["spec.spark"], id="section"),
        pytest.param(
            {"spec": {"entry_file": "../../etc/passwd"}}, ["spec.entry_file"], id="outside"
        ),
        pytest.param({"owner": "me"}, ["owner"], id="unknown field"),
    ],
)
def test_job_that_is_wrong_is_not_kept(changes, expected):
    response = program().post("jobs", {**NEW, **changes})

    assert (response.status_code, fields(response)) == (422, expected)
    assert not Job.objects.exists()


def test_path_that_is_taken_is_a_conflict():
    create()

    assert program().post("jobs", NEW).status_code == 409


@pytest.mark.parametrize("count", [1, 3])
def test_jobs_are_listed_newest_first(count):
    for number in range(count):
        job(factories.workspace(), f"etl/job{number}")
    caller = program(Role.GUEST)

    with queries(caller, 4):
        found = caller.get("jobs").json()["items"]

    assert [each["path"] for each in found] == [f"etl/job{n}" for n in reversed(range(count))]
    assert "spec" not in found[0]
    assert found[0]["published"]["number"] == 1


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("folder=etl", ["etl/deep/b", "etl/a"]),
        ("folder=etl/deep", ["etl/deep/b"]),
        ("folder=et", []),
        ("q=A", ["etl_a", "etl/a"]),
        ("path=etl/a", ["etl/a"]),
        ("kind=python", []),
        ("q=%25", []),
    ],
)
def test_jobs_are_found_by_folder_part_and_path(query, expected):
    for path in ("etl/a", "etl/deep/b", "etl_a"):
        job(factories.workspace(), path)

    found = program().get(f"jobs?{query}").json()["items"]

    assert [each["path"] for each in found] == expected


@pytest.mark.parametrize("by", ["body", "header"])
def test_draft_is_saved_from_the_revision_it_began_at(by):
    pk = create()["id"]
    body = {"spec": {"content": "false"}} | ({"revision": 1} if by == "body" else {})
    headers = {"If_Match": '"1"'} if by == "header" else {}

    saved = program().put(f"jobs/{pk}/draft", body, **headers)

    assert (saved.status_code, saved["ETag"]) == (200, '"2"')
    shown = saved.json()
    assert (shown["spec"], shown["revision"], shown["queue"]) == (
        {"content": "false"},
        2,
        "root_queue",
    )


def test_second_of_two_who_began_at_one_revision_gets_what_stands_there_now():
    pk = create()["id"]
    program().put(f"jobs/{pk}/draft", {"spec": {"content": "first"}, "revision": 1})

    late = program().put(f"jobs/{pk}/draft", {"spec": {"content": "second"}, "revision": 1})

    assert late.status_code == 409
    current = late.json()["current"]
    assert (current["revision"], current["spec"]) == (2, {"content": "first"})
    assert Job.objects.get().draft == {"content": "first"}


@pytest.mark.parametrize(
    ("body", "header", "expected"),
    [
        ({}, None, ["revision"]),
        ({}, "*", ["revision"]),
        ({}, '"x"', ["revision"]),
        ({"revision": 2}, '"1"', ["revision"]),
        ({"revision": 0}, None, ["revision"]),
        ({"revision": 1, "path": "x"}, None, ["path"]),
        ({"revision": 1, "spec": {"contents": ""}}, None, []),
        ({"revision": 1, "spec": {"contents": "x"}}, None, ["spec.contents"]),
        ({"revision": 1, "queue": "none_such"}, None, ["queue"]),
    ],
)
def test_draft_that_cannot_be_saved(body, header, expected):
    pk = create()["id"]
    headers = {"If_Match": header} if header else {}

    response = program().put(f"jobs/{pk}/draft", {"spec": {"content": "x"}, **body}, **headers)

    assert (response.status_code, fields(response)) == (422 if expected else 200, expected)
    assert Job.objects.get().revision == (1 if expected else 2)


def test_queue_of_a_draft_goes_only_when_it_is_said():
    pk = create()["id"]
    caller = program()

    stays = caller.put(f"jobs/{pk}/draft", {"spec": {}, "revision": 1}).json()
    goes = caller.put(f"jobs/{pk}/draft", {"spec": {}, "revision": 2, "queue": None}).json()

    assert (stays["queue"], goes["queue"]) == ("root_queue", None)


def test_job_moves_and_keeps_its_id():
    pk = create()["id"]

    moved = program().patch(f"jobs/{pk}", {"path": "warehouse/clean"})

    assert (moved.status_code, moved.json()["id"]) == (200, pk)
    assert moved.json()["path"] == "warehouse/clean"


def test_draft_is_published_and_its_versions_stay():
    pk, caller = create()["id"], program(Role.DATA_ENGINEERING)

    first = caller.post(f"jobs/{pk}/publish", {"remarks": "begins"})
    again = caller.post(f"jobs/{pk}/publish", {})
    caller.put(f"jobs/{pk}/draft", {"spec": {"content": "false"}, "revision": 1})
    second = caller.post(f"jobs/{pk}/publish")

    assert [each.status_code for each in (first, again, second)] == [201, 409, 201]
    shown = caller.get(f"jobs/{pk}/versions/1").json()
    assert shown == first.json()
    assert (shown["remarks"], shown["spec"], shown["kind"]) == (
        "begins",
        {"content": "true"},
        "shell",
    )
    numbers = [each["number"] for each in caller.get(f"jobs/{pk}/versions").json()["items"]]
    assert numbers == [2, 1]
    assert caller.get(f"jobs/{pk}").json()["published"]["number"] == 2
    assert caller.get(f"jobs/{pk}/versions/3").status_code == 404


@pytest.mark.parametrize("count", [1, 3])
def test_versions_cost_the_same_however_many(count):
    made = job(factories.workspace(), "etl/a")
    for number in range(2, count + 1):
        JobVersion.objects.create(job=made, number=number, kind="shell", spec={}, digest="")
    caller = program(Role.GUEST)

    with queries(caller, 5):
        found = caller.get(f"jobs/{made.pk}/versions").json()["items"]

    assert len(found) == count
    assert {frozenset(each) for each in found} == {
        frozenset({"number", "remarks", "digest", "created_at", "kind", "created_by"})
    }


def test_publishing_says_everything_that_is_missing():
    pk = create(spec={"files": ["a.csv", "b.csv"], "content": "cat"})["id"]

    response = program().post(f"jobs/{pk}/publish")

    assert response.status_code == 422
    assert [each["message"] for each in response.json()["errors"]] == [
        f"there is no file {name!r} in this workspace; upload it or correct the path"
        for name in ("a.csv", "b.csv")
    ]


def test_job_in_use_is_not_deleted():
    used = factories.published("a", uses={"a": job(factories.workspace(), "used")})
    free = create()["id"]
    caller = program()

    kept = caller.delete(f"jobs/{used.graph['nodes'][0]['job']}")

    assert kept.status_code == 409
    assert "flow" in kept.json()["detail"]
    assert caller.delete(f"jobs/{free}").status_code == 204
    assert caller.get(f"jobs/{free}").status_code == 404


# --- running --------------------------------------------------------------------------------


def started(response) -> Run:
    assert response.status_code == 201, response.content
    [pk] = response.json()["runs"]
    return Run.objects.get(pk=pk)


def test_data_scientist_runs_a_draft_in_a_development_queue():
    pk = create(queue=None)["id"]

    run = started(program(Role.DATA_SCIENCE).post(f"jobs/{pk}/run", {"draft": True}))

    node = run.nodes.get()
    assert (run.trigger, run.created_by.username) == ("debug", "data_science")
    assert (node.queue.name, node.job_version.number) == ("dev_queue", None)


def test_data_scientist_runs_nothing_in_production():
    made = job(factories.workspace(), "etl/a")
    caller = program(Role.DATA_SCIENCE)

    published = caller.post(f"jobs/{made.pk}/run", {})
    elsewhere = caller.post(f"jobs/{made.pk}/run", {"draft": True, "queue": "root_queue"})

    assert (published.status_code, elsewhere.status_code) == (403, 422)
    assert "not a development queue" in elsewhere.json()["detail"]
    assert not Run.objects.exists()
    assert JobVersion.objects.filter(number=None).count() == 0


def test_engineer_runs_what_is_published_with_parameters():
    made = job(factories.workspace(), "etl/a")
    body = {"parameters": {"day": "2025-11-20"}, "remarks": "again"}

    run = started(program(Role.DATA_ENGINEERING, TokenScope.RUN).post(f"jobs/{made.pk}/run", body))

    assert (run.trigger, run.parameters, run.remarks) == ("api", {"day": "2025-11-20"}, "again")
    assert run.nodes.get().job_version == made.published


def test_job_whose_queue_is_for_development_runs_its_draft_there():
    program().post("queues", {"name": "a_dev", "capacity": 1, "development": True})
    pk = create(queue="dev_queue")["id"]

    assert started(program().post(f"jobs/{pk}/run", {"draft": True})).nodes.get().queue.name == (
        "dev_queue"
    )


def test_version_may_be_chosen():
    made = job(factories.workspace(), "etl/a")
    JobVersion.objects.create(
        job=made, number=2, kind="shell", spec={"content": ""}, queue=made.queue
    )

    run = started(program().post(f"jobs/{made.pk}/run", {"version": 2}))

    assert run.nodes.get().job_version.number == 2
    assert program().post(f"jobs/{made.pk}/run", {"version": 9}).status_code == 404


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, [""]),
        ({"draft": True, "version": 1}, ["version"]),
        ({"draft": "yes"}, ["draft"]),
        ({"queue": "none_such"}, ["queue"]),
        ({"parameters": {"PATH": "x", "1a": "y"}}, ["parameters"] * 2),
        ({"parameters": {"a": 1}}, ["parameters.a"]),
        ({"parameters": []}, ["parameters"]),
    ],
)
def test_run_that_cannot_start(body, expected):
    pk = create()["id"]  # not published

    response = program().post(f"jobs/{pk}/run", body)

    assert (response.status_code, fields(response)) == (422, expected)
    assert not Run.objects.exists()
