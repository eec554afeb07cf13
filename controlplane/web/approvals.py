"""Which approvals a rollout asks for, which it has, and who may give one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.policy import policy_of
from controlplane.domain.rollout import RolloutState, StageState
from controlplane.rollouts.models import Approval, Rollout, Stage
from controlplane.rollouts.services import person_of

_OPEN_STAGES = (StageState.PENDING, StageState.RUNNING, StageState.SOAKING)


@dataclass(frozen=True, kw_only=True)
class ApprovalLine:
    """One approval that is asked for. `stage` is empty for that of the plan; `missing` means that
    the rollout stands or will stand still for it."""

    stage: str
    given: tuple[Approval, ...]
    valid: bool
    missing: bool

    @property
    def what(self) -> str:
        return f"Stage {self.stage}" if self.stage else "The plan"


def approval_lines(
    rollout: Rollout, approvals: Sequence[Approval], now: datetime
) -> list[ApprovalLine]:
    """In the order in which they are needed."""
    lines = []
    if rollout.approval_required:
        waiting = rollout.state in (RolloutState.QUEUED, RolloutState.PLANNED)
        lines.append(_line(rollout, None, approvals, now, waiting=waiting))
    for stage in rollout.stages.all():
        if policy_of(stage.policy).approval:
            waiting = stage.state in _OPEN_STAGES
            lines.append(_line(rollout, stage, approvals, now, waiting=waiting))
    return lines


def _line(
    rollout: Rollout,
    stage: Stage | None,
    approvals: Sequence[Approval],
    now: datetime,
    *,
    waiting: bool,
) -> ApprovalLine:
    given = tuple(row for row in approvals if row.stage_id == (stage.pk if stage else None))
    valid = any(row.plan_digest == rollout.plan_digest and row.expires_at > now for row in given)
    return ApprovalLine(
        stage=stage.name if stage else "",
        given=given,
        valid=valid,
        missing=waiting and not valid,
    )


def approver_refused(rollout: Rollout, actor: str) -> str:
    """Why this person's yes would not count, or nothing."""
    if rollout.approval_by_other and person_of(actor) == rollout.author:
        return "You started it; somebody else has to approve it."
    return ""
