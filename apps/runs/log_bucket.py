"""Logs in object storage, for workers and web processes that share no folder.

While a job runs its worker ships the log in parts: each is an object of its own, packed, and its
name says which bytes it holds and how many lines end before them. So one listing tells a reader
all, and no manifest can be out of step. When the attempt is over few parts stay as they are; of
many one object is made, with a table beside it as in a folder (log_blocks).

Keys: <prefix>/<run>/<node run>.<attempt>/<part>, or …/log.gz and …/table there.
"""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from apps.core.errors import Unavailable
from apps.runs.log_blocks import Block, Blocks, Stretch, pack, table_of, unpack

#: A reader that follows a log lists its new parts so often at most.
_LIST_SECONDS = 0.5
#: Blocks that a reader keeps unpacked: who reads on comes back to the last one.
_KEPT = 4
#: As many as S3 lists and removes at once.
_PAGE = 1000
_WHOLE, _TABLE = "log.gz", "table"


class Bucket:
    """A bucket, and what is below a prefix in it. Safe to use from any thread.

    Where it is and with what keys stands in the environment, under the names that all programs
    for S3 know: AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION; or
    in the machine's own role. Each call raises Unavailable where there is no answer in time.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.name = parts.netloc
        self.prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
        self._lock = threading.Lock()
        self._made: Any = None

    def put(self, key: str, data: bytes) -> None:
        with self._answering():
            self._client.put_object(Bucket=self.name, Key=self.prefix + key, Body=data)

    def put_file(self, key: str, path: Path) -> None:
        with self._answering():
            self._client.upload_file(str(path), self.name, self.prefix + key)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Raises FileNotFoundError where there is no such object."""
        part = {} if length is None else {"Range": f"bytes={start}-{start + length - 1}"}
        with self._answering():
            found = self._client.get_object(Bucket=self.name, Key=self.prefix + key, **part)
            data: bytes = found["Body"].read()
        return data

    def names(self, folder: str, after: str = "") -> Iterator[str]:
        """Names below `folder` (which ends with a slash), ascending, from behind `after` on."""
        before = self.prefix + folder
        behind = {"StartAfter": before + after} if after else {}
        token: dict[str, str] = {}
        while True:
            with self._answering():
                page = self._client.list_objects_v2(
                    Bucket=self.name, Prefix=before, MaxKeys=_PAGE, **behind, **token
                )
            yield from (each["Key"][len(before) :] for each in page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def remove(self, keys: Iterable[str]) -> None:
        """What is not there is fine."""
        wanted = [{"Key": self.prefix + key} for key in keys]
        for at in range(0, len(wanted), _PAGE):
            with self._answering():
                done = self._client.delete_objects(
                    Bucket=self.name, Delete={"Objects": wanted[at : at + _PAGE], "Quiet": True}
                )
            if faults := done.get("Errors"):
                raise Unavailable(f"object storage does not remove logs: {faults[0]['Code']}")

    @property
    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                # Half a second and 30 MB, which who keeps logs in a folder does not pay.
                import boto3
                from botocore.config import Config

                config = Config(
                    connect_timeout=3,
                    read_timeout=10,
                    retries={"max_attempts": 2, "mode": "standard"},
                    max_pool_connections=32,
                    # Other servers than Amazon's may not know its newer checksums.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                )
                self._made = boto3.session.Session().client("s3", config=config)
            return self._made

    @contextmanager
    def _answering(self) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                raise FileNotFoundError(str(error)) from error
            raise Unavailable(f"object storage refuses logs: {error}") from error
        except (BotoCoreError, Boto3Error, OSError) as error:
            raise Unavailable(f"object storage with the logs does not answer: {error}") from error


@cache
def bucket_at(url: str) -> Bucket | None:
    """None for a folder."""
    return None if url == "folder" else Bucket(url)


def the_bucket() -> Bucket | None:
    """Where RUNYARD_LOG_STORE says that logs are; None for this home's folder."""
    return bucket_at(settings.LOG_STORE)


@dataclass(frozen=True)
class Part:
    """An object that holds a piece of a log."""

    block: Block

    @property
    def name(self) -> str:
        block = self.block
        return f"{block.offset:016d}-{block.length}-{block.newlines}.gz"

    @classmethod
    def named(cls, name: str) -> Part | None:
        try:
            offset, length, newlines = name.removesuffix(".gz").split("-", 2)
            return cls(Block(int(offset), int(length), int(newlines), 0, 0))
        except ValueError:
            return None


@dataclass
class BucketLog:
    """One attempt's log in a bucket. It keeps what it has listed and unpacked: one a reader."""

    bucket: Bucket
    #: Ends with a slash.
    folder: str
    _rows: list[Block] = field(default_factory=list)
    _last: str = ""
    _whole: Blocks | None = None
    _listed: float = -_LIST_SECONDS
    _unpacked: OrderedDict[int, bytes] = field(default_factory=OrderedDict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    # --- to read ----------------------------------------------------------------------------

    def blocks(self) -> Blocks:
        """As of half a second ago at most."""
        with self._lock:
            if self._whole is not None:
                return self._whole
            if time.monotonic() - self._listed >= _LIST_SECONDS:
                self._list()
            return self._whole or Blocks(list(self._rows))

    def read(self, offset: int, limit: int) -> Stretch:
        with self._lock:
            try:
                return self.blocks().read(offset, limit, self._block)
            except FileNotFoundError:
                # Made one object meanwhile, or left out.
                self._rows, self._last, self._whole = [], "", None
                self._list()
                return self.blocks().read(offset, limit, self._block)

    def _list(self) -> None:
        names = list(self.bucket.names(self.folder, self._last))
        self._listed = time.monotonic()
        if _TABLE in names:
            self._whole = table_of(self.bucket.get(self.folder + _TABLE))
            self._unpacked.clear()
            return
        for name in names:
            if part := Part.named(name):
                insort(self._rows, part.block, key=lambda row: row.offset)
                self._last = name

    def _block(self, row: Block) -> bytes:
        if row.offset not in self._unpacked:
            if self._whole is None:
                packed = self.bucket.get(self.folder + Part(row).name)
            else:
                packed = self.bucket.get(self.folder + _WHOLE, row.place, row.packed)
            self._unpacked[row.offset] = unpack(packed)
            while len(self._unpacked) > _KEPT:
                self._unpacked.popitem(last=False)
        self._unpacked.move_to_end(row.offset)
        return self._unpacked[row.offset]

    # --- to write ---------------------------------------------------------------------------

    def put_part(self, offset: int, data: bytes, newlines: int) -> Block:
        block = Block(offset, len(data), newlines, 0, 0)
        self.bucket.put(self.folder + Part(block).name, pack(data))
        return block

    def remove_parts(self, blocks: Iterable[Block]) -> None:
        self.bucket.remove(self.folder + Part(block).name for block in blocks)

    def put_whole(self, packed: Path, table: Path) -> None:
        """In place of all parts. The table goes last: with it the whole counts."""
        self.bucket.put_file(self.folder + _WHOLE, packed)
        self.bucket.put_file(self.folder + _TABLE, table)
        names = [name for name in self.bucket.names(self.folder) if Part.named(name)]
        self.bucket.remove(self.folder + name for name in names)


def remove_run(bucket: Bucket, run_id: int) -> None:
    folder = f"{run_id}/"
    bucket.remove([folder + name for name in bucket.names(folder)])
