"""What becomes of a message: it arrives, is lost, comes twice, late, or not at all behind a cut.

A message that arrives in time does so at once; a late one comes when others have overtaken it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from controlplane.ops.simulation.clock import Clock
from controlplane.ops.simulation.judge import Judge
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.rows import Answer, Leave, Question, Report

if TYPE_CHECKING:
    from controlplane.ops.simulation.engine import Engine
    from controlplane.ops.simulation.link import Link


class Network:
    """Between every site and the centre. Nothing goes wrong any more once it is `calm`."""

    def __init__(
        self, *, options: Options, clock: Clock, rng: Random, judge: Judge, engine: Engine
    ) -> None:
        self.calm = False
        self.centre_down_until = 0.0
        self._options = options
        self._clock = clock
        self._rng = rng
        self._faults = judge.faults
        self._engine = engine
        self._cut_until = [0.0] * options.sites
        self._astray = options.loss + options.duplication + options.lateness

    def cut(self, site: int, seconds: float) -> None:
        self._faults["partitions"] += 1
        self._cut_until[site] = max(self._cut_until[site], self._clock.now + seconds)

    def heal(self) -> None:
        self.calm = True
        self.centre_down_until = 0.0
        self._cut_until = [0.0] * len(self._cut_until)

    def reaches(self, site: int) -> bool:
        now = self._clock.now
        return now >= self._cut_until[site] and now >= self.centre_down_until

    def strikes(self, share: float) -> bool:
        """Whether a fault with this probability happens now."""
        return not self.calm and self._rng.random() < share

    def poll(self, agent: Link) -> bool:
        """Asks for the wishes; whether an answer came in time."""
        return self._carry(agent.site, self._ask, agent, agent.session, agent.offered_generation)

    def report(self, report: Report) -> bool:
        """Whether it was taken in time and the sender knows."""
        return self._carry(report.site, self._engine.take, report)

    def ask_lease(self, agent: Link, question: Question) -> None:
        """The answer, if any comes, goes the same way."""
        self._carry(agent.site, self._request, agent, question)

    def _request(self, agent: Link, question: Question) -> None:
        answer = self._engine.lease(question)
        if answer is not None:
            self._carry(agent.site, self._reply, agent, question, answer)

    @staticmethod
    def _reply(agent: Link, question: Question, answer: Leave) -> None:
        agent.hear_lease(question, answer)

    def _ask(self, agent: Link, session: int, held: int) -> None:
        answer = self._engine.ask(agent.site, session, held)
        if answer is not None:
            self._carry(agent.site, self._tell, agent, answer)

    @staticmethod
    def _tell(agent: Link, answer: Answer) -> None:
        agent.hear(answer)

    def _carry(self, site: int, deliver: Callable[..., None], *what: Any) -> bool:
        """Delivers it now, later, twice or never; whether its sender sees it arrive."""
        clock = self._clock
        clock.events += 1
        if clock.now < self._cut_until[site] or clock.now < self.centre_down_until:
            return False
        if self.calm or (chance := self._rng.random()) >= self._astray:
            deliver(*what)
            return True
        options = self._options
        if chance < options.loss:
            self._faults["messages lost"] += 1
            # Half of the lost are answers: it was taken, and its sender does not know.
            if chance < options.loss / 2:
                deliver(*what)
            return False
        chance -= options.loss
        if chance < options.duplication:
            self._faults["messages doubled"] += 1
            self._later(deliver, what)
        else:
            self._faults["messages late"] += 1
            self._later(deliver, what)
            return False
        deliver(*what)
        return True

    def _later(self, deliver: Callable[..., None], what: tuple[Any, ...]) -> None:
        seconds = self._rng.random() ** 3 * self._options.latest_seconds
        self._clock.after(seconds, self._arrive, deliver, what)

    def _arrive(self, deliver: Callable[..., None], what: tuple[Any, ...]) -> None:
        if self._clock.now >= self.centre_down_until:
            deliver(*what)
