"""Which site goes into which stage: rounding, order, and every fault of a stage named."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.domain.selection import (
    DEFAULT_STAGES,
    MAX_STAGES,
    TIERS,
    Candidate,
    Plan,
    StageSpec,
    parse_stages,
    plan_stages,
)


def candidates(count: int, *, tier: str = "edge", prefix: str = "site") -> list[Candidate]:
    return [Candidate(name=f"{prefix}-{n:03}", tier=tier, labels={}) for n in range(count)]


def plan(specs: tuple[StageSpec, ...], sites: list[Candidate], seed: str = "seed") -> Plan:
    return plan_stages(specs=specs, candidates=sites, seed=seed)


def sizes(made: Plan) -> list[int]:
    return [len(names) for _, names in made.stages]


REST = StageSpec(name="rest", soak_seconds=0)


@pytest.mark.parametrize(
    ("sites", "percent", "taken"),
    [
        (1, 1, 1),
        (1, 10, 1),
        (1, 100, 1),
        (4, 10, 1),
        (9, 10, 1),
        (10, 10, 1),
        (19, 10, 1),
        (20, 10, 2),
        (3, 50, 1),
        (3, 99, 2),
        (3, 100, 3),
        (1000, 1, 10),
        (1000, 33, 330),
    ],
)
def test_a_percentage_is_rounded_down_and_is_at_least_one(
    sites: int, percent: int, taken: int
) -> None:
    first = StageSpec(name="first", percent=percent, soak_seconds=0)

    assert sizes(plan((first, REST), candidates(sites))) == [taken, sites - taken]


def test_a_percentage_is_of_what_is_left_and_of_what_the_other_conditions_leave() -> None:
    sites = candidates(10) + candidates(4, tier="regional", prefix="core")
    specs = (
        StageSpec(name="a", tier="edge", percent=50, soak_seconds=0),
        StageSpec(name="b", tier="edge", percent=50, soak_seconds=0),
        StageSpec(name="c", percent=50, soak_seconds=0),
    )

    assert sizes(plan(specs, sites)) == [5, 2, 3]


def test_the_default_stages_take_every_site() -> None:
    assert sizes(plan(DEFAULT_STAGES, candidates(100))) == [10, 45, 45]
    assert sizes(plan(DEFAULT_STAGES, candidates(1))) == [1, 0, 0]


def test_the_first_stage_that_selects_a_site_gets_it() -> None:
    specs = (
        StageSpec(name="named", sites=frozenset({"site-001"}), soak_seconds=0),
        StageSpec(name="all", soak_seconds=0),
    )
    assert plan(specs, candidates(2)).stages == (
        (specs[0], ("site-001",)),
        (specs[1], ("site-000",)),
    )


def test_conditions_narrow_each_other() -> None:
    sites = [
        Candidate(name="a", tier="edge", labels={"ring": "0", "country": "de"}),
        Candidate(name="b", tier="edge", labels={"ring": "0"}),
        Candidate(name="c", tier="regional", labels={"ring": "0", "country": "de"}),
    ]
    spec = StageSpec(
        name="x",
        tier="edge",
        labels={"ring": "0", "country": "de"},
        sites=frozenset({"a", "b", "c"}),
        soak_seconds=0,
    )
    made = plan((spec,), sites)

    assert made.stages == ((spec, ("a",)),)
    assert made.excluded == (("b", "no stage selects it"), ("c", "no stage selects it"))


def test_an_excluded_site_is_in_no_stage_even_when_it_is_named() -> None:
    sites = [*candidates(1), Candidate(name="bare", tier="edge", labels={}, excluded="no agent")]
    spec = StageSpec(name="x", sites=frozenset({"bare", "site-000"}), soak_seconds=0)

    made = plan((spec,), sites)

    assert made.stages == ((spec, ("site-000",)),)
    assert made.excluded == (("bare", "no agent"),)


def test_an_unknown_site_is_named_in_the_error() -> None:
    spec = StageSpec(name="x", sites=frozenset({"site-000", "stie-001"}), soak_seconds=0)

    with pytest.raises(InvalidInput, match="stie-001") as caught:
        plan((spec,), candidates(2))

    assert caught.value.code == "site-unknown"
    assert [fault.message for fault in caught.value.errors] == ["unknown site 'stie-001'"]


@pytest.mark.parametrize("sites", [[], [Candidate(name="b", tier="edge", labels={}, excluded="x")]])
def test_a_plan_without_any_site_is_refused(sites: list[Candidate]) -> None:
    with pytest.raises(InvalidInput) as caught:
        plan((REST,), sites)
    assert caught.value.code == "rollout-selects-no-site"


def test_which_sites_are_drawn_depends_on_the_seed_alone() -> None:
    spec = (StageSpec(name="a", percent=10, soak_seconds=0), REST)
    shuffled = sorted(candidates(100), key=lambda site: hash(site.name))

    assert plan(spec, candidates(100), "s1") == plan(spec, shuffled, "s1")
    assert plan(spec, candidates(100), "s1") != plan(spec, candidates(100), "s2")


def test_the_draw_is_the_one_that_was_always_made() -> None:
    """A golden value: a preview and a run may be years of code apart."""
    (_, drawn), _ = plan(
        (StageSpec(name="a", percent=10, soak_seconds=0), REST), candidates(30), "golden"
    ).stages

    assert drawn == ("site-011", "site-017", "site-020")


labels = st.dictionaries(st.sampled_from(["ring", "country"]), st.sampled_from(["0", "1"]))
some_candidates = st.lists(
    st.builds(
        Candidate,
        name=st.integers(0, 60).map(lambda n: f"s{n}"),
        tier=st.sampled_from(TIERS),
        labels=labels,
        excluded=st.sampled_from([None, None, None, "no agent has joined"]),
    ),
    min_size=1,
    max_size=40,
    unique_by=lambda candidate: candidate.name,
)
some_specs = st.lists(
    st.builds(
        StageSpec,
        name=st.just("x"),
        soak_seconds=st.just(0.0),
        tier=st.sampled_from([None, *TIERS]),
        labels=labels,
        percent=st.none() | st.integers(1, 100),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(sites=some_candidates, specs=some_specs, seed=st.text(max_size=8))
def test_every_site_is_in_exactly_one_stage_or_excluded_with_a_reason(
    sites: list[Candidate], specs: list[StageSpec], seed: str
) -> None:
    try:
        made = plan_stages(specs=specs, candidates=sites, seed=seed)
    except InvalidInput as refusal:
        made, code = None, refusal.code
    if made is None:
        assert code == "rollout-selects-no-site"
        return
    placed = Counter(name for _, names in made.stages for name in names)
    placed.update(name for name, _ in made.excluded)

    assert placed == Counter(site.name for site in sites)
    assert all(reason for _, reason in made.excluded)
    assert made == plan_stages(specs=specs, candidates=sites[::-1], seed=seed)
    by_name = {site.name: site for site in sites}
    for spec, names in made.stages:
        for name in names:
            assert spec.tier in (None, by_name[name].tier)
            assert spec.labels.items() <= by_name[name].labels.items()
            assert by_name[name].excluded is None


GOOD = {"name": "canary", "select": {"tier": "edge", "percent": 10}, "soak_seconds": 30}


def test_a_stage_is_read_as_it_is_written() -> None:
    (spec,) = parse_stages([GOOD])

    assert spec == StageSpec(name="canary", tier="edge", percent=10, soak_seconds=30.0)
    assert spec.document() == GOOD["select"]


def test_a_stage_with_a_name_alone_selects_all_and_soaks_a_minute() -> None:
    assert parse_stages([{"name": "all"}]) == (StageSpec(name="all", soak_seconds=60),)


def test_no_stages_at_all_means_the_default_ones() -> None:
    assert parse_stages(None) == DEFAULT_STAGES


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        pytest.param({}, ["stages"], id="an object instead of a list"),
        pytest.param([], ["stages"], id="an empty list"),
        pytest.param("canary", ["stages"], id="a text"),
        pytest.param([GOOD] * (MAX_STAGES + 1), ["stages"], id="too many"),
        pytest.param([GOOD, GOOD], ["stages"], id="a name twice"),
        pytest.param(["canary"], ["stages[0]"], id="a stage that is no object"),
        pytest.param([{}], ["stages[0].name"], id="no name"),
        pytest.param([{"name": 3}], ["stages[0].name"], id="a number for a name"),
        pytest.param([{"name": "Ca nary"}], ["stages[0].name"], id="a name with a space"),
        pytest.param([{"name": "a" * 41}], ["stages[0].name"], id="a name too long"),
        pytest.param([{"name": "a\n"}], ["stages[0].name"], id="a name with a newline"),
        pytest.param([GOOD | {"soak_seconds": -1}], ["stages[0].soak_seconds"], id="soak below 0"),
        pytest.param([GOOD | {"soak_seconds": True}], ["stages[0].soak_seconds"], id="soak true"),
        pytest.param([GOOD | {"soak_seconds": "60"}], ["stages[0].soak_seconds"], id="soak text"),
        pytest.param([GOOD | {"soak_seconds": None}], ["stages[0].soak_seconds"], id="soak null"),
        pytest.param(
            [GOOD | {"soak_seconds": float("nan")}], ["stages[0].soak_seconds"], id="soak NaN"
        ),
        pytest.param(
            [GOOD | {"soak_seconds": float("inf")}], ["stages[0].soak_seconds"], id="soak infinite"
        ),
        pytest.param(
            [GOOD | {"soak_seconds": 10**400}], ["stages[0].soak_seconds"], id="soak huge"
        ),
        pytest.param([GOOD | {"soka": 1}], ["stages[0].soka"], id="a mistyped key"),
        pytest.param([{"name": "a", "select": None}], ["stages[0].select"], id="select null"),
        pytest.param([{"name": "a", "select": []}], ["stages[0].select"], id="select a list"),
        pytest.param(
            [{"name": "a", "select": {"teir": "edge"}}],
            ["stages[0].select.teir"],
            id="a mistyped condition",
        ),
        pytest.param(
            [{"name": "a", "select": {"tier": "cloud"}}],
            ["stages[0].select.tier"],
            id="an unknown tier",
        ),
        pytest.param(
            [{"name": "a", "select": {"tier": ["edge"]}}],
            ["stages[0].select.tier"],
            id="a list for a tier",
        ),
        *(
            pytest.param(
                [{"name": "a", "select": {"percent": percent}}],
                ["stages[0].select.percent"],
                id=f"percent {percent!r}",
            )
            for percent in (0, 101, -5, 10.5, "10", True, 10**400)
        ),
        *(
            pytest.param(
                [{"name": "a", "select": {"labels": wrong}}],
                ["stages[0].select.labels"],
                id=f"labels {wrong!r}",
            )
            for wrong in ("ring=0", None, {"ring": 0}, ["ring"])
        ),
        *(
            pytest.param(
                [{"name": "a", "select": {"sites": wrong}}],
                ["stages[0].select.sites"],
                id=f"sites {wrong!r}",
            )
            for wrong in ("edge-1", [], [1], {"edge-1": 1})
        ),
        pytest.param(
            [{"name": "A", "soak_seconds": -1, "select": {"percent": 0}}, {"name": ""}],
            [
                "stages[0].name",
                "stages[0].soak_seconds",
                "stages[0].select.percent",
                "stages[1].name",
            ],
            id="every fault at once",
        ),
    ],
)
def test_a_bad_stage_is_refused_with_the_place_of_its_fault(
    document: object, fields: list[str]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_stages(document)

    assert caught.value.code == "stage-invalid"
    assert [fault.field for fault in caught.value.errors] == fields
    assert all(fault.message for fault in caught.value.errors)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "select", "soak_seconds", "tier", "percent", "labels", "sites", "?"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(document=st.lists(json_values, max_size=3) | json_values)
def test_any_json_is_a_plan_or_a_clear_refusal(document: object) -> None:
    specs: tuple[StageSpec, ...] = ()
    faults: tuple[FieldError, ...] = ()
    try:
        specs = parse_stages(document)
    except InvalidInput as refusal:
        faults = refusal.errors
    assert bool(specs) != bool(faults)
    assert all(spec.name for spec in specs)
    assert all(fault.field and fault.message for fault in faults)
