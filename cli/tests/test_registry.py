"""`waypost link` and `waypost import`: what is asked of the control plane, and how it ends."""

import json

import pytest
from conftest import Waypost
from fake_api import FakeApi, Json

LINKS, IMPORTS = "models/iris/registry-links", "models/iris/imports"


def row(state: str, **changes: object) -> Json:
    known = {"id": 7, "remote_name": "iris", "remote_version": "3", "state": state}
    return {**known, "version": None, "reason": "", **changes}


def test_a_model_is_linked_with_its_aliases(waypost: Waypost, fake: FakeApi) -> None:
    link = {"id": 1, "model": "iris", "remote_name": "Iris", "aliases": {"prod": "stable"}}
    fake.answers["POST", LINKS] = link
    ran = waypost(
        "link", "iris", "--mlflow", "Iris", "--alias", "prod=stable", "--alias", "next",
        "--output", "json",
    )  # fmt: skip
    assert ran.exit_code == 0, ran.stderr
    assert fake.requests("POST", LINKS)[0].body == {
        "remote_name": "Iris",
        "aliases": {"prod": "stable", "next": ""},
        "stages": {},
    }
    assert json.loads(ran.stdout) == link


def test_links_are_listed_and_taken_back(waypost: Waypost, fake: FakeApi) -> None:
    fake.lists[LINKS] = [{"id": 1, "model": "iris", "remote_name": "Iris", "failure": "is down"}]
    assert "is down" in waypost("links", "iris").stdout
    ran = waypost("unlink", "iris", "zero")
    assert ran.exit_code == 1
    assert "not the number of a link" in ran.stderr


@pytest.mark.parametrize("more", [(), ("--version", "3", "--alias", "prod")])
def test_what_to_import_must_be_clear(
    more: tuple[str, ...], waypost: Waypost, fake: FakeApi
) -> None:
    ran = waypost("import", "iris", *more)
    assert ran.exit_code == 1
    assert "--version, --alias and --stage" in ran.stderr
    assert fake.seen == []


def test_an_import_is_asked_for(waypost: Waypost, fake: FakeApi) -> None:
    fake.answers["POST", IMPORTS] = row("pending")
    ran = waypost("import", "iris", "--alias", "prod", "--output", "json")
    assert ran.exit_code == 0, ran.stderr
    assert fake.requests("POST", IMPORTS)[0].body == {"alias": "prod"}
    assert json.loads(ran.stdout)["state"] == "pending"


def test_an_import_is_waited_for(
    waypost: Waypost, fake: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waypost_cli.registry_commands._POLL_SECONDS", 0.0)
    fake.answers["POST", IMPORTS] = row("pending")
    fake.answers["GET", f"{IMPORTS}/7"] = row("imported", version="3")
    ran = waypost("import", "iris", "--version", "3", "--wait", "--output", "json")
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)["version"] == "3"


def test_a_failed_import_is_an_error_with_its_reason(waypost: Waypost, fake: FakeApi) -> None:
    fake.answers["POST", IMPORTS] = row("failed", reason="There are no golden requests")
    ran = waypost("import", "iris", "--version", "3", "--wait")
    assert ran.exit_code == 1
    assert "no golden requests" in ran.stdout


def test_waiting_has_an_end(waypost: Waypost, fake: FakeApi) -> None:
    fake.answers["POST", IMPORTS] = row("importing")
    ran = waypost("import", "iris", "--version", "3", "--wait", "--timeout", "0s")
    assert ran.exit_code == 3
    assert "it goes on" in ran.stderr
