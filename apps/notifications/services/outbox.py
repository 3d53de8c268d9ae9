"""The outbox: what is to be told is written with its event, and sent until it has arrived.

    post(incident.workspace, letter, ["maya@example.com", "channel:ops"], …)   # with its event
    deliver(), deliver_to_channels()                              # what is due; a tick's

A message that cannot be sent waits, each time longer; of one workspace to one address or channel
so many are sent within an hour, and the rest comes in a digest. All on the database's clock.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import timedelta
from uuid import uuid4

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Min, Q, QuerySet
from django.db.models.functions import Now

from apps.notifications.addresses import CHANNEL, channel_in
from apps.notifications.doorbell import ring_after_commit
from apps.notifications.letters import Letter, letter_digest, letter_test, message_of
from apps.notifications.models import Delivery, DeliveryStatus, Incident, Kind, Silence
from apps.notifications.services.channels import expand, tell
from apps.notifications.services.one_by_one import alone
from apps.notifications.services.silences import standing_of
from apps.notifications.smtp import can_mail, connected
from apps.notifications.verdicts import Deferred, Refused, Unreachable
from apps.workspaces.models import User, Workspace

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
#: Channels that are told one after the other; more of them by so many threads, for one whose
#: receiver does not answer takes its time.
FEW, SIDE_BY_SIDE = 2, 4
_TO_CHANNEL = Q(address__startswith=CHANNEL)


def post(
    workspace: Workspace,
    letter: Letter,
    addresses: Sequence[str],
    *,
    kind: Kind,
    event: str,
    incident: Incident | None = None,
    workflow_id: int | None = None,
    in_reply_to: dict[str, str] | None = None,
) -> None:
    """Put a letter into the outbox for each address; who has one of this event gets no other.

    `addresses`: mail addresses, and channels by name; a channel of mail addresses is these.
    `workflow_id`: of the workflow that it tells of, by default the incident's. While that is
    silenced, what is written is kept and not sent.
    `in_reply_to`: by address the Message-ID of the mail that this one answers.
    """
    if any(channel_in(each) for each in addresses):
        addresses = expand(workspace.pk, addresses)
    if not addresses:
        return
    about = workflow_id or (incident.workflow_id if incident else None)
    silences = standing_of(about) if about is not None else Silence.objects.none()
    is_silenced = silences.exists()
    if not is_silenced:
        ring_after_commit()
    else:
        # One after the other, so that who looks at the same time counts it once. Who tells of
        # several workflows in one transaction goes by their ids.
        list(silences.select_for_update(no_key=True).values_list("pk"))
        if not Delivery.objects.filter(event=event).exists():
            silences.update(silenced=F("silenced") + 1)
    status = DeliveryStatus.SILENCED if is_silenced else DeliveryStatus.WAITING
    why = "the workflow was silenced" if is_silenced else ""
    _write(
        workspace,
        letter,
        addresses,
        in_reply_to or {},
        incident=incident,
        kind=kind,
        event=event,
        status=status,
        why=why,
    )


def _write(
    workspace: Workspace,
    letter: Letter,
    addresses: Sequence[str],
    in_reply_to: Mapping[str, str],
    **columns: object,
) -> None:
    """The rows, for these very addresses."""
    domain = settings.MAIL_FROM.rpartition("@")[2] or "runyard.invalid"
    Delivery.objects.bulk_create(
        [
            Delivery(
                workspace=workspace,
                address=address,
                message_id=f"<runyard.{uuid4().hex}@{domain}>",
                in_reply_to=in_reply_to.get(address, ""),
                subject=letter.subject,
                text=letter.text,
                html=letter.html,
                facts=letter.facts,
                **columns,
            )
            for address in addresses
        ],
        ignore_conflicts=True,
    )


def post_test(workspace: Workspace, addresses: Sequence[str], *, by: User) -> None:
    """Put a test message into the outbox for whoever is meant by these."""
    letter, event = letter_test(workspace.name, by.username), f"test {uuid4().hex}"
    post(workspace, letter, addresses, kind=Kind.TEST, event=event)


def deliver() -> int:
    """Send the mails that are due, one after the other; how many. Outside a transaction.

    Ends at the first sign that the server cannot be talked to: what is left stays due.
    """
    if not can_mail():
        _leave_unsent()
        return 0
    sent = 0
    with ExitStack() as stack:
        server = None
        while (mine := _claim(~_TO_CHANNEL)) is not None:
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


def deliver_to_channels() -> int:
    """Tell each channel what is due to it; how much was told. Outside a transaction."""
    due = Delivery.objects.filter(_TO_CHANNEL, status=DeliveryStatus.WAITING, due_at__lte=Now())
    lanes = list(due.order_by().values_list("workspace", "address").distinct()[:1000])
    if len(lanes) <= FEW:
        return sum(map(_tell_all, lanes))
    with ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="channel") as pool:
        return sum(pool.map(_tell_apart, lanes))


def _tell_apart(lane: tuple[int, str]) -> int:
    """In a thread, with a connection of its own."""
    with closing(connection):
        return _tell_all(lane)


def _tell_all(lane: tuple[int, str]) -> int:
    """What is due to one channel; ends at the first sign that it takes nothing now."""
    workspace_id, address = lane
    told = 0
    while (mine := _claim(Q(workspace=workspace_id, address=address))) is not None:
        try:
            tell(mine)
        except Deferred as error:
            _try_again(mine, str(error))
            break
        except Refused as error:
            _end(mine, DeliveryStatus.FAILED, why=str(error))
        except Exception as error:  # one message that cannot be made holds up no other
            log.exception("message %d could not be sent", mine.pk)
            _try_again(mine, f"{type(error).__name__}: {error}")
        else:
            _end(mine, DeliveryStatus.SENT, sent_at=Now())
            told += 1
    return told


def _leave_unsent() -> None:
    """Without a mail server nothing is kept for later: it would all come at once one day."""
    rows = Delivery.objects.filter(status__in=[DeliveryStatus.WAITING, DeliveryStatus.HELD])
    rows = rows.exclude(_TO_CHANNEL)
    rows.update(status=DeliveryStatus.UNSENT, why="no mail server is configured: RUNYARD_SMTP_HOST")


def _claim(whose: Q) -> Delivery | None:
    """Take the next of these that is due, for `LEASE_SECONDS`; None: there is none."""
    due = Delivery.objects.filter(whose, status=DeliveryStatus.WAITING, due_at__lte=Now())
    while True:
        with transaction.atomic():
            rows = due.select_for_update(no_key=True, skip_locked=True)
            row: Delivery | None = rows.order_by("due_at", "pk").first()
            if row is None:
                return None
            if row.tries == 0 and row.kind != Kind.DIGEST and not _has_room(row):
                # All of them, since none has room; but for those that others have in hand, who
                # wait for the lock of the address, and will find the same.
                theirs = rows.filter(_of_one_count(row), tries=0).exclude(kind=Kind.DIGEST)
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


def _of_one_count(row: Delivery) -> Q:
    """What is counted with it: of its workspace to its recipient, tests apart. So nobody can use
    up what another workspace, or a failure, may send."""
    same = Q(address=row.address, workspace=row.workspace_id)
    is_test = Q(kind=Kind.TEST)
    return same & (is_test if row.kind == Kind.TEST else ~is_test)


def _has_room(row: Delivery) -> bool:
    """Whether its recipient may get one more within this hour; exact, as long as the caller's
    transaction lasts."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtext(%s))",
            [f"mail to {row.address} of {row.workspace_id}"],
        )
    tried = Delivery.objects.filter(_of_one_count(row), tried_at__gt=Now() - _HOUR)
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
        with alone(f"what was held back from {group['address']}"):
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
    # To this very one: should the channel stand for mail addresses now, it goes to nobody.
    _write(workspace, letter, [address], {}, kind=Kind.DIGEST, event=event)
    digest = of_both.get(event=event)
    Delivery.objects.filter(pk__in=[each.pk for each in held]).update(
        status=DeliveryStatus.DIGESTED, digest=digest
    )
