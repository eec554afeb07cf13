"""When a stage that soaks has proven itself: which time counts, and which gates and which sites of
the stages before hold it. It must not know how a stage came to soak."""

from datetime import datetime

from controlplane.domain.decisions import CountSoak, Decision, PassStage, Pause, Wait
from controlplane.domain.gates import Verdict, judge
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import StageState as S
from controlplane.domain.sentences import count_sites, name_sites
from controlplane.domain.views import RolloutView, StageView


def decide_soaking(view: RolloutView, stage: StageView, now: datetime) -> Decision:
    """Soak counts only intervals whose evidence is fresh: an hour in which nobody reported, or in
    which this engine itself was down, is no evidence of health. Evidence that stays away is not
    waited for without end."""
    interval = max(0.0, (now - (stage.soak_counted_until or now)).total_seconds())
    counted = min(interval, view.fresh_within.total_seconds())
    missing = _evidence_missing(stage)
    if missing and (stage.unwell or not stage.promoted):
        return _inconclusive(stage, counted, _soak_sentence(stage, 0.0, missing))
    if not stage.promoted:
        if stage.soaked_seconds + counted < stage.soak_seconds:
            reason = _soak_sentence(stage, counted, "")
            return CountSoak(stage=stage.index, seconds=counted, reason=reason)
        gates = judge(stage.policy.gates, stage.gates, now, stage.accepted_at)
        if gates.verdict is not Verdict.PASS:
            return _inconclusive(stage, counted, f"stage {stage.name}: {gates.sentence}")
    if stage.policy.approval and not stage.approved:
        return Wait(
            reason_code="approval-pending",
            reason=f"stage {stage.name} is healthy and waits for an approval; approve the stage, "
            "or roll back",
        )
    if held := held_by_earlier(view, stage):
        return held
    healthy = f"{count_sites(stage.count(D.SUCCEEDED))} healthy for {stage.soak_seconds:g} s"
    return PassStage(
        stage=stage.index,
        seconds=0.0 if stage.promoted else counted,
        reason=f"stage {stage.name}: promoted by a person"
        if stage.promoted
        else f"stage {stage.name}: {healthy} with fresh reports",
    )


def _evidence_missing(stage: StageView) -> str:
    """Why this interval proves nothing, or nothing. Of the sites that serve the version, as many
    may be silent as the policy tolerates, and as many unwell as failures are left."""
    if stage.unwell:
        return name_sites(stage.unhealthy, stage.unhealthy_count)
    if stage.stale_count > stage.limits.stale_tolerated:
        return f"no fresh report: {name_sites(stage.stale, stage.stale_count)}"
    return ""


def _inconclusive(stage: StageView, seconds: float, reason: str) -> CountSoak | Pause:
    if stage.inconclusive_seconds + seconds >= stage.policy.inconclusive_seconds:
        return Pause(
            code="gate-inconclusive",
            reason=f"{reason}; no good evidence for {stage.policy.inconclusive_seconds:g} s: "
            "resume with retry to go on measuring, accept or rollback",
        )
    return CountSoak(stage=stage.index, seconds=0.0, inconclusive=seconds, reason=reason)


def _soak_sentence(stage: StageView, counted: float, held_because: str) -> str:
    done = min(stage.soaked_seconds + counted, stage.soak_seconds)
    sentence = f"stage {stage.name}: soaked {done:.0f} of {stage.soak_seconds:g} s"
    return f"{sentence}; not counting: {held_because}" if held_because else sentence


def what_holds_later(passed: StageView) -> str:
    """What speaks in a stage that has passed against going on after it, or nothing. Who accepted it
    waived the silence, and as many unwell as there were then."""
    waived = passed.accepted_at is not None and not passed.unwell
    return "" if waived else _evidence_missing(passed)


def held_by_earlier(view: RolloutView, current: StageView) -> Wait | None:
    """An early site can go bad late, or fall silent, perhaps because of the version. More of them
    than the stage's policy tolerates hold promotion until they are well or somebody decides."""
    for stage in view.stages:
        if stage.index >= current.index or stage.state is not S.PASSED:
            continue
        if missing := what_holds_later(stage):
            code = "earlier-site-unhealthy" if stage.unwell else "earlier-site-stale"
            return Wait(
                reason_code=code,
                reason=f"stage {current.name} waits: in stage {stage.name}, "
                f"{missing}; it goes on when they are healthy; or pause and resume with accept, "
                "retire the site, or roll back",
            )
    return None
