"""A judgement in one sentence, with its figures in units that people know."""

from collections.abc import Mapping

from controlplane.domain.gate_metrics import Metric, MetricGate
from controlplane.domain.gates import Verdict
from controlplane.domain.sentences import count_sites
from controlplane.domain.sequential_evidence import Evidence, Pairing
from controlplane.domain.sequential_findings import Finding

_SHARES = frozenset({Metric.ERROR_RATE, Metric.QUEUE_SHARE, Metric.GOLDEN_PASS_RATE})
_AGAINST = {
    Pairing.SAME_TIME: "the previous version at the same time",
    Pairing.SAME_SITE: "the previous version at the same sites",
    Pairing.CONTROLS: "the control sites",
}


def headline(
    gate: MetricGate,
    found: Finding,
    evidence: Evidence,
    counts: Mapping[str, int],
    needed: int | None,
) -> str:
    """What was found, against what, whether that is within the limit, from how much, and how much
    more would probably tell. `counts`: `requests` and `base_requests`."""
    sites = count_sites(len({row.site for row in evidence.rows if row.new is not None}))
    seen = f"{amount_of_requests(counts['requests'])} at {sites}"
    if found.unit != "level":
        seen += f", {counts['base_requests']:,} of the baseline"
    if found.effect is None and found.high is None:
        return f"{_name(gate)} cannot be told yet: {found.note} ({seen})"
    if needed is not None:
        seen += f"; about {float(f'{needed:.2g}'):,.0f} more would tell"
    note = f"; {found.note}" if found.note else ""
    return f"{_name(gate)} {_effect(gate, found, evidence)}, {_side(gate, found)} ({seen}{note})"


def amount_of_requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count:,} requests"


def _name(gate: MetricGate) -> str:
    if gate.metric is Metric.LATENCY_QUANTILE:
        assert gate.quantile is not None
        return f"p{100 * gate.quantile:g} latency"
    if gate.metric is Metric.PROMETHEUS:
        return f"the query of {gate.name}"
    return gate.metric.replace("_", " ")


def _effect(gate: MetricGate, found: Finding, evidence: Evidence) -> str:
    between = _between(gate, found)
    effect = _in_unit(gate, found, found.effect)
    if found.unit == "level":
        if gate.metric is Metric.LATENCY_QUANTILE:
            return f"is {_figure(gate, found.new)}; {effect} {between} take longer than the limit"
        return f"is {effect} {between}"
    than = _AGAINST[evidence.pairing]
    of = f"is {_figure(gate, found.new)} against {_figure(gate, found.base)} of {than}: "
    return f"{of}{effect} {between}"


def _between(gate: MetricGate, found: Finding) -> str:
    low, high = (_in_unit(gate, found, value) for value in (found.low, found.high))
    if found.high is None:
        return f"({low} or more)" if found.low is not None else "(it may be any)"
    return f"({low} to {high})" if found.low is not None else f"(up to {high})"


def _side(gate: MetricGate, found: Finding) -> str:
    limit = f"{_in_unit(gate, found, found.limit)} that "
    limit += "is asked for" if gate.metric is Metric.GOLDEN_PASS_RATE else "is allowed"
    is_low_good = gate.metric is not Metric.GOLDEN_PASS_RATE
    if found.verdict is Verdict.INCONCLUSIVE:
        return f"not yet told from the {limit}"
    is_under = (found.verdict is Verdict.PASS) == is_low_good
    return f"{'under' if is_under else 'over'} the {limit}"


def _in_unit(gate: MetricGate, found: Finding, value: float | None) -> str:
    if value is None:
        return "unknown"
    if found.unit == "ratio":
        return f"{value:.3g}x" if value < 1000 else "over 1000x"
    if found.unit == "difference":
        return f"{100 * value:+.2g} pp"
    if gate.metric is Metric.LATENCY_QUANTILE:
        return f"{100 * value:.3g}%"
    return _figure(gate, value)


def _figure(gate: MetricGate, value: float | None) -> str:
    """The metric itself."""
    if value is None:
        return "a value above the histogram" if gate.quantile is not None else "unknown"
    if gate.metric is Metric.LATENCY_QUANTILE:
        return f"{value:.4g} ms"
    if gate.metric in _SHARES:
        return f"{100 * value:.3g}%"
    return f"{value:.4g} J" if gate.metric is Metric.ENERGY_PER_INFERENCE else f"{value:.4g}"
