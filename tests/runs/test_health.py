"""/healthz: what a monitor learns of a living engine, and of one that is not."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

import pytest
from django.db.models import F
from django.test import Client

from apps.runs.models import Pulse, Worker
from apps.runs.services.sweep import stamp_pulse
from apps.runs.services.workers import leave, show_life
from tests.workers import ROOT


def alive() -> None:
    stamp_pulse()
    show_life("w@here", host="here", slots=1, why_trusted="")


def asked(client: Client | None = None) -> tuple[int, str]:
    answer = (client or Client()).get("/healthz")
    assert answer["Content-Type"] == "text/plain"
    assert answer["Cache-Control"] == "no-store"
    return answer.status_code, answer.content.decode()


@pytest.mark.django_db
def test_it_says_what_is_wrong_by_one_query_and_without_a_login(django_assert_num_queries):
    assert asked() == (503, "the tick is late\n")  # nobody has ever looked around
    alive()
    with django_assert_num_queries(1):
        assert asked() == (200, "ok\n")

    Pulse.objects.update(at=F("at") - timedelta(seconds=31))
    assert asked() == (503, "the tick is late\n")
    stamp_pulse()
    Worker.objects.update(seen_at=F("seen_at") - timedelta(seconds=31))
    assert asked() == (503, "no worker shows life\n")
    alive()
    assert asked() == (200, "ok\n")
    leave("w@here")
    assert asked() == (503, "no worker shows life\n")


@pytest.mark.django_db
def test_it_takes_no_other_method_and_no_other_name():
    alive()

    assert Client().head("/healthz").status_code == 200
    assert Client().post("/healthz").status_code == 405
    for suffix in ("/", ".json", ";x", "/runs", "%00"):
        assert Client().get(f"/healthz{suffix}").status_code == 404


#: As a web process asks, with its pool.
ASK = """
import django, time
django.setup()
from django.test import Client
begun = time.monotonic()
answer = Client().get("/healthz", headers={"host": "localhost"})
print(answer.status_code, answer.content.decode().strip(), time.monotonic() - begun < 8)
"""


def web(**environment: str) -> list[str]:
    own = {"RUNYARD_ROLE": "web", "DJANGO_SETTINGS_MODULE": "config.settings", **environment}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=ROOT,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=50,
    )
    return done.stdout.splitlines()


@pytest.mark.django_db(transaction=True)
def test_a_web_process_answers_by_its_pool_and_soon_where_the_database_is_away():
    alive()

    assert web() == ["200 ok True"]
    away = web(DATABASE_URL="postgres://runyard@127.0.0.1:1/runyard")
    assert away == ["503 the database does not answer True"]
