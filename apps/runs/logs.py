"""Logs of attempts: one file each, written by the child itself, read by byte range.

    log = log_of(run_id, node_run_id, attempt)
    stretch = log.read(offset=0)        # and on from stretch.next

Offsets are the child's own: of a log that outgrows its limit the middle is punched out of
the file, so that all before and after it stays where it was. How much is missing stands in
a small file beside it.

The folder is this machine's, or one that workers and web share. Where there is none to share,
logs are shipped to object storage while they grow (log_bucket, log_shipping), and read there by
who does not find the file.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import shutil
import struct
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings

from apps.core.home import private
from apps.runs.log_blocks import Blocks, Mark, PackedFile, Stretch
from apps.runs.log_bucket import BucketLog, remove_run, the_bucket

logger = logging.getLogger(__name__)

#: Most that one read gives.
READ_BYTES = 64 * 1024
#: What is kept of a log's end on the attempt itself.
TAIL_BYTES = 4096
#: File systems free whole blocks only.
_BLOCK = 4096
_CHUNK = 1 << 20
_NOTHING = bytes(_CHUNK)
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
_PUNCH_HOLE, _KEEP_SIZE = 2, 1  # fallocate(2)
#: A mark on the disk: an offset, and the line ends before it.
_MARK = struct.Struct("<QQ")
#: From one mark to the next at least. To count the lines of so much takes about 0.3 ms.
MARK_BYTES = 1 << 20


@dataclass(frozen=True)
class AttemptLog:
    """The log of one attempt, which may not have begun."""

    path: Path
    #: Where it is read where there is no such file; None: nowhere.
    shipped: BucketLog | None = field(default=None, compare=False)

    def open_for_child(self, blank: int | None = None) -> int:
        """Begin the log and return a descriptor for the child's outputs, and for our reading.

        Appending, so that several writers do not overwrite each other. `blank` is what
        Blanks gave: it is used, or closed.
        """
        if blank is not None:
            try:
                self._name(blank)
                return blank
            except OSError:
                os.close(blank)
        flags = os.O_CREAT | os.O_NOFOLLOW | _FLAGS
        try:
            return os.open(self.path, flags, 0o600)
        except FileNotFoundError:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self.path, flags, 0o600)

    def _name(self, blank: int) -> None:
        unnamed = f"/proc/self/fd/{blank}"
        try:
            # src_dir_fd makes it a linkat that follows the link; the path is absolute anyhow.
            os.link(unnamed, self.path, src_dir_fd=blank, follow_symlinks=True)
        except FileNotFoundError:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.link(unnamed, self.path, src_dir_fd=blank, follow_symlinks=True)

    def size(self) -> int:
        """Bytes that the child wrote, including those that were left out."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return self._blocks().size

    def read(self, offset: int = 0, limit: int = READ_BYTES) -> Stretch:
        """At most `limit` bytes from `offset` on; of what was left out only the count.

        Nothing there yet, or nothing new: empty `data`.
        """
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            try:
                return self.packed.read(offset, limit)
            except FileNotFoundError:
                if self.shipped is None:
                    return Stretch(offset, b"", 0)
                return self.shipped.read(offset, limit)
        try:
            while True:
                start, end = self.hole()
                at = end if start <= offset < end else offset
                data = os.pread(handle, limit, at)
                # A hole is noted before it is punched: with the note unchanged, nothing of
                # what was read can have been in it.
                if (start, end) == self.hole():
                    break
            if at < start:
                data = data[: start - at]
            return Stretch(at, data, at - offset)
        finally:
            os.close(handle)

    def tail(self, limit: int = TAIL_BYTES) -> Stretch:
        """The last `limit` bytes, less what was left out of them."""
        return self.read(max(self.size() - limit, 0), limit)

    def hole(self) -> tuple[int, int]:
        """From where to where bytes were left out; (0, 0): nowhere."""
        try:
            start, end = self.hole_path.read_text().split()
        except FileNotFoundError:
            return self._blocks().hole()
        return int(start), int(end)

    def marks(self) -> list[Mark]:
        """Places with known line numbers, ascending, about one per MiB; none in a short log.

        Behind the last one lines have to be counted.
        """
        try:
            data = self.marks_path.read_bytes()
        except FileNotFoundError:
            return self._blocks().marks()
        whole = len(data) // _MARK.size * _MARK.size  # the last one may be on its way
        return [Mark(*each) for each in _MARK.iter_unpack(data[:whole])]

    def _blocks(self) -> Blocks:
        """Of a log that is packed, or shipped; none of another."""
        try:
            return self.packed.blocks()
        except FileNotFoundError:
            return Blocks([]) if self.shipped is None else self.shipped.blocks()

    @property
    def packed(self) -> PackedFile:
        """What takes the file's place when the attempt is over: apps.runs.log_sealing."""
        return PackedFile(self.path.with_suffix(".log.gz"), self.path.with_suffix(".blocks"))

    @property
    def marks_path(self) -> Path:
        return self.path.with_suffix(".lines")

    def keep_ends(self, handle: int, limit: int) -> None:
        """Leave out the middle of a log of more than `limit` bytes; keep its head and tail.

        `handle` is the descriptor that open_for_child gave. Does it in steps of an eighth of
        the limit; call it while the log grows.
        """
        half = max(limit // 2 // _BLOCK, 1) * _BLOCK
        end = (os.fstat(handle).st_size - half) // _BLOCK * _BLOCK
        if end - half < max(limit // 8, _BLOCK):
            return
        already = self.hole()[1]
        if end - max(already, half) < max(limit // 8, _BLOCK):
            return
        note = self.hole_path.with_suffix(".new")
        note.write_text(f"{half} {end}")
        note.replace(self.hole_path)
        _punch(handle, half, end - half)

    @property
    def hole_path(self) -> Path:
        return self.path.with_suffix(".hole")


def log_of(run_id: int, node_run_id: int, attempt: int) -> AttemptLog:
    """Where the logs are in object storage, what it gives raises Unavailable where that is away.

    Take one for each reader: it keeps what it has read.
    """
    path = settings.HOME.logs / str(run_id) / f"{node_run_id}.{attempt}.log"
    bucket = the_bucket()
    if bucket is None:
        return AttemptLog(path)
    return AttemptLog(path, BucketLog(bucket, f"{run_id}/{path.stem}/"))


def remove_logs(run_ids: Iterable[int]) -> None:
    """Remove all logs of some runs; none there is fine. Raises Unavailable."""
    runs = list(run_ids)
    for run_id in runs:
        shutil.rmtree(settings.HOME.logs / str(run_id), ignore_errors=True)
    bucket = the_bucket()
    if bucket is not None:
        # Side by side: to list and remove takes two answers a run.
        with ThreadPoolExecutor(max_workers=16) as pool:
            list(pool.map(lambda run_id: remove_run(bucket, run_id), runs))


class Blanks:
    """Log files without a name, made while nobody waits: to make one can cost 0.2 ms.

    None where the file system has no such files; then a log is made when it begins.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._ready: deque[int] = deque()

    def take(self) -> int | None:
        try:
            return self._ready.pop()
        except IndexError:
            return None

    def make(self) -> None:
        if len(self._ready) < self.most:
            with contextlib.suppress(OSError, AttributeError):  # no O_TMPFILE outside Linux
                self._ready.append(os.open(settings.HOME.logs, os.O_TMPFILE | _FLAGS, 0o600))


class Reader:
    """Reads a growing log once from start to end: counts its lines, hands on its bytes.

    So that at an attempt's end little is left to read, however large its log.
    """

    def __init__(
        self,
        handle: int,
        each: Callable[[bytes], None] | None = None,
        marks: Path | None = None,
    ) -> None:
        """`marks`: the file in which it notes, each MiB, how many lines ended before."""
        self.handle = handle
        self.each = each
        self.position = 0
        self._marks = marks
        self._marked = 0
        self._newlines = 0
        self._last = b"\n"

    @property
    def lines(self) -> int:
        """Lines so far; one without an end counts."""
        return self._newlines + (self._last != b"\n")

    def advance(self, most: int) -> None:
        """Read what is new, `most` bytes of it: a child may write faster than we read."""
        while most > 0:
            data = os.pread(self.handle, _CHUNK, self.position)
            if data == _NOTHING and self._skip_hole():
                continue
            self.position += len(data)
            most -= len(data)
            self._newlines += data.count(b"\n")
            self._last = data[-1:] or self._last
            if self.position - self._marked >= MARK_BYTES:
                self._mark()
            if self.each is not None:
                self.each(data)
            if len(data) < _CHUNK:
                return  # the end, but for what came this very moment

    def close(self) -> None:
        """Note where the reading ended: what lies behind a hole is counted from there back."""
        if self._marked < self.position and self._marked:
            self._mark()

    def _mark(self) -> None:
        self._marked = self.position
        if self._marks is None:
            return
        try:
            with open(self._marks, "ab", buffering=0, opener=private) as file:
                file.write(_MARK.pack(self.position, self._newlines))
        except OSError as error:
            # Numbers of lines are then counted from the last mark; half of one must stay last.
            logger.warning("lines of %s are not marked on: %s", self._marks.stem, error)
            self._marks = None

    def _skip_hole(self) -> bool:
        """Go on to where something is written: a job can make terabytes of nothing at once.

        The handle's offset moves. Nobody has use for it: we say where we read, and writers
        append.
        """
        try:
            found = os.lseek(self.handle, self.position, os.SEEK_DATA)
        except OSError:  # nothing more, or no file system that knows its holes
            found = os.fstat(self.handle).st_size
        before, self.position = self.position, max(found, self.position)
        return found > before


def _punch(handle: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        fallocate = libc.fallocate
    except AttributeError:  # not Linux
        return
    sizes = (ctypes.c_int64(offset), ctypes.c_int64(length))
    if fallocate(handle, _PUNCH_HOLE | _KEEP_SIZE, *sizes):
        # The file system has no holes: readers skip the middle all the same, the space is lost.
        logger.warning("cannot free a log's middle: %s", os.strerror(ctypes.get_errno()))
