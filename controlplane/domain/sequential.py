"""Judges a gate from evidence, at any number of looks: pass, fail, inconclusive, error.

    judge_gate(gate, evidence, alpha) -> GateJudgement
    alpha_shares(gates, stages) -> {gate's name: alpha}

A pass is evidence that the effect lies under the limit: the whole confidence interval does. A fail
is that it lies over. Between them is inconclusive, as is everything that is missing, old or little;
what cannot be true is an error. All looks together give a wrong fail, or a wrong pass, with
probability at most `alpha`. The method and its sources: docs/gates.md. It must not know where
figures are kept, whose stage it is, nor the clock."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from controlplane.domain.gate_metrics import Metric, MetricGate
from controlplane.domain.gates import Verdict
from controlplane.domain.sequential_evidence import Evidence, Pairing, Sample, fault_in
from controlplane.domain.sequential_findings import (
    LEAST_CELLS,
    LEAST_INTERVALS,
    Finding,
    find_change,
    find_level,
)
from controlplane.domain.sequential_words import amount_of_requests, headline

# Of one rollout, over all its gates, stages and looks.
FALSE_ALARMS = 0.01
# Between sites that ran different versions at least this many on each side must be compared.
LEAST_SITES = 3


@dataclass(frozen=True, kw_only=True)
class GateJudgement:
    """A verdict with its grounds; `document()` is what to store and show.

    `findings`: one for each limit, the one that decides first. `requests_needed`: how many more of
    the new version would probably settle it, None when it is settled or nobody can tell. `alpha`:
    the level that it was judged at. `sentence`: for an operator.
    """

    gate: str
    verdict: Verdict
    sentence: str
    alpha: float
    requests: int = 0
    base_requests: int = 0
    requests_needed: int | None = None
    findings: tuple[Finding, ...] = ()
    watch_only: bool = False

    def document(self) -> dict[str, object]:
        return {
            "gate": self.gate,
            "verdict": self.verdict.value,
            "sentence": self.sentence,
            "alpha": self.alpha,
            "requests": self.requests,
            "base_requests": self.base_requests,
            "requests_needed": self.requests_needed,
            "findings": [finding.document() for finding in self.findings],
            "watch_only": self.watch_only,
        }


def alpha_shares(
    gates: Iterable[MetricGate], stages: int, total: float = FALSE_ALARMS
) -> dict[str, float]:
    """What each gate may spend in each of so many stages, by its name: all together spend `total`
    (Bonferroni: no independence is needed). A gate that only watches spends nothing of the others',
    and is judged at what it would get if it did not."""
    known = list(gates)
    spending = sum(gate.weight for gate in known if not gate.watch_only)
    return {
        gate.name: total
        * gate.weight
        / (spending + (gate.weight if gate.watch_only else 0))
        / max(1, stages)
        for gate in known
    }


def judge_gate(gate: MetricGate, evidence: Evidence, alpha: float) -> GateJudgement:
    """The verdict on all that is known now. `alpha` from `alpha_shares`, between 0 and 1."""

    def judged(verdict: Verdict, sentence: str, **more: object) -> GateJudgement:
        return GateJudgement(
            gate=gate.name, verdict=verdict, sentence=sentence, alpha=alpha,
            watch_only=gate.watch_only, **more,  # type: ignore[arg-type]  # fields of it
        )  # fmt: skip

    if fault := fault_in(gate.metric, evidence):
        return judged(Verdict.ERROR, f"cannot be judged: {fault}")
    evidence = _measured(gate.metric, evidence)
    requests = sum(sample.requests for sample in evidence.new_samples())
    base_requests = sum(sample.requests for sample in evidence.base_samples())
    counts: dict[str, int] = {"requests": requests, "base_requests": base_requests}
    if wait := _too_little(gate, evidence, requests, base_requests):
        short = max(0, gate.min_requests - requests)
        return judged(Verdict.INCONCLUSIVE, wait, **counts, requests_needed=short or None)
    findings = _findings(gate, evidence, alpha / gate.limits)
    worst = min(findings, key=lambda finding: _GRAVITY.index(finding.verdict))
    needed = _needed(findings, requests) if worst.verdict is Verdict.INCONCLUSIVE else None
    return judged(
        worst.verdict,
        headline(gate, worst, evidence, counts, needed),
        **counts,
        requests_needed=needed,
        findings=tuple(sorted(findings, key=lambda finding: finding is not worst)),
    )


def _needed(findings: Sequence[Finding], requests: int) -> int | None:
    times = [
        finding.times_needed for finding in findings if finding.verdict is Verdict.INCONCLUSIVE
    ]
    known = [value for value in times if value is not None]
    return max(1, round((max(known) - 1) * requests)) if len(known) == len(times) else None


# What decides among several limits, gravest first.
_GRAVITY = (Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE, Verdict.PASS)


def _findings(gate: MetricGate, evidence: Evidence, alpha: float) -> Sequence[Finding]:
    findings = []
    if gate.maximum is not None or gate.minimum is not None:
        findings.append(find_level(gate, evidence, alpha))
    if gate.max_change is not None:
        findings.append(find_change(gate, evidence, alpha))
    return findings


def _measured(metric: Metric, evidence: Evidence) -> Evidence:
    """Without what does not carry the metric: it is not reported, which is not 0."""

    def kept(sample: Sample | None) -> Sample | None:
        if sample is None:
            return None
        if metric is Metric.LATENCY_QUANTILE:
            return sample if sample.counts else None
        if metric in (Metric.ERROR_RATE, Metric.GOLDEN_PASS_RATE):
            return sample if sample.bad is not None else None
        return sample if sample.amount is not None and sample.per else None

    rows = (replace(row, new=kept(row.new), base=kept(row.base)) for row in evidence.rows)
    kept_rows = tuple(row for row in rows if row.new is not None or row.base is not None)
    return replace(evidence, rows=kept_rows)


def _too_little(gate: MetricGate, evidence: Evidence, requests: int, base_requests: int) -> str:
    """Why nothing can be said yet, as a sentence; else nothing."""
    if evidence.age_seconds is None:
        return "a judged site has not reported yet"
    if evidence.age_seconds > gate.max_age_seconds:
        return (
            f"a judged site's newest figures are {evidence.age_seconds:.0f} s old; "
            f"at most {gate.max_age_seconds:g} s count as fresh"
        )
    if not requests:
        return f"no site reports the {gate.metric} of the new version"
    if requests < gate.min_requests:
        seen = amount_of_requests(requests)
        return f"{seen} of the new version; {gate.min_requests} are needed first"
    cells = [row.interval for row in evidence.rows if row.new is not None]
    if len(cells) < LEAST_CELLS or len(set(cells)) < LEAST_INTERVALS:
        return (
            f"{len(cells)} intervals of the new version's sites, at {len(set(cells))} times, which "
            f"a burst could fill; {LEAST_CELLS} are needed, at {LEAST_INTERVALS} times"
        )
    if gate.max_change is None:
        return ""
    if base_requests < gate.min_requests:
        seen = amount_of_requests(base_requests)
        return f"{seen} of the baseline; {gate.min_requests} are needed first"
    if evidence.pairing is Pairing.CONTROLS:
        for who, sites in (
            ("run the new version", {row.site for row in evidence.rows if row.new is not None}),
            ("are controls", {row.site for row in evidence.rows if row.base is not None}),
        ):
            if len(sites) < LEAST_SITES:
                return f"{len(sites)} of the compared sites {who}; {LEAST_SITES} are needed"
    return ""
