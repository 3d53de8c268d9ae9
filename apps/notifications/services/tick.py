"""Look around: what has recovered, what is to be told, what may be forgotten?"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta

from django.conf import settings
from django.db.models.functions import Now

from apps.notifications.models import Delivery, DeliveryStatus, Incident, Silence
from apps.notifications.services.backfills import tell_ends
from apps.notifications.services.incidents import end_silences, recover
from apps.notifications.services.lateness import tell_late, tell_overdue, tell_slow
from apps.notifications.services.nodes import tell_nodes
from apps.notifications.services.numbers import tell_numbers
from apps.notifications.services.outbox import deliver, deliver_to_channels, make_digests
from apps.runs.services.sweep import also

log = logging.getLogger(__name__)

_mails, _channels = threading.Lock(), threading.Lock()


@also
def tick() -> None:
    """Everything that needs a look from time to time, once. Outside a transaction.

    Leaves out what is under way in this process: a mail server or a receiver that does not
    answer must take up no more than one thread, and hold up nothing else.
    """
    _unless_under_way(_mails, recover, end_silences, *LOOKS, make_digests, deliver)
    _unless_under_way(_channels, deliver_to_channels)


#: What else there may be to tell.
LOOKS = (tell_ends, tell_nodes, tell_late, tell_overdue, tell_slow, tell_numbers)


def _aside(part: Callable[[], object]) -> None:
    try:
        part()
    except Exception:  # one part that fails keeps no other and no mail back
        log.exception("%s did not come to its end; it is tried again", part.__name__)


def _unless_under_way(lock: threading.Lock, *parts: Callable[[], object]) -> None:
    if lock.acquire(blocking=False):
        try:
            for part in parts:
                _aside(part)
        finally:
            lock.release()


def forget() -> None:
    """Remove incidents and mails that have been over for longer than the retention."""
    if not settings.RETENTION_DAYS:
        return
    limit = Now() - timedelta(days=settings.RETENTION_DAYS)
    over = Delivery.objects.exclude(status__in=[DeliveryStatus.WAITING, DeliveryStatus.HELD])
    mails, _ = over.filter(created_at__lt=limit).delete()
    Silence.objects.filter(ended_at__lt=limit).delete()
    incidents, _ = Incident.objects.filter(recovered_at__lt=limit).delete()
    if mails or incidents:
        log.info("%d mails and incidents are forgotten", mails + incidents)
