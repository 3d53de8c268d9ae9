"""What follows when a node fails."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

#: Attempts that a node may lose with its worker or host before it fails for good.
LOSSES_ALLOWED = 3


@dataclass(frozen=True)
class RetryPolicy:
    """How often and when a failed node is tried again."""

    retries: int = 0
    interval_seconds: int = 60
    #: Each pause this many times as long as the one before; 1 keeps it even.
    backoff: float = 1.0
    max_interval_seconds: int = 3600
    #: Exit codes that mean: trying again is of no use.
    final_exit_codes: Collection[int] = ()


def retry_delay(
    policy: RetryPolicy, *, failures: int, exit_code: int | None, jitter: float = 0.0
) -> float | None:
    """Seconds until the next attempt after the `failures`-th failure; None: no more attempts.

    `jitter` in [0, 1) takes up to half of a growing pause away, so that nodes that failed
    together do not come back together; the caller draws it.
    """
    if failures > policy.retries or (
        exit_code is not None and exit_code in policy.final_exit_codes
    ):
        return None
    pause = min(
        policy.interval_seconds * policy.backoff ** (failures - 1),
        policy.max_interval_seconds,
    )
    return pause * (1 - jitter / 2) if policy.backoff > 1 else float(pause)
