"""What a site reports against what is desired there, while no rollout is at work: noted at once,
and after a while corrected, adopted or left, by the model's policy.

A version that failed at a site is never pushed to it again from here."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from controlplane.audit.services import record_event
from controlplane.catalog.models import DriftPolicy, Version, VersionState
from controlplane.domain.rollout import ACTIVE_DEPLOYMENT, FINAL_ROLLOUT
from controlplane.domain.windows import WindowKind
from controlplane.fleet.queries import sites_closed
from controlplane.rollouts.availability import unavailable_peer
from controlplane.rollouts.freezes import frozen_sites
from controlplane.rollouts.models import BadVersion, Deployment, SiteModel
from controlplane.rollouts.wishes import change_wishes, hold_wishes

ENGINE = "engine"
# A site that keeps drifting is not pushed at every tick.
AGAIN_AFTER = timedelta(minutes=10)
AT_ONCE = 200


def drifting() -> QuerySet[SiteModel]:
    """Reports another version than is desired, with no rollout at work there. A site that has not
    spoken since its wish changed has not drifted: it has not got there yet."""
    open_rollout = ~Q(rollout__state__in=[state.value for state in FINAL_ROLLOUT])
    busy = Deployment.objects.filter(
        Q(state__in=ACTIVE_DEPLOYMENT) | open_rollout,
        site=OuterRef("site"),
        model=OuterRef("model"),
        superseded=False,
    )
    same = Q(reported_serving=F("desired__number")) | Q(
        reported_serving__isnull=True, desired__isnull=True
    )
    return (
        SiteModel.objects.filter(reported_phase__in=["succeeded", "failed"], site__retired_at=None)
        .exclude(same)
        .exclude(Exists(busy))
    )


def correct_drift(*, now: datetime) -> None:
    """One pass over all sites: two queries while nothing drifts."""
    SiteModel.objects.exclude(drifted_since=None).exclude(pk__in=drifting().values("pk")).update(
        drifted_since=None
    )
    drifting().filter(drifted_since=None).update(drifted_since=now)
    patience = timedelta(seconds=settings.WAYPOST_DRIFT_SECONDS)
    ripe = drifting().filter(
        Q(corrected_at=None) | Q(corrected_at__lt=now - AGAIN_AFTER),
        drifted_since__lte=now - patience,
        pinned_by="",
    )
    acting = ripe.exclude(model__drift_policy=DriftPolicy.HOLD).order_by("pk")
    if not acting.exists():
        return
    # A correction changes the site as a rollout does, so what holds rollouts holds it; and of each
    # model one site at a time, the next when that one has spoken.
    held = {*frozen_sites(now), *sites_closed(WindowKind.ACTIVATION, now=now)}
    settling = SiteModel.objects.filter(
        model=OuterRef("model"), corrected_at__gt=now - AGAIN_AFTER, reported_phase=""
    )
    seen: set[int] = set()
    for row in acting.exclude(Exists(settling)).select_related("site")[:AT_ONCE]:
        if row.site_id in held or row.model_id in seen or unavailable_peer(row.site, now):
            continue
        seen.add(row.model_id)
        _act(row.pk, now)


@transaction.atomic
def _act(pk: int, now: datetime) -> None:
    found = SiteModel.objects.filter(pk=pk).first()
    if found is None:
        return
    hold_wishes(model_id=found.model_id, site_ids=[found.site_id])
    row = drifting().select_related("model", "site", "desired").filter(pk=pk).first()
    if row is None:
        return
    target = _adopted(row) or row.desired
    if target is not None and _is_barred(row, target):
        return
    before = row.desired
    change_wishes(model_id=row.model_id, wishes={row.site_id: target}, keep_previous=False)
    SiteModel.objects.filter(pk=pk).update(corrected_at=now)
    record_event(
        now=now,
        actor=ENGINE,
        action=f"drift.{'adopted' if target != before else 'corrected'}",
        object_type="site",
        object_id=row.site.name,
        reason=f"{row.model} served {_version(row.reported_serving)}, desired was "
        f"{_version(before.number if before else None)}",
        data={
            "model": row.model.name,
            "before": before.number if before else None,
            "after": target.number if target else None,
        },
    )


def _adopted(row: SiteModel) -> Version | None:
    """What it serves, if that is a version of the catalogue and the policy takes it as it is."""
    if row.model.drift_policy != DriftPolicy.ADOPT or row.reported_serving is None:
        return None
    return Version.objects.filter(model=row.model_id, number=row.reported_serving).first()


def _is_barred(row: SiteModel, target: Version) -> bool:
    """Quarantined, or known to fail there."""
    if target.state == VersionState.QUARANTINED:
        return True
    return BadVersion.objects.filter(site=row.site_id, version=target).exists()


def _version(number: int | None) -> str:
    return "nothing" if number is None else f"version {number}"
