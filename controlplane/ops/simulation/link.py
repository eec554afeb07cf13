"""A simulated agent's talk with the centre: polls and reports when due, sooner after silence.

Follows the agent's `link.py`. How messages travel, the network says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random
from typing import TYPE_CHECKING

from waypost_agent import situation as sit

from controlplane.domain.admission import Instant
from controlplane.ops.simulation.clock import Clock
from controlplane.ops.simulation.disk import Disk, Held
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.rows import Answer, Leave, Question, Report, Said

if TYPE_CHECKING:
    from controlplane.ops.simulation.network import Network

_LONGEST_SILENCE_SECONDS = 600.0


class Link(ABC):
    """One thread's worth of conversation. `disk` survives; the rest is gone when the agent dies."""

    # Whether a report is said again although nothing changed: the cure for every lost one.
    repeats_reports = True

    def __init__(
        self, *, site: int, options: Options, clock: Clock, rng: Random, network: Network
    ) -> None:
        self.site = site
        self.options = options
        self.clock = clock
        self.rng = rng
        self.network = network
        self.disk = Disk()
        self.clock_error_seconds = 0.0
        self.up = True
        self.boot = "1"
        self.machine_up_since = 0.0
        self.forget()

    def forget(self) -> None:
        """What was only in memory is gone."""
        self.failures = 0
        self._offered: Held | None = None
        self._models: tuple[Said, ...] = ()
        self._seq = 0
        self._asked: Question | None = None

    @abstractmethod
    def wake(self, seconds: float) -> None:
        """Something is wished anew: look no later than that."""

    @abstractmethod
    def answered(self, question: Question, answer: Leave) -> None:
        """The last question was answered."""

    @abstractmethod
    def server_answers(self) -> bool:
        """Whether the model server is there."""

    @property
    def session(self) -> int:
        return self.disk.sessions

    def boottime(self) -> float:
        return self.clock.now - self.machine_up_since

    def instant(self) -> Instant:
        """Now, by the clock that nobody can set."""
        return Instant(boot=self.boot, uptime=self.boottime())

    def has_news(self) -> bool:
        """Whether a newer wish was heard than the one in force."""
        held = self.disk.held
        offered = self._offered
        return offered is not None and (held is None or offered.generation > held.generation)

    def reaches_centre(self) -> bool:
        return self.network.reaches(self.site)

    def show(self, models: tuple[Said, ...]) -> None:
        """Puts up the newest states; they are reported at once when they differ."""
        if models != self._models:
            self._models = models
            self._report()

    def contact(self, life: int) -> None:
        """A poll and a report when they are due; sooner again after silence."""
        if life != self.disk.sessions:
            return
        network = self.network
        answered = network.poll(self)
        if self.repeats_reports and self._models:
            answered = self._report() and answered
        if answered:
            self.failures = 0
            seconds = self.options.poll_seconds * self.rng.uniform(0.8, 1.2)
        else:
            self.failures += 1
            longest = min(_LONGEST_SILENCE_SECONDS, 2.0 ** min(self.failures, 16))
            seconds = 10.0 + self.rng.uniform(0.0, longest)
        self.clock.after(seconds, self.contact, life)

    def hear(self, answer: Answer) -> None:
        """A poll was answered. What is older than what is held is refused."""
        if not self.up or not self.is_newer(answer):
            return
        self._offered = Held(
            generation=answer.generation,
            wishes=tuple(
                sit.Wish(
                    model=wished.model,
                    epoch=1,
                    generation=wished.generation,
                    target=sit.Target(
                        version=str(wished.version.number), digest=wished.version.digest
                    )
                    if wished.version
                    else None,
                    previous=None if wished.previous is None else str(wished.previous),
                    lease_required=wished.lease_required,
                )
                for wished in answer.wishes
            ),
        )
        self.wake(0.0)

    def is_newer(self, answer: Answer) -> bool:
        return self._offered is None or answer.generation > self._offered.generation

    @property
    def offered_generation(self) -> int:
        return 0 if self._offered is None else self._offered.generation

    def ask_lease(self, model: str, generation: int) -> None:
        """Asks whether it may begin. An answer to an earlier question is not listened to."""
        self._asked = Question(
            site=self.site,
            session=self.session,
            model=model,
            generation=generation,
            asked=self.instant(),
        )
        self.network.ask_lease(self, self._asked)

    def hear_lease(self, question: Question, answer: Leave) -> None:
        if self.up and question is self._asked:
            self._asked = None
            self.answered(question, answer)

    def _report(self) -> bool:
        """Whether it was heard."""
        self._seq += 1
        now = self.clock.now
        # By position: a history makes a million of them.
        return self.network.report(
            Report(
                self.site,
                self.disk.sessions,
                self._seq,
                self._models,
                now + self.clock_error_seconds,
                self.boot,
                now - self.machine_up_since,
                self.server_answers(),
            )
        )
