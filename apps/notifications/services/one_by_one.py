"""Each by itself: what cannot be told of one keeps nothing back of the others.

for pk in open_incidents:
    with alone(f"incident {pk}"):
        post(...)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import InterfaceError, OperationalError, transaction

log = logging.getLogger(__name__)


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Write all of this or nothing, and log what goes wrong; unless the database itself is away,
    which is raised. Within a transaction of the caller's too, which goes on."""
    try:
        with transaction.atomic():
            yield
    except (OperationalError, InterfaceError):
        raise
    except Exception:  # a letter that cannot be made; other workspaces' wait for their turn
        log.exception("%s cannot be told; the others are", what)
