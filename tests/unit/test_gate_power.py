"""The measurement of gates: what it simulates with is what judges, and it shows what it should."""

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from controlplane.domain.gate_metrics import Metric, MetricGate
from controlplane.domain.gates import Verdict
from controlplane.domain.sequential import judge_gate
from controlplane.domain.sequential_evidence import Evidence, Row, Sample
from controlplane.ops.gate_power.gates import judge_errors, judge_latencies
from controlplane.ops.gate_power.peers import kayenta_stops, mann_whitney_z, threshold_path
from controlplane.ops.gate_power.workload import (
    BOUNDS_MS,
    Errors,
    Fleet,
    Latencies,
    draw_errors,
    draw_latencies,
    from_traces,
    mixture,
)

ALPHA = 0.01
FLEET = Fleet(sites=2, per_second=10)
LOOKS = (0, 1, 2, 5, 17, 60, 239)


def verdict_of(evidence: float) -> Verdict:
    if abs(evidence) < np.log(1 / ALPHA):
        return Verdict.INCONCLUSIVE
    return Verdict.FAIL if evidence > 0 else Verdict.PASS


def error_rows(errors: Errors, history: int, looks: int) -> tuple[Row, ...]:
    def sample(bad: int) -> Sample:
        return Sample(requests=FLEET.per_interval, bad=int(bad))

    return tuple(
        Row(
            site=f"s{site}",
            interval=interval,
            new=sample(errors.new[history, interval, site]),
            base=sample(errors.base[history, interval, site]),
        )
        for interval in range(looks)
        for site in range(FLEET.sites)
    )


def latency_rows(latencies: Latencies, history: int, looks: int) -> tuple[Row, ...]:
    def sample(counts: list[int]) -> Sample:
        return Sample(requests=FLEET.per_interval, bounds=BOUNDS_MS, counts=tuple(map(int, counts)))

    return tuple(
        Row(
            site=f"s{site}",
            interval=interval,
            new=sample(latencies.new[history, interval, site]),
            base=sample(latencies.base[history, interval, site]),
        )
        for interval in range(looks)
        for site in range(FLEET.sites)
    )


@pytest.mark.parametrize("rate", [0.001, 0.01])
def test_errors_in_arrays_are_judged_as_the_domain_judges(rate: float) -> None:
    gate = MetricGate(name="errors", metric=Metric.ERROR_RATE, max_change="x1.5", min_requests=100)
    errors = draw_errors(np.random.default_rng(7), FLEET, 4, 0.001, rate)
    evidence = judge_errors(errors, per_interval=FLEET.per_interval, factor=1.5, least=100)
    for history in range(4):
        for look in LOOKS:
            rows = error_rows(errors, history, look + 1)
            judged = judge_gate(gate, Evidence(rows=rows, age_seconds=1), ALPHA)
            assert judged.verdict is verdict_of(evidence[history, look]), (history, look, judged)


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_latencies_in_arrays_are_judged_as_the_domain_judges(factor: float) -> None:
    gate = MetricGate(
        name="p95", metric=Metric.LATENCY_QUANTILE, quantile=0.95, max_change="+5%",
        min_requests=100,
    )  # fmt: skip
    rng = np.random.default_rng(8)
    (latencies,) = draw_latencies(rng, FLEET, 4, mixture(rng), [factor])
    evidence = judge_latencies(
        latencies, per_interval=FLEET.per_interval, quantile=0.95, factor=1.05, least=100
    )
    for history in range(4):
        for look in LOOKS:
            rows = latency_rows(latencies, history, look + 1)
            judged = judge_gate(gate, Evidence(rows=rows, age_seconds=1), ALPHA)
            assert judged.verdict is verdict_of(evidence[history, look]), (history, look, judged)


def test_mann_whitney_is_the_textbook_statistic() -> None:
    """Hollander and Wolfe, permeability of membranes: W = 35 of 10 and 5, no ties."""
    at_term = np.array([[0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]])
    early = np.array([[1.15, 0.88, 0.90, 0.74, 1.21]])
    z = mann_whitney_z(at_term, early)
    assert z[0] == pytest.approx((35 - 25 - 0.5) / np.sqrt(50 * 16 / 12))


def test_mann_whitney_of_nothing_but_ties_says_nothing() -> None:
    assert mann_whitney_z(np.zeros((1, 9)), np.zeros((1, 9)))[0] == 0


def test_kayenta_passes_a_sparse_metric_that_is_plainly_bad() -> None:
    """The known weakness (kayenta#426): most intervals hold no error at all in both."""
    new, base = np.zeros((1, 60)), np.zeros((1, 60))
    new[0, ::15] = 40.0
    assert np.isinf(kayenta_stops(new, base, 1.5))[0]


def test_kayenta_stops_what_is_twice_as_slow() -> None:
    rng = np.random.default_rng(1)
    base = rng.lognormal(size=(1, 60), sigma=0.1)
    assert np.isfinite(kayenta_stops(2 * base[:, ::-1], base, 1.05))[0]


def test_a_threshold_waits_for_a_full_window() -> None:
    new, ones = np.full((1, 40), 2.0), np.ones((1, 40))
    path = threshold_path(new, ones, ones, ones)
    assert (path[0, :19] == 0).all()
    assert path[0, 19:] == pytest.approx(2.0)


def test_a_file_that_is_no_trace_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="needs the columns TIMESTAMP"):
        from_traces([wrong])


def test_the_command_prints_the_same_table_for_the_same_seed() -> None:
    def table() -> str:
        out = StringIO()
        call_command(
            "gate-power", histories=20, seed=3, fleet=["2x1"], stdout=out, stderr=StringIO()
        )
        return out.getvalue()

    first = table()
    assert first == table()
    for words in ("### p95 latency", "### error rate", "| 2 | 1 | x2 | **100%", "peer does better"):
        assert words in first


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"histories": 3}, "at least 20"),
        ({"fleet": ["many"]}, "such as 3x10"),
        ({"fleet": ["0x1"]}, "1 site or more"),
        ({"traces": [Path("/nowhere.csv")]}, "nowhere.csv"),
    ],
)
def test_the_command_says_what_would_be_right(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(CommandError, match=words):
        call_command("gate-power", **wrong, stdout=StringIO(), stderr=StringIO())
