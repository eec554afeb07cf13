"""When a rollout goes on, holds or turns back: `decide(view, now)`.

Safety first: what speaks against a version is looked at before anything that would go on with it,
in every state that could still promote. Nothing here reads a clock, a row or a site."""

from dataclasses import replace
from datetime import datetime

from controlplane.domain.decisions import (
    Begin,
    BeginSoak,
    Decision,
    EndOverdue,
    Finish,
    OfferSites,
    Pause,
    Release,
    RemoveRetired,
    RetryFailed,
    RollBack,
    SkipStage,
    StartStage,
    Wait,
)
from controlplane.domain.gates import Verdict, judge
from controlplane.domain.policy import OnFailure, OnSilent
from controlplane.domain.returning import decide_cancelling, decide_rolling_back, returning
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    FINAL_ROLLOUT,
    STAGE_FAILURES,
    STARTED_STAGE,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.domain.sentences import count_sites, name_sites
from controlplane.domain.soaking import decide_soaking, held_by_earlier
from controlplane.domain.views import RolloutView, StageView, VariantView


def decide(view: RolloutView, now: datetime) -> Decision:
    """The next thing to do with a rollout."""
    if view.state in FINAL_ROLLOUT:
        return Wait(reason_code="final", reason=view.cause)
    for stage in view.stages:
        if stage.retired:
            return RemoveRetired(
                stage=stage.index,
                reason=f"stage {stage.name}: {count_sites(stage.retired)} retired",
            )
    match view.state:
        case R.QUEUED:
            return _decide_queued(view)
        case R.PLANNED:
            return _decide_planned(view, now)
        case R.ROLLING_BACK:
            return decide_rolling_back(view)
        case R.CANCELLING:
            return decide_cancelling(view)
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
                reason=f"stage {stage.name}: {name_sites(stage.failed, stage.retryable)}; "
                f"tried again in {stage.policy.retry_after_seconds:g} s",
            )
    bad = [stage for stage in view.stages if _over_its_limit(stage)]
    for stage in bad:
        failed_stages = tuple(s.index for s in bad)
        if stop := _stop(view, stage, failed_stages, _failure_sentence(stage)):
            return stop
    for stage in view.stages:
        if stage.state not in STARTED_STAGE:
            continue
        gates = judge(stage.policy.gates, stage.gates, now, stage.accepted_at)
        if gates.verdict is Verdict.FAIL:
            sentence = f"stage {stage.name}: {gates.sentence}"
            if stop := _stop(view, stage, (stage.index,), sentence, code="gate-failed"):
                return stop
    return None


def _over_its_limit(stage: StageView) -> bool:
    """Also of a stage that has not started: with a barrier its sites hold the bytes already."""
    if stage.state in (S.SKIPPED, S.CANCELLED, S.FAILED):
        return False
    return stage.failures > stage.failures_tolerated or stage.broken_variant is not None


def _failure_sentence(stage: StageView) -> str:
    if variant := stage.broken_variant:
        return _variant_sentence(stage, variant)
    limits = stage.limits
    named = name_sites(stage.failed, stage.failures)
    if not limits.failures_tolerated:
        return f"stage {stage.name}: {named}"
    return (
        f"stage {stage.name}: {stage.failures} of {limits.sites} failed, "
        f"{limits.failures_tolerated} tolerated: {named}"
    )


def _variant_sentence(stage: StageView, broken: VariantView) -> str:
    """Which build fails, and how the others do: it may be the build, and not the version."""
    notes = [note for note in stage.failed if note.variant == broken.name]
    tolerated = stage.tolerated_of(broken)
    borne = f" ({tolerated} tolerated)" if tolerated else ""
    named = f": {name_sites(notes, broken.failures)}" if notes else ""
    others = [
        f"variant {v.name}: {v.failures} of {v.sites}" for v in stage.variants if v is not broken
    ]
    return (
        f"stage {stage.name}: {broken.failures} of {count_sites(broken.sites)} of variant "
        f"{broken.name} failed{borne}{named}" + "".join(f"; {each}" for each in others)
    )


def _stop(
    view: RolloutView,
    stage: StageView,
    failed_stages: tuple[int, ...],
    reason: str,
    code: str = "",
) -> RollBack | Pause | None:
    """By the stage's policy: turn back, or ask a person. Already paused is asked already."""
    infrastructure = not code and _by_surroundings(stage)
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


def _by_surroundings(stage: StageView) -> bool:
    """Whether all that failed, or all with the build that stops it, failed for reasons that say
    nothing of the version."""
    if stage.infrastructure >= stage.count(*STAGE_FAILURES):
        return True
    broken = stage.broken_variant
    return (
        broken is not None
        and stage.failures <= stage.failures_tolerated
        and broken.infrastructure >= broken.failures
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
        if current.count(D.SUCCEEDED):
            return decide_soaking(view, current, now)
        # What soaked has left the stage, and was no evidence for those that come after it.
        if under_way := current.count(D.PENDING, *ACTIVE_DEPLOYMENT):
            return replace(_wait_for_sites(current, under_way), soak_anew=current.index)
        return _decide_empty(view, current)
    if held := held_by_earlier(view, current):
        return held
    if current.state is S.PENDING:
        return _decide_pending(view, current)
    return _decide_stage(view, current)


def _decide_finish(view: RolloutView) -> Decision:
    under_way = sum(
        s.count(D.PENDING, *ACTIVE_DEPLOYMENT) + returning(s) - s.silent for s in view.stages
    )
    if under_way > 0:  # tried again after their stage had passed, or sent back by a person
        for stage in view.stages:
            if stage.count(D.PENDING):  # what keeps it from being offered is worth saying
                return _wait_for_sites(stage, stage.count(D.PENDING, *ACTIVE_DEPLOYMENT))
        notes = [note for stage in view.stages for note in stage.unfinished]
        return Wait(
            reason_code="deployments-unfinished",
            reason=f"all stages passed; waiting for {name_sites(notes, under_way)}",
        )
    done = sum(stage.count(D.SUCCEEDED) for stage in view.stages)
    left = sum(stage.planned for stage in view.stages) - done
    if not done:
        return Finish(state=R.CANCELLED, reason=_nowhere(view))
    reason = f"version {view.version} is verified at {count_sites(done)}"
    if not left:
        return Finish(state=R.SUCCEEDED, reason=reason)
    return Finish(state=R.SUCCEEDED_WITH_EXCEPTIONS, reason=f"{reason}; not at {count_sites(left)}")


def _nowhere(view: RolloutView) -> str:
    """Every stage is over, and nobody has seen the version work: no success of any kind."""
    failed = sum(stage.failures for stage in view.stages)
    gone = sum(stage.planned for stage in view.stages) - failed
    what = [
        f"{count_sites(failed)} failed" if failed else "",
        f"{count_sites(gone)} left the plan" if gone else "",
    ]
    return f"version {view.version} is verified at no site: {' and '.join(filter(None, what))}"


def _decide_pending(view: RolloutView, stage: StageView) -> Decision:
    if not stage.sites:
        return _decide_empty(view, stage)
    return StartStage(stage=stage.index, reason=f"stage {stage.name}: {count_sites(stage.sites)}")


def _decide_empty(view: RolloutView, stage: StageView) -> Decision:
    """A stage the plan left empty asks for nothing. One that lost its sites, and was to be the
    first evidence, proves nothing: a person must say whether to go on without it."""
    first = not any(s.state is S.PASSED for s in view.stages)
    later = any(s.index > stage.index and s.sites for s in view.stages)
    if stage.planned and first and later and stage.accepted_at is None and not stage.trailing:
        return Pause(
            code="canary-empty",
            reason=f"stage {stage.name} has lost all of its {count_sites(stage.planned)} and "
            "proves nothing; resume with accept to go on without it, or rollback",
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
    if under_way := stage.count(D.PENDING, *ACTIVE_DEPLOYMENT):
        return _wait_for_sites(stage, under_way)
    # As many as are required, or somebody accepted it: more failures than leave room for them have
    # stopped the stage before (`policy.resolve`).
    done = stage.count(D.SUCCEEDED)
    if not done:
        return SkipStage(stage=stage.index, reason="accepted with no site verified")
    return BeginSoak(
        stage=stage.index, reason=f"stage {stage.name}: verified at {count_sites(done)}"
    )


def _overdue(stage: StageView) -> EndOverdue | None:
    if not stage.overdue or (stage.policy.on_silent is OnSilent.WAIT and not stage.trailing):
        return None
    defer = stage.trailing or stage.policy.on_silent is OnSilent.DEFER
    return EndOverdue(
        stage=stage.index,
        defer=defer,
        reason=f"stage {stage.name}: {name_sites(stage.overdue_notes, stage.overdue)}; "
        + ("put off, and who had begun counts as failed" if defer else "counted as failed"),
    )


def _offer(stage: StageView) -> OfferSites | None:
    if stage.state in (S.SKIPPED, S.CANCELLED, S.FAILED):
        return None
    room = stage.limits.max_concurrent - stage.count(*ACTIVE_DEPLOYMENT)
    ready = stage.count(D.PENDING) - stage.penalised - stage.held
    count = min(room, stage.retries_ready if stage.retries_first else ready)
    if count <= 0:
        return None
    again = " again" if stage.retries_first else ""
    return OfferSites(
        stage=stage.index,
        count=count,
        retries_only=stage.retries_first,
        reason=f"stage {stage.name}: offered{again} to {count_sites(count)}",
    )


def _wait_for_sites(stage: StageView, under_way: int) -> Wait:
    active = stage.count(*ACTIVE_DEPLOYMENT)
    progress = f"stage {stage.name}: {stage.count(D.SUCCEEDED)} of {stage.sites} verified"
    held = f"; held: {name_sites(stage.held_notes, stage.held)}" if stage.held else ""
    until = f" until {stage.penalty_until:%H:%M:%S} UTC" if stage.penalty_until else ""
    rest = f"; {count_sites(stage.penalised)} failed and rest{until} before the next try"
    behind = stage.retries_first and under_way > stage.retrying
    others = f"; {_others_wait(stage)}" if behind else ""
    if active or not (stage.held or stage.penalised):
        return Wait(
            reason_code="unproven-failures" if behind else "deployments-unfinished",
            reason=f"{progress}{others}; waiting for "
            f"{name_sites(stage.unfinished, under_way)}{held}",
        )
    if behind and stage.penalised:
        return Wait(reason_code="unproven-failures", reason=f"{progress}{others}{rest}{held}")
    if stage.held:
        by_time = stage.held > stage.held_by_person
        return Wait(
            reason_code="offers-held" if by_time else "held-by-person",
            reason=f"{progress}{others}{held}",
        )
    return Wait(reason_code="penalty-box", reason=f"{progress}{rest}")


def _others_wait(stage: StageView) -> str:
    for variant in stage.variants:
        if variant.unproven > (borne := stage.tolerated_of(variant)):
            return (
                f"{variant.unproven} of variant {variant.name} failed and not proven since, "
                f"{borne} tolerated; no other site begins until they are"
            )
    return (
        f"{stage.unproven} failed and not proven since, {stage.failures_tolerated} tolerated; no "
        "other site begins until they are"
    )
