"""Which deployments cannot be offered now, and which have been silent for too long.

Reads only; the same rows for the view that is decided on and for the effect that follows."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import OuterRef, Q, QuerySet, Subquery

from controlplane.domain.policy import policy_of
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    BEFORE_SWITCH,
    STARTED_STAGE,
    DeploymentState,
    SiteNote,
)
from controlplane.domain.windows import WindowKind, of_kind, open_seconds_between
from controlplane.fleet.models import Lease
from controlplane.fleet.queries import sites_closed, windows_by_site
from controlplane.rollouts.evidence import heard_of
from controlplane.rollouts.freezes import frozen_sites
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, SiteModel, Stage

# The trailing stage waits for nobody for ever, whatever its policy leaves open.
TRAILING_DEADLINE_SECONDS = 1800.0


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Of the pending, by stage id: how many rest in the penalty box, until when the first does,
    and whom a freeze or a closed window holds."""

    resting: Mapping[int, int] = field(default_factory=dict)
    until: Mapping[int, datetime] = field(default_factory=dict)
    held: Mapping[int, list[SiteNote]] = field(default_factory=dict)


def held_sites(model_id: int, site_ids: Sequence[int], now: datetime) -> dict[int, str]:
    """Which of these sites must not be offered the model now, each with what holds it and until
    when."""
    found = frozen_sites(now, site_ids)
    pins = SiteModel.objects.filter(model=model_id, site__in=site_ids).exclude(pinned_by="")
    for site_id, who, why in pins.values_list("site_id", "pinned_by", "pinned_reason"):
        found.setdefault(site_id, f"pinned by {who}: {why}; unpin it, or roll the site back")
    for site_id, opens_at in sites_closed(WindowKind.DOWNLOAD, now=now, site_ids=site_ids).items():
        until = f" until {opens_at:%Y-%m-%d %H:%M} UTC" if opens_at else ""
        found.setdefault(site_id, f"its download window is closed{until}")
    return found


def pending(rollout: Rollout) -> QuerySet[Deployment]:
    return Deployment.objects.filter(
        rollout=rollout,
        kind=DeploymentKind.FORWARD,
        superseded=False,
        state=DeploymentState.PENDING,
    )


def waiting_of(rollout: Rollout, now: datetime) -> Waiting:
    """Who of the pending cannot be offered now."""
    resting: dict[int, int] = defaultdict(int)
    until: dict[int, datetime] = {}
    rows = pending(rollout)
    for stage_id, moment in (
        rows.filter(not_before__gt=now).order_by("not_before").values_list("stage_id", "not_before")
    ):
        resting[stage_id] += 1
        assert moment is not None  # the condition above
        until.setdefault(stage_id, moment)
    ready = list(
        rows.filter(Q(not_before=None) | Q(not_before__lte=now))
        .order_by("site__name")
        .values_list("stage_id", "site_id", "site__name")
    )
    blocked = held_sites(rollout.model_id, [site_id for _, site_id, _ in ready], now)
    held: dict[int, list[SiteNote]] = defaultdict(list)
    for stage_id, site_id, name in ready if blocked else ():
        if site_id in blocked:
            held[stage_id].append(SiteNote(site=name, note=blocked[site_id]))
    return Waiting(resting=resting, until=until, held=held)


def offerable(rollout: Rollout, stage_index: int, count: int, now: datetime) -> list[Deployment]:
    """The next `count` to be offered, in the order of the plan: first tries before second ones."""
    ready = (
        pending(rollout)
        .filter(Q(not_before=None) | Q(not_before__lte=now), stage__index=stage_index)
        .select_related("site")
        .order_by("attempt", "pk")
    )
    rows = list(ready)
    blocked = held_sites(rollout.model_id, [row.site_id for row in rows], now)
    return [row for row in rows if row.site_id not in blocked][:count]


def overdue_deployments(rollout: Rollout, stages: list[Stage], now: datetime) -> list[Deployment]:
    """Offered, and without a sign of life for longer than the stage's deadline; time in which the
    site's download window is closed is not counted. With `heard_at`, the last sign of life."""
    deadlines = {
        stage.pk: timedelta(seconds=seconds)
        for stage in stages
        if stage.state in STARTED_STAGE and (seconds := _deadline(stage)) is not None
    }
    if not deadlines:
        return []
    late = Q()
    for stage_id, deadline in deadlines.items():
        late |= Q(stage=stage_id, offered_at__lt=now - deadline)
    lease = Lease.objects.filter(agent__site=OuterRef("site"), agent__revoked_at=None)
    rows = list(
        Deployment.objects.filter(
            late,
            rollout=rollout,
            kind=DeploymentKind.FORWARD,
            superseded=False,
            state__in=ACTIVE_DEPLOYMENT,
        )
        .exclude(heard_of("site", now))
        .select_related("site", "from_version")
        .annotate(heard_at=Subquery(lease.values("last_seen_at")[:1]))
        .order_by("site__name")
    )
    windows = windows_by_site([row.site_id for row in rows]) if rows else {}
    found: list[Deployment] = []
    for row in rows:
        download = of_kind(windows.get(row.site_id, ()), WindowKind.DOWNLOAD)
        assert row.offered_at is not None  # the condition above
        silent_since = max(row.offered_at, row.heard_at or row.offered_at)
        open_seconds = open_seconds_between(download, silent_since, now)
        if open_seconds > deadlines[row.stage_id].total_seconds():
            found.append(row)
    return found


def has_begun(row: Deployment) -> bool:
    """It may be anywhere between two versions, whatever is heard of it."""
    return row.holds_lease or row.state not in BEFORE_SWITCH or row.state == DeploymentState.PROVING


def _deadline(stage: Stage) -> float | None:
    seconds = policy_of(stage.policy).progress_deadline_seconds
    return TRAILING_DEADLINE_SECONDS if seconds is None and stage.trailing else seconds
