"""From counts to figures; what was not counted stays unknown."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.figures import Counted, figures_of


def counted(**changes: Any) -> Counted:
    facts: dict[str, Any] = {
        "seconds": 60.0, "requests": 600, "failed": 6, "request_us": 5_940_000,
        "bounds": (10.0, 50.0), "counts": (500, 90, 4),
    }  # fmt: skip
    return Counted(**{**facts, **changes})


def test_the_figures_of_an_interval() -> None:
    figures = figures_of(counted())
    assert figures.requests_per_second == 10.0
    assert figures.error_rate == 0.01
    assert figures.mean_latency_ms == 10.0
    assert (figures.p95_at_most_ms, figures.p95_above_ms) == (50.0, None)


def test_a_95th_percentile_above_all_bounds_is_said_to_be_so() -> None:
    figures = figures_of(counted(counts=(500, 0, 94)))
    assert (figures.p95_at_most_ms, figures.p95_above_ms) == (None, 50.0)


def test_without_requests_there_is_no_rate_of_errors_and_no_latency() -> None:
    figures = figures_of(counted(requests=0, failed=0, request_us=0, counts=(0, 0, 0)))
    assert figures.requests_per_second == 0.0
    assert figures.error_rate is figures.mean_latency_ms is figures.p95_at_most_ms is None


def test_when_all_failed_there_is_no_latency() -> None:
    figures = figures_of(counted(failed=600, request_us=0))
    assert (figures.error_rate, figures.mean_latency_ms) == (1.0, None)


@pytest.mark.parametrize("lacking", [{"request_us": None}, {"bounds": (), "counts": ()}])
def test_what_was_not_counted_is_unknown(lacking: dict[str, Any]) -> None:
    figures = figures_of(counted(**lacking))
    assert None in (figures.mean_latency_ms, figures.p95_at_most_ms)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_a_percentile_is_one_of_the_bounds_or_beyond_them(counts: list[int]) -> None:
    bounds = [float(n) for n in range(1, len(counts))]
    figures = figures_of(counted(bounds=bounds, counts=counts))
    told = [value for value in (figures.p95_at_most_ms, figures.p95_above_ms) if value is not None]
    assert len(told) == (1 if sum(counts) and bounds else 0)
    assert all(value in bounds for value in told)
