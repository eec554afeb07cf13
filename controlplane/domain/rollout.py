"""The words of rollouts: states and the legal steps between them, verbs, views and decisions.

A view is what the rows say; a decision is what they should say next, with the reason for a person
at 3 a.m. Which decision follows from which view stands in `domain/decide.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from controlplane.domain.gates import GateResult
from controlplane.domain.policy import Limits, StagePolicy, resolve


class RolloutState(StrEnum):
    """Life of a rollout; the final ones never reopen."""

    QUEUED = "queued"
    PLANNED = "planned"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_INCOMPLETE = "rollback_incomplete"
    SUPERSEDED = "superseded"
    SUCCEEDED = "succeeded"
    SUCCEEDED_WITH_EXCEPTIONS = "succeeded_with_exceptions"


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
    # It was silent for too long: counted against the stage, or put off to the trailing one.
    TIMED_OUT = "timed_out"
    DEFERRED = "deferred"
    # Its hardware is no longer what the plan was made for.
    REJECTED = "rejected"
    # The site was retired.
    REMOVED = "removed"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"


R, S, D = RolloutState, StageState, DeploymentState

ROLLOUT_TRANSITIONS: Mapping[RolloutState, frozenset[RolloutState]] = {
    R.QUEUED: frozenset({R.PLANNED, R.CANCELLED}),
    R.PLANNED: frozenset({R.RUNNING, R.CANCELLING}),
    R.RUNNING: frozenset(
        {R.PAUSED, R.CANCELLING, R.ROLLING_BACK, R.SUCCEEDED, R.SUCCEEDED_WITH_EXCEPTIONS}
    ),
    R.PAUSED: frozenset({R.RUNNING, R.CANCELLING, R.ROLLING_BACK}),
    R.CANCELLING: frozenset({R.CANCELLED, R.SUPERSEDED, R.ROLLING_BACK}),
    R.ROLLING_BACK: frozenset({R.ROLLED_BACK, R.ROLLBACK_INCOMPLETE}),
    R.CANCELLED: frozenset(),
    R.ROLLED_BACK: frozenset(),
    R.ROLLBACK_INCOMPLETE: frozenset(),
    R.SUPERSEDED: frozenset(),
    R.SUCCEEDED: frozenset(),
    R.SUCCEEDED_WITH_EXCEPTIONS: frozenset(),
}
STAGE_TRANSITIONS: Mapping[StageState, frozenset[StageState]] = {
    # With a barrier a site may fail before its stage has begun.
    S.PENDING: frozenset({S.RUNNING, S.FAILED, S.SKIPPED, S.CANCELLED}),
    S.RUNNING: frozenset({S.SOAKING, S.FAILED, S.SKIPPED, S.CANCELLED}),
    S.SOAKING: frozenset({S.PASSED, S.FAILED, S.SKIPPED, S.CANCELLED}),
    S.PASSED: frozenset({S.FAILED}),
    S.FAILED: frozenset(),
    S.SKIPPED: frozenset(),
    S.CANCELLED: frozenset(),
}

FINAL_ROLLOUT = frozenset(s for s, after in ROLLOUT_TRANSITIONS.items() if not after)
# At most one of these for a model; a queued one waits for it to end.
ACTIVE_ROLLOUT = frozenset(R) - FINAL_ROLLOUT - {R.QUEUED}
GOOD_END = frozenset({R.SUCCEEDED, R.SUCCEEDED_WITH_EXCEPTIONS})
STARTED_STAGE = frozenset({S.RUNNING, S.SOAKING, S.PASSED})
OPEN_STAGE = frozenset({S.PENDING, S.RUNNING, S.SOAKING})
ACTIVE_DEPLOYMENT = frozenset(
    {D.OFFERED, D.STAGING, D.STAGED, D.PROVING, D.ACTIVATING, D.VERIFYING}
)
FINAL_DEPLOYMENT = frozenset(D) - ACTIVE_DEPLOYMENT - {D.PENDING}
# Before the switch a site can be called back without having changed what it serves.
BEFORE_SWITCH = frozenset({D.OFFERED, D.STAGING, D.STAGED, D.PROVING})
# Begun under a lease: it may be anywhere between two versions, whatever is heard of it.
BEGUN = frozenset({D.PROVING, D.ACTIVATING, D.VERIFYING})
# Has left the plan: neither a success nor a failure of the stage.
OUT_OF_STAGE = frozenset({D.REMOVED, D.CANCELLED, D.DEFERRED, D.REJECTED})
STAGE_FAILURES = frozenset({D.FAILED, D.TIMED_OUT})

VERBS: Mapping[str, frozenset[RolloutState]] = {
    "approve": frozenset({R.QUEUED, R.PLANNED, R.RUNNING, R.PAUSED}),
    "pause": frozenset({R.RUNNING}),
    "resume": frozenset({R.PAUSED}),
    "promote": frozenset({R.RUNNING}),
    "retry-failed": frozenset({R.RUNNING, R.PAUSED}),
    "abort": frozenset({R.QUEUED, R.PLANNED, R.RUNNING, R.PAUSED}),
    "rollback": frozenset({R.RUNNING, R.PAUSED, R.CANCELLING}),
}


class ResumeChoice(StrEnum):
    """What is to become of that which made the engine pause."""

    RETRY = "retry"
    ACCEPT = "accept"
    ROLLBACK = "rollback"


# Where it is not all of them: what would only lead to the same pause is no choice.
_RESUME_CHOICES: Mapping[str, tuple[ResumeChoice, ...]] = {
    "canary-empty": (ResumeChoice.ACCEPT, ResumeChoice.ROLLBACK),
}


def resume_choices(pause_code: str) -> tuple[ResumeChoice, ...]:
    """What somebody may choose who resumes after the engine paused."""
    return _RESUME_CHOICES.get(pause_code, tuple(ResumeChoice))


class OnConflict(StrEnum):
    """What a new rollout does while another of its model is not over."""

    REFUSE = "refuse"
    QUEUE = "queue"
    SUPERSEDE = "supersede"


# Trouble of the surroundings says nothing about the version: it pauses and never turns back.
INFRASTRUCTURE_CODES = frozenset(
    {"download-failed", "disk-full", "store-failed", "triton-unreachable", "server-behind"}
)


def allowed_verbs(state: RolloutState) -> list[str]:
    """What a person may do to a rollout in this state, in the order a page shows it."""
    return [verb for verb, states in VERBS.items() if state in states]


class WaitsFor(StrEnum):
    """Who or what ends a wait."""

    PERSON = "person"
    SITES = "sites"
    TIME = "time"
    ENGINE = "engine"
    NOTHING = "nothing"


_WAITS_FOR: Mapping[str, WaitsFor] = {
    "approval-pending": WaitsFor.PERSON,
    "paused": WaitsFor.PERSON,
    "version-withdrawn": WaitsFor.PERSON,
    "stage-failed": WaitsFor.PERSON,
    "gate-failed": WaitsFor.PERSON,
    "gate-inconclusive": WaitsFor.SITES,  # paused for it, the state says who is asked
    "canary-empty": WaitsFor.PERSON,
    "infrastructure": WaitsFor.PERSON,
    "queued": WaitsFor.SITES,
    "scheduled": WaitsFor.TIME,
    "soaking": WaitsFor.TIME,
    "penalty-box": WaitsFor.TIME,
    "offers-held": WaitsFor.TIME,  # or for whoever lifts the freeze; the sentence says which
    "deployments-unfinished": WaitsFor.SITES,
    "earlier-site-unhealthy": WaitsFor.SITES,
    "earlier-site-stale": WaitsFor.SITES,
    "switching": WaitsFor.SITES,
    "rollback-unfinished": WaitsFor.SITES,
}


def waits_for(state: RolloutState, reason_code: str) -> WaitsFor:
    """Who can end the wait of a rollout that says this reason code."""
    if state in FINAL_ROLLOUT:
        return WaitsFor.NOTHING
    if state is R.PAUSED:
        return WaitsFor.PERSON
    return _WAITS_FOR.get(reason_code, WaitsFor.ENGINE)


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

    Of the pending, `penalised` are not to be offered before `penalty_until`, and `held` are kept by
    a freeze or a closed window. `retryable` failed and have attempts left; `infrastructure` failed
    for a reason that says nothing of the version. `overdue` are silent past the progress deadline,
    `retired` still count at sites that are no more. `promoted`, `approved` and the accepted figures
    are what people said.
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
    policy: StagePolicy = field(default_factory=StagePolicy)
    trailing: bool = False
    inconclusive_seconds: float = 0.0
    promoted: bool = False
    approved: bool = False
    accepted_at: datetime | None = None
    accepted_failures: int = 0
    gates: tuple[GateResult, ...] = ()
    penalised: int = 0
    penalty_until: datetime | None = None
    held: int = 0
    held_notes: tuple[SiteNote, ...] = ()
    retryable: int = 0
    infrastructure: int = 0
    overdue: int = 0
    overdue_notes: tuple[SiteNote, ...] = ()
    retired: int = 0

    @property
    def planned(self) -> int:
        """Every site the stage was ever to reach."""
        return sum(self.forward.values())

    @property
    def sites(self) -> int:
        """Those that still count: thresholds are of these."""
        return self.planned - self.count(*OUT_OF_STAGE)

    @property
    def limits(self) -> Limits:
        return resolve(self.policy, self.sites)

    @property
    def failures(self) -> int:
        return self.count(*STAGE_FAILURES)

    def count(self, *states: DeploymentState) -> int:
        return sum(self.forward.get(state, 0) for state in states)


@dataclass(frozen=True, kw_only=True)
class RolloutView:
    """All that `decide` may see. `cause` is why the rollout left its way (paused, aborted, rolled
    back), empty while it is on it; `fresh_within` is how old a report may be and still count.

    `blocked_by` is the rollout a queued one waits for, `superseded_by` the one that took over,
    `withdrawn` why the version may no longer be used. With `barrier` every site gets the bytes at
    once, and activates when its stage runs."""

    model: str
    version: str
    state: RolloutState
    cause: str
    fresh_within: timedelta
    stages: tuple[StageView, ...]
    start_at: datetime | None = None
    approval_required: bool = False
    approved: bool = False
    blocked_by: int | None = None
    superseded_by: int | None = None
    withdrawn: str = ""
    barrier: bool = False
    pause_code: str = ""


@dataclass(frozen=True, kw_only=True)
class Begin:
    """The rollout leaves `planned`."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Release:
    """A queued rollout becomes the one of its model."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class StartStage:
    """The stage's sites may activate from now on."""

    stage: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class OfferSites:
    """Offer the version to `count` more sites of the stage, in the order of the plan."""

    stage: int
    count: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class RetryFailed:
    """Each failed site with attempts left gets another one, after its time in the penalty box."""

    stage: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class EndOverdue:
    """End the part of the sites that are silent past the deadline. Those that had begun are timed
    out, which counts as a failure; the others too, or (`defer`) go to the trailing stage."""

    stage: int
    defer: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class RemoveRetired:
    """Sites of the stage are no more; they leave its denominator."""

    stage: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class CallBack:
    """Sites that were let finish their switch have not switched after all, as after a restart."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Stop and ask a person: `code` says what a resume must answer."""

    code: str
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
    """Count the interval up to now as soaked (`seconds`, 0 if its evidence was not enough), or as
    time without evidence (`inconclusive`); good evidence sets the latter back to nothing."""

    stage: int
    seconds: float
    reason: str
    inconclusive: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PassStage:
    """Every gate is open. `seconds` is the last counted interval."""

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
    Release
    | Begin
    | StartStage
    | OfferSites
    | RetryFailed
    | EndOverdue
    | RemoveRetired
    | CallBack
    | SkipStage
    | BeginSoak
    | CountSoak
    | PassStage
    | Pause
    | RollBack
    | Finish
    | Wait
)
