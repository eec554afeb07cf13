"""How a version takes over, and on what probation: every fault named, and said in the plan."""

import pytest

from controlplane.domain.errors import FieldError
from controlplane.domain.policy import StagePolicy, Switch, limit_sentences, parse_policy
from controlplane.domain.probation import Probation

RULES = {"seconds": 60, "max_error_rate": 0.05, "min_requests": 20, "max_mean_latency_ms": 250}


def faults_of(document: object) -> list[tuple[str, str]]:
    faults: list[FieldError] = []
    parse_policy(document, "policy", faults)
    return [(fault.field, fault.message) for fault in faults]


@pytest.mark.parametrize(
    ("document", "field", "right"),
    [
        ({"switch": "blue-green"}, "policy.switch", "must be one of surge, replace, auto"),
        ({"switch": None}, "policy.switch", "must be one of surge, replace, auto"),
        ({"probation": 60}, "policy.probation", "must be null or an object with seconds"),
        ({"probation": {}}, "policy.probation.seconds", "must be a number from 0 to 86400"),
        ({"probation": {"seconds": "60"}}, "policy.probation.seconds", "must be a number"),
        ({"probation": {"seconds": True}}, "policy.probation.seconds", "must be a number"),
        ({"probation": {**RULES, "seconds": 86401}}, "policy.probation.seconds", "to 86400"),
        ({"probation": {**RULES, "max_error_rate": 5}}, "policy.probation.max_error_rate", "to 1"),
        ({"probation": {**RULES, "min_requests": 0}}, "policy.probation.min_requests", "from 1"),
        ({"probation": {**RULES, "min_requests": 1.5}}, "policy.probation.min_requests", "whole"),
        (
            {"probation": {**RULES, "max_mean_latency_ms": -1}},
            "policy.probation.max_mean_latency_ms",
            "must be a number from 0",
        ),
        ({"probation": {**RULES, "errors": 1}}, "policy.probation.errors", "is not known"),
    ],
)
def test_a_fault_says_where_it_is_and_what_would_be_right(
    document: object, field: str, right: str
) -> None:
    ((where, message),) = faults_of(document)
    assert where == field
    assert right in message


@pytest.mark.parametrize("document", [{"probation": None}, {"probation": {"seconds": 0}}, {}])
def test_none_and_a_bare_time_are_fine(document: object) -> None:
    assert faults_of(document) == []


def test_the_plan_says_what_users_will_see() -> None:
    replacing = limit_sentences(StagePolicy(switch=Switch.REPLACE), 4)[-1]
    assert replacing.startswith("a site unloads its version first and answers nobody until")
    either = limit_sentences(StagePolicy(switch=Switch.AUTO), 4)[-1]
    assert either.startswith("a site whose memory cannot hold both versions")
    probation = Probation(**RULES)  # type: ignore[arg-type]  # whole numbers are numbers
    assert limit_sentences(StagePolicy(probation=probation), 4)[-1] == (
        "on probation for 60 s at each site, which goes back by itself when more than 0.05 of its "
        "requests fail or they take over 250 ms on average (from 20 requests on)"
    )
    bare = limit_sentences(StagePolicy(probation=Probation(seconds=300)), 4)[-1]
    assert bare == "on probation for 5 min at each site"
    assert not [each for each in limit_sentences(StagePolicy(), 4) if "probation" in each]
