"""Two hundred agents after an outage: they come back soon, and not all at once."""

from __future__ import annotations

import pytest

from herd import AGENTS, POLL_SECONDS, measure

# A poll and a report of each agent at every interval.
ORDINARY = 2 * AGENTS / POLL_SECONDS


@pytest.mark.parametrize("seed", range(1, 4))
def test_after_an_outage_all_are_back_soon_and_never_in_a_rush(seed: int) -> None:
    seen = measure(seed=seed)
    assert 0 < seen["all_back_seconds"] <= 130.0
    # As close together as on an ordinary day, and not the hundreds of a herd in step.
    assert seen["steady_peak"] <= 2 * ORDINARY
    assert seen["peak"] <= 2 * ORDINARY
    assert seen["busiest_ten"] <= 1.5 * ORDINARY


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_centre_that_asks_for_patience_gets_it(seed: int) -> None:
    """It can take two thirds of what its agents ask on an ordinary day."""
    seen = measure(capacity=20, seed=seed)
    assert seen["refused"] > 0
    assert 0 < seen["all_back_seconds"] <= 300.0
    assert seen["peak"] <= 2.5 * ORDINARY
