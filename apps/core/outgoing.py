"""Requests to URLs that people of a workspace wrote: webhooks, heartbeats.

    call("POST", "https://hooks.example.com/x", body=b"{}", headers={...}).status

The name is resolved once, what it leads to is judged (`apps.core.reach`), and the connection goes
to that very address: a name that leads elsewhere the next moment changes nothing. The certificate
and the Host header are those of the name. Redirects are not followed, of the answer only the
status is read, and the whole takes so many seconds at most.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from apps.core.reach import may_reach

#: What a request may take, from the name to the answer.
SECONDS = 10.0
MAX_URL = 2_000
_PORTS = {"http": 80, "https": 443}


class NotAllowed(Exception):
    """It leads to where no message may go. The message says where and why."""


class NotReached(Exception):
    """It was not answered, and may be the next time. The message says what was in the way."""


@dataclass(frozen=True)
class Answer:
    status: int
    #: The server's words for it, without what steers a terminal.
    reason: str

    def __str__(self) -> str:
        return f"{self.status} {self.reason}".rstrip()


@dataclass(frozen=True)
class Target:
    """A URL in its parts."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def place(self) -> str:
        """Scheme, host and port: what may be shown of an address that holds a token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (
            "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        )


def read_url(text: str) -> Target:
    """Raises ValueError, which says what is wrong without the URL: it may hold a token."""
    if len(text) > MAX_URL:
        raise ValueError(f"the URL has more than {MAX_URL:,} characters")
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError(
            "the URL holds a space or a character beyond ASCII; write it percent-encoded"
        )
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        port, host = None, ""
    if not host or parts.scheme not in _PORTS:
        raise ValueError("this is no URL; write it as https://hooks.example.com/path")
    if port == 0:
        raise ValueError("there is no port 0")
    if "@" in parts.netloc:
        raise ValueError("the URL holds a user name; a token in the path says who sends")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or _PORTS[parts.scheme], path)


def check_url(text: str) -> Target:
    """Raises ValueError for what can never be reached, as far as that is seen without asking."""
    target = read_url(text)
    literal = ":" in target.host or re.fullmatch(r"[0-9.]+", target.host)
    if literal and not may_reach(target.host, settings.INTERNAL_RECEIVERS):
        raise ValueError(_why_not(target.host))
    return target


def call(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    seconds: float = SECONDS,
) -> Answer:
    """Send one request. Raises NotAllowed, NotReached, and ValueError for what is no URL."""
    target = read_url(url)
    until = time.monotonic() + seconds
    with _connected(target, until) as (sock, is_late):
        link = http.client.HTTPConnection(target.host, target.port)
        link.sock = sock
        link.auto_open = 0  # else it would go by the name, once more
        try:
            link.request(
                method,
                target.path,
                body=body or None,
                headers={
                    "Host": target.place.partition("://")[2],
                    "User-Agent": "Runyard",
                    "Connection": "close",
                    **(headers or {}),
                },
            )
            answer = link.getresponse()
            if is_late():  # an answer that was cut off looks like a short one
                raise TimeoutError
        except (http.client.HTTPException, OSError, ValueError) as error:
            late = f"it took longer than {seconds:g} s"
            raise NotReached(
                f"{target.place} did not answer: {late if is_late() else _said(error)}"
            ) from error
        return Answer(answer.status, _clean(answer.reason))


@contextmanager
def _connected(target: Target, until: float) -> Iterator[tuple[socket.socket, Callable[[], bool]]]:
    """A connection that is cut off when the time is up, however it passes: a server that sends a
    byte now and then lets no single read time out. With it, whether that has happened."""
    raw = _connect(target, until)
    late = threading.Event()
    #: What there is to cut: wrapping takes the first one's place.
    sockets = [raw]

    def cut() -> None:
        late.set()
        for each in sockets:
            with suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)

    watch = threading.Timer(max(until - time.monotonic(), 0), cut)
    watch.daemon = True
    watch.start()
    try:
        if target.scheme == "https":
            try:
                context = ssl.create_default_context()
                safe = context.wrap_socket(
                    raw, server_hostname=target.host, do_handshake_on_connect=False
                )
                sockets.append(safe)
                safe.do_handshake()
            except (OSError, ValueError) as error:
                why = "it took too long" if late.is_set() else _said(error)
                raise NotReached(f"no safe connection to {target.place}: {why}") from error
        yield sockets[-1], late.is_set
    finally:
        watch.cancel()
        for each in sockets:
            each.close()


def _connect(target: Target, until: float) -> socket.socket:
    """To an address that the name leads to and that may be reached, as it was found."""
    internal = settings.INTERNAL_RECEIVERS
    ways = [
        (family, kind, protocol, address)
        for family, kind, protocol, _, address in _found(target, until)
        if may_reach(str(address[0]), internal, name=target.host)
    ]
    if not ways:
        raise NotAllowed(_why_not(target.host))
    why: OSError = OSError("no way to it")
    for family, kind, protocol, address in ways:
        left = until - time.monotonic()
        if left <= 0:
            why = TimeoutError("it took too long")
            break
        sock = socket.socket(family, kind, protocol)
        sock.settimeout(left)
        try:
            sock.connect(address)
        except OSError as error:
            sock.close()
            why = error
        else:
            return sock
    raise NotReached(f"{target.place} does not answer: {_said(why)}") from why


def _found(target: Target, until: float) -> list[Any]:
    """What the name leads to, as getaddrinfo has it.

    It is asked in a thread of its own, which is left behind when the time is up: a name server
    that does not answer keeps getaddrinfo for as long as this machine's resolver is patient.
    """
    answers: SimpleQueue[list[Any] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="resolver").start()
    try:
        found = answers.get(timeout=max(until - time.monotonic(), 0))
    except Empty:
        raise NotReached(f"{target.host} was not found: it took too long") from None
    if isinstance(found, (OSError, UnicodeError)):
        raise NotReached(f"{target.host} was not found: {_said(found)}") from found
    if isinstance(found, Exception):
        raise found
    return found


def _why_not(host: str) -> str:
    return (
        f"{host} is not on the public internet; messages go there only where "
        "RUNYARD_INTERNAL_RECEIVERS names it"
    )


def _said(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    return _clean(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _clean(text: str) -> str:
    return " ".join(re.sub(r"[^ -~]", " ", text).split())[:200]
