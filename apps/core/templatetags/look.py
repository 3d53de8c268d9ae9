"""The look's small parts as template tags: marks of state, icons, times, sizes."""

from __future__ import annotations

from datetime import datetime, timedelta

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()

#: State -> (symbol of core/_marks.html, word). "notrun" is not stored: it is a pending node
#: of a run that is over.
STATES: dict[str, tuple[str, str]] = {
    "pending": ("pending", "Pending"),
    "queued": ("queued", "Waiting"),
    "running": ("running", "Running"),
    "retrying": ("retrying", "Retrying"),
    "succeeded": ("succeeded", "Succeeded"),
    "forced": ("forced", "Succeeded (forced)"),
    "failed": ("failed", "Failed"),
    "stopped": ("stopped", "Stopped"),
    "cancelled": ("cancelled", "Cancelled"),
    "notrun": ("notrun", "Not run"),
    "missed": ("missed", "Missed"),
    "lost": ("missed", "Worker lost"),
    "handed_back": ("notrun", "Handed back"),
}


@register.simple_tag
def icon(name: str, extra: str = "") -> SafeString:
    """An outline icon; decoration only, so the words beside it (or aria-label) must tell all."""
    return format_html(
        # The attributes count where it stands inside another SVG.
        '<svg class="oc-icon {}" width="16" height="16" aria-hidden="true">'
        '<use href="{}#{}"></use></svg>',
        extra,
        static("vendor/tabler-icons/icons.svg"),
        name,
    )


def _mark(symbol: str, attributes: SafeString, extra: str) -> SafeString:
    return format_html(
        '<svg class="oc-mark oc-mark-{0} {1}" width="14" height="14" viewBox="0 0 16 16" {2}>'
        '<use href="#oc-m-{0}"></use></svg>',
        symbol,
        extra,
        attributes,
    )


@register.simple_tag
def state_mark(state: str, extra: str = "") -> SafeString:
    """The mark alone; its word is its accessible name and its tooltip."""
    symbol, word = STATES[state]
    label = format_html('role="img" aria-label="{}"', word)
    return _mark(symbol, label, extra)


def _quiet_mark(state: str) -> SafeString:
    return _mark(STATES[state][0], SafeString('aria-hidden="true"'), "")


@register.simple_tag
def state_word(state: str) -> SafeString:
    """Mark and word, in the state's colour."""
    return format_html(
        '<span class="oc-mark-word oc-is-{}">{}{}</span>',
        STATES[state][0],
        _quiet_mark(state),
        STATES[state][1],
    )


@register.filter
def trigger_word(trigger: str) -> str:
    """What started a run, in a word for people."""
    return "API" if trigger == "api" else trigger.capitalize()


@register.simple_tag
def state_pill(state: str) -> SafeString:
    """Mark and word on a tint: for the one state that the page is about."""
    return format_html(
        '<span class="oc-pill oc-is-{}">{}{}</span>',
        STATES[state][0],
        _quiet_mark(state),
        STATES[state][1],
    )


@register.filter
def state_name(state: str) -> str:
    return STATES[state][1]


@register.filter
def duration(value: timedelta | float | None) -> str:
    """A length of time as people say it: 0s, 0.4s, 19s, 3m 08s, 1h 04m, 2d 03h; "" for None."""
    if value is None:
        return ""
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if seconds < 0.05:
        return "0s"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


@register.filter
def ago(value: datetime | None) -> str:
    """How long before now, in one unit: "now", "40 s ago", "7 h ago"; "in 8 min" if it is ahead."""
    if value is None:
        return ""
    seconds = (timezone.now() - value).total_seconds()
    distance = abs(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if distance >= size:
            text = f"{int(distance // size)} {unit}"
            return f"{text} ago" if seconds > 0 else f"in {text}"
    return "now"


@register.simple_tag
def when(value: datetime | None, form: str = "short") -> SafeString | str:
    """A point in time in the page's zone, with both zones in its tooltip; "" for None.

    "short" leaves out what today and this year say by themselves; "time" is the time of day;
    "full" is everything.
    """
    if value is None:
        return ""
    local = timezone.localtime(value)
    now = timezone.localtime()
    if form == "time":
        text = f"{local:%H:%M:%S}"
    elif form == "full":
        text = f"{local:%Y-%m-%d %H:%M:%S}"
    elif local.date() == now.date():
        text = f"{local:%H:%M:%S}"
    elif local.year == now.year:
        text = f"{local:%m-%d %H:%M}"
    else:
        text = f"{local:%Y-%m-%d %H:%M}"
    utc = timezone.localtime(value, timezone.get_fixed_timezone(0))
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        value.isoformat(),
        f"{local:%Y-%m-%d %H:%M:%S} {timezone.get_current_timezone_name()}"
        f" · {utc:%Y-%m-%d %H:%M:%S} UTC",
        text,
    )


@register.filter
def cu(thousandths: int | None) -> str:
    """Compute units from thousandths, without needless zeros: 250 -> 0.25."""
    return "" if thousandths is None else f"{thousandths / 1000:.3f}".rstrip("0").rstrip(".")


@register.filter
def size(count: int | None) -> str:
    """Bytes in the unit that keeps the number short: 91 kB, 1.4 MB."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


@register.simple_tag(takes_context=True)
def query(context: template.Context, **changes: object) -> str:
    """The page's query string with these parameters changed; None or "" takes one away."""
    params = context["request"].GET.copy()
    for name, value in changes.items():
        if value in (None, ""):
            params.pop(name, None)
        else:
            params[name] = str(value)
    return f"?{params.urlencode()}"


@register.filter
def cut_words(text: str) -> list[str]:
    """A list for a `for`, written as one string."""
    return text.split()


@register.filter
def lasted(start: datetime, end: datetime | None) -> str:
    """From start to end, or to now."""
    return duration((end or timezone.now()) - start)


@register.filter
def per_mille(value: float) -> str:
    """A place in thousandths as a percentage for SVG."""
    return f"{value / 10:g}%"
