"""Who is away or changing, as far as anybody knows: what leases and corrections must not add to.

Reads only; counts in the database, since every site of a stage asks, some many times."""

from datetime import datetime, timedelta
from typing import Any

from django.db.models import BigIntegerField, Exists, OuterRef, Q, QuerySet

from controlplane.domain.rollout import ACTIVE_DEPLOYMENT, BEGUN, DeploymentState
from controlplane.fleet.models import Site
from controlplane.fleet.queries import redundancy_peers
from controlplane.rollouts.evidence import own_limits, since
from controlplane.rollouts.models import Deployment, DeploymentKind, SiteModel
from controlplane.rollouts.prepared import Slot, prepared

BUDGET_WINDOW = timedelta(hours=1)
NAMES = 3
# A site whose drift was acted on is not acted on again before; so long it may take to settle.
AGAIN_AFTER = timedelta(minutes=10)


def in_transition() -> Q:
    """Holds a slot, has begun without one being known here, or may: the way back asks nobody."""
    may_have_begun = Q(state__in=BEGUN) | Q(kind=DeploymentKind.ROLLBACK)
    under_way = Q(state__in=ACTIVE_DEPLOYMENT) & (Q(holds_lease=True) | may_have_begun)
    return under_way | Q(may_still_begin=True)


def unavailable(row: Deployment, limit: int, now: datetime) -> tuple[int, tuple[str, ...]]:
    """The other sites of the stage that hold a slot, are switching, or do not serve the model well
    as far as anybody knows: how many, and once they fill the limit, some by name. Those that were
    put off or refused are not in it any more.

    Every site of the stage asks, some many times: who is well is not fetched, and who is not is
    looked for only while those that move leave a place."""
    asked = {"stage": row.stage_id, "site": row.site_id, "model": row.model_id}
    names = [name for (name,) in _moving_names(**asked)]
    if len(names) >= limit:
        return len(names), tuple(names[:NAMES])
    left = (DeploymentState.DEFERRED, DeploymentState.REJECTED)
    here = OuterRef("site")
    others, moving = _others_and_moving(**asked)
    ailing = unwell(now).filter(
        Exists(others.exclude(state__in=left).filter(site=here)),
        ~Exists(moving.filter(site=here)),
        model=row.model_id,
    )
    # After the others: a site that fails between the two is counted twice and not left out.
    names += ailing.order_by().values_list("site__name", flat=True)
    return len(names), tuple(sorted(names)[:NAMES]) if len(names) >= limit else ()


def _others_and_moving(
    *, stage: Any, site: Any, model: Any
) -> tuple[QuerySet[Deployment], QuerySet[Deployment]]:
    """The parts of the other sites of the stage, and what is moving at these sites."""
    others = Deployment.objects.filter(
        stage=stage, superseded=False, site__retired_at=None
    ).exclude(site=site)
    # In whatever rollout: one that was called off may have left an agent with a lease.
    return others, Deployment.objects.filter(
        in_transition(), model=model, site__in=others.values("site")
    )


@prepared
def _moving_names() -> QuerySet[Deployment, Any]:
    slots = {name: Slot(name, BigIntegerField()) for name in ("stage", "site", "model")}
    _, moving = _others_and_moving(**slots)
    return moving.order_by("site__name").values_list("site__name").distinct()


def unwell(now: datetime) -> QuerySet[SiteModel]:
    """Where a model that should be served is not served well, as far as anybody knows. Where its
    first version has not come to be used yet, nothing can be missing."""
    first = Deployment.objects.filter(
        site=OuterRef("site"),
        model=OuterRef("model"),
        generation=OuterRef("generation"),
        kind=DeploymentKind.FORWARD,
        from_version=None,
    ).exclude(state=DeploymentState.SUCCEEDED)
    return (
        SiteModel.objects.exclude(desired=None)
        .exclude(Q(reported_healthy=True) & since("reported_at", "site__", now, own_limits()))
        .exclude(Exists(first), reported_serving=None, reported_healthy=None)
    )


def correcting(now: datetime) -> QuerySet[SiteModel]:
    """Where drift was acted on and the site, which asks for no lease then, has not settled yet. A
    wish that a rollout made since is the rollout's."""
    later = Deployment.objects.filter(
        site=OuterRef("site"), model=OuterRef("model"), generation=OuterRef("generation")
    )
    acted_on = SiteModel.objects.filter(~Exists(later), corrected_at__gt=now - AGAIN_AFTER)
    return acted_on.exclude(reported_phase__in=["succeeded", "failed"])


def changing(site_id: int, now: datetime) -> int:
    """Other sites that were let change something within the hour: forward, back, or from drift."""
    recent = now - BUDGET_WINDOW
    rows = Deployment.objects.filter(
        Q(leased_at__gt=recent) | Q(kind=DeploymentKind.ROLLBACK, offered_at__gt=recent)
    )
    corrected = SiteModel.objects.filter(corrected_at__gt=recent).exclude(site_id=site_id)
    sites = rows.exclude(site_id=site_id).order_by().values_list("site_id")
    return sites.union(corrected.order_by().values_list("site_id")).count()


def changing_limit(percent: int | None) -> int | None:
    """In whole sites, rounded down, at least one."""
    if percent is None:
        return None
    return max(1, Site.objects.filter(retired_at=None).count() * percent // 100)


def unavailable_peer(site: Site, now: datetime) -> str:
    """A site of the same redundancy group that is changing or not well: the name of one."""
    peers = redundancy_peers(site)
    if not peers:
        return ""
    moving = Deployment.objects.filter(in_transition(), site__in=peers)
    for away in (
        moving,
        correcting(now).filter(site__in=peers),
        unwell(now).filter(site__in=peers),
    ):
        name = away.values_list("site__name", flat=True).first()
        if name is not None:
            return str(name)
    return ""


def busy_with(row: Deployment) -> str:
    """Another model that is being activated at the same site."""
    return next((name for (name,) in _busy(site=row.site_id, row=row.pk)), "")


@prepared
def _busy() -> QuerySet[Deployment, Any]:
    at_site = Deployment.objects.filter(in_transition(), site=Slot("site", BigIntegerField()))
    others = at_site.exclude(pk=Slot("row", BigIntegerField()))
    return others.order_by("pk").values_list("model__name")[:1]
