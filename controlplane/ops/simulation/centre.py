"""The centre in memory: what its book would say after each decision.

Follows `rollouts/effects.py` and `services.py` line by line where those change rows; decides
nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import assert_never

from controlplane.domain.decide import decide
from controlplane.domain.decisions import (
    Begin,
    BeginSoak,
    CallBack,
    CountSoak,
    Decision,
    EndOverdue,
    Finish,
    OfferSites,
    PassStage,
    Pause,
    Release,
    RemoveRetired,
    RetryFailed,
    RollBack,
    SkipStage,
    StartStage,
    Wait,
)
from controlplane.domain.policy import StagePolicy
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    ACTIVE_ROLLOUT,
    FINAL_ROLLOUT,
    OnConflict,
    allowed_verbs,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.domain.views import RolloutView
from controlplane.ops.simulation import notes as n
from controlplane.ops.simulation.book import IllegalStep
from controlplane.ops.simulation.clock import moment
from controlplane.ops.simulation.rows import Deployment, Rollout, Stage
from controlplane.ops.simulation.site_steps import latest
from controlplane.ops.simulation.verbs import Verbs
from controlplane.ops.simulation.versions import Version
from controlplane.ops.simulation.views import rollout_view

MAX_STEPS_PER_TURN = 200

Decide = Callable[[RolloutView, datetime], Decision]


class NotPlanned(Exception):
    """A plan was refused, as when nobody it is for has been heard of."""


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage as a plan has it."""

    sites: Sequence[int]
    soak_seconds: float = 0.0
    policy: StagePolicy = field(default_factory=StagePolicy)
    trailing: bool = False


class Centre(Verbs):
    """Who is silent for `patience` times `fresh_seconds` is not waited for."""

    def __init__(
        self,
        *,
        sites: int,
        fresh_seconds: float,
        patience: float,
        retry_seconds: float = 60.0,
        decide: Decide = decide,
    ) -> None:
        super().__init__(sites=sites, fresh_seconds=fresh_seconds, retry_seconds=retry_seconds)
        self.patience = patience
        self.decide = decide

    def plan(
        self,
        version: Version,
        stages: Sequence[PlannedStage],
        now: float = 0.0,
        *,
        barrier: bool = False,
        welcomes: bool = False,
        approval_required: bool = False,
        on_conflict: OnConflict = OnConflict.REFUSE,
    ) -> Rollout:
        """A new rollout, which queues if another of its model is not over."""
        others = [r for r in self.rollouts if r.version.model == version.model]
        active = next((r for r in others if r.state in ACTIVE_ROLLOUT), None)
        queued = active is not None or any(r.state is R.QUEUED for r in others)
        rollout = Rollout(
            id=len(self.rollouts) + 1,
            version=version,
            created_at=now,
            barrier=barrier,
            welcomes=welcomes,
            approval_required=approval_required,
            state=R.QUEUED if queued else R.PLANNED,
        )
        for index, planned in enumerate(stages):
            stage = Stage(
                index=index,
                name=f"stage-{index}",
                soak_seconds=planned.soak_seconds,
                policy=planned.policy,
                trailing=planned.trailing,
            )
            rollout.stages.append(stage)
            for site in planned.sites:
                self._enter(
                    Deployment(
                        rollout=rollout,
                        stage=stage,
                        site=site,
                        is_rollback=False,
                        to_version=version,
                    )
                )
        self.rollouts.append(rollout)
        if on_conflict is OnConflict.SUPERSEDE and active is not None and can_abort(active):
            self.abort(active, now, superseded_by=rollout.id)
        return rollout

    def blocked_by(self, rollout: Rollout) -> int | None:
        """The rollout a queued one waits for: the active one, or one that queued before it."""
        if rollout.state is not R.QUEUED:
            return None
        ahead = [
            r
            for r in self.rollouts
            if r.version.model == rollout.version.model and r is not rollout
        ]
        first = next((r for r in ahead if r.state in ACTIVE_ROLLOUT), None)
        first = first or next((r for r in ahead if r.state is R.QUEUED and r.id < rollout.id), None)
        return None if first is None else first.id

    def steps(self, rollout: Rollout, now: float) -> int:
        """One turn, as far as it goes; how many decisions it took."""
        for count in range(1, MAX_STEPS_PER_TURN + 1):
            if self.step(rollout, now):
                return count
        raise IllegalStep(f"{rollout} does not come to rest")

    def step(self, rollout: Rollout, now: float) -> bool:
        """One decision; whether the turn rests with it."""
        if rollout.state in FINAL_ROLLOUT:
            return True
        self.add_late_joiners(rollout)
        decision = self.decide(rollout_view(self, rollout, now), moment(now))
        self.apply(rollout, decision, now)
        return isinstance(decision, Wait | CountSoak | Pause | Finish)

    def apply(self, rollout: Rollout, decision: Decision, now: float) -> None:
        match decision:
            case Wait():
                if decision.soak_anew is not None:
                    stage = rollout.stages[decision.soak_anew]
                    stage.soaked_seconds = stage.inconclusive_seconds = 0.0
                    stage.soak_counted_until = None
            case CountSoak():
                self._count_soak(rollout, decision, now)
            case Release():
                self._turn(rollout, R.PLANNED)
            case Begin():
                self._turn(rollout, R.RUNNING)
            case StartStage():
                self._set_stage(rollout, rollout.stages[decision.stage], S.RUNNING)
            case OfferSites():
                stage = rollout.stages[decision.stage]
                self.offer(rollout, stage, decision.count, now, retries_only=decision.retries_only)
            case RetryFailed():
                self.try_again(rollout, now, stage_index=decision.stage, forced=False)
            case EndOverdue():
                self.end_overdue(rollout, rollout.stages[decision.stage], decision.defer, now)
            case RemoveRetired():
                self.remove_retired(rollout, rollout.stages[decision.stage])
            case CallBack():
                self.cancel_open(rollout)
            case SkipStage():
                self._set_stage(rollout, rollout.stages[decision.stage], S.SKIPPED)
            case BeginSoak():
                self._set_stage(rollout, rollout.stages[decision.stage], S.SOAKING)
                rollout.stages[decision.stage].soak_counted_until = now
            case PassStage():
                self._add_soak(rollout, rollout.stages[decision.stage], decision.seconds, now)
                self._set_stage(rollout, rollout.stages[decision.stage], S.PASSED)
            case Pause():
                self._turn(rollout, R.PAUSED)
                rollout.cause, rollout.pause_code = decision.reason, decision.code
            case RollBack():
                self.roll_back(rollout, now, decision.reason, decision.failed_stages)
            case Finish():
                self._finish(rollout, decision.state)
            case _:
                assert_never(decision)

    def _count_soak(self, rollout: Rollout, decision: CountSoak, now: float) -> None:
        stage = rollout.stages[decision.stage]
        self._add_soak(rollout, stage, decision.seconds, now)
        if decision.inconclusive:
            stage.inconclusive_seconds += decision.inconclusive
        elif decision.seconds:
            stage.inconclusive_seconds = 0.0

    def _add_soak(self, rollout: Rollout, stage: Stage, seconds: float, now: float) -> None:
        self.notes.append(n.Soaked(rollout, stage, seconds, stage.soak_counted_until))
        stage.soaked_seconds += seconds
        stage.soak_counted_until = now

    def _finish(self, rollout: Rollout, state: R) -> None:
        if state not in (R.ROLLED_BACK, R.ROLLBACK_INCOMPLETE):
            left = ACTIVE_DEPLOYMENT | {D.FAILED}
            self.call_back(rollout, [d for d in latest(rollout) if d.state in left])
        self.end([d for d in latest(rollout) if d.state in ACTIVE_DEPLOYMENT], D.CANCELLED)
        open_back = [d for d in rollout.rollback if d.state in ACTIVE_DEPLOYMENT]
        self.end(open_back, D.ROLLBACK_FAILED)
        self._turn(rollout, state)


def can_abort(rollout: Rollout) -> bool:
    return "abort" in allowed_verbs(rollout.state)
