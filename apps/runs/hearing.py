"""Whether this worker still hears the broker: a message to itself, now and then.

A consumer can stay connected and get nothing, after a broker was reset or where something
between the two has forgotten the connection. Nothing fails then, so nobody notices; its nodes
come to it only by the look that each worker takes every 2 seconds.

So it writes to a queue of its own. Where the broker takes what is written and nothing comes
back, the consumer is made anew, and not the process: what runs goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)

#: Named by the worker's place, not by its process: the next one there empties it.
QUEUE = "runyard.hear"


class Deaf(ConnectionError):
    """The consumer gets nothing. For Celery a lost connection, after which it connects anew."""


class Hearing:
    """`consumer` gives Celery's consumer of the moment, None before there is one."""

    def __init__(
        self,
        app: Celery,
        name: str,
        consumer: Callable[[], Any],
        *,
        ask_seconds: float,
        deaf_seconds: float,
    ) -> None:
        self.queue = f"{QUEUE}.{name}"
        self._app = app
        self._consumer = consumer
        self._ask_seconds = ask_seconds
        self._deaf_seconds = deaf_seconds
        #: Since when it may be deaf: the last message, or the last time that the broker was away.
        self._since = time.monotonic()
        self._closed = threading.Event()
        # Apart from the threads that leases depend on: a broker may take its time to answer.
        self._thread = threading.Thread(target=self._listen, name="hearing", daemon=True)

    def start(self) -> None:
        """Before the consumer starts, which is to hear this queue too."""
        self._app.amqp.queues.select_add(self.queue)
        signals.task_received.connect(self._hear, weak=False)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        signals.task_received.disconnect(self._hear)
        self._thread.join(timeout=5)

    def _hear(self, **_: Any) -> None:
        """Any message will do."""
        self._since = time.monotonic()

    def _listen(self) -> None:
        while not self._closed.wait(self._ask_seconds):
            try:
                self._app.send_task("runs.hear", queue=self.queue, ignore_result=True)
            except (OperationalError, OSError):
                self._since = time.monotonic()  # away: that the consumer notices by itself
                continue
            if time.monotonic() - self._since > self._deaf_seconds:
                self._connect_anew()
        self._forget()

    def _connect_anew(self) -> None:
        consumer = self._consumer()
        if consumer is None or consumer.hub is None:
            return
        self._since = time.monotonic()
        logger.warning("nothing comes from the broker, though it answers; connecting anew")
        consumer.hub.call_soon(self._fail)

    def _fail(self) -> None:
        """In the thread of Celery's loop."""
        raise Deaf("no message for too long")

    def _forget(self) -> None:
        """Remove the queue, as far as the broker lets us; a message on its way may stay there."""
        try:
            with self._app.connection_for_write(connect_timeout=2) as connection:
                connection.default_channel.queue_delete(self.queue)
        except (OperationalError, OSError) as error:
            logger.info("queue %s stays with the broker: %s", self.queue, error)
