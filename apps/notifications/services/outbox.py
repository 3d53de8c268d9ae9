"""The outbox: what is to be told is written with its event, and sent until it has arrived.

    post(incident.workspace, letter, ["maya@example.com"], …)   # in the event's transaction
    deliver()                                                   # what is due; a tick's

A mail that cannot be sent waits, each time longer; of one address so many are sent within an
hour, and the rest comes in a digest. All on the database's clock.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from uuid import uuid4

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Min, QuerySet
from django.db.models.functions import Now

from apps.notifications.doorbell import ring_after_commit
from apps.notifications.letters import Letter, letter_digest, message_of
from apps.notifications.models import Delivery, DeliveryStatus, Incident, Kind
from apps.notifications.smtp import Deferred, Refused, Unreachable, can_mail, connected
from apps.workspaces.models import Workspace

log = logging.getLogger(__name__)

#: What one sending may take before another may try; over all of a conversation's timeouts.
LEASE_SECONDS = 180
#: The pause after the first try that failed; it doubles with each up to the longest.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30, 600
#: What could not be sent for so long is given up.
GIVE_UP = timedelta(days=3)
#: From the first mail that is held back to the digest; between two digests of an address.
DIGEST_AFTER, DIGEST_EVERY = timedelta(minutes=5), timedelta(hours=1)
_HOUR = timedelta(hours=1)


def post(
    workspace: Workspace,
    letter: Letter,
    addresses: Sequence[str],
    *,
    kind: Kind,
    event: str,
    incident: Incident | None = None,
    in_reply_to: dict[str, str] | None = None,
) -> None:
    """Put a letter into the outbox for each address; who has one of this event gets no other.

    `in_reply_to`: by address the Message-ID of the mail that this one answers.
    """
    domain = settings.MAIL_FROM.rpartition("@")[2] or "runyard.invalid"
    if not addresses:
        return
    ring_after_commit()
    Delivery.objects.bulk_create(
        [
            Delivery(
                workspace=workspace,
                incident=incident,
                kind=kind,
                event=event,
                address=address,
                message_id=f"<runyard.{uuid4().hex}@{domain}>",
                in_reply_to=(in_reply_to or {}).get(address, ""),
                subject=letter.subject,
                text=letter.text,
                html=letter.html,
            )
            for address in addresses
        ],
        ignore_conflicts=True,
    )


def deliver() -> int:
    """Send what is due, one mail after the other; how many were sent. Outside a transaction.

    Ends at the first sign that the server cannot be talked to: what is left stays due.
    """
    if not can_mail():
        _leave_unsent()
        return 0
    sent = 0
    with ExitStack() as stack:
        server = None
        while (mine := _claim()) is not None:
            try:
                if server is None:
                    server = stack.enter_context(connected())
                server.send(message_of(mine), mine.address)
            except Unreachable as error:
                log.warning("no mail gets through: %s", error)
                _try_again(mine, str(error))
                break
            except Deferred as error:
                _try_again(mine, str(error))
            except Refused as error:
                _end(mine, DeliveryStatus.FAILED, why=str(error))
            except Exception as error:  # one mail that cannot be made holds up no other
                log.exception("mail %d could not be sent", mine.pk)
                _try_again(mine, f"{type(error).__name__}: {error}")
            else:
                _end(mine, DeliveryStatus.SENT, sent_at=Now())
                sent += 1
    return sent


def _leave_unsent() -> None:
    """Without a mail server nothing is kept for later: it would all come at once one day."""
    rows = Delivery.objects.filter(status__in=[DeliveryStatus.WAITING, DeliveryStatus.HELD])
    rows.update(status=DeliveryStatus.UNSENT, why="no mail server is configured: RUNYARD_SMTP_HOST")


def _claim() -> Delivery | None:
    """Take the next mail that is due, for `LEASE_SECONDS`; None: there is none."""
    due = Delivery.objects.filter(status=DeliveryStatus.WAITING, due_at__lte=Now())
    while True:
        with transaction.atomic():
            rows = due.select_for_update(no_key=True, skip_locked=True)
            row: Delivery | None = rows.order_by("due_at", "pk").first()
            if row is None:
                return None
            if row.tries == 0 and row.kind != Kind.DIGEST and not _has_room(row.address):
                # All of them, since none has room; but for those that others have in hand, who
                # wait for the lock of the address, and will find the same.
                theirs = rows.filter(address=row.address, tries=0).exclude(kind=Kind.DIGEST)
                full = list(theirs.order_by("pk").values_list("pk", flat=True))
                Delivery.objects.filter(pk__in=full).update(
                    status=DeliveryStatus.HELD, held_at=Now()
                )
                continue
            Delivery.objects.filter(pk=row.pk).update(
                tries=F("tries") + 1,
                tried_at=Now(),
                due_at=Now() + timedelta(seconds=LEASE_SECONDS),
            )
            row.tries += 1
            return row


def _has_room(address: str) -> bool:
    """Whether an address may get one more within this hour; exact, as long as the caller's
    transaction lasts."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"mail to {address}"])
    tried = Delivery.objects.filter(address=address, tried_at__gt=Now() - _HOUR)
    return tried.exclude(kind=Kind.DIGEST).count() < settings.MAIL_PER_HOUR


def _try_again(mine: Delivery, why: str) -> None:
    if Delivery.objects.filter(pk=mine.pk, created_at__lt=Now() - GIVE_UP).exists():
        _end(mine, DeliveryStatus.FAILED, why=f"given up after {GIVE_UP.days} days: {why}")
        return
    pause = min(FIRST_PAUSE_SECONDS * 2 ** (mine.tries - 1), LONGEST_PAUSE_SECONDS)
    _still_mine(mine).update(due_at=Now() + timedelta(seconds=pause), why=_kept(why))


def _end(mine: Delivery, status: DeliveryStatus, *, why: str = "", **columns: object) -> None:
    _still_mine(mine).update(status=status, why=_kept(why), **columns)


def _still_mine(mine: Delivery) -> QuerySet[Delivery]:
    """Its row, unless this try took so long that another has begun."""
    rows: QuerySet[Delivery] = Delivery.objects.filter(status=DeliveryStatus.WAITING)
    return rows.filter(pk=mine.pk, tries=mine.tries)


def _kept(why: str) -> str:
    return why.replace("\0", "")[:1000]


def make_digests() -> None:
    """Write a digest for each address that mails have been held back from for long enough."""
    held = Delivery.objects.filter(status=DeliveryStatus.HELD)
    groups = held.values("address", "workspace").annotate(first=Min("held_at"))
    for group in list(groups.filter(first__lte=Now() - DIGEST_AFTER)):
        with transaction.atomic():
            _digest(group["address"], Workspace.objects.get(pk=group["workspace"]))


def _digest(address: str, workspace: Workspace) -> None:
    of_both = Delivery.objects.filter(address=address, workspace=workspace)
    rows = of_both.filter(status=DeliveryStatus.HELD).select_for_update(no_key=True, of=("self",))
    held = list(rows.select_related("incident").order_by("pk"))
    digests = of_both.filter(kind=Kind.DIGEST, created_at__gt=Now() - DIGEST_EVERY)
    if not held or digests.exists():
        return
    event = f"digest from {held[0].event}"[:64]
    letter = letter_digest(workspace.name, workspace.zone, held)
    post(workspace, letter, [address], kind=Kind.DIGEST, event=event)
    digest = of_both.get(event=event)
    Delivery.objects.filter(pk__in=[each.pk for each in held]).update(
        status=DeliveryStatus.DIGESTED, digest=digest
    )
