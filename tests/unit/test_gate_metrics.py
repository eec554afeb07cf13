"""A gate is read as it was written, and what could never trip, or never pass, is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.errors import FieldError
from controlplane.domain.gate_metrics import (
    KEYS,
    Baseline,
    Change,
    Metric,
    MetricGate,
    gate_of,
    parse_metric_gate,
)

ERRORS = {"name": "errors", "metric": "error_rate", "max_change": "x1.5"}
LATENCY = {"name": "p95", "metric": "latency_quantile", "quantile": 0.95, "maximum": 250}
GOLDEN = {"name": "golden", "metric": "golden_pass_rate", "minimum": 0.99}
QUERY = {"name": "gpu", "metric": "prometheus", "query": "avg(up)", "maximum": 0.9}


def parsed(document: object) -> tuple[MetricGate | None, list[FieldError]]:
    faults: list[FieldError] = []
    return parse_metric_gate(document, "policy.metrics[0]", faults), faults


@pytest.mark.parametrize(
    "document",
    [
        ERRORS,
        LATENCY,
        GOLDEN,
        QUERY,
        {"name": "q", "metric": "queue_share", "maximum": 0.5, "max_change": "+5pp"},
        {"name": "e", "metric": "energy_per_inference", "max_change": "+20%", "weight": 3},
        {**LATENCY, "max_change": "+20%", "min_requests": 500, "watch_only": True},
        {**GOLDEN, "max_change": "-1pp", "baseline": "controls", "max_age_seconds": 60},
        {**QUERY, "maximum": -3},
    ],
)
def test_a_gate_is_read_and_written_again(document: dict[str, object]) -> None:
    gate, faults = parsed(document)
    assert not faults
    assert gate is not None
    assert gate.document() == document
    assert gate_of(gate.document()) == gate


def test_what_is_not_said_has_defaults() -> None:
    gate, _ = parsed(ERRORS)
    assert gate is not None
    assert gate.metric is Metric.ERROR_RATE
    assert (gate.min_requests, gate.max_age_seconds, gate.weight) == (100, 300, 1)
    assert gate.baseline is Baseline.PREVIOUS_ELSE_CONTROLS
    assert not gate.watch_only


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("+20%", Change(factor=1.2)),
        ("x1.2", Change(factor=1.2)),
        ("x3", Change(factor=3.0)),
        ("+0.5pp", Change(points=0.005)),
    ],
)
def test_a_change_is_a_factor_or_points(text: str, change: Change) -> None:
    gate, faults = parsed({**ERRORS, "max_change": text})
    assert not faults
    assert gate is not None
    assert gate.change == change


@pytest.mark.parametrize(
    ("document", "field", "words"),
    [
        ("p95", "", "must be an object with name, metric"),
        ({**ERRORS, "max": 3}, ".max", "is not known; a gate has name"),
        ({"metric": "error_rate", "maximum": 0.1}, ".name", "is missing: must be a name"),
        ({**ERRORS, "name": "P 95"}, ".name", "of a-z 0-9 -"),
        ({**ERRORS, "metric": "errors"}, ".metric", "must be one of error_rate, latency_quantile"),
        ({**LATENCY, "quantile": 1}, ".quantile", "between 0 and 1"),
        ({**LATENCY, "quantile": 0}, ".quantile", "between 0 and 1"),
        ({**LATENCY, "quantile": math.nan}, ".quantile", "between 0 and 1"),
        ({**LATENCY, "quantile": None}, ".quantile", "is for latency_quantile, which needs it"),
        ({**ERRORS, "quantile": 0.5}, ".quantile", "this gate is of error_rate"),
        ({**LATENCY, "maximum": math.inf}, ".maximum", "must be a number from"),
        ({**LATENCY, "maximum": True}, ".maximum", "must be a number from"),
        ({**LATENCY, "maximum": 0}, ".maximum", "no version could be shown to keep"),
        ({**LATENCY, "maximum": -5}, ".maximum", "no version could be shown to keep"),
        ({**ERRORS, "maximum": 1}, ".maximum", "could never trip"),
        (
            {"name": "e", "metric": "error_rate"},
            "",
            "has no limit and could never trip; give it max",
        ),
        ({"name": "g", "metric": "golden_pass_rate"}, "", "give it minimum"),
        ({**GOLDEN, "minimum": 0}, ".minimum", "between 0 and 1"),
        ({**GOLDEN, "minimum": 1}, ".minimum", "between 0 and 1"),
        ({**GOLDEN, "maximum": 0.5}, ".maximum", "could never trip: a pass rate is good when high"),
        ({**ERRORS, "minimum": 0.5}, ".minimum", "error_rate is good when low"),
        ({**GOLDEN, "max_change": "+1pp"}, ".max_change", 'such as "-1pp"'),
        ({**ERRORS, "max_change": "-1pp"}, ".max_change", "is good when low"),
        ({**LATENCY, "max_change": "+5pp"}, ".max_change", "is no share"),
        ({**ERRORS, "max_change": "x1"}, ".max_change", "could never be shown to keep it"),
        ({**ERRORS, "max_change": "+0%"}, ".max_change", "could never be shown to keep it"),
        ({**ERRORS, "max_change": "x200"}, ".max_change", "is no limit"),
        ({**ERRORS, "max_change": "+100pp"}, ".max_change", "under 100 percentage points"),
        ({**ERRORS, "max_change": "20"}, ".max_change", 'such as "+20%"'),
        ({**ERRORS, "max_change": 1.2}, ".max_change", 'such as "+20%"'),
        ({**ERRORS, "min_requests": 0}, ".min_requests", "whole number from 1"),
        ({**ERRORS, "min_requests": 2.5}, ".min_requests", "whole number from 1"),
        ({**ERRORS, "max_age_seconds": 0}, ".max_age_seconds", "from 1 to 86400"),
        ({**ERRORS, "baseline": "yesterday"}, ".baseline", "must be one of previous_else"),
        ({**ERRORS, "weight": 0}, ".weight", "whole number from 1 to 100"),
        ({**ERRORS, "watch_only": "yes"}, ".watch_only", "true or false"),
        ({**QUERY, "query": "  "}, ".query", "must be a PromQL expression"),
        ({**QUERY, "query": "x" * 2001}, ".query", "is over 2000 long"),
        ({**ERRORS, "query": "up"}, ".query", "is for prometheus"),
    ],
)
def test_what_is_wrong_is_told_with_what_would_be_right(
    document: object, field: str, words: str
) -> None:
    gate, faults = parsed(document)
    assert gate is None
    assert [fault.field for fault in faults] == [f"policy.metrics[0]{field}"]
    assert words in faults[0].message


def test_every_fault_is_told_at_once() -> None:
    _, faults = parsed({"name": "!", "metric": "speed", "weight": -1, "speed": 1})
    assert len(faults) == 4


@given(
    st.dictionaries(
        st.sampled_from([*KEYS, "other"]),
        st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
            st.sampled_from([*Metric, "+20%", "x1.2", "-1pp"]),
        ),
    )
)  # fmt: skip
def test_any_document_gives_a_gate_that_can_be_written_again_or_a_fault(
    document: dict[str, object],
) -> None:
    gate, faults = parsed(document)
    assert (gate is None) == bool(faults)
    if gate is not None:
        assert gate_of(gate.document()) == gate
