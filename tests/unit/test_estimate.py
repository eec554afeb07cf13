"""How long a plan takes: waves over what the policy lets through, on the links that are stated."""

from collections.abc import Sequence

import pytest

from controlplane.domain.estimate import (
    ACTIVATION_SECONDS,
    ASSUMED_MBIT_PER_S,
    Effort,
    assumptions,
    stage_effort,
    stage_seconds,
)
from controlplane.domain.policy import Amount, StagePolicy, resolve

MEGABYTE = 1_000_000


def effort(
    links: Sequence[float | None],
    *,
    concurrent: Amount | None = None,
    unavailable: Amount = "100%",
    soak: float = 60,
) -> Effort:
    policy = StagePolicy(max_concurrent=concurrent, max_unavailable=unavailable)
    return stage_effort(
        limits=resolve(policy, len(links)),
        size_bytes=100 * MEGABYTE,
        downlinks_mbit_per_s=links,
        soak_seconds=soak,
    )


@pytest.mark.parametrize(
    ("links", "concurrent", "seconds"),
    [
        pytest.param([100.0], None, 8, id="100 MB over 100 Mbit/s"),
        pytest.param([100.0] * 10, None, 8, id="all at once"),
        pytest.param([100.0, 10.0], None, 80, id="the slowest decides"),
        pytest.param([100.0] * 4, 1, 32, id="one after the other"),
        pytest.param([100.0] * 5, 2, 24, id="three waves"),
        pytest.param([100.0, 100.0, 10.0, 10.0], 2, 88, id="the slow ones share a wave"),
        pytest.param([None], None, 8 * 100 / ASSUMED_MBIT_PER_S, id="not stated"),
        pytest.param([0.0], None, 8 * 100 / ASSUMED_MBIT_PER_S, id="stated as nothing"),
    ],
)
def test_bytes_move_in_waves(
    links: list[float | None], concurrent: int | None, seconds: float
) -> None:
    assert effort(links, concurrent=concurrent).transfer_seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("sites", "unavailable", "concurrent", "turns"),
    [
        (4, "25%", None, 4),
        (4, "50%", None, 2),
        (5, "50%", None, 3),
        (4, "100%", 1, 4),
        (1, 1, 1, 1),
    ],
)
def test_activation_goes_as_the_stage_allows_sites_to_be_unavailable(
    sites: int, unavailable: Amount, concurrent: int | None, turns: int
) -> None:
    made = effort([100.0] * sites, unavailable=unavailable, concurrent=concurrent)
    assert made.activation_seconds == turns * ACTIVATION_SECONDS


def test_a_stage_takes_its_transfer_its_activation_and_its_soak() -> None:
    made = effort([100.0], soak=60)

    assert made.bytes_to_move == 100 * MEGABYTE
    assert made.seconds == 8 + ACTIVATION_SECONDS + 60


def test_an_empty_stage_takes_no_time() -> None:
    assert effort([]).seconds == 0
    assert effort([]).bytes_to_move == 0


def test_with_a_barrier_later_stages_have_their_bytes_when_their_turn_comes() -> None:
    quick, slow = effort([100.0], soak=60), effort([1.0], soak=0)  # 8 s and 800 s of transfer
    first = 8 + ACTIVATION_SECONDS + 60

    assert stage_seconds([quick, slow], barrier=False) == [first, 800 + ACTIVATION_SECONDS]
    assert stage_seconds([quick, slow], barrier=True) == [first, 800 - first + ACTIVATION_SECONDS]
    assert stage_seconds([slow, quick], barrier=True)[1] == ACTIVATION_SECONDS + 60


def test_what_is_assumed_is_said() -> None:
    activation = "30 s a site to load, prove and switch"

    assert assumptions([effort([100.0])]) == [activation]
    assert assumptions([effort([None, 5.0])]) == [
        activation,
        "1 site states no downlink; 100 Mbit/s is assumed",
    ]
    assert assumptions([effort([None]), effort([None, 0.0])])[1].startswith("3 sites state no")
