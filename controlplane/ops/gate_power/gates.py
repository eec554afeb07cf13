"""The gate of `domain/sequential.py` over many histories and all looks at once.

The same arithmetic in arrays, for versions side by side at each site with equal traffic; a test
holds it to the domain's, look by look. It must not know how histories are drawn."""

import math

import numpy as np

from controlplane.domain.sequential_counts import FARTHEST, LOG_SCALE
from controlplane.domain.sequential_findings import LEAST_CELLS, LEAST_INTERVALS
from controlplane.domain.sequential_latency import Shape, edges_around
from controlplane.domain.sequential_spread import PRIOR_GROUPS, RUNS
from controlplane.ops.gate_power.workload import BOUNDS_MS, Errors, Floats, Latencies

_REACH = 30.0
_STEPS = 48


def judge_errors(errors: Errors, *, per_interval: int, factor: float, least: int) -> Floats:
    """The evidence by history and look: the logarithm of the e-value against the limit, negative
    where the version seems better than it, 0 where nothing is said yet."""
    parts = np.stack([errors.new, errors.base], axis=-1).astype(float)
    return _judge(parts, per_interval, factor, least)


def judge_latencies(
    latencies: Latencies, *, per_interval: int, quantile: float, factor: float, least: int
) -> Floats:
    """Likewise. The histogram has a bound at any other one divided by the factor."""
    histories, looks, sites, _ = latencies.new.shape
    parts = np.zeros((histories, looks, sites, 2))
    first = min(looks, -(-least // per_interval))
    early = latencies.base[:, :first].sum(axis=1)
    above = np.cumsum(early[..., ::-1], axis=-1)[..., ::-1].astype(float)
    edges = (0.0, *BOUNDS_MS)
    for history, site in np.ndindex(histories, sites):
        seen = Shape(edges=edges, above=tuple(above[history, site]))
        place = factor * (seen.quantile(quantile) or BOUNDS_MS[-1])
        at = 1 + int(np.argmin(np.abs(np.log(np.array(BOUNDS_MS) / place))))
        cut, _ = edges_around(seen, edges[at] / factor)
        parts[history, :, site, 0] = latencies.new[history, :, site, at:].sum(axis=-1)
        parts[history, :, site, 1] = latencies.base[history, :, site, cut:].sum(axis=-1)
    return _judge(parts, per_interval, 1.0, least)


def _judge(parts: Floats, per_interval: int, factor: float, least: int) -> Floats:
    """`parts` (histories, looks, sites, 2): bad ones of the new version and of the old one."""
    _, looks, sites, _ = parts.shape
    sums = np.cumsum(parts.sum(axis=2), axis=1)
    new, old = sums[..., 0], sums[..., 1]
    both = new + old
    theta = np.where(both > 0, new / np.maximum(both, 1e-300), 0.5)
    rest = np.stack([1 - theta, -theta], axis=-1)
    clumping = np.maximum(_clumping(parts), 1.0)
    by = np.ones_like(theta)
    for products in _levels(parts):
        found = np.einsum("hti,htij,htj->ht", rest, products, rest)
        squares = products.sum(axis=(2, 3))
        by = np.maximum(by, _inflation(found, squares, both, theta, clumping))
    new, old = new / by, old / by
    against = _against(new, old, math.log(factor))
    times = np.arange(1, looks + 1)
    has_spread = (sites * times >= LEAST_CELLS) & (times >= LEAST_INTERVALS)
    speaks = (both > 0) & (per_interval * sites * times >= least) & has_spread
    strength = np.maximum(against, 0.0)
    return np.asarray(np.where(speaks, np.where(new > factor * old, strength, -strength), 0.0))


def _levels(parts: Floats) -> list[Floats]:
    """Sums of products of group sums, by look: of intervals, of runs of intervals, of sites."""
    return [
        _products(parts).cumsum(axis=1),
        *(_of_runs(parts, length) for length in RUNS),
        _products(parts.cumsum(axis=1)),
    ]


def _products(sums: Floats) -> Floats:
    return np.asarray(np.einsum("htsi,htsj->htij", sums, sums))


def _of_runs(parts: Floats, length: int) -> Floats:
    """The last run as far as it has come, and all before it."""
    histories, looks, sites, _ = parts.shape
    padded = -(-looks // length) * length
    runs = np.zeros((histories, padded, sites, 2))
    runs[:, :looks] = parts
    runs = runs.reshape(histories, padded // length, length, sites, 2).cumsum(axis=2)
    growing = _products(runs.reshape(histories, padded, sites, 2))
    ended = growing[:, length - 1 :: length].cumsum(axis=1)
    before = np.concatenate([np.zeros_like(ended[:, :1]), ended[:, :-1]], axis=1)
    return np.asarray((growing + np.repeat(before, length, axis=1))[:, :looks])


def _clumping(parts: Floats) -> Floats:
    """Squares of steps from one interval to the next by the sum of both, by look."""
    steps, sums = np.zeros_like(parts), np.zeros_like(parts)
    steps[:, 1:], sums[:, 1:] = np.diff(parts, axis=1), parts[:, 1:] + parts[:, :-1]
    found = (steps**2).sum(axis=(2, 3)).cumsum(axis=1)
    total = sums.sum(axis=(2, 3)).cumsum(axis=1)
    return np.where(total > 0, found / np.maximum(total, 1e-300), 1.0)


def _inflation(
    found: Floats, squares: Floats, both: Floats, theta: Floats, believed: Floats
) -> Floats:
    total = both * theta * (1 - theta)
    free = np.where(squares > 0, both * both / np.maximum(squares, 1e-300), 1.0) - 1
    is_told = (free > 0.5) & (total > 0)
    free = np.where(is_told, free, 1.0)
    ratio = found / np.where(total > 0, total, 1.0) * (free + 1) / free - np.sqrt(2 / free)
    mixed = (ratio * free + believed * PRIOR_GROUPS) / (free + PRIOR_GROUPS)
    return np.where(is_told, mixed, believed)


def _against(new: Floats, old: Floats, log_factor: float) -> Floats:
    """Logarithm of the e-value against the ratio, versions with equal traffic."""
    both = new + old
    with np.errstate(divide="ignore"):
        top = np.log(new) - np.log(np.maximum(old, 1e-300))
    top = np.clip(np.where(both > 0, top, 0.0), -FARTHEST, FARTHEST)

    def likelihood(at: Floats | float) -> Floats:
        return np.asarray(new * at - both * (np.logaddexp(at, 0.0) - math.log(2)))

    best = likelihood(top)

    def reach(end: float) -> Floats:
        inside, outside = top.copy(), np.full_like(top, end)
        is_near = best - likelihood(end) < _REACH
        for _ in range(30):
            middle = (inside + outside) / 2
            is_in = best - likelihood(middle) < _REACH
            inside = np.where(is_in, middle, inside)
            outside = np.where(is_in, outside, middle)
        return np.asarray(np.where(is_near, end, outside))

    sign = np.where(top > log_factor, 1.0, -1.0)
    ends = np.sort(sign * np.stack([reach(-FARTHEST), reach(FARTHEST)]), axis=0)
    apart = ends - sign * log_factor
    low, high = np.arctan(np.maximum(apart[0], 0.0) / LOG_SCALE), np.arctan(apart[1] / LOG_SCALE)
    width = (high - low) / _STEPS
    total = np.zeros_like(top)
    for step in range(_STEPS + 1):
        weight = 1 if step in (0, _STEPS) else 4 if step % 2 else 2
        at = log_factor + sign * LOG_SCALE * np.tan(low + step * width)
        total += weight * np.exp(likelihood(at) - best)
    mixed = np.log(np.maximum(total * width, 1e-300) / 3 * 2 / math.pi)
    return np.asarray(best - likelihood(log_factor) + mixed)
