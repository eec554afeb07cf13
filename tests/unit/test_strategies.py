"""Strategies as documents: the built-in ones plan any fleet, and every fault of one is named."""

import json

import pytest

from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.domain.policy import parse_policy
from controlplane.domain.selection import Candidate, Plan, plan_stages
from controlplane.domain.selector import TIERS
from controlplane.domain.stages import MAX_STAGES, StageSpec
from controlplane.domain.strategies import BUILT_IN, STRAGGLERS, StrategySpec, parse_strategy

GOOD = {
    "name": "night-shift",
    "title": "Regional first, at night",
    "stages": [{"name": "regional", "select": {"tier": "regional"}}, {"name": "rest"}],
    "barrier": True,
    "late_joiners": True,
    "approval": {"required": True, "by_other": False},
}


def test_a_strategy_is_read_as_it_is_written() -> None:
    spec = parse_strategy(GOOD)

    assert spec == StrategySpec(
        name="night-shift",
        version=0,
        title="Regional first, at night",
        stages=(
            StageSpec(name="regional", tier="regional", soak_seconds=60),
            StageSpec(name="rest", soak_seconds=60),
        ),
        barrier=True,
        late_joiners=True,
        approval_required=True,
        approval_by_other=False,
    )
    assert parse_strategy(GOOD | {"version": 3}).version == 3


def test_an_approval_is_somebody_elses_unless_it_says_otherwise() -> None:
    spec = parse_strategy({"name": "a", "stages": GOOD["stages"]})

    assert (spec.approval_required, spec.approval_by_other) == (False, True)
    assert (spec.barrier, spec.late_joiners, spec.title) == (False, False, "")


@pytest.mark.parametrize("spec", BUILT_IN, ids=lambda spec: str(spec.name))
def test_a_built_in_strategy_is_one_that_could_be_written(spec: StrategySpec) -> None:
    document = json.loads(json.dumps(spec.document()))

    assert parse_strategy(document).document() == spec.document()
    assert spec.title
    assert spec.built_in
    for stage in spec.all_stages:
        faults: list[FieldError] = []
        assert parse_policy(stage.policy.document(), "policy", faults) == stage.policy, faults


def planned(name: str, sites: int) -> tuple[Plan, dict[str, int]]:
    (spec,) = (spec for spec in BUILT_IN if spec.name == name)
    candidates = [
        Candidate(name=f"s{n}", tier=TIERS[n % 3], region=f"r{n % 4}") for n in range(sites)
    ]
    plan = plan_stages(specs=spec.all_stages, candidates=candidates, seed="seed")
    return plan, {stage.name: len(names) for stage, names in plan.stages}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("canary", {"canary": 12, "half": 54, "rest": 54, STRAGGLERS: 0}),
        ("edge-first", {"edge": 40, "regional": 40, "hyperscale": 40, STRAGGLERS: 0}),
        ("one-per-region", {"one-each": 4, "quarter": 29, "rest": 87, STRAGGLERS: 0}),
        ("at-once", {"all": 120, STRAGGLERS: 0}),
        ("stage-everywhere", {"canary": 12, "half": 54, "rest": 54, STRAGGLERS: 0}),
    ],
)
def test_a_built_in_strategy_takes_every_site_and_leaves_room_for_late_ones(
    name: str, sizes: dict[str, int]
) -> None:
    plan, counts = planned(name, 120)

    assert counts == sizes
    assert plan.excluded == plan.warnings == ()
    assert [stage.trailing for stage, _ in plan.stages] == [False] * (len(sizes) - 1) + [True]


@pytest.mark.parametrize("name", [spec.name for spec in BUILT_IN])
def test_a_built_in_strategy_plans_a_fleet_of_one(name: str) -> None:
    plan, _ = planned(name, 1)

    assert plan.sites == 1


def test_a_trailing_stage_is_added_only_where_late_joiners_are_wanted_and_none_is() -> None:
    def names(document: dict[str, object]) -> list[str]:
        return [stage.name for stage in parse_strategy(GOOD | document).all_stages]

    own = [{"name": "a"}, {"name": "late", "trailing": True}]
    assert names({}) == ["regional", "rest", STRAGGLERS]
    assert names({"late_joiners": False}) == ["regional", "rest"]
    assert names({"stages": own}) == ["a", "late"]


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        (None, ["strategy"]),
        ([GOOD], ["strategy"]),
        ({}, ["name", "stages"]),
        (GOOD | {"name": "Night Shift"}, ["name"]),
        (GOOD | {"name": 7}, ["name"]),
        (GOOD | {"version": 0}, ["version"]),
        (GOOD | {"version": True}, ["version"]),
        (GOOD | {"title": None}, ["title"]),
        (GOOD | {"title": "x" * 201}, ["title"]),
        (GOOD | {"stages": []}, ["stages"]),
        (
            GOOD | {"stages": [{"name": "a", "select": {"percent": 0}}]},
            ["stages[0].select.percent"],
        ),
        (GOOD | {"stages": [{"name": STRAGGLERS}]}, ["stages"]),
        (GOOD | {"stages": [{"name": f"s{n}"} for n in range(MAX_STAGES)]}, ["stages"]),
        (GOOD | {"barrier": "yes"}, ["barrier"]),
        (GOOD | {"late_joiners": 1}, ["late_joiners"]),
        (GOOD | {"approval": True}, ["approval"]),
        (GOOD | {"approval": {"by": "olga"}}, ["approval.by"]),
        (
            GOOD | {"approval": {"required": 1, "by_other": None}},
            ["approval.required", "approval.by_other"],
        ),
        (GOOD | {"steps": [], "title": 1, "barrier": 0}, ["steps", "title", "barrier"]),
    ],
)
def test_a_bad_strategy_is_refused_with_every_fault(document: object, fields: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_strategy(document)

    assert caught.value.code == "strategy-invalid"
    assert [fault.field for fault in caught.value.errors] == fields
    assert all(fault.message for fault in caught.value.errors)
