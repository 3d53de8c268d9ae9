"""Wires between a process and the servers: Unix sockets that can be cut, stalled, or lose replies.

    wires = Wires()
    wire = wires.lay(tmp / "db" / ".s.PGSQL.5432", home.sockets / ".s.PGSQL.5432")
    wire.cut()                          # every connection ends in mid-air
    wire.stall(); wire.flow()           # bytes are held, then go on
    wire.forget()                       # the connections of this moment are silent for ever
    wire.lose_reply(b"runyard_finish(") # the next such statement commits, its reply is lost

One thread carries all bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path


class Wires:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="wires", daemon=True).start()

    def lay(self, path: Path, target: Path) -> Wire:
        """Listen at `path` and carry every connection on to `target`."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        wire = Wire(target, self._do)
        opened = asyncio.run_coroutine_threadsafe(
            asyncio.start_unix_server(wire.carry, path=str(path)), self._loop
        )
        opened.result(timeout=10)
        return wire

    def _do(self, what: Callable[[], None]) -> None:
        done = threading.Event()

        def call() -> None:
            what()
            done.set()

        self._loop.call_soon_threadsafe(call)
        done.wait(timeout=10)


class Wire:
    """What one process has of one server. Its methods may be called from any thread."""

    def __init__(self, target: Path, do: Callable[[Callable[[], None]], None]) -> None:
        self._target = target
        self._do = do
        self._flows = asyncio.Event()
        self._flows.set()
        self._is_down = False
        self._lose = b""
        self._links: set[_Link] = set()
        #: Replies that were lost so far.
        self.lost = 0

    def cut(self) -> None:
        self._do(self._end_all)

    def down(self) -> None:
        """Cut, and refuse whoever comes."""

        def end() -> None:
            self._is_down = True
            self._end_all()

        self._do(end)

    def stall(self) -> None:
        """Hold every byte: connected, and silent."""
        self._do(self._flows.clear)

    def forget(self, asked: bytes = b"") -> None:
        """Leave the connections of this moment open, and never carry a byte of them again.

        `asked`: only those on which this was asked last.
        """

        def hush() -> None:
            for link in self._links:
                link.is_forgotten = link.is_forgotten or asked in link.asked

        self._do(hush)

    def flow(self) -> None:
        """As it should be."""

        def heal() -> None:
            self._is_down = False
            self._lose = b""
            self._flows.set()

        self._do(heal)

    def lose_reply(self, statement: bytes) -> None:
        """Let the next statement with these bytes reach the server, and cut before its reply."""

        def arm() -> None:
            self._lose = statement

        self._do(arm)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_down:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, back)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pump(reader, back, link, asked=True),
                self._pump(there, writer, link, asked=False),
            )
        finally:
            link.end()
            self._links.discard(link)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        link: _Link,
        *,
        asked: bool,
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(1 << 16):
                await self._flows.wait()
                if asked:
                    link.asked = data
                if link.is_forgotten:
                    continue
                if asked and self._lose and self._lose in data:
                    self._lose, link.is_mute = b"", True
                elif not asked and link.is_mute:
                    self.lost += 1  # the server has spoken, so it has committed
                    break
                writer.write(data)
                await writer.drain()
        link.end()

    def _end_all(self) -> None:
        for link in list(self._links):
            link.end()


class _Link:
    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self._writers = writers
        self.is_mute = False
        self.is_forgotten = False
        #: What the process has sent last.
        self.asked = b""

    def end(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
