"""What a mail says: its subject, its text, and the same as HTML.

A letter is written as its event happens and never anew: what is sent twice is the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from hashlib import sha256
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.template.loader import render_to_string

from apps.engine.states import Severity
from apps.notifications.models import Delivery, Incident, Kind, Silence
from apps.workflows.models import Workflow
from apps.workspaces.models import Workspace

#: Of a subject, in characters.
MAX_SUBJECT = 150
#: Incidents that a digest tells of one by one; the rest it counts.
MAX_TOLD = 100
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True)
class Letter:
    subject: str
    text: str
    html: str
    #: The same for programs, in what JSON has.
    facts: dict[str, Any] = field(default_factory=dict)


def link_to(path: str) -> str:
    """A whole address in the console; "" where RUNYARD_PUBLIC_URL does not say where it is."""
    return f"{settings.PUBLIC_URL.rstrip('/')}{path}" if settings.PUBLIC_URL else ""


# By hand and not from the table of addresses: that would load every page into each worker. A
# test holds them equal to it.


def path_of_run(workspace: str, run_id: int) -> str:
    return f"/w/{workspace}/runs/{run_id}/"


def path_of_rerun(workspace: str, run_id: int) -> str:
    """The dialog that asks what of it shall run again; opening it does nothing."""
    return f"{path_of_run(workspace, run_id)}rerun/"


def path_of_log(workspace: str, incident: Incident) -> str:
    """The log of the attempt that failed, at the line that says why."""
    run_id, node_run_id = incident.run_id, incident.node_run_id or 0
    return path_of_attempt(workspace, run_id, node_run_id, incident.attempt, incident.log_line)


def path_of_attempt(
    workspace: str, run_id: int, node_run_id: int, attempt: int | None, line: int | None = None
) -> str:
    """The log of an attempt of a node run, at a line of it."""
    path = f"{path_of_run(workspace, run_id)}nodes/{node_run_id}/"
    at = f"#L{line}" if line else ""
    return f"{path}?attempt={attempt}{at}" if attempt else path


def path_of_backfill(workspace: str, backfill_id: int) -> str:
    return f"/w/{workspace}/backfills/{backfill_id}/"


def path_of_schedule(workspace: str, workflow_id: int) -> str:
    return f"/w/{workspace}/workflows/{workflow_id}/schedule/"


def path_of_incidents(workspace: str) -> str:
    return f"/w/{workspace}/notifications/"


def letter_opened(incident: Incident, silence: Silence | None = None) -> Letter:
    """A workflow has begun to fail; or it still does, now that a silence is over."""
    where = f" at {incident.node}" if incident.node else ""
    severity = Severity(incident.workflow.severity)
    urgent = f" ({severity})" if severity in (Severity.CRITICAL, Severity.HIGH) else ""
    word = "Still failing" if silence else "Failed"
    return _letter("opened", f"{word}{urgent}: {incident.name}{where}", incident, silence)


def letter_recovered(incident: Incident) -> Letter:
    """It has succeeded again."""
    return _letter("recovered", f"Recovered: {incident.name}", incident)


@dataclass(frozen=True)
class Notice:
    """What a letter says that has no template of its own."""

    subject: str
    #: A word for how it stands, and whether that is "bad", "good" or "plain".
    word: str
    tone: str
    #: What it is about, and what there is to say of it in a sentence or two.
    title: str
    said: str
    #: (name, what it is).
    facts: Sequence[tuple[str, str]] = ()
    #: Of a log.
    line: str = ""
    #: (words, path in the console), the most useful first.
    links: Sequence[tuple[str, str]] = ()
    #: Why this address gets it.
    foot: str = ""


def letter_of(notice: Notice, workspace: Workspace, workflow: Workflow) -> Letter:
    """A letter about a workflow, with who looks after it."""
    facts = [(name, value) for name, value in notice.facts if value]
    links = [(words, link) for words, path in notice.links if (link := link_to(path))]
    context = {
        "notice": notice,
        "facts": facts,
        "workflow": workflow,
        "workspace": workspace.name,
        "links": links,
    }
    letter = _rendered("notice", f"{notice.subject} [{workspace.name}]", context)
    told = {
        "workflow": workflow.pk,
        "name": workflow.name,
        "owner": workflow.owner,
        "severity": workflow.severity,
        "runbook": workflow.runbook,
        "title": notice.title,
        "said": notice.said,
        "error_line": notice.line,
        "facts": dict(facts),
        "links": dict(links),
    }
    return replace(letter, facts=told)


def letter_test(workspace: str, by: str) -> Letter:
    """What the button sends."""
    context = {"workspace": workspace, "by": by, "to_console": link_to(f"/w/{workspace}/")}
    return _rendered("test", f"Test message from Runyard [{workspace}]", context)


def letter_digest(workspace: str, zone: str, held: Sequence[Delivery]) -> Letter:
    """What was held back, each in a line; `held` with their incidents."""
    told = [
        {
            "subject": each.subject.removesuffix(f" [{workspace}]"),
            "why": why_of(each.incident) if each.incident and each.kind == Kind.OPENED else "",
            "at": local(each.created_at, zone),
            "link": link_to(path_of_run(workspace, each.incident.run_id)) if each.incident else "",
        }
        for each in held[:MAX_TOLD]
    ]
    context = {
        "workspace": workspace,
        "count": len(held),
        "told": told,
        "more": len(held) - len(told),
        "most": settings.MAIL_PER_HOUR,
        "zone": zone,
        "to_incidents": link_to(path_of_incidents(workspace)),
    }
    letter = _rendered("digest", f"{len(held)} more notifications [{workspace}]", context)
    return replace(letter, facts={"count": len(held), "told": told})


def why_of(incident: Incident) -> str:
    """The failing line of the log; else why the node failed."""
    return incident.error_line or incident.reason


def _letter(name: str, subject: str, incident: Incident, silence: Silence | None = None) -> Letter:
    workspace = incident.workspace
    context = {
        "incident": incident,
        "workspace": workspace.name,
        "workflow": incident.workflow,
        "description": incident.workflow.description,
        "zone": workspace.zone,
        "silence": silence,
        "silenced_at": local(silence.created_at, workspace.zone) if silence else "",
        "opened_at": local(incident.opened_at, workspace.zone),
        "recovered_at": local(incident.recovered_at, workspace.zone),
        "open_for": _lasted(incident),
        "to_run": link_to(path_of_run(workspace.name, incident.run_id)),
        "to_rerun": link_to(path_of_rerun(workspace.name, incident.run_id)),
        "to_log": link_to(path_of_log(workspace.name, incident)) if incident.node_run_id else "",
        "to_recovery": link_to(path_of_run(workspace.name, incident.recovered_by))
        if incident.recovered_by
        else "",
        "to_incidents": link_to(path_of_incidents(workspace.name)),
    }
    letter = _rendered(name, f"{subject} [{workspace.name}]", context)
    return replace(letter, facts=_facts(incident, context))


def _facts(incident: Incident, context: dict[str, Any]) -> dict[str, Any]:
    """An incident as programs read it; times in UTC."""
    times = {
        name: at.isoformat() if (at := getattr(incident, name)) else None
        for name in ("opened_at", "failed_at", "recovered_at")
    }
    links = {name.removeprefix("to_"): context[name] for name in context if name[:3] == "to_"}
    return {
        "incident": incident.pk,
        "workflow": incident.workflow_id,
        "name": incident.name,
        "owner": incident.workflow.owner,
        "severity": incident.workflow.severity,
        "runbook": incident.workflow.runbook,
        "run": incident.run_id,
        "node": incident.node,
        "attempt": incident.attempt,
        "reason": incident.reason,
        "error_line": incident.error_line,
        "log_line": incident.log_line,
        "runs": incident.runs,
        "recovered_by": incident.recovered_by,
        **times,
        "links": {name: link for name, link in links.items() if link},
    }


def _rendered(name: str, subject: str, context: dict[str, Any]) -> Letter:
    subject = one_line(subject)
    context = {**context, "subject": subject}
    text = render_to_string(f"notifications/mail/{name}.txt", context)
    return Letter(
        subject,
        re.sub(r"\n{3,}", "\n\n", text).strip() + "\n",
        render_to_string(f"notifications/mail/{name}.html", context),
    )


def one_line(text: str) -> str:
    """Fit for a header: one line, without what ends or steers one."""
    text = " ".join(_CONTROL.sub(" ", text).split())
    return text if len(text) <= MAX_SUBJECT else text[: MAX_SUBJECT - 1] + "…"


def local(at: datetime | None, zone: str) -> str:
    """In the wall-clock time of a zone; "" for None."""
    return f"{at.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M:%S}" if at else ""


def _lasted(incident: Incident) -> str:
    if incident.recovered_at is None:
        return ""
    minutes = int((incident.recovered_at - incident.opened_at).total_seconds() // 60)
    if minutes < 60:
        return f"{minutes} min" if minutes else "less than a minute"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def message_of(delivery: Delivery) -> EmailMessage:
    """The mail itself. Two of one delivery are alike to the last byte."""
    message = EmailMessage(policy=SMTP)
    message["Subject"] = one_line(delivery.subject)
    message["From"] = Address("Runyard", addr_spec=settings.MAIL_FROM)
    message["To"] = Address(addr_spec=delivery.address)
    message["Date"] = format_datetime(delivery.created_at)
    message["Message-ID"] = delivery.message_id
    if delivery.in_reply_to:
        message["In-Reply-To"] = message["References"] = delivery.in_reply_to
    # So that no out-of-office note answers.
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    message.set_content(delivery.text, cte="quoted-printable")
    message.add_alternative(delivery.html, subtype="html", cte="quoted-printable")
    message.set_boundary(f"runyard.{sha256(delivery.message_id.encode()).hexdigest()[:32]}")
    return message
