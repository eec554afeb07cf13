"""One cell of the table after another: a fleet, an effect, five ways to judge. The same seed gives
the same table.

Critical values that are set are set on other histories, of a version that is exactly at its limit,
so that it is stopped at `ALPHA` within the hour."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from controlplane.ops.gate_power.gates import judge_errors, judge_latencies
from controlplane.ops.gate_power.peers import (
    critical_value,
    first_over,
    kayenta_stops,
    mann_whitney_highest,
    mann_whitney_stops,
    threshold_path,
)
from controlplane.ops.gate_power.workload import (
    INTERVALS,
    Fleet,
    Floats,
    draw_errors,
    draw_latencies,
)

ALPHA = 0.01
QUANTILE = 0.95
LEAST = 100
LATENCY_LIMIT = 1.05
ERROR_LIMIT = 1.5
BASE_ERRORS = 0.001
SLOWER = {"no change": 1.0, "+5 %, the limit": 1.05, "+10 %": 1.1, "+25 %": 1.25, "x2": 2.0}
FAILING = {
    "0.1 %, no change": 0.001, "0.15 %, the limit": 0.0015, "0.2 %": 0.002, "1 %": 0.01,
    "5 %": 0.05,
}  # fmt: skip
GATE, GATE_SET, RANKS, THRESHOLD, KAYENTA, PLAIN = METHODS = (
    "gate", "gate, set", "Mann-Whitney, set", "threshold, set", "Kayenta", "threshold",
)  # fmt: skip
FLEETS = tuple(
    Fleet(sites=sites, per_second=rate)
    for sites, rate in ((1, 1.0), (3, 1.0), (10, 1.0), (1, 10.0), (3, 10.0))
)
BENT_FLEETS = (Fleet(sites=3, per_second=10.0), Fleet(sites=10, per_second=3.0))
# At most so many latencies are held at once: 8 bytes each, a few times over.
_HELD = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`stopped`: share of histories that were stopped within the hour, by method. `requests`: the
    median number of the new version's requests until then, None where fewer than half were.
    `passed`: share that the gate passed at the last look."""

    metric: str
    fleet: Fleet
    effect: str
    stopped: dict[str, float]
    requests: dict[str, float | None]
    passed: float


@dataclass(frozen=True, kw_only=True)
class _Played:
    """Histories under one effect: the gate's evidence and the metric of both versions, each by
    history and look; the metric is `new` of `new_of`, and likewise of the old version."""

    evidence: Floats
    new: Floats
    base: Floats
    of: Floats


_Play = Callable[[np.random.Generator, Fleet, int, Sequence[float]], list[_Played]]


def study(
    *, histories: int, seed: int, shape_ms: Floats, fleets: Sequence[Fleet] = FLEETS
) -> Iterator[Cell]:
    """The comparison: metric by metric, fleet by fleet, effect by effect."""
    for number, (metric, play, effects, limit, at_limit) in enumerate(_metrics(shape_ms)):
        for place, fleet in enumerate(fleets):
            key = (seed, number, place)
            (edge,) = play(np.random.default_rng([*key, 1]), fleet, histories, [at_limit])
            ranks = critical_value(mann_whitney_highest(edge.new, edge.base, limit), ALPHA)
            ratio = critical_value(_ratios(edge).max(axis=1), ALPHA)
            strength = critical_value(edge.evidence.max(axis=1), ALPHA)
            played = play(np.random.default_rng([*key, 2]), fleet, histories, [*effects.values()])
            for effect, found in zip(effects, played, strict=True):
                stops = {
                    GATE: first_over(found.evidence, math.log(1 / ALPHA)),
                    GATE_SET: first_over(found.evidence, strength),
                    RANKS: mann_whitney_stops(found.new, found.base, limit, ranks),
                    THRESHOLD: first_over(_ratios(found), ratio),
                    KAYENTA: kayenta_stops(found.new, found.base, limit),
                    PLAIN: first_over(_ratios(found), limit),
                }
                yield _cell(metric, fleet, effect, found, stops)


def bent(
    *, histories: int, seed: int, shape_ms: Floats, fleets: Sequence[Fleet] = BENT_FLEETS
) -> Iterator[Cell]:
    """A version exactly at its limit where the assumptions do not hold: the gate, and the
    Mann-Whitney judgement with the critical value that is right where they do."""
    ways = (
        ("as assumed", Fleet(sites=1, per_second=1)),
        ("errors in bursts of 3", Fleet(sites=1, per_second=1, bursts=3.0)),
        ("each version has waves of its own, 15 %", Fleet(sites=1, per_second=1, own_wave=0.15)),
        ("the effect differs by site, 20 %", Fleet(sites=1, per_second=1, site_effects=0.2)),
    )
    for number, (metric, play, _, limit, at_limit) in enumerate(_metrics(shape_ms)):
        for size, plain in enumerate(fleets):
            critical = math.inf
            for place, (words, way) in enumerate(ways):
                if way.bursts > 1 and play is not _play_errors:
                    continue
                fleet = replace(way, sites=plain.sites, per_second=plain.per_second)
                rng = np.random.default_rng([seed, number, size, 3, place])
                (found,) = play(rng, fleet, histories, [at_limit])
                if not place:
                    highest = mann_whitney_highest(found.new, found.base, limit)
                    critical = critical_value(highest, ALPHA)
                stops = {
                    GATE: first_over(found.evidence, math.log(1 / ALPHA)),
                    RANKS: mann_whitney_stops(found.new, found.base, limit, critical),
                }
                yield _cell(metric, fleet, words, found, stops)


def _metrics(
    shape_ms: Floats,
) -> tuple[tuple[str, _Play, dict[str, float], float, float], ...]:
    """(metric, how it is played, effects, limit, the effect that is the limit)."""

    def play_latencies(
        rng: np.random.Generator, fleet: Fleet, histories: int, effects: Sequence[float]
    ) -> list[_Played]:
        return _play_latencies(rng, fleet, histories, effects, shape_ms)

    return (
        ("p95 latency", play_latencies, SLOWER, LATENCY_LIMIT, LATENCY_LIMIT),
        ("error rate", _play_errors, FAILING, ERROR_LIMIT, ERROR_LIMIT * BASE_ERRORS),
    )


def _cell(metric: str, fleet: Fleet, effect: str, found: _Played, stops: dict[str, Floats]) -> Cell:
    return Cell(
        metric=metric,
        fleet=fleet,
        effect=effect,
        stopped={name: float(np.isfinite(looks).mean()) for name, looks in stops.items()},
        requests={
            name: _median(looks, fleet.per_interval * fleet.sites) for name, looks in stops.items()
        },
        passed=float((found.evidence[:, -1] <= -math.log(1 / ALPHA)).mean()),
    )


def _median(looks: Floats, per_look: int) -> float | None:
    middle = float(np.quantile(looks, 0.5, method="higher"))
    return middle * per_look if np.isfinite(middle) else None


def _ratios(played: _Played) -> Floats:
    return threshold_path(played.new, played.of, played.base, played.of)


def _play_errors(
    rng: np.random.Generator, fleet: Fleet, histories: int, rates: Sequence[float]
) -> list[_Played]:
    played = []
    for rate in rates:
        errors = draw_errors(rng, fleet, histories, BASE_ERRORS, rate)
        evidence = judge_errors(
            errors, per_interval=fleet.per_interval, factor=ERROR_LIMIT, least=LEAST
        )
        new, base = (side.sum(axis=2).astype(float) for side in (errors.new, errors.base))
        of = np.full_like(new, fleet.per_interval * fleet.sites)
        played.append(_Played(evidence=evidence, new=new, base=base, of=of))
    return played


def _play_latencies(
    rng: np.random.Generator,
    fleet: Fleet,
    histories: int,
    effects: Sequence[float],
    shape_ms: Floats,
) -> list[_Played]:
    """In parts, as a history of a large fleet is large."""
    at_once = max(1, _HELD // (fleet.per_interval * fleet.sites * INTERVALS))
    parts: list[list[_Played]] = [[] for _ in effects]
    for begun in range(0, histories, at_once):
        count = min(at_once, histories - begun)
        drawn = draw_latencies(rng, fleet, count, shape_ms, effects)
        for part, latencies in zip(parts, drawn, strict=True):
            evidence = judge_latencies(
                latencies,
                per_interval=fleet.per_interval,
                quantile=QUANTILE,
                factor=LATENCY_LIMIT,
                least=LEAST,
            )
            part.append(
                _Played(
                    evidence=evidence,
                    new=latencies.new_p95,
                    base=latencies.base_p95,
                    of=np.ones_like(latencies.new_p95),
                )
            )
    return [
        _Played(
            evidence=np.concatenate([one.evidence for one in part]),
            new=np.concatenate([one.new for one in part]),
            base=np.concatenate([one.base for one in part]),
            of=np.concatenate([one.of for one in part]),
        )
        for part in parts
    ]
