"""Freezes, the budget, strategies, gates, quarantine, pins and drift from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Waypost
from fake_api import FakeApi, problem

FREEZE = {
    "id": 3,
    "selector": {"tier": "edge", "labels": {"ring": "0"}},
    "sites": 12,
    "reason": "month end",
    "created_by": "user:ann",
    "created_at": "2026-11-23T13:00:00Z",
    "until": None,
}
STRATEGY = {
    "name": "night-shift",
    "version": 2,
    "title": "The edge by night",
    "stages": [
        {"name": "edge", "select": {"tier": "edge"}, "soak_seconds": 60.0,
         "policy": {"max_unavailable": "10%"}},
        {"name": "late", "select": {}, "soak_seconds": 0.0, "trailing": True},
    ],
    "barrier": True,
    "late_joiners": True,
    "approval": {"required": True, "by_other": True},
    "built_in": False,
    "retired": False,
}  # fmt: skip


def last_body(fake: FakeApi, method: str) -> dict[str, Any]:
    return fake.requests(method)[-1].body


class TestFreeze:
    def test_sends_its_selector_and_reason(self, waypost: Waypost, fake: FakeApi) -> None:
        fake.answers["POST", "freezes"] = FREEZE
        ran = waypost(
            "freeze", "--site", "a", "--site", "b", "--label", "ring=0", "--tier", "edge",
            "--region", "eu", "--reason", "month end", "--until", "2026-12-01T06:00:00Z",
        )  # fmt: skip
        assert ran.exit_code == 0, ran.stderr
        assert last_body(fake, "POST") == {
            "selector": {
                "sites": ["a", "b"],
                "labels": {"ring": "0"},
                "tier": "edge",
                "region": "eu",
            },
            "reason": "month end",
            "until": "2026-12-01T06:00:00Z",
        }
        assert "freeze 3 holds 12 sites; to end it: waypost freeze lift 3" in ran.stderr
        assert "tier edge; labels ring=0" in ran.stdout

    def test_of_everything_has_no_condition(self, waypost: Waypost, fake: FakeApi) -> None:
        fake.answers["POST", "freezes"] = {**FREEZE, "selector": {}}
        ran = waypost("freeze", "--reason", "month end")
        assert last_body(fake, "POST")["selector"] == {}
        assert "every site" in ran.stdout

    def test_wants_a_reason(self, waypost: Waypost, fake: FakeApi) -> None:
        ran = waypost("freeze", "--tier", "edge")
        assert ran.exit_code == 1
        assert "a freeze needs a reason" in ran.stderr
        assert fake.seen == []

    def test_those_in_force_are_listed_and_lifted(self, waypost: Waypost, fake: FakeApi) -> None:
        fake.lists["freezes"] = [FREEZE]
        fake.answers["POST", "freezes/3/lift"] = FREEZE
        listed = waypost("freeze", "list", "-o", "json")
        assert json.loads(listed.stdout)[0]["id"] == 3
        assert fake.requests("GET", "freezes")[0].query == {"active": "true"}
        waypost("freeze", "list", "--all")
        assert fake.requests("GET", "freezes")[1].query == {}
        assert waypost("freeze", "lift", "3", "--reason", "over").exit_code == 0
        assert last_body(fake, "POST") == {"reason": "over"}

    def test_a_number_that_is_none(self, waypost: Waypost, fake: FakeApi) -> None:
        ran = waypost("freeze", "lift", "all")
        assert "'all' is not the number of a freeze" in ran.stderr
        assert "waypost freeze list" in ran.stderr
        assert fake.seen == []

    def test_without_the_scope(self, waypost: Waypost, fake: FakeApi) -> None:
        fake.intervene("POST", "freezes", problem(403, "scope-missing", needed="freeze"))
        ran = waypost("freeze", "--reason", "x")
        assert ran.exit_code == 1
        assert "use one that has the scope for it" in ran.stderr


class TestBudget:
    def test_is_shown_and_set(self, waypost: Waypost, fake: FakeApi) -> None:
        fake.answers["GET", "budget"] = {"changing_percent": 10}
        fake.answers["PUT", "budget"] = {"changing_percent": 5}
        assert "10" in waypost("budget").stdout
        waypost("budget", "--changing-percent", "5%", "--reason", "winter")
        assert last_body(fake, "PUT") == {"changing_percent": 5, "reason": "winter"}
        waypost("budget", "--changing-percent", "none")
        assert last_body(fake, "PUT") == {"changing_percent": None}

    def test_that_is_no_share(self, waypost: Waypost, fake: FakeApi) -> None:
        ran = waypost("budget", "--changing-percent", "half")
        assert "'half' is no share of sites" in ran.stderr
        assert fake.seen == []


class TestStrategies:
    def test_are_listed_and_shown(self, waypost: Waypost, fake: FakeApi) -> None:
        fake.answers["GET", "strategies"] = [STRATEGY]
        fake.answers["GET", "strategies/night-shift"] = STRATEGY
        listed = waypost("strategy", "list").stdout
        assert "night-shift@2" in listed
        assert "edge, late" in listed
        shown = waypost("strategy", "show", "night-shift@2").stdout
        assert fake.requests("GET")[-1].query == {"version": "2"}
        for words in ("needs approval", "barrier", "max_unavailable 10%", "trailing", "tier edge"):
            assert words in shown
        assert json.loads(waypost("strategy", "show", "night-shift", "-o", "json").stdout)

    def test_are_kept_from_a_file(self, waypost: Waypost, fake: FakeApi, tmp_path: Path) -> None:
        fake.answers["POST", "strategies"] = STRATEGY
        path = tmp_path / "night.json"
        path.write_text(json.dumps({"name": "night-shift", "stages": [{"name": "edge"}]}))
        ran = waypost("strategy", "create", str(path))
        assert last_body(fake, "POST") == {"name": "night-shift", "stages": [{"name": "edge"}]}
        assert "kept as night-shift@2" in ran.stderr

    @pytest.mark.parametrize(
        ("content", "says"),
        [("{", "is not JSON"), ("[]", "holds no object"), (None, "cannot be read")],
    )
    def test_a_file_that_can_not_be_used(
        self, waypost: Waypost, fake: FakeApi, tmp_path: Path, content: str | None, says: str
    ) -> None:
        path = tmp_path / "night.json"
        if content is not None:
            path.write_text(content)
        ran = waypost("strategy", "create", str(path))
        assert ran.exit_code == 1
        assert says in ran.stderr
        assert fake.seen == []

    def test_an_edit_that_raced_another_is_refused(
        self, waypost: Waypost, fake: FakeApi, tmp_path: Path
    ) -> None:
        detail = "The latest version of strategy 'night-shift' is 2; look at it, then send 3."
        refusal = problem(409, "strategy-changed", detail=detail, latest_version=2)
        fake.intervene("POST", "strategies", refusal)
        path = tmp_path / "night.json"
        path.write_text(json.dumps(STRATEGY))
        ran = waypost("strategy", "create", str(path))
        assert ran.exit_code == 1
        assert detail in ran.stderr

    def test_are_retired(self, waypost: Waypost, fake: FakeApi) -> None:
        fake.answers["POST", "strategies/night-shift/retire"] = {**STRATEGY, "retired": True}
        ran = waypost("strategy", "retire", "night-shift", "--reason", "too slow")
        assert last_body(fake, "POST") == {"reason": "too slow"}
        assert "retired" in ran.stdout


class TestGate:
    PATH = "rollouts/1/stages/canary/gates/latency"

    def test_a_verdict_is_sent_with_its_evidence(self, waypost: Waypost, fake: FakeApi) -> None:
        fake.answers["PUT", self.PATH] = {"gate": "latency", "verdict": "fail"}
        ran = waypost(
            "gate", "1", "canary", "latency", "fail", "--reason", "p99 is 2 s",
            "--evidence", "p99_ms=2000", "--fresh", "10m",
        )  # fmt: skip
        assert ran.exit_code == 0, ran.stderr
        assert last_body(fake, "PUT") == {
            "verdict": "fail",
            "reason": "p99 is 2 s",
            "evidence": {"p99_ms": "2000"},
            "fresh_seconds": 600,
        }
        assert "latency" in ran.stdout

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["1", "canary", "latency", "maybe"], "maybe"),
            (["1", "canary", "latency", "fail"], "a failing gate says why"),
            (["vad", "canary", "latency", "pass"], "'vad' is not the number of a rollout"),
            (["1", "can/ary", "latency", "pass"], "'can/ary' is not a name"),
            (["1", "canary", "latency", "pass", "--fresh", "soon"], "is not a duration"),
        ],
    )
    def test_a_mistake_sends_nothing(
        self, waypost: Waypost, fake: FakeApi, arguments: list[str], says: str
    ) -> None:
        ran = waypost("gate", *arguments)
        assert ran.exit_code == 1
        assert says in ran.stderr
        assert fake.seen == []


class TestVersions:
    def test_are_quarantined_and_released(self, waypost: Waypost, fake: FakeApi) -> None:
        version = {"model": "vad", "version": "2", "state": "quarantined"}
        fake.answers["POST", "models/vad/versions/2/quarantine"] = version
        fake.answers["POST", "models/vad/versions/2/release"] = {**version, "state": "registered"}
        ran = waypost("quarantine", "vad", "2", "--reason", "leaks memory", "--roll-back")
        assert last_body(fake, "POST") == {"reason": "leaks memory", "roll_back": True}
        assert "vad version 2 is quarantined" in ran.stderr
        waypost("release", "vad", "2", "--reason", "mended")
        assert last_body(fake, "POST") == {"reason": "mended"}

    @pytest.mark.parametrize("verb", ["quarantine", "release"])
    def test_want_a_reason(self, waypost: Waypost, fake: FakeApi, verb: str) -> None:
        ran = waypost(verb, "vad", "2")
        assert ran.exit_code == 1
        assert "--reason" in ran.stderr
        assert fake.seen == []


class TestDrift:
    def test_is_listed_with_since_when(self, waypost: Waypost, fake: FakeApi) -> None:
        row = {
            "site": "oslo", "model": "vad", "desired": "2", "reported": "1",
            "since": "2026-11-23T13:00:00Z", "drift_policy": "hold", "pinned_by": "",
        }  # fmt: skip
        fake.lists["drift"] = [row]
        shown = waypost("drift", "--model", "vad").stdout
        assert fake.requests("GET")[0].query == {"model": "vad"}
        for words in ("oslo", "2026-11-23T13:00:00Z", "hold"):
            assert words in shown

    def test_its_policy_is_the_models(self, waypost: Waypost, fake: FakeApi) -> None:
        fake.answers["PATCH", "models/vad"] = {"name": "vad", "drift_policy": "adopt"}
        ran = waypost("drift", "policy", "vad", "adopt")
        assert last_body(fake, "PATCH") == {"drift_policy": "adopt"}
        assert "adopt" in ran.stdout
        assert waypost("drift", "policy", "vad", "guess").exit_code == 1

    def test_pins_hold_a_model_at_a_site(self, waypost: Waypost, fake: FakeApi) -> None:
        pin = {"site": "oslo", "model": "vad", "desired": "1", "pinned_by": "token:ci"}
        fake.answers["POST", "sites/oslo/models/vad/pin"] = pin
        fake.answers["POST", "sites/oslo/models/vad/unpin"] = {**pin, "pinned_by": ""}
        assert "token:ci" in waypost("pin", "oslo", "vad", "--reason", "a demo").stdout
        assert last_body(fake, "POST") == {"reason": "a demo"}
        assert waypost("unpin", "oslo", "vad").exit_code == 0
        assert waypost("pin", "oslo", "vad").exit_code == 1


@pytest.mark.parametrize(
    "command", [["freeze", "list"], ["strategy", "list"], ["drift"], ["budget"]]
)
def test_junit_is_not_for_these(waypost: Waypost, fake: FakeApi, command: list[str]) -> None:
    ran = waypost(*command, "--output", "junit")
    assert ran.exit_code == 1
    assert fake.seen == []
