"""What goes wrong besides messages: cuts, crashes, an engine that stands still or is gone."""

from collections.abc import Callable, Sequence
from random import Random

from controlplane.ops.simulation.agent import Agent
from controlplane.ops.simulation.clock import Clock
from controlplane.ops.simulation.engine import Engine
from controlplane.ops.simulation.judge import Judge
from controlplane.ops.simulation.network import Network
from controlplane.ops.simulation.options import Options

_HOUR, _MINUTE = 3600.0, 60.0
_SHORTEST_WEATHER_SECONDS, _LONGEST_WEATHER_SECONDS = 0.5 * _HOUR, 3 * _HOUR


class Mishaps:
    """Each kind comes at random moments, as often as its rate says, until it is calm.

    Hours of fair weather, in which only messages go astray, stand between hours of storm: a large
    fleet in which somebody is always cut off would never see a whole stage at once.
    """

    def __init__(
        self,
        *,
        options: Options,
        clock: Clock,
        rng: Random,
        network: Network,
        engine: Engine,
        agents: Sequence[Agent],
        tiers: list[list[int]],
        judge: Judge,
    ) -> None:
        self._options = options
        self._clock = clock
        self._rng = rng
        self._network = network
        self._engine = engine
        self._agents = agents
        self._tiers = tiers
        self._faults = judge.faults
        self._is_fair = False

    def start(self) -> None:
        self._weather_turns()
        options = self._options
        for rate, strike in (
            (options.agent_crash_rate * options.sites, self._agent_dies),
            (options.agent_crash_rate * options.sites / 5, self._machine_reboots),
            (options.triton_crash_rate * options.sites, self._triton_dies),
            (options.cut_rate * options.sites, self._site_is_cut_off),
            (1 / 8, self._tier_is_cut_off),
            (1 / 2, self._ticks_are_skipped),
            (1 / 8, self._centre_is_down),
        ):
            if rate > 0:
                self._again(rate, strike)

    def _again(self, rate: float, strike: Callable[[], None]) -> None:
        self._clock.after(self._rng.expovariate(rate / _HOUR), self._strike, rate, strike)

    def _strike(self, rate: float, strike: Callable[[], None]) -> None:
        if not self._network.calm:
            if not self._is_fair:
                strike()
            self._again(rate, strike)

    def _weather_turns(self) -> None:
        self._is_fair = not self._is_fair
        seconds = self._rng.uniform(_SHORTEST_WEATHER_SECONDS, _LONGEST_WEATHER_SECONDS)
        self._clock.after(seconds, self._weather_turns)

    def _anyone(self) -> Agent:
        return self._agents[self._rng.randrange(len(self._agents))]

    def _agent_dies(self) -> None:
        self._anyone().crash()

    def _machine_reboots(self) -> None:
        self._anyone().reboot()

    def _triton_dies(self) -> None:
        self._anyone().triton_crashes()

    def _site_is_cut_off(self) -> None:
        self._network.cut(self._anyone().site, self._cut_seconds())

    def _tier_is_cut_off(self) -> None:
        tier, seconds = self._rng.choice(self._tiers), self._cut_seconds()
        self._clock.note("a tier of {} sites is cut off for {:.0f} s", len(tier), seconds)
        for site in tier:
            self._network.cut(site, seconds)

    def _cut_seconds(self) -> float:
        return self._rng.random() ** 2 * self._options.longest_cut_seconds

    def _ticks_are_skipped(self) -> None:
        self._faults["pauses of the engine"] += 1
        seconds = self._rng.uniform(_MINUTE, 10 * _MINUTE)
        self._engine.idle_until = max(self._engine.idle_until, self._clock.now + seconds)

    def _centre_is_down(self) -> None:
        """No answer and no turn. Sites go on alone."""
        self._faults["centre outages"] += 1
        until = self._clock.now + self._cut_seconds()
        self._clock.note("the centre is down for {:.0f} s", until - self._clock.now)
        self._network.centre_down_until = max(self._network.centre_down_until, until)
        self._engine.idle_until = max(self._engine.idle_until, until)
