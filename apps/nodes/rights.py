"""Which right it takes to change a job: one rule for pages and programs."""

from __future__ import annotations

from apps.engine.roles import Permission
from apps.nodes.models import Job


def needed_to_remove(job: Job) -> Permission:
    """To move or delete it. A published job is production's; edits of its draft are not."""
    return Permission.PUBLISH_JOB if job.published_id else Permission.EDIT_JOB
