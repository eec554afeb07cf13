"""What every page of the console shows, whatever it is about."""

from dataclasses import dataclass

from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import SimpleLazyObject
from django.utils.timezone import now as current_time

from controlplane.rollouts.queries import engine_status
from controlplane.web.frozen import freeze_lines

_SECTIONS = (
    ("overview", "Overview", "grid", ("overview",)),
    (
        "sites",
        "Sites",
        "pin",
        (
            "sites",
            "site",
            "site-add",
            "site-token",
            "site-retire",
            "site-pin",
            "site-unpin",
            "floor-waive",
            "floor-restore",
        ),
    ),
    (
        "models",
        "Models",
        "box",
        (
            "models",
            "model",
            "model-policy",
            "channel-new",
            "channel-move",
            "channel-remove",
            "link-look",
            "import-again",
            "version",
            "version-fit",
            "version-golden",
            "version-approve",
            "version-withdraw",
            "version-retire",
            "version-unretire",
            "version-notes",
            "version-quarantine",
            "version-release",
        ),
    ),
    (
        "rollouts",
        "Rollouts",
        "stairs",
        ("rollouts", "rollout", "rollout-verb", "rollout-start", "rollout-stage"),
    ),
    (
        "strategies",
        "Strategies",
        "route",
        ("strategies", "strategy", "strategy-new", "strategy-retire"),
    ),
    (
        "tokens",
        "Access",
        "key",
        (
            "tokens",
            "token-new",
            "token-revoke",
            "publishers",
            "publisher-new",
            "publisher-revoke",
            "signing-keys",
            "signing-key-new",
            "signing-key-revoke",
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """One entry of the navigation."""

    href: str
    label: str
    icon: str
    current: bool


def console(request: HttpRequest) -> dict[str, object]:
    """Nothing here asks the database unless the template does: the admin shares it."""
    now = current_time()
    return {
        "now": now,
        "engine": SimpleLazyObject(lambda: engine_status(now=now)),
        "freezes": SimpleLazyObject(lambda: freeze_lines(now)),
        "sections": _sections(request),
        "at_freezes": _name_of(request) in ("freezes", "freeze-lift", "budget"),
    }


def _sections(request: HttpRequest) -> list[Section]:
    shown = _name_of(request)
    return [
        Section(href=reverse(name), label=label, icon=icon, current=shown in pages)
        for name, label, icon, pages in _SECTIONS
    ]


def _name_of(request: HttpRequest) -> str | None:
    match = request.resolver_match
    return match.url_name if match else None
