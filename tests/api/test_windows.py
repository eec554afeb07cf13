"""Windows through the API, and what polls are told because of them."""

from collections.abc import Callable, Iterator

import pytest
from django.utils import timezone

from controlplane.accounts.models import Scope
from controlplane.api.agent_v1 import hot_path
from controlplane.fleet.models import MaintenanceWindow
from controlplane.fleet.polling import forget_windows
from tests.api.calls import AgentCaller, ApiCaller, assert_problem, fields

WINDOW = {
    "name": "night",
    "kind": "activation",
    "selector": {"tier": "edge", "labels": {"ring": "0"}},
    "days": ["fri", "mon"],
    "start": "22:00",
    "minutes": 480,
    "timezone": "Europe/Berlin",
}


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """What a process remembers of windows is of another test's rows."""
    forget_windows()
    yield
    forget_windows()


def test_a_window_is_made_read_back_and_deleted(api: ApiCaller) -> None:
    made = api.post("windows", WINDOW)

    assert made.status_code == 201
    document = made.json()
    assert {key: document[key] for key in WINDOW} == WINDOW | {"days": ["mon", "fri"]}
    assert document["created_by"] == "token:ci"
    assert document["warnings"] == ["Window night selects no site at present."]
    assert api.get("windows/night").json() == document
    assert api.get("windows").json()["results"] == [document]

    assert api.delete("windows/night").status_code == 204
    assert api.get("windows").json()["count"] == 0
    assert_problem(api.delete("windows/night"), 404, "window-unknown")
    assert_problem(api.get("windows/night"), 404, "window-unknown")
    assert_problem(api.get("windows/%00"), 404, "window-unknown")


def test_without_a_zone_it_follows_each_sites_clock_and_may_select_all(api: ApiCaller) -> None:
    body = {key: value for key, value in WINDOW.items() if key != "timezone"} | {"selector": {}}
    document = api.post("windows", body).json()
    assert (document["timezone"], document["selector"]) == ("", {})


def test_a_name_can_be_taken_once(api: ApiCaller) -> None:
    api.post("windows", WINDOW)
    assert_problem(api.post("windows", WINDOW | {"minutes": 5}), 409, "window-exists")
    assert MaintenanceWindow.objects.get().minutes == 480


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", "no spaces"),
        ("name", "x" * 64),
        ("kind", "both"),
        ("selector", []),
        ("selector", None),
        ("selector.tier", {"tier": "cloud"}),
        ("selector.sites", {"sites": []}),
        ("selector.teir", {"teir": "edge"}),
        ("days", []),
        ("days", "mon"),
        ("days[0]", ["monday"]),
        ("start", "24:00"),
        ("start", "22:00:30"),
        ("start", None),
        ("minutes", 0),
        ("minutes", 10_081),
        ("timezone", "Berlin"),
        ("timezone", None),
        ("open", True),
    ],
)
def test_what_cannot_be_is_refused_at_its_field(field: str, wrong: object, api: ApiCaller) -> None:
    key = field.partition(".")[0].partition("[")[0]
    response = api.post("windows", WINDOW | {key: wrong})
    assert response.status_code == 422, response.content
    assert fields(response.json()) == [field]
    assert not MaintenanceWindow.objects.exists()


@pytest.mark.parametrize("body", [b"[]", b"{}", b"null", b'"x"', b"{"])
def test_a_body_that_is_no_window(body: bytes, api: ApiCaller) -> None:
    assert api.post("windows", body).status_code in (400, 422)


def test_it_needs_the_scope_of_the_fleet(with_scopes: Callable[..., ApiCaller]) -> None:
    reader = with_scopes(Scope.READ)
    assert reader.get("windows").status_code == 200
    assert_problem(reader.post("windows", WINDOW), 403, "scope-missing")
    assert_problem(reader.delete("windows/night"), 403, "scope-missing")
    assert_problem(reader.delete("sites/edge?reason=x"), 403, "scope-missing")
    assert_problem(reader.post("sites/edge/restore"), 403, "scope-missing")


def test_polls_are_hinted_alike_by_the_view_and_before_it(
    api: ApiCaller, edge: AgentCaller
) -> None:
    api.patch("sites/edge", {"poll_seconds": 86_400})
    news = edge.get("desired")
    assert news["Waypost-Poll-Seconds"] == "86400"

    every_day = {"days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "start": "00:00"}
    body = WINDOW | every_day | {"minutes": 1440, "timezone": "UTC", "selector": {}}
    assert api.post("windows", body).status_code == 201

    changed = edge.get("desired")["Waypost-Poll-Seconds"]
    unchanged = edge.get("desired", **{"If-None-Match": news["ETag"]})
    early = hot_path._unchanged(edge.agent.secret, news["ETag"], "", timezone.now())
    assert unchanged.status_code == 304
    assert early is not None
    hints = (changed, unchanged["Waypost-Poll-Seconds"], early["Waypost-Poll-Seconds"])
    assert hints == ("28800", "28800", "28800")
