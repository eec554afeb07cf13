"""What the sites say of themselves: who is heard of, and who serves the model well.

Conditions for queries, so that every reader means the same by "stale". It decides nothing."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Exists, OuterRef, Q

from controlplane.fleet.models import Lease, Site

# Who is silent for this many times the limit is not waited for when a rollout turns back or stops.
PATIENCE = 10


def fresh_within() -> timedelta:
    """How old a report may be and still be evidence, where a site polls as usual."""
    return timedelta(seconds=settings.WAYPOST_STALE_SECONDS)


def limit_of(poll_seconds: int | None) -> timedelta:
    """The same where a site polls less often, every `poll_seconds`. One that polls more often has
    the usual limit: its lease is not written more often."""
    usual = fresh_within()
    return usual if poll_seconds is None else max(usual, timedelta(seconds=3 * poll_seconds + 5))


def own_limits() -> dict[int, timedelta]:
    """The limits that are not the usual one, by the poll interval in seconds."""
    rows = Site.objects.exclude(poll_seconds=None).order_by()
    polls = rows.values_list("poll_seconds", flat=True).distinct()
    limits = {seconds: limit_of(seconds) for seconds in polls if seconds}
    return {seconds: limit for seconds, limit in limits.items() if limit > fresh_within()}


def since(moment: str, site: str, now: datetime, own: Mapping[int, timedelta], times: int = 1) -> Q:
    """Whether the time in column `moment` lies within the limit of the site at `site` (a prefix
    such as "site__", empty for the site itself), or within `times` that limit. `own` is what
    `own_limits` gave."""
    fresh = Q(**{f"{moment}__gte": now - times * fresh_within()})
    for seconds, limit in own.items():
        fresh |= Q(**{f"{site}poll_seconds": seconds, f"{moment}__gte": now - times * limit})
    return fresh


def says_well(report: str, number: Any) -> Q:
    """Whether the state reported at `report` (a prefix such as "site__models__") is that version
    `number` is served well; how fresh the report is, is another question. Null: never reported."""
    said = {"reported_serving": number, "reported_healthy": True, "reported_at__isnull": False}
    return Q(**{f"{report}{column}": value for column, value in said.items()})


def heard_of(site: str, now: datetime, times: int = 1) -> Exists:
    """Whether the agent of the site in column `site` has called within the limit, or `times` it."""
    leases = Lease.objects.filter(agent__site=OuterRef(site), agent__revoked_at=None)
    return Exists(leases.filter(since("last_seen_at", "agent__site__", now, own_limits(), times)))
