"""Rows to views: what `decide` gets to see. Reads only; a constant number of queries, however
many sites a rollout has."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from django.db.models import Case, Count, F, OuterRef, Q, QuerySet, Subquery, When

from controlplane.catalog.models import Version, VersionState
from controlplane.domain.gates import GateResult, Verdict
from controlplane.domain.policy import policy_of
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    ACTIVE_ROLLOUT,
    INFRASTRUCTURE_CODES,
    OPEN_STAGE,
    STAGE_FAILURES,
    DeploymentState,
    RolloutState,
    RolloutView,
    SiteNote,
    StageState,
    StageView,
)
from controlplane.fleet.models import Lease
from controlplane.rollouts.evidence import PATIENCE, fresh_within, heard_of, since
from controlplane.rollouts.models import (
    Approval,
    Deployment,
    DeploymentKind,
    GateVerdict,
    Rollout,
    SiteModel,
    Stage,
)
from controlplane.rollouts.waits import Waiting, overdue_deployments, waiting_of

EXAMPLES = 12  # sites named per question and rollout; the counts are always exact

_ENDING = (RolloutState.ROLLING_BACK, RolloutState.CANCELLING)
Notes = dict[int, list[SiteNote]]


def rollout_view(rollout: Rollout, now: datetime) -> RolloutView:
    """A snapshot for `decide`. Take it inside the transaction that will act on it."""
    stages = list(rollout.stages.all().order_by("index"))
    counts, retired = _counts(rollout)
    totals = _totals(counts)
    is_failed, is_active = totals(STAGE_FAILURES), totals(ACTIVE_DEPLOYMENT)
    succeeded = _reported(rollout) if totals({DeploymentState.SUCCEEDED}) else None
    stale, unhealthy = _ailing(succeeded, rollout, now) if succeeded is not None else ({}, {})
    failed = _notes(_failed(rollout), _reason_of) if is_failed else {}
    causes = _causes(rollout) if is_failed else {}
    unfinished = (
        _notes(_heard_of(_unfinished(rollout)), lambda row: _progress_of(row, rollout, now))
        if is_active
        else {}
    )
    late = overdue_deployments(rollout, stages, now) if is_active else []
    silent = _silent(rollout, now) if is_active else {}
    waiting = waiting_of(rollout, now) if totals({DeploymentState.PENDING}) else Waiting()
    policies = {stage.pk: policy_of(stage.policy) for stage in stages}
    asks = rollout.approval_required or any(policy.approval for policy in policies.values())
    approved = _approved(rollout, now) if asks else set()
    verdicts = _verdicts(rollout)

    def view_of(stage: Stage) -> StageView:
        policy = policies[stage.pk]
        overdue = [row for row in late if row.stage_id == stage.pk]
        held = waiting.held.get(stage.pk, [])
        return StageView(
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
            stale=tuple(stale.get(stage.pk, ())[:EXAMPLES]),
            stale_count=len(stale.get(stage.pk, ())),
            unhealthy=tuple(unhealthy.get(stage.pk, ())[:EXAMPLES]),
            unhealthy_count=len(unhealthy.get(stage.pk, ())),
            silent=silent.get(stage.pk, 0),
            policy=policy,
            trailing=stage.trailing,
            inconclusive_seconds=stage.inconclusive_seconds,
            promoted=stage.promoted_at is not None,
            approved=stage.pk in approved,
            accepted_at=stage.accepted_at,
            accepted_failures=stage.accepted_failures,
            gates=tuple(verdicts.get(stage.pk, ())),
            penalised=waiting.resting.get(stage.pk, 0),
            penalty_until=waiting.until.get(stage.pk),
            held=len(held),
            held_notes=tuple(held[:EXAMPLES]),
            retryable=sum(
                count
                for (stage_id, attempt, _), count in causes.items()
                if stage_id == stage.pk and attempt <= policy.retries
            ),
            infrastructure=sum(
                count
                for (stage_id, _, code), count in causes.items()
                if stage_id == stage.pk and code in INFRASTRUCTURE_CODES
            ),
            overdue=len(overdue),
            overdue_notes=tuple(_silence(row) for row in overdue[:EXAMPLES]),
            retired=retired.get(stage.pk, 0),
        )

    return RolloutView(
        model=rollout.model.name,
        version=str(rollout.version.number),
        state=RolloutState(rollout.state),
        cause=rollout.cause,
        fresh_within=fresh_within(),
        stages=tuple(view_of(stage) for stage in stages),
        start_at=rollout.start_at,
        approval_required=rollout.approval_required,
        approved=None in approved,
        blocked_by=_blocked_by(rollout),
        superseded_by=rollout.superseded_by_id,
        withdrawn=withdrawn(rollout.version),
        barrier=rollout.barrier,
        pause_code=rollout.pause_code,
    )


def withdrawn(version: Version) -> str:
    """Why the version may no longer be used, or nothing."""
    if version.state != VersionState.QUARANTINED:
        return ""
    return version.state_reason or "no reason given"


Counts = dict[tuple[int, str], dict[DeploymentState, int]]


def _counts(rollout: Rollout) -> tuple[Counts, dict[int, int]]:
    """The latest attempts by (stage id, kind) and state; and by stage id, how many still count
    though their site is no more: those that are not over, or succeeded in a stage that is not."""
    counts: Counts = defaultdict(dict)
    retired: dict[int, int] = defaultdict(int)
    rows = (
        Deployment.objects.filter(rollout=rollout, superseded=False)
        .order_by()
        .annotate(stands=Case(When(site__retired_at=None, then=True), default=False))
        .values_list("stage_id", "stage__state", "kind", "state", "stands")
        .annotate(count=Count("pk"))
    )
    for stage_id, stage_state, kind, text, stands, count in rows:
        state = DeploymentState(text)
        of_stage = counts[stage_id, kind]
        of_stage[state] = of_stage.get(state, 0) + count
        counts_still = state in ACTIVE_DEPLOYMENT | {DeploymentState.PENDING} or (
            state is DeploymentState.SUCCEEDED
            and kind == DeploymentKind.FORWARD
            and stage_state in OPEN_STAGE
        )
        if counts_still and not stands:
            retired[stage_id] += count
    return counts, retired


def _totals(counts: Counts) -> Callable[[Iterable[DeploymentState]], bool]:
    there = {state for of_stage in counts.values() for state in of_stage}
    return lambda states: not there.isdisjoint(states)


def _latest(rollout: Rollout, kind: str) -> QuerySet[Deployment]:
    return Deployment.objects.filter(rollout=rollout, kind=kind, superseded=False)


def _failed(rollout: Rollout) -> QuerySet[Deployment]:
    rows = _latest(rollout, DeploymentKind.FORWARD).filter(state__in=STAGE_FAILURES)
    return rows.select_related("site")


def _causes(rollout: Rollout) -> dict[tuple[int, int, str], int]:
    """Failed sites by (stage id, attempt, reason code); who timed out is not tried again."""
    rows = _latest(rollout, DeploymentKind.FORWARD).filter(state=DeploymentState.FAILED)
    grouped = (
        rows.order_by()
        .values_list("stage_id", "attempt", "reason_code")
        .annotate(count=Count("pk"))
    )
    return {(stage, attempt, code): count for stage, attempt, code, count in grouped}


def _unfinished(rollout: Rollout) -> QuerySet[Deployment]:
    """Who is on the way: there or back. While rolling back nobody goes there any more."""
    rows = Deployment.objects.filter(rollout=rollout, superseded=False)
    return rows.filter(state__in=ACTIVE_DEPLOYMENT).select_related("site")


def _heard_of(rows: QuerySet[Deployment]) -> QuerySet[Deployment]:
    """With `heard_at`: when the site's agent last called, None if it never did."""
    lease = Lease.objects.filter(agent__site=OuterRef("site"), agent__revoked_at=None)
    return rows.annotate(heard_at=Subquery(lease.values("last_seen_at")[:1]))


def _silent(rollout: Rollout, now: datetime) -> dict[int, int]:
    """By stage, the deployments on their way back, and in an aborted rollout those that finish,
    at sites whose agent was not heard of for long."""
    kinds = [DeploymentKind.ROLLBACK]
    if rollout.state == RolloutState.CANCELLING:
        kinds.append(DeploymentKind.FORWARD)
    rows = Deployment.objects.filter(
        rollout=rollout, kind__in=kinds, superseded=False, state__in=ACTIVE_DEPLOYMENT
    ).exclude(heard_of("site", now, PATIENCE))
    grouped = rows.order_by().select_related(None).values_list("stage_id")
    return dict(grouped.annotate(count=Count("pk")))


def _notes(rows: QuerySet[Deployment], note: Callable[[Deployment], str]) -> Notes:
    notes: Notes = defaultdict(list)
    for row in rows.order_by("stage__index", "site__name")[:EXAMPLES]:
        notes[row.stage_id].append(SiteNote(site=row.site.name, note=note(row)))
    return notes


def _reason_of(row: Deployment) -> str:
    return row.reason or row.reason_code or row.state.replace("_", " ")


def _progress_of(row: Deployment, rollout: Rollout, now: datetime) -> str:
    """How far the site is; for a silent one also since when, and what ends the wait. In points of
    time, since an age would be another sentence at every tick."""
    progress = f"{row.state}: {row.reason}" if row.reason else row.state
    heard_at: datetime | None = row.heard_at  # type: ignore[attr-defined]  # annotated
    if heard_at is not None and heard_at >= now - fresh_within():
        return progress
    silent = _since(heard_at)
    if rollout.state not in _ENDING:
        return f"{progress}; {silent}; abort or roll back to stop waiting"
    if heard_at is None:
        return f"{progress}; {silent}"
    given_up = heard_at + PATIENCE * fresh_within()
    return f"{progress}; {silent}; not waited for after {given_up:%Y-%m-%d %H:%M} UTC"


def _silence(row: Deployment) -> SiteNote:
    return SiteNote(site=row.site.name, note=_since(row.heard_at))  # type: ignore[attr-defined]  # annotated


def _since(heard_at: datetime | None) -> str:
    return f"silent since {heard_at:%Y-%m-%d %H:%M} UTC" if heard_at else "never heard of"


def _reported(rollout: Rollout) -> QuerySet[Any]:
    """Reported state of the sites whose part in this rollout succeeded, with `in_stage`."""
    return SiteModel.objects.filter(
        model=rollout.model_id,
        site__retired_at=None,
        site__deployments__rollout=rollout,
        site__deployments__kind=DeploymentKind.FORWARD,
        site__deployments__superseded=False,
        site__deployments__state=DeploymentState.SUCCEEDED,
    ).annotate(in_stage=F("site__deployments__stage"))


def _ailing(rows: QuerySet[Any], rollout: Rollout, now: datetime) -> tuple[Notes, Notes]:
    """Of the sites that succeeded, by stage id: those without a fresh report, and those that say
    they do not serve the version well. Who is fine, which is nearly everybody, is not fetched."""
    fresh = since("reported_at", "site__", now)
    well = Q(reported_serving=rollout.version.number, reported_healthy=True)
    ailing = rows.annotate(is_fresh=Case(When(fresh, then=True), default=False)).exclude(
        well, is_fresh=True
    )
    stale: Notes = defaultdict(list)
    unhealthy: Notes = defaultdict(list)
    for row in ailing.select_related("site").order_by("site__name"):
        into, note = (unhealthy, _health_of(row)) if row.is_fresh else (stale, _age_of(row, now))
        into[row.in_stage].append(SiteNote(site=row.site.name, note=note))
    return stale, unhealthy


def _age_of(row: SiteModel, now: datetime) -> str:
    """In a point of time: an age would be another sentence at every tick."""
    if row.reported_at is None:
        return "never reported"
    return f"last report at {row.reported_at:%Y-%m-%d %H:%M:%S} UTC"


def _health_of(row: SiteModel) -> str:
    if row.reported_reason:
        return row.reported_reason
    serving = f"version {row.reported_serving}" if row.reported_serving else "nothing"
    return f"serves {serving}"


def _approved(rollout: Rollout, now: datetime) -> set[int | None]:
    """What is approved now: None is the plan, else stage ids. An approval of another plan, or one
    that has expired, is none."""
    rows = Approval.objects.filter(
        rollout=rollout, plan_digest=rollout.plan_digest, expires_at__gt=now
    )
    return set(rows.values_list("stage_id", flat=True))


def _verdicts(rollout: Rollout) -> Mapping[int, list[GateResult]]:
    found: dict[int, list[GateResult]] = defaultdict(list)
    for row in GateVerdict.objects.filter(stage__rollout=rollout).order_by("gate"):
        found[row.stage_id].append(
            GateResult(
                gate=row.gate,
                verdict=Verdict(row.verdict),
                reason=row.reason,
                judged_at=row.judged_at,
                fresh_until=row.fresh_until,
            )
        )
    return found


def _blocked_by(rollout: Rollout) -> int | None:
    """The rollout a queued one waits for: the active one, or one that queued before it."""
    if rollout.state != RolloutState.QUEUED:
        return None
    ahead = Rollout.objects.filter(model=rollout.model_id).exclude(pk=rollout.pk)
    active = ahead.filter(state__in=ACTIVE_ROLLOUT).values_list("pk", flat=True).first()
    if active is not None:
        return int(active)
    queued = ahead.filter(state=RolloutState.QUEUED, pk__lt=rollout.pk).order_by("pk")
    first = queued.values_list("pk", flat=True).first()
    return None if first is None else int(first)
