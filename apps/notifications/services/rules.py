"""Rules: who is told of workflows by their tag, owner or severity, whichever they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import transaction
from django.db.models.functions import Now

from apps.core.errors import Conflict, FieldFault, Invalid, NotFound
from apps.engine.states import Severity
from apps.notifications.addresses import check_addresses
from apps.notifications.models import Rule
from apps.notifications.services.channels import check_channels
from apps.workflows.services.ownership import owner_fault
from apps.workflows.services.tags import read_tag
from apps.workspaces.models import User, Workspace

#: Of one workspace.
MAX_RULES = 100


@dataclass(frozen=True)
class Match:
    """Which workflows a rule speaks of: those that are all of this. "" leaves any."""

    tag_key: str = ""
    tag_value: str = ""
    owner: str = ""
    severity: str = ""


def read_match(tag: str = "", owner: str = "", severity: str = "") -> Match:
    """`tag` is `key=value`, or `key` for any value. Raises Invalid with every fault."""
    faults: list[FieldFault] = []
    key, value = "", ""
    if tag.strip():
        try:
            key, value = read_tag(tag)
        except Invalid as error:
            faults += error.faults
    if fault := owner_fault(owner.strip()):
        faults.append(FieldFault("owner", fault))
    if severity and severity not in set(Severity):
        words = ", ".join(Severity)
        faults.append(
            FieldFault("severity", f"there is no severity {severity[:80]!r}; choose of {words}")
        )
    if faults:
        raise Invalid(faults)
    return Match(key, value, owner.strip(), severity)


@transaction.atomic
def make_rule(
    workspace: Workspace, match: Match, addresses: Sequence[str], *, user: User | None
) -> Rule:
    """Raises Invalid with every fault, Conflict where there are MAX_RULES."""
    # One after the other, so that the count holds; before the channels, as who changes one.
    Workspace.objects.select_for_update(no_key=True).get(pk=workspace.pk)
    kept = _told(workspace.pk, addresses)
    if Rule.objects.filter(workspace=workspace).count() >= MAX_RULES:
        raise Conflict(f"there are {MAX_RULES} rules already; remove one, or add to one")
    return Rule.objects.create(workspace=workspace, addresses=kept, changed_by=user, **vars(match))


@transaction.atomic
def change_rule(rule: Rule, match: Match, addresses: Sequence[str], *, user: User | None) -> None:
    """All of it in place of what it said. Raises Invalid with every fault, NotFound."""
    columns = {**vars(match), "addresses": _told(rule.workspace_id, addresses), "changed_by": user}
    if not Rule.objects.filter(pk=rule.pk).update(**columns, changed_at=Now()):
        raise NotFound("the rule was removed meanwhile")


def remove_rule(rule: Rule) -> None:
    Rule.objects.filter(pk=rule.pk).delete()


def _told(workspace_id: int, addresses: Sequence[str]) -> list[str]:
    kept = check_addresses(addresses)
    check_channels(workspace_id, kept)
    if not kept:
        raise Invalid("a rule that tells nobody does nothing; name an address", "addresses")
    return kept
