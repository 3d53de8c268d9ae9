"""A log in compressed blocks, each of which is read by itself.

A block is one member of a gzip file, so that any program unpacks the whole (`zcat`). A table
says where each lies and how many lines end before it. Between two blocks that do not meet,
bytes were left out.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

#: Of the log in one block. Twice as much would save 1 % of space.
BLOCK_BYTES = 256 * 1024
#: zlib's fastest: 60 MB/s and a fifth of the size; the best takes three times as long for a sixth.
_LEVEL = 1
_GZIP = 31  # zlib's word for gzip
_ROW = struct.Struct("<QIqQI")


@dataclass(frozen=True)
class Stretch:
    """A piece of a log."""

    #: Where `data` begins.
    offset: int
    #: As the child wrote it: any bytes, a character may be cut at either end.
    data: bytes
    #: Bytes that were left out right before `data`.
    left_out: int

    @property
    def next(self) -> int:
        """Pass back as `offset` to get what comes next."""
        return self.offset + len(self.data)


@dataclass(frozen=True, order=True)
class Mark:
    """A place in a log of which it is known how many lines end before it."""

    offset: int
    newlines: int


@dataclass(frozen=True)
class Block:
    #: Of the log: where it begins, and how much of it this is.
    offset: int
    length: int
    #: Line ends before it; -1: not known.
    newlines: int
    #: Where it lies among the packed bytes, and how many it takes.
    place: int
    packed: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True)
class Blocks:
    """All blocks of a log, ascending."""

    rows: Sequence[Block]

    @property
    def size(self) -> int:
        return self.rows[-1].end if self.rows else 0

    def hole(self) -> tuple[int, int]:
        """From where to where bytes were left out; (0, 0): nowhere."""
        end = 0
        for row in self.rows:
            if row.offset > end:
                return end, row.offset
            end = row.end
        return 0, 0

    def marks(self) -> list[Mark]:
        return [Mark(row.offset, row.newlines) for row in self.rows if row.newlines >= 0]

    def read(self, offset: int, limit: int, unpacked: Callable[[Block], bytes]) -> Stretch:
        """At most `limit` bytes from `offset` on, up to where bytes were left out.

        `unpacked` gives what is in a block.
        """
        at = bisect_right(self.rows, offset, key=_offset) - 1
        if at < 0 or offset >= self.rows[at].end:
            at += 1
        if at == len(self.rows):
            return Stretch(offset, b"", 0)
        start = end = max(offset, self.rows[at].offset)
        parts: list[bytes] = []
        for row in self.rows[at:]:
            if row.offset > end or end - start >= limit:
                break
            parts.append(unpacked(row)[end - row.offset : start + limit - row.offset])
            end += len(parts[-1])
        return Stretch(start, b"".join(parts), start - offset)

    def packed(self) -> bytes:
        """The table as bytes; `table_of` reads them."""
        return b"".join(
            _ROW.pack(row.offset, row.length, row.newlines, row.place, row.packed)
            for row in self.rows
        )


def table_of(data: bytes) -> Blocks:
    return Blocks([Block(*each) for each in _ROW.iter_unpack(data)])


def _offset(row: Block) -> int:
    return row.offset


def pack(data: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    return packer.compress(data) + packer.flush()


def unpack(data: bytes) -> bytes:
    return zlib.decompress(data, _GZIP)


def pack_all(
    stretches: Iterable[tuple[bytes, int, int]], write: Callable[[bytes], object]
) -> Blocks:
    """Pack pieces of a log, (data, offset, line ends before or -1) each, and give their table."""
    rows, place = [], 0
    for data, offset, newlines in stretches:
        packed = pack(data)
        write(packed)
        rows.append(Block(offset, len(data), newlines, place, len(packed)))
        place += len(packed)
    return Blocks(rows)


# --- in a folder ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PackedFile:
    """A log's blocks in one file, their table in another. Neither changes once it is there."""

    path: Path
    table_path: Path

    def blocks(self) -> Blocks:
        """Raises FileNotFoundError where the log is not packed."""
        found = self.table_path.stat()
        return _table(self.table_path, found.st_ino, found.st_mtime_ns)

    def read(self, offset: int, limit: int) -> Stretch:
        blocks = self.blocks()
        with open(self.path, "rb", buffering=0) as file:

            def unpacked(row: Block) -> bytes:
                file.seek(row.place)
                return unpack(file.read(row.packed))

            return blocks.read(offset, limit, unpacked)


@lru_cache(maxsize=64)
def _table(path: Path, inode: int, written: int) -> Blocks:
    return table_of(path.read_bytes())
