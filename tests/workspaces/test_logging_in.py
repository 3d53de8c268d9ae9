"""Logging in: how often a password may be tried, from where, and how many at a time."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.contrib.auth.backends import ModelBackend
from django.db.models import F
from django.test import Client

from apps.workspaces.logging_in import ACCOUNT_LIMIT, ADDRESS_LIMIT, PAIR_LIMIT
from apps.workspaces.models import LoginFailures
from tests.api import PASSWORD, user

pytestmark = pytest.mark.django_db


def page(name: str, password: str, address: str = "192.0.2.1"):
    data = {"username": name, "password": password}
    return Client(REMOTE_ADDR=address).post("/login/", data)


def token(name: str, password: str, address: str = "192.0.2.1"):
    data = {"username": name, "password": password, "name": "t"}
    client = Client(REMOTE_ADDR=address)
    return client.post("/api/v1/token", data, content_type="application/json")


def later(seconds: int) -> None:
    LoginFailures.objects.update(began_at=F("began_at") - timedelta(seconds=seconds))


@pytest.mark.parametrize(("door", "refused", "let_in"), [(page, 200, 302), (token, 401, 201)])
def test_after_some_failures_even_the_right_password_waits_for_a_minute_at_most(
    door, refused, let_in
):
    user("maya")

    tried = [door("maya", "wrong").status_code for _ in range(PAIR_LIMIT)]
    waits = door("maya", PASSWORD)
    later(61)

    assert tried == [refused] * PAIR_LIMIT
    assert waits.status_code == 429
    assert 0 < int(waits["Retry-After"]) <= 60
    assert "too many failed logins; try again in" in waits.content.decode().lower()
    assert door("maya", PASSWORD).status_code == let_in


def test_pages_and_tokens_count_together():
    user("maya")
    for door in (page, token, page, token, page):
        door("maya", "wrong")

    assert token("maya", "wrong").status_code == 429


def test_who_is_attacked_logs_in_from_elsewhere():
    user("maya")
    for _ in range(ACCOUNT_LIMIT + 10):
        page("maya", "wrong")

    assert page("maya", PASSWORD).status_code == 429
    assert page("maya", PASSWORD, "192.0.2.2").status_code == 302


def test_a_right_password_ends_the_count():
    user("maya")
    for _ in range(PAIR_LIMIT - 1):
        page("maya", "wrong")
    page("maya", PASSWORD)

    assert page("maya", "wrong").status_code == 200
    assert page("maya", PASSWORD).status_code == 302


def test_one_address_that_tries_many_names():
    tried = [token(f"name{n}", "wrong").status_code for n in range(ADDRESS_LIMIT + 1)]

    assert tried == [401] * ADDRESS_LIMIT + [429]
    assert token("name0", "wrong", "192.0.2.2").status_code == 401


def test_many_addresses_that_try_one_name():
    tried = [token("maya", "wrong", f"192.0.2.{n}").status_code for n in range(ACCOUNT_LIMIT + 1)]

    assert tried == [401] * ACCOUNT_LIMIT + [429]


def test_one_network_of_ipv6_is_one_address():
    for n in range(PAIR_LIMIT):
        token("maya", "wrong", f"2001:db8::{n:x}")

    assert token("maya", "wrong", "2001:db8::ffff:1").status_code == 429
    assert token("maya", "wrong", "2001:db8:0:1::1").status_code == 401


def test_what_is_past_is_forgotten():
    token("maya", "wrong")
    later(61)
    token("li", "wrong")

    assert sorted(LoginFailures.objects.values_list("count", flat=True)) == [1, 1, 1]


@pytest.mark.django_db(transaction=True)
def test_no_more_than_two_passwords_are_hashed_at_once(monkeypatch):
    user("maya")
    at_once, most, lock = 0, 0, threading.Lock()
    real = ModelBackend.authenticate

    def counted(*args, **kwargs):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            return real(*args, **kwargs)
        finally:
            with lock:
                at_once -= 1

    monkeypatch.setattr(ModelBackend, "authenticate", counted)
    answers = []

    def one() -> None:
        from django.db import connection

        answers.append(page("maya", PASSWORD).status_code)
        connection.close()

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (answers, most) == ([302] * 12, 2)
