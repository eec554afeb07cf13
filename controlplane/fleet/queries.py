"""Every read of the fleet."""

from django.db.models import Min, OuterRef, QuerySet, Subquery

from controlplane.domain.errors import NotFound
from controlplane.fleet.models import Agent, Lease, Server, Site


def sites() -> QuerySet[Site]:
    """Sites, each with `last_seen_at` of its active agent and `agent_id` (None: not joined)."""
    active = Agent.objects.filter(site=OuterRef("pk"), revoked_at=None)
    lease = Lease.objects.filter(agent__site=OuterRef("pk"), agent__revoked_at=None)
    return Site.objects.annotate(
        agent_id=Subquery(active.values("id")[:1]),
        last_seen_at=Subquery(lease.values("last_seen_at")[:1]),
    ).order_by("name")


def find_site(name: str) -> Site:
    # PostgreSQL refuses to be asked for NUL, which a path may hold; no name does.
    site = sites().filter(name=name).first() if "\0" not in name else None
    if site is None:
        raise NotFound("site-unknown", f"No site is called {name!r}.")
    return site


def active_agent(site: Site) -> Agent | None:
    return Agent.objects.filter(site=site, revoked_at=None).first()


def regions() -> list[str]:
    return list(Site.objects.order_by("region").values_list("region", flat=True).distinct())


def servers_of(site: Site) -> QuerySet[Server]:
    return Server.objects.filter(site=site).prefetch_related("accelerators").order_by("hostname")


def free_disk_by_site() -> dict[int, int]:
    """Free bytes by site id, where reported; with several servers the fullest one's."""
    rows = Server.objects.filter(disk_free_bytes__isnull=False).order_by()
    return dict(rows.values_list("site_id").annotate(free=Min("disk_free_bytes")))
