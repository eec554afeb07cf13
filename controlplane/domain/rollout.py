"""When a rollout goes on, holds or turns back: `decide(view, now)`.

A view is what the rows say, a decision is what they should say next, with the reason for a person
at 3 a.m. Nothing here reads a clock, a row or a site."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class RolloutState(StrEnum):
    """Life of a rollout; the final ones never reopen."""

    PLANNED = "planned"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_INCOMPLETE = "rollback_incomplete"
    SUCCEEDED = "succeeded"


class StageState(StrEnum):
    """Life of a stage."""

    PENDING = "pending"
    RUNNING = "running"
    SOAKING = "soaking"
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


class DeploymentState(StrEnum):
    """Life of one site's part. The active ones are the agent's to report, in any order it
    truly goes through them (a restart may repeat some); the final ones never reopen."""

    PENDING = "pending"
    OFFERED = "offered"
    STAGING = "staging"
    STAGED = "staged"
    PROVING = "proving"
    ACTIVATING = "activating"
    VERIFYING = "verifying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"


R, S, D = RolloutState, StageState, DeploymentState

ROLLOUT_TRANSITIONS: Mapping[RolloutState, frozenset[RolloutState]] = {
    R.PLANNED: frozenset({R.RUNNING, R.CANCELLING}),
    R.RUNNING: frozenset({R.PAUSED, R.CANCELLING, R.ROLLING_BACK, R.SUCCEEDED}),
    R.PAUSED: frozenset({R.RUNNING, R.CANCELLING, R.ROLLING_BACK}),
    R.CANCELLING: frozenset({R.CANCELLED, R.ROLLING_BACK}),
    R.ROLLING_BACK: frozenset({R.ROLLED_BACK, R.ROLLBACK_INCOMPLETE}),
    R.CANCELLED: frozenset(),
    R.ROLLED_BACK: frozenset(),
    R.ROLLBACK_INCOMPLETE: frozenset(),
    R.SUCCEEDED: frozenset(),
}
STAGE_TRANSITIONS: Mapping[StageState, frozenset[StageState]] = {
    S.PENDING: frozenset({S.RUNNING, S.SKIPPED, S.CANCELLED}),
    S.RUNNING: frozenset({S.SOAKING, S.FAILED, S.CANCELLED}),
    S.SOAKING: frozenset({S.PASSED, S.FAILED, S.CANCELLED}),
    S.PASSED: frozenset({S.FAILED}),
    S.FAILED: frozenset(),
    S.SKIPPED: frozenset(),
    S.CANCELLED: frozenset(),
}

FINAL_ROLLOUT = frozenset(s for s, after in ROLLOUT_TRANSITIONS.items() if not after)
ACTIVE_ROLLOUT = frozenset(R) - FINAL_ROLLOUT
STARTED_STAGE = frozenset({S.RUNNING, S.SOAKING, S.PASSED})
ACTIVE_DEPLOYMENT = frozenset(
    {D.OFFERED, D.STAGING, D.STAGED, D.PROVING, D.ACTIVATING, D.VERIFYING}
)
FINAL_DEPLOYMENT = frozenset(D) - ACTIVE_DEPLOYMENT - {D.PENDING}
# Before the switch a site can be called back without having changed what it serves.
BEFORE_SWITCH = frozenset({D.OFFERED, D.STAGING, D.STAGED, D.PROVING})

VERBS: Mapping[str, frozenset[RolloutState]] = {
    "pause": frozenset({R.RUNNING}),
    "resume": frozenset({R.PAUSED}),
    "abort": frozenset({R.PLANNED, R.RUNNING, R.PAUSED}),
    "rollback": frozenset({R.RUNNING, R.PAUSED, R.CANCELLING}),
}


def allowed_verbs(state: RolloutState) -> list[str]:
    """What a person may do to a rollout in this state, in the order a page shows it."""
    return [verb for verb, states in VERBS.items() if state in states]


@dataclass(frozen=True, kw_only=True)
class SiteNote:
    """One site worth naming, and what is to be said of it."""

    site: str
    note: str


@dataclass(frozen=True, kw_only=True)
class StageView:
    """A stage as counts, so that a stage of thousands of sites costs what one of three does.

    `forward` and `rollback` count deployments by state. The notes are a few examples each;
    their counts stand beside them. `stale`: succeeded, but no report within the limit.
    `unhealthy`: succeeded, reporting, and not serving the target well. `silent`: of those being
    called back or finishing, how many nobody has heard of for so long that they are not waited for.
    """

    index: int
    name: str
    state: StageState
    soak_seconds: float
    soaked_seconds: float
    soak_counted_until: datetime | None
    forward: Mapping[DeploymentState, int]
    rollback: Mapping[DeploymentState, int]
    failed: tuple[SiteNote, ...] = ()
    unfinished: tuple[SiteNote, ...] = ()
    stale: tuple[SiteNote, ...] = ()
    stale_count: int = 0
    unhealthy: tuple[SiteNote, ...] = ()
    unhealthy_count: int = 0
    silent: int = 0

    @property
    def sites(self) -> int:
        return sum(self.forward.values())

    def count(self, *states: DeploymentState) -> int:
        return sum(self.forward.get(state, 0) for state in states)


@dataclass(frozen=True, kw_only=True)
class RolloutView:
    """All that `decide` may see. `cause` is why the rollout left its way (paused, aborted, rolled
    back), empty while it is on it; `fresh_within` is how old a report may be and still count."""

    model: str
    version: str
    state: RolloutState
    cause: str
    fresh_within: timedelta
    stages: tuple[StageView, ...]


@dataclass(frozen=True, kw_only=True)
class Begin:
    """The rollout leaves `planned`."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class StartStage:
    """Offer the version to every site of the stage."""

    stage: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class SkipStage:
    """The stage holds no site."""

    stage: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class BeginSoak:
    """Every site of the stage serves the verified version; its soak is counted from now on."""

    stage: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class CountSoak:
    """Count the interval up to now as soaked (`seconds`, 0 if its evidence was not fresh)."""

    stage: int
    seconds: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class PassStage:
    """The gate is open. `seconds` is the last counted interval."""

    stage: int
    seconds: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class RollBack:
    """Return every site this rollout reached to the version recorded for it.

    `failed_stages` are those whose own sites are the cause."""

    reason_code: str
    reason: str
    failed_stages: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Finish:
    """The rollout reaches a final state."""

    state: RolloutState
    reason: str


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Nothing to change; why, and what would release it."""

    reason_code: str
    reason: str


Decision = (
    Begin | StartStage | SkipStage | BeginSoak | CountSoak | PassStage | RollBack | Finish | Wait
)


def decide(view: RolloutView, now: datetime) -> Decision:
    """The next thing to do with a rollout. Safety first: a failed site turns the rollout back
    in every state that could still promote, also while a person has paused it."""
    if view.state in FINAL_ROLLOUT:
        return Wait(reason_code="final", reason=view.cause)
    if view.state is R.PLANNED:
        return Begin(reason=f"starting version {view.version} of {view.model}")
    if view.state is R.ROLLING_BACK:
        return _decide_rolling_back(view)
    if view.state is R.CANCELLING:
        return _decide_cancelling(view)
    if turned := _failed(view):
        return turned
    if view.state is R.PAUSED:
        return Wait(reason_code="paused", reason=view.cause)
    return _decide_running(view, now)


def _failed(view: RolloutView) -> RollBack | None:
    started = [stage for stage in view.stages if stage.state in STARTED_STAGE]
    bad = [stage for stage in started if stage.count(D.FAILED)]
    if not bad:
        return None
    first = bad[0]
    named = _names(first.failed, first.count(D.FAILED))
    return RollBack(
        reason_code="deployment-failed",
        reason=f"stage {first.name}: {named}",
        failed_stages=tuple(stage.index for stage in bad),
    )


def _decide_running(view: RolloutView, now: datetime) -> Decision:
    current = next((s for s in view.stages if s.state not in (S.PASSED, S.SKIPPED)), None)
    if current is None:
        sites = sum(stage.count(D.SUCCEEDED) for stage in view.stages)
        return Finish(
            state=R.SUCCEEDED, reason=f"version {view.version} is verified at {_sites(sites)}"
        )
    if current.state is S.SOAKING:
        return _decide_soaking(view, current, now)
    if held := _held_by_earlier(view, current):
        return held
    if current.state is S.PENDING:
        if not current.sites:
            return SkipStage(stage=current.index, reason="the stage selects no site")
        return StartStage(
            stage=current.index, reason=f"stage {current.name}: offered to {_sites(current.sites)}"
        )
    missing = current.sites - current.count(D.SUCCEEDED, D.CANCELLED)
    if missing:
        named = _names(current.unfinished, missing)
        return Wait(
            reason_code="deployments-unfinished",
            reason=f"stage {current.name}: {current.count(D.SUCCEEDED)} of {current.sites} "
            f"verified; waiting for {named}",
        )
    return BeginSoak(
        stage=current.index,
        reason=f"stage {current.name}: verified at {_sites(current.count(D.SUCCEEDED))}",
    )


def _decide_soaking(view: RolloutView, stage: StageView, now: datetime) -> Decision:
    """Soak counts only intervals whose evidence is fresh: an hour in which nobody reported, or in
    which this engine itself was down, is no evidence of health."""
    since = stage.soak_counted_until or now
    interval = max(0.0, (now - since).total_seconds())
    if stage.unhealthy_count:
        why = f"{_names(stage.unhealthy, stage.unhealthy_count)}"
        return CountSoak(stage=stage.index, seconds=0.0, reason=_soak_sentence(stage, 0.0, why))
    if stage.stale_count:
        why = f"no fresh report: {_names(stage.stale, stage.stale_count)}"
        return CountSoak(stage=stage.index, seconds=0.0, reason=_soak_sentence(stage, 0.0, why))
    counted = min(interval, view.fresh_within.total_seconds())
    if stage.soaked_seconds + counted < stage.soak_seconds:
        return CountSoak(
            stage=stage.index, seconds=counted, reason=_soak_sentence(stage, counted, "")
        )
    if held := _held_by_earlier(view, stage):
        return held
    return PassStage(
        stage=stage.index,
        seconds=counted,
        reason=f"stage {stage.name}: {_sites(stage.count(D.SUCCEEDED))} healthy for "
        f"{stage.soak_seconds:g} s with fresh reports",
    )


def _soak_sentence(stage: StageView, counted: float, held_because: str) -> str:
    done = min(stage.soaked_seconds + counted, stage.soak_seconds)
    sentence = f"stage {stage.name}: soaked {done:.0f} of {stage.soak_seconds:g} s"
    return f"{sentence}; not counting: {held_because}" if held_because else sentence


def _held_by_earlier(view: RolloutView, current: StageView) -> Wait | None:
    """An early site can go bad late, or fall silent, perhaps because of the version. Either holds
    promotion until it is well or somebody decides."""
    for stage in view.stages:
        if stage.index >= current.index or stage.state is not S.PASSED:
            continue
        for code, notes, count in (
            ("earlier-site-unhealthy", stage.unhealthy, stage.unhealthy_count),
            ("earlier-site-stale", stage.stale, stage.stale_count),
        ):
            if count:
                return Wait(
                    reason_code=code,
                    reason=f"stage {current.name} waits: in stage {stage.name}, "
                    f"{_names(notes, count)}; it goes on when they are healthy, or roll back",
                )
    return None


def _decide_cancelling(view: RolloutView) -> Decision:
    busy = sum(stage.count(*ACTIVE_DEPLOYMENT) for stage in view.stages)
    silent = sum(stage.silent for stage in view.stages)
    if busy > silent:
        notes = tuple(note for stage in view.stages for note in stage.unfinished)
        return Wait(
            reason_code="switching",
            reason=f"aborted; sites already switching finish: {_names(notes, busy)}",
        )
    return Finish(state=R.CANCELLED, reason=view.cause + _not_waited_for(silent))


def _decide_rolling_back(view: RolloutView) -> Decision:
    totals = {state: sum(s.rollback.get(state, 0) for s in view.stages) for state in D}
    open_count = totals[D.PENDING] + sum(totals[state] for state in ACTIVE_DEPLOYMENT)
    silent = sum(stage.silent for stage in view.stages)
    if open_count > silent:
        notes = tuple(note for stage in view.stages for note in stage.unfinished)
        return Wait(
            reason_code="rollback-unfinished",
            reason=f"{view.cause}; waiting for {_names(notes, open_count)} to return",
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


def _sites(count: int) -> str:
    return "1 site" if count == 1 else f"{count} sites"


def _names(notes: tuple[SiteNote, ...], count: int) -> str:
    """Up to three sites by name, the rest as a number: a reason must fit a line."""
    if not notes:
        return _sites(count)
    shown = ", ".join(f"{n.site} ({n.note})" if n.note else n.site for n in notes[:3])
    more = count - min(len(notes), 3)
    return f"{shown} and {more} more" if more > 0 else shown
