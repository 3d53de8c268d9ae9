"""The bell rings from wherever a request is answered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from celery import current_app
from django.conf import settings


def test_bell_of_a_request_in_a_thread_of_its_own_rings_at_our_broker():
    with ThreadPoolExecutor(1) as thread:
        url = thread.submit(lambda: current_app.conf.broker_url).result()

    assert url == settings.CELERY_BROKER_URL
