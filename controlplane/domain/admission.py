"""Whether a site may touch its Triton with a new version now: the second of the two gates.

An agent asks once the bytes are verified on its disk. The answer is yes, or no with a sentence
that says what would change it. Counts come in; rows, clock and agents are not known here."""

from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.rollout import RolloutState, StageState

# Within which an agent must begin, by its own clock and counted from before it asked.
BEGIN_WITHIN_SECONDS = 60

_OPEN_STAGES = (StageState.RUNNING, StageState.SOAKING, StageState.PASSED)


@dataclass(frozen=True, kw_only=True)
class Instant:
    """A point of time at an agent: which boot of its machine, and seconds since it (CLOCK_BOOTTIME,
    which no time server sets)."""

    boot: str
    uptime: float


@dataclass(frozen=True, kw_only=True)
class LeaseFacts:
    """What decides a lease. The asking site is in none of the counts. It is not in mid-switch:
    a switch that its Triton shows as under way goes on without asking.

    `unavailable` are the other sites of the stage that hold a lease, are switching, or do not serve
    the model well, some of them by name. `changing` counts the other sites that were granted one in
    the last hour, over all rollouts. `closed`: the activation window is shut until `opens_at`.

    `gate_fails`: what a gate of a stage that has begun holds against the version, not accepted by
    anybody; the engine turns back or stops at its next turn.

    `earlier_unwell`: which sites of an earlier stage hold this one, as they hold its start.

    `unproven` are the other sites of the stage that failed and have not been proven since, retried
    or not. `untried`: the asking site has not failed here, nor begun. `retries_blocked`: of those
    to be tried again none is under way, and sites like this one take every place to be offered.
    """

    rollout_state: RolloutState
    cause: str
    stage: str
    stage_state: StageState
    stage_sites: int
    unavailable: int
    max_unavailable: int
    unavailable_names: tuple[str, ...] = ()
    withdrawn: str = ""
    gate_fails: str = ""
    earlier_unwell: str = ""
    frozen: str = ""
    closed: bool = False
    opens_at: datetime | None = None
    changing: int = 0
    changing_limit: int | None = None
    peer_unavailable: str = ""
    busy_with: str = ""
    untried: bool = False
    unproven: int = 0
    failures_tolerated: int = 0
    retries_blocked: bool = False


@dataclass(frozen=True, kw_only=True)
class Granted:
    """Go on."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Not now, and what would change that."""

    code: str
    reason: str


def admit(facts: LeaseFacts) -> Granted | Refused:
    """The first rule that says no is the one that is told; what stops everything comes first."""
    if facts.withdrawn:
        return Refused(code="version-withdrawn", reason=f"quarantined: {facts.withdrawn}")
    if facts.rollout_state is not RolloutState.RUNNING:
        why = facts.cause or f"the rollout is {facts.rollout_state.value.replace('_', ' ')}"
        return Refused(code="rollout-not-running", reason=f"{why}; activates when it runs again")
    if facts.stage_state not in _OPEN_STAGES:
        return Refused(
            code="stage-not-started",
            reason=f"the files are ready; stage {facts.stage} has not started",
        )
    if facts.gate_fails:
        return Refused(
            code="gate-failed",
            reason=f"{facts.gate_fails}; nothing begins until somebody decides about that",
        )
    if facts.earlier_unwell:
        return Refused(
            code="earlier-stage-unwell",
            reason=f"stage {facts.stage} waits: {facts.earlier_unwell}; it goes on when they are "
            "healthy, or when somebody decides about that",
        )
    if facts.frozen:
        return Refused(code="frozen", reason=facts.frozen)
    if facts.closed:
        until = f"{facts.opens_at:%Y-%m-%d %H:%M} UTC" if facts.opens_at else "somebody opens it"
        return Refused(
            code="window-closed", reason=f"the activation window is closed until {until}"
        )
    if facts.untried and _retries_first(facts):
        return Refused(
            code="unproven-failures",
            reason=f"in stage {facts.stage} {facts.unproven} failed and are not proven since, "
            f"{facts.failures_tolerated} tolerated; no other site begins until they are",
        )
    if facts.busy_with:
        return Refused(
            code="site-busy", reason=f"{facts.busy_with} is being activated here; one at a time"
        )
    if facts.unavailable >= facts.max_unavailable:
        named = ", ".join(facts.unavailable_names[:3])
        reason = (
            f"at most {facts.max_unavailable} of {facts.stage_sites} may be unavailable in stage "
            f"{facts.stage}, {facts.unavailable} are" + (f": {named}" if named else "")
        )
        return Refused(code="max-unavailable", reason=reason)
    if facts.peer_unavailable:
        return Refused(
            code="redundancy-group",
            reason=f"{facts.peer_unavailable} of the same redundancy group is not well or is "
            "changing; one member at a time",
        )
    if facts.changing_limit is not None and facts.changing >= facts.changing_limit:
        return Refused(
            code="budget-spent",
            reason=f"{facts.changing} sites changed within an hour, the fleet's budget is "
            f"{facts.changing_limit}; goes on as the hour moves",
        )
    return Granted()


def _retries_first(facts: LeaseFacts) -> bool:
    """Else as many sites as there are could fail once before a stage with retries stops. Who waits
    must not keep those from being tried that it waits for."""
    return facts.unproven > facts.failures_tolerated and not facts.retries_blocked


def slot_is_free(*, asked: Instant, said: Instant, begun: bool, holds: bool) -> bool:
    """Whether a report proves that a granted lease was not used and never can be.

    `asked` is when the agent asked for the lease, `said` when it made the report, both by its own
    clock, so that no delay on the way can make an old report look like a new one. `begun`: the
    report says it has started; `holds`: that it has that very lease. A lease does not outlive the
    boot it was granted in; a report of an earlier boot does not get here, its session being gone.
    """
    if begun or holds:
        return False
    return said.boot != asked.boot or said.uptime > asked.uptime + BEGIN_WITHIN_SECONDS
