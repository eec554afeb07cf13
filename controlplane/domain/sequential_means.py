"""Curves of measured things (shares of time, energy, what a query gave): their mean, and how it
differs from the baseline's, by ratio or by difference.

An asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024), with
Student's t for a spread that rests on few intervals. It must not know what
was measured."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controlplane.domain.sequential_curve import Curve
from controlplane.domain.sequential_spread import Piece, design_effect

# Fewer intervals of the new version say nothing: the method leans on the central limit theorem.
LEAST_INTERVALS = 20


@dataclass(frozen=True, slots=True)
class Reading:
    """What one version at one site showed in one interval: `amount` of `per`."""

    stratum: object
    site: str
    interval: int
    amount: float
    per: float


@dataclass(frozen=True, kw_only=True)
class Means:
    """`new` and `base` (None without a baseline) over the same strata, weighted alike."""

    new: float
    base: float | None
    curve: Curve


def mean_of(new: Sequence[Reading], *, scale: float) -> Means | None:
    """The mean by itself: one stratum."""
    per = sum(reading.per for reading in new)
    if not per:
        return None
    mean = sum(reading.amount for reading in new) / per
    pieces = [
        (reading, (reading.amount - mean * reading.per) / per) for reading in new if reading.per
    ]
    curve = _curve(mean, mean, 1.0, pieces, scale=scale, are_sites_compared=False)
    return None if curve is None else Means(new=mean, base=None, curve=curve)


def change_of(
    new: Sequence[Reading],
    base: Sequence[Reading],
    *,
    is_ratio: bool,
    scale: float,
    are_sites_compared: bool,
) -> Means | None:
    """New mean by old mean, or new less old, over the strata that have both. `scale`: the change
    that is to be told, a factor less 1 or a difference. None where nothing can be compared."""
    news, olds = _sums(new), _sums(base)
    both = [key for key in news if news[key][1] > 0 and olds.get(key, (0.0, 0.0))[1] > 0]
    total = sum(news[key][1] for key in both)
    if not total:
        return None
    weight = {key: news[key][1] / total for key in both}
    new_of = {key: news[key][0] / news[key][1] for key in both}
    old_of = {key: olds[key][0] / olds[key][1] for key in both}
    new_mean = sum(weight[key] * new_of[key] for key in both)
    old_mean = sum(weight[key] * old_of[key] for key in both)
    if is_ratio and old_mean <= 0:
        return None
    factor = new_mean / old_mean if is_ratio else 1.0
    shift = 0.0 if is_ratio else new_mean - old_mean
    fits: dict[object, tuple[float, float]] = {}
    for key in both:
        # Half of what a stratum leaves unexplained is laid to each version.
        half = (new_of[key] - shift - factor * old_of[key]) / 2
        fits[key] = new_of[key] - half, old_of[key] + (half / factor if factor else 0.0)
    pieces = [
        (
            r,
            sign
            * weight[r.stratum]
            * (r.amount - fits[r.stratum][side] * r.per)
            / per[r.stratum][1],
        )
        for readings, per, side, sign in ((new, news, 0, 1.0), (base, olds, 1, -factor))
        for r in readings
        if r.per and r.stratum in fits
    ]
    slope = old_mean if is_ratio else 1.0
    curve = _curve(
        factor if is_ratio else shift,
        new_mean,
        slope,
        pieces,
        scale=scale * slope,
        are_sites_compared=are_sites_compared,
    )
    return None if curve is None else Means(new=new_mean, base=old_mean, curve=curve)


def _sums(readings: Iterable[Reading]) -> Mapping[object, tuple[float, float]]:
    sums: dict[object, tuple[float, float]] = {}
    for reading in readings:
        amount, per = sums.get(reading.stratum, (0.0, 0.0))
        sums[reading.stratum] = amount + reading.amount, per + reading.per
    return sums


def _curve(
    estimate: float,
    new_mean: float,
    slope: float,
    pieces: Sequence[tuple[Reading, float]],
    *,
    scale: float,
    are_sites_compared: bool,
) -> Curve | None:
    """`slope`: by how much the compared means move apart as the effect grows by 1. None with too
    few intervals, or where all readings are the same and no spread can be told."""
    cells: dict[tuple[str, int], float] = {}
    for reading, rest in pieces:
        key = (reading.site, reading.interval)
        cells[key] = cells.get(key, 0.0) + rest
    if len(cells) < LEAST_INTERVALS:
        return None
    rests = [
        Piece(site=site, interval=interval, rest=rest, expected=rest * rest)
        for (site, interval), rest in cells.items()
    ]
    variance = sum(piece.expected for piece in rests)
    variance *= design_effect(rests, are_sites_compared=are_sites_compared)
    floor = (1e-6 * max(abs(new_mean), scale)) ** 2
    variance = max(variance, floor)
    sites = len({piece.site for piece in rests})

    def likelihood(value: float) -> float:
        apart = (estimate - value) * slope
        return -apart * apart / variance / 2

    reach = (abs(new_mean) + 100 * math.sqrt(variance) + 100 * scale) / slope
    return Curve(
        estimate=estimate,
        likelihood=likelihood,
        scale=scale / slope,
        low=estimate - reach,
        high=estimate + reach,
        freedom=float(sites - 2 if are_sites_compared else len(cells) - 1),
    )
