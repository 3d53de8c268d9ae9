"""A real mail server for tests (aiosmtpd)."""

from __future__ import annotations

import socket
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


class MailServer:
    """Takes mail and keeps it, unless it is told to answer otherwise."""

    def __init__(self, **how: Any) -> None:
        self._how = how
        #: What came, in its order: (to whom, the mail).
        self.got: list[tuple[str, EmailMessage]] = []
        #: What it says in place of taking a mail, by address; "" is for all.
        self.answers: dict[str, str] = {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.start()

    def start(self) -> None:
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, **self._how)
        self._controller.start()

    def stop(self) -> None:
        self._controller.stop()

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: Any
    ) -> str:
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if "" in self.answers:
            return self.answers[""]
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=default)
        assert isinstance(mail, EmailMessage)
        [address] = envelope.rcpt_tos
        self.got.append((address, mail))
        return "250 OK"
