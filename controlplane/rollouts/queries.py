"""Every read of rollouts and of what sites should and do serve."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import (
    Case,
    Count,
    Exists,
    F,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    When,
    Window,
)
from django.db.models import Value as Constant
from django.db.models.functions import RowNumber

from controlplane.catalog.models import Patch, Version, VersionFile, VersionSignature
from controlplane.catalog.signatures import wished_signatures
from controlplane.domain.errors import NotFound
from controlplane.domain.health import HealthVerdict, SiteFacts, site_health
from controlplane.domain.policy import Switch
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    ACTIVE_ROLLOUT,
    FINAL_ROLLOUT,
    DeploymentState,
)
from controlplane.domain.signals import ModelState, Signal, site_signals
from controlplane.fleet.models import Server, Site
from controlplane.fleet.queries import sites, stale_limit_seconds
from controlplane.rollouts.models import (
    Deployment,
    DeploymentKind,
    EngineBeat,
    Rollout,
    SiteModel,
)

ACTIVE_STATES = sorted(state.value for state in ACTIVE_ROLLOUT)
FINAL_STATES = sorted(state.value for state in FINAL_ROLLOUT)


def rollouts() -> QuerySet[Rollout]:
    return Rollout.objects.select_related("model", "version").prefetch_related("stages")


def find_rollout(rollout_id: int) -> Rollout:
    rollout = rollouts().filter(pk=rollout_id).first()
    if rollout is None:
        raise NotFound("rollout-unknown", f"There is no rollout {rollout_id}.")
    return rollout


def deployments_of(rollout: Rollout) -> QuerySet[Deployment]:
    """Deployments in the order of stages and sites; pages that show failures first sort again."""
    return (
        Deployment.objects.filter(rollout=rollout)
        .select_related("site", "from_version", "to_version")
        .order_by("stage__index", "site__name", "kind")
    )


DeploymentCounts = dict[tuple[int, str], dict[DeploymentState, int]]


def deployment_counts(rollout_ids: Iterable[int]) -> DeploymentCounts:
    """How many deployments are in which state, by (stage id, kind); one query for any number."""
    counts: DeploymentCounts = defaultdict(dict)
    rows = (
        Deployment.objects.filter(rollout__in=list(rollout_ids), superseded=False)
        .order_by()
        .values_list("stage_id", "kind", "state")
        .annotate(count=Count("pk"))
    )
    for stage_id, kind, state, count in rows:
        counts[stage_id, kind][DeploymentState(state)] = count
    return counts


def forward_deployments(rollout: Rollout) -> QuerySet[Deployment]:
    """One row per site, those in trouble first, each with `back_state` and `back_reason` of its
    way back (None: not sent back)."""
    back = Deployment.objects.filter(
        rollout=OuterRef("rollout"),
        site=OuterRef("site"),
        kind=DeploymentKind.ROLLBACK,
        superseded=False,
    )
    active = sorted(ACTIVE_DEPLOYMENT)
    trouble = Q(state=DeploymentState.FAILED) | Q(back_state=DeploymentState.ROLLBACK_FAILED)
    return (
        Deployment.objects.filter(rollout=rollout, kind=DeploymentKind.FORWARD, superseded=False)
        .select_related("site", "from_version", "to_version")
        .annotate(
            back_state=Subquery(back.values("state")[:1]),
            back_reason=Subquery(back.values("reason")[:1]),
        )
        .annotate(
            urgency=Case(
                When(trouble, then=Constant(0)),
                When(Q(state__in=active) | Q(back_state__in=active), then=Constant(1)),
                When(state=DeploymentState.PENDING, then=Constant(2)),
                default=Constant(3),
                output_field=IntegerField(),
            )
        )
        .order_by("stage__index", "urgency", "site__name")
    )


def first_deployments(rollout: Rollout, *, per_stage: int) -> list[Deployment]:
    """The first rows of each stage of `forward_deployments`, from one query."""
    rank = Window(RowNumber(), partition_by=F("stage"), order_by=["urgency", "site__name"])
    return list(forward_deployments(rollout).annotate(rank=rank).filter(rank__lte=per_stage))


def deployments_at(site_id: int, *, limit: int) -> QuerySet[Deployment]:
    """The latest deployments of a site, unfinished ones first."""
    unfinished = Case(
        When(state__in=sorted(ACTIVE_DEPLOYMENT), then=Constant(0)), default=Constant(1)
    )
    return (
        Deployment.objects.filter(site_id=site_id)
        .select_related("model", "from_version", "to_version")
        .order_by(unfinished, "-pk")[:limit]
    )


def sites_with(version: Version) -> QuerySet[SiteModel]:
    """Where a version is wished for or reported as served."""
    return (
        SiteModel.objects.filter(model=version.model_id)
        .filter(Q(desired=version) | Q(reported_serving=version.number))
        .select_related("site", "model", "desired")
        .order_by("site__name")
    )


def wishes_of(site_id: int) -> QuerySet[SiteModel]:
    return (
        SiteModel.objects.filter(site_id=site_id)
        .select_related("model", "desired", "previous")
        .order_by("model__name")
    )


def desired_document(
    *, site_id: int, site_name: str, epoch: int, generation: int
) -> dict[str, object]:
    """The desired state of a site as an agent gets it (docs/agent-protocol.md, section 3).

    `generation` must have been read before this: a wish newer than the generation it travels
    under is only fetched once more, one older would be missed.
    """
    signed_versions = VersionSignature.objects.filter(version=OuterRef("desired"))
    wishes = (
        wishes_of(site_id)
        .select_related("desired_variant")
        .annotate(is_signed=Exists(signed_versions))
    )
    rows = list(wishes.defer("desired__manifest", "previous__manifest"))
    behind = {
        (d.model_id, d.generation): d
        for d in Deployment.objects.filter(
            site_id=site_id, generation__in=[row.generation for row in rows]
        ).only("pk", "model_id", "generation", "kind")
    }
    signed = wished_signatures(row.desired_id for row in rows if row.desired_id and row.is_signed)
    return {
        "epoch": epoch,
        "generation": generation,
        "site": site_name,
        "models": [
            _wish_document(
                row,
                behind.get((row.model_id, row.generation)),
                signed.get(row.desired_id, []) if row.desired_id else [],
            )
            for row in rows
        ],
    }


def _wish_document(
    row: SiteModel, deployment: Deployment | None, signatures: list[dict[str, object]]
) -> dict[str, object]:
    """The way forward needs a lease before Triton is touched; the way back never does."""
    forward = deployment is not None and deployment.kind == DeploymentKind.FORWARD
    # One build, as the agent knows no other; a wish from before there were builds names none.
    build = row.desired_variant or row.desired
    return {
        "model": row.model.name,
        "generation": row.generation,
        "deployment": deployment.pk if deployment else None,
        "lease_required": forward,
        "version": str(row.desired.number) if row.desired else None,
        "previous": str(row.previous.number) if row.previous else None,
        "manifest_digest": build.manifest_digest if build else None,
        "manifest": build.manifest if build else None,
        # An agent that knows neither goes its old way: beside the other, and on no probation.
        **({} if row.switch == Switch.SURGE else {"switch": row.switch}),
        **({} if row.probation is None else {"probation": row.probation}),
        **({"signatures": signatures} if signatures else {}),
    }


def site_may_read(*, site_id: int, sha256: str) -> int | None:
    """Size of a blob in bytes if a version wished for at the site contains it, else None."""
    files = _wished_files(site_id).filter(sha256=sha256)
    return files.values_list("size_bytes", flat=True).first()


def site_may_read_patch(*, site_id: int, sha256: str) -> int | None:
    """Size of a patch in bytes if it belongs to a file that the site may read, else None."""
    files = _wished_files(site_id).values("sha256")
    patches = Patch.objects.filter(sha256=sha256, chunk_map_id__in=files)
    return patches.values_list("size_bytes", flat=True).first()


def _wished_files(site_id: int) -> QuerySet[VersionFile]:
    wished = SiteModel.objects.filter(site_id=site_id)
    return VersionFile.objects.filter(
        Q(version__in=wished.values("desired")) | Q(version__in=wished.values("previous"))
    )


@dataclass(frozen=True, kw_only=True)
class SiteStatus:
    """A site with its health, the signals behind it and its models, for lists and pages."""

    site: Site
    verdict: HealthVerdict
    signals: tuple[Signal, ...]
    last_seen_at: datetime | None
    models: tuple[SiteModel, ...]


def site_statuses(rows: QuerySet[Site] | None = None, *, now: datetime) -> list[SiteStatus]:
    """Sites with health: three queries, however many sites."""
    page = list(rows if rows is not None else sites())
    ids = [site.pk for site in page]
    models: dict[int, list[SiteModel]] = {pk: [] for pk in ids}
    for row in (
        SiteModel.objects.filter(site_id__in=ids)
        .select_related("model", "desired", "previous")
        .defer("desired__manifest", "previous__manifest")
        .order_by("model__name")
    ):
        models[row.site_id].append(row)
    live = {
        row["site_id"]: row["live"] == row["known"] if row["known"] else None
        for row in Server.objects.filter(site_id__in=ids)
        .order_by()
        .values("site_id")
        .annotate(
            live=Count("pk", filter=Q(triton_live=True)),
            known=Count("pk", filter=Q(triton_live__isnull=False)),
        )
    }
    return [
        SiteStatus(
            site=site,
            verdict=_verdict(site, models[site.pk], live.get(site.pk), now),
            signals=_signals(site, models[site.pk], live.get(site.pk), now),
            last_seen_at=site.last_seen_at,  # type: ignore[attr-defined]  # annotated by the query
            models=tuple(models[site.pk]),
        )
        for site in page
    ]


def _verdict(
    site: Site, models: list[SiteModel], triton_live: bool | None, now: datetime
) -> HealthVerdict:
    facts = SiteFacts(
        joined=site.agent_id is not None,  # type: ignore[attr-defined]  # annotated by the query
        last_seen_at=site.last_seen_at,  # type: ignore[attr-defined]  # annotated by the query
        triton_live=triton_live,
        models_wrong=sum(difference(row) in ("failed", "behind", "ahead") for row in models),
        models_moving=sum(difference(row) == "moving" for row in models),
        agent_locked=site.agent_locked_at is not None,  # type: ignore[attr-defined]  # annotated by the query
    )
    return site_health(facts, now, timedelta(seconds=stale_limit_seconds(site)))


def _signals(
    site: Site, models: list[SiteModel], triton_live: bool | None, now: datetime
) -> tuple[Signal, ...]:
    return site_signals(
        last_seen_at=site.last_seen_at,  # type: ignore[attr-defined]  # annotated by the query
        triton_live=triton_live,
        models=[
            ModelState(
                model=row.model.name,
                wished=row.desired.number if row.desired else None,
                reported=row.reported_at is not None,
                serving=row.reported_serving,
                healthy=row.reported_healthy,
                settled=row.reported_phase in ("succeeded", "failed"),
            )
            for row in models
        ],
        now=now,
        fresh_within=timedelta(seconds=stale_limit_seconds(site)),
    )


def difference(row: SiteModel) -> str:
    """Desired against reported in one word: equal, moving, behind, ahead, failed, unknown."""
    if row.reported_at is None:
        return "unknown"
    if row.reported_phase == "failed":
        return "failed"
    if row.reported_phase != "succeeded":
        return "moving"
    wanted = row.desired.number if row.desired else None
    if row.reported_serving == wanted and (wanted is None or row.reported_healthy):
        return "equal"
    return "behind" if (row.reported_serving or 0) <= (wanted or 0) else "ahead"


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """Whether the engine was seen lately; `reason` says what is missing."""

    alive: bool
    reason: str
    tick_at: datetime | None
    worker_at: datetime | None


def engine_status(*, now: datetime) -> EngineStatus:
    """Alive means: a tick ran and a worker lived within `WAYPOST_ENGINE_STALE_SECONDS`."""
    beats = dict(EngineBeat.objects.values_list("name", "at"))
    limit = timedelta(seconds=settings.WAYPOST_ENGINE_STALE_SECONDS)
    missing = [
        f"no {name} {_since(beats.get(name), now)}"
        for name in ("worker", "tick")
        if beats.get(name) is None or now - beats[name] > limit
    ]
    return EngineStatus(
        alive=not missing,
        reason="; ".join(missing) or "ticking",
        tick_at=beats.get("tick"),
        worker_at=beats.get("worker"),
    )


def _since(at: datetime | None, now: datetime) -> str:
    return "was ever seen" if at is None else f"for {(now - at).total_seconds():.0f} s"


def running_rollouts() -> QuerySet[Rollout]:
    """Those not final, the longest waiting first."""
    return rollouts().filter(state__in=ACTIVE_STATES).order_by(F("waiting_since").asc())
