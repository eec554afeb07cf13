"""Curves of counted things: one rate, the ratio of two rates, the difference of two rates.

Counts may be fractions, as they are divided by the design effect first: a likelihood to a power
under 1 gives a martingale that only grows more slowly. It must not know what is counted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.domain.sequential_curve import Curve

# Of the mixture over a logarithm of rates: half of it within a factor of 1.65 of the limit, and
# enough beyond to see a hundredfold at once.
LOG_SCALE = 0.5
# No rate, and no ratio of rates, is told from 0 below e to minus this.
FARTHEST = 20.0
_HALVINGS = 50


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """Where old and new can be compared: requests and bad ones among them, of both."""

    new_bad: float
    new: float
    base_bad: float
    base: float


def rate_curve(bad: float, requests: float) -> Curve:
    """Over the logarithm of a rate: binomial."""

    def likelihood(log_rate: float) -> float:
        return _of_rate(bad, requests, math.exp(log_rate))

    estimate = math.log(bad / requests) if bad > 0 else -FARTHEST
    return Curve(
        estimate=max(estimate, -FARTHEST),
        likelihood=likelihood,
        scale=LOG_SCALE,
        low=-FARTHEST,
        high=0.0,
    )


def ratio_curve(strata: Sequence[Stratum], freedom: float | None = None) -> Curve | None:
    """Over the logarithm of new rate by old rate; None when nothing bad was counted anywhere.

    Given how many are bad in a stratum, those of the new version among them are binomial, and what
    the stratum's own rate is drops out (Lindon and Malek 2022): neither site nor hour can mislead.
    Exact for rare bad ones, and too wide by the square root of 1 - rate for frequent ones.
    """
    bad = sum(stratum.new_bad for stratum in strata if stratum.base)
    cells = _cells(strata)
    if not cells:
        return None

    def likelihood(log_ratio: float) -> float:
        ratio = math.exp(log_ratio)
        return bad * log_ratio - sum(
            count * math.log(share * ratio + 1 - share) for share, count in cells
        )

    def rises(log_ratio: float) -> bool:
        ratio = math.exp(log_ratio)
        return bad > sum(
            count * share * ratio / (share * ratio + 1 - share) for share, count in cells
        )

    low, high = -FARTHEST, FARTHEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) else (low, middle)
    return Curve(
        estimate=(low + high) / 2,
        likelihood=likelihood,
        scale=LOG_SCALE,
        low=-FARTHEST,
        high=FARTHEST,
        freedom=freedom,
    )


def difference_curve(
    strata: Sequence[Stratum], *, scale: float, freedom: float | None = None
) -> Curve | None:
    """Over new rate less old rate, from -1 to 1; None without a stratum that has both.

    The old rate is brought to the new version's mix of strata first. For each difference the old
    rate that suits it best stands in the likelihood (the profile); so it holds for many requests.
    """
    both = [stratum for stratum in strata if stratum.new and stratum.base]
    new = sum(stratum.new for stratum in both)
    if not new:
        return None
    bad = sum(stratum.new_bad for stratum in both)
    old_rate = sum(s.new / new * s.base_bad / s.base for s in both)
    # As many baseline requests as would give the standardised rate its precision.
    old = 1 / sum((s.new / new) ** 2 / s.base for s in both)

    old_bad = old_rate * old

    def likelihood(difference: float) -> float:
        rate = _likeliest(bad, new, old_bad, old, difference)
        return _of_rate(bad, new, rate + difference) + _of_rate(old_bad, old, rate)

    return Curve(
        estimate=bad / new - old_rate,
        likelihood=likelihood,
        scale=scale,
        low=-1.0,
        high=1.0,
        freedom=freedom,
    )


def _cells(strata: Sequence[Stratum]) -> list[tuple[float, float]]:
    """(share of the new version's requests, bad ones of both). Strata of nearly the same share are
    one: within 5 % of the odds, where the curve is as good as the same."""
    sums: dict[int, tuple[float, float]] = {}
    for stratum in strata:
        count = stratum.new_bad + stratum.base_bad
        if not (stratum.new and stratum.base and count):
            continue
        key = round(20 * math.log(stratum.new / stratum.base))
        share = stratum.new / (stratum.new + stratum.base)
        weighted, total = sums.get(key, (0.0, 0.0))
        sums[key] = weighted + count * share, total + count
    return [(weighted / total, total) for weighted, total in sums.values()]


def _of_rate(bad: float, requests: float, rate: float) -> float:
    """Log-likelihood of a rate; of one that cannot be, very low."""
    good = requests - bad
    value = bad * math.log(max(rate, 1e-300)) if bad > 0 else 0.0
    return value + (good * math.log(max(1 - rate, 1e-300)) if good > 1e-9 else 0.0)


def _likeliest(bad: float, new: float, old_bad: float, old: float, difference: float) -> float:
    """The old rate that suits a difference best: of a cubic (Miettinen and Nurminen 1985)."""
    both, all_bad = new + old, bad + old_bad
    third = 3 * both
    square = (new + 2 * old) * difference - both - all_bad
    linear = (old * difference - both - 2 * old_bad) * difference + all_bad
    constant = old_bad * difference * (1 - difference)
    q = (square / third) ** 3 - square * linear / (6 * both * both) + constant / (2 * both)
    p = math.sqrt(max((square / third) ** 2 - linear / third, 0.0))
    p = math.copysign(p, q)
    angle = math.acos(min(1.0, max(-1.0, q / p**3))) if p else 0.0
    rate = 2 * p * math.cos((math.pi + angle) / 3) - square / third
    return min(max(rate, 0.0, -difference), 1.0, 1.0 - difference)
