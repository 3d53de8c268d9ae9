"""Secrets in a log are hidden, however they are printed and wherever they are cut."""

from __future__ import annotations

import base64
import subprocess
import time
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.runs.masking import MaskedPipe, Masker, forms_of
from tests.waiting import until

SECRET = "p&ss/w\u00f6rd+7"


def masked(secrets: list[str], pieces: list[bytes]) -> bytes:
    masker = Masker(secrets)
    return b"".join([*map(masker.feed, pieces), masker.end()])


@settings(max_examples=300, deadline=None)
@given(
    secrets=st.lists(st.text("abc&", min_size=6, max_size=12), min_size=1, max_size=3),
    between=st.lists(st.text("abc&\n", max_size=10), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 150), max_size=20),
)
def test_no_secret_is_left_wherever_the_writes_are_cut(secrets, between, cuts):
    text = "".join(each + secrets[n % len(secrets)] for n, each in enumerate(between)).encode()
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[a:b] for a, b in pairwise(places)]

    seen = masked(secrets, pieces)

    assert not [secret for secret in secrets if secret.encode() in seen]
    assert seen == masked(secrets, [text])


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.binary(max_size=50), max_size=20))
def test_what_is_no_secret_comes_as_it_was_written(pieces):
    assert masked(["no such secret"], pieces) == b"".join(pieces)


@pytest.mark.parametrize(
    "printed",
    [
        pytest.param(SECRET.encode(), id="as it is"),
        pytest.param(quote(SECRET).encode(), id="in an address"),
        pytest.param(quote(SECRET, safe="").encode(), id="all of it quoted"),
        pytest.param(base64.b64encode(SECRET.encode()), id="base64"),
        pytest.param(base64.b64encode(f"user:{SECRET}".encode()), id="base64 behind a name"),
        pytest.param(base64.b64encode(f"abcd:{SECRET}!".encode()), id="base64 amid others"),
    ],
)
def test_each_form_of_a_secret_is_hidden(printed):
    seen = masked([SECRET], [b"before ", printed, b" after\n"])

    assert seen.startswith(b"before ")
    assert seen.endswith(b" after\n")
    assert b"***" in seen
    assert not any(form in seen for form in forms_of(SECRET))


def test_lines_of_a_secret_are_hidden_each_by_itself():
    key = "-----BEGIN KEY-----\nabcdefghijkl\nmnopqrstuvwx\n-----END KEY-----\n"

    assert masked([key], [b"1 abcdefghijkl 2 mnopqrstuvwx 3"]) == b"1 *** 2 *** 3"


def test_a_secret_that_begins_another_hides_neither_less():
    assert masked(["secret", "secret-long"], [b"a secret", b"-lo", b"ng b secret-c"]) == (
        b"a *** b ***-c"
    )


def test_what_cannot_begin_a_secret_is_not_held_back():
    masker = Masker(["secret"])

    assert [masker.feed(each) for each in (b"a line\n", b"is sec", b"ond\n", b"secr")] == [
        b"a line\n",
        b"is ",
        b"second\n",
        b"",
    ]


def test_a_pipe_goes_on_at_once_and_ends_with_the_child(tmp_path):
    path = tmp_path / "log"
    with path.open("ab") as log:
        pipe = MaskedPipe(["secret"], log.fileno(), None)
        child = subprocess.Popen(
            ["/bin/sh", "-c", "echo one; read go; printf sec; printf 'ret\\ntwo sec' >&2"],
            stdin=subprocess.PIPE,
            stdout=pipe.child_end,
            stderr=pipe.child_end,
        )
        pipe.start()
    until(lambda: path.read_bytes() == b"one\n", "the first line")

    child.communicate(b"go\n")

    assert pipe.drain(5) is True
    assert path.read_bytes() == b"one\n***\ntwo sec"


def test_masking_keeps_up_with_a_job_that_prints_a_lot():
    """By the time of this process alone, whatever else the machine does."""
    line = b"2025-11-20 12:00:00 INFO read 1234 rows of part-00017 in 12 ms\n" * 1000
    masker = Masker(["correct horse battery", "another secret of the warehouse"])
    began = time.process_time()
    for _ in range(50):
        masker.feed(line)

    assert 50 * len(line) / (time.process_time() - began) > 5_000_000
