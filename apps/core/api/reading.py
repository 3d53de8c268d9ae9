"""JSON read strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any


def read_json(raw: bytes) -> Any:
    """A JSON text in which nothing is ambiguous: no name twice, no NaN.

    Strings hold what PostgreSQL can keep: no NUL, no half of a surrogate pair.

    Raises ValueError with the reason.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the name {twice!r} stands there twice")
        return found

    def finite(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise ValueError(f"{digits} is no number that can be kept")
        return number

    try:
        value = json.loads(raw, object_pairs_hook=once, parse_float=finite, parse_constant=finite)
        for text in _strings(value):
            if "\0" in text:
                raise ValueError("a string holds a NUL character; take it out")
            text.encode()
    except UnicodeError:
        raise ValueError("it is not UTF-8, or holds half a surrogate pair") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _strings(item)
