"""Put schedules that are on beside one workflow's version: many that are due once a day, at other
times than now, and some that are due at the beginning of every minute. Run as `python -m` on the
home that RUNYARD_HOME names.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import django


def main(workflow: int, every_minute: int, daily: int) -> None:
    from django.db import transaction

    from apps.engine.timetable import Timetable
    from apps.runs.services.scheduling import database_clock
    from apps.workflows.models import Schedule, Workflow, WorkflowVersion

    origin = Workflow.objects.select_related("published").get(pk=workflow)
    version = origin.published
    assert version is not None
    now = database_clock()
    started = (now - timedelta(days=1)).isoformat()
    later = [now + timedelta(hours=2, seconds=n * 70_000 / max(daily, 1)) for n in range(daily)]
    said = [{"kind": "minutes", "every": 1, "started_at": started}] * every_minute
    said += [{"kind": "days", "time": f"{at:%H:%M}", "started_at": started} for at in later]
    with transaction.atomic():
        flows = Workflow.objects.bulk_create(
            Workflow(workspace_id=origin.workspace_id, name=f"due_{n:05}", queue=origin.queue)
            for n in range(len(said))
        )
        tables = [Timetable.read(each, ZoneInfo("UTC")) for each in said]
        versions = WorkflowVersion.objects.bulk_create(
            WorkflowVersion(
                workflow=flow,
                number=1,
                graph={
                    **version.graph,
                    "settings": {**version.graph["settings"], "schedule": table.write()},
                },
                digest=version.digest,
                created_at=datetime(2020, 1, 1, tzinfo=UTC),
            )
            for flow, table in zip(flows, tables, strict=True)
        )
        for flow, made in zip(flows, versions, strict=True):
            flow.published = made
        Workflow.objects.bulk_update(flows, ["published"], batch_size=500)
        now = database_clock()
        Schedule.objects.bulk_create(
            Schedule(workflow=flow, on=True, done_until=now, next_at=table.following(now, 1)[0])
            for flow, table in zip(flows, tables, strict=True)
        )


if __name__ == "__main__":
    django.setup()
    main(*map(int, sys.argv[1:]))
