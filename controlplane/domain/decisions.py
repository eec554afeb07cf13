"""What may come of a look at a rollout: what its rows should say next, each with the reason for a
person at 3 a.m. Which follows from which view stands in `decide.py`."""

from dataclasses import dataclass

from controlplane.domain.rollout import RolloutState


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
    """Offer the version to `count` more sites of the stage, in the order of the plan; with
    `retries_only` to such as failed before."""

    stage: int
    count: int
    reason: str
    retries_only: bool = False


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
    """Nothing to change; why, and what would release it. With `soak_anew` no site serves the
    version in that stage any more: what it has soaked is void, and counts from when one does."""

    reason_code: str
    reason: str
    soak_anew: int | None = None


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
