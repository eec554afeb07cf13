"""Verdicts from evidence: right at any number of looks, never a pass without data."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.gate_metrics import Metric, MetricGate
from controlplane.domain.gates import Verdict
from controlplane.domain.sequential import GateJudgement, alpha_shares, judge_gate
from controlplane.domain.sequential_evidence import Evidence, Pairing, Row, Sample
from controlplane.ops.gate_power.gates import judge_errors
from controlplane.ops.gate_power.workload import Errors

ALPHA = 0.01
BOUNDS = (10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
# Of 100 requests with half above 20 ms and one in twenty above 160 ms, and of slower ones.
FAST, SLOW = (20, 30, 25, 15, 5, 3, 2), (2, 8, 20, 25, 20, 10, 15)


def gate_of(metric: Metric = Metric.ERROR_RATE, **changes: Any) -> MetricGate:
    return MetricGate(**{"name": "gate", "metric": metric, **changes})


ERRORS = gate_of(max_change="x1.5")
POINTS = gate_of(max_change="+0.5pp")
LEVEL = gate_of(maximum=0.01)
LATENCY = gate_of(Metric.LATENCY_QUANTILE, quantile=0.95, max_change="x2")
LATENCY_LEVEL = gate_of(Metric.LATENCY_QUANTILE, quantile=0.95, maximum=320)
GOLDEN = gate_of(Metric.GOLDEN_PASS_RATE, minimum=0.95)
QUEUE = gate_of(Metric.QUEUE_SHARE, max_change="+20%")
ENERGY = gate_of(Metric.ENERGY_PER_INFERENCE, maximum=2.0)
QUERY = gate_of(Metric.PROMETHEUS, query="up", maximum=10)


def rows(
    new: Sequence[Sample], base: Sequence[Sample] | None = None, sites: int = 2
) -> tuple[Row, ...]:
    """Interval by interval, the same at each site."""
    olds = [None] * len(new) if base is None else base
    return tuple(
        Row(site=f"s{site}", interval=interval, new=a, base=b)
        for interval, (a, b) in enumerate(zip(new, olds, strict=True))
        for site in range(sites)
    )


def errors(new: Sequence[int], base: Sequence[int], requests: int = 500) -> tuple[Row, ...]:
    def of(counts: Sequence[int]) -> list[Sample]:
        return [Sample(requests=requests, bad=count) for count in counts]

    return rows(of(new), of(base))


def latencies(new: tuple[int, ...], base: tuple[int, ...], intervals: int = 40) -> tuple[Row, ...]:
    def of(counts: tuple[int, ...]) -> list[Sample]:
        return [Sample(requests=100, bounds=BOUNDS, counts=counts)] * intervals

    return rows(of(new), of(base))


def amounts(new: float, base: float, intervals: int = 40) -> tuple[Row, ...]:
    """With a seeded spread of a tenth."""
    rng = random.Random(4)

    def of(mean: float) -> list[Sample]:
        return [
            Sample(requests=50, amount=mean * rng.uniform(0.9, 1.1) * 50, per=50.0)
            for _ in range(intervals)
        ]

    return rows(of(new), of(base))


def judged(gate: MetricGate, given: tuple[Row, ...], **more: Any) -> GateJudgement:
    return judge_gate(gate, Evidence(**{"rows": given, "age_seconds": 5.0, **more}), ALPHA)


def spread(total: int, intervals: int = 40) -> list[int]:
    """A number of bad ones over intervals as evenly as it goes."""
    return [(index + 1) * total // intervals - index * total // intervals
            for index in range(intervals)]  # fmt: skip


@pytest.mark.parametrize(
    ("gate", "good", "bad", "neither"),
    [
        (ERRORS, errors(spread(200), spread(200)), errors(spread(150), spread(20)),
         errors(spread(20), spread(14))),
        (POINTS, errors(spread(20), spread(20)), errors(spread(400), spread(20)),
         errors(spread(120), spread(20))),
        (LEVEL, errors(spread(20), spread(0)), errors(spread(600), spread(0)),
         errors(spread(200), spread(0))),
        (LATENCY, latencies(FAST, FAST), latencies(SLOW, FAST), latencies(FAST, FAST, 2)),
        (LATENCY_LEVEL, latencies(FAST, FAST), latencies((8, 12, 10, 25, 10, 15, 20), FAST),
         latencies(FAST, FAST, 2)),
        (QUEUE, amounts(0.2, 0.2), amounts(0.3, 0.2), amounts(0.24, 0.2)),
        (ENERGY, amounts(1.5, 1.5), amounts(2.5, 1.5), amounts(2.0, 1.5)),
        (QUERY, amounts(8.0, 8.0), amounts(12.0, 8.0), amounts(10.0, 8.0)),
        (GOLDEN, errors(spread(2), spread(0), 20), errors(spread(200), spread(0), 20),
         errors(spread(40), spread(0), 20)),
    ],
    ids=lambda value: value.metric if isinstance(value, MetricGate) else "",
)  # fmt: skip
def test_good_passes_bad_fails_and_what_is_at_the_limit_is_open(
    gate: MetricGate, good: tuple[Row, ...], bad: tuple[Row, ...], neither: tuple[Row, ...]
) -> None:
    verdicts = [judged(gate, given) for given in (good, bad, neither)]
    assert [found.verdict for found in verdicts] == [
        Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE,
    ], verdicts  # fmt: skip


def test_a_failure_is_told_with_both_figures_and_how_sure_they_are() -> None:
    found = judged(ERRORS, errors(spread(150), spread(20)))
    assert found.sentence == (
        "error rate is 0.75% against 0.1% of the previous version at the same time: 7.5x "
        f"({found.findings[0].low:.3g}x to {found.findings[0].high:.3g}x), over the 1.5x that is "
        "allowed (40,000 requests at 2 sites, 40,000 of the baseline)"
    )
    assert (found.requests, found.base_requests) == (40_000, 40_000)
    assert found.requests_needed is None
    assert found.document()["verdict"] == "fail"


def test_what_is_open_says_how_many_requests_would_tell() -> None:
    found = judged(ERRORS, errors(spread(20), spread(20)))
    assert found.verdict is Verdict.INCONCLUSIVE
    needed = found.requests_needed
    assert needed is not None
    times = 1 + math.ceil(needed / found.requests)
    more = errors(spread(20 * times), spread(20 * times), 500 * times)
    assert judged(ERRORS, more).verdict is Verdict.PASS


def test_a_pass_rate_is_told_as_such() -> None:
    found = judged(GOLDEN, errors(spread(200), spread(0), 20))
    assert "golden pass rate is 75% (" in found.sentence
    assert "under the 95% that is asked for" in found.sentence


def test_both_limits_must_hold() -> None:
    both = gate_of(maximum=0.05, max_change="x1.5")
    found = judged(both, errors(spread(150), spread(20)))
    assert found.verdict is Verdict.FAIL
    assert [finding.unit for finding in found.findings] == ["ratio", "level"]
    assert found.findings[1].verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("gate", "given", "more", "words"),
    [
        (ERRORS, (), {}, "no site reports the error_rate of the new version"),
        (ERRORS, errors([1], [1]), {"age_seconds": None}, "has not reported yet"),
        (ERRORS, errors([1], [1]), {"age_seconds": 301.0}, "newest figures are 301 s old"),
        (ERRORS, errors([1], [1], 20), {}, "40 requests of the new version; 100 are needed first"),
        (ERRORS, errors([1], [1]), {}, "2 intervals of the new version's sites, at 1 times"),
        (ERRORS, rows([Sample(requests=500, bad=0)] * 9), {}, "0 requests of the baseline"),
        (ERRORS, rows([Sample(requests=500)] * 9), {}, "no site reports the error_rate"),
        (LATENCY, rows([Sample(requests=500, bad=0)] * 9), {}, "no site reports the latency"),
        (ERRORS, errors(spread(0), spread(0)), {}, "nothing that counts was seen on either side"),
        (ERRORS, errors(spread(9), spread(9)), {"pairing": Pairing.CONTROLS}, "3 are needed"),
        (QUEUE, amounts(0.2, 0.2, 5), {}, "too few intervals"),
        (
            LATENCY,
            latencies((0,) * 6 + (100,), (0,) * 6 + (100,)),
            {},
            "above the histogram's last",
        ),
    ],
)
def test_little_old_or_missing_is_inconclusive_with_the_reason(
    gate: MetricGate, given: tuple[Row, ...], more: dict[str, Any], words: str
) -> None:
    found = judged(gate, given, **more)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert words in found.sentence


def with_new(**changes: Any) -> tuple[Row, ...]:
    first, *rest = errors(spread(9), spread(9))
    assert first.new is not None
    return (replace(first, new=replace(first.new, **changes)), *rest)


@pytest.mark.parametrize(
    ("gate", "given", "more", "words"),
    [
        (ERRORS, with_new(bad=-1), {}, "-1 bad answers of 500 requests cannot be"),
        (ERRORS, with_new(bad=501), {}, "501 bad answers of 500 requests cannot be"),
        (ERRORS, with_new(requests=-5), {}, "site s0, interval 0, new version: -5 requests"),
        (ERRORS, with_new(requests=math.nan), {}, "nan requests cannot be"),
        (ERRORS, with_new(), {"earlier_requests": 10**6}, "counts do not shrink"),
        (ERRORS, with_new(), {"age_seconds": -1.0}, "which cannot be"),
        (ERRORS, with_new(), {"age_seconds": math.nan}, "which cannot be"),
        (ERRORS, (), {"problem": "Prometheus answers 502"}, "Prometheus answers 502"),
        (QUEUE, with_new(amount=math.nan, per=1.0), {}, "an amount of nan"),
        (QUEUE, with_new(amount=-1.0, per=1.0), {}, "an amount of -1"),
        (QUEUE, with_new(amount=1.0, per=-1.0), {}, "per -1.0 cannot be"),
        (LATENCY, with_new(bounds=(1.0,), counts=(1, 2, 3)), {}, "1 bounds and 3 counts"),
        (LATENCY, with_new(bounds=(2.0, 1.0), counts=(1, 2, 3)), {}, "must rise from over 0"),
        (LATENCY, with_new(bounds=(1.0, math.inf), counts=(1, 2, 3)), {}, "must rise"),
        (LATENCY, with_new(bounds=(1.0,), counts=(1, -2)), {}, "negative or no whole number"),
        (LATENCY, (*latencies(FAST, FAST), *with_new(bounds=(1.0,), counts=(1, 2))), {},
         "with other bounds than the rest"),
    ],
)  # fmt: skip
def test_what_cannot_be_true_is_an_error_with_the_reason(
    gate: MetricGate, given: tuple[Row, ...], more: dict[str, Any], words: str
) -> None:
    found = judged(gate, given, **more)
    assert found.verdict is Verdict.ERROR
    assert words in found.sentence


def test_a_latency_limit_between_two_bounds_is_open_where_only_the_bucket_is_known() -> None:
    between = gate_of(Metric.LATENCY_QUANTILE, quantile=0.95, maximum=240)
    in_the_bucket = (20, 30, 25, 15, 0, 10, 0)
    found = judged(between, latencies(in_the_bucket, FAST))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "between the histogram's bounds 160 and 320 ms, as the quantile does" in found.sentence
    assert judged(between, latencies((20, 30, 30, 20, 0, 0, 0), FAST)).verdict is Verdict.PASS
    assert judged(between, latencies((20, 30, 20, 10, 0, 0, 20), FAST)).verdict is Verdict.FAIL


def test_a_change_that_is_finer_than_the_buckets_neither_fails_nor_passes() -> None:
    """Within a bucket nobody knows: what is not surely over the limit does not fail."""
    fine = replace(LATENCY, max_change="+20%")
    same = judged(fine, latencies(FAST, FAST))
    assert same.verdict is Verdict.INCONCLUSIVE
    assert "with these bounds it can fail over 2x and pass under 1x" in same.sentence
    assert judged(fine, latencies(SLOW, FAST)).verdict is Verdict.FAIL


def test_sites_that_differ_do_not_look_like_a_version_that_does() -> None:
    """Simpson's paradox: the new version has most of its requests at the site that always fails
    more."""
    given = tuple(
        Row(
            site=site,
            interval=interval,
            new=Sample(requests=new, bad=round(new * rate)),
            base=Sample(requests=base, bad=round(base * rate)),
        )
        for interval in range(60)
        for site, rate, new, base in (("poor", 0.1, 900, 100), ("fine", 0.01, 100, 900))
    )
    assert judged(ERRORS, given).verdict is Verdict.PASS
    assert judged(gate_of(max_change="+2pp"), given).verdict is Verdict.PASS


def test_one_burst_at_one_site_is_no_bad_version() -> None:
    burst = [0] * 39 + [60]
    assert judged(ERRORS, errors(burst, spread(4))).verdict is Verdict.INCONCLUSIVE
    assert judged(ERRORS, errors(spread(60), spread(4))).verdict is Verdict.FAIL


def test_control_sites_that_differ_among_themselves_tell_little() -> None:
    """The same rates, once alike at all sites and once in the sites' own ups and downs."""

    def of(new: Sequence[int], base: Sequence[int]) -> tuple[Row, ...]:
        return tuple(
            Row(site=f"{side}{number}", interval=interval, **{side: Sample(requests=500, bad=bad)})
            for interval in range(40)
            for side, sites in (("new", new), ("base", base))
            for number, bad in enumerate(sites)
        )

    alike = judged(ERRORS, of([10, 11, 10, 9, 10], [2, 2, 3, 2, 1]), pairing=Pairing.CONTROLS)
    unlike = judged(ERRORS, of([1, 40, 1, 4, 4], [5, 1, 1, 1, 2]), pairing=Pairing.CONTROLS)
    assert alike.verdict is Verdict.FAIL
    assert unlike.verdict is Verdict.INCONCLUSIVE
    assert unlike.findings[0].design_effect > 100


def test_alpha_is_shared_by_weight_and_stage_and_never_overspent() -> None:
    gates = [
        gate_of(maximum=0.1, name=name, weight=weight) for name, weight in (("a", 1), ("b", 3))
    ]
    watching = gate_of(maximum=0.1, name="w", watch_only=True)
    shares = alpha_shares([*gates, watching], stages=5)
    assert 5 * (shares["a"] + shares["b"]) == pytest.approx(0.01)
    assert shares["b"] == pytest.approx(3 * shares["a"])
    assert shares["w"] == pytest.approx(0.01 / 5 / 5)


def test_watching_is_said_and_changes_no_verdict() -> None:
    given = errors(spread(150), spread(20))
    watching = judged(replace(ERRORS, watch_only=True), given)
    assert watching.watch_only
    assert watching.verdict is judged(ERRORS, given).verdict


counts = st.lists(st.integers(0, 60), min_size=6, max_size=6)


@settings(deadline=None, max_examples=40)
@given(new=counts, base=counts)
def test_the_effect_lies_in_its_interval_and_the_verdict_beside_it(
    new: list[int], base: list[int]
) -> None:
    for gate in (ERRORS, POINTS, LEVEL):
        found = judged(gate, errors(new, base))
        for finding in found.findings:
            if finding.effect is None or finding.low is None:
                continue
            high = math.inf if finding.high is None else finding.high
            assert finding.low - 1e-9 <= finding.effect <= high + 1e-9
            if finding.verdict is Verdict.FAIL:
                assert finding.low >= finding.limit - 1e-6
            elif finding.verdict is Verdict.PASS:
                assert high <= finding.limit + 1e-6
            else:
                assert finding.low <= finding.limit + 1e-6 <= high + 2e-6


@settings(deadline=None, max_examples=40)
@given(new=counts, base=counts)
def test_new_and_old_changed_about_turn_the_effect_about(new: list[int], base: list[int]) -> None:
    there = judged(ERRORS, errors(new, base)).findings
    back = judged(ERRORS, errors(base, new)).findings
    if there and there[0].effect and back[0].effect and there[0].low:
        assert there[0].effect * back[0].effect == pytest.approx(1, rel=1e-4)
        assert back[0].high is not None
        assert there[0].low * back[0].high == pytest.approx(1, rel=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 200), st.integers(1, 200), st.integers(1, 5))
def test_more_errors_never_make_a_failure_less_sure(bad: int, base: int, more: int) -> None:
    order = [Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]
    fewer = judged(LEVEL, errors(spread(bad), spread(base))).verdict
    worse = judged(LEVEL, errors(spread(bad * (1 + more)), spread(base))).verdict
    assert order.index(worse) >= order.index(fewer)


samples = st.builds(
    Sample,
    requests=st.integers(-1, 300),
    bad=st.none() | st.integers(-1, 300),
    bounds=st.sampled_from([(), (10.0, 20.0), (20.0, 10.0)]),
    counts=st.sampled_from([(), (5, 5, 5), (90, 9, 1), (1, -1, 0), (1,)]),
    amount=st.none() | st.floats(),
    per=st.none() | st.floats(),
)


@settings(deadline=None, max_examples=60)
@given(
    gate=st.sampled_from([ERRORS, POINTS, LEVEL, LATENCY, LATENCY_LEVEL, QUEUE, ENERGY, GOLDEN]),
    given_rows=st.lists(
        st.builds(
            Row, site=st.sampled_from("abc"), interval=st.integers(0, 30),
            new=st.none() | samples, base=st.none() | samples,
        ),
        max_size=30,
    ),
    pairing=st.sampled_from(Pairing),
)  # fmt: skip
def test_nothing_raises_and_little_is_never_a_pass(
    gate: MetricGate, given_rows: list[Row], pairing: Pairing
) -> None:
    found = judged(gate, tuple(given_rows), pairing=pairing)
    seen = sum(row.new.requests for row in given_rows if row.new is not None)
    if seen < gate.min_requests:
        assert found.verdict in (Verdict.INCONCLUSIVE, Verdict.ERROR)


def at_the_limit(histories: int, looks: int) -> Errors:
    """A version just as bad as it may be, beside the old one, at two sites."""
    rng = np.random.default_rng(12)
    shape = (histories, looks, 2)
    return Errors(new=rng.binomial(150, 0.03, shape), base=rng.binomial(150, 0.02, shape))


def ever(evidence: Any, strength: float) -> float:
    """Share of histories that any look stops."""
    return float((evidence > strength).any(axis=1).mean())


def test_looking_at_every_interval_does_not_stop_good_versions_too_often() -> None:
    drawn = at_the_limit(1500, 120)
    gate = judge_errors(drawn, per_interval=150, factor=1.5, least=100)
    assert ever(gate, math.log(1 / 0.05)) <= 0.05
    assert ever(-gate, math.log(1 / 0.05)) <= 0.05


def test_the_same_harness_catches_a_test_that_was_made_for_one_look() -> None:
    """A z-test at 5 %, peeked at: stops a version at its limit several times too often."""
    drawn = at_the_limit(1500, 120)
    new = drawn.new.sum(axis=2).cumsum(axis=1)
    both = new + drawn.base.sum(axis=2).cumsum(axis=1)
    z = (new - 0.6 * both) / np.sqrt(both * 0.24)
    assert ever(z[:, -1:], 1.645) < 0.07
    assert ever(z, 1.645) > 0.2
