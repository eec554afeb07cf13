"""Where a site may return to: what was recorded for it, unless that was quarantined since.

A quarantined version is wished of no site anew. What else a site could go to is said to a person
and never chosen here. Reads only, but for the event that tells of it."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from django.db.models import Exists, OuterRef

from controlplane.audit.services import record_event
from controlplane.catalog.models import VersionState
from controlplane.domain.rollout import DeploymentState
from controlplane.rollouts.history import ENGINE
from controlplane.rollouts.models import BadVersion, Deployment, DeploymentKind, Rollout


def can_return(row: Deployment) -> bool:
    """Whether what was recorded for the site may still be wished of it."""
    return row.from_version is None or row.from_version.state != VersionState.QUARANTINED


def why_it_stays(rows: Iterable[Deployment]) -> dict[int, str]:
    """By site id, for each that has nothing sound to return to: why, and what a person can do."""
    stranded = [row for row in rows if not can_return(row)]
    verified = _verified_before(stranded)
    return {row.site_id: _sentence(row, verified.get(row.site_id)) for row in stranded}


def tell_who_stays(rollout: Rollout, rows: Sequence[Deployment], now: datetime) -> None:
    """One event per site that is not called back: the rollout lets go of it, its wish stands."""
    reasons = why_it_stays(rows)
    for row in rows:
        record_event(
            now=now,
            actor=ENGINE,
            action="site.not_called_back",
            object_type="site",
            object_id=row.site.name,
            reason=reasons[row.site_id],
            data={"model": rollout.model.name, "rollout": rollout.pk},
        )


def _sentence(row: Deployment, verified: int | None) -> str:
    assert row.from_version is not None  # else it could return
    number, why = row.from_version.number, row.from_version.state_reason or "no reason given"
    another = "roll out another version"
    if verified is not None:
        another += f"; version {verified} was verified here before"
    return (
        f"version {number}, which it had before, is quarantined ({why[:200]}), so the site keeps "
        f"what it serves; release version {number} with a reason, or {another}"
    )


def _verified_before(rows: Sequence[Deployment]) -> dict[int, int]:
    """By site id, the version last seen to work there that is sound still, other than the one the
    site is to leave."""
    if not rows:
        return {}
    bad = BadVersion.objects.filter(site=OuterRef("site"), version=OuterRef("to_version"))
    found = (
        Deployment.objects.filter(
            ~Exists(bad),
            site__in=[row.site_id for row in rows],
            model=rows[0].model_id,
            kind=DeploymentKind.FORWARD,
            state=DeploymentState.SUCCEEDED,
            to_version__state=VersionState.APPROVED,
        )
        .exclude(to_version=rows[0].to_version_id)
        .order_by("pk")
    )
    return dict(found.values_list("site_id", "to_version__number"))
