"""What is said of a plan or of a stage: a person's yes, and the verdict of a gate. What follows
from it is decided by the engine."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from controlplane.domain.errors import Conflict, Forbidden
from controlplane.domain.gates import Verdict
from controlplane.domain.policy import policy_of
from controlplane.domain.rollout import FINAL_ROLLOUT, STARTED_STAGE, RolloutState, StageState
from controlplane.rollouts.models import Approval, GateVerdict, Rollout
from controlplane.rollouts.services import person_of
from controlplane.rollouts.verb_parts import find_stage, lock, lock_for, noted


def approve_rollout(
    *,
    rollout_id: int,
    plan_digest: str,
    reason: str,
    actor: str,
    now: datetime,
    stage_name: str | None = None,
    person: str = "",
) -> Rollout:
    """Says yes to the plan with this digest, or to leaving a stage of it.

    Raises `Conflict` (`plan-changed`, `approval-not-needed`), `Forbidden` (`approver-is-author`).
    """
    with transaction.atomic():
        rollout = lock_for(rollout_id, "approve")
        if plan_digest != rollout.plan_digest:
            raise Conflict(
                "plan-changed",
                f"The approval is for another plan than that of rollout {rollout_id}; look at the "
                "plan again.",
                extra={"plan_digest": rollout.plan_digest},
            )
        stage = None
        if stage_name is not None:
            stage = find_stage(rollout, stage_name)
            needed = policy_of(stage.policy).approval
            over = stage.state not in (StageState.PENDING, StageState.RUNNING, StageState.SOAKING)
        else:
            needed = rollout.approval_required
            over = rollout.state not in (RolloutState.QUEUED, RolloutState.PLANNED)
        if not needed or over:
            what = f"Stage {stage_name}" if stage_name else f"The plan of rollout {rollout_id}"
            raise Conflict("approval-not-needed", f"{what} waits for no approval.")
        if rollout.approval_by_other and (person or person_of(actor)) == rollout.author:
            raise Forbidden(
                "approver-is-author",
                f"{rollout.author} started the rollout; somebody else has to approve it.",
            )
        Approval.objects.create(
            rollout=rollout,
            stage=stage,
            plan_digest=plan_digest,
            actor=actor,
            reason=reason[:400],
            at=now,
            expires_at=now + timedelta(hours=settings.WAYPOST_APPROVAL_HOURS),
        )
        data: dict[str, object] = {"stage": stage_name, "plan_digest": plan_digest}
        return noted(rollout, "approved", reason, actor, now, data=data)


def record_verdict(
    *,
    rollout_id: int,
    stage_name: str,
    gate: str,
    verdict: Verdict,
    reason: str,
    evidence: dict[str, object],
    fresh_seconds: float | None,
    actor: str,
    now: datetime,
) -> GateVerdict:
    """Takes in what a gate says of a stage, with what it saw. The newest word counts."""
    with transaction.atomic():
        rollout = lock(rollout_id)
        stage = find_stage(rollout, stage_name)
        over = rollout.state in FINAL_ROLLOUT
        if over or (stage.state not in STARTED_STAGE and stage.state != StageState.PENDING):
            raise Conflict("stage-over", f"Stage {stage_name} is over ({stage.state}).")
        row, _ = GateVerdict.objects.update_or_create(
            stage=stage,
            gate=gate,
            defaults={
                "verdict": verdict,
                "reason": reason[:500],
                "evidence": evidence,
                "actor": actor,
                "judged_at": now,
                "fresh_until": now + timedelta(seconds=fresh_seconds) if fresh_seconds else None,
            },
        )
        data: dict[str, object] = {
            "stage": stage_name, "gate": gate, "verdict": verdict.value, "evidence": evidence,
        }  # fmt: skip
        noted(rollout, "judged", reason, actor, now, data=data)
        return row
