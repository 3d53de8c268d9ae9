"""Plain Celery on Valkey, as its documentation has it: the same children, nothing kept.

No run, no log, no retry, no fence: what a queue of messages alone costs.
"""

from __future__ import annotations

import os
import subprocess

from celery import Celery

app = Celery("plain", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_BROKER"])
# A chord counts by results. Events and gossip are off where the worker is started.
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=1)


@app.task
def child(command: list[str]) -> None:
    subprocess.run(command, check=True)


@app.task(ignore_result=False)
def counted_child(command: list[str]) -> None:
    subprocess.run(command, check=True)
