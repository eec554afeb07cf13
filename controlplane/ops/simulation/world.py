"""Puts one history together from its seed and lets it run: `simulate(options)`."""

from collections import Counter
from dataclasses import dataclass
from datetime import time
from random import Random

from waypost_agent import decide as d
from waypost_agent import situation as sit

from controlplane.domain.decide import decide
from controlplane.domain.windows import Window, WindowKind
from controlplane.ops.simulation.agent import Agent, AgentDecide
from controlplane.ops.simulation.book import IllegalStep
from controlplane.ops.simulation.centre import Centre, Decide
from controlplane.ops.simulation.clock import Clock
from controlplane.ops.simulation.disk import Held, ModelDisk
from controlplane.ops.simulation.engine import Engine
from controlplane.ops.simulation.invariants import Broken, Invariant
from controlplane.ops.simulation.judge import Judge
from controlplane.ops.simulation.mishaps import Mishaps
from controlplane.ops.simulation.network import Network
from controlplane.ops.simulation.officers import Officers
from controlplane.ops.simulation.options import TIERS, Options
from controlplane.ops.simulation.people import People
from controlplane.ops.simulation.summary import Outcome
from controlplane.ops.simulation.versions import Catalogue, Version
from controlplane.ops.simulation.wardens import Wardens

_TIER_SHARES = (0.1, 0.3, 0.6)
_LATE_SHARE = 0.03
_WINDOWS_SHARE = 0.4
_YEAR = 365 * 86_400.0


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What is on trial: production's decisions, and the effects as modelled. A test hands in spoilt
    ones, to see that the judge notices."""

    decide: Decide = decide
    agent_decide: AgentDecide = d.decide
    centre: type[Centre] = Centre
    engine: type[Engine] = Engine
    agent: type[Agent] = Agent


class World:
    """One fleet and its history."""

    def __init__(self, options: Options, parts: Parts) -> None:
        self.options = options
        self.clock = Clock()
        self._rng = Random(options.seed)
        self._catalogue = Catalogue()
        self.judge = Judge(options=options, clock=self.clock)
        self.centre = parts.centre(
            sites=options.sites,
            fresh_seconds=options.fresh_seconds,
            patience=options.patience,
            retry_seconds=options.poll_seconds,
            decide=parts.decide,
        )
        shared = {"options": options, "clock": self.clock, "rng": self._rng, "judge": self.judge}
        self.engine = parts.engine(centre=self.centre, **shared)  # type: ignore[arg-type]
        self.network = Network(engine=self.engine, **shared)  # type: ignore[arg-type]
        self.agents = [
            parts.agent(
                site=site,
                catalogue=self._catalogue,
                network=self.network,
                decide=parts.agent_decide,
                **shared,  # type: ignore[arg-type]
            )
            for site in range(options.sites)
        ]
        self.judge.attach(self.agents, self.centre)
        self._late = late_sites(options.sites)
        tiers = _tiers(options.sites - len(self._late))
        self._people = People(
            catalogue=self._catalogue,
            centre=self.centre,
            engine=self.engine,
            tiers=tiers,
            **shared,  # type: ignore[arg-type]
        )
        self._officers = Officers(
            options=options,
            clock=self.clock,
            centre=self.centre,
            engine=self.engine,
            judge=self.judge,
            tiers=tiers,
        )
        self._wardens = Wardens(
            centre=self.centre,
            engine=self.engine,
            agents=self.agents,
            tiers=tiers,
            late=list(self._late),
            **shared,  # type: ignore[arg-type]
        )
        self._mishaps = Mishaps(
            network=self.network,
            engine=self.engine,
            agents=self.agents,
            tiers=tiers,
            **shared,  # type: ignore[arg-type]
        )
        self._begin()

    def _begin(self) -> None:
        options, rng = self.options, self._rng
        self._pair_up()
        self._set_windows()
        models = [f"model-{number}" for number in range(1, options.models + 1)]
        for model in models:
            first = self._catalogue.push(Version(model=model, number=1))
            for agent in self.agents:
                if agent.site not in self._late and rng.random() < 0.9:
                    self._serves_already(agent, first)
        for agent in self.agents:
            if rng.random() < options.wrong_clock_share:
                agent.clock_error_seconds = rng.uniform(-10, 10) * _YEAR
            if agent.site in self._late:
                agent.up = False
                continue
            agent.start(rng.uniform(0, options.poll_seconds))
        self.engine.start()
        self._people.start(models)
        self._wardens.start()
        self._officers.start(models)
        self._mishaps.start()
        self.clock.after(options.calm_from, self._calm_down)

    def _pair_up(self) -> None:
        """Some neighbours stand in for each other."""
        for site in range(0, self.options.sites - 1, 2):
            if self._rng.random() < self.options.paired_share:
                self.centre.pair(site, site + 1)
        self.judge.groups = self.centre.groups

    def _set_windows(self) -> None:
        """In some histories some sites may activate only at some hours of their place."""
        rng = Random(f"windows of {self.options.seed}")
        if rng.random() < _WINDOWS_SHARE:
            for site in range(self.options.sites):
                if rng.random() < _WINDOWS_SHARE:
                    self.centre.set_window(site, _window(rng))
        self.judge.windows = self.centre.windows

    def _serves_already(self, agent: Agent, version: Version) -> None:
        site, model = agent.site, version.model
        generation = self.centre.serves_already(site, version)
        target = sit.Target(version=str(version.number), digest=version.digest)
        wish = sit.Wish(model=model, epoch=1, generation=generation, target=target)
        before = agent.disk.held.wishes if agent.disk.held else ()
        agent.disk.held = Held(generation=generation, wishes=(*before, wish))
        agent.disk.records[model] = sit.Record(committed=target, proven=frozenset({target.digest}))
        agent.disk.models[model] = ModelDisk(
            installed={target.version: target.digest},
            recorded=frozenset({target.version}),
            named=target.version,
        )
        agent.triton.ready[model] = target.version
        self.judge.trusts(site, version)

    def _calm_down(self) -> None:
        self.clock.note("faults stop")
        self.network.heal()
        self.engine.calm = True
        self.engine.idle_until = 0.0
        self._wardens.calm_down()
        self._officers.calm_down()
        self.centre.open_windows()
        self._people.calm_down()

    def run(self) -> Outcome:
        broken: Broken | None = None
        try:
            self.clock.run_until(self.options.end)
            self.judge.at_the_end()
        except Broken as found:
            broken = found
        except IllegalStep as step:
            broken = Broken(Invariant.LEGAL, str(step))
        return Outcome(
            options=self.options,
            virtual_seconds=self.clock.now,
            events=self.clock.events,
            turns=self.engine.turns,
            rollouts=Counter(rollout.state.value for rollout in self.centre.rollouts),
            faults=self.judge.faults,
            checked=self.judge.checked,
            settled_seconds=max(0.0, self.judge.last_end - self.options.calm_from),
            broken=None if broken is None else broken.invariant,
            detail="" if broken is None else str(broken),
            story=self.clock.story() if broken is not None else [],
        )


def _window(rng: Random) -> Window:
    """Every day for some hours."""
    return Window(
        kind=WindowKind.ACTIVATION,
        days=frozenset(range(7)),
        start=time(rng.randrange(24), rng.choice((0, 30))),
        minutes=rng.choice((60, 240, 720)),
        timezone=rng.choice(("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")),
    )


def _tiers(sites: int) -> list[list[int]]:
    """Few hyperscale regions, many edge sites; in a small fleet a tier may be empty."""
    tiers, first = [], 0
    for share, _ in zip(_TIER_SHARES[:-1], TIERS, strict=False):
        count = round(share * sites)
        tiers.append(list(range(first, first + count)))
        first += count
    return [*tiers, list(range(first, sites))]


def late_sites(sites: int) -> range:
    """The last few are not there at the beginning."""
    return range(sites - round(_LATE_SHARE * sites), sites)


def simulate(options: Options, parts: Parts | None = None) -> Outcome:
    """One history from beginning to end, or to the first broken invariant."""
    return World(options, parts or Parts()).run()
