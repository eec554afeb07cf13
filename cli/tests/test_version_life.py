"""Approvals, retirement, labels and channels from the command line."""

from typing import Any

import pytest
from conftest import Waypost
from fake_api import FakeApi, problem

DIGEST = "sha256:" + "a" * 64
VERSION: dict[str, Any] = {
    "model": "vad",
    "version": "2",
    "state": "validated",
    "state_reason": "needs 2 approvals by others than ana; has 1 (bo)",
    "manifest_digest": DIGEST,
    "content_class": "executable",
    "author": "ana",
    "labels": {"team": "asr", "old": "1"},
    "channels": ["stable"],
    "approval": {"counted": ["bo"]},
    "warnings": ["config.pbtxt:3 version_policy: it has no effect."],
}
PATH = "models/vad/versions/2"
CHANNEL = {"model": "vad", "name": "stable", "version": "2", "strategy": "canary", "outcome": ""}


@pytest.fixture(autouse=True)
def _answers(fake: FakeApi) -> None:
    fake.answers["GET", PATH] = VERSION
    fake.answers["PATCH", PATH] = VERSION
    for verb in ("approve", "withdraw-approval", "retire", "unretire"):
        fake.answers["POST", f"{PATH}/{verb}"] = VERSION
    fake.answers["PUT", "models/vad/channels/stable"] = CHANNEL
    fake.answers["DELETE", "models/vad/channels/stable"] = {}
    fake.lists["models/vad/channels"] = [CHANNEL]
    fake.lists["models/vad/versions"] = [VERSION]


def last_body(fake: FakeApi, method: str) -> dict[str, Any]:
    return fake.requests(method)[-1].body


def test_an_approval_names_the_bytes_that_are_there(waypost: Waypost, fake: FakeApi) -> None:
    ran = waypost("approve", "vad", "2", "--reason", "read it")
    assert ran.exit_code == 0
    assert last_body(fake, "POST") == {"manifest_digest": DIGEST, "reason": "read it"}
    assert "needs 2 approvals by others than ana" in " ".join(ran.stdout.split())


def test_or_the_bytes_that_were_looked_at(waypost: Waypost, fake: FakeApi) -> None:
    other = "sha256:" + "b" * 64
    fake.intervene("POST", f"{PATH}/approve", problem(409, "approval-other-bytes"))
    ran = waypost("approve", "vad", "2", "--digest", other)
    assert ran.exit_code == 1
    assert "approval-other-bytes" in ran.stderr
    assert last_body(fake, "POST") == {"manifest_digest": other}
    assert fake.requests("GET") == []


@pytest.mark.parametrize(
    ("command", "verb"),
    [
        (["version", "withdraw"], "withdraw-approval"),
        (["retire"], "retire"),
        (["unretire"], "unretire"),
    ],
)
def test_steps_back_want_a_reason(
    waypost: Waypost, fake: FakeApi, command: list[str], verb: str
) -> None:
    assert waypost(*command, "vad", "2").exit_code == 1
    assert fake.seen == []
    assert waypost(*command, "vad", "2", "--reason", "it is old").exit_code == 0
    assert fake.seen[-1].path.endswith(f"/{verb}")
    assert last_body(fake, "POST") == {"reason": "it is old"}


def test_a_version_is_shown_with_what_it_waits_for(waypost: Waypost, fake: FakeApi) -> None:
    ran = waypost("version", "show", "vad", "2")
    for words in ("validated", "executable", "stable", "bo"):
        assert words in ran.stdout
    assert "it has no effect" in ran.stderr
    assert "team=asr" in waypost("version", "list", "vad").stdout


def test_labels_are_set_and_removed_and_the_others_stay(waypost: Waypost, fake: FakeApi) -> None:
    assert waypost("version", "label", "vad", "2", "stage=prod", "old-").exit_code == 0
    assert last_body(fake, "PATCH") == {"labels": {"team": "asr", "stage": "prod"}}
    assert waypost("version", "label", "vad", "2", "nonsense").exit_code == 1
    waypost("version", "note", "vad", "2", "good at night")
    assert last_body(fake, "PATCH") == {"notes": "good at night"}


def test_channels_are_moved_listed_and_removed(waypost: Waypost, fake: FakeApi) -> None:
    move = ["channel", "move", "vad", "stable", "2", "--reason", "it is good"]
    ran = waypost(*move, "--strategy", "canary")
    assert last_body(fake, "PUT") == {"version": "2", "strategy": "canary", "reason": "it is good"}
    assert "vad@stable points at version 2" in ran.stderr
    waypost(*move)
    assert last_body(fake, "PUT") == {"version": "2", "reason": "it is good"}
    waypost(*move, "--strategy", "none")
    assert last_body(fake, "PUT")["strategy"] == ""
    assert "canary" in waypost("channel", "list", "vad").stdout
    assert waypost("channel", "remove", "vad", "stable").exit_code == 0
    assert fake.seen[-1].method == "DELETE"
