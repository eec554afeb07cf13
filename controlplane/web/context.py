"""What every page of the console shows, whatever it is about."""

from dataclasses import dataclass

from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import SimpleLazyObject
from django.utils.timezone import now as current_time

from controlplane.rollouts.queries import engine_status

_SECTIONS = (
    ("overview", "Overview", "grid", ("overview",)),
    ("sites", "Sites", "pin", ("sites", "site", "site-add", "site-token")),
    ("models", "Models", "box", ("models", "version")),
    (
        "rollouts",
        "Rollouts",
        "stairs",
        ("rollouts", "rollout", "rollout-verb", "rollout-start", "rollout-stage"),
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
        "sections": _sections(request),
    }


def _sections(request: HttpRequest) -> list[Section]:
    match = request.resolver_match
    shown = match.url_name if match else None
    return [
        Section(href=reverse(name), label=label, icon=icon, current=shown in pages)
        for name, label, icon, pages in _SECTIONS
    ]
