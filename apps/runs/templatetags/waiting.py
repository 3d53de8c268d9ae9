"""Sentences about waiting, with links to what holds the thing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from html import escape
from typing import Any

from django import template
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString, mark_safe

from apps.engine.waiting import Kind, Part, Reason, Thing

register = template.Library()


@register.simple_tag(takes_context=True)
def why_clause(context: Any, reason: Reason | None) -> SafeString | str:
    """What goes on after a node's name: "waits for <a>extract</a>"; "" for None."""
    return "" if reason is None else _linked(context, reason.parts)


@register.simple_tag(takes_context=True)
def why_sentence(context: Any, reason: Reason | None) -> SafeString | str:
    """As `Reason.sentence`: a run begins it with a capital, a node keeps its name."""
    if reason is None:
        return ""
    first, *rest = reason.subject
    if isinstance(first, str):
        first = first[:1].upper() + first[1:]
    if isinstance(first, Thing) and first.kind is Kind.RUN:
        first = replace(first, name=first.name[:1].upper() + first.name[1:])
    return _linked(context, (first, *rest, " ", *reason.parts, "."))


@register.simple_tag(takes_context=True)
def link_to(context: Any, thing: Thing) -> SafeString | str:
    return _linked(context, (thing,))


def _linked(context: Any, parts: Iterable[Part]) -> SafeString:
    request = context["request"]
    # A page of many nodes names few things many times.
    known: dict[Thing, str] = request.__dict__.setdefault("_links_to_things", {})
    html = []
    for part in parts:
        if isinstance(part, str):
            html.append(escape(part))
            continue
        if part not in known:
            known[part] = _link(part, request.workspace.name)
        html.append(known[part])
    return mark_safe("".join(html))  # noqa: S308 -- each part was escaped


def _link(thing: Thing, workspace: str) -> str:
    url = url_of(thing, workspace)
    if url is None:
        return escape(thing.name)
    # Away: a click on it does not choose the row that it stands in.
    return format_html('<a class="oc-link" href="{}" data-oc-away>{}</a>', url, thing.name)


def url_of(thing: Thing, workspace: str) -> str | None:
    """The page about it; None where there is none."""
    match thing.kind:
        case Kind.RUN:
            return reverse("runs:run", args=[workspace, thing.id])
        case Kind.NODE:
            run = reverse("runs:run", args=[workspace, thing.run])
            return f"{run}?{urlencode({'node': thing.name})}"
        case Kind.WORKFLOW:
            return reverse("workflows:workflow", args=[workspace, thing.id])
        case Kind.QUEUE:
            return reverse("workspaces:line", args=[workspace, thing.id])
        case Kind.WORKER | Kind.HOLD:
            return reverse("workspaces:queues", args=[workspace])
        case Kind.PERSON:
            return None
