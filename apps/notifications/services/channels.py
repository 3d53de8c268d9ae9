"""Channels: who is meant by an address or a channel's name, and how a channel is told.

    expand(workspace.pk, ["maya@example.com", "channel:team"])  # as messages are addressed
    check_channels(workspace.pk, ["channel:team"])              # as they are taken in

A channel of mail addresses stands for these, so that one who is named twice is told once. The
others are told under their name, with what stands in the channel at that time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from django.db import connection, transaction
from django.db.models import Q
from django.db.models.functions import Now

from apps.core.errors import Conflict, FieldFault, Invalid, faults_of
from apps.core.outgoing import check_url
from apps.notifications import apprise_url, webhook
from apps.notifications.addresses import CHANNEL, channel_in, name_fault, read_addresses
from apps.notifications.models import (
    Channel,
    ChannelKind,
    Delivery,
    NodeSubscription,
    Rule,
    Subscription,
)
from apps.notifications.verdicts import Deferred, Refused
from apps.runs.models import Backfill
from apps.workspaces.models import User, Workspace
from apps.workspaces.secrets import Unreadable, seal, unseal

#: Of one workspace.
MAX_CHANNELS = 50


# --- who is meant ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Book:
    """Who is meant in a workspace."""

    #: The channel that is told where nobody is named, as an address; or nobody.
    default: list[str] = field(default_factory=list)
    #: By a channel's name, as an address, the mail addresses that it stands for.
    of_mail: dict[str, list[str]] = field(default_factory=dict)

    def meant(self, addresses: Sequence[str]) -> list[str]:
        """As messages are addressed, each once: two that differ in upper and lower case alone
        are one, the first of them."""
        kept: dict[str, str] = {}
        for each in addresses:
            for one in self.of_mail.get(each, [each]):
                kept.setdefault(one.lower(), one)
        return list(kept.values())


def books_of(workspace_ids: Collection[int]) -> dict[int, Book]:
    """By workspace; one query."""
    books = {pk: Book() for pk in workspace_ids}
    rows = Channel.objects.filter(
        Q(is_default=True) | Q(kind=ChannelKind.MAIL), workspace__in=workspace_ids
    )
    for row in rows.only("workspace", "name", "kind", "address", "is_default"):
        name = f"{CHANNEL}{row.name}"
        if row.is_default:
            books[row.workspace_id].default.append(name)
        if row.kind == ChannelKind.MAIL:
            books[row.workspace_id].of_mail[name] = read_addresses(row.address)
    return books


def expand(workspace_id: int, addresses: Sequence[str]) -> list[str]:
    """As messages are addressed, where somebody else names addresses and channels."""
    return books_of([workspace_id])[workspace_id].meant(addresses)


def check_channels(workspace_id: int, addresses: Sequence[str], field: str = "addresses") -> None:
    """Raise Invalid for each channel that there is none of. Those that there are stay until the
    end of the caller's transaction, in which they are to be named."""
    names = [name for each in addresses if (name := channel_in(each))]
    if not names:
        return
    with connection.cursor() as cursor:
        # Of the caller's transaction: until its end none of them is deleted.
        cursor.execute(
            "SELECT name FROM notifications_channel WHERE workspace_id = %s AND name = ANY (%s)"
            " ORDER BY id FOR KEY SHARE",
            [workspace_id, names],
        )
        missing = sorted(set(names) - {name for (name,) in cursor.fetchall()})
    if missing:
        raise Invalid(
            [
                FieldFault(field, f"there is no channel {name!r} here; add it under Channels")
                for name in missing
            ]
        )


# --- channels -------------------------------------------------------------------------------


def set_channel(
    workspace: Workspace,
    name: str,
    *,
    kind: str,
    addresses: str = "",
    url: str = "",
    secret: str = "",
    is_default: bool | None = None,
    user: User | None,
) -> Channel:
    """Make a channel or change it. What is to be sent from now on takes the new way.

    `addresses`: of a mail channel. An empty `url` or `secret` leaves what is there, as long as the
    kind stays. `is_default`: None leaves it as it is. Of the default channel there is one: it was
    another before.

    Raises Invalid with every fault.
    """
    if fault := name_fault(name):
        raise Invalid(fault, "name")
    # Before the transaction: who asks apprise waits for a process.
    values, faults = _ways(workspace, name, kind, addresses, url.strip(), secret.strip())
    with transaction.atomic():
        # One after the other, so that the count holds, and there is one default.
        Workspace.objects.select_for_update(no_key=True).get(pk=workspace.pk)
        channels = Channel.objects.filter(workspace=workspace)
        old = channels.filter(name=name).first()
        if old is None and channels.count() >= MAX_CHANNELS:
            faults.append(FieldFault("name", f"there are {MAX_CHANNELS} channels; delete one"))
        if old is None or old.kind != kind:
            faulty = {fault.field for fault in faults}
            faults += [
                FieldFault(what, f"a channel of this kind needs a {words}")
                for what, words in _NEEDS[ChannelKind(kind)].items()
                if f"sealed_{what}" not in values and what not in faulty
            ]
            values = {"sealed_url": None, "sealed_secret": None, **values}
        if faults:
            raise Invalid(faults)
        if is_default:
            channels.exclude(name=name).update(is_default=False)
        said: dict[str, object] = {"kind": kind, "changed_by": user, "changed_at": Now()}
        if is_default is not None:
            said["is_default"] = is_default
        row, _ = Channel.objects.update_or_create(
            workspace=workspace, name=name, defaults={**values, **said}
        )
    row.refresh_from_db()
    return row


#: What there is of each kind beside its addresses.
_NEEDS = {
    ChannelKind.MAIL: {},
    ChannelKind.WEBHOOK: {"url": "URL", "secret": "secret"},
    ChannelKind.APPRISE: {"url": "URL"},
}


def _ways(
    workspace: Workspace, name: str, kind: str, addresses: str, url: str, secret: str
) -> tuple[dict[str, object], list[FieldFault]]:
    """The columns that what was given says, and what is wrong with it."""
    values: dict[str, object] = {}
    faults: list[FieldFault] = []
    if kind == ChannelKind.MAIL:
        faults += faults_of(read_addresses, addresses)
        if not faults:
            found = read_addresses(addresses)
            values["address"] = ", ".join(found)
            if not found or any(channel_in(each) for each in found):
                faults.append(FieldFault("addresses", "name the mail addresses that are meant"))
        return values, faults
    if url:
        try:
            if kind == ChannelKind.WEBHOOK:
                values["address"] = f"{check_url(url).place}/…"
            else:
                values["address"] = apprise_url.check(url)
        except ValueError as error:
            faults.append(FieldFault("url", str(error)))
        else:
            values["sealed_url"] = seal(workspace.pk, _place(name, "url"), url)
    if secret and kind == ChannelKind.WEBHOOK:
        if fault := webhook.secret_fault(secret):
            faults.append(FieldFault("secret", fault))
        else:
            values["sealed_secret"] = seal(workspace.pk, _place(name, "secret"), secret)
    return values, faults


@transaction.atomic
def delete_channel(channel: Channel) -> None:
    """What still waits for it is given up. Raises Conflict while a workflow, a node, a rule or a
    backfill that is not over names it."""
    # Whoever names it now, in a transaction that has not ended, is waited for.
    if not Channel.objects.select_for_update(of=("self",)).filter(pk=channel.pk).exists():
        return
    named = Subscription.objects.filter(
        workflow__workspace=channel.workspace_id,
        workflow__deleted_at=None,
        address=f"{CHANNEL}{channel.name}",
    ).order_by("workflow__name")
    rules = Rule.objects.filter(
        workspace=channel.workspace_id, addresses__contains=[f"{CHANNEL}{channel.name}"]
    )
    if rules.exists():
        raise Conflict(f"a rule tells channel {channel.name}; name another there first")
    nodes = NodeSubscription.objects.filter(
        workflow__workspace=channel.workspace_id,
        workflow__deleted_at=None,
        addresses__contains=[f"{CHANNEL}{channel.name}"],
    ).select_related("workflow")
    if (node := nodes.first()) is not None:
        raise Conflict(
            f"node {node.node} of {node.workflow.name} tells channel {channel.name}; name another "
            "there first"
        )
    backfills = Backfill.objects.filter(
        workspace=channel.workspace_id,
        ended_at=None,
        addresses__contains=[f"{CHANNEL}{channel.name}"],
    ).order_by("pk")
    if (backfill := backfills.first()) is not None:
        raise Conflict(
            f"backfill {backfill.pk} tells channel {channel.name}; wait for its end or cancel it "
            "first"
        )
    flows = list(named.values_list("workflow__name", flat=True)[:4])
    if flows:
        more = " and more" if len(flows) > 3 else ""
        raise Conflict(
            f"channel {channel.name} is told of failures of {', '.join(flows[:3])}{more}; "
            "name another there first"
        )
    Channel.objects.filter(pk=channel.pk).delete()


def _place(name: str, what: str) -> str:
    """Where a channel's URL or secret is sealed for."""
    return f"channel {name}/{what}"


# --- telling one ----------------------------------------------------------------------------


def tell(delivery: Delivery) -> None:
    """Send a message to the channel that it is for. Raises Deferred, Refused."""
    name = channel_in(delivery.address)
    channel = Channel.objects.filter(workspace=delivery.workspace_id, name=name).first()
    if channel is None or channel.sealed_url is None:
        raise Refused(f"there is no channel {name!r} any more that this could go to")
    try:
        url = unseal(delivery.workspace_id, _place(name, "url"), channel.sealed_url)
        if channel.sealed_secret is None:
            apprise_url.send(delivery, url=url)
            return
        secret = unseal(delivery.workspace_id, _place(name, "secret"), channel.sealed_secret)
    except Unreadable as error:
        raise Deferred(str(error)) from error
    # Of this try, by the database's clock.
    at = Delivery.objects.values_list("tried_at", flat=True).get(pk=delivery.pk)
    assert at is not None  # noqa: S101 -- it was claimed
    webhook.send(delivery, url=url, secret=secret, at=at)
