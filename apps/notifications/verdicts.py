"""What can come of a try to send a message, beside that it was sent. The text says why."""

from __future__ import annotations


class Unreachable(Exception):
    """The mail server cannot be talked to: no mail gets through now."""


class Deferred(Exception):
    """The receiver did not take this message now, and may later."""


class Refused(Exception):
    """The receiver will never take this message."""
