"""A likelihood over an effect, and what it says against a value at every look.

The likelihood of all values to one side, mixed by a half-Cauchy law that begins at the value, over
that of the value itself, is a test martingale when the value is true, so by Ville's inequality it
is ever over 1/alpha with probability alpha at most, however often one looks (Robbins 1970; Howard,
Ramdas, McAuliffe and Sekhon 2021). The values that are not so ruled out are the confidence
sequence. It must not know what the effect is of."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

# Where the likelihood has fallen by so much (e^-30), the rest of the mixture is nothing.
_REACH = 30.0
_STEPS = 48  # of Simpson's rule
_HALVINGS = 30
# Further than this from a verdict nobody can say how far.
_FAR = 100.0


@dataclass(frozen=True, kw_only=True)
class Curve:
    """`likelihood`: its logarithm, concave, highest at `estimate`, between `low` and `high`.
    `scale`: of the mixture, how far from a limit an effect usually is. `freedom`: on how many
    independent differences a spread that was estimated rests, None where none was; then the
    likelihood is made that of Student's t."""

    estimate: float
    likelihood: Callable[[float], float]
    scale: float
    low: float
    high: float
    freedom: float | None = None

    @cached_property
    def _best(self) -> float:
        return self.likelihood(self.estimate)

    def drop(self, value: float) -> float:
        """By how much the likelihood is lower at a value than at the estimate, 0 or more."""
        drop = max(0.0, self._best - self.likelihood(value))
        if self.freedom is None:
            return drop
        return (self.freedom + 1) / 2 * math.log1p(2 * drop / self.freedom)

    def against(self, value: float) -> float:
        """The logarithm of the e-value against the effect being `value` or further from the
        estimate."""
        sign = 1.0 if self.estimate > value else -1.0
        near, far = self._support if sign > 0 else self._support[::-1]
        start = max(0.0, sign * (near - value))
        low, high = (math.atan(apart / self.scale) for apart in (start, sign * (far - value)))
        width = (high - low) / _STEPS
        total = 0.0
        for step in range(_STEPS + 1):
            weight = 1 if step in (0, _STEPS) else 4 if step % 2 else 2
            at = value + sign * self.scale * math.tan(low + step * width)
            total += weight * math.exp(-self.drop(at))
        if total * width <= 0:
            return -math.inf
        return self.drop(value) + math.log(total * width / 3 * 2 / math.pi)

    def interval(self, alpha: float) -> tuple[float, float]:
        """The effects that are not ruled out. Over all looks, the true one is ever below it with
        probability alpha at most, and ever above it likewise."""
        strength = math.log(1 / alpha)
        return self._edge(self.low, strength), self._edge(self.high, strength)

    def times_needed(self, value: float, alpha: float) -> float | None:
        """How many times today's evidence would tell the effect from `value`, if it is as it now
        seems; None when it seems to be nearly there. The drop grows as the requests do."""
        drop = self.drop(value)
        missing = math.log(1 / alpha) - self.against(value)
        times = 1 + missing / drop if drop > 0 else math.inf
        return None if times > _FAR else max(1.0, times)

    @cached_property
    def _support(self) -> tuple[float, float]:
        """Beyond it the likelihood is nothing beside its highest."""
        return self._fallen(self.low), self._fallen(self.high)

    def _fallen(self, end: float) -> float:
        return _turn(self.estimate, end, lambda value: self.drop(value) < _REACH)

    def _edge(self, end: float, strength: float) -> float:
        return _turn(self.estimate, end, lambda value: self.against(value) < strength)


def _turn(inside: float, end: float, holds: Callable[[float], bool]) -> float:
    """Where a condition that holds at `inside` ceases to hold on the way to `end`; `end` if it
    never does."""
    if inside == end or holds(end):
        return end
    outside = end
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if holds(middle):
            inside = middle
        else:
            outside = middle
    return outside
