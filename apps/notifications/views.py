"""Pages of incidents, of the mails that told of them, and of who gets them."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db.models import Prefetch, QuerySet
from django.db.models.functions import Now
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.core.errors import Conflict, Invalid, faults_of
from apps.core.http import fragment, go
from apps.core.paging import newest_first
from apps.engine.roles import Permission
from apps.notifications.addresses import CHANNEL, address_fault, channel_in, read_addresses
from apps.notifications.forms import (
    AddressesForm,
    ChannelForm,
    HeartbeatForm,
    RuleForm,
    SilenceForm,
    TestMessageForm,
    WatchForm,
)
from apps.notifications.models import (
    Channel,
    ChannelKind,
    Delivery,
    Heartbeat,
    Incident,
    Rule,
    Silence,
)
from apps.notifications.services.channels import check_channels, delete_channel, set_channel
from apps.notifications.services.heartbeats import delete_heartbeat, set_heartbeat
from apps.notifications.services.incidents import acknowledge
from apps.notifications.services.outbox import post_test
from apps.notifications.services.rules import change_rule, make_rule, remove_rule
from apps.notifications.services.silences import silence, standing_of, unsilence
from apps.notifications.services.subscriptions import by_rules, subscribe
from apps.notifications.services.watching import set_watch
from apps.notifications.smtp import can_mail
from apps.runs.models import Run
from apps.workflows.models import Workflow
from apps.workspaces.access import Request, may, require


def _incidents(request: Request) -> QuerySet[Incident]:
    mine: QuerySet[Incident] = Incident.objects.visible_to(request.user)
    return mine.filter(workspace=request.workspace)


def _mails(request: Request) -> QuerySet[Delivery]:
    mine: QuerySet[Delivery] = Delivery.objects.visible_to(request.user)
    return mine.filter(workspace=request.workspace)


def _context(tab: str) -> dict[str, Any]:
    return {
        "nav": "notifications",
        "tab": tab,
        "can_mail": can_mail(),
        "has_address": bool(settings.PUBLIC_URL),
        "server": f"{settings.SMTP_HOST}:{settings.SMTP_PORT}",
    }


@require_safe
def notifications(request: Request, workspace: str) -> HttpResponse:
    """Incidents: those that are open, then those that are over."""
    rows = _incidents(request).select_related("acknowledged_by", "workflow")
    over = newest_first(rows.exclude(recovered_at=None), request.GET.get("before", ""))
    standing = Silence.objects.filter(ended_at=None, until__gt=Now())
    silence_of_each = Prefetch("workflow__silences", standing, to_attr="standing")
    is_open = rows.filter(recovered_at=None).prefetch_related(silence_of_each)
    open_ones = [] if over.continued else list(is_open.order_by("-pk")[:200])
    named = {each.run_id for each in [*open_ones, *over.rows]}
    named |= {each.recovered_by for each in over.rows if each.recovered_by}
    runs: QuerySet[Run] = Run.objects.visible_to(request.user)
    there = set(runs.filter(pk__in=named).values_list("pk", flat=True))
    context = {**_context("incidents"), "open": open_ones, "page": over, "there": there}
    return render(request, "notifications/list.html", context)


@require_safe
def mails(request: Request, workspace: str) -> HttpResponse:
    """What was sent, to whom, and what has become of it."""
    rows = _mails(request).defer("text", "html")
    context = {**_context("mails"), "page": newest_first(rows, request.GET.get("before", ""))}
    return render(request, "notifications/mails.html", context)


@require_safe
def mail(request: Request, workspace: str, pk: int) -> HttpResponse:
    """One mail as text."""
    rows = _mails(request).select_related("digest")
    row = get_object_or_404(rows, pk=pk)
    context = {**_context("mails"), "mail": row, "heading": row.subject}
    return fragment(request, "notifications/_mail.html", context)


@require_http_methods(["GET", "POST"])
def test(request: Request, workspace: str) -> HttpResponse:
    """Send a test message."""
    require(request, Permission.EDIT_WORKFLOW)
    form = TestMessageForm(request.POST or None, initial={"address": request.user.email})
    if form.is_valid():
        address = form.cleaned_data["address"].strip()
        fault = address_fault(address)
        if not fault:
            faults = faults_of(check_channels, request.workspace.pk, [address])
            fault = "".join(each.message for each in faults)
        if not can_mail() and not channel_in(address):
            fault = "no mail server is configured: set RUNYARD_SMTP_HOST, then send it"
        if fault:
            form.add_error("address", fault)
        else:
            post_test(request.workspace, [address], by=request.user)
            messages.success(request, f"A test message to {address} is on its way.")
            return go(request, reverse("notifications:mails", args=[workspace]))
    context = {**_context("mails"), "form": form, "heading": "Send a test message"}
    return fragment(request, "notifications/_test.html", context)


def _rules(request: Request) -> QuerySet[Rule]:
    mine: QuerySet[Rule] = Rule.objects.visible_to(request.user)
    return mine.filter(workspace=request.workspace).select_related("changed_by")


@require_safe
def rules(request: Request, workspace: str) -> HttpResponse:
    """Who is told of which workflows, by tag, owner and severity."""
    context = {**_context("rules"), "rules": _rules(request).order_by("-pk")}
    return render(request, "notifications/rules.html", context)


@require_http_methods(["GET", "POST"])
def rule_create(request: Request, workspace: str) -> HttpResponse:
    require(request, Permission.EDIT_WORKFLOW)
    return _set_rule(request, RuleForm(request.POST or None), heading="Create rule")


@require_http_methods(["GET", "POST"])
def rule(request: Request, workspace: str, pk: int) -> HttpResponse:
    """The dialog that changes a rule."""
    row = get_object_or_404(_rules(request), pk=pk)
    require(request, Permission.EDIT_WORKFLOW)
    form = RuleForm(request.POST or None, initial=RuleForm.values_of(row))
    return _set_rule(request, form, heading="Change rule", row=row)


def _set_rule(
    request: Request, form: RuleForm, *, heading: str, row: Rule | None = None
) -> HttpResponse:
    if form.is_valid():
        try:
            addresses = read_addresses(form.cleaned_data["addresses"])
            if row is None:
                make_rule(request.workspace, form.match(), addresses, user=request.user)
            else:
                change_rule(row, form.match(), addresses, user=request.user)
        except Invalid as error:
            form.add_faults(error)
        except Conflict as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, "Saved the rule. It counts at once.")
            return go(request, reverse("notifications:rules", args=[request.workspace.name]))
    context = {**_context("rules"), "form": form, "rule": row, "heading": heading}
    return fragment(request, "notifications/_rule.html", context)


@require_POST
def rule_delete(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = get_object_or_404(_rules(request), pk=pk)
    require(request, Permission.EDIT_WORKFLOW)
    remove_rule(row)
    messages.success(request, "Removed the rule.")
    return go(request, reverse("notifications:rules", args=[workspace]))


# --- channels -------------------------------------------------------------------------------

#: What each kind is called.
KINDS = {
    ChannelKind.MAIL: "E-mail",
    ChannelKind.WEBHOOK: "Webhook",
    ChannelKind.APPRISE: "Slack, Teams, …",
}


def _channels(request: Request) -> QuerySet[Channel]:
    mine: QuerySet[Channel] = Channel.objects.visible_to(request.user)
    return mine.filter(workspace=request.workspace).defer("sealed_url", "sealed_secret")


@require_safe
def channels(request: Request, workspace: str) -> HttpResponse:
    rows = list(_channels(request).select_related("changed_by").order_by("name"))
    beat = _heartbeats(request).select_related("changed_by").first()
    context = {**_context("channels"), "channels": rows, "heartbeat": beat}
    return render(request, "notifications/channels.html", context)


@require_http_methods(["GET", "POST"])
def channel_create(request: Request, workspace: str) -> HttpResponse:
    """The dialog that adds one, of the kind in `?kind=`."""
    require(request, Permission.EDIT_SECRET)
    kind = request.GET.get("kind", ChannelKind.MAIL)
    if kind not in list(ChannelKind):
        raise Http404
    form = ChannelForm(kind, None, request.POST or None)
    if form.is_valid() and _channels(request).filter(name=form.cleaned_data["name"]).exists():
        form.add_error("name", "there is such a channel already; edit it in the list")
    return _set_channel(request, form, kind, heading="Add channel")


@require_http_methods(["GET", "POST"])
def channel(request: Request, workspace: str, pk: int) -> HttpResponse:
    """The dialog that changes one."""
    row = get_object_or_404(_channels(request), pk=pk)
    require(request, Permission.EDIT_SECRET)
    form = ChannelForm(row.kind, row, request.POST or None, initial=ChannelForm.values_of(row))
    return _set_channel(request, form, row.kind, heading=f"Edit {row.name}", row=row)


def _set_channel(
    request: Request, form: ChannelForm, kind: str, *, heading: str, row: Channel | None = None
) -> HttpResponse:
    if form.is_valid():
        given = dict(form.cleaned_data)
        try:
            made = set_channel(
                request.workspace, given.pop("name"), kind=kind, user=request.user, **given
            )
        except Invalid as error:
            form.add_faults(error)
        else:
            messages.success(request, f"Saved channel {made.name}. It counts from now on.")
            return go(request, reverse("notifications:channels", args=[request.workspace.name]))
    context = {
        **_context("channels"),
        "form": form,
        "heading": heading,
        "kind": kind,
        "kinds": KINDS,
        "channel": row,
    }
    return fragment(request, "notifications/_channel.html", context)


@require_POST
def channel_delete(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = get_object_or_404(_channels(request), pk=pk)
    require(request, Permission.EDIT_SECRET)
    delete_channel(row)
    messages.success(request, f"Deleted channel {row.name}.")
    return go(request, reverse("notifications:channels", args=[workspace]))


@require_POST
def channel_test(request: Request, workspace: str, pk: int) -> HttpResponse:
    """Send a test message to one, the way that a failure takes."""
    row = get_object_or_404(_channels(request), pk=pk)
    require(request, Permission.EDIT_WORKFLOW)
    post_test(request.workspace, [f"{CHANNEL}{row.name}"], by=request.user)
    messages.success(request, f"A test message to {row.name} is on its way.")
    return go(request, reverse("notifications:mails", args=[workspace]))


def _heartbeats(request: Request) -> QuerySet[Heartbeat]:
    mine: QuerySet[Heartbeat] = Heartbeat.objects.visible_to(request.user)
    return mine.filter(workspace=request.workspace).defer("sealed_url")


@require_http_methods(["GET", "POST"])
def heartbeat(request: Request, workspace: str) -> HttpResponse:
    """The dialog that sets the workspace's heartbeat, or replaces it."""
    require(request, Permission.EDIT_SECRET)
    form = HeartbeatForm(request.POST or None)
    if form.is_valid():
        try:
            set_heartbeat(request.workspace, form.cleaned_data["url"], user=request.user)
        except Invalid as error:
            form.add_faults(error)
        else:
            messages.success(request, "Saved the heartbeat. Its first call comes within seconds.")
            return go(request, reverse("notifications:channels", args=[workspace]))
    context = {
        **_context("channels"),
        "form": form,
        "heartbeat": _heartbeats(request).first(),
        "heading": "Heartbeat",
    }
    return fragment(request, "notifications/_heartbeat.html", context)


@require_POST
def heartbeat_delete(request: Request, workspace: str) -> HttpResponse:
    require(request, Permission.EDIT_SECRET)
    delete_heartbeat(request.workspace)
    messages.success(request, "Removed the heartbeat.")
    return go(request, reverse("notifications:channels", args=[workspace]))


@require_POST
def acknowledge_one(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = get_object_or_404(_incidents(request), pk=pk)
    require(request, Permission.OPERATE)
    acknowledge(row, user=request.user)
    return go(request, reverse("notifications:list", args=[workspace]))


@require_http_methods(["GET", "POST"])
def silence_one(request: Request, workspace: str, pk: int) -> HttpResponse:
    """The dialog that silences a workflow, or shows the silence that stands."""
    mine: QuerySet[Workflow] = Workflow.objects.visible_to(request.user)
    row = get_object_or_404(mine.filter(workspace=request.workspace, deleted_at=None), pk=pk)
    require(request, Permission.OPERATE)
    standing = standing_of(row.pk).select_related("created_by").first()
    form = SilenceForm(request.POST or None)
    if form.is_valid():
        try:
            made = silence(row, **form.cleaned_data, user=request.user)
        except Invalid as error:
            form.add_faults(error)
        else:
            until = timezone.localtime(made.until)
            messages.success(request, f"{row.name} is silenced until {until:%Y-%m-%d %H:%M}.")
            return go(request, _back(request))
    context = {
        **_context("incidents"),
        "form": form,
        "workflow": row,
        "standing": standing,
        "back": _back(request),
        "heading": f"Silence {row.name}",
    }
    return fragment(request, "notifications/_silence.html", context)


@require_POST
def unsilence_one(request: Request, workspace: str, pk: int) -> HttpResponse:
    mine: QuerySet[Workflow] = Workflow.objects.visible_to(request.user)
    row = get_object_or_404(mine.filter(workspace=request.workspace), pk=pk)
    require(request, Permission.OPERATE)
    if unsilence(row, user=request.user):
        messages.success(request, f"{row.name} is silenced no more. What still fails is told.")
    return go(request, _back(request))


def _back(request: Request) -> str:
    """To where the dialog was opened: the workflow's settings, or the incidents."""
    if request.GET.get("from") == "settings":
        pk = request.resolver_match.kwargs["pk"]  # type: ignore[union-attr]
        return reverse("workflows:settings", args=[request.workspace.name, pk])
    return reverse("notifications:list", args=[request.workspace.name])


def addresses_form(request: Request, row: Workflow, data: Any = None) -> AddressesForm:
    """The form of the workflow's settings page; for who may not change it, to look at."""
    form = AddressesForm(data, initial=AddressesForm.values_of(row))
    form.rules = by_rules(row)
    if not may(request, Permission.EDIT_WORKFLOW):
        form.show_only()
    return form


def watch_form(request: Request, row: Workflow, data: Any = None) -> WatchForm:
    """As `addresses_form`."""
    form = WatchForm(data, initial=WatchForm.values_of(row))
    if not may(request, Permission.EDIT_WORKFLOW):
        form.show_only()
    return form


@require_http_methods(["GET", "POST"])
def watch(request: Request, workspace: str, pk: int) -> HttpResponse:
    """When a workflow is late, slow, or leaves a wrong number: saved by itself, and in force at
    once."""
    mine: QuerySet[Workflow] = Workflow.objects.visible_to(request.user)
    row = get_object_or_404(mine.filter(workspace=request.workspace, deleted_at=None), pk=pk)
    if request.method == "POST":
        require(request, Permission.EDIT_WORKFLOW)
    form = watch_form(request, row, request.POST or None)
    if form.is_valid():
        try:
            set_watch(row, form.said())
        except Invalid as error:
            form.add_faults(error)
        else:
            messages.success(request, "Saved what is watched. It counts at once.")
            return go(request, reverse("workflows:settings", args=[workspace, pk]))
    context = {"workflow": row, "form": form, "watch": form, "nav": "workflows"}
    return fragment(request, "notifications/_watch.html", context)


@require_http_methods(["GET", "POST"])
def addresses(request: Request, workspace: str, pk: int) -> HttpResponse:
    """Whom a workflow's failure is told: saved by itself, and in force at once."""
    mine: QuerySet[Workflow] = Workflow.objects.visible_to(request.user)
    row = get_object_or_404(mine.filter(workspace=request.workspace, deleted_at=None), pk=pk)
    if request.method == "POST":
        require(request, Permission.EDIT_WORKFLOW)
    form = addresses_form(request, row, request.POST or None)
    if form.is_valid():
        try:
            subscribe(row, read_addresses(form.cleaned_data["addresses"]))
        except Invalid as error:
            form.add_faults(error)
        else:
            messages.success(request, "Saved who is told of a failure. It counts at once.")
            return go(request, reverse("workflows:settings", args=[workspace, pk]))
    context = {
        "workflow": row,
        "form": form,
        "addresses": form,
        "can_mail": can_mail(),
        "nav": "workflows",
    }
    return fragment(request, "notifications/_addresses.html", context)
