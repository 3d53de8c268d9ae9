"""What a job leaves is shown, and none of it becomes code or a request of the page."""

from __future__ import annotations

import pytest

from apps.runs.output_pages import _csv_table, _json_table, markdown

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
