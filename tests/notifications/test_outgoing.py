"""Requests to URLs that people wrote, against real web servers and names that change."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import closing

import pytest

from apps.core import outgoing
from apps.core.outgoing import NotAllowed, NotReached, call, check_url, read_url
from apps.core.reach import read_internal
from tests.notifications.test_smtp import certificate  # noqa: F401


def resolves(monkeypatch, *answers: str) -> list[str]:
    """A resolver that gives these addresses in turn for hooks.example.com; who asked for what."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **kwargs):
        if host != "hooks.example.com":
            return real(host, port, *args, **kwargs)
        answer = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return real(answer, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_it_goes_to_the_address_that_was_judged_under_the_name(receiver, monkeypatch):
    asked = resolves(monkeypatch, "127.0.0.2", "127.0.0.1")

    answer = call("POST", f"http://hooks.example.com:{receiver.port}/a?b=c", body=b"hello")

    assert (answer.status, str(answer)) == (200, "200 OK")
    [got] = receiver.got
    assert (got.path, got.body) == ("/a?b=c", b"hello")
    assert got.headers["Host"] == f"hooks.example.com:{receiver.port}"
    assert asked == ["hooks.example.com"]


def test_a_name_that_leads_inside_is_refused_though_it_led_outside_before(
    receiver, inner, monkeypatch
):
    resolves(monkeypatch, "127.0.0.2", "127.0.0.1")
    url = f"http://hooks.example.com:{inner.port}/"

    with pytest.raises(NotReached):  # outside nobody listens at that port
        call("POST", url)
    with pytest.raises(NotAllowed, match=r"hooks\.example\.com is not on the public internet"):
        call("POST", url)

    assert inner.got == []


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433"),
        *("0x7f000001", "0", "0177.0.0.1", "169.254.169.254", "[fe80::1%25lo]"),
    ],
)
def test_no_spelling_of_this_machine_is_reached(receiver, inner, host):
    with pytest.raises((NotAllowed, NotReached)) as caught:
        call("POST", f"http://{host}:{inner.port}/")

    assert inner.got == []
    assert caught.type is NotAllowed or "was not found" in str(caught.value)


def test_a_name_that_is_allowed_leads_to_this_machine(inner, settings):
    settings.INTERNAL_RECEIVERS = read_internal("localhost")

    assert call("POST", f"http://localhost:{inner.port}/").status == 200
    with pytest.raises(NotAllowed):
        call("POST", f"http://127.0.0.1:{inner.port}/")


def test_redirects_are_answers(receiver, inner):
    receiver.answers["/"] = (302, {"Location": f"{inner.url}/"})

    assert call("POST", receiver.url).status == 302
    assert inner.got == []


def test_a_server_that_drips_is_cut_off(receiver):
    receiver.is_silent.set()
    begun = time.monotonic()

    with pytest.raises(NotReached, match=r"did not answer: it took longer than 0\.5 s"):
        call("POST", receiver.url, seconds=0.5)

    assert time.monotonic() - begun < 3


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch):
    answered = threading.Event()

    def getaddrinfo(*_: object, **__: object) -> list[object]:
        answered.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    started = time.monotonic()

    with pytest.raises(NotReached, match=r"hooks\.example\.com was not found: it took too long"):
        call("POST", "http://hooks.example.com/", seconds=0.3)
    took = time.monotonic() - started
    answered.set()

    assert 0.3 <= took < 10


def test_nobody_listens(receiver, settings):
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]

    with pytest.raises(NotReached, match=f"127.0.0.2:{port} does not answer: Connection refused"):
        call("POST", f"http://127.0.0.2:{port}/")
    with pytest.raises(NotReached, match=r"nobody\.invalid was not found"):
        call("POST", "http://nobody.invalid/")


def serve_tls(certificate, said: bytes) -> tuple[int, threading.Thread]:  # noqa: F811
    """A TLS server that takes one connection and says this."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with closing(listener), closing(listener.accept()[0]) as raw:
            raw.settimeout(10)
            try:
                with context.wrap_socket(raw, server_side=True) as sock:
                    sock.recv(4096)
                    sock.sendall(said)
            except (ssl.SSLError, OSError):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    return listener.getsockname()[1], thread


def test_tls_holds_the_certificate_against_the_name(certificate, settings, monkeypatch):  # noqa: F811
    settings.INTERNAL_RECEIVERS = read_internal("127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    resolves(monkeypatch, "127.0.0.1")
    said = b"HTTP/1.1 204 Done\r\n\r\n"

    port, thread = serve_tls(certificate, said)
    assert call("POST", f"https://127.0.0.1:{port}/").status == 204
    thread.join()
    port, thread = serve_tls(certificate, said)
    with pytest.raises(NotReached, match=r"no safe connection .* CERTIFICATE_VERIFY_FAILED"):
        call("POST", f"https://hooks.example.com:{port}/")  # of another name
    thread.join()


def test_what_speaks_no_http_is_no_answer(settings):
    settings.INTERNAL_RECEIVERS = read_internal("127.0.0.1")
    for said in (b"SSH-2.0-OpenSSH\r\n", b"", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

            def serve(listener=listener, said=said) -> None:
                with closing(listener.accept()[0]) as sock:
                    sock.recv(4096)
                    sock.sendall(said)

            thread = threading.Thread(target=serve)
            thread.start()
            with pytest.raises(NotReached, match="did not answer"):
                call("POST", f"http://127.0.0.1:{port}/")
            thread.join()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://example.com/", "this is no URL"),
        ("https://", "this is no URL"),
        ("hooks.example.com", "this is no URL"),
        ("https://example.com:99999/", "this is no URL"),
        ("https://[::1/", "this is no URL"),
        ("https://example.com:0/", "there is no port 0"),
        ("https://me:pw@example.com/", "holds a user name"),
        ("https://example.com/a b", "percent-encoded"),
        ("https://example.com/\r\nX: y", "percent-encoded"),
        ("https://exämple.com/", "percent-encoded"),
        ("https://example.com/" + "a" * 2000, "more than 2,000 characters"),
        ("http://10.0.0.1/", "10.0.0.1 is not on the public internet"),
        ("http://[::1]/", "::1 is not on the public internet"),
    ],
)
def test_what_is_no_url_is_refused_without_showing_it(url, why):
    with pytest.raises(ValueError, match=why) as caught:
        check_url(url)
    assert "me:pw" not in str(caught.value)


def test_a_url_is_shown_without_its_path():
    assert read_url("https://hooks.example.com/T0/token?x").place == "https://hooks.example.com"
    assert read_url("http://[2606::1]:8080/").place == "http://[2606::1]:8080"
    assert outgoing.read_url("https://example.com?x=1").path == "/?x=1"
