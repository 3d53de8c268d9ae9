"""What stands between backticks in a description, as code."""

from __future__ import annotations

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

register = template.Library()


@register.filter
def marked(text: str) -> SafeString:
    """`run` as <code>run</code>; everything else is text."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one is left over, so none of them is meant
        parts = [text]
    pieces = (
        format_html("<code>{}</code>", part) if number % 2 else part
        for number, part in enumerate(parts)
    )
    return format_html_join("", "{}", ((piece,) for piece in pieces))
