"""The words of rollouts: states and the legal steps between them, verbs, and who ends a wait.

What is seen of a rollout stands in `views.py`, what may come of that in `decisions.py`."""

from collections.abc import Mapping
from enum import StrEnum


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
        {
            R.PAUSED,
            R.CANCELLING,
            R.CANCELLED,  # every stage is over, and no site was left to bring the version to
            R.ROLLING_BACK,
            R.SUCCEEDED,
            R.SUCCEEDED_WITH_EXCEPTIONS,
        }
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
    "stop-waiting": frozenset({R.CANCELLING, R.ROLLING_BACK}),
}


# Why a site's way back ended without it, as a code of its part.
NOT_WAITED_FOR = "not-waited-for"
NOTHING_SOUND = "nothing-sound-to-return-to"


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
    {"download-failed", "disk-full", "store-failed", "triton-unreachable", "server-behind", "drift"}
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
    "offers-held": WaitsFor.TIME,
    "held-by-person": WaitsFor.PERSON,
    "unproven-failures": WaitsFor.SITES,
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
