"""Rows of a fleet that has joined and is at peace, made in bulk: the services make one site at a
time, with events. Call it after `django.setup()`."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controlplane.catalog.models import Version
    from controlplane.fleet.models import Site

REGIONS = 20


def make_version(model: str, number: int, now: datetime) -> "Version":
    """Approved, with a manifest and no bytes: nobody fetches it."""
    from controlplane.catalog.models import Model, Variant, Version, VersionState

    build = {
        "manifest": {"schema": "waypost.manifest/1", "files": []},
        "manifest_digest": f"sha256:{model}-{number}",
        "size_bytes": 1 << 20,
    }
    version = Version.objects.create(
        model=Model.objects.get_or_create(name=model, defaults={"created_at": now})[0],
        number=number,
        state=VersionState.APPROVED,
        **build,
        created_by="bench",
        created_at=now,
    )
    Variant.objects.create(version=version, name="default", **build)
    return version


def let_in(version: "Version", now: datetime) -> None:
    """Approves a version whose bytes are stored, whatever they are: filler passes no check."""
    from controlplane.catalog.models import VersionState

    version.state, version.registered_at = VersionState.APPROVED, now
    version.save(update_fields=["state", "registered_at"])


def session_secret(site: "Site") -> str:
    """What the site's agent shows when it asks for anything."""
    return f"session-of-{site.name}"


def make_fleet(count: int, now: datetime) -> list["Site"]:
    """Sites of three tiers, each with an agent that has a session and was just heard of."""
    from controlplane.accounts.secrets import secret_digest
    from controlplane.domain.selector import TIERS
    from controlplane.fleet.models import Agent, AgentSession, Generation, Lease, Server, Site

    sites = Site.objects.bulk_create(
        Site(
            name=f"site-{n:05}",
            tier=TIERS[n % len(TIERS)],
            region=f"region-{n % REGIONS}",
            created_at=now,
        )
        for n in range(count)
    )
    Generation.objects.bulk_create(Generation(site=site, generation=1) for site in sites)
    Server.objects.bulk_create(
        Server(site=site, hostname="h", disk_free_bytes=1 << 40, reported_at=now) for site in sites
    )
    agents = Agent.objects.bulk_create(
        Agent(site=site, public_key=b"k" * 32, enrolled_at=now, session_counter=1) for site in sites
    )
    Lease.objects.bulk_create(Lease(agent=agent, last_seen_at=now) for agent in agents)
    AgentSession.objects.bulk_create(
        AgentSession(
            agent=agent,
            digest=secret_digest(session_secret(agent.site)),
            expires_at=now + timedelta(days=30),
        )
        for agent in agents
    )
    return sites


def hear_of_all(now: datetime) -> None:
    """Every site has just called and says that what it serves is well."""
    from controlplane.fleet.models import Lease
    from controlplane.rollouts.models import SiteModel

    Lease.objects.update(last_seen_at=now)
    SiteModel.objects.update(reported_at=now)


def gather_statistics() -> None:
    """PostgreSQL does this by itself soon after such a load; nobody does it for SQLite."""
    from django.db import connection

    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
