"""Whether the engine is alive, for who looks from outside: one query, no login, no details."""

from __future__ import annotations

import psycopg
from django.conf import settings
from django.db import DatabaseError, connection
from psycopg_pool import PoolTimeout

#: Nobody has looked around for so long: the tick is late. Every second is the rule, and a worker
#: takes it over after 10 s.
LATE_SECONDS = 30
#: What a free connection to the database may take.
PATIENCE_SECONDS = 2

_SQL = """
    SELECT EXISTS (SELECT FROM runs_pulse
                    WHERE name = 'tick' AND at > clock_timestamp() - %s * interval '1 s'),
           EXISTS (SELECT FROM runs_worker
                    WHERE seen_at > clock_timestamp() - %s * interval '1 s')
"""


def what_is_wrong() -> str:
    """The first thing that keeps runs from starting, in a few words; "": nothing."""
    for tries_left in (2, 1, 0):
        try:
            ticks, works = _asked()
            break
        except PoolTimeout:
            return "the database does not answer"
        except (DatabaseError, psycopg.Error):
            # After a restart of the database the pool still holds connections of before.
            if not tries_left:
                return "the database does not answer"
    if not ticks:
        return "the tick is late"
    return "" if works else "no worker shows life"


def _asked() -> tuple[bool, bool]:
    """Whether the tick is on time, and whether a worker lives."""
    given = [LATE_SECONDS, settings.LEASE_SECONDS]
    pool = connection.pool  # type: ignore[attr-defined]
    if pool is None:
        with connection.cursor() as cursor:
            cursor.execute(_SQL, given)
            ticks, works = cursor.fetchone()
            return ticks, works
    # Past Django, which would wait for a free connection as long as a page does.
    pool.open()
    with pool.connection(timeout=PATIENCE_SECONDS) as link:
        ticks, works = link.execute(_SQL, given).fetchone()
        return ticks, works
