"""From rows to the situation that decides which verbs a person is offered."""

from datetime import datetime

from controlplane.domain.rollout import RolloutState, StageState
from controlplane.rollouts.freezes import active_freezes, sentence
from controlplane.rollouts.models import Rollout
from controlplane.web.access import FREEZE
from controlplane.web.approvals import ApprovalLine, approver_refused
from controlplane.web.facts import RolloutFacts, Totals
from controlplane.web.verbs import Situation


def situation_of(
    rollout: Rollout,
    facts: RolloutFacts,
    approvals: list[ApprovalLine],
    *,
    actor: str,
    may_freeze: bool,
    now: datetime,
    part: Totals | None = None,
) -> Situation:
    """Of the whole rollout, or with `part` of some of its sites."""
    soaking = [s.name for s in rollout.stages.all() if s.state == StageState.SOAKING]
    return Situation(
        state=RolloutState(rollout.state),
        totals=facts.totals() if part is None else part,
        under_way=facts.under_way,
        pause_code=rollout.pause_code,
        soaking=soaking[0] if soaking else "",
        missing=tuple(line.stage for line in approvals if line.missing),
        not_approver=approver_refused(rollout, actor),
        frozen="" if may_freeze else no_way_back(now),
    )


def no_way_back(now: datetime) -> str:
    """Why somebody who may not freeze cannot roll back now, or nothing."""
    freeze = active_freezes(now).order_by("pk").first()
    if freeze is None:
        return ""
    return f"Rolling back during a freeze needs the right to freeze ({FREEZE}); {sentence(freeze)}"
