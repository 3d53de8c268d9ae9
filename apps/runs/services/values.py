"""Values that nodes leave for those below: `key=value` lines in $RUNYARD_OUTPUT."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path

from apps.engine.graph import above
from apps.engine.states import AttemptState
from apps.engine.timevars import NAME, NODE_VALUE, names_in, upstream_mark
from apps.runs.masking import Masker
from apps.runs.models import Attempt, NodeRun
from apps.runs.services.hot_path import Claim

#: Of one attempt. Of a file with more nothing is kept: half of it would be a wrong answer.
MAX_BYTES = 64 << 10


def read_values(file: Path, secrets: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """What an attempt left, secrets hidden; and what was left out, in words for its log.

    The job's user owns the file and may have put anything in its place.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        return {}, [f"$RUNYARD_OUTPUT was left out: {error.strerror}"]
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return {}, ["$RUNYARD_OUTPUT was left out: it is no plain file"]
        with open(descriptor, "rb", closefd=False) as opened:
            data = opened.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        return {}, [f"$RUNYARD_OUTPUT was left out: it has over {MAX_BYTES >> 10} KiB"]
    masker = Masker(secrets)
    return _read((masker.feed(data) + masker.end()).decode(errors="replace"))


def _read(text: str) -> tuple[dict[str, str], list[str]]:
    values: dict[str, str] = {}
    left_out: list[str] = []
    for number, line in enumerate(text.replace("\0", "\N{REPLACEMENT CHARACTER}").split("\n"), 1):
        key, equals, value = line.removesuffix("\r").partition("=")
        if NAME.fullmatch(key) and equals:
            values[key] = value
        elif line.strip():
            left_out.append(f"line {number} of $RUNYARD_OUTPUT was left out: write it as key=value")
    return values, left_out[:20]


def store_values(mine: Claim, values: dict[str, str]) -> None:
    """Keep what an attempt left. May be repeated."""
    Attempt.objects.filter(node_run=mine.node_run_id, number=mine.attempt).update(values=values)


def nodes_named(texts: Iterable[str]) -> set[str]:
    """The nodes whose values some texts use."""
    names = (name for text in texts if "${nodes." in text for name in names_in(text))
    return {found["node"] for name in names if (found := NODE_VALUE.fullmatch(name))}


def values_of_nodes(
    run_id: int, key: str, nodes: Collection[str], before: datetime | None = None
) -> dict[str, str]:
    """What upstreams of a node of this run left, of those named; with the mark of each upstream.

    Each time the newest attempt that succeeded counts, of those that began `before` a time if one
    is given; of a node that is kept from another run, the attempt there.
    """
    rows = NodeRun.objects.filter(run=run_id, key__in=nodes).select_related("run__version")
    found: dict[str, str] = {}
    for row in rows.order_by("pk"):
        version = row.run.version
        if version is None or row.key not in above(map(tuple, version.graph["edges"]), key):
            continue
        found[upstream_mark(row.key)] = ""
        attempt = _succeeded(row, before)
        for name, value in ((attempt and attempt.values) or {}).items():
            found[f"nodes.{row.key}.{name}"] = value
    return found


def _succeeded(row: NodeRun, before: datetime | None) -> Attempt | None:
    attempts = Attempt.objects.filter(state=AttemptState.SUCCEEDED)
    if before is not None:
        # By their starts: a hop stamps the start of the next before the end of the one above.
        attempts = attempts.filter(started_at__lt=before)
    while True:
        if attempt := attempts.filter(node_run=row).order_by("-number").first():
            return attempt
        if row.kept_from is None:
            return None
        row = row.kept_from
