"""Bugs planted on purpose, one or more for each invariant, with the invariant that must find each.

A bug is a spoilt decision, effect or agent handed to the simulated world; nothing is patched."""

from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.ops.simulation.invariants import Invariant
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.summary import Outcome
from controlplane.ops.simulation.world import Parts, simulate
from tests.simulation.planted_decisions import (
    asks_nobody,
    asks_nobody_for_approval,
    counts_an_outage_as_soak,
    counts_silence_as_soak,
    does_not_wait_for_a_stage,
    forgets_who_left,
    ignores_a_pause,
    keeps_the_refuted,
    looks_at_no_gate,
    never_verifies,
    offers_to_all,
    passes_by_majority,
    prunes_the_way_back,
    prunes_what_is_not_wished,
    serves_unproven,
    skips_the_soak,
    takes_failed_for_done,
    unloads_first,
    waits_for_a_wish,
    waits_for_the_failed,
)
from tests.simulation.planted_parts import (
    AsksNobody,
    BelievesTheClockOfTheSite,
    CountsNobody,
    FollowsTheLastAnswer,
    ForgetsTheGroup,
    ForgetsToCancelForward,
    FreesByAnyReport,
    FreesByTime,
    GrantsBeforeTheStage,
    GrantsInAFreeze,
    GrantsInAPause,
    GrantsOneTooMany,
    GrantsOutsideTheWindow,
    GrantsTheWithdrawn,
    LeavesTheWish,
    LooksPastFailures,
    OffersTheFrozen,
    OffersThePinned,
    ReturnsAllToOneVersion,
    ReturnsToNothing,
    ReusesAGeneration,
    SpendsWithoutLimit,
    StaysAlone,
    TakesReportsInAnyOrder,
    TakesReportsOfThePast,
    TellsOnlyOnce,
)

# Many messages that overtake each other, and agents that forget.
HARSH = {
    "loss": 0.2, "lateness": 0.2, "latest_seconds": 100, "duplication": 0.4,
    "agent_crash_rate": 1.0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Planted:
    """`found_by`: the invariants of which one must break; `weather`, what is worse than usual."""

    parts: Parts
    found_by: frozenset[Invariant]
    weather: Mapping[str, float]

    def history(self, seed: int) -> Outcome:
        return simulate(Options(sites=20, hours=8, seed=seed, **self.weather), self.parts)  # type: ignore[arg-type]


def _bug(parts: Parts, *found_by: Invariant, **weather: float) -> Planted:
    return Planted(parts=parts, found_by=frozenset(found_by), weather=weather)


PLANTED: Mapping[str, Planted] = {
    "the agent asks for no lease": _bug(
        Parts(agent_decide=asks_nobody, agent=AsksNobody), Invariant.UNAVAILABLE
    ),
    "a lease is granted without counting the leased": _bug(
        Parts(centre=CountsNobody), Invariant.LEASES
    ),
    "one more than may be is granted a lease": _bug(
        Parts(centre=GrantsOneTooMany), Invariant.LEASES
    ),
    "a slot is freed by time alone": _bug(Parts(centre=FreesByTime), Invariant.LEASES),
    "a slot is freed by a report from before the lease": _bug(
        Parts(centre=FreesByAnyReport), Invariant.LEASES, **HARSH
    ),
    "a freeze holds no offer": _bug(Parts(centre=OffersTheFrozen), Invariant.FROZEN),
    "a freeze holds no lease": _bug(Parts(centre=GrantsInAFreeze), Invariant.FROZEN),
    "a pinned site is offered the version": _bug(Parts(centre=OffersThePinned), Invariant.PINNED),
    "a lease is granted outside the window": _bug(
        Parts(centre=GrantsOutsideTheWindow), Invariant.WINDOW
    ),
    "nobody is asked for an approval": _bug(
        Parts(decide=asks_nobody_for_approval), Invariant.APPROVED
    ),
    "the gates are not looked at": _bug(Parts(decide=looks_at_no_gate), Invariant.GATED),
    "a pause holds no lease": _bug(Parts(centre=GrantsInAPause), Invariant.HELD),
    "a lease is granted before the stage runs": _bug(
        Parts(centre=GrantsBeforeTheStage), Invariant.STAGES
    ),
    "a quarantine holds no lease": _bug(Parts(centre=GrantsTheWithdrawn), Invariant.WITHDRAWN),
    "a lease looks past failures that are tried again": _bug(
        Parts(centre=LooksPastFailures), Invariant.BEARABLE
    ),
    "the budget is not looked at": _bug(Parts(centre=SpendsWithoutLimit), Invariant.BUDGET),
    "both members of a group change at once": _bug(Parts(centre=ForgetsTheGroup), Invariant.GROUP),
    "a retired site is offered the version": _bug(Parts(decide=forgets_who_left), Invariant.GONE),
    "a stage is offered at once whatever its cap": _bug(Parts(decide=offers_to_all), Invariant.CAP),
    "the agent serves unproven versions": _bug(
        Parts(agent_decide=serves_unproven), Invariant.PROVEN
    ),
    "the agent leaves a refuted version serving": _bug(
        Parts(agent_decide=keeps_the_refuted), Invariant.REFUTED
    ),
    "the agent never verifies": _bug(Parts(agent_decide=never_verifies), Invariant.REFUTED),
    "the agent unloads before it loads": _bug(Parts(agent_decide=unloads_first), Invariant.SERVES),
    "the agent waits for a wish to serve again": _bug(
        Parts(agent_decide=waits_for_a_wish), Invariant.SERVES
    ),
    "the agent prunes the way back": _bug(
        Parts(agent_decide=prunes_the_way_back), Invariant.LAST_GOOD
    ),
    "the agent prunes what serves": _bug(
        Parts(agent_decide=prunes_what_is_not_wished), Invariant.LAST_GOOD
    ),
    "the agent reports a change only once": _bug(
        Parts(agent=TellsOnlyOnce), Invariant.ENDS, Invariant.CONVERGES
    ),
    "the agent follows whichever answer came last": _bug(
        Parts(agent=FollowsTheLastAnswer), Invariant.GENERATION
    ),
    "a failed site counts as done": _bug(
        Parts(decide=takes_failed_for_done), Invariant.BROKEN_FAILS
    ),
    "a pause does not hold": _bug(Parts(decide=ignores_a_pause), Invariant.HELD),
    "a stage does not wait for the one before": _bug(
        Parts(decide=does_not_wait_for_a_stage), Invariant.STAGES
    ),
    "a stage passes by majority": _bug(
        Parts(decide=passes_by_majority), Invariant.STAGES, Invariant.BROKEN_FAILS
    ),
    "a stage passes without its soak": _bug(Parts(decide=skips_the_soak), Invariant.LEGAL),
    "an outage counts as soak": _bug(Parts(decide=counts_an_outage_as_soak), Invariant.SOAK),
    "silence counts as soak": _bug(Parts(decide=counts_silence_as_soak), Invariant.SOAK),
    "the clock of a site is believed": _bug(
        Parts(centre=BelievesTheClockOfTheSite), Invariant.ENDS, Invariant.SOAK
    ),
    "turning back waits for sites that were never reached": _bug(
        Parts(decide=waits_for_the_failed), Invariant.ENDS
    ),
    "a forward deployment stays active beside the way back": _bug(
        Parts(centre=ForgetsToCancelForward), Invariant.ONE_ACTIVE
    ),
    "every site returns to what one of them had": _bug(
        Parts(centre=ReturnsAllToOneVersion), Invariant.RETURNS
    ),
    "a rollback stops serving": _bug(Parts(centre=ReturnsToNothing), Invariant.RETURNS),
    "a report of an older wish is believed": _bug(
        Parts(centre=TakesReportsOfThePast), Invariant.STALE
    ),
    "a report that was overtaken is believed": _bug(
        Parts(centre=TakesReportsInAnyOrder), Invariant.STALE
    ),
    "a generation is used twice": _bug(Parts(centre=ReusesAGeneration), Invariant.GENERATION),
    "an aborted rollout does not call its sites back": _bug(
        Parts(centre=LeavesTheWish), Invariant.HELD
    ),
    "the agent follows no wish after a long silence": _bug(
        Parts(agent=StaysAlone), Invariant.CONVERGES
    ),
}
