"""Which site goes into which stage: rounding, order, and every fault of a stage named."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import InvalidInput
from controlplane.domain.policy import OnSilent, StagePolicy
from controlplane.domain.selection import Candidate, Fit, Plan, exclusion, plan_stages
from controlplane.domain.selector import TIERS, SiteSelector
from controlplane.domain.stages import DEFAULT_STAGES, PER, StageSpec


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


def test_a_share_holds_of_each_kind_of_site() -> None:
    """A canary of one region alone would tell of that region's network, not of the version."""
    sites = [
        Candidate(
            name=f"{tier}-{hardware}-{region}-{n}", tier=tier, hardware=hardware, region=region
        )
        for tier in ("edge", "regional")
        for hardware in ("none", "L4")
        for region in ("eu", "us")
        for n in range(20)
    ]
    (_, drawn), _ = plan((StageSpec(name="a", percent=10, soak_seconds=0), REST), sites).stages

    assert set(Counter(name.rpartition("-")[0] for name in drawn).values()) == {2}
    assert len(drawn) == 16


def test_a_number_of_sites_is_drawn_and_is_at_most_what_is_left() -> None:
    specs = (
        StageSpec(name="three", count=3, soak_seconds=0),
        StageSpec(name="edge", tier="edge", count=9, soak_seconds=0),
    )
    made = plan(specs, candidates(10))

    assert sizes(made) == [3, 7]
    assert made.warnings == ("stage edge: asks for 9 sites, 7 are left to take",)


def test_one_of_each_region_is_one_of_each_region() -> None:
    sites = [
        Candidate(name=f"{region}-{n}", tier="edge", region=region)
        for region, count in (("eu", 5), ("us", 3), ("asia", 1))
        for n in range(count)
    ]
    made = plan(
        (
            StageSpec(name="one", per="region", soak_seconds=0),
            StageSpec(name="two", per="region", count=2, soak_seconds=0),
            REST,
        ),
        sites,
    )
    regions = [Counter(n.split("-")[0] for n in names) for _, names in made.stages]

    assert regions == [{"eu": 1, "us": 1, "asia": 1}, {"eu": 2, "us": 2}, {"eu": 2}]
    assert made.warnings == ()


def test_a_trailing_stage_takes_nobody_unless_it_selects_somebody() -> None:
    first = StageSpec(name="a", count=1, soak_seconds=0)
    tail = StageSpec(name="tail", soak_seconds=0, trailing=True)

    waiting = plan((first, tail), candidates(3))
    taking = plan((first, replace(tail, percent=100)), candidates(3))

    assert sizes(waiting) == [1, 0]
    assert {reason for _, reason in waiting.excluded} == {"no stage selects it"}
    assert sizes(taking) == [1, 2]
    assert waiting.warnings == taking.warnings == ()


def test_who_is_on_the_list_of_exclusions_takes_no_part() -> None:
    sites = [
        Candidate(name="a", tier="edge", labels={"ring": "9"}),
        Candidate(name="b", tier="edge", excluded="no agent has joined"),
        Candidate(name="c", tier="edge"),
        Candidate(name="d", tier="edge"),
    ]
    exclude = SiteSelector(labels={"ring": "9"}, sites=frozenset({"b", "c"}))
    made = plan_stages(specs=(REST,), candidates=sites, seed="s", exclude=exclude)

    assert made.stages == ((REST, ("d",)),)
    assert made.excluded == tuple((name, "excluded by the request") for name in "abc")


@pytest.mark.parametrize(
    ("specs", "exclude", "fields"),
    [
        pytest.param(
            (REST, StageSpec(name="x", soak_seconds=0, exclude=frozenset({"nope"}))),
            None,
            ["stages[1].select.exclude"],
            id="an exception of a stage",
        ),
        pytest.param(
            (REST,),
            SiteSelector(sites=frozenset({"nope"})),
            ["exclude.sites"],
            id="an exclusion, which would let the site in",
        ),
    ],
)
def test_a_mistyped_site_is_refused_wherever_it_stands(
    specs: tuple[StageSpec, ...], exclude: SiteSelector | None, fields: list[str]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        plan_stages(specs=specs, candidates=candidates(2), seed="s", exclude=exclude)

    assert caught.value.code == "site-unknown"
    assert [fault.field for fault in caught.value.errors] == fields


def stage(name: str, **select: object) -> StageSpec:
    return StageSpec(name=name, soak_seconds=0, **select)  # type: ignore[arg-type]


LATE = StagePolicy(progress_deadline_seconds=60, on_silent=OnSilent.DEFER)


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        pytest.param((REST,), [], id="nothing to say"),
        pytest.param((stage("a", percent=10), stage("b"), stage("c")), [], id="nobody is left"),
        pytest.param(
            (stage("a", sites=frozenset({"gone"})), REST),
            [
                "stage a: names only sites that it does not get: gone (no agent has joined)",
                "stage a is the first and takes no site: it proves nothing",
            ],
            id="a canary that names excluded sites alone",
        ),
        pytest.param(
            (stage("a", sites=frozenset({"site-000", "gone"})), REST),
            ["stage a: names sites that it does not get: gone (no agent has joined)"],
            id="a stage that names an excluded site",
        ),
        pytest.param(
            (stage("a", sites=frozenset({"site-000", "site-001", "gone"}), count=1), REST),
            ["stage a: names sites that it does not get: gone (no agent has joined)"],
            id="a stage that draws of those it names",
        ),
        pytest.param(
            (stage("a", tier="edge"), stage("b", sites=frozenset({"site-001", "core"}))),
            ["stage b: names sites that it does not get: site-001 (in stage a)"],
            id="a site that an earlier stage takes",
        ),
        pytest.param(
            (REST, stage("b", tier="edge", sites=frozenset({"core"}))),
            ["stage b: names only sites that it does not get: core (in stage rest)"],
            id="a stage whose only site an earlier stage takes",
        ),
        pytest.param(
            (stage("a", tier="edge", sites=frozenset({"site-000", "core"})),),
            [
                "stage a: names sites that it does not get: "
                "core (the other conditions of the stage leave it out)"
            ],
            id="a site that the stage's own conditions leave out",
        ),
        pytest.param(
            (REST, stage("b", region="atlantis")),
            ["stage b: no site matches its conditions"],
            id="a mistyped region",
        ),
        pytest.param(
            (REST, stage("b", labels={"lost": "1"})),
            ["stage b: every site that matches its conditions is left out"],
            id="only excluded sites match",
        ),
        pytest.param(
            (REST, stage("b", tier="regional", percent=10)),
            ["stage b: earlier stages take every site that matches its conditions"],
            id="earlier stages took them all",
        ),
        pytest.param(
            (stage("a", policy=LATE),),
            [
                "stage a puts silent sites off, but no stage is trailing: "
                "they stay without the version"
            ],
            id="put off to nowhere",
        ),
        pytest.param(
            (stage("a", policy=LATE), stage("b", trailing=True)), [], id="put off to the end"
        ),
        pytest.param(
            (stage("a", tier="edge", policy=StagePolicy(max_concurrent=7)),),
            ["stage a: max_concurrent is 7, but the stage has 3 sites; 3 holds"],
            id="a limit that is cut to the stage",
        ),
    ],
)
def test_what_the_author_may_not_have_meant_is_said(
    specs: tuple[StageSpec, ...], said: list[str]
) -> None:
    sites = [
        *candidates(3),
        Candidate(name="core", tier="regional"),
        Candidate(name="gone", tier="edge", labels={"lost": "1"}, excluded="no agent has joined"),
    ]
    assert list(plan(specs, sites).warnings) == said


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ({"tier": "edge"}, ["stage a has no site with H100, which later stages have"]),
        ({"percent": 99}, []),
        ({"hardware": "none"}, []),
        ({"tier": "x"}, []),
    ],
)
def test_hardware_that_the_first_stage_does_not_show_is_said(
    first: dict[str, object], said: list[str]
) -> None:
    sites = [*candidates(1), *(Candidate(name=f"c{n}", tier="x", hardware="H100") for n in (1, 2))]

    assert list(plan((stage("a", **first), stage("b")), sites).warnings) == said


GIB = 1 << 30
FIT = Fit(joined=True, silent_for=timedelta(0), disk_free_bytes=4 * GIB)


@pytest.mark.parametrize(
    ("fit", "reason"),
    [
        (FIT, None),
        (Fit(joined=True, silent_for=None, disk_free_bytes=None), None),
        (replace(FIT, joined=False), "no agent has joined"),
        (replace(FIT, silent_for=timedelta(hours=1)), None),
        (replace(FIT, silent_for=timedelta(hours=3)), "not heard of for 3 h"),
        (replace(FIT, disk_free_bytes=2 * GIB), None),
        (replace(FIT, disk_free_bytes=GIB), "needs 2.0 GiB of disk, 1.0 GiB are free"),
        (replace(FIT, disk_free_bytes=0), "needs 2.0 GiB of disk, 0 bytes are free"),
        (replace(FIT, pinned="pinned to version 3 by olga"), "pinned to version 3 by olga"),
        (replace(FIT, incompatible="has no accelerator"), "has no accelerator"),
        (
            replace(FIT, busy="its part in rollout 7 is not over"),
            "its part in rollout 7 is not over",
        ),
        (replace(FIT, joined=False, pinned="pinned"), "pinned"),
        (replace(FIT, busy="busy", incompatible="unfit"), "unfit"),
        (replace(FIT, busy="busy", disk_free_bytes=0), "needs 2.0 GiB of disk, 0 bytes are free"),
    ],
)
def test_a_site_is_left_out_with_one_reason(fit: Fit, reason: str | None) -> None:
    assert exclusion(fit, size_bytes=2 * GIB, patience=timedelta(hours=1)) == reason


def test_a_plan_is_another_when_anything_of_what_is_agreed_is() -> None:
    def digest(
        specs: tuple[StageSpec, ...] = (REST,), count: int = 3, manifest: str = "m", **terms: object
    ) -> str:
        return plan(specs, candidates(count)).digest(manifest_digest=manifest, terms=terms)

    plain = digest(barrier=False)
    others = {
        digest(barrier=True),
        digest(barrier=False, strategy=["canary", 1]),
        digest(manifest="n", barrier=False),
        digest(count=4, barrier=False),
        digest((replace(REST, soak_seconds=1),), barrier=False),
        digest((replace(REST, name="all"),), barrier=False),
        digest((replace(REST, policy=LATE),), barrier=False),
        digest((REST, stage("tail", trailing=True)), barrier=False),
        digest((stage("one", count=1), REST), barrier=False),
    }

    assert len(others | {plain}) == 10
    assert plain == digest((REST, stage("nobody", region="atlantis")), barrier=False)


labels = st.dictionaries(st.sampled_from(["ring", "country"]), st.sampled_from(["0", "1"]))
some_candidates = st.lists(
    st.builds(
        Candidate,
        name=st.integers(0, 60).map(lambda n: f"s{n}"),
        tier=st.sampled_from(TIERS),
        region=st.sampled_from(["eu", "us"]),
        hardware=st.sampled_from(["none", "L4"]),
        labels=labels,
        excluded=st.sampled_from([None, None, None, "no agent has joined"]),
    ),
    min_size=1,
    max_size=40,
    unique_by=lambda candidate: candidate.name,
)
draws = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"percent": st.integers(1, 100)}),
    st.fixed_dictionaries({"count": st.integers(1, 9)}),
    st.fixed_dictionaries(
        {"per": st.sampled_from(PER)}, optional={"count": st.none() | st.integers(1, 3)}
    ),
)


@st.composite
def some_stage(pick: st.DrawFn) -> StageSpec:
    return StageSpec(
        name="x",
        soak_seconds=0,
        tier=pick(st.sampled_from([None, *TIERS])),
        hardware=pick(st.sampled_from([None, None, "L4"])),
        labels=pick(labels),
        trailing=pick(st.sampled_from([False, False, True])),
        **pick(draws),
    )


some_specs = st.lists(some_stage(), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), sites=some_candidates, specs=some_specs, seed=st.text(max_size=8))
def test_every_site_is_in_exactly_one_stage_or_excluded_with_a_reason(
    data: st.DataObject, sites: list[Candidate], specs: list[StageSpec], seed: str
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
    shuffled = data.draw(st.permutations(sites))
    assert made == plan_stages(specs=specs, candidates=shuffled, seed=seed)
    by_name = {site.name: site for site in sites}
    for spec, names in made.stages:
        if spec.count is not None and spec.per is None:
            assert len(names) <= spec.count
        for name in names:
            assert spec.tier in (None, by_name[name].tier)
            assert spec.labels.items() <= by_name[name].labels.items()
            assert by_name[name].excluded is None
