"""Names and passwords: who may try one, how often, and how many at a time."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import threading
from datetime import timedelta

from django.contrib.auth import authenticate
from django.db import connection
from django.http import HttpRequest
from django.utils import timezone

from apps.core.errors import TooMany
from apps.workspaces.models import LoginFailures, User

#: Failures are counted for so long, and forgotten together.
WINDOW = timedelta(minutes=1)
#: Wrong passwords for one account from one address, for all accounts from one address, and for
#: one account from all addresses. The last is the larger, so that somebody who guesses does not
#: lock out whom he is after; what he locks is open again after a minute at most.
PAIR_LIMIT = 5
ADDRESS_LIMIT = ACCOUNT_LIMIT = 20
#: Argon2 takes 100 MB for each password: so many at once in this process.
_HASHING = threading.BoundedSemaphore(2)
HASHING_SECONDS = 10.0


def log_in(request: HttpRequest, username: str, password: str) -> User | None:
    """The active user with this name and password; None: there is no such one.

    Raises TooMany after too many failures, before the password is looked at: also a right one
    has to wait then. What is refused so does not count as a failure.
    """
    if not connection.in_atomic_block:
        connection.close()  # who waits holds none of the pool's
    if not _HASHING.acquire(timeout=HASHING_SECONDS):
        raise TooMany("too many people log in at this moment; try again in 5 seconds", 5)
    try:
        limits = _limits(username, request.META.get("REMOTE_ADDR", ""))
        _check(limits)
        user = authenticate(request, username=username, password=password)
        if isinstance(user, User):
            LoginFailures.objects.filter(key=next(iter(limits))).delete()
            return user
        _count(limits)
        return None
    finally:
        _HASHING.release()


def _limits(username: str, address: str) -> dict[str, int]:
    """How many failures each key may have; the first is that of the account and the address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        place = address
    else:
        # Whoever has one address of IPv6 has 2^64 of them.
        place = (
            str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), False))
        )
    keys = {
        f"pair {place} {username}": PAIR_LIMIT,
        f"address {place}": ADDRESS_LIMIT,
        f"account {username}": ACCOUNT_LIMIT,
    }
    return {hashlib.sha256(key.encode()).hexdigest(): limit for key, limit in keys.items()}


def _check(limits: dict[str, int]) -> None:
    now = timezone.now()
    rows = LoginFailures.objects.filter(key__in=limits, began_at__gt=now - WINDOW)
    spent = [row.began_at for row in rows if row.count >= limits[row.key]]
    if spent:
        seconds = max(math.ceil((max(spent) + WINDOW - now).total_seconds()), 1)
        raise TooMany(f"too many failed logins; try again in {seconds} seconds", seconds)


def _count(limits: dict[str, int]) -> None:
    now = timezone.now()
    LoginFailures.objects.filter(began_at__lte=now - WINDOW).delete()
    with connection.cursor() as cursor:
        for key in limits:
            cursor.execute(_ONE_MORE, {"key": key, "now": now})


#: Two that fail at once are two.
_ONE_MORE = """
INSERT INTO workspaces_loginfailures AS known (key, began_at, count) VALUES (%(key)s, %(now)s, 1)
ON CONFLICT (key) DO UPDATE SET count = known.count + 1
"""
