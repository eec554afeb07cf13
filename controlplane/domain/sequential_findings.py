"""What evidence says about one limit: the verdict, the effect and how sure it is.

It must not know of alpha's budget, of freshness, nor of words for people."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from controlplane.domain.gate_metrics import Metric, MetricGate
from controlplane.domain.gates import Verdict
from controlplane.domain.sequential_counts import FARTHEST
from controlplane.domain.sequential_curve import Curve
from controlplane.domain.sequential_evidence import Evidence, Pairing, Sample
from controlplane.domain.sequential_latency import (
    Cuts,
    above,
    cuts_for,
    edges_around,
    shape_of,
)
from controlplane.domain.sequential_means import Reading, change_of, mean_of
from controlplane.domain.sequential_rates import (
    Compared,
    Count,
    difference_of,
    rate_of,
    ratio_of,
    stratum_key,
)

# A burst can fill one interval: with fewer of them nobody can tell it from a rate.
LEAST_CELLS = 4
LEAST_INTERVALS = 2
_COUNTED = frozenset({Metric.ERROR_RATE, Metric.GOLDEN_PASS_RATE})
_FEW = "there are too few intervals that can be compared"
_NO_OVERLAP = "there is no interval or site where both were measured"
_NOTHING_BAD = "nothing that counts was seen on either side"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`effect` with its confidence interval `low` to `high`, and the `limit`, in `unit`: "level"
    (the metric's own), "ratio" (new by old) or "difference" (new less old, a fraction). For a
    latency limit in ms the level is the share of requests that take longer. `new` and `base`: the
    metric itself, as an operator knows it. None: not known; a `high` that has no end.
    `design_effect`: how many requests count as one, as they come in bursts and sites differ.
    `times_needed`: how many times today's evidence would probably settle it; None: nobody knows.
    """

    verdict: Verdict
    unit: str
    limit: float
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    new: float | None = None
    base: float | None = None
    times_needed: float | None = None
    design_effect: float = 1.0
    note: str = ""

    def document(self) -> dict[str, object]:
        return {**vars(self), "verdict": self.verdict.value}


def find_level(gate: MetricGate, evidence: Evidence, alpha: float) -> Finding:
    """Against an absolute limit."""
    if gate.metric is Metric.LATENCY_QUANTILE:
        return _latency_level(gate, evidence, alpha)
    if gate.metric is Metric.GOLDEN_PASS_RATE:
        assert gate.minimum is not None
        return _as_pass_rate(_rate(evidence, _bad, 1 - gate.minimum, alpha))
    assert gate.maximum is not None
    if gate.metric is Metric.ERROR_RATE:
        return _rate(evidence, _bad, gate.maximum, alpha)
    readings = list(_readings(evidence, is_new=True))
    means = mean_of(readings, scale=max(abs(gate.maximum) / 4, 1e-12))
    if means is None:
        return _unknown("level", gate.maximum, _FEW)
    return _conclude("level", gate.maximum, means.curve, alpha, new=means.new)


def find_change(gate: MetricGate, evidence: Evidence, alpha: float) -> Finding:
    """Against a limit on the change from the baseline."""
    change = gate.change
    assert change is not None
    if gate.metric is Metric.LATENCY_QUANTILE:
        assert change.factor is not None
        return _latency_change(gate, change.factor, evidence, alpha)
    if gate.metric in _COUNTED and change.factor is not None:
        return _ratio(ratio_of(evidence, _bad, _bad), change.factor, alpha)
    unit = "difference" if change.factor is None else "ratio"
    limit = change.points if change.factor is None else change.factor
    assert limit is not None
    if gate.metric in _COUNTED:
        found = _difference(difference_of(evidence, _bad, scale=limit), limit, alpha)
        return _as_pass_rate(found) if gate.metric is Metric.GOLDEN_PASS_RATE else found
    means = change_of(
        list(_readings(evidence, is_new=True)),
        list(_readings(evidence, is_new=False)),
        is_ratio=unit == "ratio",
        scale=limit - 1 if unit == "ratio" else limit,
        are_sites_compared=evidence.pairing is Pairing.CONTROLS,
    )
    if means is None:
        return _unknown(unit, limit, _FEW)
    return _conclude(unit, limit, means.curve, alpha, new=means.new, base=means.base)


def _conclude(
    unit: str,
    limit: float,
    curve: Curve,
    alpha: float,
    *,
    is_logarithm: bool = False,
    **more: object,
) -> Finding:
    """`is_logarithm`: the curve is over logarithms of what the limit is in."""
    place = math.log(limit) if is_logarithm else limit
    verdict = Verdict.INCONCLUSIVE
    if curve.against(place) >= math.log(1 / alpha):
        verdict = Verdict.FAIL if curve.estimate > place else Verdict.PASS
    read = _from_logarithm if is_logarithm else float
    low, high = curve.interval(alpha)
    return Finding(
        verdict=verdict,
        unit=unit,
        limit=limit,
        effect=read(curve.estimate),
        low=read(low),
        high=read(high),
        times_needed=curve.times_needed(place, alpha),
        **more,  # type: ignore[arg-type]  # fields of it
    )


def _from_logarithm(value: float) -> float | None:
    if value >= FARTHEST - 1e-6:
        return None
    return 0.0 if value <= 1e-6 - FARTHEST else math.exp(value)


def _unknown(unit: str, limit: float, note: str) -> Finding:
    return Finding(verdict=Verdict.INCONCLUSIVE, unit=unit, limit=limit, note=note)


def _rate(evidence: Evidence, bad: Count, limit: float, alpha: float) -> Finding:
    found = rate_of(evidence, bad)
    assert found.curve is not None
    return _conclude(
        "level", limit, found.curve, alpha, is_logarithm=True, new=found.new,
        design_effect=found.design_effect,
    )  # fmt: skip


def _ratio(found: Compared, limit: float, alpha: float) -> Finding:
    if found.curve is None:
        note = _NO_OVERLAP if found.new is None else _NOTHING_BAD
        return replace(_unknown("ratio", limit, note), new=found.new, base=found.base)
    return _conclude(
        "ratio", limit, found.curve, alpha, is_logarithm=True, new=found.new, base=found.base,
        design_effect=found.design_effect,
    )  # fmt: skip


def _difference(found: Compared, limit: float, alpha: float) -> Finding:
    if found.curve is None:
        return _unknown("difference", limit, _NO_OVERLAP)
    return _conclude(
        "difference", limit, found.curve, alpha, new=found.new, base=found.base,
        design_effect=found.design_effect,
    )  # fmt: skip


def _as_pass_rate(found: Finding) -> Finding:
    """A finding on wrong answers, told of right ones. The verdict is the same."""

    def turned(value: float) -> float:
        return 1 - value if found.unit == "level" else -value

    def maybe(turn: Callable[[float], float], value: float | None) -> float | None:
        return None if value is None else turn(value)

    return replace(
        found,
        limit=turned(found.limit),
        effect=maybe(turned, found.effect),
        low=maybe(turned, found.high),
        high=maybe(turned, found.low),
        new=maybe(lambda rate: 1 - rate, found.new),
        base=maybe(lambda rate: 1 - rate, found.base),
    )


def _latency_level(gate: MetricGate, evidence: Evidence, alpha: float) -> Finding:
    """Counted above the bounds around the limit: too many above the larger one are surely over it,
    few enough above the smaller one surely under."""
    assert gate.maximum is not None
    assert gate.quantile is not None
    shape = shape_of(evidence.new_samples())
    assert shape is not None
    new, share = shape.quantile(gate.quantile), 1 - gate.quantile

    def at(index: int) -> Finding:
        found = _rate(evidence, lambda _, sample: above(sample.counts, index), share, alpha)
        return replace(found, new=new)

    under, over = edges_around(shape, gate.maximum)
    if under == over:
        return at(under)
    around = f"{shape.edges[under]:g} and " + (
        "no further bound" if over is None else f"{shape.edges[over]:g} ms"
    )
    note = f"the limit lies between the histogram's bounds {around}"
    return _of_two(
        None if over is None else at(over),
        at(under),
        replace(_unknown("level", share, f"{note}, as the quantile does"), new=new),
        note,
    )


def _latency_change(gate: MetricGate, factor: float, evidence: Evidence, alpha: float) -> Finding:
    """As many of the new version's requests above a bound as of the old one's above bound / factor
    is a version just `factor` times slower. Each site has the bound that suits its own baseline.
    Where the histogram has none at bound / factor, the next lower one tells what is surely slower,
    the next higher one what surely is not."""
    assert gate.quantile is not None
    news, olds = shape_of(evidence.new_samples()), shape_of(evidence.base_samples())
    assert news is not None
    assert olds is not None
    cuts = _cuts(gate, factor, evidence)
    note = "the baseline's quantile lies above the histogram's last bound"
    unknown = replace(
        _unknown("ratio", factor, note),
        new=news.quantile(gate.quantile),
        base=olds.quantile(gate.quantile),
    )
    if not cuts:
        return unknown

    def cut_of(site: str) -> Cuts:
        return cuts[_place(evidence, site)]

    rows = tuple(row for row in evidence.rows if _place(evidence, row.site) in cuts)

    def at(edge: Callable[[Cuts], int]) -> Finding:
        compared = ratio_of(
            replace(evidence, rows=rows),
            lambda site, sample: above(sample.counts, cut_of(site).top),
            lambda site, sample: above(sample.counts, edge(cut_of(site))),
        )
        found = _ratio(compared, 1.0, alpha)

        def slower(ratio: float | None) -> float | None:
            if ratio is None:
                return None
            factors = [(cut.factor(edge(cut), ratio), cut.shape.total) for cut in cuts.values()]
            known = [(math.log(value), weight) for value, weight in factors if value is not None]
            total = sum(weight for _, weight in known)
            return math.exp(sum(log * weight / total for log, weight in known)) if known else None

        return replace(
            found,
            limit=factor,
            effect=slower(found.effect),
            low=slower(found.low),
            high=slower(found.high),
            new=unknown.new,
            base=unknown.base,
        )

    if all(cut.under == cut.over for cut in cuts.values()):
        return at(lambda cut: cut.under)
    fails = [cut.bound / edge if (edge := olds.edges[cut.under]) else None for cut in cuts.values()]
    passes = min(cut.bound / olds.edges[cut.over] for cut in cuts.values())
    known = [value for value in fails if value is not None]
    over = f"fail over {max(known):.3g}x" if len(known) == len(fails) else "not fail everywhere"
    note = f"with these bounds it can {over} and pass under {passes:.3g}x"
    return _of_two(
        at(lambda cut: cut.under), at(lambda cut: cut.over), replace(unknown, note=note), note
    )


def _cuts(gate: MetricGate, factor: float, evidence: Evidence) -> dict[str, Cuts]:
    """By place; without those whose quantile the histogram does not reach."""
    assert gate.quantile is not None
    samples: dict[str, list[Sample]] = {}
    for row in sorted(evidence.rows, key=lambda row: row.interval):
        if row.base is not None:
            samples.setdefault(_place(evidence, row.site), []).append(row.base)
    found = {
        place: cuts_for(known, gate.quantile, factor, gate.min_requests)
        for place, known in samples.items()
    }
    return {place: cuts for place, cuts in found.items() if cuts is not None}


def _place(evidence: Evidence, site: str) -> str:
    """Where versions run at different sites, one bound must serve for all."""
    return "" if evidence.pairing is Pairing.CONTROLS else site


def _of_two(
    surely_over: Finding | None, surely_under: Finding, unknown: Finding, note: str
) -> Finding:
    """One finding of two, where a limit lies within a bucket."""
    if surely_over is not None and surely_over.verdict is Verdict.FAIL:
        return replace(surely_over, note=note)
    if surely_under.verdict is Verdict.PASS:
        return replace(surely_under, note=note)
    for found in (surely_over, surely_under):
        if found is not None and found.verdict is Verdict.INCONCLUSIVE:
            return replace(found, note=note)
    return unknown


def _bad(_: str, sample: Sample) -> float:
    assert sample.bad is not None
    return sample.bad


def _readings(evidence: Evidence, *, is_new: bool) -> Iterator[Reading]:
    for row in evidence.rows:
        sample = row.new if is_new else row.base
        if sample is not None:
            assert sample.amount is not None
            assert sample.per is not None
            yield Reading(
                stratum=stratum_key(evidence, row), site=row.site, interval=row.interval,
                amount=sample.amount, per=sample.per,
            )  # fmt: skip
