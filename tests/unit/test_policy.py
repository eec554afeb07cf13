"""What a stage bears: rounding, cutting to the stage's size, and every fault of a policy named."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import FieldError
from controlplane.domain.policy import (
    KEYS,
    MAX_AMOUNT,
    MAX_GATES,
    MAX_SECONDS,
    OnFailure,
    OnSilent,
    StagePolicy,
    Switch,
    limit_sentences,
    parse_policy,
    policy_of,
    resolve,
    warnings,
)
from controlplane.domain.probation import Probation


def parsed(document: object) -> tuple[StagePolicy | None, list[str]]:
    faults: list[FieldError] = []
    policy = parse_policy(document, "policy", faults)
    assert all(fault.message for fault in faults)
    return policy, [fault.field for fault in faults]


EVERYTHING = StagePolicy(
    max_concurrent=20,
    max_unavailable="50%",
    failures_tolerated="5%",
    successes_required="90%",
    stale_tolerated=3,
    on_failure=OnFailure.PAUSE,
    progress_deadline_seconds=1800,
    on_silent=OnSilent.DEFER,
    retries=2,
    retry_after_seconds=60,
    approval=True,
    gates=("latency", "errors"),
    inconclusive_seconds=600,
    switch=Switch.REPLACE,
    probation=Probation(seconds=60, max_error_rate=0.05, min_requests=20, max_mean_latency_ms=250),
)


@pytest.mark.parametrize("policy", [StagePolicy(), EVERYTHING])
def test_a_policy_is_read_as_it_is_written(policy: StagePolicy) -> None:
    document = json.loads(json.dumps(policy.document()))

    assert parsed(document) == (policy, [])
    assert policy_of(document) == policy


def test_only_what_differs_from_the_defaults_is_written() -> None:
    assert StagePolicy().document() == {}
    assert StagePolicy(retries=1).document() == {"retries": 1}
    assert set(EVERYTHING.document()) == set(KEYS)


def test_no_policy_asks_for_the_defaults() -> None:
    assert parsed(None) == (StagePolicy(), [])
    assert parsed({}) == (StagePolicy(), [])


@pytest.mark.parametrize(
    ("sites", "percent", "down", "down_at_least_1", "up"),
    [
        (1, 10, 0, 1, 1),
        (4, 10, 0, 1, 1),
        (4, 25, 1, 1, 1),
        (4, 26, 1, 1, 2),
        (7, 50, 3, 3, 4),
        (10, 99, 9, 9, 10),
        (1000, 33, 330, 330, 330),
        (1001, 33, 330, 330, 331),
    ],
)
def test_shares_are_rounded_to_the_careful_side(
    sites: int, percent: int, down: int, down_at_least_1: int, up: int
) -> None:
    share = f"{percent}%"
    assert resolve(StagePolicy(failures_tolerated=share), sites).failures_tolerated == down
    assert resolve(StagePolicy(stale_tolerated=share), sites).stale_tolerated == down
    assert resolve(StagePolicy(max_unavailable=share), sites).max_unavailable == down_at_least_1
    assert resolve(StagePolicy(max_concurrent=share), sites).max_concurrent == down_at_least_1
    assert resolve(StagePolicy(successes_required=share), sites).successes_required == up


def test_the_defaults_in_whole_numbers() -> None:
    four, one = resolve(StagePolicy(), 4), resolve(StagePolicy(), 1)

    assert (four.max_concurrent, four.max_unavailable) == (4, 1)
    assert (four.failures_tolerated, four.successes_required, four.stale_tolerated) == (0, 4, 0)
    assert (one.max_concurrent, one.max_unavailable) == (1, 1)
    assert (one.failures_tolerated, one.successes_required) == (0, 1)


def test_an_empty_stage_has_no_limits_and_nothing_to_say() -> None:
    limits = resolve(EVERYTHING, 0)

    assert set(vars(limits).values()) == {0}
    assert limit_sentences(EVERYTHING, 0) == []
    assert warnings(StagePolicy(max_concurrent=5), 0) == []


@pytest.mark.parametrize(
    ("policy", "sites", "said"),
    [
        (StagePolicy(max_concurrent=4), 4, []),
        (
            StagePolicy(max_concurrent=9),
            4,
            ["max_concurrent is 9, but the stage has 4 sites; 4 holds"],
        ),
        (
            StagePolicy(max_unavailable=2),
            1,
            ["max_unavailable is 2, but the stage has 1 site; 1 holds"],
        ),
        (StagePolicy(failures_tolerated=3), 4, []),
        (
            StagePolicy(failures_tolerated=4),
            4,
            ["failures_tolerated is 4 of 4 sites and could never trip; 3 holds"],
        ),
        (
            StagePolicy(stale_tolerated=5),
            4,
            ["stale_tolerated is 5 of 4 sites and could never trip; 3 holds"],
        ),
        (
            StagePolicy(successes_required=5),
            4,
            ["successes_required is 5, but the stage has 4 sites; 4 holds"],
        ),
        (
            StagePolicy(successes_required="90%", failures_tolerated=2),
            10,
            [
                "successes_required asks for 9 of 10, which leaves room for 1 failed, "
                "not for the 2 tolerated"
            ],
        ),
    ],
)
def test_a_limit_that_is_not_the_one_asked_for_is_said(
    policy: StagePolicy, sites: int, said: list[str]
) -> None:
    assert warnings(policy, sites) == said


@pytest.mark.parametrize(
    ("policy", "sites", "first", "all_of"),
    [
        (StagePolicy(), 1, "stops at 1 failed of 1 and rolls back", []),
        (
            StagePolicy(failures_tolerated="25%", on_failure=OnFailure.PAUSE),
            4,
            "stops at 2 failed of 4 and pauses",
            ["at most 1 of 4 unavailable", "needs 3 of 4 verified"],
        ),
        (
            EVERYTHING,
            100,
            "stops at 6 failed of 100 and pauses",
            [
                "at most 20 of 100 under way at once",
                "soaks while at most 3 of 100 are silent",
                "a site silent 30 min after its offer is put off to the trailing stage; one that "
                "had begun counts as failed",
                "tries a failed site again up to 2 times, 60 s later",
                "waits for a person's approval when it has soaked",
                "waits for the verdict of latency, errors; pauses when there is none after 10 min",
            ],
        ),
    ],
)
def test_the_limits_are_said_in_whole_numbers(
    policy: StagePolicy, sites: int, first: str, all_of: list[str]
) -> None:
    said = limit_sentences(policy, sites)

    assert said[0] == first
    assert set(all_of) <= set(said)


AMOUNTS = ("max_concurrent", "max_unavailable", "successes_required")
TOLERANCES = ("failures_tolerated", "stale_tolerated")
NO_AMOUNTS = (1.5, True, "5", "%", "5 %", "-5%", "\u0665%", "101%", "1000%", [], -1, MAX_AMOUNT + 1)


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        pytest.param([], ["policy"], id="a list"),
        pytest.param("careful", ["policy"], id="a text"),
        pytest.param({"max_unavailble": 1}, ["policy.max_unavailble"], id="a mistyped key"),
        *(
            pytest.param({key: wrong}, [f"policy.{key}"], id=f"{key} {wrong!r}")
            for key in AMOUNTS
            for wrong in (*NO_AMOUNTS, 0, "0%")
        ),
        *(
            pytest.param({key: wrong}, [f"policy.{key}"], id=f"{key} {wrong!r}")
            for key in TOLERANCES
            for wrong in (*NO_AMOUNTS, None, "100%")
        ),
        pytest.param({"max_unavailable": None}, ["policy.max_unavailable"], id="no unavailable"),
        *(
            pytest.param({key: wrong}, [f"policy.{key}"], id=f"{key} {wrong!r}")
            for key in ("on_failure", "on_silent")
            for wrong in ("explode", None, 1, ["pause"])
        ),
        *(
            pytest.param({key: wrong}, [f"policy.{key}"], id=f"{key} {wrong!r}")
            for key in ("progress_deadline_seconds", "retry_after_seconds", "inconclusive_seconds")
            for wrong in (-1, "60", True, MAX_SECONDS + 1, float("nan"), float("inf"), 10**400)
        ),
        pytest.param(
            {"progress_deadline_seconds": 0}, ["policy.progress_deadline_seconds"], id="no time"
        ),
        pytest.param({"retry_after_seconds": None}, ["policy.retry_after_seconds"], id="no pause"),
        *(
            pytest.param({"retries": wrong}, ["policy.retries"], id=f"retries {wrong!r}")
            for wrong in (-1, 11, 1.0, "1", True, None)
        ),
        *(
            pytest.param({"approval": wrong}, ["policy.approval"], id=f"approval {wrong!r}")
            for wrong in (1, "yes", None)
        ),
        *(
            pytest.param({"gates": wrong}, ["policy.gates"], id=f"gates {wrong!r}"[:40])
            for wrong in (
                "latency",
                None,
                [1],
                ["Latency"],
                [""],
                ["a", "a"],
                [f"g{n}" for n in range(MAX_GATES + 1)],
            )
        ),
        pytest.param(
            {"successes_required": "90%", "failures_tolerated": "11%"},
            ["policy.successes_required"],
            id="more is tolerated than what is required leaves room for",
        ),
        *(
            pytest.param({"on_silent": word}, ["policy.on_silent"], id=f"{word}, but never late")
            for word in ("count", "defer")
        ),
        pytest.param(
            {"retries": 99, "on_silent": "defer", "oops": 1},
            ["policy.oops", "policy.retries"],
            id="every fault at once",
        ),
    ],
)
def test_a_bad_policy_is_refused_with_the_place_of_its_fault(
    document: object, fields: list[str]
) -> None:
    assert parsed(document) == (None, fields)


def test_values_that_only_seem_to_contradict_each_other_are_accepted() -> None:
    for document in (
        {"successes_required": "90%", "failures_tolerated": "10%"},
        {"successes_required": "100%"},
        {"successes_required": None, "max_concurrent": None, "progress_deadline_seconds": None},
        {"on_silent": "count", "progress_deadline_seconds": 60},
    ):
        policy, faults = parsed(document)
        assert policy is not None
        assert faults == []


amounts = st.integers(1, 300) | st.integers(1, 100).map(lambda n: f"{n}%")
tolerances = st.integers(0, 300) | st.integers(0, 99).map(lambda n: f"{n}%")
policies = st.builds(
    StagePolicy,
    max_concurrent=st.none() | amounts,
    max_unavailable=amounts,
    failures_tolerated=tolerances,
    successes_required=st.none() | amounts,
    stale_tolerated=tolerances,
)


@settings(max_examples=300, deadline=None)
@given(policy=policies, sites=st.integers(1, 200))
def test_whole_numbers_always_leave_a_way_to_move_and_a_way_to_stop(
    policy: StagePolicy, sites: int
) -> None:
    limits = resolve(policy, sites)

    assert 1 <= limits.max_concurrent <= sites
    assert 1 <= limits.max_unavailable <= sites
    assert 0 <= limits.failures_tolerated < sites
    assert 0 <= limits.stale_tolerated < sites
    assert 1 <= limits.successes_required <= sites
    # A stage that has not failed too often can succeed: there is no state between.
    assert limits.failures_tolerated + limits.successes_required <= sites
    # What is asked for is never loosened.
    if isinstance(policy.successes_required, int):
        assert limits.successes_required == min(policy.successes_required, sites)
    if isinstance(policy.failures_tolerated, int):
        assert limits.failures_tolerated <= policy.failures_tolerated
    assert f"stops at {limits.failures_tolerated + 1} failed of {sites}" in " ".join(
        limit_sentences(policy, sites)
    )
