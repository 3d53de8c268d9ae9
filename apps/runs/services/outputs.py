"""Tables, pictures and texts that an attempt leaves for the run page."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from apps.nodes.services.files import TooLarge, store
from apps.runs.models import Attempt, Output
from apps.runs.services.hot_path import Claim

#: Of one attempt. What is more is left out, and `store_outputs` says so.
MAX_FILES = 50
MAX_BYTES = 20 << 20
#: No SVG: a picture that can hold a script.
SUFFIXES = frozenset({".md", ".png", ".csv", ".json", ".txt"})


def store_outputs(mine: Claim, folder: Path) -> list[str]:
    """Keep the files of an attempt's output folder; what was left out, in words for its log.

    The job's user owns the folder and may do anything with it meanwhile, so that each file
    is opened without following links and judged by what was opened. May be repeated.
    """
    try:
        inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return []
    try:
        return _store(mine, inside)
    finally:
        os.close(inside)


def _store(mine: Claim, inside: int) -> list[str]:
    left_out: list[str] = []
    names = sorted(os.listdir(inside))
    if not names:
        return []
    attempt = Attempt.objects.get(node_run=mine.node_run_id, number=mine.attempt)
    room = MAX_BYTES
    kept: list[Output] = []
    for name in names:
        if Path(name).suffix.lower() not in SUFFIXES:
            left_out.append(
                f"output {name!r} was left out: it is none of {', '.join(sorted(SUFFIXES))}"
            )
            continue
        if not name.isprintable():
            left_out.append(f"output {name!r} was left out: its name holds control characters")
            continue
        if len(kept) == MAX_FILES:
            left_out.append(f"more than {MAX_FILES} outputs; the rest was left out")
            break
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=inside)
        except OSError as error:
            left_out.append(f"output {name!r} was left out: {error.strerror}")
            continue
        try:
            # Asked before Python opens it: open() raises at a folder, and keeps it open.
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                left_out.append(f"output {name!r} was left out: it is no plain file")
                continue
            if about.st_size > room:
                raise TooLarge
            with open(descriptor, "rb", closefd=False) as file:
                sha256, size = store(file, most=room)
        except TooLarge:
            left_out.append(
                f"output {name!r} was left out: one attempt may keep {MAX_BYTES >> 20} MiB"
            )
            continue
        finally:
            os.close(descriptor)
        room -= size
        kept.append(Output(attempt=attempt, name=name[:255], sha256=sha256, size=size))
    Output.objects.bulk_create(kept, ignore_conflicts=True)
    return left_out
