"""What stands above rollouts in a simulated history: freezes, quarantines, the budget, and sites
that come and go.

Chance decides; once it is calm everything is lifted and nobody holds anything any more."""

from collections.abc import Sequence
from random import Random

from controlplane.domain.rollout import FINAL_ROLLOUT
from controlplane.ops.simulation.agent import Agent
from controlplane.ops.simulation.centre import Centre
from controlplane.ops.simulation.clock import Clock
from controlplane.ops.simulation.engine import Engine
from controlplane.ops.simulation.judge import Judge
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.versions import Version

_MINUTE, _HOUR = 60.0, 3600.0
_MOST_RETIRED = 0.05


class Wardens:
    """`late` are the sites that are not yet there."""

    def __init__(
        self,
        *,
        options: Options,
        clock: Clock,
        rng: Random,
        centre: Centre,
        engine: Engine,
        judge: Judge,
        agents: Sequence[Agent],
        tiers: list[list[int]],
        late: list[int],
    ) -> None:
        self._options = options
        self._clock = clock
        self._rng = rng
        self._centre = centre
        self._engine = engine
        self._judge = judge
        self._agents = agents
        self._tiers = tiers
        self._late = late
        self.calm = False

    def start(self) -> None:
        self._clock.after(self._rng.uniform(10 * _MINUTE, _HOUR), self._act)

    def _act(self) -> None:
        if self.calm:
            return
        acts = (
            self._freeze,
            self._freeze,
            self._quarantine,
            self._budget,
            self._retire,
            self._join,
        )
        self._rng.choice(acts)()
        self._engine.commit()
        self._clock.after(self._rng.uniform(0.1, 1.5) * self._pace, self._act)

    @property
    def _pace(self) -> float:
        """Often in a short history, so that all of it is seen."""
        return min(_HOUR, self._options.end / 8)

    def _note(self, what: str) -> None:
        self._judge.faults[f"people: {what}"] += 1
        self._clock.note("somebody does: {}", what)

    def _freeze(self) -> None:
        """All sites, or a tier, or a few."""
        tier = self._rng.choice(self._tiers)
        some = self._rng.sample(tier, len(tier) // 2)
        sites = self._rng.choice((None, frozenset(tier), frozenset(some)))
        number = self._centre.freeze(sites)
        self._judge.froze(number, sites)
        self._note("freeze")
        self._clock.after(self._rng.uniform(1 * _MINUTE, 40 * _MINUTE), self._lift, number)

    def _lift(self, number: int) -> None:
        if number in self._centre.freezes:
            self._centre.lift(number)
            self._judge.lifted(number)

    def _quarantine(self) -> None:
        open_ = [r for r in self._centre.rollouts if r.state not in FINAL_ROLLOUT]
        if not open_:
            return
        rollout, roll_back = self._rng.choice(open_), self._rng.random() < 0.4
        if rollout.version.number == 1 or rollout.version in self._centre.quarantined:
            return
        self._centre.quarantine(rollout.version, self._clock.now, roll_back=roll_back)
        self._judge.withdrew(rollout.version, withdrawn=True)
        self._note("quarantine")
        self._clock.after(
            self._rng.uniform(10 * _MINUTE, 2 * _HOUR), self._release, rollout.version
        )

    def _release(self, version: Version) -> None:
        self._centre.release(version)
        self._judge.withdrew(version, withdrawn=False)

    def _budget(self) -> None:
        self._set_budget(self._rng.choice((None, 10, 30, 60)))
        self._note("budget")

    def _set_budget(self, percent: int | None) -> None:
        self._centre.set_budget(percent)
        self._judge.changing_percent = percent

    def _retire(self) -> None:
        """Seldom so many that a stage is left with none."""
        if len(self._centre.retired) < self._options.sites * _MOST_RETIRED:
            tier = max(self._tiers, key=len)
            site = tier.pop(self._rng.randrange(len(tier)))
            self._centre.retire(site)
            self._judge.retired(site)
            self._note("retire a site")

    def _join(self) -> None:
        if self._late:
            site = self._late.pop()
            self._tiers[-1].append(site)
            self._centre.join(site, self._clock.now)
            self._agents[site].arrive()
            self._note("a site joins")

    def calm_down(self) -> None:
        self.calm = True
        for number in list(self._centre.freezes):
            self._lift(number)
        for version in sorted(self._centre.quarantined, key=str):
            self._release(version)
        self._set_budget(None)
