"""Latency histograms that can be added up: how long requests took, as counts between bounds.

Decides what may be merged (equal bounds alone) and what is said of a quantile that no bound holds.
It must not know where the counts come from or are kept."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """`bounds` rise, in ms; `counts` has one more: requests up to each bound, and the last those
    above all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, kw_only=True)
class Quantile:
    """Exactly one is known: `ms`, or `above_ms`, the last bound, where it lies above all."""

    ms: float | None = None
    above_ms: float | None = None

    @property
    def at_least_ms(self) -> float:
        """To compare by: what it is, or the least that it can be."""
        return self.ms if self.ms is not None else self.above_ms or 0.0


def merge(one: Distribution, other: Distribution) -> Distribution | None:
    """Both together; None where the bounds differ: counts between other bounds cannot be divided
    without guessing."""
    if one.bounds != other.bounds:
        return None
    counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
    return Distribution(bounds=one.bounds, counts=counts)


def merged(parts: Iterable[Distribution]) -> tuple[Distribution, ...]:
    """One for each set of bounds, kept apart; that of the most requests first."""
    sums: dict[tuple[float, ...], list[int]] = {}
    for part in parts:
        held = sums.setdefault(part.bounds, [0] * len(part.counts))
        for index, count in enumerate(part.counts):
            held[index] += count
    found = [Distribution(bounds=bounds, counts=tuple(counts)) for bounds, counts in sums.items()]
    return tuple(sorted(found, key=lambda each: (-each.total, each.bounds)))


def quantile(distribution: Distribution, share: float) -> Quantile | None:
    """Below it lies `share` (0 to 1) of the requests; None where there are none. Within a bucket
    they are taken to lie evenly, the first beginning at 0, as `histogram_quantile` of Prometheus
    does; in the last, open one nothing is worked out."""
    total = distribution.total
    if not total:
        return None
    rank, below, least = share * total, 0, 0.0
    for bound, count in zip(distribution.bounds, distribution.counts, strict=False):
        if count and below + count >= rank:
            return Quantile(ms=least + (bound - least) * max(rank - below, 0.0) / count)
        below, least = below + count, bound
    return Quantile(above_ms=least)


def share_above(distribution: Distribution, threshold_ms: float) -> float | None:
    """Which share of the requests took longer, evenly within a bucket as in `quantile`. None where
    there are no requests, or where the threshold is above all bounds and requests are too."""
    total = distribution.total
    if not total:
        return None
    above, least = float(distribution.counts[-1]), 0.0
    if above and threshold_ms > max(distribution.bounds, default=-math.inf):
        return None
    for bound, count in zip(distribution.bounds, distribution.counts, strict=False):
        part = (bound - threshold_ms) / (bound - least) if bound > least else 0.0
        above += count * min(max(part, 0.0), 1.0)
        least = bound
    return above / total


def from_counts(bounds: Sequence[float], counts: Sequence[float]) -> Distribution:
    """Of sums as they are kept: whole numbers, in whatever type."""
    return Distribution(
        bounds=tuple(map(float, bounds)), counts=tuple(round(count) for count in counts)
    )
