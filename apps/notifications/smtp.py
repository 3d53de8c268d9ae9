"""The way to the mail server.

with connected() as server:
    server.send(message, "maya@example.com")
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage

from django.conf import settings

from apps.notifications.verdicts import Deferred, Refused, Unreachable

#: What each step of a conversation with the server may take.
TIMEOUT_SECONDS = 15


def can_mail() -> bool:
    """Whether the settings name a mail server at all."""
    return bool(settings.SMTP_HOST)


class Server:
    """A mail server that a connection stands to."""

    def __init__(self, link: smtplib.SMTP) -> None:
        self._link = link

    def send(self, message: EmailMessage, address: str) -> None:
        """Hand a mail over. Raises Unreachable, Deferred, Refused."""
        try:
            self._link.send_message(message, settings.MAIL_FROM, [address])
        except smtplib.SMTPRecipientsRefused as error:
            raise _verdict(*error.recipients[address]) from error
        except smtplib.SMTPServerDisconnected as error:
            raise Unreachable(f"{_where()} broke off: {error}") from error
        except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
            raise _verdict(error.smtp_code, error.smtp_error) from error
        except (smtplib.SMTPException, OSError) as error:
            raise Unreachable(f"{_where()}: {error}") from error


@contextmanager
def connected() -> Iterator[Server]:
    """A connection to the server of the settings, encrypted and logged in as they say.

    Raises Unreachable.
    """
    link = _connect()
    try:
        yield Server(link)
    finally:
        with suppress(smtplib.SMTPException, OSError):
            link.quit()


def _connect() -> smtplib.SMTP:
    host, port = settings.SMTP_HOST, settings.SMTP_PORT
    us = socket.gethostname()
    try:
        if settings.SMTP_SECURITY == "tls":
            link: smtplib.SMTP = smtplib.SMTP_SSL(
                host, port, us, timeout=TIMEOUT_SECONDS, context=ssl.create_default_context()
            )
        else:
            link = smtplib.SMTP(host, port, us, timeout=TIMEOUT_SECONDS)
        try:
            if settings.SMTP_SECURITY == "starttls":
                link.starttls(context=ssl.create_default_context())
            if settings.SMTP_USER:
                link.login(settings.SMTP_USER, settings.SMTP_PASSWORD)
        except BaseException:
            link.close()
            raise
    except smtplib.SMTPAuthenticationError as error:
        said = _said(error.smtp_error)
        raise Unreachable(f"{_where()} refused the user name or password: {said}") from error
    except smtplib.SMTPNotSupportedError as error:
        raise Unreachable(
            f"{_where()}: {error} Is RUNYARD_SMTP_SECURITY ({settings.SMTP_SECURITY}) right?"
        ) from error
    except (smtplib.SMTPException, OSError) as error:
        raise Unreachable(f"{_where()} does not answer: {error}") from error
    return link


def _where() -> str:
    return f"mail server {settings.SMTP_HOST} port {settings.SMTP_PORT}"


def _said(words: bytes | str) -> str:
    text = words.decode(errors="replace") if isinstance(words, bytes) else words
    return " ".join(text.split())


def _verdict(code: int, words: bytes | str) -> Deferred | Refused:
    said = f"the mail server said {code} {_said(words)}"
    return Refused(said) if 500 <= code < 600 else Deferred(said)
