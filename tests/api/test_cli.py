"""The command line against the real API: what one sends the other takes, and what one refuses the
other tells."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from django.test import Client
from waypost_cli.main import run

from controlplane.accounts.models import Scope
from controlplane.catalog.models import Version
from controlplane.domain.policy import OnFailure
from controlplane.domain.rollout import RolloutState
from controlplane.rollouts.models import Rollout
from tests.api.calls import ApiCaller
from tests.factories import (
    make_joined_site,
    make_rollout,
    make_token,
    make_version,
    version_files,
)
from tests.services.steps import one_stage, part, serving, start, turn


@dataclass(frozen=True, kw_only=True)
class Ran:
    exit_code: int
    stdout: str
    stderr: str


Waypost = Callable[..., Ran]


class InProcess(httpx2.BaseTransport):
    """Hands requests to the application, in the transaction of the test."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = Client().generic(
            request.method,
            request.url.raw_path.decode(),
            request.read(),
            request.headers.get("Content-Type", "application/octet-stream"),
            headers=dict(request.headers),
        )
        return httpx2.Response(
            response.status_code, headers=dict(response.items()), content=response.content
        )


@pytest.fixture
def waypost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], now: datetime
) -> Waypost:
    """Runs a command line in this process; its requests go straight into the application."""
    client = functools.partial(httpx2.Client, transport=InProcess())
    monkeypatch.setattr("waypost_cli.transport.httpx2.Client", client)
    monkeypatch.setenv("WAYPOST_URL", "http://localhost")
    secrets = {"ci": make_token(*Scope.values, now=now)}

    def run_it(*arguments: str, token: str = "ci") -> Ran:
        if token not in secrets:
            secrets[token] = make_token(*Scope.values, now=now, name=token)
        monkeypatch.setenv("WAYPOST_TOKEN", secrets[token])
        capsys.readouterr()
        exit_code = run(list(arguments))
        written = capsys.readouterr()
        return Ran(exit_code=int(exit_code), stdout=written.out, stderr=written.err)

    return run_it


@pytest.fixture
def fleet(now: datetime) -> None:
    for name in ("oslo", "rome"):
        make_joined_site(name, now=now)
    make_version(now=now)


def asked(ran: Ran) -> Any:
    assert ran.exit_code == 0, ran.stderr
    return json.loads(ran.stdout)


JSON = ("-o", "json")


@pytest.mark.usefixtures("fleet")
class TestPlanAndStart:
    OPTIONS = ("--strategy", "stage-everywhere", "--exclude-site", "rome")

    def test_a_start_is_the_plan_that_was_shown(self, waypost: Waypost) -> None:
        plan = asked(waypost("rollout", "plan", "vad", "1", *self.OPTIONS, *JSON))
        assert plan["barrier"] is True
        assert [entry["site"] for entry in plan["excluded"]] == ["rome"]
        tied = ("--expect-plan", plan["plan_digest"])
        rollout = asked(waypost("rollout", "start", "vad", "1", *self.OPTIONS, *tied, *JSON))
        assert rollout["plan_digest"] == plan["plan_digest"]
        assert waypost("rollout", "status", str(rollout["id"])).exit_code == 0

    def test_the_table_of_a_plan_says_limits_times_and_warnings(self, waypost: Waypost) -> None:
        ran = waypost(
            "rollout", "plan", "vad", "1", "--stage", "far tier=hyperscale", "--stage", "rest"
        )
        assert ran.exit_code == 0
        assert "stops at 1 failed of 2 and rolls back" in ran.stdout
        assert "warning: stage far: no site matches its conditions" in ran.stderr
        assert "expected end" in ran.stderr

    @pytest.mark.parametrize("command", ["plan", "start"])
    @pytest.mark.parametrize(
        ("stages", "says"),
        [
            (
                [{"name": "all", "policy": {"max_unavailable": "101%"}}],
                "stages[0].policy.max_unavailable: must be a whole number",
            ),
            (
                [{"name": "all", "policy": {"failures_tolerated": "100%"}}],
                "a limit of 100% could never trip",
            ),
            (
                [
                    {"name": "a", "select": {"sites": ["oslo"]}},
                    {"name": "b", "select": {"sites": ["oslo"]}},
                ],
                "stages[1].select.sites: 'oslo' is named by stage 'a' already",
            ),
            ([{"name": "far", "select": {"tier": "hyperscale"}}], "rollout-selects-no-site"),
        ],
    )
    def test_bad_stages_are_named(
        self, waypost: Waypost, tmp_path: Path, command: str, stages: list[Any], says: str
    ) -> None:
        path = tmp_path / "stages.json"
        path.write_text(json.dumps(stages))
        ran = waypost("rollout", command, "vad", "1", "--stages-file", str(path))
        assert ran.exit_code == 1
        assert says in ran.stderr
        assert not Rollout.objects.exists()

    @pytest.mark.parametrize("command", ["plan", "start"])
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--strategy", "none"], "strategy: There is no strategy 'none' in use."),
            (["--strategy", "canary@x"], "strategy: must be a name, or NAME@VERSION"),
            (["--start-at", "2026-12-01T22:00:00"], "start_at: has no offset from UTC"),
            (["--start-at", "2020-01-01T00:00:00Z"], "start_at: must be in the future"),
            (["--stage", "a per=moon"], "stages[0].select.per: must be one of"),
            (["--exclude-site", "oslo", "--exclude-site", "rome"], "rollout-selects-no-site"),
        ],
    )
    def test_bad_options_are_named(
        self, waypost: Waypost, command: str, options: list[str], says: str
    ) -> None:
        ran = waypost("rollout", command, "vad", "1", *options)
        assert ran.exit_code == 1
        assert says in ran.stderr
        assert not Rollout.objects.exists()

    def test_a_window_shorter_than_the_poll_interval_is_warned_of(
        self, waypost: Waypost, api: ApiCaller
    ) -> None:
        api.patch("sites/oslo", {"poll_seconds": 600})
        window = {
            "name": "short", "kind": "download", "selector": {"sites": ["oslo"]},
            "days": ["mon"], "start": "02:00", "minutes": 5,
        }  # fmt: skip
        assert api.post("windows", window).status_code == 201
        ran = waypost("rollout", "plan", "vad", "1")
        assert any("warning:" in line and "poll" in line for line in ran.stderr.splitlines())


class TestStrategies:
    def kept(self, waypost: Waypost, tmp_path: Path, **changes: object) -> Any:
        path = tmp_path / "strategy.json"
        document = {"name": "mine", "stages": [{"name": "first"}], **changes}
        path.write_text(json.dumps(document))
        return waypost("strategy", "create", str(path), *JSON)

    @pytest.mark.usefixtures("fleet")
    def test_one_edited_while_a_rollout_uses_it_changes_nothing_there(
        self, waypost: Waypost, tmp_path: Path
    ) -> None:
        asked(self.kept(waypost, tmp_path))
        rollout = asked(waypost("rollout", "start", "vad", "1", "--strategy", "mine", *JSON))
        edited = asked(self.kept(waypost, tmp_path, stages=[{"name": "second"}]))
        assert edited["version"] == 2
        status = asked(waypost("rollout", "status", str(rollout["id"]), *JSON))
        assert status["strategy"] == "mine@1"
        assert [stage["name"] for stage in status["stages"]] == ["first"]

        raced = self.kept(waypost, tmp_path, version=2)
        assert raced.exit_code == 1
        assert "The latest version of strategy 'mine' is 2" in raced.stderr

    def test_one_that_can_not_be_kept(self, waypost: Waypost, tmp_path: Path) -> None:
        stages = [{"name": "a", "policy": {"stale_tolerated": "100%"}}]
        ran = self.kept(waypost, tmp_path, stages=stages)
        assert ran.exit_code == 1
        assert "stages[0].policy.stale_tolerated: " in ran.stderr

    def test_are_listed_shown_and_retired(self, waypost: Waypost, tmp_path: Path) -> None:
        asked(self.kept(waypost, tmp_path))
        assert "mine@1" in waypost("strategy", "list").stdout
        assert "edge-first@1" in waypost("strategy", "show", "edge-first").stdout
        assert waypost("strategy", "retire", "mine").exit_code == 0
        gone = waypost("strategy", "show", "mine")
        assert gone.exit_code == 1
        assert "waypost strategy list" in gone.stderr


class TestSteering:
    def test_a_pause_by_the_engine_wants_a_choice(self, waypost: Waypost, now: datetime) -> None:
        edge = make_joined_site("edge", now=now)
        version = make_version(now=now)
        edge.broken.add(("vad", version.number))
        rollout = start(version, one_stage(on_failure=OnFailure.PAUSE), now=now)
        turn(rollout, now=now)
        turn(rollout, edge, now=now)
        number = str(rollout.pk)

        status = waypost("rollout", "status", number)
        assert status.exit_code == 4
        assert "resume wants --choice retry, accept, rollback" in status.stderr
        refused = waypost("rollout", "resume", number, "--reason", "x")
        assert refused.exit_code == 1
        assert "add --choice with one of retry, accept, rollback" in refused.stderr
        taken = waypost("rollout", "resume", number, "--choice", "retry", "--reason", "mended")
        assert taken.exit_code == 0

    def test_a_verb_in_a_wrong_state_says_what_is_allowed(
        self, waypost: Waypost, now: datetime
    ) -> None:
        paused = str(make_rollout(RolloutState.PAUSED, now=now).pk)
        for verb in ("pause", "promote"):
            ran = waypost("rollout", verb, paused, "--reason", "x")
            assert ran.exit_code == 1
            assert "allowed now: " in ran.stderr
            assert "resume" in ran.stderr

    def test_an_approval_binds_to_the_plan_and_is_never_the_authors(
        self, waypost: Waypost, tmp_path: Path, now: datetime
    ) -> None:
        make_joined_site("edge", now=now)
        make_version(now=now)
        path = tmp_path / "strategy.json"
        strategy = {
            "name": "asked",
            "stages": [{"name": "all"}],
            "approval": {"required": True},
        }
        path.write_text(json.dumps(strategy))
        waypost("strategy", "create", str(path))
        rollout = asked(waypost("rollout", "start", "vad", "1", "--strategy", "asked", *JSON))
        number, digest = str(rollout["id"]), rollout["plan_digest"]
        turn(Rollout.objects.get(), now=now)

        status = waypost("rollout", "status", number)
        assert status.exit_code == 4
        assert f"waypost rollout approve {number} --plan {digest}" in status.stderr
        other = waypost("rollout", "approve", number, "--plan", "sha256:0", token="chief")
        assert other.exit_code == 1
        assert "code plan-changed" in other.stderr
        own = waypost("rollout", "approve", number, "--plan", digest)
        assert "code approver-is-author" in own.stderr
        assert waypost("rollout", "approve", number, "--plan", digest, token="chief").exit_code == 0
        assert turn(Rollout.objects.get(), now=now).state == "running"

    def test_a_rollback_ends_without_whom_it_waits_for(
        self, waypost: Waypost, now: datetime
    ) -> None:
        rollout = make_rollout(RolloutState.RUNNING, now=now)
        number = str(rollout.pk)
        order = ("rollout", "stop-waiting", number, "--reason", "it loops")
        early = waypost(*order)
        assert early.exit_code == 1
        assert "allowed now: " in early.stderr
        assert waypost("rollout", "rollback", number, "--reason", "noisy").exit_code == 0
        taken = waypost(*order)
        assert taken.exit_code == 0
        assert "by token:ci: it loops" in taken.stdout
        assert turn(rollout, now=now).state == RolloutState.ROLLBACK_INCOMPLETE

    def test_one_site_is_rolled_back(self, waypost: Waypost, now: datetime) -> None:
        edge = make_joined_site("edge", now=now)
        serving([edge], now=now)
        rollout = make_rollout(
            RolloutState.RUNNING, version=make_version(now=now), agents=[edge], now=now
        )
        arguments = ("rollout", "rollback", str(rollout.pk), "--reason", "noisy", "--site")
        assert "nothing-to-return" in waypost(*arguments, "none").stderr
        assert waypost(*arguments, "edge").exit_code == 0
        assert part(rollout, edge, "rollback").state == "offered"

    def test_a_verdict_a_freeze_and_a_quarantine_reach_the_rollout(
        self, waypost: Waypost, now: datetime
    ) -> None:
        make_joined_site("edge", now=now)
        rollout = start(make_version(now=now), one_stage(gates=("latency",)), now=now)
        number = str(rollout.pk)
        gate = waypost("gate", number, "all", "latency", "pass", "--fresh", "10m", *JSON)
        assert asked(gate)["verdict"] == "pass"
        frozen = asked(waypost("freeze", "--reason", "month end", *JSON))
        turn(rollout, now=now)
        assert turn(rollout, now=now).reason_code == "held-by-person"
        assert waypost("freeze", "lift", str(frozen["id"])).exit_code == 0
        assert waypost("quarantine", "vad", "1", "--reason", "leaks memory").exit_code == 0
        assert turn(rollout, now=now).pause_code == "version-withdrawn"
        status = waypost("rollout", "status", number)
        assert status.exit_code == 4
        assert "leaks memory" in status.stderr
        assert waypost("release", "vad", "1", "--reason", "mended").exit_code == 0

    def test_a_site_deleted_while_it_activates_is_shown_as_removed(
        self, waypost: Waypost, api: ApiCaller, now: datetime
    ) -> None:
        agents = [make_joined_site(name, now=now) for name in ("oslo", "rome")]
        rollout = make_rollout(
            RolloutState.RUNNING, version=make_version(now=now), agents=agents, now=now
        )
        agents[0].begin("vad", now=now)
        assert api.delete("sites/oslo?reason=closed").status_code == 204
        turn(rollout, now=now)
        ran = waypost("rollout", "status", str(rollout.pk))
        assert ran.exit_code == 0
        assert "removed" in ran.stdout
        assert "the site was retired" in ran.stdout

    def test_pins_drift_the_budget_and_events(self, waypost: Waypost, now: datetime) -> None:
        edge = make_joined_site("edge", now=now)
        serving([edge], now=now)
        assert "token:ci" in waypost("pin", "edge", "vad", "--reason", "a demo").stdout
        assert waypost("unpin", "edge", "vad").exit_code == 0
        edge.report("vad", "succeeded", now=now + timedelta(seconds=1), serving=7)
        (drift,) = asked(waypost("drift", *JSON))
        assert (drift["site"], drift["reported"]) == ("edge", "7")
        assert "hold" in waypost("drift", "policy", "vad", "hold").stdout
        assert waypost("budget", "--changing-percent", "10").exit_code == 0
        assert asked(waypost("budget", *JSON)) == {"changing_percent": 10}
        bad = waypost("budget", "--changing-percent", "200")
        assert "changing_percent: must be a whole number from 1 to 100" in bad.stderr
        number = str(Rollout.objects.get().pk)
        assert "rollout.created" in waypost("rollout", "events", number).stdout


class TestTokens:
    def test_made_listed_and_ended(self, waypost: Waypost) -> None:
        made = waypost("tokens", "create", "deploy", "--scope", "push", "--model", "vad")
        assert (made.exit_code, made.stdout.count("\n")) == (0, 1)
        assert made.stdout.startswith("wpt_")

        listed = json.loads(waypost("tokens", "list", "--output", "json").stdout)
        (deploy,) = [token for token in listed if token["name"] == "deploy"]
        assert (deploy["scopes"], deploy["models"]) == (["push"], ["vad"])

        ended = waypost("tokens", "revoke", str(deploy["id"]), "--reason", "lost")
        assert ended.exit_code == 0
        assert "deploy" not in waypost("tokens", "list").stdout
        assert "deploy" in waypost("tokens", "list", "--all").stdout

    def test_no_more_than_it_has(self, waypost: Waypost) -> None:
        made = waypost("tokens", "create", "x", "--scope", "push", "--days", "300")
        assert made.exit_code == 1
        assert "token-grants-too-much" in made.stderr

    def test_a_publisher(self, waypost: Waypost) -> None:
        added = waypost(
            "publishers", "add", "vad-main", "--issuer", "https://issuer.example",
            "--claim", "repository=acme/vad", "--claim", "ref=refs/heads/main",
            "--scope", "push", "--model", "vad",
        )  # fmt: skip
        assert added.exit_code == 0, added.stderr
        assert "repository=acme/vad" in waypost("publishers", "list").stdout

        assert waypost("publishers", "revoke", "vad-main").exit_code == 0


CONFIG_OF_ANOTHER = """name: "other"
backend: "onnxruntime"
input [ { name: "x" data_type: TYPE_FP32 dims: [4] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [1] } ]
"""


class TestADryRun:
    def fill(self, folder: Path) -> Path:
        golden = {
            "schema": "waypost.golden/1",
            "requests": [
                {
                    "name": "four",
                    "inputs": [{"name": "x", "datatype": "FP32", "shape": [4], "data": [1, 2, 3]}],
                    "outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1]}],
                }
            ],
        }
        (folder / "config.pbtxt").write_text(CONFIG_OF_ANOTHER)
        (folder / "golden.json").write_text(json.dumps(golden))
        (folder / "model.onnx").write_bytes(b"weights")
        (folder / "libtriton_onnxruntime.so").write_bytes(b"\x7fELF")
        return folder

    def test_three_mistakes_are_all_named_and_nothing_is_kept(
        self, waypost: Waypost, tmp_path: Path
    ) -> None:
        ran = waypost("push", "vad", str(self.fill(tmp_path)), "--dry-run", "--output", "json")

        assert ran.exit_code == 1
        told = json.loads(ran.stdout)["findings"]
        assert {(each["file"], each["level"]) for each in told} == {
            ("config.pbtxt", "fault"),
            ("golden.json", "fault"),
            ("libtriton_onnxruntime.so", "fault"),
        }
        assert "3 faults" in ran.stderr
        assert not Version.objects.exists()

    def test_a_folder_that_is_right_is_said_to_be(self, waypost: Waypost, tmp_path: Path) -> None:
        for path, data in version_files("dry").items():
            (tmp_path / path).write_bytes(data)

        ran = waypost("push", "vad", str(tmp_path), "--dry-run")

        assert ran.exit_code == 0, ran.stderr
        assert "a push would be: create" in ran.stderr
        assert not Version.objects.exists()
