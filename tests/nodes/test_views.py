"""Pages of jobs and files."""

from __future__ import annotations

import re
from html import unescape
from io import BytesIO

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from apps.engine.roles import Role
from apps.nodes.models import File, Job
from apps.nodes.services.files import put_file
from apps.nodes.services.jobs import create_job, publish_job, save_draft
from apps.runs.models import Run
from tests.factories import job, published, workspace
from tests.html import errors, rows
from tests.people import member

pytestmark = pytest.mark.django_db

JOBS = "/w/default/jobs/"
FILES = "/w/default/files/"


def draft(row: Job, **changes):
    sent = {"revision": row.revision, "content": "echo hello", "queue": "", "then": "stay"}
    return {**sent, **changes}


@pytest.mark.parametrize("many", [1, 3])
def test_the_tree_of_jobs_by_folder(django_assert_num_queries, many):
    client = member()
    for n in range(many):
        job(f"etl/job{n}")
    create_job(workspace(), "loose", "python", user=None)

    # session, user, member; jobs
    with django_assert_num_queries(4):
        html = client.get(JOBS).content.decode()

    named = [row[:3] for row in rows(html)]
    assert named == [
        ["loose", "Python", "not published"],
        ["etl"],
        *[[f"job{n}", "Shell", "v1"] for n in range(many)],
    ]


def test_jobs_are_found_by_a_part_of_their_path():
    job("etl/clean")
    job("ml/train")

    html = member().get(JOBS, {"q": "TRA"}, headers={"HX-Request": "true"}).content.decode()

    assert [row[0] for row in rows(html)] == ["ml", "train"]


def test_a_job_is_created_and_opens_in_its_editor():
    answer = member().post(f"{JOBS}create/", {"path": "etl/clean", "kind": "sql"})

    row = Job.objects.get()
    assert (row.path, row.kind) == ("etl/clean", "sql")
    assert answer.headers["Location"] == f"{JOBS}{row.pk}/"


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", "This field is required."),
        ("etl/../up", "is no path of a job"),
        ("/etl/a", "is no path of a job"),
        ("etl/taken", "There is a job"),
        ("nul\0", "Null characters are not allowed."),
    ],
)
def test_a_path_that_cannot_be_is_refused_and_stays_typed(path, fault):
    job("etl/taken")

    answer = member().post(f"{JOBS}create/", {"path": path, "kind": "sql"})

    [said] = errors(answer.content.decode())
    assert answer.status_code == 422
    assert fault in said
    assert Job.objects.count() == 1


def test_a_draft_is_saved_as_its_kind_declares_it_and_empty_fields_are_left_out():
    row = create_job(workspace(), "etl/q", "sql", user=None)
    sent = draft(
        row,
        content="SELECT 1;\r\n",
        row_limit="5",
        parameters="region=cn\nempty=\n",
        files="a.csv\n\nb.csv",
        **{"spark.driver_cores": "2", "spark.conf": "spark.sql.shuffle.partitions=8"},
    )

    answer = member().post(f"{JOBS}{row.pk}/", sent)

    row.refresh_from_db()
    assert answer.headers["Location"] == f"{JOBS}{row.pk}/"
    assert row.revision == 2
    assert row.draft == {
        "content": "SELECT 1;\n",
        "row_limit": 5,
        "parameters": {"region": "cn", "empty": ""},
        "files": ["a.csv", "b.csv"],
        "spark": {"driver_cores": 2, "conf": {"spark.sql.shuffle.partitions": "8"}},
    }
    again = member().get(f"{JOBS}{row.pk}/").content.decode()
    assert "empty=\nregion=cn</textarea>" in again


def test_what_cannot_be_read_is_said_at_its_field_and_stays_typed():
    row = create_job(workspace(), "q", "sql", user=None)

    answer = member().post(
        f"{JOBS}{row.pk}/", draft(row, row_limit="many", parameters="no pair", content="SELECT 7")
    )

    html = answer.content.decode()
    assert answer.status_code == 422
    assert errors(html) == [
        "Enter a whole number.",
        "&#x27;no pair&#x27; is no pair; write name=value",
    ]
    assert "SELECT 7" in html
    row.refresh_from_db()
    assert (row.draft, row.revision) == ({}, 1)


def test_two_people_edit_one_draft_and_nobody_loses_a_word():
    row = create_job(workspace(), "q", "shell", user=None, spec={"content": "echo old"})
    save_draft(row, {"content": "echo theirs"}, revision=1)

    answer = member().post(f"{JOBS}{row.pk}/", draft(row, revision=1, content="echo mine"))

    html = answer.content.decode()
    assert answer.status_code == 409
    assert "-echo theirs" in html
    assert "+echo mine" in html
    assert 'name="revision" value="2"' in html
    row.refresh_from_db()
    assert row.draft == {"content": "echo theirs"}

    member().post(f"{JOBS}{row.pk}/", draft(row, revision=2, content="echo mine"))
    row.refresh_from_db()
    assert row.draft == {"content": "echo mine"}


def test_saving_and_publishing_is_two_steps_with_remarks():
    row = create_job(workspace(), "q", "shell", user=None)
    client = member()

    saved = client.post(f"{JOBS}{row.pk}/", draft(row, then="publish"))
    assert saved.headers["Location"] == f"{JOBS}{row.pk}/publish/"
    client.post(saved.headers["Location"], {"remarks": "first"})

    row.refresh_from_db()
    assert (row.published.number, row.published.remarks) == (1, "first")
    listed = rows(client.get(f"{JOBS}{row.pk}/versions/").content.decode())
    assert listed[0][:3] == ["v1 current", "first", "a owner"]


def test_a_version_is_read_as_it_was_published_and_the_draft_says_that_it_differs():
    row = create_job(workspace(), "q", "shell", user=None, spec={"content": "echo <1>"})
    publish_job(row, remarks="first", user=None)
    client, here = member(), f"{JOBS}{row.pk}/"
    assert "draft differs" not in client.get(here).content.decode()
    same = client.get(f"{here}publish/").content.decode()
    assert 'aria-disabled="true" title="Nothing has changed since v1">Publish v2' in same

    client.post(here, draft(row, content="echo 2"))

    assert "draft differs from v1" in client.get(here).content.decode()
    assert (
        "aria-disabled"
        not in client.get(f"{here}publish/", headers={"HX-Request": "true"}).content.decode()
    )
    assert f'href="{here}versions/1/"' in client.get(f"{here}versions/").content.decode()
    html = client.get(f"{here}versions/1/").content.decode()
    assert "echo &lt;1&gt;" in html
    assert "echo 2" not in html
    typed = re.findall(r"<(?:textarea|select|input(?! type=\"hidden\"))[^>]*>", html)
    assert [tag for tag in typed if " disabled" not in tag] == []
    assert client.get(f"{here}versions/2/").status_code == 404


def test_an_incomplete_draft_says_so_before_anybody_presses_publish():
    row = create_job(workspace(), "q", "shell", user=None)

    html = member().get(f"{JOBS}{row.pk}/publish/").content.decode()

    assert len(errors(html)) == 1
    assert 'aria-disabled="true" title="Mend the faults first">Publish v1' in html


def test_fields_of_many_values_say_how_they_are_written():
    row = create_job(workspace(), "q", "python", user=None)

    html = member().get(f"{JOBS}{row.pk}/").content.decode()

    said = dict(re.findall(r'<textarea name="(\w+)"[^>]*placeholder="([^"]*)"', html))
    assert said == {
        "arguments": "one a line",
        "parameters": "one name=value a line",
        "secrets": "one a line",
        "files": "one a line",
    } | {name: text for name, text in said.items() if name.startswith("python")}
    assert "One name=value a line. " in html


def test_publishing_an_incomplete_draft_says_everything_that_is_missing():
    row = create_job(
        workspace(), "q", "shell", user=None, spec={"entry_file": "gone.sh", "files": ["gone.csv"]}
    )

    answer = member().post(f"{JOBS}{row.pk}/publish/", {"remarks": "keep me"})

    html = answer.content.decode()
    assert answer.status_code == 422
    assert [("gone.csv" in said, "gone.sh" in said) for said in errors(html)] == [
        (True, False),
        (False, True),
    ]
    assert "keep me" in html


def test_run_once_runs_the_draft_in_a_development_queue():
    row = job("q", "echo published")

    answer = member(Role.DATA_SCIENCE).post(
        f"{JOBS}{row.pk}/", draft(row, content="echo draft", then="run")
    )

    run = Run.objects.get()
    node = run.nodes.select_related("job_version", "queue").get()
    assert answer.headers["Location"] == f"/w/default/runs/{run.pk}/"
    assert (run.trigger, node.queue.name) == ("debug", "dev_queue")
    assert node.job_version.spec == {"content": "echo draft"}


def test_a_job_that_a_workflow_uses_is_not_deleted():
    published("extract", uses={"extract": job("etl/a")})
    row = Job.objects.get()

    answer = member().post(f"{JOBS}{row.pk}/delete/")

    assert answer.status_code == 409
    assert "is used by flow" in answer.content.decode()
    assert Job.objects.count() == 1


def test_a_job_moves_and_its_nodes_keep_it():
    row = job("etl/a")

    member().post(f"{JOBS}{row.pk}/move/", {"path": "core/a"})

    row.refresh_from_db()
    assert row.path == "core/a"


@pytest.mark.parametrize("many", [1, 3])
def test_files_with_their_size(django_assert_num_queries, many):
    client = member()
    for n in range(many):
        put_file(workspace(), f"data/{n}.csv", BytesIO(b"x" * 1500), user=None)

    # session, user, member; files
    with django_assert_num_queries(4):
        html = client.get(FILES).content.decode()

    assert [row[:2] for row in rows(html)] == [[f"data/{n}.csv", "1.5 kB"] for n in range(many)]


def test_a_file_goes_up_and_comes_down_byte_for_byte():
    client = member()
    content = b"\x00\xff<b>"

    client.post(f"{FILES}upload/", {"content": SimpleUploadedFile("a.bin", content), "path": ""})
    row = File.objects.get()
    answer = client.get(f"{FILES}{row.pk}/")

    assert row.path == "a.bin"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="a.bin"'
    assert answer.headers["Content-Length"] == "5"


def test_an_empty_file_goes_up():
    sent = {"content": SimpleUploadedFile("__init__.py", b""), "path": "etl/__init__.py"}

    answer = member().post(f"{FILES}upload/", sent)

    assert answer.headers["Location"] == FILES
    assert list(File.objects.values_list("path", "size")) == [("etl/__init__.py", 0)]


def test_a_path_that_is_a_folder_is_refused_at_its_field():
    put_file(workspace(), "data/daten.csv", BytesIO(b"x"), user=None)
    sent = {"content": SimpleUploadedFile("data", b"a"), "path": ""}

    answer = member().post(f"{FILES}upload/", sent)

    assert answer.status_code == 422
    assert [unescape(error) for error in errors(answer.content.decode())] == [
        "'data' is a folder, with 'data/daten.csv' in it; choose another path, or delete what is "
        "in it first"
    ]


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "a/../../b", "a//b"])
def test_a_file_stays_inside_its_workspace(path):
    sent = {"content": SimpleUploadedFile("a.bin", b"a"), "path": path}

    answer = member().post(f"{FILES}upload/", sent)

    assert answer.status_code == 422
    assert len(errors(answer.content.decode())) == 1
    assert File.objects.count() == 0


def test_who_may_not_edit_sees_the_draft_and_cannot_type_in_it():
    row = job("q", "echo hello")

    html = member(Role.GUEST).get(f"{JOBS}{row.pk}/").content.decode()

    controls = re.findall(r'<(?:textarea|select|input)[^>]* form="oc-draft"[^>]*>', html)
    assert "echo hello</textarea>" in html
    assert [control for control in controls if " disabled" not in control] == []
    assert len(controls) > 4
    assert "Save draft" not in html
