"""Which right it takes to act on a run: one rule for pages and programs."""

from __future__ import annotations

from apps.engine.roles import Permission
from apps.engine.states import Trigger
from apps.runs.models import Run


def needed_to_operate(run: Run) -> Permission:
    """To stop, pause or rerun it, or to set a node of it to success.

    Who may run drafts may also do so with those runs.
    """
    return Permission.EDIT_JOB if run.trigger == Trigger.DEBUG else Permission.OPERATE
