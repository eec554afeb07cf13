"""How a site is, from its last report and the time. Stale is not the same as failed.

It must not know how reports travel or where they are kept."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class SiteHealth(StrEnum):
    """One word for a site, worst facts first."""

    NEW = "new"
    STALE = "stale"
    DEGRADED = "degraded"
    UPDATING = "updating"
    HEALTHY = "healthy"


@dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """What is known of a site. None means: not reported."""

    joined: bool
    last_seen_at: datetime | None
    triton_live: bool | None
    models_wrong: int
    models_moving: int
    # A copy of the agent's key showed itself, so neither of the two is answered.
    agent_locked: bool = False


@dataclass(frozen=True, kw_only=True)
class HealthVerdict:
    """The word and the sentence that says why."""

    health: SiteHealth
    reason: str


def site_health(facts: SiteFacts, now: datetime, fresh_within: timedelta) -> HealthVerdict:
    """A site is healthy only on fresh evidence; silence makes it stale, never healthy."""
    if not facts.joined:
        return HealthVerdict(health=SiteHealth.NEW, reason="no agent has joined yet")
    if facts.agent_locked:
        reason = "its agent is locked, as two held its key; what it serves goes on"
        return HealthVerdict(health=SiteHealth.STALE, reason=reason)
    if facts.last_seen_at is None:
        return HealthVerdict(health=SiteHealth.STALE, reason="joined, but has never reported")
    silent = now - facts.last_seen_at
    if silent > fresh_within:
        seconds = silent.total_seconds()
        return HealthVerdict(
            health=SiteHealth.STALE,
            reason=f"silent for {seconds:.0f} s (limit {fresh_within.total_seconds():.0f} s)",
        )
    if facts.triton_live is False:
        return HealthVerdict(health=SiteHealth.DEGRADED, reason="Triton does not answer")
    if facts.models_wrong:
        noun = "model is" if facts.models_wrong == 1 else "models are"
        reason = f"{facts.models_wrong} {noun} not served as wished"
        return HealthVerdict(health=SiteHealth.DEGRADED, reason=reason)
    if facts.models_moving:
        noun = "model is" if facts.models_moving == 1 else "models are"
        return HealthVerdict(
            health=SiteHealth.UPDATING, reason=f"{facts.models_moving} {noun} being switched"
        )
    return HealthVerdict(health=SiteHealth.HEALTHY, reason="reports are fresh, all as wished")
