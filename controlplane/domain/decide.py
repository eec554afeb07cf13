"""When a rollout goes on, holds or turns back: `decide(view, now)`.

Safety first: what speaks against a version is looked at before anything that would go on with it,
in every state that could still promote. Nothing here reads a clock, a row or a site."""

from collections.abc import Iterable
from datetime import datetime

from controlplane.domain.gates import Verdict, judge
from controlplane.domain.policy import OnFailure, OnSilent
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    BEFORE_SWITCH,
    FINAL_ROLLOUT,
    STAGE_FAILURES,
    STARTED_STAGE,
    Begin,
    BeginSoak,
    CallBack,
    CountSoak,
    Decision,
    EndOverdue,
    Finish,
    OfferSites,
    PassStage,
    Pause,
    Release,
    RemoveRetired,
    RetryFailed,
    RollBack,
    RolloutView,
    SiteNote,
    SkipStage,
    StageView,
    StartStage,
    Wait,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S


def decide(view: RolloutView, now: datetime) -> Decision:
    """The next thing to do with a rollout."""
    if view.state in FINAL_ROLLOUT:
        return Wait(reason_code="final", reason=view.cause)
    for stage in view.stages:
        if stage.retired:
            return RemoveRetired(
                stage=stage.index,
                reason=f"stage {stage.name}: {_sites(stage.retired)} retired",
            )
    match view.state:
        case R.QUEUED:
            return _decide_queued(view)
        case R.PLANNED:
            return _decide_planned(view, now)
        case R.ROLLING_BACK:
            return _decide_rolling_back(view)
        case R.CANCELLING:
            return _decide_cancelling(view)
    if stopped := _stopped(view, now):
        return stopped
    if view.state is R.PAUSED:
        released = view.pause_code == "version-withdrawn" and not view.withdrawn
        then = "; the version was released since: resume, or roll back" if released else ""
        return Wait(reason_code="paused", reason=view.cause + then)
    return _decide_running(view, now)


def _decide_queued(view: RolloutView) -> Decision:
    if view.blocked_by is not None:
        return Wait(
            reason_code="queued",
            reason=f"rollout {view.blocked_by} of {view.model} goes first; this one follows it",
        )
    return Release(reason=f"the rollout of {view.model} before this one is over")


def _decide_planned(view: RolloutView, now: datetime) -> Decision:
    if view.withdrawn:
        return _withdrawn(view)
    if view.approval_required and not view.approved:
        return Wait(
            reason_code="approval-pending",
            reason="the plan waits for an approval; approve it, or abort the rollout",
        )
    if view.start_at is not None and view.start_at > now:
        return Wait(reason_code="scheduled", reason=f"starts at {view.start_at:%Y-%m-%d %H:%M} UTC")
    return Begin(reason=f"starting version {view.version} of {view.model}")


def _withdrawn(view: RolloutView) -> Wait:
    return Wait(
        reason_code="version-withdrawn",
        reason=f"version {view.version} is quarantined ({view.withdrawn}); abort the rollout, or "
        "release the version",
    )


# What speaks against the version


def _stopped(view: RolloutView, now: datetime) -> RollBack | Pause | RetryFailed | None:
    """What turns the rollout back or stops it, whoever else has paused it meanwhile."""
    running = view.state is R.RUNNING
    if view.withdrawn and running:
        return Pause(code="version-withdrawn", reason=_withdrawn(view).reason)
    for stage in view.stages:
        if running and stage.retryable:
            return RetryFailed(
                stage=stage.index,
                reason=f"stage {stage.name}: {_names(stage.failed, stage.retryable)}; "
                f"tried again in {stage.policy.retry_after_seconds:g} s",
            )
    bad = [stage for stage in view.stages if _over_its_limit(stage)]
    if bad:
        return _stop(view, bad[0], tuple(s.index for s in bad), _failure_sentence(bad[0]))
    for stage in view.stages:
        if stage.state not in STARTED_STAGE:
            continue
        gates = judge(stage.policy.gates, stage.gates, now, stage.accepted_at)
        if gates.verdict is Verdict.FAIL:
            sentence = f"stage {stage.name}: {gates.sentence}"
            return _stop(view, stage, (stage.index,), sentence, code="gate-failed")
    return None


def _over_its_limit(stage: StageView) -> bool:
    """Also of a stage that has not started: with a barrier its sites hold the bytes already."""
    if stage.state in (S.SKIPPED, S.CANCELLED, S.FAILED):
        return False
    return stage.failures > max(stage.limits.failures_tolerated, stage.accepted_failures)


def _failure_sentence(stage: StageView) -> str:
    limits = stage.limits
    named = _names(stage.failed, stage.failures)
    if not limits.failures_tolerated:
        return f"stage {stage.name}: {named}"
    return (
        f"stage {stage.name}: {stage.failures} of {limits.sites} failed, "
        f"{limits.failures_tolerated} tolerated: {named}"
    )


def _stop(
    view: RolloutView,
    stage: StageView,
    failed_stages: tuple[int, ...],
    reason: str,
    code: str = "",
) -> RollBack | Pause | None:
    """By the stage's policy: turn back, or ask a person. Already paused is asked already."""
    infrastructure = not code and stage.infrastructure >= stage.count(*STAGE_FAILURES)
    if stage.policy.on_failure is OnFailure.ROLLBACK and not infrastructure:
        return RollBack(
            reason_code=code or "deployment-failed", reason=reason, failed_stages=failed_stages
        )
    if view.state is R.PAUSED:
        return None
    if infrastructure:
        return Pause(
            code="infrastructure",
            reason=f"{reason}; the sites' surroundings failed, which says nothing of the version: "
            "resume with retry, accept or rollback",
        )
    return Pause(
        code=code or "stage-failed", reason=f"{reason}; resume with retry, accept or rollback"
    )


# Going on


def _decide_running(view: RolloutView, now: datetime) -> Decision:
    for stage in view.stages:
        if stage.state in STARTED_STAGE and (overdue := _overdue(stage)):
            return overdue
    for stage in view.stages:
        if stage.state in (S.SOAKING, S.PASSED) and (again := _offer(stage)):
            return again
    current = next((s for s in view.stages if s.state not in (S.PASSED, S.SKIPPED)), None)
    if current is None:
        return _decide_finish(view)
    if current.state is S.SOAKING:
        return _decide_soaking(view, current, now)
    if held := _held_by_earlier(view, current):
        return held
    if current.state is S.PENDING:
        return _decide_pending(view, current)
    return _decide_stage(view, current)


def _decide_finish(view: RolloutView) -> Decision:
    under_way = sum(
        s.count(D.PENDING, *ACTIVE_DEPLOYMENT) + _returning(s) - s.silent for s in view.stages
    )
    if under_way > 0:  # tried again after their stage had passed, or sent back by a person
        notes = [note for stage in view.stages for note in stage.unfinished]
        return Wait(
            reason_code="deployments-unfinished",
            reason=f"all stages passed; waiting for {_names(notes, under_way)}",
        )
    done = sum(stage.count(D.SUCCEEDED) for stage in view.stages)
    left = sum(stage.planned for stage in view.stages) - done
    reason = f"version {view.version} is verified at {_sites(done)}"
    if not left:
        return Finish(state=R.SUCCEEDED, reason=reason)
    return Finish(state=R.SUCCEEDED_WITH_EXCEPTIONS, reason=f"{reason}; not at {_sites(left)}")


def _decide_pending(view: RolloutView, stage: StageView) -> Decision:
    if not stage.sites:
        return _decide_empty(view, stage)
    return StartStage(stage=stage.index, reason=f"stage {stage.name}: {_sites(stage.sites)}")


def _decide_empty(view: RolloutView, stage: StageView) -> Decision:
    """A stage the plan left empty asks for nothing. One that lost its sites, and was to be the
    first evidence, proves nothing: a person must say whether to go on without it."""
    first = not any(s.state is S.PASSED for s in view.stages)
    later = any(s.index > stage.index and s.sites for s in view.stages)
    if stage.planned and first and later and stage.accepted_at is None and not stage.trailing:
        return Pause(
            code="canary-empty",
            reason=f"stage {stage.name} has lost all of its {_sites(stage.planned)} and proves "
            "nothing; resume with accept to go on without it, or rollback",
        )
    return SkipStage(
        stage=stage.index,
        reason="every site has left the stage" if stage.planned else "the stage selects no site",
    )


def _decide_stage(view: RolloutView, stage: StageView) -> Decision:
    if not stage.sites:
        return _decide_empty(view, stage)
    for each in view.stages if view.barrier else (stage,):
        if offer := _offer(each):
            return offer
    under_way = stage.count(D.PENDING, *ACTIVE_DEPLOYMENT)
    limits = stage.limits
    if under_way:
        return _wait_for_sites(stage, under_way)
    done, accepted = stage.count(D.SUCCEEDED), stage.accepted_at is not None
    if done < limits.successes_required and not accepted:
        reason = (
            f"stage {stage.name}: {done} of {limits.sites} verified, "
            f"{limits.successes_required} required: {_names(stage.failed, stage.failures)}"
        )
        stopped = _stop(view, stage, (stage.index,), reason)
        assert stopped is not None  # it is running
        return stopped
    if not done:
        return SkipStage(stage=stage.index, reason="accepted with no site verified")
    return BeginSoak(stage=stage.index, reason=f"stage {stage.name}: verified at {_sites(done)}")


def _overdue(stage: StageView) -> EndOverdue | None:
    if not stage.overdue or (stage.policy.on_silent is OnSilent.WAIT and not stage.trailing):
        return None
    defer = stage.trailing or stage.policy.on_silent is OnSilent.DEFER
    return EndOverdue(
        stage=stage.index,
        defer=defer,
        reason=f"stage {stage.name}: {_names(stage.overdue_notes, stage.overdue)}; "
        + ("put off, and who had begun counts as failed" if defer else "counted as failed"),
    )


def _offer(stage: StageView) -> OfferSites | None:
    if stage.state in (S.SKIPPED, S.CANCELLED, S.FAILED):
        return None
    room = stage.limits.max_concurrent - stage.count(*ACTIVE_DEPLOYMENT)
    count = min(room, stage.count(D.PENDING) - stage.penalised - stage.held)
    if count <= 0:
        return None
    return OfferSites(
        stage=stage.index,
        count=count,
        reason=f"stage {stage.name}: offered to {_sites(count)}",
    )


def _wait_for_sites(stage: StageView, under_way: int) -> Wait:
    active = stage.count(*ACTIVE_DEPLOYMENT)
    progress = f"stage {stage.name}: {stage.count(D.SUCCEEDED)} of {stage.sites} verified"
    if active or not (stage.held or stage.penalised):
        held = f"; held: {_names(stage.held_notes, stage.held)}" if stage.held else ""
        return Wait(
            reason_code="deployments-unfinished",
            reason=f"{progress}; waiting for {_names(stage.unfinished, under_way)}{held}",
        )
    if stage.held:
        return Wait(
            reason_code="offers-held",
            reason=f"{progress}; held: {_names(stage.held_notes, stage.held)}",
        )
    until = f" until {stage.penalty_until:%H:%M:%S} UTC" if stage.penalty_until else ""
    return Wait(
        reason_code="penalty-box",
        reason=f"{progress}; {_sites(stage.penalised)} failed and rest{until} before the next try",
    )


def _decide_soaking(view: RolloutView, stage: StageView, now: datetime) -> Decision:
    """Soak counts only intervals whose evidence is fresh: an hour in which nobody reported, or in
    which this engine itself was down, is no evidence of health. Evidence that stays away is not
    waited for without end."""
    if not stage.count(D.SUCCEEDED) and not stage.count(D.PENDING, *ACTIVE_DEPLOYMENT):
        return _decide_empty(view, stage)
    interval = max(0.0, (now - (stage.soak_counted_until or now)).total_seconds())
    counted = min(interval, view.fresh_within.total_seconds())
    missing = _evidence_missing(stage)
    against = _unwell(stage) and stage.accepted_at is None
    if missing and (against or not stage.promoted):
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
    if held := _held_by_earlier(view, stage):
        return held
    healthy = f"{_sites(stage.count(D.SUCCEEDED))} healthy for {stage.soak_seconds:g} s"
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
    if _unwell(stage):
        return _names(stage.unhealthy, stage.unhealthy_count)
    if stage.stale_count > stage.limits.stale_tolerated:
        return f"no fresh report: {_names(stage.stale, stage.stale_count)}"
    return ""


def _unwell(stage: StageView) -> bool:
    spare = max(stage.limits.failures_tolerated, stage.accepted_failures) - stage.failures
    return stage.unhealthy_count > max(0, spare)


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


def _held_by_earlier(view: RolloutView, current: StageView) -> Wait | None:
    """An early site can go bad late, or fall silent, perhaps because of the version. More of them
    than the stage's policy tolerates hold promotion until they are well or somebody decides."""
    for stage in view.stages:
        if stage.index >= current.index or stage.state is not S.PASSED or stage.accepted_at:
            continue
        if missing := _evidence_missing(stage):
            code = "earlier-site-unhealthy" if _unwell(stage) else "earlier-site-stale"
            return Wait(
                reason_code=code,
                reason=f"stage {current.name} waits: in stage {stage.name}, "
                f"{missing}; it goes on when they are healthy; or pause and resume with accept, "
                "retire the site, or roll back",
            )
    return None


# Coming back


def _decide_cancelling(view: RolloutView) -> Decision:
    if early := sum(stage.count(*BEFORE_SWITCH) for stage in view.stages):
        return CallBack(reason=f"{view.cause}; {_sites(early)} had not switched after all")
    busy = sum(stage.count(*ACTIVE_DEPLOYMENT) + _returning(stage) for stage in view.stages)
    silent = sum(stage.silent for stage in view.stages)
    if busy > silent:
        notes = [note for stage in view.stages for note in stage.unfinished]
        return Wait(
            reason_code="switching",
            reason=f"{view.cause}; sites already switching finish: {_names(notes, busy)}",
        )
    end = R.CANCELLED if view.superseded_by is None else R.SUPERSEDED
    return Finish(state=end, reason=view.cause + _not_waited_for(silent))


def _decide_rolling_back(view: RolloutView) -> Decision:
    totals = {state: sum(s.rollback.get(state, 0) for s in view.stages) for state in D}
    open_count = totals[D.PENDING] + sum(totals[state] for state in ACTIVE_DEPLOYMENT)
    silent = sum(stage.silent for stage in view.stages)
    if open_count > silent:
        notes = [note for stage in view.stages for note in stage.unfinished]
        return Wait(
            reason_code="rollback-unfinished",
            reason=f"{view.cause}; waiting for {_names(notes, open_count)} to return; a "
            "retired site is not waited for",
        )
    failed = totals[D.ROLLBACK_FAILED]
    if failed or silent:
        could_not = f"; {_sites(failed)} could not return" if failed else ""
        reason = f"{view.cause}{could_not}{_not_waited_for(silent)}"
        return Finish(state=R.ROLLBACK_INCOMPLETE, reason=reason)
    returned = _sites(totals[D.ROLLED_BACK])
    return Finish(state=R.ROLLED_BACK, reason=f"{view.cause}; {returned} returned")


def _not_waited_for(silent: int) -> str:
    """Their wish stands without this rollout: an agent that comes back follows it."""
    return (
        f"; not waited for {_sites(silent)} long silent: called back when heard of"
        if silent
        else ""
    )


def _returning(stage: StageView) -> int:
    """Sites on their way back."""
    return sum(stage.rollback.get(state, 0) for state in ACTIVE_DEPLOYMENT)


# Words


def _sites(count: int) -> str:
    return "1 site" if count == 1 else f"{count} sites"


def _names(notes: Iterable[SiteNote], count: int) -> str:
    """Up to three sites by name, the rest as a number: a reason must fit a line."""
    first = list(notes)[:3]
    if not first:
        return _sites(count)
    shown = ", ".join(f"{n.site} ({n.note})" if n.note else n.site for n in first)
    more = count - len(first)
    return f"{shown} and {more} more" if more > 0 else shown
