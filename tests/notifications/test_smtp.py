"""The way to the mail server: encrypted, logged in, and what is said when it is shut."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from apps.core.management.commands.doctor import mail
from apps.notifications.smtp import connected
from apps.notifications.verdicts import Unreachable
from tests.notifications.conftest import MailServer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 127.0.0.1, signed by itself, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return file


def opens(_server: Any, _session: Any, _envelope: Any, _mechanism: str, given: Any) -> AuthResult:
    assert isinstance(given, LoginPassword)
    return AuthResult(success=given == LoginPassword(b"runyard", b"right"), handled=False)


@pytest.fixture
def strict(certificate, settings):
    """A server that talks to nobody without STARTTLS and a log-in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    it = MailServer(
        tls_context=context, require_starttls=True, authenticator=opens, auth_required=True
    )
    settings.SMTP_HOST, settings.SMTP_PORT, settings.SMTP_SECURITY = (
        "127.0.0.1",
        it.port,
        "starttls",
    )
    settings.SMTP_USER, settings.SMTP_PASSWORD = "runyard", "right"
    settings.MAIL_FROM, settings.PUBLIC_URL = "runyard@example.org", "https://runyard.example.org"
    yield it
    it.stop()


def why() -> str:
    with pytest.raises(Unreachable) as caught, connected():
        pass
    return str(caught.value)


def test_doctor_goes_the_way_of_a_mail(strict, certificate, monkeypatch, settings):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    found = mail()
    assert (found.level, found.said) == (
        "ok",
        f"127.0.0.1 port {strict.port} answers, from runyard@example.org",
    )

    settings.PUBLIC_URL = ""
    assert (mail().level, mail().mend) == ("warn", "set RUNYARD_PUBLIC_URL")
    settings.SMTP_PASSWORD = "wrong"
    found = mail()
    assert (found.level, found.said) == (
        "fail",
        f"mail server 127.0.0.1 port {strict.port} refused the user name or password: "
        "5.7.8 Authentication credentials invalid",
    )
    settings.SMTP_HOST = ""
    assert (mail().level, "RUNYARD_SMTP_HOST" in mail().said) == ("ok", True)


def test_a_certificate_that_nobody_vouches_for_is_refused(strict):
    assert "CERTIFICATE_VERIFY_FAILED" in why()


def test_a_server_without_starttls_gets_no_password(server, settings):
    settings.SMTP_SECURITY = "starttls"
    settings.SMTP_USER, settings.SMTP_PASSWORD = "runyard", "right"

    assert "Is RUNYARD_SMTP_SECURITY (starttls) right?" in why()


def test_a_server_that_is_not_there_is_named(server, settings):
    server.stop()

    assert why().startswith(f"mail server 127.0.0.1 port {server.port} does not answer: ")
    server.start()


def test_tls_from_the_first_byte(certificate, settings, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    it = MailServer(ssl_context=context)
    settings.SMTP_HOST, settings.SMTP_PORT, settings.SMTP_SECURITY = "127.0.0.1", it.port, "tls"

    with connected() as way:
        assert way is not None
    it.stop()
