"""Rows to views: what `decide` gets to see. Reads only; a constant number of queries, however
many sites a rollout has."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db import DEFAULT_DB_ALIAS
from django.db.models import (
    BigIntegerField,
    Count,
    DateTimeField,
    Exists,
    OuterRef,
    QuerySet,
)

from controlplane.catalog.models import Version, VersionState
from controlplane.domain.gates import GateResult, Verdict
from controlplane.domain.policy import policy_of
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    ACTIVE_ROLLOUT,
    INFRASTRUCTURE_CODES,
    NOT_WAITED_FOR,
    NOTHING_SOUND,
    STAGE_FAILURES,
    DeploymentState,
    RolloutState,
    StageState,
)
from controlplane.domain.views import RolloutView, SiteNote, StageView, VariantView
from controlplane.fleet.models import MaintenanceWindow
from controlplane.rollouts.counts import Counts, counts_of
from controlplane.rollouts.evidence import PATIENCE, fresh_within, heard_of
from controlplane.rollouts.freezes import active_freezes
from controlplane.rollouts.models import (
    Approval,
    Deployment,
    DeploymentKind,
    Freeze,
    GateVerdict,
    Rollout,
    Stage,
)
from controlplane.rollouts.prepared import Slot, columns, prepared
from controlplane.rollouts.sightings import (
    EXAMPLES,
    ailing_notes,
    failed_notes,
    not_returned,
    silence,
    unfinished_notes,
)
from controlplane.rollouts.waits import Waiting, overdue_deployments, waiting_of

_STAGE = columns(Stage)


def stages_of(rollout: Rollout) -> list[Stage]:
    """In their order, with `is_judged`: whether some gate has said anything of it."""
    found = []
    for *values, is_judged in _stages(rollout=rollout.pk):
        stage = Stage.from_db(DEFAULT_DB_ALIAS, _STAGE, values)
        stage.is_judged = is_judged  # type: ignore[attr-defined]  # as if annotated
        found.append(stage)
    return found


@prepared
def _stages() -> QuerySet[Stage, Any]:
    verdicts = GateVerdict.objects.filter(stage=OuterRef("pk"))
    rows = Stage.objects.filter(rollout=Slot("rollout", BigIntegerField())).order_by("index")
    return rows.annotate(is_judged=Exists(verdicts)).values_list(*_STAGE, "is_judged")


def rollout_view(rollout: Rollout, stages: Sequence[Stage], now: datetime) -> RolloutView:
    """A snapshot for `decide`, of the stages as `stages_of` gave them. Take both inside the
    transaction that will act on it."""
    counts = counts_of(rollout, stages, now)
    returning = rollout.state == RolloutState.ROLLING_BACK
    is_failed, is_active = counts.any_in(STAGE_FAILURES), counts.any_in(ACTIVE_DEPLOYMENT)
    stale, unhealthy = ailing_notes(rollout, now) if counts.ailing else ({}, {})
    failed = failed_notes(rollout) if is_failed else {}
    causes = _causes(rollout) if is_failed else {}
    unfinished = unfinished_notes(rollout, now) if is_active else {}
    late = overdue_deployments(rollout, stages, now) if is_active else []
    returns = counts.any_in(ACTIVE_DEPLOYMENT, kind=DeploymentKind.ROLLBACK)
    silent = _silent(rollout, now) if returns or rollout.state == RolloutState.CANCELLING else {}
    waits = counts.any_in({DeploymentState.PENDING}) and (
        counts.held_back or is_frozen_somewhere(now) or has_windows()
    )
    waiting = waiting_of(rollout, now) if waits else Waiting()
    policies = {stage.pk: policy_of(stage.policy) for stage in stages}
    left = counts.any_in({DeploymentState.ROLLBACK_FAILED}) and returning
    unwaited = not_returned(rollout, NOT_WAITED_FOR) if left else {}
    unsound = not_returned(rollout, NOTHING_SOUND) if left else {}
    asks = rollout.approval_required or any(policy.approval for policy in policies.values())
    approved = _approved(rollout, now) if asks else set()
    judged = any(stage.is_judged for stage in stages)  # type: ignore[attr-defined]  # annotated
    verdicts = _verdicts(rollout) if judged else {}

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
            forward=counts.states.get((stage.pk, DeploymentKind.FORWARD), {}),
            rollback=counts.states.get((stage.pk, DeploymentKind.ROLLBACK), {}),
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
            held_by_person=waiting.held_by_person.get(stage.pk, 0),
            retryable=sum(
                count
                for (stage_id, attempt, _, _), count in causes.items()
                if stage_id == stage.pk and attempt <= policy.retries
            ),
            retrying=counts.retrying.get(stage.pk, 0),
            retries_ready=waiting.retries_ready.get(stage.pk, 0),
            infrastructure=sum(
                count
                for (stage_id, _, code, _), count in causes.items()
                if stage_id == stage.pk and code in INFRASTRUCTURE_CODES
            ),
            overdue=len(overdue),
            overdue_notes=tuple(
                SiteNote(site=row.site, note=silence(row.heard_at)) for row in overdue[:EXAMPLES]
            ),
            retired=counts.retired.get(stage.pk, 0),
            unwaited=len(unwaited.get(stage.pk, ())),
            unsound=len(unsound.get(stage.pk, ())),
            unsound_notes=tuple(unsound.get(stage.pk, ())[:EXAMPLES]),
            variants=_variants_of(stage, counts, causes, unhealthy.get(stage.pk, ())),
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


Causes = dict[tuple[int, int, str, str], int]


def _causes(rollout: Rollout) -> Causes:
    """Failed sites by (stage id, attempt, reason code, variant); who timed out is not tried
    again."""
    return {tuple(key): count for *key, count in _failed(rollout=rollout.pk)}


@prepared
def _failed() -> QuerySet[Deployment, Any]:
    rows = Deployment.objects.filter(
        rollout=Slot("rollout", BigIntegerField()),
        kind=DeploymentKind.FORWARD,
        superseded=False,
        state=DeploymentState.FAILED,
    ).order_by()
    grouped = rows.values_list("stage_id", "attempt", "reason_code", "variant")
    return grouped.annotate(count=Count("pk"))


def is_frozen_somewhere(now: datetime) -> bool:
    return bool(_freezes(now=now))


def has_windows() -> bool:
    """Whether there is any maintenance window, whomever it is for."""
    return bool(_windows())


@prepared
def _freezes() -> QuerySet[Freeze, Any]:
    now: Any = Slot("now", DateTimeField())
    return active_freezes(now).order_by().values_list("pk")[:1]


@prepared
def _windows() -> QuerySet[MaintenanceWindow, Any]:
    return MaintenanceWindow.objects.order_by().values_list("pk")[:1]


def _variants_of(
    stage: Stage, counts: Counts, causes: Causes, unhealthy: Iterable[SiteNote]
) -> tuple[VariantView, ...]:
    """One for each build that sites of the stage get, where there are several."""
    unwell = Counter(note.variant for note in unhealthy)
    return tuple(
        VariantView(
            name=name,
            forward=forward,
            unhealthy_count=unwell[name],
            retrying=counts.builds_retrying.get((stage.pk, name), 0),
            infrastructure=sum(
                count
                for (stage_id, _, code, variant), count in causes.items()
                if (stage_id, variant) == (stage.pk, name) and code in INFRASTRUCTURE_CODES
            ),
        )
        for name, forward in sorted(counts.builds.get(stage.pk, {}).items())
    )


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
        found[row.stage_id].append(result_of(row))
    return found


def result_of(row: GateVerdict) -> GateResult:
    return GateResult(
        gate=row.gate,
        verdict=Verdict(row.verdict),
        reason=row.reason,
        judged_at=row.judged_at,
        fresh_until=row.fresh_until,
    )


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
