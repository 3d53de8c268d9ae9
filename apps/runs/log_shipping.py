"""Ships logs to object storage while they grow.

    shipper = Shipper(bucket)
    shipper.start()
    shipper.began(log)      # from any thread
    shipper.ended(log)      # nothing more is written to it

The child writes to a file as ever. What is new in it goes out at once where nothing went for two
seconds, else when two seconds have passed or a MiB has come together. Storage that is away costs
delay alone: the file stays until all of it has gone out. A worker that dies leaves what it has
shipped; what it has not, the next worker of the same home ships.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from django.db import DatabaseError, InterfaceError, connection

from apps.core.errors import Unavailable
from apps.runs.log_blocks import Block
from apps.runs.log_bucket import Bucket, BucketLog
from apps.runs.log_lines import number_at
from apps.runs.log_sealing import seal, unsealed
from apps.runs.logs import AttemptLog

logger = logging.getLogger(__name__)

PART_BYTES = 1 << 20
PART_SECONDS = 2.0
_LOOK_SECONDS = 0.25
#: More parts than this are made one object at the end: to keep so many costs less than to
#: send the log once more, and one listing still tells all.
MOST_PARTS = 16
#: Logs that are shipped at once.
_THREADS = 8
#: After an answer that did not come.
_PAUSE_SECONDS = 5.0
#: What a worker that ends waits for its last logs to go out.
_CLOSE_SECONDS = 5.0
#: How often, and how far back, a worker looks for logs that a dead one of its home left.
_LEFT_SECONDS = 15.0
_DAYS = 30


@dataclass(eq=False)
class _Shipment:
    """A log on its way. One thread at a time is at it."""

    #: Without object storage: what is to be shipped is in the file.
    log: AttemptLog
    to: BucketLog
    is_over: bool = False
    is_busy: bool = False
    #: How much has gone out, and how many lines ended in it; -1: not known.
    done: int = 0
    newlines: int = 0
    parts: list[Block] = field(default_factory=list)
    #: When the next small part may go out, and, where storage is away, the next of any size.
    small_at: float = 0.0
    any_at: float = 0.0

    def is_due(self, now: float) -> bool:
        if self.is_busy or now < self.any_at:
            return False
        if self.is_over:
            return True
        try:
            new = self.log.path.stat().st_size - self.done
        except FileNotFoundError:
            return False
        return new >= PART_BYTES or (new > 0 and now >= self.small_at)

    def ship(self) -> bool:
        """Send what is new; True when the log is over and all of it has gone out."""
        is_over = self.is_over
        while (stretch := self.log.read(self.done, PART_BYTES)).data:
            if stretch.left_out:
                number = number_at(self.log, stretch.offset)
                self.newlines = -1 if number is None else number - 1
            part = self.to.put_part(stretch.offset, stretch.data, self.newlines)
            self.parts.append(part)
            self.done = stretch.next
            if self.newlines >= 0:
                self.newlines += stretch.data.count(b"\n")
            if len(stretch.data) < PART_BYTES and not is_over:
                break
        start, end = self.log.hole()
        gone = [part for part in self.parts if start <= part.offset and part.end <= end]
        if gone:
            self.to.remove_parts(gone)
            self.parts = [part for part in self.parts if part not in gone]
        if is_over:
            self._finish()
        return is_over

    def _finish(self) -> None:
        if len(self.parts) > MOST_PARTS:
            ship_whole(self.log, self.to)
        else:
            _forget(self.log)


def ship_whole(log: AttemptLog, to: BucketLog) -> None:
    """Put a log that is over into object storage as one object, in place of all parts."""
    if seal(log, least=1) or (log.packed.table_path.exists() and not log.path.exists()):
        to.put_whole(log.packed.path, log.packed.table_path)
    elif log.size():
        return  # another worker is at it
    _forget(log)


def _forget(log: AttemptLog) -> None:
    """Remove the file: all of it is in object storage."""
    packed = log.packed
    for path in (log.path, packed.path, packed.table_path, log.hole_path, log.marks_path):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other attempts' logs lie there
        log.path.parent.rmdir()


class Shipper:
    """Looks after all logs of a worker, by threads of its own."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._shipments: dict[Path, _Shipment] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="shipper", daemon=True)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="ship")
        self._is_away = False

    def start(self) -> None:
        self._thread.start()

    def began(self, log: AttemptLog) -> None:
        assert log.shipped is not None  # noqa: S101 -- with this store every log has one
        self._shipments[log.path] = _Shipment(AttemptLog(log.path), log.shipped)

    def ended(self, log: AttemptLog) -> None:
        if shipment := self._shipments.get(log.path):
            shipment.is_over = True

    def close(self) -> None:
        """Wait some seconds for what has ended to go out. The rest the next worker ships."""
        until = time.monotonic() + _CLOSE_SECONDS
        while self._shipments and time.monotonic() < until:
            time.sleep(0.05)
        self._closed.set()
        self._thread.join(timeout=5)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _work(self) -> None:
        threading.Thread(target=self._ship_what_was_left, name="ship", daemon=True).start()
        while not self._closed.wait(_LOOK_SECONDS):
            now = time.monotonic()
            for shipment in list(self._shipments.values()):
                if shipment.is_due(now):
                    shipment.is_busy = True
                    self._pool.submit(self._ship, shipment)

    def _ship(self, shipment: _Shipment) -> None:
        try:
            if shipment.ship():
                self._shipments.pop(shipment.log.path, None)
            shipment.small_at = time.monotonic() + PART_SECONDS
            if self._is_away:
                logger.info("object storage answers again; logs are shipped on")
            self._is_away = False
        except Unavailable as error:
            shipment.any_at = time.monotonic() + _PAUSE_SECONDS
            if not self._is_away:
                logger.warning("logs wait on this machine: %s", error)
            self._is_away = True
        except Exception:
            shipment.any_at = time.monotonic() + _PAUSE_SECONDS
            logger.exception("the log %s is not shipped", shipment.log.path)
        finally:
            shipment.is_busy = False

    def _ship_what_was_left(self) -> None:
        while True:
            try:
                for log in unsealed(time.time() - _DAYS * 86_400, least=0):
                    if self._closed.is_set():
                        return
                    if log.path not in self._shipments and log.shipped is not None:
                        ship_whole(AttemptLog(log.path), log.shipped)
            except (OSError, Unavailable, DatabaseError, InterfaceError) as error:
                logger.warning("logs that were left are not shipped now: %s", error)
            finally:
                connection.close()
            if self._closed.wait(_LEFT_SECONDS):
                return
