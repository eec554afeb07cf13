"""The sites that a plan may choose from: which build each would get, and what speaks against it.

Reads only; a constant number of queries, however many sites there are."""

from datetime import datetime, timedelta
from typing import NamedTuple

from controlplane.catalog.models import Version
from controlplane.domain.rollout import ACTIVE_DEPLOYMENT
from controlplane.domain.selection import Candidate, Fit, exclusion
from controlplane.fleet.queries import free_disk_by_site, sites, stale_limits, traits_by_site
from controlplane.rollouts.evidence import PATIENCE, fresh_within
from controlplane.rollouts.fitting import Fitting, fitting_of
from controlplane.rollouts.models import Deployment, SiteModel


def candidates(version: Version, now: datetime, *, while_active: bool) -> list[Candidate]:
    """Every site in service with what speaks against it."""
    traits, free, limits = traits_by_site(), free_disk_by_site(), stale_limits()
    hardware = {pk: site.hardware for pk, site in traits.items()}
    fitting = fitting_of(version, hardware=hardware)
    pinned = _pins(version)
    busy = {} if while_active else _busy(version)
    fleet_limit = fresh_within()
    found = []
    rows = sites().values_list("pk", "agent_id", "last_seen_at", "downlink_mbit_per_s")  # type: ignore[misc]  # annotated
    for pk, agent_id, last_seen_at, downlink in rows:
        site = traits.get(pk)
        if site is None:  # came between two queries; the next plan has it
            continue
        limit = timedelta(seconds=limits[pk]) if pk in limits else fleet_limit
        build = _build_for(fitting, pk, version)
        fit = Fit(
            joined=agent_id is not None,
            silent_for=now - last_seen_at if last_seen_at else None,
            disk_free_bytes=free.get(pk),
            pinned=pinned.get(pk),
            busy=busy.get(pk),
            incompatible=build.refused or None,
        )
        found.append(
            Candidate(
                **vars(site),
                downlink_mbit_per_s=downlink,
                excluded=exclusion(fit, size_bytes=build.size_bytes, patience=PATIENCE * limit),
                variant=build.name,
                size_bytes=build.size_bytes,
                only_by_replace=build.only_by_replace,
            )
        )
    return found


class _Build(NamedTuple):
    """What a plan needs to know of the build for a site."""

    name: str
    size_bytes: int
    refused: str = ""
    only_by_replace: bool = False


def _build_for(fitting: Fitting | None, site_id: int, version: Version) -> _Build:
    if fitting is None:
        return _Build("", version.size_bytes)
    if not fitting.facts:  # nothing depends on the site; its disk is looked at with the others
        only = fitting.chooser.builds[0]
        return _Build(only.name, only.demand.size_bytes)
    if site_id in fitting.held:
        held = fitting.rows[fitting.held[site_id]]
        return _Build(held.name, held.size_bytes)
    choice = fitting.choice(site_id)
    given = fitting.rows[choice.variant or fitting.chooser.builds[0].name]
    refused = choice.why if choice.variant is None else ""
    return _Build(given.name, given.size_bytes, refused, choice.judged.only_by_replace)


def _pins(version: Version) -> dict[int, str]:
    """By site id, what the site's model is held at, by whom and why."""
    rows = SiteModel.objects.filter(model=version.model_id).exclude(pinned_by="").order_by()
    found = {}
    for pk, number, who, why in rows.values_list(
        "site_id", "desired__number", "pinned_by", "pinned_reason"
    ):
        held = f"version {number}" if number else "no version"
        found[pk] = f"pinned to {held} by {who}" + (f": {why}" if why else "")
    return found


def _busy(version: Version) -> dict[int, str]:
    """By site id, the rollout whose part at the site is not over yet."""
    rows = Deployment.objects.filter(
        model=version.model_id, state__in=[state.value for state in ACTIVE_DEPLOYMENT]
    ).order_by()
    parts = rows.values_list("site_id", "rollout_id")
    return {pk: f"its part in rollout {rollout_id} is not over" for pk, rollout_id in parts}
