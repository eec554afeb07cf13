"""What is seen of a rollout: its rows as counts, with a few sites by name.

Whoever makes a view decides nothing by it; `decide.py` does, and knows no more than stands here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from controlplane.domain.gates import GateResult
from controlplane.domain.policy import Limits, StagePolicy, resolve
from controlplane.domain.rollout import (
    OUT_OF_STAGE,
    STAGE_FAILURES,
    DeploymentState,
    RolloutState,
    StageState,
)


@dataclass(frozen=True, kw_only=True)
class SiteNote:
    """One site worth naming, and what is to be said of it; `variant` is the build it was given."""

    site: str
    note: str
    variant: str = ""


@dataclass(frozen=True, kw_only=True)
class VariantView:
    """The sites of a stage that get one build of a version, as counts like the stage's own."""

    name: str
    forward: Mapping[DeploymentState, int]
    unhealthy_count: int = 0
    retrying: int = 0
    infrastructure: int = 0

    @property
    def sites(self) -> int:
        return sum(self.forward.values()) - self.count(*OUT_OF_STAGE)

    @property
    def failures(self) -> int:
        return self.count(*STAGE_FAILURES)

    @property
    def unproven(self) -> int:
        return self.failures + self.retrying

    def count(self, *states: DeploymentState) -> int:
        return sum(self.forward.get(state, 0) for state in states)


@dataclass(frozen=True, kw_only=True)
class StageView:
    """A stage as counts, so that a stage of thousands of sites costs what one of three does.

    `forward` and `rollback` count deployments by state. The notes are a few examples each;
    their counts stand beside them. `stale`: succeeded, but no report within the limit.
    `unhealthy`: succeeded, reporting, and not serving the target well. `silent`: of those being
    called back or finishing, how many nobody has heard of for so long that they are not waited for.

    Of the pending, `penalised` are not to be offered before `penalty_until`, and `held` are kept by
    a freeze, a pin or a closed window; `held_by_person` of these until a person ends it.
    Of the sites that did not return, `unwaited` were given up by a person, which the cause says,
    and `unsound` had nothing to return to: what they had before is quarantined since.
    `retryable` failed and have attempts left; `retrying` failed before and are not over yet, of
    which `retries_ready` can be offered now. `infrastructure` failed for a reason that says nothing
    of the version. `accepted_failures` counts also those that were unwell when somebody accepted
    it. `overdue` are silent past the progress deadline, `retired` still count at sites
    that are no more. `promoted`, `approved` and the accepted figures are what people said.
    `variants` are the builds that its sites get, where there are several: what the policy bears
    holds for the sites of each by themselves too.
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
    held_by_person: int = 0
    retryable: int = 0
    retrying: int = 0
    retries_ready: int = 0
    infrastructure: int = 0
    overdue: int = 0
    overdue_notes: tuple[SiteNote, ...] = ()
    retired: int = 0
    unwaited: int = 0
    unsound: int = 0
    unsound_notes: tuple[SiteNote, ...] = ()
    variants: tuple[VariantView, ...] = ()

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

    @property
    def failures_tolerated(self) -> int:
        """By the policy, or because somebody accepted as many."""
        return max(self.limits.failures_tolerated, self.accepted_failures)

    @property
    def unproven(self) -> int:
        """Failed, and has not served the version well since: trying again undoes no failure."""
        return self.failures + self.retrying

    @property
    def retries_first(self) -> bool:
        """Whether no further site may begin before those that failed are proven."""
        return self.unproven > self.failures_tolerated or any(
            variant.unproven > self.tolerated_of(variant) for variant in self.variants
        )

    def tolerated_of(self, variant: VariantView) -> int:
        """Of one build: the same policy for so many sites, or as many as somebody accepted."""
        limits = resolve(self.policy, variant.sites)
        return max(limits.failures_tolerated, self.accepted_failures)

    @property
    def broken_variant(self) -> VariantView | None:
        """The first build of which more sites failed than the policy bears of so many."""
        over = (v for v in self.variants if v.failures > self.tolerated_of(v))
        return next(over, None)

    @property
    def unwell(self) -> bool:
        """Whether more sites that serve the version are unwell than failures are left, of all or
        of those with one build."""
        if self.unhealthy_count > max(0, self.failures_tolerated - self.failures):
            return True
        return any(
            v.unhealthy_count > max(0, self.tolerated_of(v) - v.failures) for v in self.variants
        )

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
