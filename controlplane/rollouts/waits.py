"""Which deployments cannot be offered now, and which have been silent for too long.

Reads only; the same rows for the view that is decided on and for the effect that follows."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Count, Min, Q, QuerySet

from controlplane.domain.policy import policy_of
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    BEFORE_SWITCH,
    STARTED_STAGE,
    DeploymentState,
)
from controlplane.domain.views import SiteNote
from controlplane.domain.windows import WindowKind, of_kind, open_seconds_between
from controlplane.fleet.queries import sites_closed, windows_by_site
from controlplane.rollouts.evidence import heard_of
from controlplane.rollouts.freezes import Hold, freeze_holds
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, SiteModel, Stage
from controlplane.rollouts.sightings import heard_at

# The trailing stage waits for nobody for ever, whatever its policy leaves open.
TRAILING_DEADLINE_SECONDS = 1800.0


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Of the pending, by stage id: how many rest in the penalty box, until when the first does,
    whom a freeze, a pin or a closed window holds, and how many of these a person must let go.
    `retries_ready`: failed before, and nothing holds them."""

    resting: Mapping[int, int] = field(default_factory=dict)
    until: Mapping[int, datetime] = field(default_factory=dict)
    held: Mapping[int, list[SiteNote]] = field(default_factory=dict)
    held_by_person: Mapping[int, int] = field(default_factory=dict)
    retries_ready: Mapping[int, int] = field(default_factory=dict)


def held_sites(model_id: int, site_ids: Iterable[int], now: datetime) -> dict[int, Hold]:
    """Which of these sites (and maybe others) must not be offered the model now, each with what
    holds it and until when. Of a query the sites are only fetched if there is a freeze or a window
    at all."""
    found = freeze_holds(now, site_ids)
    pins = SiteModel.objects.filter(model=model_id).exclude(pinned_by="")
    for site_id, who, why in pins.order_by().values_list("site_id", "pinned_by", "pinned_reason"):
        sentence = f"pinned by {who}: {why}; unpin it, or roll the site back"
        if site_id not in found or not found[site_id].by_person:
            found[site_id] = Hold(sentence, by_person=True)
    for site_id, opens_at in sites_closed(WindowKind.DOWNLOAD, now=now, site_ids=site_ids).items():
        until = f" until {opens_at:%Y-%m-%d %H:%M} UTC" if opens_at else ""
        found.setdefault(site_id, Hold(f"its download window is closed{until}", by_person=False))
    return found


def pending(rollout: Rollout) -> QuerySet[Deployment]:
    return Deployment.objects.filter(
        rollout=rollout,
        kind=DeploymentKind.FORWARD,
        superseded=False,
        state=DeploymentState.PENDING,
    )


def waiting_of(rollout: Rollout, now: datetime) -> Waiting:
    """Who of the pending cannot be offered now. Counted by the database: a stage may hold back
    thousands for hours, and only those that are held are named."""
    rests = Q(not_before__gt=now)
    rows = pending(rollout).order_by()
    resting: dict[int, int] = {}
    until: dict[int, datetime] = {}
    retries_ready: dict[int, int] = {}
    for stage_id, count, first, retries in rows.values_list("stage_id").annotate(
        resting=Count("pk", filter=rests),
        first=Min("not_before", filter=rests),
        retries=Count("pk", filter=Q(failed_before=True) & ~rests),
    ):
        retries_ready[stage_id] = retries
        if first is not None:
            resting[stage_id], until[stage_id] = count, first
    ready = rows.exclude(rests)
    blocked = held_sites(rollout.model_id, ready.values_list("site_id", flat=True), now)
    held: dict[int, list[SiteNote]] = defaultdict(list)
    by_person: dict[int, int] = defaultdict(int)
    names = ready.filter(site__in=list(blocked)).order_by("site__name") if blocked else ready.none()
    for stage_id, site_id, name, failed_before in names.values_list(
        "stage_id", "site_id", "site__name", "failed_before"
    ):
        held[stage_id].append(SiteNote(site=name, note=blocked[site_id].why))
        by_person[stage_id] += blocked[site_id].by_person
        retries_ready[stage_id] -= failed_before
    return Waiting(
        resting=resting,
        until=until,
        held=held,
        held_by_person=by_person,
        retries_ready=retries_ready,
    )


def offerable(
    rollout: Rollout, stage_index: int, count: int, now: datetime, *, retries_only: bool = False
) -> list[Deployment]:
    """The next `count` to be offered, in the order of the plan: first tries before second ones."""
    ready = pending(rollout).exclude(not_before__gt=now).filter(stage__index=stage_index)
    if retries_only:
        ready = ready.filter(failed_before=True)
    sites = ready.order_by().values_list("site_id", flat=True)
    blocked = held_sites(rollout.model_id, sites, now)
    free = ready.exclude(site__in=list(blocked)) if blocked else ready
    return list(free.select_related("site", "stage").order_by("attempt", "pk")[:count])


class Overdue(NamedTuple):
    """A deployment that is silent past its deadline; `heard_at` is the last sign of life."""

    pk: int
    stage_id: int
    site_id: int
    site: str
    offered_at: datetime
    heard_at: datetime | None


def overdue_deployments(rollout: Rollout, stages: Iterable[Stage], now: datetime) -> list[Overdue]:
    """Offered, and without a sign of life for longer than the stage's deadline; time in which the
    site's download window is closed is not counted."""
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
    rows = (
        Deployment.objects.filter(
            late,
            rollout=rollout,
            kind=DeploymentKind.FORWARD,
            superseded=False,
            state__in=ACTIVE_DEPLOYMENT,
        )
        .exclude(heard_of("site", now))
        .order_by("site__name")
        .values_list("pk", "stage_id", "site_id", "site__name", "offered_at", heard_at())
    )
    found = [Overdue(*row) for row in rows]
    windows = windows_by_site([row.site_id for row in found]) if found else {}

    def is_late(row: Overdue) -> bool:
        download = of_kind(windows.get(row.site_id, ()), WindowKind.DOWNLOAD)
        silent_since = max(row.offered_at, row.heard_at or row.offered_at)
        open_seconds = open_seconds_between(download, silent_since, now)
        return open_seconds > deadlines[row.stage_id].total_seconds()

    return [row for row in found if is_late(row)]


def has_begun(row: Deployment) -> bool:
    """It may be anywhere between two versions, whatever is heard of it."""
    return row.holds_lease or row.state not in BEFORE_SWITCH or row.state == DeploymentState.PROVING


def _deadline(stage: Stage) -> float | None:
    seconds = policy_of(stage.policy).progress_deadline_seconds
    return TRAILING_DEADLINE_SECONDS if seconds is None and stage.trailing else seconds
