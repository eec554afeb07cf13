"""What people do in a simulated history: push versions, start rollouts, and change their minds.

Chance decides, within what the verbs allow; nobody acts any more once it is calm."""

import itertools
import math
from random import Random

from controlplane.domain.rollout import FINAL_ROLLOUT, allowed_verbs
from controlplane.ops.simulation.centre import Centre
from controlplane.ops.simulation.clock import Clock
from controlplane.ops.simulation.engine import Engine
from controlplane.ops.simulation.judge import Judge
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.rows import Rollout
from controlplane.ops.simulation.versions import Catalogue, Flaw, Version

_MINUTE = 60.0
_FLAWS = tuple(Flaw)


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
        self.calm = False

    def start(self, models: list[str]) -> None:
        for model in models:
            self._clock.after(self._rng.uniform(0, 20 * _MINUTE), self._consider, model)

    def _consider(self, model: str) -> None:
        """Begins a rollout when none is under way, else perhaps interferes with it."""
        if self.calm:
            return
        rollout = self._current.get(model)
        if rollout is None or rollout.state in FINAL_ROLLOUT:
            self._begin(model)
        elif self._rng.random() < 0.2:
            self._interfere(rollout)
        self._clock.after(self._rng.uniform(2 * _MINUTE, 25 * _MINUTE), self._consider, model)

    def _begin(self, model: str) -> None:
        version = self._version(model)
        rollout = self._centre.plan(version, self._stages())
        self._current[model] = rollout
        self._clock.note("{} is planned ({})", rollout, version.flaw)
        self._engine.ring(rollout)

    def _version(self, model: str) -> Version:
        """A new one, right or broken; now and then one that is known already."""
        rng = self._rng
        if rng.random() < 0.15:
            return rng.choice(self._catalogue.of(model))
        number, flaw = self._catalogue.next_number(model), None
        flawed_at: frozenset[int] | None = frozenset()
        if rng.random() < 0.4:
            flaw = rng.choice(_FLAWS)
            some = rng.random() < 0.6
            share = rng.uniform(0.02, 0.5)
            count = max(1, int(share * self._options.sites))
            flawed_at = frozenset(rng.sample(range(self._options.sites), count)) if some else None
        return self._catalogue.push(
            Version(model=model, number=number, flaw=flaw, flawed_at=flawed_at)
        )

    def _stages(self) -> list[tuple[float, list[int]]]:
        """Two to four stages over some of the fleet, tier after tier; seldom an empty one."""
        rng = self._rng
        sites: list[int] = []
        for tier in self._tiers:
            count = math.ceil(len(tier) * rng.uniform(0.5, 1))
            sites += rng.sample(tier, count)
        cuts = sorted(rng.randint(1, len(sites)) for _ in range(rng.randint(1, 3)))
        edges = [0, *cuts, len(sites)]
        soak = self._options.longest_soak_seconds
        return [
            (rng.choice((0.0, rng.uniform(30.0, soak))), sites[a:b])
            for a, b in itertools.pairwise(edges)
        ]

    def _interfere(self, rollout: Rollout) -> None:
        verbs = allowed_verbs(rollout.state)
        weights = {"pause": 5, "resume": 8, "abort": 2, "rollback": 2}
        if not verbs:
            return
        verb = self._rng.choices(verbs, [weights.get(verb, 0) for verb in verbs])[0]
        self._do(verb, rollout)

    def _do(self, verb: str, rollout: Rollout) -> None:
        now = self._clock.now
        self._clock.note("somebody does: {} {}", verb, rollout)
        self._judge.faults[f"people: {verb}"] += 1
        self._judge.person_holds(rollout, held=verb != "resume")
        if verb == "pause":
            self._centre.pause(rollout, now)
        elif verb == "resume":
            self._centre.resume(rollout, now)
        elif verb == "abort":
            self._centre.abort(rollout, now)
        else:
            self._centre.roll_back(rollout, now, "rolled back by a person")
        self._engine.commit()
        self._engine.ring(rollout)

    def calm_down(self) -> None:
        """Nobody starts, holds or turns anything any more."""
        self.calm = True
        for rollout in self._current.values():
            if "resume" in allowed_verbs(rollout.state):
                self._do("resume", rollout)
