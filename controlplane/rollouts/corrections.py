"""What holds a correction of drift, in a sentence: the same for engine, API and console.

A correction changes a site as a rollout does, so what holds rollouts holds it. Reads only; a page
of sites costs the same queries as one, but for those that are in a redundancy group."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Exists, OuterRef

from controlplane.catalog.models import DriftPolicy, Version, VersionState
from controlplane.domain.rollout import DeploymentState
from controlplane.domain.windows import WindowKind
from controlplane.fleet.queries import sites_closed
from controlplane.rollouts.availability import (
    AGAIN_AFTER,
    changing,
    changing_limit,
    correcting,
    unavailable_peer,
)
from controlplane.rollouts.freezes import fleet_budget, frozen_sites
from controlplane.rollouts.models import BadVersion, Deployment, DeploymentKind, SiteModel


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What holds sites whatever they serve: by site id the freezes and when closed windows open, by
    model id the site that is being corrected now, and what of the fleet may change in an hour."""

    frozen: dict[int, str]
    closed: dict[int, datetime]
    settling: dict[int, str]
    changing_percent: int | None


def surroundings(now: datetime, site_ids: Iterable[int] | None = None) -> Surroundings:
    """As they are now; of some sites, or of all."""
    known = None if site_ids is None else list(site_ids)
    busy = correcting(now).order_by("model_id", "site__name")
    return Surroundings(
        frozen=frozen_sites(now, known),
        closed=sites_closed(WindowKind.ACTIVATION, now=now, site_ids=known),
        settling=dict(busy.values_list("model_id", "site__name")),
        changing_percent=fleet_budget().changing_percent,
    )


def holds_of(rows: Iterable[SiteModel], now: datetime) -> dict[int, str]:
    """By the id of each of these, which have drifted: why it is not acted on now; nothing where it
    is with the next look. Their site, model and desired version must have been read with them."""
    found = list(rows)
    if not found:
        return {}
    around = surroundings(now, {row.site_id for row in found})
    barred = bars_of(found)
    return {
        row.pk: _own_hold(row, now) or barred.get(row.pk, "") or hold_of(row, around, now)
        for row in found
    }


def _own_hold(row: SiteModel, now: datetime) -> str:
    """By what was said of this model at this site."""
    if row.pinned_by:
        return f"pinned by {row.pinned_by}: {row.pinned_reason}"
    if row.model.drift_policy == DriftPolicy.HOLD:
        return f"the drift policy of {row.model.name} is to leave it to a person"
    if row.corrected_at is not None and row.corrected_at >= now - AGAIN_AFTER:
        return f"acted on already; again after {row.corrected_at + AGAIN_AFTER:%H:%M:%S} UTC"
    patience = timedelta(seconds=settings.WAYPOST_DRIFT_SECONDS)
    if row.drifted_since is None or row.drifted_since + patience > now:
        since = row.drifted_since or now
        return f"acted on if it lasts until {since + patience:%H:%M:%S} UTC"
    return ""


def target_of(row: SiteModel) -> Version | None:
    """What the site is to serve: what is desired, or (by policy) what it serves, if that is a
    version of the catalogue."""
    if row.model.drift_policy != DriftPolicy.ADOPT or row.reported_serving is None:
        return row.desired
    known = Version.objects.filter(model=row.model_id, number=row.reported_serving)
    return known.first() or row.desired


def bars_of(rows: Iterable[SiteModel]) -> dict[int, str]:
    """By id, those whose target no correction may bring: quarantined, to be adopted and not
    approved, known to fail there, or left wished by a rollout that did not succeed there."""
    targets = {row.pk: (row, target_of(row)) for row in rows}
    ended = Deployment.objects.filter(
        site=OuterRef("site"),
        model=OuterRef("model"),
        generation=OuterRef("generation"),
        kind=DeploymentKind.FORWARD,
    ).exclude(state=DeploymentState.SUCCEEDED)
    left = SiteModel.objects.filter(Exists(ended), pk__in=list(targets))
    ended_at = set(left.values_list("pk", flat=True))
    bad = {
        (site_id, version_id): reason
        for site_id, version_id, reason in BadVersion.objects.filter(
            site__in=[row.site_id for row, _ in targets.values()],
            version__in=[version.pk for _, version in targets.values() if version],
        ).values_list("site_id", "version_id", "reason")
    }
    found: dict[int, str] = {}
    for pk, (row, version) in targets.items():
        if version is None:
            continue
        if version.state == VersionState.QUARANTINED:
            found[pk] = f"version {version.number} is quarantined ({version.state_reason})"
        elif version != row.desired and version.state != VersionState.APPROVED:
            found[pk] = f"version {version.number} is {version.state}, so it is not adopted"
        elif (why := bad.get((row.site_id, version.pk))) is not None:
            found[pk] = f"version {version.number} failed here before: {why}"
        elif pk in ended_at and version == row.desired:
            found[pk] = f"the rollout of version {version.number} ended here without success"
    return found


def hold_of(row: SiteModel, around: Surroundings, now: datetime) -> str:
    """By what else is going on at the site and in the fleet."""
    if row.site_id in around.frozen:
        return around.frozen[row.site_id]
    if row.site_id in around.closed:
        opens_at = around.closed[row.site_id]
        return f"the activation window is closed until {opens_at:%Y-%m-%d %H:%M} UTC"
    if other := around.settling.get(row.model_id):
        return f"{other} is being corrected; of each model one site at a time"
    if peer := unavailable_peer(row.site, now):
        return f"{peer} of the same redundancy group is not well or is changing"
    return budget_hold(row.site_id, around.changing_percent, now)


def budget_hold(site_id: int, changing_percent: int | None, now: datetime) -> str:
    """A correction takes a place of the hour's budget as an activation does."""
    limit = changing_limit(changing_percent)
    if limit is None or (count := changing(site_id, now)) < limit:
        return ""
    return (
        f"{count} sites changed within an hour, the fleet's budget is {limit}; goes on as the hour "
        "moves"
    )
