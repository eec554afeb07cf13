"""Those who are asked: they approve plans and stages, measure at gates and pin sites.

Chance decides; once it is calm every approval is given, every measurement is made, and nothing is
pinned any more."""

from collections.abc import Sequence
from datetime import timedelta
from random import Random

from controlplane.domain.gates import GateResult, Verdict
from controlplane.domain.rollout import FINAL_ROLLOUT, STARTED_STAGE
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.ops.simulation.centre import Centre
from controlplane.ops.simulation.clock import Clock, moment
from controlplane.ops.simulation.engine import Engine
from controlplane.ops.simulation.judge import Judge
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.rows import Rollout, Stage

_MINUTE = 60.0
_FRESH = timedelta(minutes=5)
_DELAY_SHARE = 0.4
# What a measurement comes to where nothing is wrong with the version.
_VERDICTS = (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.ERROR, Verdict.FAIL)
_WEIGHTS = (90, 6, 3, 1)


class Officers:
    """Each round looks at every rollout that is not over."""

    def __init__(
        self,
        *,
        options: Options,
        clock: Clock,
        centre: Centre,
        engine: Engine,
        judge: Judge,
        tiers: Sequence[Sequence[int]],
    ) -> None:
        self._clock = clock
        self._rng = Random(f"officers of {options.seed}")
        self._centre = centre
        self._engine = engine
        self._judge = judge
        self._tiers = tiers
        self._models: Sequence[str] = ()
        self.calm = False

    def start(self, models: Sequence[str]) -> None:
        self._models = models
        self._clock.after(_MINUTE, self._round)

    def _round(self) -> None:
        self._clock.after(self._rng.uniform(1, 3) * _MINUTE, self._round)
        for rollout in self._centre.rollouts:
            if rollout.state not in FINAL_ROLLOUT:
                self._look_at(rollout)
        if not self.calm and self._rng.random() < 0.02:
            self._pin()

    def _look_at(self, rollout: Rollout) -> None:
        asked = rollout.approval_required and rollout.state is R.PLANNED and not rollout.approved
        if asked and not self._delays():
            self._approve(rollout, None)
        for stage in rollout.stages:
            waits = stage.policy.approval and stage.state is S.SOAKING and not stage.approved
            if waits and rollout.state in (R.RUNNING, R.PAUSED) and not self._delays():
                self._approve(rollout, stage)
            if stage.policy.gates and stage.state in STARTED_STAGE:
                self._measure(rollout, stage)

    def _delays(self) -> bool:
        return not self.calm and self._rng.random() < _DELAY_SHARE

    def _approve(self, rollout: Rollout, stage: Stage | None) -> None:
        self._centre.approve(rollout, stage)
        self._judge.approved(rollout, stage)
        self._judge.faults["people: approve"] += 1
        self._clock.note("somebody approves: {} {}", rollout, stage.name if stage else "")
        self._engine.ring(rollout)

    def _measure(self, rollout: Rollout, stage: Stage) -> None:
        version = rollout.version
        reached = [d.site for d in stage.deployments if d.state is D.SUCCEEDED]
        for gate in stage.policy.gates:
            verdict = Verdict.PASS
            if any(version.flaw_at(site) for site in reached):
                verdict = Verdict.FAIL
            elif not self.calm:
                verdict = self._rng.choices(_VERDICTS, _WEIGHTS)[0]
            now = moment(self._clock.now)
            result = GateResult(
                gate=gate,
                verdict=verdict,
                reason="measured",
                judged_at=now,
                fresh_until=now + _FRESH,
            )
            self._centre.take_verdict(rollout, stage, result)
            self._judge.measured(rollout, stage, result)
            self._judge.faults[f"gates: {verdict.value}"] += 1

    def _pin(self) -> None:
        site, model = self._rng.choice(self._tiers[-1]), self._rng.choice(self._models)
        if (site, model) in self._centre.pins or not self._centre.pin(site, model):
            return
        self._judge.pinned(site, model, held=True)
        self._judge.faults["people: pin"] += 1
        self._clock.after(self._rng.uniform(5, 40) * _MINUTE, self._unpin, site, model)

    def _unpin(self, site: int, model: str) -> None:
        if (site, model) not in self._centre.pins:
            return
        self._centre.unpin(site, model)
        self._judge.pinned(site, model, held=False)

    def calm_down(self) -> None:
        self.calm = True
        for site, model in sorted(self._centre.pins):
            self._unpin(site, model)
