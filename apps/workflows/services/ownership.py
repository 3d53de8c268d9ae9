"""Who looks after a workflow, where it is written what to do when it fails, and how much that
matters.

They stand in the mail about a failure and in its incident, and rules of who is told go by them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from django.db import transaction

from apps.core.errors import FieldFault, Invalid, NotFound
from apps.engine.states import Severity
from apps.workflows.models import Workflow

MAX_OWNER, MAX_RUNBOOK = 100, 500
#: Of an address nothing else: it is a link in mails and pages.
_ADDRESS = re.compile(r"https?://[!-~]+", re.IGNORECASE)


@dataclass(frozen=True)
class Ownership:
    #: A person or a team, in words; "": nobody is named.
    owner: str = ""
    #: An address, http or https; "": there is none.
    runbook: str = ""
    severity: Severity = Severity.NORMAL


def ownership_of(workflow: Workflow) -> Ownership:
    return Ownership(workflow.owner, workflow.runbook, Severity(workflow.severity))


@transaction.atomic
def own(workflow: Workflow, said: Ownership) -> None:
    """Note all of it in place of what stood there; it counts at once and is in no version.

    Raises Invalid with every fault, NotFound if the workflow was deleted.
    """
    said = Ownership(said.owner.strip(), said.runbook.strip(), said.severity)
    faults = [*_owner_faults(said.owner), *_runbook_faults(said.runbook)]
    if faults:
        raise Invalid(faults)
    row = Workflow.objects.select_for_update(no_key=True).get(pk=workflow.pk)
    if row.deleted_at is not None:
        raise NotFound(f"workflow {row.name!r} was deleted")
    columns = {"owner": said.owner, "runbook": said.runbook, "severity": said.severity.value}
    Workflow.objects.filter(pk=row.pk).update(**columns)
    for name, value in columns.items():
        setattr(workflow, name, value)


def owner_fault(owner: str) -> str:
    """Why nobody can be named so; "" if somebody can."""
    if len(owner) > MAX_OWNER:
        return f"the owner has {len(owner)} characters; {MAX_OWNER} are allowed"
    if not owner.isprintable():
        return "the owner holds a control character; take it out"
    return ""


def _owner_faults(owner: str) -> list[FieldFault]:
    fault = owner_fault(owner)
    return [FieldFault("owner", fault)] if fault else []


def _runbook_faults(runbook: str) -> list[FieldFault]:
    if not runbook:
        return []
    if len(runbook) > MAX_RUNBOOK:
        return [
            FieldFault(
                "runbook",
                f"the address has {len(runbook)} characters; {MAX_RUNBOOK} are allowed",
            )
        ]
    try:
        host = urlsplit(runbook).hostname if _ADDRESS.fullmatch(runbook) else None
    except ValueError:
        host = None
    if not host:
        return [
            FieldFault(
                "runbook",
                f"{runbook[:80]!r} is no address of a page; write it as https://wiki.example.com/…",
            )
        ]
    return []
