"""Look around: what has recovered, what is to be told, what may be forgotten?"""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

from django.conf import settings
from django.db.models.functions import Now

from apps.notifications.models import Delivery, DeliveryStatus, Incident
from apps.notifications.services.backfills import tell_ends
from apps.notifications.services.incidents import recover
from apps.notifications.services.outbox import deliver, make_digests

log = logging.getLogger(__name__)

_under_way = threading.Lock()


def tick() -> None:
    """Everything that needs a look from time to time, once. Outside a transaction.

    Does nothing where one is under way in this process: a mail server that does not answer
    must not take up every thread.
    """
    if not _under_way.acquire(blocking=False):
        return
    try:
        recover()
        tell_ends()
        make_digests()
        deliver()
    finally:
        _under_way.release()


def forget() -> None:
    """Remove incidents and mails that have been over for longer than the retention."""
    if not settings.RETENTION_DAYS:
        return
    limit = Now() - timedelta(days=settings.RETENTION_DAYS)
    over = Delivery.objects.exclude(status__in=[DeliveryStatus.WAITING, DeliveryStatus.HELD])
    mails, _ = over.filter(created_at__lt=limit).delete()
    incidents, _ = Incident.objects.filter(recovered_at__lt=limit).delete()
    if mails or incidents:
        log.info("%d mails and incidents are forgotten", mails + incidents)
