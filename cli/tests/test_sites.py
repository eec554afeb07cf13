"""`waypost sites`: listing, adding, and the line that lets an agent join."""

import json

import pytest
from conftest import Waypost
from fake_api import FakeApi


def test_sites_are_listed_with_what_they_serve(waypost: Waypost, fake: FakeApi) -> None:
    models = [
        {"model": "vad", "desired": "2", "reported": "2", "state": "equal"},
        {"model": "asr", "desired": "5", "reported": None, "state": "behind"},
    ]
    fake.sites = [
        {"name": f"edge-{n}", "tier": "edge", "region": "eu", "health": "healthy", "models": models}
        for n in range(5)
    ]

    table, document = waypost("sites"), waypost("sites", "list", "--output", "json")

    assert table.exit_code == document.exit_code == 0
    assert "vad 2, asr none (wanted: 5)" in table.stdout
    assert [site["name"] for site in json.loads(document.stdout)] == [f"edge-{n}" for n in range(5)]


def test_a_list_is_narrowed_on_every_page(waypost: Waypost, fake: FakeApi) -> None:
    fake.sites = [
        {"name": f"site-{n}", "tier": "edge" if n % 2 else "regional", "region": "eu"}
        for n in range(9)
    ]

    ran = waypost("sites", "list", "--tier", "edge", "--region", "eu", "--output", "json")

    names = [site["name"] for site in json.loads(ran.stdout)]
    assert names == ["site-1", "site-3", "site-5", "site-7"]


def test_a_site_is_added_with_all_that_is_known_of_it(waypost: Waypost, fake: FakeApi) -> None:
    ran = waypost(
        "sites", "add", "edge-1", "--tier", "edge", "--region", "eu", "--latitude", "59.9",
        "--longitude", "-10.7", "--label", "ring=0", "--output", "json",
    )  # fmt: skip

    assert ran.exit_code == 0, ran.stderr
    assert fake.requests("POST", "sites")[0].body == {
        "name": "edge-1",
        "tier": "edge",
        "region": "eu",
        "latitude": 59.9,
        "longitude": -10.7,
        "labels": {"ring": "0"},
    }
    assert json.loads(ran.stdout)["name"] == "edge-1"


def test_health_narrows_a_list_even_where_the_control_plane_ignores_it(
    waypost: Waypost, fake: FakeApi
) -> None:
    fake.sites = [{"name": "a", "health": "healthy"}, {"name": "b", "health": "stale"}]

    ran = waypost("sites", "list", "--health", "stale", "--output", "json")

    assert [site["name"] for site in json.loads(ran.stdout)] == ["b"]


@pytest.mark.parametrize("name", ["..", "a/b"])
def test_a_name_that_would_be_another_path_is_refused(
    waypost: Waypost, fake: FakeApi, name: str
) -> None:
    ran = waypost("sites", "token", name)

    assert ran.exit_code == 1
    assert "is not a name" in ran.stderr
    assert fake.seen == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--latitude", "59.9"], "only one of --latitude and --longitude"),
        (["--latitude", "91", "--longitude", "0"], "--latitude"),
    ],
)
def test_half_a_place_or_none_on_earth_is_refused(
    waypost: Waypost, fake: FakeApi, options: list[str], says: str
) -> None:
    ran = waypost("sites", "add", "edge-1", "--tier", "edge", "--region", "eu", *options)

    assert ran.exit_code == 1
    assert says in ran.stderr
    assert fake.seen == []


def test_a_token_is_one_line_to_paste_and_nothing_else(waypost: Waypost, fake: FakeApi) -> None:
    fake.sites = [{"name": "edge-1"}]

    ran = waypost("sites", "token", "edge-1")

    assert ran.stdout == f"waypost-agent join {fake.url} --token wpe_once\n"
    assert "until 2030-01-01T00:00:00Z" in ran.stderr


def test_a_token_for_a_site_that_does_not_exist_is_an_error(waypost: Waypost) -> None:
    ran = waypost("sites", "token", "atlantis")

    assert ran.exit_code == 1
    assert ran.stdout == ""
    assert "code site-unknown" in ran.stderr


def test_a_new_key_is_asked_for(waypost: Waypost, fake: FakeApi) -> None:
    fake.sites = [{"name": "edge-1"}]

    ran = waypost("sites", "new-key", "edge-1")
    by = waypost("sites", "new-key", "edge-1", "--by", "2030-02-01T00:00:00Z", "--output", "json")

    assert ran.exit_code == by.exit_code == 0
    assert "by 2030-01-08T00:00:00Z" in ran.stderr
    assert json.loads(by.stdout)["rotate_by"] == "2030-02-01T00:00:00Z"
    asked = fake.requests("POST", "sites/edge-1/agent/new-key")
    assert [request.body for request in asked] == [{}, {"by": "2030-02-01T00:00:00Z"}]


def test_a_locked_agent_is_let_in_again_with_a_reason(waypost: Waypost, fake: FakeApi) -> None:
    fake.sites = [{"name": "edge-1"}]

    ran = waypost("sites", "unlock", "edge-1", "--reason", "the copy is gone")

    assert ran.exit_code == 0
    (asked,) = fake.requests("POST", "sites/edge-1/agent/unlock")
    assert asked.body == {"reason": "the copy is gone"}
    assert waypost("sites", "unlock", "edge-1").exit_code != 0
    assert waypost("sites", "unlock", "none", "--reason", "x").exit_code == 1
