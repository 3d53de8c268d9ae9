"""Bodies of requests: read strictly, in a time that grows with their length alone."""

from __future__ import annotations

import json
import time

import pytest

from apps.core.api.reading import MAX_DEPTH, read_json


def nested(depth: int) -> bytes:
    return b"[" * depth + b'"x"' + b"]" * depth


def test_the_depth_that_is_allowed_and_no_more():
    read_json(nested(MAX_DEPTH))

    for depth in (MAX_DEPTH + 1, 900, 100_000):
        with pytest.raises(ValueError, match=f"nested too deeply; {MAX_DEPTH} levels"):
            read_json(nested(depth))


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 3}', '[{"b": {"a": 1, "a": 1}}]'])
def test_a_name_that_stands_there_twice(text):
    with pytest.raises(ValueError, match="the name 'a' stands there twice"):
        read_json(text.encode())


@pytest.mark.parametrize("text", [r'["\u0000"]', r'{"\u0000": 1}', r'{"a": [{"b": "\u0000"}]}'])
def test_nul_is_found_wherever_it_stands(text):
    with pytest.raises(ValueError, match="NUL"):
        read_json(text.encode())


def test_the_search_for_a_twin_grows_with_the_names_and_not_with_their_square():
    names = ",".join(f'"{n}":1' for n in range(50_000))
    began = time.process_time()

    with pytest.raises(ValueError, match="'49999' stands there twice"):
        read_json(f'{{{names},"49999":1}}'.encode())

    assert time.process_time() - began < 2  # seconds; the square takes more than ten


def test_strings_far_down_cost_no_more_than_others():
    many = json.dumps(["x"] * 200_000).encode()
    deep = b"[" * (MAX_DEPTH - 1) + many + b"]" * (MAX_DEPTH - 1)
    began = time.process_time()
    read_json(many)
    flat = time.process_time() - began
    began = time.process_time()

    read_json(deep)

    assert time.process_time() - began < 5 * flat
