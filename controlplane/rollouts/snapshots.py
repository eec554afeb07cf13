"""Rows to views: what `decide` gets to see. Reads only; a constant number of queries, however
many sites a rollout has."""

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    DeploymentState,
    RolloutState,
    RolloutView,
    SiteNote,
    StageState,
    StageView,
)
from controlplane.fleet.models import Lease
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, SiteModel

# Who is silent for this many times the limit is not waited for when a rollout turns back or stops.
PATIENCE = 10
EXAMPLES = 12  # sites named per question and rollout; the counts are always exact

_ENDING = (RolloutState.ROLLING_BACK, RolloutState.CANCELLING)


def fresh_within() -> timedelta:
    """How old a report may be and still be evidence."""
    return timedelta(seconds=settings.WAYPOST_STALE_SECONDS)


def rollout_view(rollout: Rollout, now: datetime) -> RolloutView:
    """A snapshot for `decide`. Take it inside the transaction that will act on it."""
    counts = _counts(rollout)
    failed = _notes(_deployments(rollout).filter(state=DeploymentState.FAILED), _reason_of)
    unfinished = _notes(
        _heard_of(_unfinished(rollout)), lambda row: _progress_of(row, rollout, now)
    )
    succeeded = _reported(rollout)
    limit = now - fresh_within()
    stale = succeeded.filter(Q(reported_at=None) | Q(reported_at__lt=limit))
    unhealthy = succeeded.filter(reported_at__gte=limit).exclude(
        reported_serving=rollout.version.number, reported_healthy=True
    )
    stale_counts, unhealthy_counts = _by_stage(stale), _by_stage(unhealthy)
    stale_notes = _site_notes(stale, lambda row: _age_of(row, now)) if stale_counts else {}
    unhealthy_notes = _site_notes(unhealthy, _health_of) if unhealthy_counts else {}
    silent = _silent(rollout, now) if rollout.state in _ENDING else {}
    stages = tuple(
        StageView(
            index=stage.index,
            name=stage.name,
            state=StageState(stage.state),
            soak_seconds=stage.soak_seconds,
            soaked_seconds=stage.soaked_seconds,
            soak_counted_until=stage.soak_counted_until,
            forward=counts[stage.pk, DeploymentKind.FORWARD],
            rollback=counts[stage.pk, DeploymentKind.ROLLBACK],
            failed=tuple(failed.get(stage.pk, ())),
            unfinished=tuple(unfinished.get(stage.pk, ())),
            stale=tuple(stale_notes.get(stage.pk, ())),
            stale_count=stale_counts.get(stage.pk, 0),
            unhealthy=tuple(unhealthy_notes.get(stage.pk, ())),
            unhealthy_count=unhealthy_counts.get(stage.pk, 0),
            silent=silent.get(stage.pk, 0),
        )
        for stage in rollout.stages.all().order_by("index")
    )
    return RolloutView(
        model=rollout.model.name,
        version=str(rollout.version.number),
        state=RolloutState(rollout.state),
        cause=rollout.cause,
        fresh_within=fresh_within(),
        stages=stages,
    )


def _counts(rollout: Rollout) -> dict[tuple[int, str], dict[DeploymentState, int]]:
    counts: dict[tuple[int, str], dict[DeploymentState, int]] = defaultdict(dict)
    rows = (
        Deployment.objects.filter(rollout=rollout)
        .order_by()
        .values_list("stage_id", "kind", "state")
        .annotate(count=Count("pk"))
    )
    for stage_id, kind, state, count in rows:
        counts[stage_id, kind][DeploymentState(state)] = count
    return counts


def _deployments(rollout: Rollout) -> QuerySet[Deployment]:
    return Deployment.objects.filter(rollout=rollout, kind=DeploymentKind.FORWARD).select_related(
        "site"
    )


def _unfinished(rollout: Rollout) -> QuerySet[Deployment]:
    """While rolling back the rollback deployments are waited for, else those of a started stage."""
    rows = Deployment.objects.filter(rollout=rollout, state__in=ACTIVE_DEPLOYMENT)
    rolling_back = rollout.state == RolloutState.ROLLING_BACK
    kind = DeploymentKind.ROLLBACK if rolling_back else DeploymentKind.FORWARD
    return rows.filter(kind=kind).select_related("site")


def _heard_of(rows: QuerySet[Deployment]) -> QuerySet[Deployment]:
    """With `heard_at`: when the site's agent last called, None if it never did."""
    lease = Lease.objects.filter(agent__site=OuterRef("site"), agent__revoked_at=None)
    return rows.annotate(heard_at=Subquery(lease.values("last_seen_at")[:1]))


def _silent(rollout: Rollout, now: datetime) -> dict[int, int]:
    """By stage, the unfinished deployments at sites whose agent was not heard of for long."""
    heard = Lease.objects.filter(
        agent__site=OuterRef("site"),
        agent__revoked_at=None,
        last_seen_at__gte=now - PATIENCE * fresh_within(),
    )
    rows = _unfinished(rollout).exclude(Exists(heard)).order_by().select_related(None)
    return dict(rows.values_list("stage_id").annotate(count=Count("pk")))


def _notes(
    rows: QuerySet[Deployment], note: Callable[[Deployment], str]
) -> dict[int, list[SiteNote]]:
    notes: dict[int, list[SiteNote]] = defaultdict(list)
    for row in rows.order_by("stage__index", "site__name")[:EXAMPLES]:
        notes[row.stage_id].append(SiteNote(site=row.site.name, note=note(row)))
    return notes


def _reason_of(row: Deployment) -> str:
    return row.reason or row.reason_code or "failed"


def _progress_of(row: Deployment, rollout: Rollout, now: datetime) -> str:
    """How far the site is; for a silent one also since when, and what ends the wait. In points of
    time, since an age would be another sentence at every tick."""
    progress = f"{row.state}: {row.reason}" if row.reason else row.state
    heard_at: datetime | None = row.heard_at  # type: ignore[attr-defined]  # annotated
    if heard_at is not None and heard_at >= now - fresh_within():
        return progress
    silent = f"silent since {heard_at:%Y-%m-%d %H:%M} UTC" if heard_at else "never heard of"
    if rollout.state not in _ENDING:
        return f"{progress}; {silent}; abort or roll back to stop waiting"
    if heard_at is None:
        return f"{progress}; {silent}"
    given_up = heard_at + PATIENCE * fresh_within()
    return f"{progress}; {silent}; not waited for after {given_up:%Y-%m-%d %H:%M} UTC"


def _reported(rollout: Rollout) -> QuerySet[Any]:
    """Reported state of the sites whose part in this rollout succeeded, with `in_stage`."""
    return SiteModel.objects.filter(
        model=rollout.model_id,
        site__deployments__rollout=rollout,
        site__deployments__kind=DeploymentKind.FORWARD,
        site__deployments__state=DeploymentState.SUCCEEDED,
    ).annotate(in_stage=F("site__deployments__stage"))


def _by_stage(rows: QuerySet[Any]) -> dict[int, int]:
    grouped = rows.order_by().values_list("in_stage").annotate(count=Count("pk"))
    return dict(grouped)


def _site_notes(
    rows: QuerySet[SiteModel], note: Callable[[SiteModel], str]
) -> dict[int, list[SiteNote]]:
    notes: dict[int, list[SiteNote]] = defaultdict(list)
    for row in rows.select_related("site").order_by("site__name")[:EXAMPLES]:
        notes[row.in_stage].append(SiteNote(site=row.site.name, note=note(row)))  # type: ignore[attr-defined]  # annotated
    return notes


def _age_of(row: SiteModel, now: datetime) -> str:
    if row.reported_at is None:
        return "never reported"
    return f"last report {(now - row.reported_at).total_seconds():.0f} s ago"


def _health_of(row: SiteModel) -> str:
    if row.reported_reason:
        return row.reported_reason
    serving = f"version {row.reported_serving}" if row.reported_serving else "nothing"
    return f"serves {serving}"
