"""Real servers for these tests: one for mail (aiosmtpd), and web servers that webhooks go to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO

import pytest

from apps.core.reach import read_internal
from tests.mail import MailServer


@pytest.fixture
def server(settings: Any) -> Iterator[MailServer]:
    it = MailServer()
    settings.SMTP_HOST, settings.SMTP_PORT = "127.0.0.1", it.port
    settings.SMTP_SECURITY = "none"
    settings.MAIL_FROM = "runyard@example.org"
    settings.PUBLIC_URL = "https://runyard.example.org"
    yield it
    it.stop()


@dataclass
class Got:
    """A request that a receiver had."""

    path: str
    headers: Message
    body: bytes

    @property
    def told(self) -> Any:
        return json.loads(self.body)


class Receiver:
    """A web server that keeps what is posted to it, and answers as it is told."""

    def __init__(self, host: str) -> None:
        self.got: list[Got] = []
        #: By path: the status that it answers, and further headers; all else is 200.
        self.answers: dict[str, tuple[int, dict[str, str]]] = {}
        #: Set, it answers nothing until it is ended.
        self.is_silent = threading.Event()
        self._ended = threading.Event()
        it = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                it.got.append(Got(self.path, self.headers, body))
                if it.is_silent.is_set():
                    it._drip(self.wfile)
                    return
                status, headers = it.answers.get(self.path, (200, {}))
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self.port = self._server.server_port
        self.url = f"http://{host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def _drip(self, file: BinaryIO) -> None:
        """A byte now and then: no single read of the client's times out."""
        with suppress(OSError):
            file.write(b"HTTP/1.1 200 OK\r\n")
            while not self._ended.wait(0.05):
                file.write(b"X: 1\r\n")
                file.flush()

    def end(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    """One that may be reached: at an address of this machine that is on the list."""
    it = Receiver("127.0.0.2")
    settings.INTERNAL_RECEIVERS = read_internal("127.0.0.2")
    settings.PUBLIC_URL = "https://runyard.example.org"
    yield it
    it.end()


@pytest.fixture
def inner() -> Iterator[Receiver]:
    """One that nobody has allowed."""
    it = Receiver("127.0.0.1")
    yield it
    it.end()
