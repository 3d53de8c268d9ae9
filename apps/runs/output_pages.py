"""Outputs of attempts as parts of a page: texts, tables and pictures that a job left.

A job's words are nobody's HTML: Markdown is rendered without it, everything else is escaped
by the template.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict

from apps.nodes.services.files import open_blob
from apps.runs.models import Output

#: Of one output; what is longer is only offered for download.
MAX_BYTES = 256 * 1024
MAX_ROWS = 500
TYPES = {".png": "image/png"}


@dataclass(frozen=True)
class Table:
    #: Titles, and whether what stands below is numbers.
    columns: list[tuple[str, bool]]
    #: Cells, and whether each is a number.
    rows: list[list[tuple[str, bool]]]
    truncated: bool


@dataclass(frozen=True)
class OutputPart:
    output: Output
    url: str
    kind: str  # markdown, picture, table, text, or none: a download alone
    html: str = ""  # safe
    table: Table | None = None
    text: str = ""


def part_of(output: Output, urls: Mapping[str, str]) -> OutputPart:
    """How to show an output. `urls`: name -> address of every output of the same attempt."""
    url = urls[output.name]
    suffix = PurePath(output.name).suffix.lower()
    if suffix == ".png":
        return OutputPart(output, url, "picture")
    if output.size > MAX_BYTES:
        return OutputPart(output, url, "none")
    try:
        with open_blob(output.sha256) as stored:
            text = stored.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return OutputPart(output, url, "none")
    if suffix == ".md":
        return OutputPart(output, url, "markdown", html=markdown(text, urls))
    if suffix == ".csv":
        table = _csv_table(text)
        return OutputPart(output, url, "table", table=table) if table else _text(output, url, text)
    if suffix == ".json" and (table := _json_table(text)):
        return OutputPart(output, url, "table", table=table)
    return _text(output, url, text)


def _text(output: Output, url: str, text: str) -> OutputPart:
    return OutputPart(output, url, "text", text=text)


# --- Markdown -------------------------------------------------------------------------------


class _Renderer(RendererHTML):
    """Without inline style, which the page's policy forbids, and without foreign pictures."""

    def image(self, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any) -> str:
        token = tokens[index]
        name = str(token.attrGet("src") or "").removeprefix("./")
        words = self.renderInlineAsText(token.children or [], options, env)
        url = env["urls"].get(name)
        if url is None:
            return format_html('<span class="oc-quiet">[picture {}: {}]</span>', name, words)
        return format_html('<img src="{}" alt="{}" loading="lazy">', url, words)

    def renderToken(
        self, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any
    ) -> str:
        token = tokens[index]
        if token.type in ("th_open", "td_open"):
            style = str(token.attrs.pop("style", ""))
            if "right" in style:
                token.attrSet("class", "oc-right")
        if token.type == "link_open":
            token.attrSet("rel", "noopener noreferrer nofollow")
        return super().renderToken(tokens, index, options, env)


_MARKDOWN = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")


def markdown(text: str, urls: Mapping[str, str]) -> SafeString:
    """Markdown as HTML; HTML in it is shown as text. Pictures only out of `urls`."""
    return mark_safe(_MARKDOWN.render(text, {"urls": urls}))  # noqa: S308 -- html=False


# --- tables ---------------------------------------------------------------------------------


def _cell(value: Any) -> tuple[str, bool]:
    if value is None:
        return "", False
    if isinstance(value, bool):
        return str(value).lower(), False
    if isinstance(value, int | float):
        return str(value), True
    if isinstance(value, str):
        return value, False
    return json.dumps(value, ensure_ascii=False), False


def _json_table(text: str) -> Table | None:
    """{"columns": […], "rows": [[…]]} or [{…}, …] as a table; None for any other JSON."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    rows: Any
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        columns = list(dict.fromkeys(key for row in data for key in row))
        rows = [[row.get(column) for column in columns] for row in data]
        more = False
    elif isinstance(data, dict) and isinstance(data.get("columns"), list):
        columns, rows = [str(c) for c in data["columns"]], data.get("rows", [])
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            return None
        more = bool(data.get("truncated"))
    else:
        return None
    cells = [[_cell(value) for value in row] for row in rows[:MAX_ROWS]]
    return _table(columns, cells, more or len(rows) > MAX_ROWS)


def _csv_table(text: str) -> Table | None:
    try:
        rows = list(itertools.islice(csv.reader(io.StringIO(text)), MAX_ROWS + 2))
    except csv.Error:
        return None
    if not rows:
        return None
    cells = [[(cell, _is_number(cell)) for cell in row] for row in rows[1 : MAX_ROWS + 1]]
    return _table(rows[0], cells, len(rows) > MAX_ROWS + 1)


def _table(columns: list[str], cells: list[list[tuple[str, bool]]], truncated: bool) -> Table:
    numeric = {n for row in cells for n, (_, number) in enumerate(row) if number}
    return Table([(title, n in numeric) for n, title in enumerate(columns)], cells, truncated)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
