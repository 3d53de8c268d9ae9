"""What a job leaves is shown, and none of it becomes code or a request of the page."""

from __future__ import annotations

import json
import time
from io import BytesIO

import pytest

from apps.nodes.services.files import put_file
from apps.runs.models import Output
from apps.runs.output_pages import (
    MAX_CELLS,
    MAX_COLUMNS,
    MAX_PAGE_BYTES,
    MAX_ROWS,
    _csv_table,
    _json_table,
    markdown,
    parts_of,
)
from tests.api import World, world
from tests.people import member

URLS = {"delays.png": "/w/default/runs/1/outputs/2/"}


def test_markdown_with_a_table_and_a_picture_that_lies_beside_it():
    text = "# Delays\n\n| c | n |\n|---|--:|\n| AS | 7 |\n\n![by carrier](delays.png)\n"

    assert markdown(text, URLS) == (
        "<h1>Delays</h1>\n<table>\n<thead>\n<tr>\n<th>c</th>\n"
        '<th class="oc-right">n</th>\n</tr>\n</thead>\n<tbody>\n<tr>\n<td>AS</td>\n'
        '<td class="oc-right">7</td>\n</tr>\n</tbody>\n</table>\n'
        '<p><img src="/w/default/runs/1/outputs/2/" alt="by carrier" loading="lazy"></p>\n'
    )


@pytest.mark.parametrize(
    ("text", "html"),
    [
        pytest.param(
            "<script>alert(1)</script>",
            "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>\n",
            id="HTML is text",
        ),
        pytest.param(
            "[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>\n", id="no script link"
        ),
        pytest.param(
            "![x](https://evil.example/t.png)",
            '<p><span class="oc-quiet">[picture https://evil.example/t.png: x]</span></p>\n',
            id="no foreign picture",
        ),
        pytest.param(
            '![x" onerror="alert(1)](delays.png)',
            '<p><img src="/w/default/runs/1/outputs/2/" alt="x&quot; onerror=&quot;alert(1)" '
            'loading="lazy"></p>\n',
            id="no attribute out of words",
        ),
        pytest.param(
            "[x](https://example.com)",
            '<p><a href="https://example.com" rel="noopener noreferrer nofollow">x</a></p>\n',
            id="a link tells nobody where it came from",
        ),
    ],
)
def test_markdown_is_nobodys_html(text, html):
    assert markdown(text, URLS) == html


def test_tables_of_both_shapes_of_json_and_of_csv():
    by_columns = _json_table('{"columns": ["c", "n"], "rows": [["AS", 7], [null, true]]}')
    by_rows = _json_table('[{"c": "AS", "n": 7}, {"c": "F9", "more": {"a": 1}}]')
    csv = _csv_table('c,n\n"A,S",7.5\n')

    assert (by_columns.columns, by_columns.rows) == (
        [("c", False), ("n", True)],
        [[("AS", False), ("7", True)], [("", False), ("true", False)]],
    )
    assert (by_rows.columns, by_rows.rows) == (
        [("c", False), ("n", True), ("more", False)],
        [
            [("AS", False), ("7", True), ("", False)],
            [("F9", False), ("", False), ('{"a": 1}', False)],
        ],
    )
    assert (csv.columns, csv.rows) == (
        [("c", False), ("n", True)],
        [[("A,S", False), ("7.5", True)]],
    )


@pytest.mark.parametrize("text", ["", "nonsense", "3", "[]", "{}", "[1, 2]", "[" * 100_000])
def test_json_that_is_no_table_is_none(text):
    assert _json_table(text) is None


def left(made: World, name: str, content: bytes) -> Output:
    """An output that the job of this world left."""
    workspace = Output.objects.get(pk=made.output).attempt.node_run.run.workspace
    stored = put_file(workspace, f"outputs/{name}", BytesIO(content), user=None)
    return Output.objects.create(
        attempt=Output.objects.get(pk=made.output).attempt,
        name=name,
        sha256=stored.sha256,
        size=len(content),
    )


def test_rows_of_a_column_each_are_cut_before_they_are_multiplied():
    began = time.process_time()

    table = _json_table(json.dumps([{str(n): 1} for n in range(9000)]))

    assert time.process_time() - began < 1
    assert (len(table.columns), len(table.rows)) == (MAX_COLUMNS, MAX_ROWS)
    assert {len(row) for row in table.rows} == {MAX_COLUMNS}
    assert table.truncated
    assert table.narrowed


@pytest.mark.parametrize(
    "table",
    [
        _csv_table("\n".join([",".join("abc" * 40)] * 3)),
        _json_table(json.dumps({"columns": ["c"] * 120, "rows": [[1] * 120] * 2})),
    ],
)
def test_wide_tables_show_their_first_columns(table):
    assert len(table.columns) == MAX_COLUMNS
    assert [len(row) for row in table.rows] == [MAX_COLUMNS] * 2
    assert (table.truncated, table.narrowed) == (False, True)


@pytest.mark.parametrize(
    "data",
    [
        r'[{"\ud800": "\udc00", "b": ["\ud9ff"]}]',
        r'{"columns": ["\ud800", "b"], "rows": [["\udc00", ["\ud9ff"]]]}',
    ],
)
def test_half_a_surrogate_pair_is_shown_as_what_cannot_be_shown(data):
    table = _json_table(data)

    assert [title for title, _ in table.columns] == ["\ufffd", "b"]
    assert table.rows == [[("\ufffd", False), ('["\ufffd"]', False)]]


def test_a_cell_as_deep_as_json_goes():
    deep = "[" * 900 + "]" * 900

    table = _json_table(f'[{{"a": {deep}}}]')

    assert table is None or table.rows == [[(deep, False)]]


@pytest.mark.django_db
def test_a_page_holds_so_many_cells_and_bytes_and_offers_the_rest_for_download():
    made = world()
    wide = b"\n".join([b",".join([b"1"] * MAX_COLUMNS)] * (MAX_ROWS + 1))
    outputs = [left(made, f"{n:02}.csv", wide) for n in range(30)]
    outputs += [left(made, f"{n}.txt", b"word " * 50_000) for n in range(6)]
    urls = {output.name: f"/{output.name}" for output in outputs}

    parts = parts_of((output, urls) for output in outputs)

    tables = [part.table for part in parts if part.kind == "table"]
    assert sum(len(t.columns) * (len(t.rows) + 1) for t in tables) == MAX_CELLS
    assert len(tables[0].rows) == MAX_CELLS // MAX_COLUMNS - 1
    assert [part.kind for part in parts[:30]] == ["table"] + ["none"] * 29
    assert sum(part.output.size for part in parts if part.kind != "none") <= MAX_PAGE_BYTES
    assert [part.kind for part in parts[30:]].count("none") > 0


@pytest.mark.django_db
def test_markdown_that_grows_counts_as_long_as_it_becomes():
    made = world()
    text = b"|" + b"a|" * 1000 + b"\n|" + b"-|" * 1000 + b"\n" + b"x|\n" * 200
    outputs = [left(made, f"{n}.md", text) for n in range(4)]
    urls = {output.name: f"/{output.name}" for output in outputs}

    parts = parts_of((output, urls) for output in outputs)

    assert [part.kind for part in parts] == ["markdown", "none", "none", "none"]


@pytest.mark.django_db
def test_a_run_page_outlives_what_its_jobs_left():
    made = world()
    left(made, "halves.json", rb'[{"\ud800": "\udc00"}]')
    left(made, "wide.json", json.dumps([{str(n): 1} for n in range(9000)]).encode())

    page = member().get(f"/w/{made.workspace}/runs/{made.run}/")

    assert page.status_code == 200
    assert len(page.content) < 4 << 20
    assert "The first 50 columns." in page.content.decode()
