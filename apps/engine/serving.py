"""Which resource queues a worker serves: all of them, or those that it names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fnmatch import fnmatchcase

#: Where bells ring for the workers that serve every queue.
EVERY_BELL = "runyard"


def read_names(text: str) -> tuple[str, ...]:
    """`workspace/queue` by commas, each with `*` and `?` as in a shell; () is every queue."""
    return tuple(sorted({name.strip() for name in text.split(",") if name.strip()}))


def serves(names: Sequence[str], queue: str) -> bool:
    """Whether a worker with these names serves a queue, said as `workspace/queue`."""
    return not names or any(fnmatchcase(queue, name) for name in names)


def concerns(names: Sequence[str], workspace: str) -> bool:
    """Whether a worker with these names is there for a workspace: there it may be named."""
    return not names or any(fnmatchcase(workspace, _workspaces(name)) for name in names)


def _workspaces(name: str) -> str:
    """What of a name is said of the workspace; without a slash a `*` stands for both."""
    before, slash, _ = name.partition("/")
    return before if slash else before.partition("*")[0] + "*"


def bell_of(names: Sequence[str]) -> str:
    """The broker's queue that the workers with just these names listen to."""
    if not names:
        return EVERY_BELL
    return f"{EVERY_BELL}.{hashlib.sha256(','.join(names).encode()).hexdigest()[:16]}"


def bells_for(queue: str | None, workers: Sequence[Sequence[str]]) -> list[str]:
    """Where to ring for a queue (`workspace/queue`; None: unknown), given each living worker's
    names.

    With no worker at all it rings where most will listen: the next one hears it. None where
    workers live, and none of them serves the queue: bells that nobody takes would pile up.
    """
    if not workers:
        return [EVERY_BELL]
    found = {bell_of(n) for n in workers if not n or (queue is not None and serves(n, queue))}
    return sorted(found)
