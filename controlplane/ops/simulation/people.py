"""What people do in a simulated history: push versions, start rollouts, and change their minds.

Chance decides, within what the verbs allow. Once it is calm nobody begins or stops anything any
more, but whoever is asked answers."""

from collections import Counter
from collections.abc import Callable
from random import Random

from controlplane.domain.rollout import FINAL_ROLLOUT, OnConflict, ResumeChoice, allowed_verbs
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.ops.simulation.centre import Centre, NotPlanned
from controlplane.ops.simulation.clock import Clock
from controlplane.ops.simulation.engine import Engine
from controlplane.ops.simulation.judge import Judge
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.plans import make_plan
from controlplane.ops.simulation.rows import Rollout
from controlplane.ops.simulation.versions import Catalogue, Flaw, Version

_MINUTE = 60.0
_FLAWS = tuple(Flaw)
_CHOICES = (ResumeChoice.RETRY, ResumeChoice.ACCEPT, ResumeChoice.ROLLBACK)
# Who has been asked the same so often gives it up.
_ANSWERS = 2
_WEIGHTS = {"pause": 5, "resume": 8, "promote": 4, "retry-failed": 4, "abort": 2, "rollback": 4}


class People:
    """`tiers` holds the sites of each tier, in the order in which rollouts go."""

    def __init__(
        self,
        *,
        options: Options,
        clock: Clock,
        rng: Random,
        catalogue: Catalogue,
        centre: Centre,
        engine: Engine,
        judge: Judge,
        tiers: list[list[int]],
    ) -> None:
        self._options = options
        self._clock = clock
        self._rng = rng
        self._catalogue = catalogue
        self._centre = centre
        self._engine = engine
        self._judge = judge
        self._tiers = tiers
        self._current: dict[str, Rollout] = {}
        self._answers: Counter[int] = Counter()
        self.calm = False

    def start(self, models: list[str]) -> None:
        for model in models:
            self._clock.after(self._rng.uniform(0, 20 * _MINUTE), self._consider, model)

    def _consider(self, model: str) -> None:
        """Begins a rollout when none is under way, else perhaps interferes with it."""
        if self.calm:
            return
        rollout, rng = self._current.get(model), self._rng
        if rollout is None or rollout.state in FINAL_ROLLOUT:
            self._begin(model, OnConflict.REFUSE)
        elif rollout.state is R.PAUSED and rollout.pause_code and rng.random() < 0.7:
            self._do("resume", rollout)
        elif rng.random() < 0.05:
            self._begin(model, rng.choice((OnConflict.QUEUE, OnConflict.SUPERSEDE)))
        elif rng.random() < 0.2:
            self._interfere(rollout)
        self._clock.after(rng.uniform(2 * _MINUTE, 25 * _MINUTE), self._consider, model)

    def _begin(self, model: str, on_conflict: OnConflict) -> None:
        options, version = self._options, self._version(model)
        asked = make_plan(
            self._rng,
            self._tiers,
            quiet_seconds=options.quiet_seconds,
            longest_soak=options.longest_soak_seconds,
        )
        before = self._current.get(model)
        if before is not None and on_conflict is not OnConflict.REFUSE:
            self._judge.faults[f"people: {on_conflict.value}"] += 1
            if before.state is R.QUEUED:
                return
        try:
            rollout = self._centre.plan(
                version,
                asked.stages,
                self._clock.now,
                barrier=asked.barrier,
                welcomes=asked.welcomes,
                approval_required=asked.approval_required,
                on_conflict=on_conflict,
            )
        except NotPlanned as refused:
            self._judge.faults["plans refused"] += 1
            self._clock.note("no plan: {}", refused)
            return
        if before is not None and before.superseded_by == rollout.id:
            self._judge.person_holds(before, held=True)
        self._current[model] = rollout
        self._clock.note("{} is planned ({})", rollout, version.flaw)
        self._engine.commit()
        self._engine.ring(rollout)

    def _version(self, model: str) -> Version:
        """A new one, right or broken; now and then one that is known already."""
        rng = self._rng
        if rng.random() < 0.15:
            known = [v for v in self._catalogue.of(model) if v not in self._centre.quarantined]
            return rng.choice(known)
        number, flaw = self._catalogue.next_number(model), None
        flawed_at: frozenset[int] | None = frozenset()
        if rng.random() < 0.4:
            flaw = rng.choice(_FLAWS)
            some = rng.random() < 0.6
            share = rng.uniform(0.02, 0.5) if rng.random() < 0.5 else 0.01
            count = max(1, int(share * self._options.sites))
            flawed_at = frozenset(rng.sample(range(self._options.sites), count)) if some else None
        return self._catalogue.push(
            Version(model=model, number=number, flaw=flaw, flawed_at=flawed_at)
        )

    def _interfere(self, rollout: Rollout) -> None:
        verbs = [verb for verb in allowed_verbs(rollout.state) if verb in _WEIGHTS]
        if verbs:
            weights = [_WEIGHTS[verb] for verb in verbs]
            self._do(self._rng.choices(verbs, weights)[0], rollout)

    def _do(self, verb: str, rollout: Rollout) -> None:
        acts: dict[str, Callable[[Rollout], str]] = {
            "pause": self._pause,
            "resume": self._resume,
            "promote": self._promote,
            "retry-failed": self._retry,
            "abort": self._abort,
            "rollback": self._roll_back,
        }
        done = acts[verb](rollout)
        if done:
            self._clock.note("somebody does: {} {}", done, rollout)
            self._judge.faults[f"people: {done}"] += 1
            self._engine.commit()
            self._engine.ring(rollout)

    def _pause(self, rollout: Rollout) -> str:
        self._judge.person_holds(rollout, held=True)
        self._centre.pause(rollout, self._clock.now)
        return "pause"

    def _resume(self, rollout: Rollout) -> str:
        """What a person paused goes on; to what the engine asks there is an answer."""
        choice = None
        if rollout.pause_code:
            self._answers[rollout.id] += 1
            tired = self._answers[rollout.id] > _ANSWERS
            choice = ResumeChoice.ROLLBACK if tired else self._rng.choice(_CHOICES)
        self._judge.person_holds(rollout, held=choice is ResumeChoice.ROLLBACK)
        self._centre.resume(rollout, self._clock.now, choice)
        return f"resume with {choice.value}" if choice else "resume"

    def _promote(self, rollout: Rollout) -> str:
        if not any(stage.state is S.SOAKING for stage in rollout.stages):
            return ""
        self._centre.promote(rollout, self._clock.now)
        return "promote"

    def _retry(self, rollout: Rollout) -> str:
        if not any(
            stage.forward[D.FAILED] or stage.forward[D.TIMED_OUT] for stage in rollout.stages
        ):
            return ""
        self._centre.retry_failed(rollout, self._clock.now)
        return "retry-failed"

    def _abort(self, rollout: Rollout) -> str:
        self._judge.person_holds(rollout, held=True)
        self._centre.abort(rollout, self._clock.now)
        return "abort"

    def _roll_back(self, rollout: Rollout) -> str:
        """The whole, or one site or stage of it."""
        reached = self._centre.reached(rollout)
        if self._rng.random() < 0.5 or not reached or rollout.state is R.CANCELLING:
            self._judge.person_holds(rollout, held=True)
            self._centre.roll_back(rollout, self._clock.now, "rolled back by a person")
            return "rollback"
        one = self._rng.choice(reached)
        if self._rng.random() < 0.7:
            self._centre.return_part(rollout, [one.site], self._clock.now)
            return "rollback of a site"
        part = [d.site for d in one.stage.deployments]
        self._centre.return_part(rollout, part, self._clock.now)
        return "rollback of a stage"

    def calm_down(self) -> None:
        """Nobody starts, holds or turns anything any more; those that are asked answer."""
        self.calm = True
        for rollout in self._centre.rollouts:
            if rollout.state is R.PAUSED:
                self._do("resume", rollout)
        if self._clock.now < self._options.end:
            self._clock.after(self._rng.uniform(2 * _MINUTE, 4 * _MINUTE), self.calm_down)
