"""Small pictures of values: glyphs, states, times, sizes. Everything comes out escaped."""

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django import template
from django.templatetags.static import static
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from controlplane.web.live import REFRESH_SECONDS
from controlplane.web.look import look_of

register = template.Library()

NOT_REPORTED = "not reported"


@register.simple_tag
def icon(name: str) -> SafeString:
    """A decorative glyph; the word stands beside it."""
    return format_html(
        '<svg class="wp-icon" aria-hidden="true" focusable="false"><use href="{}#{}"/></svg>',
        static("console/icons.svg"),
        name,
    )


@register.simple_tag
def state(kind: str, value: str) -> SafeString:
    """Colour, glyph and word of a state."""
    look = look_of(kind, value)
    return format_html(
        '<span class="wp-state wp-{}">{}<span>{}</span></span>',
        look.tone,
        icon(look.icon),
        look.word,
    )


@register.simple_tag(takes_context=True)
def when(context: dict[str, Any], at: datetime | None, otherwise: str = "never") -> str:
    """How long ago, with the exact time in UTC; the page's script counts it on."""
    if at is None:
        return otherwise
    return format_html(
        '<time datetime="{}" title="{} UTC" data-ago>{}</time>',
        f"{at:%Y-%m-%dT%H:%M:%S}Z",
        f"{at:%Y-%m-%d %H:%M:%S}",
        ago((context["now"] - at).total_seconds()),
    )


def ago(seconds: float) -> str:
    """A past moment in words. The page's script holds the same steps."""
    if seconds < 0:
        return "just now"
    for limit, unit, word in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // unit)} {word} ago"
    days = int(seconds // 86400)
    return f"{days} day ago" if days == 1 else f"{days} days ago"


@register.filter
def duration(seconds: float) -> str:
    """A length of time: 90 becomes `1 min 30 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole % 3600 else f"{whole // 3600} h"


@register.filter
def size(size_bytes: float | None) -> str:
    """Bytes in binary units, unknown as such."""
    if size_bytes is None:
        return NOT_REPORTED
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    value = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


@register.filter
def figure(value: float | None) -> str:
    """Three digits are as much as a measurement of a minute says."""
    if value is None:
        return NOT_REPORTED
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


@register.filter
def percent(share: float | None) -> str:
    return NOT_REPORTED if share is None else f"{figure(share * 100)} %"


@register.filter
def milliseconds(value: float | None) -> str:
    return NOT_REPORTED if value is None else f"{figure(value)} ms"


@register.filter
def round_trip(seconds: float) -> str:
    return f"round trip {figure(seconds * 1000)} ms"


@register.filter
def reported(value: object) -> object:
    """Unknown is said to be unknown; it is never a zero or a blank."""
    return NOT_REPORTED if value is None or value == "" else value


@register.filter
def yes_no(value: bool | None) -> str:
    if value is None:
        return NOT_REPORTED
    return "yes" if value else "no"


@register.filter
def short_digest(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


@register.simple_tag(takes_context=True)
def with_query(context: dict[str, Any], **changes: object) -> str:
    """The query string of this page with some keys changed; an empty value takes the key out."""
    query = {key: value for key, value in context["request"].GET.items() if value}
    query.update({key: str(value) for key, value in changes.items()})
    kept = {key: value for key, value in query.items() if value}
    return f"?{urlencode(kept)}" if kept else "?"


@register.simple_tag(takes_context=True)
def live(context: dict[str, Any]) -> SafeString:
    """Attributes of the element whose inside refreshes itself. Nothing is inherited."""
    attributes = format_html('id="live" data-live data-etag="{}"', context["etag"])
    if context["final"]:
        return attributes
    polling = format_html(
        ' hx-get="{}" hx-trigger="every {}s, waypost:refresh" hx-target="this"'
        ' hx-swap="morph:innerHTML" hx-ext="morph"',
        context["request"].get_full_path(),
        REFRESH_SECONDS,
    )
    return mark_safe(attributes + polling)  # both parts are escaped above
