"""REST: files, byte for byte."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

import pytest
from django.core.files.storage import default_storage

from apps.engine.roles import Role
from apps.nodes import api
from apps.nodes.models import File
from apps.nodes.services.files import blob_name
from tests import factories
from tests.api import body_of, program, queries

pytestmark = pytest.mark.django_db

#: No text in any encoding, and larger than one piece of a download.
BYTES = bytes(range(256)) * 5000


def test_file_comes_back_as_it_went_up():
    caller = program(Role.DATA_ENGINEERING)

    put = caller.put("files/jars/app.jar", BYTES)
    got = program(Role.GUEST).get("files/jars/app.jar")

    shown = put.json()
    assert put.status_code == 200
    assert (shown["path"], shown["size"], shown["uploaded_by"]) == (
        "jars/app.jar",
        len(BYTES),
        "data_engineering",
    )
    assert shown["sha256"] == hashlib.sha256(BYTES).hexdigest()
    assert body_of(got) == BYTES


def test_download_is_never_taken_for_a_page():
    caller = program()
    caller.put("files/page.html", b"<script>alert(1)</script>")

    got = caller.get("files/page.html")

    assert (got["Content-Type"], got["X-Content-Type-Options"], got["Content-Length"]) == (
        "application/octet-stream",
        "nosniff",
        "25",
    )
    assert got["Content-Disposition"] == 'attachment; filename="page.html"'
    assert got["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert body_of(got) == b"<script>alert(1)</script>"


def test_second_upload_replaces_and_an_empty_file_is_one():
    caller = program()
    caller.put("files/a.txt", b"first")
    caller.put("files/a.txt", b"")

    assert File.objects.get().size == 0
    assert body_of(caller.get("files/a.txt")) == b""


@pytest.mark.parametrize(
    "path",
    ["../a", "a/../../b", "a//b", "./a", "a/./b", "a\nb", "a\x7fb", "x" * 256, "a/", "a/.."],
)
def test_path_that_leads_elsewhere_is_refused(path):
    response = program().put(f"files/{quote(path)}", b"x")

    assert response.status_code in (404, 422), response.content
    assert not File.objects.exists()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("data", "data/daten.csv", "'data' is a file, and nothing can lie below it; choose "
         "another path, or delete that file first"),
        ("a/b", "a/b/c/d", "'a/b' is a file, and nothing can lie below it; choose another path, "
         "or delete that file first"),
        ("data/daten.csv", "data", "'data' is a folder, with 'data/daten.csv' in it; choose "
         "another path, or delete what is in it first"),
    ],
)  # fmt: skip
def test_path_cannot_be_a_file_and_a_folder(first, second, message):
    caller = program()
    caller.put(f"files/{first}", b"x")

    refused = caller.put(f"files/{second}", b"y")

    assert refused.status_code == 422
    assert refused.json()["errors"] == [{"field": "path", "message": message}]
    assert list(File.objects.values_list("path", flat=True)) == [first]


def test_paths_that_begin_alike_lie_side_by_side():
    caller = program()

    for path in ("data", "data.csv", "data2/data", "data_/x%"):
        assert caller.put(f"files/{quote(path)}", b"x").status_code == 200


def test_names_of_any_language_go_up_and_come_down():
    caller = program()
    path = "daten/Überblick 数据 100%;x?.csv"

    caller.put(f"files/{quote(path)}", b"a,b\n")

    assert [each["path"] for each in caller.get("files").json()["items"]] == [path]
    assert body_of(caller.get(f"files/{quote(path)}")) == b"a,b\n"


def test_file_without_end_is_refused_and_leaves_nothing(monkeypatch):
    monkeypatch.setattr(api, "FILE_BYTES", 1000)

    response = program().put("files/big", b"x" * 1001)

    assert response.status_code == 413
    assert not File.objects.exists()


@pytest.mark.parametrize("count", [1, 3])
def test_files_are_listed_newest_first(count):
    caller = program()
    for number in range(count):
        caller.put(f"files/etl/f{number}", b"x")

    with queries(caller, 4):
        found = caller.get("files?folder=etl&q=F").json()["items"]

    assert [each["path"] for each in found] == [f"etl/f{n}" for n in reversed(range(count))]
    assert caller.get("files?folder=et").json()["items"] == []


def test_deleted_file_is_gone():
    caller = program()
    caller.put("files/a.txt", b"x")

    assert caller.delete("files/a.txt").status_code == 204
    assert caller.get("files/a.txt").status_code == 404
    assert caller.delete("files/a.txt").status_code == 404


def test_bytes_that_the_storage_lost_are_a_problem_and_no_empty_file():
    caller = program()
    caller.put("files/a.txt", b"soon lost")
    sha256 = factories.workspace().files.get().sha256
    default_storage.delete(blob_name(sha256))

    response = caller.get("files/a.txt")

    assert (response.status_code, response["Content-Type"]) == (404, "application/problem+json")
