"""Which sites of a rollout are worth naming, and what is to be said of each: who failed, who is on
the way, who is silent, and who does not serve the version well.

Reads only. Times are said as points in time: an age would be another sentence at every tick."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db.models import Case, F, OuterRef, Q, QuerySet, Subquery, When

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    STAGE_FAILURES,
    DeploymentState,
    RolloutState,
)
from controlplane.domain.views import SiteNote
from controlplane.fleet.models import Lease
from controlplane.rollouts.evidence import PATIENCE, fresh_within, own_limits, since
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, SiteModel

EXAMPLES = 12  # sites named per question and rollout; the counts are always exact

_ENDING = (RolloutState.ROLLING_BACK, RolloutState.CANCELLING)
Notes = dict[int, list[SiteNote]]


def failed_notes(rollout: Rollout) -> Notes:
    """By stage id, some of the sites that failed, and why."""
    rows = Deployment.objects.filter(
        rollout=rollout,
        kind=DeploymentKind.FORWARD,
        superseded=False,
        state__in=STAGE_FAILURES,
    )
    notes: Notes = defaultdict(list)
    columns = ("reason", "reason_code", "state", "variant")
    for stage_id, site, reason, code, state, variant in _some(rows, *columns):
        why = reason or code or state.replace("_", " ")
        notes[stage_id].append(SiteNote(site=site, note=why, variant=variant))
    return notes


def unfinished_notes(rollout: Rollout, now: datetime) -> Notes:
    """By stage id, some of those on the way, there or back: how far each is; of a silent one also
    since when, and what ends the wait."""
    rows = Deployment.objects.filter(
        rollout=rollout, superseded=False, state__in=ACTIVE_DEPLOYMENT
    ).annotate(heard_at=heard_at())
    notes: Notes = defaultdict(list)
    for stage_id, site, state, reason, heard in _some(rows, "state", "reason", "heard_at"):
        progress = f"{state}: {reason}" if reason else state
        if heard is None or heard < now - fresh_within():
            progress += f"; {silence(heard)}{_end_of_wait(rollout, heard)}"
        notes[stage_id].append(SiteNote(site=site, note=progress))
    return notes


def not_returned(rollout: Rollout, code: str) -> Notes:
    """By stage id, all sites whose way back failed for this reason; the note is what is so of the
    version they had."""
    rows = Deployment.objects.filter(
        rollout=rollout,
        kind=DeploymentKind.ROLLBACK,
        superseded=False,
        state=DeploymentState.ROLLBACK_FAILED,
        reason_code=code,
    ).order_by("site__name")
    notes: Notes = defaultdict(list)
    for stage_id, site, number, state in rows.values_list(
        "stage_id", "site__name", "to_version__number", "to_version__state"
    ):
        notes[stage_id].append(SiteNote(site=site, note=f"version {number} is {state}"))
    return notes


def _some(rows: QuerySet[Deployment], *columns: str) -> Iterable[tuple[Any, ...]]:
    """The first few, with the stage's id and the site's name before these columns."""
    chosen = rows.order_by("stage_id", "site__name")[:EXAMPLES]
    return chosen.values_list("stage_id", "site__name", *columns)


def heard_at() -> Subquery:
    """Of a deployment: when its site's agent last called, None if it never did."""
    lease = Lease.objects.filter(agent__site=OuterRef("site"), agent__revoked_at=None)
    return Subquery(lease.values("last_seen_at")[:1])


def silence(heard: datetime | None) -> str:
    return f"silent since {heard:%Y-%m-%d %H:%M} UTC" if heard else "never heard of"


def _end_of_wait(rollout: Rollout, heard: datetime | None) -> str:
    if rollout.state not in _ENDING:
        return "; abort or roll back to stop waiting"
    if heard is None:
        return ""
    return f"; not waited for after {heard + PATIENCE * fresh_within():%Y-%m-%d %H:%M} UTC"


def ailing_notes(rollout: Rollout, now: datetime) -> tuple[Notes, Notes]:
    """Of the sites that succeeded, by stage id: those without a fresh report, and those that say
    they do not serve the version well. Who is fine, which is nearly everybody, is not fetched."""
    fresh = since("reported_at", "site__", now, own_limits())
    well = Q(reported_serving=rollout.version.number, reported_healthy=True)
    rows = (
        SiteModel.objects.filter(
            model=rollout.model_id,
            site__retired_at=None,
            site__deployments__rollout=rollout,
            site__deployments__kind=DeploymentKind.FORWARD,
            site__deployments__superseded=False,
            site__deployments__state=DeploymentState.SUCCEEDED,
        )
        .annotate(is_fresh=Case(When(fresh, then=True), default=False))
        .exclude(well, is_fresh=True)
        .order_by("site__name")
        .values_list(
            F("site__deployments__stage_id"),
            "site__name",
            "is_fresh",
            "reported_at",
            "reported_reason",
            "reported_serving",
            "site__deployments__variant",
        )
    )
    stale: Notes = defaultdict(list)
    unhealthy: Notes = defaultdict(list)
    for stage_id, site, is_fresh, reported_at, reason, serving, variant in rows:
        if is_fresh:
            says = reason or (f"serves version {serving}" if serving else "serves nothing")
            unhealthy[stage_id].append(SiteNote(site=site, note=says, variant=variant))
        else:
            stale[stage_id].append(SiteNote(site=site, note=_last_report(reported_at)))
    return stale, unhealthy


def _last_report(at: datetime | None) -> str:
    return f"last report at {at:%Y-%m-%d %H:%M:%S} UTC" if at else "never reported"
