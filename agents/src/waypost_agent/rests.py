"""How long a step that failed is left alone before it is tried again.

Decides the times alone. Knows no step but by model, kind and version.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from waypost_agent.actions import Action
from waypost_agent.clock import Clock
from waypost_agent.config import Timeouts
from waypost_agent.errors import LeaseRefused, Retryable
from waypost_agent.phases import Rest
from waypost_agent.situation import Target

Step = tuple[str, type[Action], Target | None]


class Rests:
    """`uniform(a, b)` gives a random number between."""

    def __init__(
        self, clock: Clock, timeouts: Timeouts, uniform: Callable[[float, float], float]
    ) -> None:
        self._clock = clock
        self._timeouts = timeouts
        self._uniform = uniform
        self._rests: dict[Step, Rest] = {}

    def begin(self, action: Action, error: Retryable) -> float:
        """Let the step rest, longer with each failure in a row; returns for how many seconds."""
        before = self._rests.get(step_of(action))
        failures = 1 if before is None else before.failures + 1
        timeouts = self._timeouts
        if isinstance(error, LeaseRefused):
            failures = 0  # an answer is no failure, and the centre knows when to ask again
            seconds = error.retry_seconds * self._uniform(0.8, 1.2)
            seconds = max(seconds, timeouts.retry_first_seconds)
        else:
            longest = min(
                timeouts.retry_longest_seconds,
                timeouts.retry_first_seconds * 2 ** min(failures, 16),
            )
            told = error.after_seconds * self._uniform(1.0, 1.2)
            seconds = max(self._uniform(longest / 2, longest), told)
        until = self._clock.monotonic() + seconds
        self._rests[step_of(action)] = Rest(failures=failures, until=until, error=error)
        return seconds

    def of(self, action: Action, now: float) -> Rest | None:
        """The rest that the step is in at `now` (monotonic seconds)."""
        rest = self._rests.get(step_of(action))
        return None if rest is None or rest.until <= now else rest

    def end(self, step: Step) -> None:
        """It went well: should it fail again, that is the first time."""
        self._rests.pop(step, None)

    def end_all_of(self, models: Collection[str]) -> None:
        """Something newer is wished of these models."""
        self._rests = {step: rest for step, rest in self._rests.items() if step[0] not in models}


def step_of(action: Action) -> Step:
    """What makes two actions the same step: model, kind and version, not the words about it."""
    return (action.model, type(action), getattr(action, "target", None))
