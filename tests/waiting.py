"""Wait for a condition, never for luck."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], what: str = "it", *, seconds: float = 15.0) -> T:
    """What `condition` returns, as soon as that is true. Fails the test after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not come about within {seconds:g} s"
        time.sleep(0.02)
    return found
