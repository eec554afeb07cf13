"""Latency histograms: what may be merged, and what is said of quantiles and shares."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.distribution import (
    Distribution,
    Quantile,
    merge,
    merged,
    quantile,
    share_above,
)

BOUNDS = (10.0, 50.0, 100.0)
counts = st.tuples(*[st.integers(0, 10**9)] * 4)
shares = st.floats(0, 1)


def hist(*each: int, bounds: tuple[float, ...] = BOUNDS) -> Distribution:
    return Distribution(bounds=bounds, counts=each)


def both(one: Distribution, other: Distribution) -> Distribution:
    found = merge(one, other)
    assert found is not None
    return found


@given(counts, counts, counts)
def test_merging_goes_in_any_order(
    a: tuple[int, ...], b: tuple[int, ...], c: tuple[int, ...]
) -> None:
    one, two, three = hist(*a), hist(*b), hist(*c)
    assert both(one, two) == both(two, one)
    assert both(both(one, two), three) == both(one, both(two, three))
    assert merged([one, two, three]) == (both(both(one, two), three),)
    assert both(one, two).total == one.total + two.total


def test_other_bounds_are_never_mixed() -> None:
    few, many = hist(1, 2, bounds=(5.0,)), hist(5, 5, 5, 5)
    assert merge(few, many) is None
    assert merged([few, many, few]) == (many, hist(2, 4, bounds=(5.0,)))
    assert merged([]) == ()


@given(counts, shares, shares)
def test_a_higher_share_is_never_lower(each: tuple[int, ...], low: float, high: float) -> None:
    low, high = sorted((low, high))
    one, other = quantile(hist(*each), low), quantile(hist(*each), high)
    if one is None or other is None:
        assert sum(each) == 0
        return
    assert one.at_least_ms <= other.at_least_ms + 1e-9
    assert (one.above_ms is None) or (other.above_ms is not None)


@given(counts, shares)
def test_a_quantile_lies_in_the_bucket_that_holds_it(each: tuple[int, ...], share: float) -> None:
    found = quantile(hist(*each), share)
    if found is None or found.ms is None:
        return
    below = [count for count, bound in zip(each, BOUNDS, strict=False) if bound <= found.ms]
    assert sum(below) <= share * sum(each) * (1 + 1e-9) + 1e-6


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, Quantile(ms=0.0)),
        (0.5, Quantile(ms=10.0)),
        (0.75, Quantile(ms=30.0)),
        (1.0, Quantile(ms=50.0)),
    ],
)
def test_between_bounds_requests_lie_evenly(share: float, expected: Quantile) -> None:
    assert quantile(hist(50, 50, 0, 0), share) == expected


def test_above_the_last_bound_nothing_is_worked_out() -> None:
    assert quantile(hist(90, 0, 0, 10), 0.95) == Quantile(above_ms=100.0)
    assert quantile(hist(90, 0, 0, 10), 0.9) == Quantile(ms=10.0)
    assert quantile(hist(7, bounds=()), 0.5) == Quantile(above_ms=0.0)


def test_of_nothing_nothing_is_known() -> None:
    assert quantile(hist(0, 0, 0, 0), 0.5) is None
    assert share_above(hist(0, 0, 0, 0), 5.0) is None


@pytest.mark.parametrize(
    ("threshold", "share"), [(0.0, 1.0), (10.0, 0.6), (30.0, 0.4), (50.0, 0.2), (100.0, 0.1)]
)
def test_the_share_above_a_threshold(threshold: float, share: float) -> None:
    assert share_above(hist(40, 40, 10, 10), threshold) == pytest.approx(share)


def test_the_share_above_a_threshold_that_no_bound_reaches_is_unknown() -> None:
    assert share_above(hist(40, 40, 10, 10), 100.5) is None
    assert share_above(hist(40, 40, 10, 0), 100.5) == 0.0


@given(counts, st.floats(0, 100), st.floats(0, 100))
def test_a_higher_threshold_never_has_more_above(
    each: tuple[int, ...], low: float, high: float
) -> None:
    low, high = sorted((low, high))
    above_low, above_high = share_above(hist(*each), low), share_above(hist(*each), high)
    if above_low is None or above_high is None:
        assert sum(each) == 0
        return
    assert above_high <= above_low + 1e-9
