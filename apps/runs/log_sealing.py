"""Packs logs that are over, while nobody waits for it.

    sealer = Sealer()
    sealer.start()
    sealer.ended(log)       # nothing more is written to it; from any thread

A log that is packed reads as before, at the same offsets. The packed file takes the log's place
only when all of it is on the disk, so that a crash at any moment leaves one of the two.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

from apps.core.home import private
from apps.runs.log_blocks import BLOCK_BYTES, PackedFile, pack_all
from apps.runs.log_lines import number_at
from apps.runs.logs import AttemptLog, log_of
from apps.runs.models import Attempt

logger = logging.getLogger(__name__)

#: A smaller log would save next to nothing.
LEAST_BYTES = 16 * 1024
#: So long after its end: until then those who watched it read it on.
_PAUSE_SECONDS = 5.0
#: How far back a new worker looks for logs that a dead one left unpacked.
_DAYS = 3


def seal(log: AttemptLog, least: int = LEAST_BYTES) -> bool:
    """Pack a log to which nothing is written any more; False: not worth it, or another is at it.

    Raises OSError where the disk refuses; then the log stays as it was.
    """
    try:
        handle = os.open(log.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        if os.fstat(handle).st_size < least:  # most logs, and so before all else
            return False
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size, (start, end) = os.fstat(handle).st_size, log.hole()
        kept = size - (end - start)
        # A job can make terabytes of nothing, of which a full disk could not leave out any.
        if not least <= kept <= 2 * settings.LOG_LIMIT_BYTES or not log.path.exists():
            return False
        packed = log.packed
        fresh = PackedFile(_fresh(packed.path), _fresh(packed.table_path))
        with open(fresh.path, "wb", opener=private) as file:
            blocks = pack_all(_pieces(log, handle, size), file.write)
            _keep(file)
        with open(fresh.table_path, "wb", opener=private) as file:
            file.write(blocks.packed())
            _keep(file)
        if os.fstat(handle).st_size != size:
            return False  # something writes on
        fresh.table_path.replace(packed.table_path)
        fresh.path.replace(packed.path)
        _keep_folder(log.path.parent)
        log.path.unlink()
        for beside in (log.hole_path, log.marks_path):
            beside.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


def _pieces(log: AttemptLog, handle: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    start, end = log.hole()
    newlines, at = 0, 0
    while at < size:
        if start <= at < end:
            at = end
            number = number_at(log, at)
            newlines = -1 if number is None else number - 1
            continue
        stop = min(at + BLOCK_BYTES, size, start if at < start else size)
        data = os.pread(handle, stop - at, at)
        if not data:
            raise OSError(f"{log.path} got shorter while it was packed")
        yield data, at, newlines
        at += len(data)
        newlines += data.count(b"\n") if newlines >= 0 else 0


def _fresh(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _keep(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _keep_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Sealer:
    """A thread of low priority that packs what has ended."""

    def __init__(self) -> None:
        self._ended: deque[tuple[float, AttemptLog]] = deque()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sealer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def began(self, log: AttemptLog) -> None:
        """Nothing is to be done before its end."""

    def ended(self, log: AttemptLog) -> None:
        self._ended.append((time.monotonic() + _PAUSE_SECONDS, log))

    def close(self) -> None:
        """What is not packed now is packed by the next worker."""
        self._closed.set()
        self._thread.join(timeout=5)

    def _work(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        self._seal_what_was_left()
        while not self._closed.wait(1.0):
            while self._ended and self._ended[0][0] <= time.monotonic():
                self._seal(self._ended.popleft()[1])
                if self._closed.is_set():
                    return

    def _seal(self, log: AttemptLog) -> None:
        try:
            seal(log)
        except Exception:  # it stays as it is, and is read as it is
            logger.exception("the log %s is not packed", log.path)

    def _seal_what_was_left(self) -> None:
        """Logs of workers that went before they packed them."""
        try:
            for log in unsealed(time.time() - _DAYS * 86_400):
                if self._closed.is_set():
                    return
                self._seal(log)
        except (OSError, DatabaseError, InterfaceError) as error:
            logger.warning("logs that were left are not packed now: %s", error)
        finally:
            connection.close()


def unsealed(since: float, least: int = LEAST_BYTES) -> Iterator[AttemptLog]:
    """Logs of `least` bytes of attempts that are over, in folders touched since (Unix time).

    With `least` 0 also those that are packed already.
    """
    kinds = ("*.log",) if least else ("*.log", "*.log.gz")
    with os.scandir(settings.HOME.logs) as found_there:
        folders = list(found_there)
    for folder in folders:
        if not folder.name.isdecimal() or folder.stat().st_mtime < since:
            continue
        found: dict[tuple[int, int], AttemptLog] = {}
        for path in (path for kind in kinds for path in Path(folder).glob(kind)):
            node_run, attempt = path.name.split(".")[:2]
            if node_run.isdecimal() and attempt.isdecimal() and path.stat().st_size >= least:
                place = int(node_run), int(attempt)
                found[place] = log_of(int(folder.name), *place)
        if found:
            rows = Attempt.objects.filter(
                node_run__run=int(folder.name), ended_at__isnull=False
            ).values_list("node_run", "number")
            yield from (found[row] for row in rows if row in found)
