"""Why a stage or a site's part stands where it stands, and since when: one sentence each.

What the engine wrote down goes first; here is only said what follows from the rows around it. It
must not decide or change anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.rollout import (
    FINAL_DEPLOYMENT,
    DeploymentState,
    RolloutState,
    StageState,
)
from controlplane.rollouts.freezes import Hold
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, Stage

_ON_ITS_WAY: Mapping[DeploymentState, str] = {
    DeploymentState.OFFERED: "offered; waiting for the site to take it up at its next poll",
    DeploymentState.STAGING: "the site fetches the bytes and verifies them",
    DeploymentState.STAGED: "verified on the site's disk; waiting for its turn to activate",
    DeploymentState.PROVING: "the site proves the version under another name",
    DeploymentState.ACTIVATING: "the site switches to the version",
    DeploymentState.VERIFYING: "the site verifies what it serves after the switch",
}
_OPEN_STAGE = (StageState.PENDING, StageState.RUNNING, StageState.SOAKING)
_MOVING = (RolloutState.RUNNING, RolloutState.PAUSED)


@dataclass(frozen=True, kw_only=True)
class Why:
    """`since` None: it waits for nothing any more."""

    sentence: str
    since: datetime | None


def of_stage(stage: Stage, rollout: Rollout) -> Why:
    """A stage before its turn waits for the one before it; the one at work says what the rollout
    says; one that is over keeps its last word."""
    if stage.state not in _OPEN_STAGE:
        return Why(sentence=stage.reason, since=None)
    if stage.state != StageState.PENDING:
        return Why(sentence=rollout.reason or stage.reason, since=rollout.waiting_since)
    if rollout.state in _MOVING and (before := _before(stage, rollout)):
        sentence = f"starts when stage {before.name} has passed; that one is {before.state}"
        return Why(sentence=sentence, since=rollout.started_at or rollout.created_at)
    return Why(sentence=rollout.reason, since=rollout.waiting_since)


def of_deployment(
    row: Deployment, stage: Stage, rollout: Rollout, *, held: Mapping[int, Hold], now: datetime
) -> Why:
    """`held`: sites that must not be offered anything now, by id, each with what holds it."""
    state = DeploymentState(row.state)
    if state in FINAL_DEPLOYMENT:
        return Why(sentence=row.reason or stage.reason, since=None)
    if state is DeploymentState.PENDING:
        since = stage.started_at or rollout.created_at
        return Why(sentence=_not_offered(row, stage, rollout, held, now), since=since)
    taken = row.leased_at if row.holds_lease else None
    sentence = row.reason or _ON_ITS_WAY[state]
    if row.kind == DeploymentKind.FORWARD and state is DeploymentState.STAGED:
        if rollout.state == RolloutState.PAUSED:
            sentence = f"{sentence}; nothing is activated while the rollout is paused"
        elif stage.state == StageState.PENDING:
            sentence = f"{sentence}; it activates when stage {stage.name} starts"
    return Why(sentence=sentence, since=taken or row.offered_at)


def _not_offered(
    row: Deployment, stage: Stage, rollout: Rollout, held: Mapping[int, Hold], now: datetime
) -> str:
    if rollout.state != RolloutState.RUNNING:
        return f"not offered yet: {rollout.reason}"
    if hold := held.get(row.site_id):
        return f"not offered yet: {hold.why}"
    if row.not_before is not None and row.not_before > now:
        return f"it failed before; offered again at {row.not_before:%Y-%m-%d %H:%M:%S} UTC"
    if stage.state == StageState.PENDING and not rollout.barrier:
        before = _before(stage, rollout)
        released = f"; it starts when stage {before.name} has passed" if before else ""
        return f"not offered yet: stage {stage.name} has not started{released}"
    if rollout.reason_code == "unproven-failures" and not row.failed_before:
        return f"not offered yet: {rollout.reason}"
    return f"not offered yet: other sites of stage {stage.name} go first, by its concurrency cap"


def _before(stage: Stage, rollout: Rollout) -> Stage | None:
    """The stage that has to pass first."""
    over = (StageState.PASSED, StageState.SKIPPED)
    earlier = [s for s in rollout.stages.all() if s.index < stage.index and s.state not in over]
    return earlier[-1] if earlier else None
