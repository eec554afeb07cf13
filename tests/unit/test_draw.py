"""A few sites stand for all: each kind has its share, and the draw can be repeated."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.draw import draw, draw_per
from controlplane.domain.selector import TIERS, SiteTraits


def fleet(**counts: int) -> list[SiteTraits]:
    """So many sites in each region."""
    return [
        SiteTraits(name=f"{region}-{n:03}", tier="edge", region=region)
        for region, count in counts.items()
        for n in range(count)
    ]


def by_region(names: list[str]) -> dict[str, int]:
    return dict(Counter(name.split("-")[0] for name in names))


@pytest.mark.parametrize(
    ("counts", "count", "drawn"),
    [
        pytest.param({"a": 50, "b": 50}, 10, {"a": 5, "b": 5}, id="halves"),
        pytest.param({"a": 90, "b": 10}, 10, {"a": 9, "b": 1}, id="nine to one"),
        pytest.param({"a": 70, "b": 20, "c": 10}, 5, {"a": 4, "b": 1}, id="3.5, 1.0, 0.5: tie"),
        pytest.param({"a": 97, "b": 3}, 10, {"a": 10}, id="too few for a place"),
        pytest.param({"a": 95, "b": 5}, 100, {"a": 95, "b": 5}, id="all of them"),
        pytest.param({"a": 2, "b": 1}, 9, {"a": 2, "b": 1}, id="more than there are"),
        pytest.param({"a": 1}, 1, {"a": 1}, id="one of one"),
    ],
)
def test_each_stratum_gets_its_share(
    counts: dict[str, int], count: int, drawn: dict[str, int]
) -> None:
    assert by_region(draw(fleet(**counts), count, "seed")) == drawn


@pytest.mark.parametrize("trait", ["tier", "hardware", "region"])
def test_tier_hardware_and_region_each_make_a_stratum(trait: str) -> None:
    values = {"tier": TIERS, "hardware": ("none", "L4", "H100"), "region": ("a", "b", "c")}[trait]
    sites = [
        SiteTraits(**({"name": f"{value}-{n}", "tier": "edge"} | {trait: value}))  # type: ignore[arg-type]
        for value in values
        for n in range(10)
    ]
    assert by_region(draw(sites, 6, "seed")) == dict.fromkeys(values, 2)


def test_of_each_region_as_many_as_asked_for_or_all_there_are() -> None:
    sites = fleet(a=100, b=3, c=1)

    assert by_region(draw_per(sites, "region", 1, "s")) == {"a": 1, "b": 1, "c": 1}
    assert by_region(draw_per(sites, "region", 2, "s")) == {"a": 2, "b": 2, "c": 1}
    assert len(draw_per(sites, "tier", 2, "s")) == 2


def test_a_tie_is_broken_by_the_seed_and_not_always_for_the_same_stratum() -> None:
    sites = fleet(a=10, b=10)
    winners = {next(iter(by_region(draw(sites, 1, f"seed {n}")))) for n in range(40)}

    assert winners == {"a", "b"}


some_sites = st.lists(
    st.builds(
        SiteTraits,
        name=st.integers(0, 500).map(lambda n: f"s{n}"),
        tier=st.sampled_from(TIERS),
        region=st.sampled_from(["eu", "us", "asia"]),
        hardware=st.sampled_from(["none", "L4"]),
    ),
    min_size=1,
    max_size=60,
    unique_by=lambda site: site.name,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), sites=some_sites, seed=st.text(max_size=6))
def test_the_draw_is_proportional_and_does_not_depend_on_the_order(
    data: st.DataObject, sites: list[SiteTraits], seed: str
) -> None:
    count = data.draw(st.integers(1, len(sites) + 3))
    drawn = draw(sites, count, seed)

    assert len(drawn) == len(set(drawn)) == min(count, len(sites))
    assert drawn == draw(data.draw(st.permutations(sites)), count, seed)
    kinds = {site.name: (site.tier, site.hardware, site.region) for site in sites}
    drawn_of = Counter(kinds[name] for name in drawn)
    for kind, size in Counter(kinds.values()).items():
        exact = len(drawn) * size / len(sites)
        assert abs(drawn_of[kind] - exact) < 1
