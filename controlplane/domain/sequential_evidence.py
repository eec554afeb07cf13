"""What a gate's verdict is made from: what was counted, by site and interval, and what of it
cannot be true. Nothing here judges.

The evidence is the whole of a stage so far, so a verdict is worked out anew at each look and no
state is kept between looks: late, doubled and reordered reports then change the sums and nothing
else, and a stored verdict can be worked out again from what is stored with it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from controlplane.domain.gate_metrics import Metric


class Pairing(StrEnum):
    """What may be compared with what.

    `same_time`: both versions answered at one site in one interval, so its load and its hour are
    the same for both. `same_site`: the previous version answered there before; other hours, same
    hardware. `controls`: other sites of the tier, in the same interval.
    """

    SAME_TIME = "same_time"
    SAME_SITE = "same_site"
    CONTROLS = "controls"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One version at one site in one interval; what was not measured is None or empty.

    `requests`: all that were answered, failed ones too. For a golden pass rate: how many golden
    requests were asked, each of them once a site (a repeated answer is no new evidence).
    `bad`: requests that failed; golden answers that were wrong.
    `bounds` (ms) and `counts`: a latency histogram; one count more than bounds, those above all.
    `amount` and `per`: queue µs of request µs; joules of inferences; what a query gave, of 1.
    """

    requests: int
    bad: int | None = None
    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    amount: float | None = None
    per: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One site in one interval: the new version, the baseline, or both side by side. `interval`
    counts intervals from any beginning, the same for all rows."""

    site: str
    interval: int
    new: Sample | None = None
    base: Sample | None = None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All rows of a stage since its sites switched. A site with no baseline in `rows` (of its own,
    unless controls are compared) is left out of limits on change.

    `age_seconds`: how old the newest figures are of the judged site that was silent longest; None
    when one of them gave none. `earlier_requests`: the new version's requests at the last look,
    to notice counts that shrink. `problem`: why nothing could be measured (a Prometheus that
    answers nonsense), in words for an operator; it makes the verdict an error.
    """

    rows: tuple[Row, ...] = ()
    pairing: Pairing = Pairing.SAME_TIME
    age_seconds: float | None = None
    earlier_requests: int = 0
    problem: str = ""

    def new_samples(self) -> Iterator[Sample]:
        return (row.new for row in self.rows if row.new is not None)

    def base_samples(self) -> Iterator[Sample]:
        return (row.base for row in self.rows if row.base is not None)


def fault_in(metric: Metric, evidence: Evidence) -> str:
    """What cannot be true, in words for an operator; else nothing."""
    if evidence.problem:
        return evidence.problem
    if evidence.age_seconds is not None and not 0 <= evidence.age_seconds < math.inf:
        return f"the newest figures are {evidence.age_seconds:g} s old, which cannot be"
    bounds = None
    for row in evidence.rows:
        for who, sample in (("new version", row.new), ("baseline", row.base)):
            if sample is None:
                continue
            if fault := _fault_of(metric, sample):
                return f"site {row.site}, interval {row.interval}, {who}: {fault}"
            if metric is Metric.LATENCY_QUANTILE and sample.counts:
                if bounds not in (None, sample.bounds):
                    return (
                        f"site {row.site} measures latency with other bounds than the rest; "
                        "histograms can be added on equal bounds only"
                    )
                bounds = sample.bounds
    requests = sum(sample.requests for sample in evidence.new_samples())
    if requests < evidence.earlier_requests:
        return (
            f"{requests} requests are known, but {evidence.earlier_requests} were at the last "
            "look; counts do not shrink"
        )
    return ""


def _fault_of(metric: Metric, sample: Sample) -> str:
    if not _is_count(sample.requests):
        return f"{sample.requests} requests cannot be"
    if sample.bad is not None and not (_is_count(sample.bad) and sample.bad <= sample.requests):
        return f"{sample.bad} bad answers of {sample.requests} requests cannot be"
    if metric is Metric.LATENCY_QUANTILE and sample.counts:
        return _fault_of_histogram(sample)
    if sample.amount is not None and not math.isfinite(sample.amount):
        return f"an amount of {sample.amount} cannot be"
    if sample.per is not None and not (math.isfinite(sample.per) and sample.per >= 0):
        return f"an amount per {sample.per} cannot be"
    if metric is not Metric.PROMETHEUS and sample.amount is not None and sample.amount < 0:
        return f"an amount of {sample.amount:g} cannot be"
    return ""


def _fault_of_histogram(sample: Sample) -> str:
    bounds, counts = sample.bounds, sample.counts
    if len(counts) != len(bounds) + 1 or not bounds:
        return f"a histogram of {len(bounds)} bounds and {len(counts)} counts cannot be"
    if not all(_is_count(count) for count in counts):
        return "a histogram with a count that is negative or no whole number cannot be"
    edges = (0.0, *bounds)
    if not all(low < high < math.inf for low, high in zip(edges, bounds, strict=False)):
        return "a histogram's bounds must rise from over 0"
    return ""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
