"""What runs inside the processes of a chaos run: the product, with named points in it.

    python -m tests.chaos.inside worker -n w0@%h

The product has no door for this. Functions are wrapped by name here, so that a process can be
killed or frozen between a commit and what follows it. A point is armed by a file that names it
and what to do there (`kill` or `freeze`); whoever removes the file does it, once.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Point -> module, function, and whether it lies before the call or after it. The modules are
#: those that call the function, by the name that they know it by.
POINTS = {
    "before a claim": ("apps.runs.worker", "claim", False),
    "between a claim and its child": ("apps.runs.worker", "claim", True),
    "between a look at the lease and a child's start": ("apps.runs.execution", "start", False),
    "between a child's start and its guard's knowing": ("apps.runs.execution", "start", True),
    "between a child's end and its finish": ("apps.runs.worker", "finish", False),
    "between a finish and its bells": ("apps.runs.worker", "finish", True),
    "before a renewal": ("apps.runs.worker", "renew", False),
    "between a renewal and the guard's knowing": ("apps.runs.worker", "renew", True),
    "before the advance after a failure": ("apps.runs.worker", "advance", False),
    "between a lost lease and its admission": ("apps.runs.services.sweep", "admit", False),
    "between a sweep and its bells": ("apps.runs.services.sweep", "ring", False),
    "between a launch and its bells": ("apps.runs.doorbell", "ring", False),
}


def main() -> None:
    if "faketime" in os.environ.get("LD_PRELOAD", ""):
        # Under libfaketime clock_nanosleep to a point of the monotonic clock is refused.
        time.sleep = lambda seconds: (select.select([], [], [], seconds), None)[1]  # type: ignore[assignment]
    import django

    django.setup()
    folder, name = Path(os.environ["CHAOS_FOLDER"]), os.environ["CHAOS_NAME"]
    for point in POINTS:
        mark(point, folder / f"{name}.point")
    if os.environ.get("CHAOS_BROKEN") == "claim":
        without_the_databases_say()
    if sys.argv[1] == "web":
        from apps.core.web import main as serve

        serve(int(sys.argv[2]))
        return
    from celery.__main__ import main as celery

    sys.argv[:1] = ["celery", "--quiet", "--app=config"]
    celery()


def mark(point: str, file: Path) -> None:
    """Wrap the function of a point, in the module that calls it."""
    module_name, name, after = POINTS[point]
    module = importlib.import_module(module_name)
    real: Callable[..., Any] = getattr(module, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not after:
            reach(point, file)
        answer = real(*args, **kwargs)
        if after and answer is not None:
            reach(point, file)
        return answer

    setattr(module, name, wrapped)


def reach(point: str, file: Path) -> None:
    try:
        armed, _, action = file.read_text().partition(": ")
        if armed != point:
            return
        file.unlink()
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)


def without_the_databases_say() -> None:
    """Break the claim: take what a message led to, whether or not it is still there to take.

    Only to see that the oracle finds it.
    """
    from datetime import timedelta

    from django.conf import settings
    from django.db import transaction
    from django.db.models import F
    from django.db.models.functions import Now

    import apps.runs.worker as worker
    from apps.runs.models import Attempt, NodeRun, RunEvent
    from apps.runs.services.hot_path import Claim
    from apps.workspaces.models import ResourceQueue

    def claim(queue_id: int, name: str, request: Any, *, again: bool = False) -> Claim | None:
        node = NodeRun.objects.filter(queue=queue_id, state="queued").order_by("queued_at").first()
        if node is None:
            return None
        time.sleep(0.05)
        with transaction.atomic():
            taken = NodeRun.objects.filter(pk=node.pk)
            taken.update(
                state="running", attempt=F("attempt") + 1, worker=name, claim_request=request,
                started_at=Now(), lease_until=Now() + timedelta(seconds=settings.LEASE_SECONDS),
            )  # fmt: skip
            attempt = taken.get().attempt
            Attempt.objects.create(node_run=node, number=attempt, worker=name)
            RunEvent.objects.create(
                run_id=node.run_id, node_run=node, attempt=attempt, old="queued", new="running"
            )
            ResourceQueue.objects.filter(pk=queue_id).update(used=F("used") + node.demand)
        return Claim(
            node_run_id=node.pk,
            run_id=node.run_id,
            attempt=attempt,
            queue_id=queue_id,
            key=node.key,
            job_version_id=node.job_version_id,
            timeout_seconds=node.timeout_seconds,
            failures=node.failures,
            retries=node.retries,
            retry_interval_seconds=node.retry_interval_seconds,
            retry_backoff=node.retry_backoff,
            retry_max_interval_seconds=node.retry_max_interval_seconds,
            final_exit_codes=tuple(node.final_exit_codes),
        )

    worker.claim = claim  # type: ignore[assignment]


if __name__ == "__main__":
    main()
