"""From rows to the curve of a rate, of a ratio or of a difference of rates: what is compared with
what, and how many requests count as one. It must not know of limits."""

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from controlplane.domain.sequential_counts import (
    Stratum,
    difference_curve,
    rate_curve,
    ratio_curve,
)
from controlplane.domain.sequential_curve import Curve
from controlplane.domain.sequential_evidence import Evidence, Pairing, Row, Sample
from controlplane.domain.sequential_spread import Piece, clumping_of, design_effect

# Of the bad ones of a sample, at the site of that name.
Count = Callable[[str, Sample], float]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """`curve` None: nothing that can be compared (no `new` then), or nothing bad on either side.
    `new` and `base`: the rates, the base's at the new version's mix of sites and hours."""

    curve: Curve | None
    new: float | None = None
    base: float | None = None
    design_effect: float = 1.0


def stratum_key(evidence: Evidence, row: Row) -> Hashable:
    if evidence.pairing is Pairing.SAME_TIME:
        return (row.site, row.interval)
    return row.site if evidence.pairing is Pairing.SAME_SITE else row.interval


def rate_of(evidence: Evidence, bad: Count) -> Compared:
    """Of the new version by itself, over the logarithm of its rate."""
    rows = [(row, row.new) for row in evidence.rows if row.new is not None]
    total, size = sum(bad(row.site, new) for row, new in rows), sum(_size(new) for _, new in rows)
    rate = total / size
    pieces = [
        _piece(row, bad(row.site, new) - rate * _size(new), _size(new) * rate * (1 - rate))
        for row, new in rows
    ]
    clumping = _clumping(evidence, new=bad)
    by = design_effect(pieces, are_sites_compared=False, clumping=clumping)
    return Compared(curve=rate_curve(total / by, size / by), new=rate, design_effect=by)


def ratio_of(evidence: Evidence, new_bad: Count, base_bad: Count) -> Compared:
    """New rate by old rate, over its logarithm."""
    strata = _strata(evidence, new_bad, base_bad)
    if not strata:
        return Compared(curve=None)
    freedom = _freedom(evidence)
    news, olds = _overall(strata.values())
    first = ratio_curve(list(strata.values()), freedom)
    if first is None:
        return Compared(curve=None, new=news, base=olds)
    ratio = math.exp(first.estimate)
    pieces = []
    for row in evidence.rows:
        stratum = strata.get(stratum_key(evidence, row))
        if stratum is None:
            continue
        weight = stratum.new * ratio + stratum.base
        rate = (stratum.new_bad + stratum.base_bad) / weight
        share = stratum.new * ratio / weight
        for sample, count, chance, part in (
            (row.new, new_bad, rate * ratio, 1 - share),
            (row.base, base_bad, rate, -share),
        ):
            if sample is not None:
                expected = _size(sample) * chance
                rest = part * (count(row.site, sample) - expected)
                pieces.append(_piece(row, rest, part * part * expected))
    clumping = _clumping(evidence, new=new_bad, base=base_bad)
    by = design_effect(pieces, are_sites_compared=freedom is not None, clumping=clumping)
    curve = ratio_curve(_thinned(strata.values(), by), freedom)
    return Compared(curve=curve, new=news, base=olds, design_effect=by)


def difference_of(evidence: Evidence, bad: Count, *, scale: float) -> Compared:
    """New rate less old rate. Compared site by site at most: one interval may hold no bad one."""
    if evidence.pairing is Pairing.SAME_TIME:
        evidence = Evidence(rows=evidence.rows, pairing=Pairing.SAME_SITE)
    strata = _strata(evidence, bad, bad)
    freedom = _freedom(evidence)
    first = difference_curve(list(strata.values()), scale=scale, freedom=freedom)
    if first is None:
        return Compared(curve=None)
    total = sum(stratum.new for stratum in strata.values())
    pieces = []
    for row in evidence.rows:
        stratum = strata.get(stratum_key(evidence, row))
        if stratum is None:
            continue
        size = stratum.new + stratum.base
        rate = (stratum.new_bad + stratum.base_bad - first.estimate * stratum.new) / size
        for sample, chance, part in (
            (row.new, rate + first.estimate, 1 / total),
            (row.base, rate, -stratum.new / total / stratum.base),
        ):
            if sample is not None:
                held = min(max(chance, 0.0), 1.0)
                rest = part * (bad(row.site, sample) - chance * _size(sample))
                pieces.append(_piece(row, rest, part * part * _size(sample) * held * (1 - held)))
    clumping = _clumping(evidence, new=bad, base=bad)
    by = design_effect(pieces, are_sites_compared=freedom is not None, clumping=clumping)
    curve = difference_curve(_thinned(strata.values(), by), scale=scale, freedom=freedom)
    news, olds = _overall(strata.values())
    return Compared(curve=curve, new=news, base=olds, design_effect=by)


def _strata(evidence: Evidence, new_bad: Count, base_bad: Count) -> dict[Hashable, Stratum]:
    """Those that both versions answered in."""
    sums: dict[Hashable, list[float]] = {}
    for row in evidence.rows:
        entry = sums.setdefault(stratum_key(evidence, row), [0.0, 0.0, 0.0, 0.0])
        if row.new is not None:
            entry[0] += new_bad(row.site, row.new)
            entry[1] += _size(row.new)
        if row.base is not None:
            entry[2] += base_bad(row.site, row.base)
            entry[3] += _size(row.base)
    return {
        key: Stratum(new_bad=e[0], new=e[1], base_bad=e[2], base=e[3])
        for key, e in sums.items()
        if e[1] and e[3]
    }


def _clumping(evidence: Evidence, **bad_of: Count) -> float:
    """`bad_of`: how to count, by side."""
    series: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in sorted(evidence.rows, key=lambda row: row.interval):
        for side, bad in bad_of.items():
            sample = row.new if side == "new" else row.base
            if sample is not None and _size(sample):
                series.setdefault((side, row.site), []).append(
                    (bad(row.site, sample), _size(sample))
                )
    return clumping_of(series.values())


def _thinned(strata: Iterable[Stratum], by: float) -> list[Stratum]:
    return [
        Stratum(new_bad=s.new_bad / by, new=s.new / by, base_bad=s.base_bad / by, base=s.base / by)
        for s in strata
    ]


def _overall(strata: Iterable[Stratum]) -> tuple[float, float]:
    known = list(strata)
    new = sum(stratum.new for stratum in known)
    return (
        sum(stratum.new_bad for stratum in known) / new,
        sum(s.new / new * s.base_bad / s.base for s in known),
    )


def _freedom(evidence: Evidence) -> float | None:
    """Where versions ran at different sites, the sites are what was drawn."""
    if evidence.pairing is not Pairing.CONTROLS:
        return None
    return float(len({row.site for row in evidence.rows}) - 2)


def _size(sample: Sample) -> float:
    return sum(sample.counts) if sample.counts else sample.requests


def _piece(row: Row, rest: float, expected: float) -> Piece:
    return Piece(site=row.site, interval=row.interval, rest=rest, expected=expected)
