"""What a rollout is asked to do: a stage is read as it is written, and every fault is named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.domain.policy import OnFailure, StagePolicy
from controlplane.domain.selector import SiteSelector
from controlplane.domain.stages import (
    DEFAULT_STAGES,
    MAX_STAGES,
    StageSpec,
    parse_exclude,
    parse_stages,
)

GOOD = {"name": "canary", "select": {"tier": "edge", "percent": 10}, "soak_seconds": 30}


def test_a_stage_is_read_as_it_is_written() -> None:
    (spec,) = parse_stages([GOOD])

    assert spec == StageSpec(name="canary", tier="edge", percent=10, soak_seconds=30.0)
    assert spec.select_document() == GOOD["select"]
    assert spec.document() == GOOD


def test_every_word_of_a_stage_is_read_and_written_back() -> None:
    document = {
        "name": "canary",
        "select": {
            "tier": "edge",
            "region": "eu-west",
            "hardware": "NVIDIA L4",
            "labels": {"ring": "0"},
            "sites": ["a", "b"],
            "exclude": ["c"],
            "count": 2,
            "per": "hardware",
        },
        "soak_seconds": 30.0,
        "policy": {"failures_tolerated": "10%", "on_failure": "pause"},
        "trailing": True,
    }
    (spec,) = parse_stages([document])

    assert spec == StageSpec(
        name="canary",
        tier="edge",
        region="eu-west",
        hardware="NVIDIA L4",
        labels={"ring": "0"},
        sites=frozenset({"a", "b"}),
        exclude=frozenset({"c"}),
        count=2,
        per="hardware",
        soak_seconds=30.0,
        policy=StagePolicy(failures_tolerated="10%", on_failure=OnFailure.PAUSE),
        trailing=True,
    )
    assert spec.document() == document
    assert parse_stages([spec.document()]) == (spec,)


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
        *(
            pytest.param(
                [{"name": "a", "select": {"count": count}}],
                ["stages[0].select.count"],
                id=f"count {count!r}",
            )
            for count in (0, -1, 1.5, "2", True, 10**400)
        ),
        *(
            pytest.param(
                [{"name": "a", "select": {"per": per}}], ["stages[0].select.per"], id=f"per {per!r}"
            )
            for per in ("label", 1, ["region"], "")
        ),
        pytest.param(
            [{"name": "a", "select": {"percent": 10, "count": 2}}],
            ["stages[0].select.percent"],
            id="a share and a number",
        ),
        pytest.param(
            [{"name": "a", "select": {"percent": 10, "per": "region"}}],
            ["stages[0].select.percent"],
            id="a share of each",
        ),
        *(
            pytest.param(
                [{"name": "a", "select": {key: wrong}}],
                [f"stages[0].select.{key}"],
                id=f"{key} {wrong!r}",
            )
            for key in ("region", "hardware")
            for wrong in ("", 1, ["eu"])
        ),
        pytest.param(
            [{"name": "a", "select": {"exclude": []}}],
            ["stages[0].select.exclude"],
            id="an empty list of exceptions",
        ),
        pytest.param(
            [{"name": "a", "policy": {"retries": 11}}],
            ["stages[0].policy.retries"],
            id="a fault of the policy",
        ),
        pytest.param(
            [{"name": "a", "trailing": "yes"}], ["stages[0].trailing"], id="trailing, a text"
        ),
        pytest.param(
            [{"name": "a", "trailing": True}, {"name": "b"}],
            ["stages[0].trailing"],
            id="a trailing stage that is not the last",
        ),
        pytest.param(
            [
                {"name": "a", "select": {"sites": ["x", "y"]}},
                {"name": "b", "select": {"sites": ["y", "z"]}},
            ],
            ["stages[1].select.sites"],
            id="a site named twice",
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
                ["name", "select", "soak_seconds", "policy", "trailing", "tier", "labels", "?"]
            )
            | st.sampled_from(
                ["percent", "count", "per", "sites", "gates", "retries", "on_silent"]
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


def test_whom_to_leave_out_is_read_and_may_be_nobody() -> None:
    asked = {"sites": ["a"], "labels": {"ring": "9"}, "tier": "edge"}

    assert parse_exclude(None) is None
    assert parse_exclude({}) is None
    assert parse_exclude({"labels": {}}) is None
    assert parse_exclude(asked) == SiteSelector(
        sites=frozenset({"a"}), labels={"ring": "9"}, tier="edge"
    )


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        ("edge-1", ["exclude"]),
        (["edge-1"], ["exclude"]),
        ({"sites": []}, ["exclude.sites"]),
        ({"site": ["a"]}, ["exclude.site"]),
        ({"exclude": ["a"]}, ["exclude.exclude"]),
        ({"labels": {"ring": 9}, "tier": "cloud"}, ["exclude.tier", "exclude.labels"]),
    ],
)
def test_a_bad_exclusion_is_refused(document: object, fields: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_exclude(document)

    assert caught.value.code == "exclude-invalid"
    assert [fault.field for fault in caught.value.errors] == fields
