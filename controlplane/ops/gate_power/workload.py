"""Fleets that answer requests: an hour of counts and latencies, with the old version and the new
side by side at each site. It must not know who judges them.

Sites differ in latency and in errors, and load comes in waves that both versions at a site feel."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

INTERVAL_SECONDS = 15
INTERVALS = 240
# As close together as the limit that is to be told: 5 %, from 10 ms to 33 s.
BOUNDS_MS = tuple(10 * 1.05**step for step in range(167))
# Standard deviations of logarithms: of sites' latency and error rate, and of waves of load.
SITE_LATENCY = 0.3
SITE_ERRORS = 0.5
WAVE = 0.15
WAVE_LASTS = 20
# How a request of a language model takes its time: so long to read a token, so long to write one.
READ_MS = 0.25
WRITE_MS = 25.0

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """`per_second`: requests of each version at each site. `bursts`: how many errors come at once
    on average. `own_wave`: a wave that one version at a site feels alone (logarithm's deviation).
    `site_effects`: how much the effect itself differs by site (likewise). The last three are 0 or 1
    where the method's assumptions hold."""

    sites: int
    per_second: float
    bursts: float = 1.0
    own_wave: float = 0.0
    site_effects: float = 0.0

    @property
    def per_interval(self) -> int:
        return round(self.per_second * INTERVAL_SECONDS)


def mixture(rng: np.random.Generator, count: int = 200_000) -> Floats:
    """Latencies (ms) without a trace: nine in ten lognormal around 80 ms (deviation 0.5 of the
    logarithm), one in ten around 240 ms (deviation 0.9), which makes the tail heavy."""
    slow = rng.random(count) < 0.1
    median, spread = np.where(slow, 240.0, 80.0), np.where(slow, 0.9, 0.5)
    return np.asarray(median * np.exp(spread * rng.standard_normal(count)))


def from_traces(paths: Sequence[Path]) -> Floats:
    """Latencies (ms) of the requests in the Azure LLM inference traces: their real sizes, at
    `READ_MS` and `WRITE_MS` a token. Raises ValueError on another file."""
    latencies = []
    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                try:
                    read, written = int(row["ContextTokens"]), int(row["GeneratedTokens"])
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(
                        f"{path}: not an Azure LLM inference trace; it needs the columns "
                        "TIMESTAMP, ContextTokens and GeneratedTokens"
                    ) from error
                latencies.append(READ_MS * read + WRITE_MS * written)
    if not latencies:
        raise ValueError(f"{', '.join(map(str, paths))}: no request in it")
    return np.array(latencies)


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Failed requests by history, interval and site: (histories, INTERVALS, sites)."""

    new: Counts
    base: Counts


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """`new` and `base`: histograms by history, interval, site and bucket. `new_p95` and `base_p95`
    (ms): of all sites together, by history and interval, from the requests themselves."""

    new: Counts
    base: Counts
    new_p95: Floats
    base_p95: Floats


def draw_errors(
    rng: np.random.Generator, fleet: Fleet, histories: int, base_rate: float, new_rate: float
) -> Errors:
    shape = (histories, INTERVALS, fleet.sites)
    common = np.exp(
        SITE_ERRORS * rng.standard_normal((histories, 1, fleet.sites))
        - SITE_ERRORS**2 / 2
        + _waves(rng, shape, WAVE)
    )
    tilt = _site_effects(rng, fleet, histories)

    def of(rate: float, effect: Floats) -> Counts:
        own = np.exp(_waves(rng, shape, fleet.own_wave)) * effect
        chance = np.minimum(rate * common * own, 1.0)
        if fleet.bursts <= 1:
            return rng.binomial(fleet.per_interval, chance)
        # Bursts of a geometric length, cut at the interval's requests.
        bursts = rng.poisson(fleet.per_interval * chance / fleet.bursts)
        more = rng.negative_binomial(np.maximum(bursts, 1), 1 / fleet.bursts)
        return np.minimum(np.where(bursts > 0, bursts + more, 0), fleet.per_interval)

    return Errors(new=of(new_rate, tilt), base=of(base_rate, np.ones_like(tilt)))


def draw_latencies(
    rng: np.random.Generator,
    fleet: Fleet,
    histories: int,
    shape_ms: Floats,
    effects: Sequence[float],
) -> list[Latencies]:
    """One for each effect, with the same requests made slower by it."""
    shape = (histories, INTERVALS, fleet.sites)
    common = SITE_LATENCY * rng.standard_normal((histories, 1, fleet.sites)) + _waves(
        rng, shape, WAVE
    )
    logs = np.log(shape_ms)

    def of(own: Floats) -> Floats:
        picked = rng.integers(0, len(logs), (*shape, fleet.per_interval))
        return np.asarray(logs[picked] + (common + own)[..., None])

    tilt = np.log(_site_effects(rng, fleet, histories))
    new = of(tilt + _waves(rng, shape, fleet.own_wave))
    base = of(_waves(rng, shape, fleet.own_wave))
    new_p95, base_p95 = _p95(new), _p95(base)
    base_counts = _histograms(base)
    return [
        Latencies(
            new=_histograms(new + np.log(effect)),
            base=base_counts,
            new_p95=new_p95 * effect,
            base_p95=base_p95,
        )
        for effect in effects
    ]


def _waves(rng: np.random.Generator, shape: tuple[int, ...], size: float) -> Floats:
    """Waves of load: a new height each `WAVE_LASTS` intervals, by site."""
    histories, intervals, sites = shape
    if not size:
        return np.zeros(shape)
    heights = rng.standard_normal((histories, -(-intervals // WAVE_LASTS), sites))
    return np.asarray(size * np.repeat(heights, WAVE_LASTS, axis=1)[:, :intervals])


def _site_effects(rng: np.random.Generator, fleet: Fleet, histories: int) -> Floats:
    draws = rng.standard_normal((histories, 1, fleet.sites))
    return np.asarray(np.exp(fleet.site_effects * draws - fleet.site_effects**2 / 2))


def _p95(logs: Floats) -> Floats:
    histories, intervals = logs.shape[:2]
    together = logs.reshape(histories, intervals, -1)
    place = min(together.shape[-1] - 1, int(0.95 * together.shape[-1]))
    return np.asarray(np.exp(np.partition(together, place, axis=-1)[..., place]))


def _histograms(logs: Floats) -> Counts:
    buckets = len(BOUNDS_MS) + 1
    cells = int(np.prod(logs.shape[:-1]))
    bucket = np.searchsorted(np.log(BOUNDS_MS), logs.reshape(cells, -1), side="left")
    index = (np.arange(cells)[:, None] * buckets + bucket).ravel()
    counts = np.bincount(index, minlength=cells * buckets)
    return counts.reshape(*logs.shape[:-1], buckets)
