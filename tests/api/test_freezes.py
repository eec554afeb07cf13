"""Freezes and the budget through the API."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.accounts.models import Scope
from controlplane.rollouts.models import Freeze
from tests.api.calls import ApiCaller, assert_problem, fields
from tests.factories import make_joined_site, make_version
from tests.services.steps import parts, start, turn

WHY = {"reason": "month end"}


def test_a_freeze_holds_offers_until_it_is_lifted(api: ApiCaller, now: datetime) -> None:
    edge = make_joined_site("edge", now=now)
    made = api.post("freezes", WHY)
    assert made.status_code == 201
    freeze = made.json()
    assert (freeze["selector"], freeze["sites"], freeze["active"]) == ({}, 1, True)
    assert (freeze["created_by"], freeze["reason"]) == ("token:ci", "month end")

    rollout = start(make_version(now=now), now=now)
    turn(rollout, now=now)
    assert parts(rollout) == {"edge": "pending"}

    lifted = api.post(f"freezes/{freeze['id']}/lift", {"reason": "over"}).json()

    assert (lifted["active"], lifted["sites"], lifted["lifted_by"]) == (False, 0, "token:ci")
    turn(rollout, edge, now=now)
    assert parts(rollout) == {"edge": "offered"}
    again = api.post(f"freezes/{freeze['id']}/lift", {})
    assert_problem(again, 409, "freeze-over")


def test_a_freeze_may_hold_some_sites_and_end_by_itself(api: ApiCaller, now: datetime) -> None:
    make_joined_site("edge", now=now)
    make_joined_site("core", tier="regional", now=now)
    until = (now + timedelta(hours=8)).isoformat()
    freeze = api.post("freezes", {**WHY, "selector": {"tier": "edge"}, "until": until}).json()
    assert (freeze["selector"], freeze["sites"]) == ({"tier": "edge"}, 1)
    assert datetime.fromisoformat(freeze["until"]) == datetime.fromisoformat(until)


def test_the_list_can_be_narrowed_to_those_in_force(api: ApiCaller, now: datetime) -> None:
    for _ in range(2):
        api.post("freezes", WHY)
    first = Freeze.objects.order_by("pk").values_list("pk", flat=True)[0]
    api.post(f"freezes/{first}/lift", {})

    def ids(query: str) -> list[int]:
        return [row["id"] for row in api.get(f"freezes{query}").json()["results"]]

    assert len(ids("")) == 2
    assert ids("?active=false") == [first]
    assert ids("?active=true") == [pk for pk in ids("") if pk != first]
    assert_problem(api.get("freezes?active=maybe"), 422, "invalid-request")


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"reason": ""}, "reason-required", "reason"),
        ({}, "invalid-request", "reason"),
        ({**WHY, "until": "2026-01-01T00:00:00"}, "invalid-request", "until"),
        ({**WHY, "until": "soon"}, "invalid-request", "until"),
        ({**WHY, "until": "2020-01-01T00:00:00Z"}, "freeze-invalid", "until"),
        ({**WHY, "selector": {"tier": "cloud"}}, "freeze-invalid", "selector.tier"),
        ({**WHY, "selector": {"percent": 5}}, "freeze-invalid", "selector.percent"),
        ({**WHY, "selector": ["edge"]}, "freeze-invalid", "selector"),
        ({**WHY, "selector": None}, "invalid-request", "selector"),
        ({**WHY, "untill": None}, "invalid-request", "untill"),
    ],
)
def test_a_freeze_that_can_not_be_made(
    body: dict[str, Any], code: str, field: str, api: ApiCaller
) -> None:
    assert field in fields(assert_problem(api.post("freezes", body), 422, code))
    assert not Freeze.objects.exists()


@pytest.mark.parametrize("number", ["404", "9" * 400])
def test_a_freeze_that_is_not_there(number: str, api: ApiCaller) -> None:
    assert_problem(api.post(f"freezes/{number}/lift", {}), 404, "freeze-unknown")


def test_the_budget_is_read_and_set(api: ApiCaller) -> None:
    assert api.get("budget").json() == {"changing_percent": None}
    body = {"changing_percent": 10, "reason": "winter"}
    assert api.put_json("budget", body).json() == {"changing_percent": 10}
    assert api.get("budget").json() == {"changing_percent": 10}
    assert api.put_json("budget", {"changing_percent": None}).json() == {"changing_percent": None}


@pytest.mark.parametrize("percent", [0, 101, -1, 10**25])
def test_a_budget_that_means_nothing(percent: int, api: ApiCaller) -> None:
    document = assert_problem(
        api.put_json("budget", {"changing_percent": percent}), 422, "budget-invalid"
    )
    assert fields(document) == ["changing_percent"]


@pytest.mark.parametrize("body", [{}, {"changing_percent": "x"}, {"changing_percent": 1.5}])
def test_a_budget_that_is_no_number(body: dict[str, Any], api: ApiCaller) -> None:
    document = assert_problem(api.put_json("budget", body), 422, "invalid-request")
    assert fields(document) == ["changing_percent"]


def test_writes_want_the_scope_to_freeze(with_scopes: Callable[..., ApiCaller]) -> None:
    caller = with_scopes(*(set(Scope.values) - {Scope.FREEZE}))
    for response in (
        caller.post("freezes", WHY),
        caller.post("freezes/1/lift", {}),
        caller.put_json("budget", {"changing_percent": 5}),
    ):
        assert assert_problem(response, 403, "scope-missing")["needed"] == "freeze"
    assert caller.get("freezes").status_code == caller.get("budget").status_code == 200
