"""What the time variables of a run are made of."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from apps.engine.timevars import Moment


def moment_of(cycle: datetime, settings: Mapping[str, Any], zone: str) -> Moment:
    """The moment of a cycle (aware), the same whatever starts its run.

    `settings` are those of the workflow's version, {} for a job run by itself; `zone` is the
    workspace's, which counts where they name none.
    """
    return Moment(cycle, ZoneInfo(settings.get("zone") or zone))
