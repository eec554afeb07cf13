"""What must hold after every event, by name. Numbers I1 to I11 are promises of the whole system,
S1 to S15 of a rollout."""

from enum import StrEnum


class Invariant(StrEnum):
    """What must hold after every event."""

    UNAVAILABLE = "I1 no more sites of a stage are down for us than may be"
    LEASES = "I1 no more leases of a stage are out than sites may be down"
    PROVEN = "I2 only versions proven at the site answer its users"
    REFUTED = "I2 a version that is not right in place stops answering"
    ENDS = "I5 every rollout ends once faults stop"
    CONVERGES = "I5 every site serves what is wished once faults stop"
    HELD = "I6 a paused, aborted or turned rollout offers nothing more"
    FROZEN = "I6 at a frozen site nothing is offered, and nothing begins after a minute"
    WITHDRAWN = "I6 a quarantined version is offered nowhere, and begins nowhere after a minute"
    SERVES = "I7 no site that served a verified version is left with nothing"
    GENERATION = "I8 a site's generation never falls"
    STALE = "I8 a report of the past changes nothing"
    LAST_GOOD = "I11 the last good version stays on disk"
    STAGES = "S1 a stage starts once, after all before it have passed"
    SOAK = "S2 soak counts only fresh evidence"
    ONE_ACTIVE = "S3 one active deployment for a site and model"
    BROKEN_FAILS = "S4 a version broken at a reached site never succeeds"
    RETURNS = "S5 a rolled back rollout leaves each site what it had"
    CAP = "S7 no more sites at once than the cap, and none before its rest is over"
    BUDGET = "S8 no more sites change within an hour than the budget"
    GROUP = "S9 never two of a redundancy group at once"
    GONE = "S10 a retired site is offered nothing"
    BEARABLE = "S11 no site begins beside more unproven failures than its stage bears"
    WINDOW = "S12 no site begins outside its activation window, but for a minute"
    APPROVED = "S13 nothing goes past an approval that was not given"
    GATED = "S14 no stage passes but with a fresh pass of each of its gates"
    PINNED = "S15 a pinned site is offered nothing"
    LEGAL = "S6 every step is one that the tables of states know"


class Broken(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: Invariant, detail: str) -> None:
        super().__init__(f"{invariant.value}: {detail}")
        self.invariant = invariant
