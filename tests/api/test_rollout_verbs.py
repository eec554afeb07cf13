"""What people may do to a rollout through the API, and what they are told when they may not."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.accounts.models import Scope
from controlplane.domain.policy import OnFailure
from controlplane.domain.rollout import RolloutState
from controlplane.domain.stages import StageSpec
from controlplane.domain.strategies import StrategySpec
from controlplane.rollouts.freezes import freeze_sites
from controlplane.rollouts.models import GateVerdict, Rollout
from controlplane.rollouts.services import advance_rollout
from tests.api.calls import ApiCaller, assert_problem, fields
from tests.factories import make_joined_site, make_rollout, make_version
from tests.services.steps import canary_then_rest, one_stage, part, parts, serving, start, turn

BY: dict[str, Any] = {"actor": "user:ann", "reason": "because"}
WHY = {"reason": "look at it"}
VERBS = ["pause", "resume", "promote", "abort", "rollback", "retry-failed", "stop-waiting"]


@pytest.mark.parametrize(
    ("state", "verb", "after"),
    [
        (RolloutState.RUNNING, "pause", "paused"),
        (RolloutState.PAUSED, "resume", "running"),
        (RolloutState.RUNNING, "abort", "cancelling"),
        (RolloutState.PLANNED, "abort", "cancelling"),
        (RolloutState.PAUSED, "rollback", "rolling_back"),
    ],
)
def test_a_verb_does_what_it_says(
    state: RolloutState, verb: str, after: str, api: ApiCaller, now: datetime
) -> None:
    rollout = make_rollout(state, now=now)

    response = api.post(f"rollouts/{rollout.pk}/{verb}", WHY)

    assert response.status_code == 200
    assert response.json()["state"] == after
    if verb != "resume":
        assert "token:ci" in response.json()["reason"]
        assert "look at it" in response.json()["reason"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_is_not_possible_says_what_is(verb: str, api: ApiCaller, now: datetime) -> None:
    rollout = make_rollout(RolloutState.SUCCEEDED, now=now)
    response = api.post(f"rollouts/{rollout.pk}/{verb}", {"reason": "x"})
    assert assert_problem(response, 409, "verb-not-allowed")["allowed_verbs"] == []

    paused = make_rollout(RolloutState.PAUSED, version=make_version("ocr", now=now), now=now)
    refused = api.post(f"rollouts/{paused.pk}/pause", {"reason": "x"})
    allowed = assert_problem(refused, 409, "verb-not-allowed")["allowed_verbs"]
    assert {"resume", "abort", "rollback"} <= set(allowed)
    assert "pause" not in allowed


def test_a_rollback_ends_without_a_site_that_never_does(api: ApiCaller, now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    api.post(f"rollouts/{rollout.pk}/rollback", WHY)
    assert "stop-waiting" in api.get(f"rollouts/{rollout.pk}").json()["allowed_verbs"]

    response = api.post(f"rollouts/{rollout.pk}/stop-waiting", {"reason": "it loops"})
    assert response.status_code == 200
    assert ": by token:ci: it loops" in response.json()["reason"]
    assert turn(rollout, now=now).state == RolloutState.ROLLBACK_INCOMPLETE


def test_an_abort_that_waits_for_nobody_has_nothing_to_stop(api: ApiCaller, now: datetime) -> None:
    rollout = make_rollout(RolloutState.PLANNED, now=now)
    api.post(f"rollouts/{rollout.pk}/abort", WHY)
    response = api.post(f"rollouts/{rollout.pk}/stop-waiting", WHY)
    assert_problem(response, 409, "nothing-waited-for")


@pytest.mark.parametrize("verb", ["abort", "rollback", "promote", "stop-waiting"])
@pytest.mark.parametrize("body", [b"", {}, {"reason": ""}, {"reason": "  "}])
def test_grave_verbs_want_a_reason(verb: str, body: object, api: ApiCaller, now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    response = api.post(f"rollouts/{rollout.pk}/{verb}", body)
    assert_problem(response, 422, "reason-required")


@pytest.mark.parametrize("reason", ["x" * 401, "\0", 5.5, None, ["x"], {}])
def test_a_reason_that_can_not_be_kept(reason: object, api: ApiCaller, now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    response = api.post(f"rollouts/{rollout.pk}/pause", {"reason": reason})
    if reason == 5.5:
        assert response.status_code == 200
    else:
        assert response.status_code in (400, 422)
        rollout.refresh_from_db()
        assert rollout.state == RolloutState.RUNNING


@pytest.mark.parametrize("verb", [*VERBS, "approve"])
def test_a_mistyped_option_is_not_silently_no_option(
    verb: str, api: ApiCaller, now: datetime
) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    response = api.post(f"rollouts/{rollout.pk}/{verb}", {"reason": "x", "sites": "edge"})
    document = assert_problem(response, 422, "invalid-request")
    assert document["errors"][0]["field"] == "sites"
    assert "reason" in document["errors"][0]["message"]
    rollout.refresh_from_db()
    assert rollout.state == RolloutState.RUNNING


def test_the_longest_reason_fits(api: ApiCaller, now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    response = api.post(f"rollouts/{rollout.pk}/rollback", {"reason": "\u20ac" * 400})
    assert response.status_code == 200


def test_an_unknown_rollout(api: ApiCaller) -> None:
    for verb in VERBS:
        assert_problem(api.post(f"rollouts/404/{verb}", {"reason": "x"}), 404, "rollout-unknown")


class TestResume:
    @pytest.fixture
    def stopped(self, now: datetime) -> Rollout:
        """Paused by the engine: its only site failed."""
        edge = make_joined_site("edge", now=now)
        version = make_version(now=now)
        edge.broken.add(("vad", version.number))
        rollout = start(version, one_stage(on_failure=OnFailure.PAUSE), now=now)
        turn(rollout, now=now)
        return turn(rollout, edge, now=now)

    def test_after_a_pause_by_the_engine_wants_a_choice(
        self, stopped: Rollout, api: ApiCaller
    ) -> None:
        document = assert_problem(
            api.post(f"rollouts/{stopped.pk}/resume", WHY), 409, "choice-required"
        )
        assert document["choices"] == ["retry", "accept", "rollback"]
        assert document["pause_code"] == "stage-failed"

    def test_with_a_choice_but_no_reason(self, stopped: Rollout, api: ApiCaller) -> None:
        response = api.post(f"rollouts/{stopped.pk}/resume", {"choice": "retry"})
        assert_problem(response, 422, "reason-required")

    @pytest.mark.parametrize(
        ("choice", "state"), [("retry", "running"), ("accept", "running"), ("rollback", None)]
    )
    def test_does_what_was_chosen(
        self, choice: str, state: str | None, stopped: Rollout, api: ApiCaller
    ) -> None:
        body = {"choice": choice, "reason": "seen to"}
        document = api.post(f"rollouts/{stopped.pk}/resume", body).json()
        assert document["state"] == (state or "rolling_back")
        attempts = [row["attempt"] for row in document["stages"][0]["deployments"]]
        assert (2 in attempts) == (choice == "retry")

    @pytest.mark.parametrize("choice", ["ignore", "", 1, ["retry"]])
    def test_with_a_choice_that_is_none(
        self, choice: object, stopped: Rollout, api: ApiCaller
    ) -> None:
        body = {"choice": choice, "reason": "x"}
        response = api.post(f"rollouts/{stopped.pk}/resume", body)
        assert fields(assert_problem(response, 422, "invalid-request")) == ["choice"]


class TestPromote:
    def test_ends_a_soak(self, api: ApiCaller, now: datetime) -> None:
        edge = make_joined_site("edge", now=now)
        rollout = start(make_version(now=now), one_stage(soak_seconds=3600), now=now)
        turn(rollout, now=now)
        turn(rollout, edge, now=now)

        document = api.post(f"rollouts/{rollout.pk}/promote", WHY).json()

        assert document["stages"][0]["promoted_at"]
        assert turn(rollout, edge, now=now + timedelta(seconds=5)).state == "succeeded"

    def test_when_nothing_soaks(self, api: ApiCaller, now: datetime) -> None:
        rollout = make_rollout(RolloutState.RUNNING, now=now)
        response = api.post(f"rollouts/{rollout.pk}/promote", WHY)
        assert "abort" in assert_problem(response, 409, "nothing-soaks")["allowed_verbs"]


class TestRetryFailed:
    def test_tries_the_failed_sites_again_at_once(self, api: ApiCaller, now: datetime) -> None:
        edge = make_joined_site("edge", now=now)
        version = make_version(now=now)
        edge.broken.add(("vad", version.number))
        rollout = start(version, one_stage(on_failure=OnFailure.PAUSE), now=now)
        turn(rollout, now=now)
        turn(rollout, edge, now=now)

        document = api.post(f"rollouts/{rollout.pk}/retry-failed", WHY).json()

        (row,) = document["stages"][0]["deployments"]
        assert (row["attempt"], row["state"], row["not_before"]) == (2, "pending", None)

    def test_when_nothing_failed(self, api: ApiCaller, now: datetime) -> None:
        rollout = make_rollout(RolloutState.RUNNING, now=now)
        response = api.post(f"rollouts/{rollout.pk}/retry-failed", WHY)
        assert_problem(response, 409, "nothing-failed")


class TestRollBack:
    @pytest.fixture
    def halfway(self, now: datetime) -> Rollout:
        """The edge has the new version, the core is at it."""
        agents = [make_joined_site("edge", now=now)]
        agents.append(make_joined_site("core", tier="regional", now=now))
        serving(agents, now=now)
        rollout = start(make_version(now=now), canary_then_rest(), now=now)
        turn(rollout, now=now)
        for _ in range(3):
            turn(rollout, agents[0], now=now)
        assert parts(rollout) == {"edge": "succeeded", "core": "offered"}
        return rollout

    def test_of_one_site_leaves_the_others(self, halfway: Rollout, api: ApiCaller) -> None:
        body = {"site": "edge", "reason": "noisy"}
        document = api.post(f"rollouts/{halfway.pk}/rollback", body).json()
        assert document["state"] == "running"
        assert parts(halfway, "rollback") == {"edge": "offered"}
        assert parts(halfway)["core"] == "offered"

    def test_of_one_stage(self, halfway: Rollout, api: ApiCaller) -> None:
        body = {"stage": "rest", "reason": "noisy"}
        assert api.post(f"rollouts/{halfway.pk}/rollback", body).json()["state"] == "running"
        assert parts(halfway, "rollback") == {"core": "offered"}

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({"site": "none"}, 409, "nothing-to-return"),
            ({"stage": "none"}, 404, "stage-unknown"),
            ({"stage": "canary", "site": "core"}, 409, "nothing-to-return"),
            ({"site": ["edge"]}, 422, "invalid-request"),
            ({"site": ""}, 422, "invalid-request"),
        ],
    )
    def test_of_what_is_not_there(
        self, body: dict[str, Any], status: int, code: str, halfway: Rollout, api: ApiCaller
    ) -> None:
        response = api.post(f"rollouts/{halfway.pk}/rollback", {**body, "reason": "noisy"})
        assert_problem(response, status, code)
        assert parts(halfway, "rollback") == {}

    def test_in_a_freeze_needs_the_right_to_freeze(
        self, halfway: Rollout, with_scopes: Callable[..., ApiCaller], now: datetime
    ) -> None:
        freeze_sites(selector={}, until=None, **BY, now=now)
        path, body = f"rollouts/{halfway.pk}/rollback", {"reason": "noisy"}

        document = assert_problem(with_scopes(Scope.ROLLOUT).post(path, body), 403, "frozen")
        assert "frozen by user:ann" in document["detail"]

        may = with_scopes(Scope.ROLLOUT, Scope.FREEZE, name="chief")
        assert may.post(path, body).json()["state"] == "rolling_back"


class TestApproval:
    @pytest.fixture
    def asked(self, now: datetime) -> Rollout:
        make_joined_site("edge", now=now)
        strategy = StrategySpec(
            name="asked", version=1, stages=(StageSpec(name="all", soak_seconds=0),),
            approval_required=True,
        )  # fmt: skip
        rollout = start(make_version(now=now), strategy=strategy, now=now)
        return turn(rollout, now=now)

    def test_lets_it_begin(self, asked: Rollout, api: ApiCaller, now: datetime) -> None:
        assert asked.reason_code == "approval-pending"
        body = {"plan_digest": asked.plan_digest, "reason": "seen"}
        assert api.post(f"rollouts/{asked.pk}/approve", body).status_code == 200
        assert turn(asked, now=now).state == "running"

    def test_of_a_plan_that_has_changed(self, asked: Rollout, api: ApiCaller) -> None:
        body = {"plan_digest": "sha256:" + "0" * 64}
        document = assert_problem(
            api.post(f"rollouts/{asked.pk}/approve", body), 409, "plan-changed"
        )
        assert document["plan_digest"] == asked.plan_digest

    def test_wants_the_digest_of_what_was_looked_at(self, asked: Rollout, api: ApiCaller) -> None:
        response = api.post(f"rollouts/{asked.pk}/approve", {"reason": "blindly"})
        assert fields(assert_problem(response, 422, "invalid-request")) == ["plan_digest"]

    def test_is_never_the_authors(
        self, with_scopes: Callable[..., ApiCaller], now: datetime
    ) -> None:
        make_joined_site("edge", now=now)
        make_version(now=now)
        caller = with_scopes(Scope.ROLLOUT, name="author")
        caller.post(
            "strategies",
            {"name": "asked", "stages": [{"name": "all"}], "approval": {"required": True}},
        )
        rollout = caller.post(
            "rollouts", {"model": "vad", "version": "1", "strategy": "asked"}
        ).json()
        body = {"plan_digest": rollout["plan_digest"]}
        path = f"rollouts/{rollout['id']}/approve"
        assert_problem(caller.post(path, body), 403, "approver-is-author")
        assert with_scopes(Scope.ROLLOUT, name="other").post(path, body).status_code == 200

    def test_that_nobody_waits_for(self, api: ApiCaller, now: datetime) -> None:
        rollout = make_rollout(now=now)
        body = {"plan_digest": rollout.plan_digest}
        response = api.post(f"rollouts/{rollout.pk}/approve", body)
        assert_problem(response, 409, "approval-not-needed")
        unknown = api.post(f"rollouts/{rollout.pk}/approve", {**body, "stage": "none"})
        assert_problem(unknown, 404, "stage-unknown")


class TestGates:
    @pytest.fixture
    def path(self, now: datetime) -> str:
        make_joined_site("edge", now=now)
        rollout = start(make_version(now=now), one_stage(gates=("latency",)), now=now)
        turn(rollout, now=now)
        return f"rollouts/{rollout.pk}/stages/all/gates"

    def test_a_verdict_is_kept_and_the_newest_counts(self, path: str, api: ApiCaller) -> None:
        first = {"verdict": "inconclusive", "reason": "too few requests"}
        assert api.put_json(f"{path}/latency", first).json()["verdict"] == "inconclusive"
        second = {"verdict": "pass", "evidence": {"p99_ms": 20}, "fresh_seconds": 60}
        document = api.put_json(f"{path}/latency", second).json()
        assert (document["verdict"], document["evidence"]) == ("pass", {"p99_ms": 20})
        assert document["fresh_until"]
        assert GateVerdict.objects.get().actor == "token:ci"

    def test_a_failing_one_stops_the_rollout(
        self, path: str, api: ApiCaller, now: datetime
    ) -> None:
        api.put_json(f"{path}/latency", {"verdict": "fail", "reason": "p99 is 2 s"})
        rollout = Rollout.objects.get()
        advance_rollout(rollout_id=rollout.pk, now=now)
        rollout.refresh_from_db()
        assert rollout.state == "rolling_back"
        assert "p99 is 2 s" in rollout.reason

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"verdict": "maybe"}, "verdict"),
            ({"verdict": None}, "verdict"),
            ({"reason": "x" * 501}, "reason"),
            ({"evidence": [1]}, "evidence"),
            ({"evidence": {"log": "x" * 20_000}}, "evidence"),
            ({"fresh_seconds": 0}, "fresh_seconds"),
            ({"fresh_seconds": -5}, "fresh_seconds"),
            ({"fresh_seconds": 1e300}, "fresh_seconds"),
            ({"verdikt": "fail"}, "verdikt"),
        ],
    )
    def test_a_verdict_that_can_not_be_kept(
        self, change: dict[str, Any], field: str, path: str, api: ApiCaller
    ) -> None:
        response = api.put_json(f"{path}/latency", {"verdict": "pass", **change})
        assert field in fields(assert_problem(response, 422, "invalid-request"))[0]
        assert not GateVerdict.objects.exists()

    @pytest.mark.parametrize("gate", ["%00", "Latency", "x" * 41, "a%20b", "-a"])
    def test_a_name_that_no_gate_has(self, gate: str, path: str, api: ApiCaller) -> None:
        response = api.put_json(f"{path}/{gate}", {"verdict": "pass"})
        assert_problem(response, 404, "endpoint-unknown")

    def test_of_a_stage_that_is_not_there(self, path: str, api: ApiCaller) -> None:
        other = path.replace("/all/", "/none/")
        assert_problem(api.put_json(f"{other}/latency", {"verdict": "pass"}), 404, "stage-unknown")

    def test_of_a_stage_that_is_over(self, api: ApiCaller, now: datetime) -> None:
        done = make_rollout(RolloutState.ROLLED_BACK, now=now)
        over = f"rollouts/{done.pk}/stages/all/gates/latency"
        assert_problem(api.put_json(over, {"verdict": "pass"}), 409, "stage-over")

    def test_wants_the_scope_of_rollouts(
        self, path: str, with_scopes: Callable[..., ApiCaller]
    ) -> None:
        caller = with_scopes(Scope.FLEET)
        response = caller.put_json(f"{path}/latency", {"verdict": "fail"})
        assert_problem(response, 403, "scope-missing")


class TestChangesUnderway:
    """What happens to a rollout from outside is told in it."""

    def test_a_version_withdrawn_in_mid_rollout_pauses_it(
        self, api: ApiCaller, now: datetime
    ) -> None:
        rollout = make_rollout(RolloutState.RUNNING, now=now)
        api.post("models/vad/versions/1/quarantine", {"reason": "leaks memory"})
        turn(rollout, now=now)

        document = api.get(f"rollouts/{rollout.pk}").json()

        assert (document["state"], document["pause_code"]) == ("paused", "version-withdrawn")
        assert "leaks memory" in document["reason"]
        refused = api.post(f"rollouts/{rollout.pk}/resume", {"reason": "x"})
        assert_problem(refused, 409, "choice-required")

    def test_a_site_deleted_while_it_activates_leaves_the_plan(
        self, api: ApiCaller, now: datetime
    ) -> None:
        agents = [make_joined_site(name, now=now) for name in ("a", "b")]
        rollout = make_rollout(
            RolloutState.RUNNING, version=make_version(now=now), agents=agents, now=now
        )
        agents[0].begin("vad", now=now)
        assert part(rollout, agents[0]).state == "activating"

        assert api.delete("sites/a?reason=closed").status_code == 204
        turn(rollout, now=now)

        (stage,) = api.get(f"rollouts/{rollout.pk}").json()["stages"]
        rows = {row["site"]: row for row in stage["deployments"]}
        assert (rows["a"]["state"], rows["a"]["why"]) == ("removed", "the site was retired")
        assert (stage["sites"], stage["limits"]["sites"]) == (2, 1)
