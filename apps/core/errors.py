"""What can be wrong with a request, said so that a person can mend it.

Raised at the place that knows; translated at the edge: pages make a form error or a toast of
it, REST problem JSON, the wire doors their own words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class ApplicationError(Exception):
    """The base. `str(error)` names the thing and the fix."""


class NotFound(ApplicationError):
    """There is no such thing, or not for this user."""


class Denied(ApplicationError):
    """It is there, and this user may not."""


class Conflict(ApplicationError):
    """Someone changed it first, or it is in use. `current` is what stands there now."""

    def __init__(self, message: str, current: Any = None) -> None:
        super().__init__(message)
        self.current = current


@dataclass(frozen=True)
class FieldFault:
    """One thing that is wrong. `field` is a form field's or a node's name, "" for the whole."""

    field: str
    message: str


class Invalid(ApplicationError):
    """Everything that is wrong with what was sent, at once."""

    def __init__(self, faults: Sequence[FieldFault] | str, field: str = "") -> None:
        if isinstance(faults, str):
            faults = [FieldFault(field, faults)]
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = tuple(faults)


class Unavailable(ApplicationError):
    """Something outside that is needed for it does not answer now; the same may work later."""


class TooMany(ApplicationError):
    """Too often, or too much at once; the same is allowed in `seconds`."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


def faults_of(check: Callable[..., object], *arguments: Any) -> tuple[FieldFault, ...]:
    """What a check finds wrong, where several are asked before anything is said."""
    try:
        check(*arguments)
    except Invalid as error:
        return error.faults
    return ()
