"""The heartbeat: a workspace's URL is called each minute, and whoever listens notices when not.

    set_heartbeat(workspace, "https://hc-ping.com/…", user=user)
    ring()                                  # what is due; a task's of its own

It says that the engine looks around: where the tick is late, nothing is rung.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta

from django.db import connection
from django.db.models import Q
from django.db.models.functions import Now

from apps.core.errors import Invalid
from apps.core.outgoing import NotAllowed, NotReached, call, check_url
from apps.notifications.models import Heartbeat
from apps.runs.services.sweep import also, pulse_is_old
from apps.workspaces.models import User, Workspace
from apps.workspaces.secrets import Unreadable, seal, unseal

log = logging.getLogger(__name__)

#: From one call to the next, at least.
EVERY = timedelta(minutes=1)
#: What a call may take.
SECONDS = 5.0
#: That are called one after the other; more of them by so many threads.
FEW, SIDE_BY_SIDE = 2, 4
_PLACE = "heartbeat/url"

_under_way = threading.Lock()


def set_heartbeat(workspace: Workspace, url: str, *, user: User | None) -> Heartbeat:
    """Make or replace it; it is called within seconds. Raises Invalid."""
    url = url.strip()
    try:
        address = f"{check_url(url).place}/…"
    except ValueError as error:
        raise Invalid(str(error), "url") from error
    row, _ = Heartbeat.objects.update_or_create(
        workspace=workspace,
        defaults={
            "address": address,
            "sealed_url": seal(workspace.pk, _PLACE, url),
            "rung_at": None,
            "answered_at": None,
            "why": "",
            "changed_by": user,
            "changed_at": Now(),
        },
    )
    row.refresh_from_db()
    return row


def delete_heartbeat(workspace: Workspace) -> None:
    Heartbeat.objects.filter(workspace=workspace).delete()


@also
def look() -> None:
    """For a worker that ticks by itself, since no beat does."""
    ring()


def ring() -> int:
    """Call each URL that is due; how many. Outside a transaction.

    Does nothing while this process is at it already, nor where nobody looks around for what is
    due: the calls would say that all is well.
    """
    if not _under_way.acquire(blocking=False):
        return 0
    try:
        due = list(Heartbeat.objects.filter(_is_due()).order_by("pk").values_list("pk", flat=True))
        if not due or pulse_is_old():
            return 0
        if len(due) <= FEW:
            return sum(map(_ring, due))
        with ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="heartbeat") as pool:
            return sum(pool.map(_ring_apart, due))
    finally:
        _under_way.release()


def _is_due() -> Q:
    return Q(rung_at=None) | Q(rung_at__lte=Now() - EVERY)


def _ring_apart(pk: int) -> int:
    """In a thread, with a connection of its own."""
    with closing(connection):
        return _ring(pk)


def _ring(pk: int) -> int:
    rows = Heartbeat.objects.filter(pk=pk)
    mine = rows.first()
    if mine is None or not rows.filter(_is_due()).update(rung_at=Now()):
        return 0  # another process was first
    why = ""
    try:
        answer = call("GET", unseal(pk, _PLACE, mine.sealed_url), seconds=SECONDS)
        if not 200 <= answer.status < 300:
            why = f"it answered {answer}"
    except (NotReached, NotAllowed, Unreadable, ValueError) as error:
        why = str(error)
    if why and not mine.why:
        log.warning("the heartbeat of workspace %d fails: %s", pk, why)
    # Unless it was replaced meanwhile.
    same = rows.filter(sealed_url=mine.sealed_url)
    same.update(why=why, **({} if why else {"answered_at": Now()}))
    return 1
