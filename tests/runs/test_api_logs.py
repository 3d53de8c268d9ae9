"""REST: an attempt's log, whole and by range."""

from __future__ import annotations

import os

import pytest

from apps.engine.roles import Role
from apps.runs.api import logs
from apps.runs.logs import log_of
from apps.runs.models import NodeRun
from tests import factories
from tests.api import body_of, program, ran, write_log

pytestmark = pytest.mark.django_db

TEXT = b"0123456789" * 10
HEADERS = {
    "Content-Type": "text/plain; charset=utf-8",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cache-Control": "no-store",
    "Accept-Ranges": "bytes",
}


@pytest.fixture
def node() -> NodeRun:
    """Its first attempt wrote 100 bytes."""
    run = factories.by_hand(factories.published("a"))
    ran(run.nodes.get(), log=TEXT)
    return run.nodes.get()


def read(node: NodeRun, wanted: str | None = None):
    place = f"runs/{node.run_id}/nodes/a/attempts/1/log"
    return program(Role.GUEST).get(place, **({"Range": wanted} if wanted else {}))


@pytest.mark.parametrize("content", [TEXT, b"", b"\xff\x00\x1b[31m</script>\n" * 3, b"no newline"])
def test_log_comes_byte_for_byte_and_never_as_a_page(node, content):
    write_log(node, 1, content)

    response = read(node)

    name = f"run-{node.run_id}-a-1.log"
    assert response.status_code == 200
    assert body_of(response) == content
    assert {key: response[key] for key in HEADERS} == HEADERS
    assert response["Content-Disposition"] == f'attachment; filename="{name}"'


def test_log_that_has_not_begun_is_empty(node):
    log_of(node.run_id, node.pk, 1).path.unlink()

    response = read(node)

    assert (response.status_code, body_of(response)) == (200, b"")
    assert read(node, "bytes=0-").status_code == 416


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-9", 0, 9),
        ("bytes=10-10", 10, 10),
        ("bytes=90-", 90, 99),
        ("bytes=90-1000", 90, 99),
        ("bytes=-5", 95, 99),
        ("bytes=-1000", 0, 99),
        ("bytes= 0 - 9", 0, 9),
    ],
)
def test_range_gives_that_piece(node, wanted, first, last):
    response = read(node, wanted)

    assert response.status_code == 206
    assert response["Content-Range"] == f"bytes {first}-{last}/100"
    assert body_of(response) == TEXT[first : last + 1]
    assert {key: response[key] for key in HEADERS} == HEADERS


@pytest.mark.parametrize("wanted", ["bytes=100-", "bytes=100-200", "bytes=20-10", "bytes=-0"])
def test_range_in_which_nothing_lies_is_said_to_be_so(node, wanted):
    response = read(node, wanted)

    assert (response.status_code, response["Content-Range"]) == (416, "bytes */100")
    assert response["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "lines=1-2", "bytes=a-b", "bytes=-", "x"])
def test_range_that_is_none_gives_the_whole(node, wanted):
    response = read(node, wanted)

    assert (response.status_code, body_of(response)) == (200, TEXT)


def test_long_range_comes_in_parts_that_join(node, monkeypatch):
    monkeypatch.setattr(logs, "RANGE_BYTES", 30)

    parts, at = [], 0
    while (response := read(node, f"bytes={at}-")).status_code == 206:
        parts.append(body_of(response))
        at += len(parts[-1])

    assert [len(part) for part in parts] == [30, 30, 30, 10]
    assert b"".join(parts) == TEXT


def test_follower_gets_what_is_new_and_nothing_twice(node):
    assert read(node, "bytes=100-").status_code == 416
    with log_of(node.run_id, node.pk, 1).path.open("ab") as file:
        file.write(b"more")

    response = read(node, "bytes=100-")

    assert (response["Content-Range"], body_of(response)) == ("bytes 100-103/104", b"more")


@pytest.fixture
def holed(node) -> tuple[NodeRun, bytes, int, int]:
    """A log of which the middle was left out: the node, what was written, from where to where."""
    written = os.urandom(64 * 1024)
    log = log_of(node.run_id, node.pk, 1)
    log.path.write_bytes(written)
    handle = os.open(log.path, os.O_RDWR)
    try:
        log.keep_ends(handle, 16 * 1024)
    finally:
        os.close(handle)
    start, end = log.hole()
    assert 0 < start < end < len(written)
    return node, written, start, end


def test_whole_log_says_where_its_middle_was_left_out(holed):
    node, written, start, end = holed

    response = read(node)

    note = f"\n[{end - start:,} bytes were left out here]\n".encode()
    assert body_of(response) == written[:start] + note + written[end:]
    assert response["Runyard-Left-Out"] == f"bytes {start}-{end - 1}"


def test_offsets_stay_those_of_the_jobs_own_output(holed):
    node, written, start, end = holed
    size = len(written)

    tail = read(node, "bytes=-100")
    before = read(node, f"bytes={start - 10}-{start + 10}")
    behind = read(node, f"bytes={start + 10}-")
    within = read(node, f"bytes={start + 10}-{end - 1}")
    across = read(node, f"bytes={end - 10}-{end + 9}")

    assert (tail["Content-Range"], body_of(tail)) == (
        f"bytes {size - 100}-{size - 1}/{size}",
        written[-100:],
    )
    assert (before["Content-Range"], body_of(before)) == (
        f"bytes {start - 10}-{start - 1}/{size}",
        written[start - 10 : start],
    )
    assert (behind["Content-Range"], body_of(behind)) == (
        f"bytes {end}-{size - 1}/{size}",
        written[end:],
    )
    assert within.status_code == 416
    assert (across["Content-Range"], body_of(across)) == (
        f"bytes {end}-{end + 9}/{size}",
        written[end : end + 10],
    )


def test_head_of_a_log_has_its_headers_and_no_body(node):
    place = f"runs/{node.run_id}/nodes/a/attempts/1/log"

    response = program(Role.GUEST).send("HEAD", place)

    assert (response.status_code, body_of(response)) == (200, b"")
    assert response["Content-Type"] == "text/plain; charset=utf-8"


# --- by lines -------------------------------------------------------------------------------

PLACE = "runs/{run}/nodes/a/attempts/1/log/"


def by_lines(node: NodeRun, place: str):
    return program(Role.GUEST).get(PLACE.format(run=node.run_id) + place)


def test_lines_come_by_number_and_say_where_to_go_on(node):
    write_log(node, 1, b"one\n\xff two\r\n\nfour")

    first = by_lines(node, "lines?limit=2").json()
    rest = by_lines(node, f"lines?first={first['next']}").json()

    assert first == {
        "items": [
            {"number": 1, "offset": 0, "text": "one", "cut": 0},
            {"number": 2, "offset": 4, "text": "\ufffd two", "cut": 0},
        ],
        "next": 3,
    }
    assert rest == {
        "items": [
            {"number": 3, "offset": 11, "text": "", "cut": 0},
            {"number": 4, "offset": 12, "text": "four", "cut": 0},
        ],
        "next": None,
    }
    assert by_lines(node, "lines?first=5").json() == {"items": [], "next": None}


def test_search_gives_the_lines_that_hold_a_text(node):
    write_log(node, 1, b"WARN disk\nok\nwarn memory\nWARN again\n")

    exact = by_lines(node, "search?text=WARN").json()
    folded = by_lines(node, "search?text=warn&ignore_case=true&limit=2").json()
    rest = by_lines(node, f"search?text=warn&ignore_case=true&start={folded['next']}").json()

    assert [line["number"] for line in exact["items"]] == [1, 4]
    assert [line["text"] for line in folded["items"]] == ["WARN disk", "warn memory"]
    assert (folded["next"], [line["number"] for line in rest["items"]]) == (25, [4])
    assert rest["next"] is None
    assert by_lines(node, "search?text=nowhere").json() == {"items": [], "next": None}


@pytest.mark.parametrize(
    ("place", "field"),
    [
        ("lines?first=0", "first"),
        ("lines?first=x", "first"),
        ("lines?limit=1001", "limit"),
        ("lines?from=1", "from"),
        ("search", "text"),
        ("search?text=", "text"),
        ("search?text=a%0Ab", "text"),
        ("search?text=a&start=-1", "start"),
        ("search?text=a&ignore_case=perhaps", "ignore_case"),
    ],
)
def test_what_is_wrong_with_a_request_for_lines_is_said(node, place, field):
    response = by_lines(node, place)

    assert response.status_code in (400, 422)
    assert [fault["field"] for fault in response.json()["errors"]] == [field]
