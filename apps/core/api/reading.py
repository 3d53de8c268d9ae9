"""JSON read strictly."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

#: Lists and objects within each other.
MAX_DEPTH = 64


def read_json(raw: bytes) -> Any:
    """A JSON text in which nothing is ambiguous: no name twice, no NaN.

    Strings hold what PostgreSQL can keep: no NUL, no half of a surrogate pair.

    Raises ValueError with the reason.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = next(name for name, count in counts.items() if count > 1)
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
        raise ValueError(f"it is nested too deeply; {MAX_DEPTH} levels are allowed") from None
    return value


def _strings(value: Any) -> Iterator[str]:
    """Every string in it, names too. A stack of its own, which costs the same at any depth.

    Raises ValueError below MAX_DEPTH.
    """
    left = [(value, 0)]
    while left:
        part, depth = left.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, list | dict):
            if depth == MAX_DEPTH:
                raise ValueError(f"it is nested too deeply; {MAX_DEPTH} levels are allowed")
            inside: Iterable[Any] = part
            if isinstance(part, dict):
                yield from part
                inside = part.values()
            left += [(item, depth + 1) for item in inside]
