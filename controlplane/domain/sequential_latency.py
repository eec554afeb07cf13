"""Latency quantiles as counts: how many requests took longer than a bound of the histogram.

That the q-quantile is over t is that more than 1 - q of the requests take longer than t (Howard and
Ramdas 2022), so a quantile is judged by counts of Bernoulli draws, and never by a mean of
quantiles. It must not know of limits' verdicts."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import add

from controlplane.domain.sequential_evidence import Sample

# So far, as a part of it, may a bound lie from where it is wanted and still stand for it.
NEAR = 0.01


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Histograms added up. `above[i]`: how many lie above `edges[i]`; `edges[0]` is 0."""

    edges: tuple[float, ...]
    above: tuple[float, ...]

    @property
    def total(self) -> float:
        return self.above[0]

    def quantile(self, share: float) -> float | None:
        """ms; None above the last bound, or of nothing."""
        over = (1 - share) * self.total
        if not self.total or self.above[-1] > over:
            return None
        index = next(i for i, count in enumerate(self.above) if count <= over)
        if index == 0:
            return 0.0
        low, high = self.above[index - 1], self.above[index]
        part = _part_of_count(low, high, over)
        start, end = self.edges[index - 1], self.edges[index]
        return start + part * (end - start) if not start else start * (end / start) ** part


def shape_of(samples: Iterable[Sample]) -> Shape | None:
    """None when none of them has a histogram. The bounds are known to be the same."""
    bounds: tuple[float, ...] = ()
    sums: list[int] = []
    for sample in samples:
        if sample.counts:
            bounds = sample.bounds
            sums = list(map(add, sums or [0] * len(sample.counts), sample.counts))
    if not sums:
        return None
    above = tuple(accumulate(reversed(sums)))[::-1]
    return Shape(edges=(0.0, *bounds), above=tuple(map(float, above)))


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """At one site: the new version's requests are counted above `bound`, the baseline's above the
    edge `under`, which makes the new one surely slower, or `over`, which makes it surely not. They
    are the same where the histogram has a bound at `bound` divided by the factor. `shape`: all of
    the baseline's."""

    bound: float
    top: int
    under: int
    over: int
    shape: Shape

    def factor(self, index: int, ratio: float) -> float | None:
        """How many times slower a version is that has `ratio` times as many requests above `bound`
        as the baseline has above the edge of that index; None beyond what the histogram shows."""
        share = ratio * self.shape.above[index] / self.shape.total
        latency = self.shape.quantile(1 - share) if 0 < share < 1 else None
        return self.bound / latency if latency else None


def cuts_for(samples: Sequence[Sample], quantile: float, factor: float, least: int) -> Cuts | None:
    """For a baseline's samples in order of time. The bound is that next to `factor` times its
    quantile in the first of them that hold `least` requests, so that no later look can move it.
    None where the quantile lies above all bounds."""
    first: list[Sample] = []
    seen = 0
    for sample in samples:
        if seen >= least:
            break
        first.append(sample)
        seen += sum(sample.counts)
    begun, shape = shape_of(first), shape_of(samples)
    base = begun.quantile(quantile) if begun is not None else None
    if shape is None or not base:
        return None
    bound = min(shape.edges[1:], key=lambda edge: abs(math.log(edge / (factor * base))))
    under, over = edges_around(shape, bound / factor)
    assert over is not None
    return Cuts(bound=bound, top=shape.edges.index(bound), under=under, over=over, shape=shape)


def above(counts: Sequence[int], index: int) -> int:
    """How many lie above the edge of that index."""
    return sum(counts[index:])


def edges_around(shape: Shape, latency: float) -> tuple[int, int | None]:
    """(index of the largest edge at or below a latency, of the smallest at or above it; None above
    the last). An edge within `NEAR` of it is at it: bounds are written in round numbers."""
    below = bisect_right(shape.edges, latency * (1 + NEAR)) - 1
    over = bisect_left(shape.edges, latency / (1 + NEAR))
    return below, over if over < len(shape.edges) else None


def _part_of_count(low: float, high: float, over: float) -> float:
    """How far into a bucket, from 0 to 1, `over` requests are left of `low` at its beginning and
    `high` at its end."""
    if low <= high:
        return 0.0
    if high <= 0 or over <= 0:
        return (low - over) / (low - high)
    return math.log(low / over) / math.log(low / high)
