"""What must hold after every event, by name. Numbers I2 to I11 are promises of the whole system,
S1 to S6 of a rollout."""

from enum import StrEnum


class Invariant(StrEnum):
    """What must hold after every event."""

    PROVEN = "I2 only versions proven at the site answer its users"
    REFUTED = "I2 a version that is not right in place stops answering"
    ENDS = "I5 every rollout ends once faults stop"
    CONVERGES = "I5 every site serves what is wished once faults stop"
    HELD = "I6 a paused, aborted or turned rollout offers nothing more"
    SERVES = "I7 no site that served a verified version is left with nothing"
    GENERATION = "I8 a site's generation never falls"
    STALE = "I8 a report of the past changes nothing"
    LAST_GOOD = "I11 the last good version stays on disk"
    STAGES = "S1 a stage starts once, after all before it have passed"
    SOAK = "S2 soak counts only fresh evidence"
    ONE_ACTIVE = "S3 one active deployment for a site and model"
    BROKEN_FAILS = "S4 a version broken at a reached site never succeeds"
    RETURNS = "S5 a rolled back rollout leaves each site what it had"
    LEGAL = "S6 every step is one that the tables of states know"


class Broken(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: Invariant, detail: str) -> None:
        super().__init__(f"{invariant.value}: {detail}")
        self.invariant = invariant
