"""Outputs of attempts as parts of a page: texts, tables and pictures that a job left.

A job's words are nobody's HTML: Markdown is rendered without it, everything else is escaped
by the template.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
MAX_COLUMNS = 50
#: Of all outputs on one page.
MAX_CELLS = 20_000
MAX_PAGE_BYTES = 1 << 20
TYPES = {".png": "image/png"}


@dataclass(frozen=True)
class Table:
    #: Titles, and whether what stands below is numbers.
    columns: list[tuple[str, bool]]
    #: Cells, and whether each is a number.
    rows: list[list[tuple[str, bool]]]
    #: Whether rows, and whether columns, were left out.
    truncated: bool
    narrowed: bool = False


@dataclass(frozen=True)
class OutputPart:
    output: Output
    url: str
    kind: str  # markdown, picture, table, text, or none: a download alone
    html: str = ""  # safe
    table: Table | None = None
    text: str = ""


def parts_of(outputs: Iterable[tuple[Output, Mapping[str, str]]]) -> list[OutputPart]:
    """How to show outputs on one page, each with the `urls` of its attempt as below.

    What would make the page too large is cut or, when nothing is left for it, offered for
    download alone.
    """
    parts, cells, size = [], MAX_CELLS, MAX_PAGE_BYTES
    for output, urls in outputs:
        part = OutputPart(output, urls[output.name], "none")
        if _is_picture(output):
            part = part_of(output, urls)
        elif output.size <= min(size, MAX_BYTES):
            part = part_of(output, urls)
            # A few bytes of Markdown may be a long page; what was read counts even so.
            size -= max(output.size, len(part.html))
        table = _cut(part.table, cells) if part.table else None
        if table:
            part = replace(part, table=table)
            cells -= len(table.columns) * (len(table.rows) + 1)
        if (size < 0 and part.kind != "picture") or (part.table and not table):
            part = OutputPart(output, part.url, "none")
        parts.append(part)
    return parts


def _cut(table: Table, cells: int) -> Table | None:
    """As many of its rows as may still be shown; None where not even its titles may."""
    rows = cells // max(len(table.columns), 1) - 1
    if rows < min(len(table.rows), 1):
        return None
    if rows >= len(table.rows):
        return table
    return replace(table, rows=table.rows[:rows], truncated=True)


def part_of(output: Output, urls: Mapping[str, str]) -> OutputPart:
    """How to show an output. `urls`: name -> address of every output of the same attempt."""
    url = urls[output.name]
    suffix = PurePath(output.name).suffix.lower()
    if _is_picture(output):
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


def _is_picture(output: Output) -> bool:
    return PurePath(output.name).suffix.lower() == ".png"


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


#: JSON may hold halves of a surrogate pair, which no page can.
_HALF = re.compile(r"[\ud800-\udfff]")


def _json_table(text: str) -> Table | None:
    """{"columns": […], "rows": [[…]]} or [{…}, …] as a table; None for any other JSON."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    rows: Any
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        # Cut first: columns times rows may be the square of what was written.
        columns = list(dict.fromkeys(key for row in data[:MAX_ROWS] for key in row))
        shown = columns[:MAX_COLUMNS]
        rows = [[row.get(column) for column in shown] for row in data[:MAX_ROWS]]
        more = len(data) > MAX_ROWS
    elif isinstance(data, dict) and isinstance(data.get("columns"), list):
        columns, rows = data["columns"], data.get("rows", [])
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            return None
        more = bool(data.get("truncated")) or len(rows) > MAX_ROWS
    else:
        return None
    cells = [[_cell(value) for value in row[:MAX_COLUMNS]] for row in rows[:MAX_ROWS]]
    return _table([str(column) for column in columns], cells, more)


def _csv_table(text: str) -> Table | None:
    try:
        rows = list(itertools.islice(csv.reader(io.StringIO(text)), MAX_ROWS + 2))
    except csv.Error:
        return None
    if not rows:
        return None
    cells = [
        [(cell, _is_number(cell)) for cell in row[:MAX_COLUMNS]] for row in rows[1 : MAX_ROWS + 1]
    ]
    return _table(rows[0], cells, len(rows) > MAX_ROWS + 1)


def _table(columns: list[str], cells: list[list[tuple[str, bool]]], truncated: bool) -> Table:
    """Of a row, what stands below a title."""
    shown = columns[:MAX_COLUMNS]
    whole = [
        [(_HALF.sub("\ufffd", text), number) for text, number in row[: len(shown)]] for row in cells
    ]
    numeric = {n for row in whole for n, (_, number) in enumerate(row) if number}
    titles = [(_HALF.sub("\ufffd", title), n in numeric) for n, title in enumerate(shown)]
    return Table(titles, whole, truncated, narrowed=len(columns) > len(shown))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
