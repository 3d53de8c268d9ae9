"""What a page says, without its markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class _Table(HTMLParser):
    """The cells of every row, as text; marks by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._cell: list[str] | None = None
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif tag == "title":
            self._silent += 1
        elif self._cell is not None and given.get("role") == "img" and given.get("aria-label"):
            self._cell.append(f"({given['aria-label']}) ")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.rows[-1].append(" ".join("".join(self._cell).split()))
            self._cell = None
        elif tag == "title":
            self._silent -= 1

    def handle_data(self, data: str) -> None:
        if self._cell is not None and not self._silent:
            self._cell.append(data)


def rows(html: str) -> list[list[str]]:
    """The table rows of a page, heads left out."""
    table = _Table()
    table.feed(re.sub(r"<thead>.*?</thead>", "", html, flags=re.DOTALL))
    return [row for row in table.rows if row]


def requests(html: str) -> list[str]:
    """The addresses that the page asks for by itself."""
    found = re.findall(r'<[^>]*hx-trigger="(?:every|load)[^>]*>', html)
    return [re.search(r'hx-get="([^"]*)"', tag)[1] for tag in found]  # type: ignore[index]


def errors(html: str) -> list[str]:
    """What a form says is wrong, at its fields and above them."""
    found = re.findall(r'<div class="oc-error">.*?<span>(.*?)</span>', html, flags=re.DOTALL)
    box = re.search(r'class="oc-trouble" role="alert">(.*?)</form>', html, flags=re.DOTALL)
    items = re.findall(r"<li>(.*?)</li>", box[1], flags=re.DOTALL) if box else []
    if box and not items:
        items = re.findall(r"<div>\s*(.*?)\s*</div>", box[1], flags=re.DOTALL)[:1]
    return items + found
