"""Launch one run per cycle of a workflow's version by one call, as a backfill with all at once
does, and print how many seconds it took. Run as `python -m` on the home that RUNYARD_HOME names.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta

import django


def main(workflow: int, count: int, file: str) -> None:
    from apps.engine.states import Trigger
    from apps.runs.services.launch import launch
    from apps.workflows.models import Workflow

    version = Workflow.objects.select_related("published__workflow").get(pk=workflow).published
    assert version is not None
    first = datetime(2025, 1, 1, tzinfo=UTC)
    cycles = [first + timedelta(days=day) for day in range(count)]
    began = time.monotonic()
    launch(version, cycles=cycles, trigger=Trigger.BACKFILL, by=None, parameters={"FILE": file})
    print(time.monotonic() - began)


if __name__ == "__main__":
    django.setup()
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
