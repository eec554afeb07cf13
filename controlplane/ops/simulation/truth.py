"""The invariants at the simulated sites: what answers users there, and whether it may.

Keeps a truth of its own, apart from what agents and centre believe. Changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from controlplane.ops.simulation.clock import Clock
from controlplane.ops.simulation.invariants import Broken, Invariant
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.versions import Version

if TYPE_CHECKING:
    from controlplane.ops.simulation.agent import Agent

# A living agent beside a living server has put things right after this long, whatever came before.
_AMENDS_SECONDS = 1800.0
_AWAKE_SECONDS = 900.0
# One step of another model may be under way, then comes the load of the version before.
_WITHDRAWN_SECONDS = 150.0


class Truth:
    """Is told what happens at the sites, and raises `Broken`."""

    def __init__(self, *, options: Options, clock: Clock) -> None:
        self.checked: Counter[Invariant] = Counter()
        self.faults: Counter[str] = Counter()
        self._options = options
        self._clock = clock
        self._agents: Sequence[Agent] = ()
        self._proven: set[tuple[int, Version]] = set()
        self._right_in_place: set[tuple[int, Version]] = set()
        self._last_good: dict[tuple[int, str], str] = {}
        self._held_generation = [0] * options.sites
        self._appearances: Counter[tuple[int, str]] = Counter()

    def _check(self, invariant: Invariant, holds: bool, detail: str, *arguments: Any) -> None:
        self.checked[invariant] += 1
        if not holds:
            raise Broken(invariant, detail.format(*arguments))

    def trusts(self, site: int, version: Version) -> None:
        """A site begins with a version that was proven and verified there before."""
        self._proven.add((site, version))
        self._right_in_place.add((site, version))
        self._last_good[site, version.model] = str(version.number)

    def answers(self, site: int, version: Version) -> None:
        """The real model's name is answered by this version from now on."""
        known = (site, version) in self._proven
        self._check(Invariant.PROVEN, known, "site {} answers with {}", site, version)
        self._appearances[site, version.model] += 1
        if (site, version) not in self._right_in_place:
            seen = self._appearance(site, version.model)
            self._clock.after(_AMENDS_SECONDS, self._still_answers, site, version, seen)

    def _appearance(self, site: int, model: str) -> tuple[int, int]:
        """Which boot of the server, and which load of the model: a version may come twice."""
        return self._agents[site].triton.boot, self._appearances[site, model]

    def _still_answers(self, site: int, version: Version, seen: tuple[int, int]) -> None:
        agent = self._agents[site]
        same = self._appearance(site, version.model) == seen
        lingers = same and agent.triton.ready.get(version.model) == str(version.number)
        wrong = lingers and (site, version) not in self._right_in_place and self._is_awake(agent)
        self._check(Invariant.REFUTED, not wrong, "site {} still answers with {}", site, version)

    def _is_awake(self, agent: Agent) -> bool:
        return agent.up and self._clock.now - agent.up_since > _AWAKE_SECONDS

    def replayed(self, site: int, version: Version, *, is_right: bool, in_place: bool) -> None:
        """Golden requests were answered, and so."""
        if not in_place:
            if is_right:
                self._proven.add((site, version))
        elif is_right:
            self._right_in_place.add((site, version))
            self._last_good[site, version.model] = str(version.number)
            self.is_up(site, version.model)
        else:
            seen = self._appearance(site, version.model)
            self._clock.after(
                _WITHDRAWN_SECONDS, self._is_withdrawn, site, version, seen, self._clock.now
            )

    def is_up(self, site: int, model: str) -> None:
        """It serves something verified, or what is wished: nothing."""

    def given_up(self, site: int, version: Version) -> None:
        """The agent wrote down that it failed: whatever it proved before counts no more."""
        self._proven.discard((site, version))

    def _is_withdrawn(
        self, site: int, version: Version, seen: tuple[int, int], since: float
    ) -> None:
        """What was refuted at `since` is gone, if its agent lived to see to it."""
        agent = self._agents[site]
        lingers = agent.triton.ready.get(version.model) == str(version.number)
        same = self._appearance(site, version.model) == seen
        undisturbed = same and agent.up and agent.up_since <= since
        again = (site, version) in self._proven  # another wish may have brought it once more
        holds = again or not (lingers and undisturbed)
        self._check(Invariant.REFUTED, holds, "site {} goes on with {}", site, version)

    def unloaded(self, site: int, model: str, *, is_wished: bool) -> None:
        """The agent stopped serving the model. `is_wished`: the centre wants nothing served."""
        if is_wished:
            self.is_up(site, model)
            self._last_good.pop((site, model), None)
        left = (site, model) in self._last_good
        self._check(Invariant.SERVES, not left, "site {} unloaded {}", site, model)

    def server_is_back(self, agent: Agent) -> None:
        self._clock.after(_AMENDS_SECONDS, self._serves_again, agent, agent.triton.boot)

    def _serves_again(self, agent: Agent, boot: int) -> None:
        if agent.triton.boot != boot or not self._is_awake(agent) or agent.disk.held is None:
            return
        for wish in agent.disk.held.wishes:
            good = (agent.site, wish.model) in self._last_good and wish.target is not None
            holds = not good or wish.model in agent.triton.ready
            self._check(Invariant.SERVES, holds, "site {} lacks {}", agent.site, wish.model)

    def pruned(
        self, site: int, model: str, installed: Mapping[str, str], kept_for_return: str | None
    ) -> None:
        good = self._last_good.get((site, model))
        holds = good is None or good in installed
        self._check(Invariant.LAST_GOOD, holds, "site {} removed {} of {}", site, good, model)
        holds = kept_for_return is None or kept_for_return in installed
        self._check(Invariant.LAST_GOOD, holds, "site {} cannot return to {}", site, model)

    def holds(self, site: int, generation: int) -> None:
        before = self._held_generation[site]
        self._held_generation[site] = generation
        self._check(
            Invariant.GENERATION, generation >= before, "site {} follows {}", site, generation
        )
