"""What the sites say of themselves: who is heard of, and who serves the model well.

Conditions for queries, so that every reader means the same by "stale". It decides nothing."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Exists, OuterRef, Q

from controlplane.catalog.models import Version
from controlplane.fleet.models import Lease, Site

# Who is silent for this many times the limit is not waited for when a rollout turns back or stops.
PATIENCE = 10


def fresh_within() -> timedelta:
    """How old a report may be and still be evidence, where a site polls as usual."""
    return timedelta(seconds=settings.WAYPOST_STALE_SECONDS)


def own_limits() -> dict[int, timedelta]:
    """The same for sites that poll less often, by their poll interval in seconds. One that polls
    more often has the usual limit: its lease is not written more often."""
    rows = Site.objects.exclude(poll_seconds=None).order_by()
    polls = rows.values_list("poll_seconds", flat=True).distinct()
    limits = {seconds: timedelta(seconds=3 * seconds + 5) for seconds in polls if seconds}
    return {seconds: limit for seconds, limit in limits.items() if limit > fresh_within()}


def since(moment: str, site: str, now: datetime, own: Mapping[int, timedelta], times: int = 1) -> Q:
    """Whether the time in column `moment` lies within the limit of the site at `site` (a prefix
    such as "site__", empty for the site itself), or within `times` that limit. `own` is what
    `own_limits` gave."""
    fresh = Q(**{f"{moment}__gte": now - times * fresh_within()})
    for seconds, limit in own.items():
        fresh |= Q(**{f"{site}poll_seconds": seconds, f"{moment}__gte": now - times * limit})
    return fresh


def serves_well(
    version: Version, now: datetime, own: Mapping[int, timedelta], *, report: str, site: str
) -> Q:
    """Whether the reported state at `report` (a prefix as that of the site) is fresh and says that
    the version is served well."""
    said = Q(**{f"{report}reported_serving": version.number, f"{report}reported_healthy": True})
    return said & since(f"{report}reported_at", site, now, own)


def heard_of(site: str, now: datetime, times: int = 1) -> Exists:
    """Whether the agent of the site in column `site` has called within the limit, or `times` it."""
    leases = Lease.objects.filter(agent__site=OuterRef(site), agent__revoked_at=None)
    return Exists(leases.filter(since("last_seen_at", "agent__site__", now, own_limits(), times)))
