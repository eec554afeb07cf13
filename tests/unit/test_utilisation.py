"""What is used of what is paid for, and what may go: peaks decide, and unknown is never nothing."""

from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.idle_list import (
    Action,
    Idle,
    IdleRules,
    idle_list,
    peak_of,
    saving_per_month,
)
from controlplane.domain.utilisation import (
    HOURS_A_MONTH,
    AcceleratorFigures,
    AcceleratorUse,
    ModelUse,
    SiteUse,
    Tariff,
    Total,
    accelerator_figures,
    model_figures,
    power_of_envelope,
    summarise,
    total,
)

WEEK = 168
GB = 1e9
TARIFF = Tariff(price_per_kwh=0.25, pue=1.2)
TARIFFS = {"edge": TARIFF}


def card(name: str = "gpu-0", **changes: Any) -> AcceleratorUse:
    """An L4 at one site over a week: 0.80 an hour, 40 W on average, busy for a tenth."""
    facts: dict[str, Any] = {
        "site": "edge", "name": name, "kind": "L4", "hours": 168.0, "busy": 0.1,
        "hourly_busy": [0.2] * WEEK, "memory_used_bytes": 6 * GB, "memory_total_bytes": 24 * GB,
        "power_watts": 40.0, "power_limit_watts": 72.0, "idle_watts": 12.0,
        "energy_joules": 40.0 * 168 * 3600, "price_per_hour": 0.80,
    }  # fmt: skip
    return AcceleratorUse(**{**facts, **changes})


def model(name: str = "detect", **changes: Any) -> ModelUse:
    facts: dict[str, Any] = {
        "site": "edge", "accelerator": "gpu-0", "model": name, "version": 1,
        "requests": 1_000_000, "executions": 250_000, "instances": 2, "occupancy": 0.1,
        "hourly_occupancy": [0.2] * WEEK, "memory_bytes": 3 * GB,
    }  # fmt: skip
    return ModelUse(**{**facts, **changes})


IDLE = model("old", requests=0, executions=0, occupancy=0.0, instances=1, memory_bytes=2 * GB)


def figures(use: AcceleratorUse | None = None, *models: ModelUse) -> AcceleratorFigures:
    return accelerator_figures(use or card(), models or [model()], TARIFF)


# Figures


def test_the_figures_of_an_accelerator() -> None:
    found = figures(card(), model(), IDLE, model(accelerator="gpu-1"))

    assert found.busy == 0.1
    assert found.memory_share == 0.25
    assert found.memory_idle_bytes == Total(value=2 * GB, known=1, of=1)
    assert found.power_of_limit == pytest.approx(40 / 72)
    assert found.inferences == Total(value=1_000_000, known=2, of=2)
    # 134.40 of rent, and 6.72 kWh with a fifth more for cooling at 0.25.
    assert found.cost == pytest.approx(134.4 + 6.72 * 1.2 * 0.25)
    assert found.cost_per_million == pytest.approx(136.416)
    assert found.joules_per_inference == pytest.approx(40.0 * 168 * 3600 / 1e6)
    assert (found.lacks, found.is_shared) == ((), False)


@pytest.mark.parametrize(
    ("use", "tariff", "cost", "lacks"),
    [
        (card(energy_joules=None), TARIFF, 134.4, ("energy",)),
        (card(), Tariff(), 134.4, ("energy",)),
        (card(price_per_hour=None), TARIFF, 2.016, ("price",)),
        (card(price_per_hour=None), Tariff(), None, ("price", "energy")),
        (card(energy_joules=-5.0), TARIFF, 134.4, ("energy",)),
        (card(), Tariff(price_per_kwh=0.25), 134.4 + 1.68, ()),
    ],
    ids=[
        "energy is not reported",
        "nobody stated what energy costs",
        "nobody stated the price",
        "nothing is known",
        "negative energy",
        "nobody stated what cooling takes",
    ],
)
def test_the_cost_says_what_it_leaves_out(
    use: AcceleratorUse, tariff: Tariff, cost: float | None, lacks: tuple[str, ...]
) -> None:
    found = accelerator_figures(use, [model()], tariff)

    assert found.cost == (None if cost is None else pytest.approx(cost))
    assert found.lacks == lacks


def test_what_is_not_known_of_one_model_is_not_said_of_their_sum() -> None:
    found = figures(card(), model(), model("other", requests=None))

    assert found.inferences == Total(value=1_000_000, known=1, of=2)
    assert found.cost_per_million is None
    assert found.joules_per_inference is None


def test_an_accelerator_that_served_nobody_has_a_cost_and_none_by_inference() -> None:
    found = figures(card(), IDLE)

    assert found.cost is not None
    assert (found.cost_per_million, found.joules_per_inference) == (None, None)


@pytest.mark.parametrize("value", [-0.1, 1.5, 97.0, nan, inf, None])
def test_a_share_that_cannot_be_is_not_known(value: float | None) -> None:
    assert figures(card(busy=value)).busy is None


def test_models_share_cost_and_energy_by_the_time_of_their_instances() -> None:
    one = model("one", instances=1, occupancy=0.3)
    two = model("two", instances=3, occupancy=0.3, requests=500_000)

    first, second, idle = model_figures(card(), [one, two, IDLE], TARIFF)

    assert first.cost_per_million == pytest.approx(136.416 / 4)
    assert second.cost_per_million == pytest.approx(136.416 * 3 / 4 * 2)
    assert first.batch == 4.0
    assert idle.is_idle
    assert (idle.cost_per_million, idle.joules_per_inference) == (None, None)


def test_the_only_model_in_use_bears_it_all() -> None:
    only, _ = model_figures(card(), [model(occupancy=None), IDLE], TARIFF)

    assert only.cost_per_million == pytest.approx(136.416)


def test_models_whose_busy_time_is_not_known_share_nothing() -> None:
    found = model_figures(card(), [model("one"), model("two", occupancy=None)], TARIFF)

    assert [each.cost_per_million for each in found] == [None, None]


def test_a_fleet_says_of_how_many_it_knows() -> None:
    summary = summarise(
        [
            figures(card(busy=0.2)),
            figures(card(busy=None, power_watts=None, price_per_hour=None, energy_joules=None)),
            figures(card(busy=0.4), IDLE),
        ]
    )

    assert (summary.accelerators, summary.busy_known) == (3, 2)
    assert summary.busy == pytest.approx(0.3)
    assert summary.watts == Total(value=80.0, known=2, of=3)
    assert summary.cost == Total(value=pytest.approx(2 * 136.416), known=2, of=3)
    assert summary.memory_idle_bytes == Total(value=2 * GB, known=3, of=3)
    # Of the two whose cost is known, one serves; the idle one makes it twice as dear.
    assert summary.cost_per_million == pytest.approx(2 * 136.416)


def test_a_fleet_of_nothing_is_not_a_fleet_of_zeros() -> None:
    summary = summarise([])

    assert (summary.busy, summary.cost_per_million) == (None, None)
    assert summary.watts == Total(value=None, known=0, of=0)


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.none() | st.integers(0, 100).map(float), max_size=10))
def test_a_total_is_the_sum_of_what_is_known(values: list[float | None]) -> None:
    known = [value for value in values if value is not None]

    assert total(values) == Total(
        value=sum(known) if known else None, known=len(known), of=len(values)
    )


@pytest.mark.parametrize(
    ("site", "share"),
    [
        (SiteUse(site="edge", envelope_watts=200.0, power_watts=150.0), 0.75),
        (SiteUse(site="edge", envelope_watts=200.0, tariff=TARIFF), 0.24),
        (SiteUse(site="edge", envelope_watts=200.0), None),
        (SiteUse(site="edge", power_watts=150.0), None),
        (SiteUse(site="edge", envelope_watts=200.0, power_watts=-1.0, tariff=TARIFF), 0.24),
    ],
    ids=[
        "the site's own reading",
        "its accelerators and their cooling",
        "nobody stated what cooling takes",
        "nobody stated the envelope",
        "an absurd reading",
    ],
)
def test_power_against_the_envelope(site: SiteUse, share: float | None) -> None:
    found = power_of_envelope(site, summarise([figures()]))

    assert found == (None if share is None else pytest.approx(share))


def test_a_silent_accelerator_leaves_the_envelope_open() -> None:
    summary = summarise([figures(), figures(card(power_watts=None))])
    site = SiteUse(site="edge", envelope_watts=200.0, tariff=TARIFF)

    assert power_of_envelope(site, summary) is None


# Paid for and idle


def lines(
    cards: list[AcceleratorUse], models: list[ModelUse], rules: IdleRules | None = None
) -> list[Idle]:
    return list(idle_list(cards, models, TARIFFS, rules))


STILL = card(busy=0.0, hourly_busy=[0.0] * WEEK)


def test_an_accelerator_that_serves_nobody_may_be_powered_down() -> None:
    [line] = lines([STILL], [IDLE])

    assert (line.action, line.refused) == (Action.POWER_DOWN, "")
    assert line.saving_per_month == pytest.approx(730 * (0.80 + 0.012 * 1.2 * 0.25))
    assert line.sentence == (
        "gpu-0 at edge served no model in 168 h, and holds 1 that nobody asked: power it down"
    )


@pytest.mark.parametrize(
    ("hourly", "refused"),
    [
        ([0.0] * 167 + [0.6], "at its peak it is busy for 60%"),
        ([0.0] * 24, "24 of 168 hours are measured"),
        ([0.0] * 150 + [None] * 18, "150 of 168 hours are measured"),
        ([], "0 of 168 hours are measured"),
        ([0.0] * 150 + [nan] * 18, "150 of 168 hours are measured"),
    ],
    ids=["one busy hour", "a day", "hours nobody measured", "nothing", "absurd hours"],
)
def test_powering_down_is_refused_when(hourly: list[float | None], refused: str) -> None:
    [line] = lines([replace(STILL, hourly_busy=hourly)], [IDLE])

    assert (line.refused, line.saving_per_month) == (refused, None)
    assert line.sentence.endswith(f": not to be powered down, {refused}")


def test_a_model_whose_requests_nobody_counts_is_not_taken_for_idle() -> None:
    assert lines([STILL], [model(requests=None, instances=1)]) == []


def test_what_is_powered_down_needs_no_smaller_instance_groups() -> None:
    [line] = lines([STILL], [replace(IDLE, instances=4)])

    assert line.action is Action.POWER_DOWN


def test_an_accelerator_nobody_measures_is_not_taken_for_idle() -> None:
    assert lines([replace(STILL, busy=None)], [IDLE]) == []


def test_two_that_do_little_become_one() -> None:
    [line] = lines(
        [card("gpu-0"), card("gpu-1", busy=0.2, hourly_busy=[0.4] * WEEK)],
        [model(), model(accelerator="gpu-1")],
        IdleRules(idle=0.15),
    )[:1]

    assert (line.action, line.accelerator, line.to) == (Action.CONSOLIDATE, "gpu-0", "gpu-1")
    assert line.saving_per_month == pytest.approx(586.628)
    assert line.sentence == (
        "gpu-0 at edge is busy for 10%: move its models onto gpu-1, which then comes to 60% at its "
        "peak, and power it down"
    )


@pytest.mark.parametrize(
    ("other", "refused"),
    [
        pytest.param(
            {"hourly_busy": [0.1] * 100 + [0.6] + [0.1] * 67},
            "gpu-1: together they come to 80% at their peak, over 70%",
            id="peaks meet in one hour",
        ),
        pytest.param(
            {"hourly_busy": [0.1] * 100},
            "gpu-1: 0 of 168 hours are measured",
            id="their hours are not the same",
        ),
        pytest.param(
            {"memory_used_bytes": 20 * GB},
            "gpu-1: together they hold 26 GB of 24 GB",
            id="no memory for both",
        ),
        pytest.param(
            {"memory_used_bytes": None},
            "gpu-1: how much memory they hold is not reported",
            id="memory is not known",
        ),
    ],
)
def test_consolidation_is_refused_when(other: dict[str, Any], refused: str) -> None:
    found = lines(
        [card("gpu-0"), card("gpu-1", busy=0.25, **{"hourly_busy": [0.3] * WEEK, **other})],
        [model(), model(accelerator="gpu-1")],
        IdleRules(idle=0.2),
    )
    moves = [line for line in found if line.action is Action.CONSOLIDATE]

    assert [(line.accelerator, line.refused) for line in moves] == [("gpu-0", refused)]
    assert moves[0].saving_per_month is None


def test_hours_whose_peaks_do_not_meet_are_not_added() -> None:
    day, night = [0.6, 0.0] * 84, [0.0, 0.6] * 84
    found = lines(
        [card("gpu-0", hourly_busy=day), card("gpu-1", hourly_busy=night)],
        [model(), model(accelerator="gpu-1")],
    )

    [move] = [line for line in found if line.action is Action.CONSOLIDATE]
    assert (move.accelerator, move.to, move.refused) == ("gpu-0", "gpu-1", "")


def test_nothing_moves_to_another_site_or_another_kind() -> None:
    cards = [card("gpu-0"), card("gpu-1", kind="H100"), card("gpu-2", site="hub")]
    models = [replace(model(), site=each.site, accelerator=each.name) for each in cards]

    assert all(line.action is Action.RIGHT_SIZE for line in lines(cards, models))


def test_what_was_moved_counts_where_it_went() -> None:
    """Three of 30 % each at their peak: two fit onto one, and the third not beside them."""
    cards = [card(f"gpu-{i}", hourly_busy=[0.3] * WEEK) for i in range(3)]
    models = [model(accelerator=f"gpu-{i}", instances=1) for i in range(3)]

    found = lines(cards, models)

    assert [(line.accelerator, line.to, line.refused) for line in found] == [
        ("gpu-0", "gpu-1", ""),
        (
            "gpu-2",
            "",
            "gpu-1: together they come to 90% at their peak, over 70%",
        ),
    ]


def test_an_instance_group_is_made_as_large_as_its_peak_asks() -> None:
    [line] = lines([], [model(instances=4)])

    # 4 instances busy for 20 % at the peak: 0.8, at most 70 % of each.
    assert line.sentence == (
        "detect version 1 at edge keeps 4 instances busy for 10%: 2 do for its peak"
    )
    assert line.memory_freed_bytes == pytest.approx(1.5 * GB)
    assert (line.action, line.saving_per_month) == (Action.RIGHT_SIZE, None)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"hourly_occupancy": [0.1] * 167 + [0.9]}, "at its peak they are busy for 90%"),
        ({"hourly_occupancy": [0.1] * 20}, "20 of 168 hours are measured"),
    ],
    ids=["one hour needs them", "a day says nothing of a week"],
)
def test_right_sizing_is_refused_when(changes: dict[str, Any], refused: str) -> None:
    [line] = lines([], [model(instances=4, **changes)])

    assert (line.refused, line.memory_freed_bytes) == (refused, None)


@pytest.mark.parametrize(
    "changes",
    [{"instances": 1}, {"instances": None}, {"occupancy": None}, {"occupancy": 0.5}],
    ids=["one instance", "how many is not known", "how busy is not known", "busy enough"],
)
def test_no_candidate_for_fewer_instances(changes: dict[str, Any]) -> None:
    assert lines([], [model(**changes)]) == []


def test_a_quantile_of_the_peaks_may_be_asked_instead_of_the_highest() -> None:
    hourly = [0.1] * 160 + [0.9] * 8

    assert peak_of(hourly, IdleRules()) == (0.9, "")
    assert peak_of(hourly, IdleRules(peak=0.95)) == (0.1, "")


@pytest.mark.parametrize(
    ("use", "tariff", "saving"),
    [
        (card(), TARIFF, 586.628),
        (card(), Tariff(), 584.0),
        (card(price_per_hour=None), TARIFF, 2.628),
        (card(price_per_hour=None, idle_watts=None), TARIFF, None),
    ],
    ids=["price and energy", "price alone", "energy alone", "neither"],
)
def test_the_saving_is_of_what_is_known(
    use: AcceleratorUse, tariff: Tariff, saving: float | None
) -> None:
    found = saving_per_month(use, tariff)

    assert found == (None if saving is None else pytest.approx(saving))
    assert HOURS_A_MONTH == 730


PEAKS = st.lists(st.floats(0, 0.8) | st.none(), min_size=6, max_size=6)


@settings(max_examples=150, deadline=None)
@given(peaks=st.lists(PEAKS, min_size=1, max_size=4), busy=st.floats(0, 0.4))
def test_nothing_is_proposed_that_a_peak_forbids(
    peaks: list[list[float | None]], busy: float
) -> None:
    rules = IdleRules(hours=6, measured=0.8)
    cards = [card(f"gpu-{i}", busy=busy, hourly_busy=hours) for i, hours in enumerate(peaks)]
    models = [
        model(accelerator=f"gpu-{i}", instances=4, hourly_occupancy=hours)
        for i, hours in enumerate(peaks)
    ]
    hourly = dict(zip([each.name for each in cards], peaks, strict=True))

    for line in lines(cards, models, rules):
        if line.refused:
            continue
        known = [hour for hour in hourly[line.accelerator] if hour is not None]
        assert len(known) >= rules.measured * 6
        if line.action is Action.CONSOLIDATE:
            both = zip(hourly[line.accelerator], hourly[line.to], strict=True)
            assert all(a + b <= rules.target for a, b in both if a is not None and b is not None)
