"""What a site tells of itself, over REST."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.telemetry.models import Reading
from tests.api.calls import ApiCaller, assert_problem, fields
from tests.factories import make_site

PATH = "sites/hall/readings"


@pytest.fixture(autouse=True)
def _hall(now: datetime) -> None:
    make_site("hall", now=now, power_limit_kw=100.0, water_limit_l_per_hour=50.0)


def test_what_was_told_is_shown_against_the_envelope(api: ApiCaller, now: datetime) -> None:
    at = (now - timedelta(minutes=1)).isoformat()
    said = {"at": at, "power_kw": 82.5, "water_l_per_hour": 60, "downlink_mbit_per_s": 900}
    for taken in (sorted({*said} - {"at"}), []):
        answer = api.post(PATH, said)
        assert (answer.status_code, answer.json()) == (200, {"taken": taken})

    live = {each["figure"]: each for each in api.get(PATH).json()}

    assert sorted(live) == ["downlink_mbit_per_s", "power_kw", "water_l_per_hour"]
    power = live["power_kw"]
    assert (power["value"], power["limit"], power["share"]) == (82.5, 100.0, 0.825)
    assert datetime.fromisoformat(power["at"]) == datetime.fromisoformat(at)
    assert live["water_l_per_hour"]["share"] == 1.2
    assert (live["downlink_mbit_per_s"]["limit"], live["downlink_mbit_per_s"]["share"]) == (
        None,
        None,
    )


def test_without_a_time_it_is_now(api: ApiCaller, now: datetime) -> None:
    api.post(PATH, {"power_kw": 1})
    (live,) = api.get(PATH).json()
    assert datetime.fromisoformat(live["at"]) >= now


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "invalid-request", ""),
        ({"at": "2026-01-01T00:00:00Z"}, "invalid-request", ""),
        ({"power_kw": -1}, "invalid-request", "power_kw"),
        ({"power_kw": 1e300}, "invalid-request", "power_kw"),
        ({"power_kw": None}, "invalid-request", "power_kw"),
        ({"power_kw": "much"}, "invalid-request", "power_kw"),
        ({"power_watts": 1}, "invalid-request", "power_watts"),
        ({"power_kw": 1, "at": "noon"}, "invalid-request", "at"),
        ({"power_kw": 1, "at": "2026-01-01T00:00:00"}, "invalid-request", "at"),
        ({"power_kw": 1, "at": "2020-01-01T00:00:00Z"}, "reading-too-old", "at"),
        ([1], "invalid-request", ""),
    ],
)
def test_a_fault_is_named_and_nothing_is_kept(
    body: Any, code: str, field: str, api: ApiCaller
) -> None:
    named = fields(assert_problem(api.post(PATH, body), 422, code))
    assert field in named or not field
    assert not Reading.objects.exists()


def test_a_clock_that_is_ahead_is_told_so(api: ApiCaller, now: datetime) -> None:
    said = {"power_kw": 1, "at": (now + timedelta(hours=1)).isoformat()}
    assert_problem(api.post(PATH, said), 422, "reading-ahead")


@pytest.mark.parametrize("body", [b'{"power_kw": NaN}', b'{"power_kw": Infinity}', b"{"])
def test_what_is_no_number_is_no_body(body: bytes, api: ApiCaller) -> None:
    answer = api.post(PATH, body)
    assert answer.status_code in (400, 422), answer.content


def test_of_a_site_that_does_not_exist(api: ApiCaller) -> None:
    assert_problem(api.get("sites/none/readings"), 404, "site-unknown")
    assert_problem(api.post("sites/none/readings", {"power_kw": 1}), 404, "site-unknown")


def test_it_takes_the_scope_of_the_fleet(with_scopes: Callable[..., ApiCaller]) -> None:
    assert_problem(with_scopes("push").post(PATH, {"power_kw": 1}), 403, "scope-missing")
    assert with_scopes("fleet").post(PATH, {"power_kw": 1}).status_code == 200
