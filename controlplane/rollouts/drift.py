"""What a site reports against what is desired there, while no rollout is at work: noted at once,
and after a while corrected, adopted or left, by the model's policy.

A correction is held by what holds rollouts, and takes its place in the budget of the hour
(`corrections.py`); a version that failed at a site is never pushed to it again from here."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from controlplane.audit.services import record_event
from controlplane.catalog.models import DriftPolicy, Version
from controlplane.domain.rollout import ACTIVE_DEPLOYMENT, FINAL_ROLLOUT
from controlplane.rollouts.availability import AGAIN_AFTER
from controlplane.rollouts.corrections import (
    bars_of,
    hold_of,
    holds_of,
    surroundings,
    target_of,
)
from controlplane.rollouts.freezes import fleet_budget
from controlplane.rollouts.models import Deployment, SiteModel
from controlplane.rollouts.wishes import change_wishes, hold_wishes

ENGINE = "engine"
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
    around = surroundings(now)
    seen: set[int] = set()
    free = acting.exclude(model__in=list(around.settling))
    rows = list(free.select_related("site", "model", "desired")[:AT_ONCE])
    barred = bars_of(rows)
    for row in rows:  # of each model one site at a time, the next when that one has settled
        if row.model_id in seen or row.pk in barred or hold_of(row, around, now):
            continue
        seen.add(row.model_id)
        _act(row.pk, now)


@transaction.atomic
def _act(pk: int, now: datetime) -> None:
    found = SiteModel.objects.filter(pk=pk).first()
    if found is None:
        return
    # In the order of those who grant leases and who quarantine: neither can slip in between. What
    # was frozen, pinned or set since the look above holds too.
    fleet_budget(lock=True)
    known = Q(pk=found.desired_id) | Q(model=found.model_id, number=found.reported_serving)
    list(Version.objects.select_for_update(no_key=True).filter(known).order_by("pk").values("pk"))
    hold_wishes(model_id=found.model_id, site_ids=[found.site_id])
    row = drifting().select_related("model", "site", "desired").filter(pk=pk).first()
    if row is None or holds_of([row], now)[row.pk]:
        return
    target, before = target_of(row), row.desired
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


def _version(number: int | None) -> str:
    return "nothing" if number is None else f"version {number}"
