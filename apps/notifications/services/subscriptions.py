"""Who is told of a workflow: the addresses that it names itself, and those that rules name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from django.db import transaction

from apps.core.errors import NotFound
from apps.notifications.addresses import check_addresses
from apps.notifications.models import Rule, Subscription
from apps.notifications.services.channels import books_of, check_channels
from apps.workflows.models import Workflow


def addresses_of(workflow: Workflow) -> list[str]:
    """Everybody who is told of it, each once, as messages are addressed."""
    return addresses_of_all([workflow])[workflow.pk]


def addresses_of_all(workflows: Collection[Workflow]) -> dict[int, list[str]]:
    """The same for many, by id; three queries, however many they are."""
    told: dict[int, list[str]] = {each.pk: [] for each in workflows}
    own = Subscription.objects.filter(workflow__in=told).order_by("pk")
    for pk, address in own.values_list("workflow", "address"):
        told[pk].append(address)
    rules: dict[int, list[Rule]] = defaultdict(list)
    places = {each.workspace_id for each in workflows}
    books = books_of(places)
    for rule in Rule.objects.filter(workspace__in=places).order_by("pk"):
        rules[rule.workspace_id].append(rule)
    for each in workflows:
        if not told[each.pk]:
            told[each.pk] += books[each.workspace_id].default
        for rule in rules[each.workspace_id]:
            if rule.matches(each):
                told[each.pk] += rule.addresses
        told[each.pk] = books[each.workspace_id].meant(told[each.pk])
    return told


def own_addresses(workflow: Workflow) -> list[str]:
    """Those that it names itself, as they were written: mail addresses, and channels by name."""
    rows = Subscription.objects.filter(workflow=workflow).order_by("pk")
    return list(rows.values_list("address", flat=True))


def by_rules(workflow: Workflow) -> list[Rule]:
    """The rules that speak of it."""
    rows = Rule.objects.filter(workspace=workflow.workspace_id).order_by("pk")
    return [rule for rule in rows if rule.matches(workflow)]


@transaction.atomic
def subscribe(workflow: Workflow, addresses: Sequence[str]) -> list[str]:
    """Let it name these addresses in place of those there were; what is kept of them.

    It counts at once. Raises Invalid with every fault, NotFound if the workflow was deleted.
    """
    kept = check_addresses(addresses)
    check_channels(workflow.workspace_id, kept)
    row = Workflow.objects.select_for_update(no_key=True).get(pk=workflow.pk)
    if row.deleted_at is not None:
        raise NotFound(f"workflow {row.name!r} was deleted")
    Subscription.objects.filter(workflow=row).delete()
    Subscription.objects.bulk_create(Subscription(workflow=row, address=each) for each in kept)
    return kept
