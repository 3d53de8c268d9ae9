"""What follows when a node fails."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass

#: Attempts that a node may lose with its worker or host before it fails for good.
LOSSES_ALLOWED = 3

#: What a back-off may be.
BACKOFF_LEAST, BACKOFF_MOST = 1.0, 10.0


@dataclass(frozen=True)
class RetryPolicy:
    """How often and when a failed node is tried again."""

    retries: int = 0
    interval_seconds: int = 60
    #: Each pause this many times as long as the one before; 1 keeps it even.
    backoff: float = 1.0
    #: Up to here a pause grows; an interval that is longer already stays as it is.
    max_interval_seconds: int = 3600
    #: Exit codes that mean: trying again is of no use.
    final_exit_codes: Collection[int] = ()


def retry_delay(
    policy: RetryPolicy, *, failures: int, exit_code: int | None, jitter: float = 0.0
) -> float | None:
    """Seconds until the next attempt after the `failures`-th failure; None: no more attempts.

    `exit_code` is None where it says nothing about the job: it was ended by us, or could not
    start. `jitter` in [0, 1) takes up to half of a growing pause away, so that nodes that
    failed together do not come back together; the caller draws it.
    """
    if failures > policy.retries or (
        exit_code is not None and exit_code in policy.final_exit_codes
    ):
        return None
    if policy.backoff <= 1:
        return float(policy.interval_seconds)
    return _pause(policy, failures) * (1 - jitter / 2)


def _pause(policy: RetryPolicy, failures: int) -> float:
    try:
        growth = policy.backoff ** (failures - 1)
    except OverflowError:
        growth = sys.float_info.max
    longest = max(policy.max_interval_seconds, policy.interval_seconds)
    return min(policy.interval_seconds * growth, float(longest))


def in_words(policy: RetryPolicy) -> str:
    """A policy as a person would say it: "2 retries, 60 s apart, doubling up to 1 h"."""
    if not policy.retries:
        return "no retries"
    words = "1 retry" if policy.retries == 1 else f"{policy.retries} retries"
    if not policy.interval_seconds:
        words += ", at once"
    elif policy.retries == 1:
        words += f", {_length(policy.interval_seconds)} later"
    else:
        words += f", {_length(policy.interval_seconds)} apart"
        longest = policy.max_interval_seconds
        if policy.backoff > 1 and longest > policy.interval_seconds:
            words += f", {_growth(policy.backoff)} up to {_length(longest)}"
    codes = ", ".join(str(code) for code in sorted(policy.final_exit_codes))
    if codes:
        words += f"; not after exit code{'s' if ',' in codes else ''} {codes}"
    return words


def _growth(backoff: float) -> str:
    if backoff == 2:
        return "doubling"
    return "tripling" if backoff == 3 else f"{backoff:g} times as long each"


def _length(seconds: int) -> str:
    """In the largest unit that needs no fraction; a minute and less in seconds."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds > 60 and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
