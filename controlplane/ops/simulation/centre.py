"""The centre in memory: what its book would say after each decision and each verb.

Follows `rollouts/effects.py` and `services.py` line by line where those change rows; decides
nothing."""

from collections.abc import Callable, Sequence
from datetime import datetime

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    BEFORE_SWITCH,
    FINAL_ROLLOUT,
    Begin,
    BeginSoak,
    CountSoak,
    Decision,
    Finish,
    PassStage,
    RollBack,
    RolloutView,
    SkipStage,
    StartStage,
    Wait,
    decide,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.ops.simulation import notes as n
from controlplane.ops.simulation.book import Book, IllegalStep
from controlplane.ops.simulation.clock import moment
from controlplane.ops.simulation.rows import (
    Deployment,
    Rollout,
    Stage,
)
from controlplane.ops.simulation.versions import Version
from controlplane.ops.simulation.views import rollout_view

MAX_STEPS_PER_TURN = 200
_OPEN_STAGE = (S.PENDING, S.RUNNING, S.SOAKING)

Decide = Callable[[RolloutView, datetime], Decision]


class Centre(Book):
    """`fresh_seconds`: how old a report may be and still count; who is silent for `patience` times
    that is not waited for."""

    def __init__(
        self, *, sites: int, fresh_seconds: float, patience: float, decide: Decide = decide
    ) -> None:
        super().__init__(sites=sites)
        self.fresh_seconds = fresh_seconds
        self.patience = patience
        self.decide = decide

    # What people do

    def plan(self, version: Version, stages: Sequence[tuple[float, Sequence[int]]]) -> Rollout:
        """A new rollout; each stage as its soak in seconds and its sites."""
        rollout = Rollout(id=len(self.rollouts) + 1, version=version)
        for index, (soak_seconds, sites) in enumerate(stages):
            stage = Stage(index=index, name=f"stage-{index}", soak_seconds=soak_seconds)
            for site in sites:
                deployment = Deployment(
                    rollout=rollout, stage=stage, site=site, is_rollback=False, to_version=version
                )
                stage.deployments.append(deployment)
                rollout.forward.append(deployment)
            stage.forward[D.PENDING] = len(sites)
            rollout.stages.append(stage)
        self.rollouts.append(rollout)
        return rollout

    def pause(self, rollout: Rollout, now: float) -> None:
        self._turn(rollout, R.PAUSED)
        rollout.cause = "paused"

    def resume(self, rollout: Rollout, now: float) -> None:
        self._turn(rollout, R.RUNNING)
        rollout.cause = ""
        for stage in rollout.stages:
            if stage.state is S.SOAKING:
                stage.soak_counted_until = now

    def abort(self, rollout: Rollout, now: float) -> None:
        self._turn(rollout, R.CANCELLING)
        rollout.cause = "aborted"
        for stage in rollout.stages:
            if stage.state in _OPEN_STAGE:
                self._set_stage(rollout, stage, S.CANCELLED)
        called_back = self.call_back(rollout, BEFORE_SWITCH)
        for deployment in rollout.forward:
            gone = deployment.site in called_back and deployment.state is not D.FAILED
            if gone or deployment.state is D.PENDING:
                self._move(deployment, D.CANCELLED)

    def roll_back(
        self, rollout: Rollout, now: float, reason: str, failed_stages: Sequence[int] = ()
    ) -> None:
        self._turn(rollout, R.ROLLING_BACK)
        rollout.cause = reason
        for stage in rollout.stages:
            if stage.index in failed_stages:
                self._set_stage(rollout, stage, S.FAILED)
            elif stage.state in _OPEN_STAGE:
                self._set_stage(rollout, stage, S.CANCELLED)
        reached_states = ACTIVE_DEPLOYMENT | {D.SUCCEEDED, D.FAILED}
        reached = [d for d in rollout.forward if d.state in reached_states]
        ways_back = [(d.site, self.way_back(d)) for d in reached]
        changes = self.change_wishes(rollout, ways_back, is_offer=False, keep_previous=False)
        self.cancel_forward(rollout)
        for old, (_, version) in zip(reached, ways_back, strict=True):
            back = Deployment(
                rollout=rollout,
                stage=old.stage,
                site=old.site,
                is_rollback=True,
                to_version=version,
                from_version=old.to_version,
                generation=changes[old.site][1],
            )
            rollout.rollback.append(back)
            self._open(back)

    def way_back(self, deployment: Deployment) -> Version | None:
        """What a site returns to."""
        return deployment.from_version

    def cancel_forward(self, rollout: Rollout) -> None:
        for deployment in rollout.forward:
            if deployment.state in ACTIVE_DEPLOYMENT or deployment.state is D.PENDING:
                self._move(deployment, D.CANCELLED)

    # What the engine does

    def steps(self, rollout: Rollout, now: float) -> int:
        """One turn, as far as it goes; how many decisions it took."""
        at = moment(now)
        for count in range(1, MAX_STEPS_PER_TURN + 1):
            if rollout.state in FINAL_ROLLOUT:
                return count
            decision = self.decide(rollout_view(self, rollout, now), at)
            self.apply(rollout, decision, now)
            if isinstance(decision, Wait | CountSoak | Finish):
                return count
        raise IllegalStep(f"{rollout} does not come to rest")

    def apply(self, rollout: Rollout, decision: Decision, now: float) -> None:
        match decision:
            case Wait():
                pass
            case CountSoak():
                self._count_soak(rollout, rollout.stages[decision.stage], decision.seconds, now)
            case Begin():
                self._turn(rollout, R.RUNNING)
            case StartStage():
                self._start_stage(rollout, rollout.stages[decision.stage])
            case SkipStage():
                self._set_stage(rollout, rollout.stages[decision.stage], S.SKIPPED)
            case BeginSoak():
                self._set_stage(rollout, rollout.stages[decision.stage], S.SOAKING)
                rollout.stages[decision.stage].soak_counted_until = now
            case PassStage():
                self._count_soak(rollout, rollout.stages[decision.stage], decision.seconds, now)
                self._set_stage(rollout, rollout.stages[decision.stage], S.PASSED)
            case RollBack():
                self.roll_back(rollout, now, decision.reason, decision.failed_stages)
            case Finish():
                self._finish(rollout, decision.state)
            case _:
                raise TypeError(f"the simulated centre does not know how to do {decision}")

    def _start_stage(self, rollout: Rollout, stage: Stage) -> None:
        self._set_stage(rollout, stage, S.RUNNING)
        offered = [d for d in stage.deployments if d.state is D.PENDING]
        changes = self.change_wishes(
            rollout,
            [(d.site, rollout.version) for d in offered],
            is_offer=True,
            keep_previous=True,
        )
        for deployment in offered:
            deployment.from_version, deployment.generation = changes[deployment.site]
            self._move(deployment, D.OFFERED)

    def _count_soak(self, rollout: Rollout, stage: Stage, seconds: float, now: float) -> None:
        self.notes.append(n.Soaked(rollout, stage, seconds, stage.soak_counted_until))
        stage.soaked_seconds += seconds
        stage.soak_counted_until = now

    def _finish(self, rollout: Rollout, state: R) -> None:
        if state is R.CANCELLED:
            self.call_back(rollout, ACTIVE_DEPLOYMENT | {D.FAILED})
        for deployment in rollout.forward + rollout.rollback:
            if deployment.state in ACTIVE_DEPLOYMENT:
                end = D.ROLLBACK_FAILED if deployment.is_rollback else D.CANCELLED
                self._move(deployment, end)
        self._turn(rollout, state)

    def call_back(self, rollout: Rollout, states: frozenset[D]) -> set[int]:
        """Returns sites in these states to the version they had; which sites those were."""
        rows = [d for d in rollout.forward if d.state in states]
        wishes = [(d.site, self.way_back(d)) for d in rows]
        self.change_wishes(rollout, wishes, is_offer=False, keep_previous=False)
        return {site for site, _ in wishes}
