"""The child that every node, thread and task starts: it appends the time to a file."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path

#: Of one line: nanoseconds since 1970, and the line's end.
_LINE_BYTES = 20
#: How long a workload may stand still before the bench gives up.
PATIENCE_SECONDS = 120.0


class Late(Exception):
    """What should have happened has not."""


class Stamps:
    """A file of times, one by each child as it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(b"")

    @property
    def command(self) -> list[str]:
        return ["/bin/sh", "-c", f"date +%s%N >> {self.path}"]

    def wait(self, count: int) -> list[int]:
        """The first `count` times, ascending, in ns, as soon as there are so many."""
        return self.wait_for(count, time.monotonic() + PATIENCE_SECONDS)

    def wait_for(self, count: int, until: float) -> list[int]:
        while os.stat(self.path).st_size < count * _LINE_BYTES:
            if time.monotonic() > until:
                there = os.stat(self.path).st_size // _LINE_BYTES
                raise Late(f"{there} of {count} children have run after {PATIENCE_SECONDS:g} s")
            time.sleep(0.002)
        return sorted(int(line) for line in self.path.read_text().split())


#: As a shell job's text. The file is a parameter of the run, so that one job serves all. The
#: shell becomes `date`, as `sh -c` does by itself: as many processes as the others start.
JOB = '#!/bin/sh\nexec date +%s%N >> "$FILE"\n'


def gaps_ms(times: list[int]) -> list[float]:
    """From each time to the next, ms."""
    return [(b - a) / 1e6 for a, b in pairwise(times)]


def rate(times: list[int]) -> float:
    """Children a second, from the first's time to the last's."""
    return (len(times) - 1) / ((times[-1] - times[0]) / 1e9)


def percentile(values: list[float], part: float) -> float:
    """The value below which `part` of all values lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]
