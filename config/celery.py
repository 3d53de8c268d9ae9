"""Celery: the doorbell between processes, and the metronome. No truth passes through it.

celery -A config worker     # the slots: apps/runs/worker.py
celery -A config beat
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Any

import django
from celery import Celery, bootsteps, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

# Without Celery's own Django fixup, which closes the database connection before and after
# every task: 13 ms a hop instead of 3.
app = Celery("runyard", fixups=[])
app.config_from_object("django.conf:settings", namespace="CELERY")
# Also for the threads that a web process answers in: without it `current_app` is there an app
# without our settings, and no bell rings.
app.set_default()

#: Signals that come so close together are one: a terminal's Ctrl-C reaches a whole group.
_ONE_SIGNAL_SECONDS = 0.5


@signals.import_modules.connect
def _set_up_django(**_: Any) -> None:
    django.setup()


@signals.setup_logging.connect
def _keep_djangos_logging(**_: Any) -> None:
    """That this is connected keeps Celery from setting up logging of its own."""


class Slots(bootsteps.StartStopStep):
    """The worker proper. Starts before the consumer, so that a bell finds it, and stops after.

    Celery's own pool only hears the bells; nodes run in the Worker's threads.
    """

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        from django.conf import settings

        from apps.runs import worker
        from apps.runs.hearing import Hearing

        worker.current = worker.Worker(parent.hostname, settings.WORKER_SLOTS)
        worker.current.start()
        self._hearing = Hearing(
            parent.app,
            parent.hostname,
            lambda: getattr(parent, "consumer", None),
            ask_seconds=settings.LEASE_SECONDS / 6,
            deaf_seconds=max(settings.LEASE_SECONDS / 1.5, 5),
        )
        self._hearing.start()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._end)
        self._asked_at: float | None = None

    def stop(self, parent: Any) -> None:
        from apps.runs import worker

        if worker.current is not None:
            worker.current.close()
            worker.current = None
            self._hearing.close()

    terminate = stop

    def _end(self, number: int, frame: FrameType | None) -> None:
        """First signal: drain and end. Second: end at once; the guard kills what runs."""
        from celery.worker import state

        from apps.runs import worker

        if self._asked_at is None:
            self._asked_at = time.monotonic()
            if worker.current is not None:
                worker.current.drain()
            state.should_stop = os.EX_OK
        elif time.monotonic() - self._asked_at > _ONE_SIGNAL_SECONDS:
            os._exit(128 + number)


app.steps["worker"].add(Slots)
