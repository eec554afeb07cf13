"""`waypost push --wait` ends as a person decided, and `--notes` are kept with the version."""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Waypost
from fake_api import FakeApi
from waypost_cli import push_wait

VERSION = "models/vad/versions/1$"


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_wait, "LOOK_SECONDS", 0.001)


def becoming(fake: FakeApi, *states: str) -> None:
    """The version is in the next of these at each look."""

    def step(state: str) -> Callable[[], None]:
        def become() -> None:
            fake.versions["vad", "1"].state = state

        return become

    for state in states:
        fake.on("GET", VERSION, step(state))


def test_it_waits_until_the_version_is_approved(
    waypost: Waypost, fake: FakeApi, folder: Path
) -> None:
    looks = ("registered", "registered", "validated", "validated", "approved")
    becoming(fake, *looks)

    ran = waypost("push", "vad", str(folder), "--wait", "-o", "json")

    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)["state"] == "approved"
    assert "waiting until vad version 1 is approved" in ran.stderr
    assert len(fake.requests("GET", VERSION)) >= len(looks)


@pytest.mark.parametrize("state", ["registered", "validated"])
def test_nobody_decided_in_time(waypost: Waypost, fake: FakeApi, folder: Path, state: str) -> None:
    becoming(fake, state)
    ran = waypost("push", "vad", str(folder), "--wait", "--timeout", "0s", "-o", "json")
    assert ran.exit_code == 3
    assert json.loads(ran.stdout)["state"] == state
    assert f"it is {state} still: nobody decided in time" in ran.stderr


@pytest.mark.parametrize("state", ["quarantined", "retired"])
def test_it_was_decided_against(waypost: Waypost, fake: FakeApi, folder: Path, state: str) -> None:
    becoming(fake, "registered", state)
    ran = waypost("push", "vad", str(folder), "--wait", "-o", "junit")
    assert ran.exit_code == 1
    assert f"it is {state}" in ran.stderr
    assert ElementTree.fromstring(ran.stdout).find(".//testcase") is not None


def test_a_version_that_is_approved_already_ends_the_wait_at_once(
    waypost: Waypost, fake: FakeApi, folder: Path
) -> None:
    waypost("push", "vad", str(folder))
    fake.versions["vad", "1"].state = "approved"
    ran = waypost("push", "vad", str(folder), "--wait", "-o", "json")
    assert (ran.exit_code, json.loads(ran.stdout)["already_registered"]) == (0, True)


def test_without_it_nobody_is_waited_for(waypost: Waypost, fake: FakeApi, folder: Path) -> None:
    assert waypost("push", "vad", str(folder)).exit_code == 0
    assert not fake.requests("GET", VERSION)


def test_a_wait_that_cannot_be_read_is_told_before_anything_is_sent(
    waypost: Waypost, fake: FakeApi, folder: Path
) -> None:
    ran = waypost("push", "vad", str(folder), "--wait", "--timeout", "soon")
    assert ran.exit_code == 1
    assert not fake.seen


def test_notes_are_kept_with_the_version(waypost: Waypost, fake: FakeApi, folder: Path) -> None:
    ran = waypost("push", "vad", str(folder), "--notes", "trained on Tuesday's data")
    assert ran.exit_code == 0, ran.stderr
    (patch,) = fake.requests("PATCH", VERSION)
    assert patch.body == {"notes": "trained on Tuesday's data"}
    finalised = next(n for n, seen in enumerate(fake.seen) if seen.path.endswith("finalise"))
    assert fake.seen.index(patch) > finalised


def test_without_notes_those_that_are_there_stay(
    waypost: Waypost, fake: FakeApi, folder: Path
) -> None:
    waypost("push", "vad", str(folder))
    assert not fake.requests("PATCH", VERSION)
