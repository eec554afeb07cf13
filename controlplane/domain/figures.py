"""From what was counted in an interval to the figures people read. What was not counted is None.

It must not know where the counts are kept."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Counted:
    """One version in one interval; `request_us` is the time of the requests that succeeded.
    `counts` has one more than `bounds` (ms), those above all."""

    seconds: float
    requests: int
    failed: int
    request_us: int | None = None
    bounds: Sequence[float] = ()
    counts: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Figures:
    """`p95_at_most_ms` is the bound of the bucket that the 95th percentile lies in, None also when
    it lies above all bounds: then `p95_above_ms` is the last of them."""

    requests_per_second: float
    error_rate: float | None
    mean_latency_ms: float | None
    p95_at_most_ms: float | None
    p95_above_ms: float | None


def figures_of(counted: Counted) -> Figures:
    served = counted.requests - counted.failed
    at_most, above = _quantile(0.95, counted.bounds, counted.counts)
    return Figures(
        requests_per_second=counted.requests / counted.seconds,
        error_rate=counted.failed / counted.requests if counted.requests else None,
        mean_latency_ms=counted.request_us / served / 1000
        if served > 0 and counted.request_us is not None
        else None,
        p95_at_most_ms=at_most,
        p95_above_ms=above,
    )


def _quantile(
    share: float, bounds: Sequence[float], counts: Sequence[int]
) -> tuple[float | None, float | None]:
    """(at most, above), at most one of them known. Within a bucket nobody knows where it lies, so
    nothing is worked out in between."""
    total = sum(counts)
    if not total or not bounds:
        return None, None
    below = 0
    for bound, count in zip(bounds, counts, strict=False):
        below += count
        if below >= share * total:
            return bound, None
    return None, bounds[-1]
