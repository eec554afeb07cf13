"""What `decide` gets to see of the simulated centre.

Follows `rollouts/snapshots.py`, without the words: names and reasons of sites are left out."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from controlplane.domain.rollout import ACTIVE_DEPLOYMENT, INFRASTRUCTURE_CODES, NOTHING_SOUND
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.views import RolloutView, StageView
from controlplane.ops.simulation.clock import moment
from controlplane.ops.simulation.rows import Rollout, Stage
from controlplane.ops.simulation.site_steps import is_rested, is_retryable

if TYPE_CHECKING:
    from controlplane.ops.simulation.centre import Centre


def rollout_view(centre: Centre, rollout: Rollout, now: float) -> RolloutView:
    return RolloutView(
        model=rollout.version.model,
        version=str(rollout.version.number),
        state=rollout.state,
        cause=rollout.cause,
        fresh_within=timedelta(seconds=centre.fresh_seconds),
        stages=tuple(_stage_view(centre, rollout, stage, now) for stage in rollout.stages),
        blocked_by=centre.blocked_by(rollout),
        superseded_by=rollout.superseded_by,
        withdrawn="quarantined" if rollout.version in centre.quarantined else "",
        barrier=rollout.barrier,
        approval_required=rollout.approval_required,
        approved=rollout.approved,
    )


def _stage_view(centre: Centre, rollout: Rollout, stage: Stage, now: float) -> StageView:
    stale = unhealthy = 0
    if stage.forward[D.SUCCEEDED]:
        stale, unhealthy = centre.ailing(rollout, stage, now)
    penalised, held, ready = _waiting(centre, stage, now) if stage.forward[D.PENDING] else (0, 0, 0)
    retryable, infrastructure = _causes(stage) if stage.forward[D.FAILED] else (0, 0)
    is_active = any(stage.forward[state] for state in ACTIVE_DEPLOYMENT)
    until = stage.soak_counted_until
    return StageView(
        index=stage.index,
        name=stage.name,
        state=stage.state,
        soak_seconds=stage.soak_seconds,
        soaked_seconds=stage.soaked_seconds,
        soak_counted_until=None if until is None else moment(until),
        forward=stage.forward,
        rollback=stage.rollback,
        stale_count=stale,
        unhealthy_count=unhealthy,
        silent=_silent(centre, rollout, stage, now),
        policy=stage.policy,
        trailing=stage.trailing,
        inconclusive_seconds=stage.inconclusive_seconds,
        promoted=stage.promoted,
        approved=stage.approved,
        gates=tuple(stage.gates.values()),
        accepted_at=None if stage.accepted_at is None else moment(stage.accepted_at),
        accepted_failures=stage.accepted_failures,
        penalised=penalised,
        held=held,
        retryable=retryable,
        retrying=stage.retrying,
        retries_ready=ready,
        infrastructure=infrastructure,
        overdue=len(centre.overdue(stage, now)) if is_active else 0,
        retired=_retired(centre, rollout, stage) if centre.retired else 0,
        unsound=sum(d.reason_code == NOTHING_SOUND and d.stage is stage for d in rollout.rollback),
    )


def _waiting(centre: Centre, stage: Stage, now: float) -> tuple[int, int, int]:
    """Of the pending: who rest in the penalty box, whom a freeze or a pin holds, and who is to be
    tried again now."""
    if not (centre.freezes or centre.pins or stage.policy.retries or stage.retrying):
        return 0, 0, 0
    penalised = held = ready = 0
    for deployment in stage.deployments:
        if deployment.state is D.PENDING:
            if not is_rested(deployment, now):
                penalised += 1
            elif centre.is_held(deployment.site, deployment.rollout.version.model):
                held += 1
            elif deployment.failed_before:
                ready += 1
    return penalised, held, ready


def _causes(stage: Stage) -> tuple[int, int]:
    """Of the failed: with attempts left, and for reasons that say nothing of the version."""
    if stage.causes[0] != stage.changes:
        failed = [d for d in stage.deployments if d.state is D.FAILED]
        stage.causes = (
            stage.changes,
            sum(is_retryable(d) for d in failed),
            sum(d.reason_code in INFRASTRUCTURE_CODES for d in failed),
        )
    return stage.causes[1:]


def _retired(centre: Centre, rollout: Rollout, stage: Stage) -> int:
    now = (stage.changes, len(centre.retired))
    if stage.left[:2] != now:
        stage.left = (*now, _left_behind(centre, rollout, stage))
    return stage.left[2]


def _left_behind(centre: Centre, rollout: Rollout, stage: Stage) -> int:
    there = sum(centre.is_left_behind(d) for d in stage.deployments)
    back = sum(centre.is_left_behind(d) for d in rollout.rollback if d.stage is stage)
    return there + back


def _silent(centre: Centre, rollout: Rollout, stage: Stage, now: float) -> int:
    """On their way back, or finishing, whose agent was not heard of for so long that nobody waits
    for it."""
    rows = [d for d in rollout.rollback if d.stage is stage] if rollout.rollback else []
    if rollout.state is R.CANCELLING:
        rows += stage.deployments
    if not rows:
        return 0
    since = now - centre.patience * centre.fresh_seconds
    return sum(d.state in ACTIVE_DEPLOYMENT and not centre.heard_of(d.site, since) for d in rows)
