"""What no agent should measure: refused with the reason, or kept apart; never a 500, and nothing of
it in any sum."""

import gzip
import json
from datetime import timedelta
from typing import Any

import pytest

from controlplane.fleet.models import MeasuredInterval
from controlplane.telemetry.queries import model_totals
from controlplane.telemetry.rollups import roll_up
from tests.api.calls import AgentCaller, assert_problem, fields
from tests.api.test_site_facts import golden, post_packed


def said(model: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = golden("measurement-request") | changes
    document["models"] = [document["models"][0] | (model or {})]
    return document


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"requests": 60_000_002}, "requests"),
        ({"requests": 10**15 + 1}, "requests"),
        ({"batch_executions": 10**12}, "batch_executions"),
        ({"request_us": 614 * 86_400 * 10**6 + 1}, "request_us"),
        ({"queue_us": 10**15}, "queue_us"),
        ({"queue_us": -1}, "queue_us"),
        ({"compute_infer_us": True}, "compute_infer_us"),
        ({"failures": {"BACKEND": -1}}, "failures"),
        ({"latency_ms": {"bounds": [10], "counts": [10**12, 0]}}, "latency_ms"),
        ({"latency_ms": {"bounds": [10], "counts": [-1, 0]}}, "latency_ms"),
        ({"latency_ms": {"bounds": [10, 10], "counts": [0, 0, 0]}}, "latency_ms"),
        ({"latency_ms": {"bounds": list(range(65)), "counts": [0] * 66}}, "latency_ms"),
    ],
)
def test_absurd_counters_are_refused_by_name(
    model: dict[str, Any], field: str, edge: AgentCaller
) -> None:
    answer = edge.post("measurements", said(model))
    named = fields(assert_problem(answer, 422, "invalid-request"))
    assert any(name.startswith(f"models[0].{field}") for name in named), named
    assert not MeasuredInterval.objects.exists()


@pytest.mark.parametrize(
    "gauges",
    [
        {"power_watts": 1e9},
        {"energy_joules": 60 * 100_000.5},
        {"temperature_celsius": 1e6},
        {"memory_used_bytes": 2**60},
        {"utilization": -0.1},
    ],
)
def test_absurd_gauges_are_refused(gauges: dict[str, Any], edge: AgentCaller) -> None:
    document = said(accelerators=[{"uuid": "a"}, {"uuid": "u", **gauges}])
    named = fields(assert_problem(edge.post("measurements", document), 422, "invalid-request"))
    assert [name.partition(".")[2] for name in named] == list(gauges)
    assert all(name.startswith("accelerators[1]") for name in named)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_refused(number: str, edge: AgentCaller) -> None:
    text = json.dumps(said()).replace("60.0", number, 1)
    assert_problem(edge.post("measurements", text.encode()), 422, "invalid-request")


@pytest.mark.parametrize("age", [-0.001, -3600, None, "now"])
def test_a_clock_that_is_ahead_is_refused(age: Any, edge: AgentCaller) -> None:
    answer = edge.post("measurements", said(age_seconds=age))
    assert fields(assert_problem(answer, 422, "invalid-request")) == ["age_seconds"]


def test_ten_megabytes_are_not_read(edge: AgentCaller) -> None:
    body = json.dumps(said({"server": "s" * 10_000_000})).encode()
    assert_problem(edge.post("measurements", body), 413, "report-too-large")
    packed = gzip.compress(body)
    assert len(packed) < 100_000
    assert_problem(post_packed(edge, packed), 413, "report-too-large")


def test_models_that_no_catalogue_knows_are_kept_apart(edge: AgentCaller, now: Any) -> None:
    for seq, model in enumerate(("vad", "somebody's own")):
        assert edge.post("measurements", said({"model": model}, seq=seq)).status_code == 200
    later = now + timedelta(minutes=5)
    roll_up(now=later)
    totals = model_totals(start=now - timedelta(hours=1), end=later, now=later)
    assert totals.sums(model="vad").requests == 614
    assert {row.model for row in totals.rows} == {"vad", "somebody's own"}


def test_the_most_that_is_plausible_is_taken(edge: AgentCaller, now: Any) -> None:
    model = {
        "requests": 60_000_000,
        "batch_executions": 60_000_000,
        "request_us": 10**15,
        "queue_us": 10**15,
        "failures": {},
        "latency_ms": {"bounds": [10.0], "counts": [60_000_000, 0]},
    }
    assert edge.post("measurements", said(model)).status_code == 200
    assert roll_up(now=now + timedelta(minutes=5)) == 1
