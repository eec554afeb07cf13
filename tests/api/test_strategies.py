"""Strategies through the API: kept by name and version, and what they are refused for."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from controlplane.accounts.models import Scope
from controlplane.domain.strategies import BUILT_IN
from controlplane.rollouts.models import Strategy
from tests.api.calls import ApiCaller, assert_problem, fields
from tests.factories import make_joined_site, make_version

NIGHT = {
    "name": "night-shift",
    "title": "The edge by night",
    "stages": [
        {"name": "edge", "select": {"tier": "edge"}, "policy": {"failures_tolerated": "5%"}},
        {"name": "rest", "soak_seconds": 10},
    ],
    "barrier": True,
    "approval": {"required": True},
}


def test_the_built_in_ones_are_there_and_can_be_looked_at(api: ApiCaller) -> None:
    listed = api.get("strategies").json()
    assert [entry["name"] for entry in listed] == [spec.name for spec in BUILT_IN]
    assert all(entry["built_in"] for entry in listed)
    shown = api.get("strategies/edge-first").json()
    assert (shown["version"], shown["late_joiners"]) == (1, True)
    assert [stage["name"] for stage in shown["stages"]] == ["edge", "regional", "hyperscale"]
    assert shown["stages"][0]["policy"]["on_silent"] == "defer"


def test_a_strategy_is_kept_and_its_next_version_beside_it(api: ApiCaller) -> None:
    first = api.post("strategies", NIGHT)
    assert first.status_code == 201
    document = first.json()
    assert (document["version"], document["built_in"], document["retired"]) == (1, False, False)
    assert document["approval"] == {"required": True, "by_other": True}
    assert document["stages"][0]["policy"] == {"failures_tolerated": "5%"}

    second = api.post("strategies", {**NIGHT, "title": "Later"}).json()

    assert second["version"] == 2
    assert api.get("strategies/night-shift").json() == second
    assert api.get("strategies/night-shift?version=1").json() == document
    assert [entry["version"] for entry in api.get("strategies").json()][-1] == 2


def test_two_people_who_edit_the_same_version_do_not_overwrite_each_other(api: ApiCaller) -> None:
    api.post("strategies", {**NIGHT, "version": 1})
    document = assert_problem(
        api.post("strategies", {**NIGHT, "version": 1}), 409, "strategy-changed"
    )
    assert document["latest_version"] == 1


def test_a_strategy_edited_while_a_rollout_uses_it_leaves_the_rollout_as_planned(
    api: ApiCaller, now: datetime
) -> None:
    make_joined_site("edge", now=now)
    make_version(now=now)
    api.post("strategies", {**NIGHT, "approval": {}})
    body = {"model": "vad", "version": "1", "strategy": "night-shift"}
    before = api.post("rollouts", body).json()

    api.post("strategies", {**NIGHT, "stages": [{"name": "everybody"}]})

    after = api.get(f"rollouts/{before['id']}").json()
    assert after["strategy"] == "night-shift@1"
    assert [stage["name"] for stage in after["stages"]] == ["edge", "rest"]
    queued = api.post("rollouts", {**body, "on_conflict": "queue"}).json()
    assert queued["strategy"] == "night-shift@2"


def test_a_retired_one_starts_nothing_and_can_still_be_looked_at(
    api: ApiCaller, now: datetime
) -> None:
    make_joined_site("edge", now=now)
    make_version(now=now)
    api.post("strategies", NIGHT)

    retired = api.post("strategies/night-shift/retire", {"reason": "too slow"})

    assert retired.json()["retired"] is True
    assert "night-shift" not in [entry["name"] for entry in api.get("strategies").json()]
    assert api.get("strategies/night-shift?version=1").json()["retired"] is True
    assert_problem(api.get("strategies/night-shift"), 404, "strategy-unknown")
    body = {"model": "vad", "version": "1", "strategy": "night-shift@1"}
    assert_problem(api.post("rollouts", body), 409, "strategy-retired")
    assert_problem(api.post("strategies/night-shift/retire", {}), 404, "strategy-unknown")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Night Shift"}, "name"),
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"version": 0}, "version"),
        ({"version": "1"}, "version"),
        ({"title": "x" * 201}, "title"),
        ({"stages": []}, "stages"),
        ({"stages": None}, "stages"),
        ({"stages": [{"name": "a", "policy": {"max_unavailable": "120%"}}]}, "stages[0].policy"),
        ({"stages": [{"name": "a", "trailing": True}, {"name": "b"}]}, "stages[0].trailing"),
        ({"barrier": "yes"}, "barrier"),
        ({"approval": {"requird": True}}, "approval.requird"),
        ({"aproval": {}}, "aproval"),
    ],
)
def test_a_strategy_that_can_not_be_kept_names_its_fault(
    change: dict[str, Any], field: str, api: ApiCaller
) -> None:
    document = assert_problem(api.post("strategies", {**NIGHT, **change}), 422, "strategy-invalid")
    assert fields(document)[0].startswith(field)
    assert not Strategy.objects.exists()


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"1"])
def test_a_body_that_is_no_strategy(body: bytes, api: ApiCaller) -> None:
    assert_problem(api.post("strategies", body), 422, "strategy-invalid")


def test_a_built_in_one_is_left_alone(api: ApiCaller) -> None:
    assert_problem(api.post("strategies", {**NIGHT, "name": "canary"}), 409, "strategy-builtin")
    assert_problem(api.post("strategies/canary/retire", {"reason": "x"}), 409, "strategy-builtin")


@pytest.mark.parametrize("name", ["none", "%00", "x" * 500, "a%20b"])
def test_a_name_that_no_strategy_has(name: str, api: ApiCaller) -> None:
    assert_problem(api.get(f"strategies/{name}"), 404, "strategy-unknown")


@pytest.mark.parametrize("version", ["x", "0", "-1", "", "9" * 30])
def test_a_version_that_is_no_number(version: str, api: ApiCaller) -> None:
    response = api.get(f"strategies/canary?version={version}")
    assert fields(assert_problem(response, 422, "invalid-request")) == ["version"]


def test_writes_want_the_scope_of_rollouts(with_scopes: Callable[..., ApiCaller]) -> None:
    caller = with_scopes(Scope.FLEET, Scope.FREEZE)
    assert_problem(caller.post("strategies", NIGHT), 403, "scope-missing")
    assert_problem(caller.post("strategies/canary/retire", {}), 403, "scope-missing")
    assert caller.get("strategies").status_code == 200
