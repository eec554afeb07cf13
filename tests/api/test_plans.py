"""Plan first: what a dry run shows is what a start does."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controlplane.domain.rollout import RolloutState
from controlplane.rollouts.models import Rollout
from tests.api.calls import ApiCaller, assert_problem, fields
from tests.factories import make_joined_site, make_rollout, make_site, make_version
from tests.fake_agent import FakeAgent

STAGES = [
    {"name": "canary", "select": {"tier": "edge", "percent": 50}, "soak_seconds": 5},
    {"name": "rest"},
]
ASKED = {"model": "vad", "version": "1"}


@pytest.fixture
def edge_agent(now: datetime) -> FakeAgent:
    return make_joined_site("edge", now=now)


@pytest.fixture
def fleet(edge_agent: FakeAgent, now: datetime) -> None:
    """Three sites and a version."""
    make_joined_site("core", tier="regional", now=now)
    make_joined_site("oslo", labels={"ring": "0"}, now=now)
    make_version(now=now)


def plan(api: ApiCaller, **body: object) -> Any:
    return api.post("rollouts?dry_run=true", {**ASKED, **body})


def start(api: ApiCaller, **body: object) -> Any:
    return api.post("rollouts", {**ASKED, **body})


def test_a_dry_run_answers_the_plan_and_starts_nothing(
    api: ApiCaller, edge_agent: FakeAgent, now: datetime
) -> None:
    version = make_version(now=now)
    make_site("oslo", now=now)
    response = plan(api, stages=STAGES)
    assert response.status_code == 200
    document = response.json()
    assert [(s["name"], s["sites"], s["select"]) for s in document["stages"]] == [
        ("canary", ["edge"], STAGES[0]["select"]),
        ("rest", [], {}),
    ]
    assert document["excluded"] == [{"site": "oslo", "reason": "no agent has joined"}]
    assert (document["sites"], document["soak_seconds"]) == (1, 5)
    assert document["bytes_to_move"] == version.size_bytes
    assert api.get("rollouts").json()["count"] == 0

    started = start(api, stages=STAGES, expect_plan=document["plan_digest"])
    assert started.status_code == 201
    assert started.json()["plan_digest"] == document["plan_digest"]


@pytest.mark.usefixtures("fleet")
def test_the_plan_says_limits_in_whole_numbers_and_how_long_it_takes(
    api: ApiCaller, now: datetime
) -> None:
    policy = {"failures_tolerated": 1, "max_unavailable": "50%"}
    document = plan(api, stages=[{"name": "all", "policy": policy}]).json()

    (stage,) = document["stages"]
    assert stage["policy"] == policy
    assert (stage["limits"]["failures_tolerated"], stage["limits"]["max_unavailable"]) == (1, 1)
    assert "stops at 2 failed of 3 and rolls back" in stage["limit_sentences"]
    assert stage["bytes_to_move"] == document["bytes_to_move"] > 0
    assert stage["expected_seconds"] == document["expected_seconds"] > 60
    end = datetime.fromisoformat(document["expected_end"])
    assert end > now + timedelta(seconds=document["expected_seconds"] - 1)
    assert any("Mbit/s is assumed" in sentence for sentence in document["assumptions"])


@pytest.mark.usefixtures("fleet")
def test_a_start_is_what_was_planned_by_a_strategy_with_its_barrier(api: ApiCaller) -> None:
    document = plan(api, strategy="stage-everywhere").json()
    assert (document["strategy"], document["barrier"]) == ("stage-everywhere@1", True)
    assert document["stages"][-1]["trailing"]
    digest = document["plan_digest"]

    started = start(api, strategy="stage-everywhere@1", expect_plan=digest).json()

    assert (started["strategy"], started["barrier"]) == ("stage-everywhere@1", True)
    assert started["bytes_to_move"] == document["bytes_to_move"]
    assert started["expected_seconds"] == document["expected_seconds"]
    assert started["warnings"] == document["warnings"]


@pytest.mark.usefixtures("fleet")
def test_a_barrier_can_be_asked_for_and_left_out(api: ApiCaller) -> None:
    assert plan(api, barrier=True).json()["barrier"] is True
    assert plan(api, strategy="stage-everywhere", barrier=False).json()["barrier"] is False


@pytest.mark.usefixtures("fleet")
def test_whom_it_leaves_out_is_said_with_the_reason(api: ApiCaller) -> None:
    document = plan(api, exclude={"labels": {"ring": "0"}}).json()
    assert "oslo" not in str(document["stages"])
    assert [entry["site"] for entry in document["excluded"]] == ["oslo"]
    assert document["plan_digest"] != plan(api).json()["plan_digest"]


@pytest.mark.usefixtures("fleet")
def test_a_start_can_be_put_off(api: ApiCaller, now: datetime) -> None:
    at = (now + timedelta(hours=5)).astimezone(UTC)
    document = plan(api, start_at=at.isoformat()).json()
    assert datetime.fromisoformat(document["start_at"]) == at
    assert datetime.fromisoformat(document["expected_end"]) > at
    started = start(api, start_at=at.isoformat()).json()
    assert datetime.fromisoformat(started["start_at"]) == at


@pytest.mark.parametrize(
    ("start_at", "says"),
    [
        ("2099-01-01T00:00:00", "has no offset"),
        ("tomorrow", "must be a time such as"),
        ("", "must be a time such as"),
        (1_900_000_000, "must be a time such as"),
        ("2999-01-01T00:00:00Z", "within a year"),
        ("9999-12-31T23:59:59-12:00", "within a year"),
        ("2026-02-30T00:00:00Z", "must be a time such as"),
    ],
)
@pytest.mark.parametrize("call", [plan, start])
def test_a_start_at_no_moment(call: Any, start_at: object, says: str, api: ApiCaller) -> None:
    document = assert_problem(call(api, start_at=start_at), 422, "invalid-request")
    assert fields(document) == ["start_at"]
    assert says in document["errors"][0]["message"]


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize("call", [plan, start])
def test_a_start_in_the_past(call: Any, api: ApiCaller, now: datetime) -> None:
    response = call(api, start_at=(now - timedelta(hours=1)).isoformat())
    assert fields(assert_problem(response, 422, "start-in-the-past")) == ["start_at"]
    assert not Rollout.objects.exists()


def test_a_start_bound_to_another_plan_is_refused_with_the_present_one(
    api: ApiCaller, edge_agent: FakeAgent, now: datetime
) -> None:
    make_version(now=now)
    response = start(api, stages=STAGES, expect_plan="sha256:" + "0" * 64)
    document = assert_problem(response, 409, "plan-changed")
    assert document["plan_digest"].startswith("sha256:")
    assert Rollout.objects.count() == 0


def test_a_dry_run_is_true_or_false(api: ApiCaller, now: datetime) -> None:
    response = api.post("rollouts?dry_run=maybe", ASKED)
    assert fields(assert_problem(response, 422, "invalid-request")) == ["dry_run"]


class TestConflicts:
    def test_a_second_rollout_is_refused_queued_or_takes_over(
        self, api: ApiCaller, now: datetime
    ) -> None:
        first = make_rollout(RolloutState.RUNNING, now=now)

        refused = assert_problem(start(api), 409, "rollout-active")
        assert refused["rollout"] == first.pk
        assert_problem(plan(api), 409, "rollout-active")
        assert plan(api, on_conflict="queue").status_code == 200

        queued = start(api, on_conflict="queue").json()
        assert (queued["state"], queued["waits_for"]) == ("queued", "sites")
        first.refresh_from_db()
        assert first.state == "running"

    @pytest.mark.parametrize("choice", ["", "replace", None, 1])
    def test_another_choice_is_none(self, choice: object, api: ApiCaller) -> None:
        response = start(api, on_conflict=choice)
        assert fields(assert_problem(response, 422, "invalid-request")) == ["on_conflict"]


@pytest.mark.parametrize("call", [plan, start])
class TestBadInput:
    """Each is told with the place of the fault, by a dry run as by a start; nothing is begun."""

    @pytest.mark.parametrize(
        ("policy", "says"),
        [
            ({"max_unavailable": "101%"}, '"1%" to "100%"'),
            ({"failures_tolerated": "100%"}, "could never trip"),
            ({"stale_tolerated": "100%"}, "could never trip"),
            ({"failures_tolerated": -1}, "from 0"),
            ({"failures_tolerated": 1.5}, "whole number"),
            ({"max_concurrent": 0}, "from 1"),
            ({"successes_required": "90%", "failures_tolerated": "50%"}, "leaves room for 10%"),
            ({"on_silent": "count"}, "needs progress_deadline_seconds"),
            ({"retries": 11}, "from 0 to 10"),
            ({"gates": ["a", "a"]}, "has a name twice"),
            ({"failures_tolerted": 1}, "is not known"),
        ],
    )
    @pytest.mark.usefixtures("fleet")
    def test_thresholds_that_mean_nothing(
        self, policy: dict[str, Any], says: str, call: Any, api: ApiCaller
    ) -> None:
        response = call(api, stages=[{"name": "all", "policy": policy}])
        document = assert_problem(response, 422, "stage-invalid")
        assert document["errors"][0]["field"].startswith("stages[0].policy.")
        assert says in document["errors"][0]["message"]
        assert not Rollout.objects.exists()

    @pytest.mark.usefixtures("fleet")
    def test_a_threshold_larger_than_its_stage_is_cut_and_said(
        self, call: Any, api: ApiCaller
    ) -> None:
        response = call(api, stages=[{"name": "all", "policy": {"failures_tolerated": 50}}])
        document = response.json()
        assert any("could never trip; 2 holds" in warning for warning in document["warnings"])
        assert document["stages"][0]["limits"]["failures_tolerated"] == 2

    @pytest.mark.usefixtures("fleet")
    def test_a_stage_that_selects_nothing_is_said(self, call: Any, api: ApiCaller) -> None:
        stages = [{"name": "far", "select": {"tier": "hyperscale"}}, {"name": "rest"}]
        document = call(api, stages=stages).json()
        assert "stage far: no site matches its conditions" in document["warnings"]
        assert any("takes no site: it proves nothing" in text for text in document["warnings"])

    @pytest.mark.usefixtures("fleet")
    def test_a_rollout_of_nothing_is_refused(self, call: Any, api: ApiCaller) -> None:
        response = call(api, stages=[{"name": "far", "select": {"tier": "hyperscale"}}])
        assert_problem(response, 422, "rollout-selects-no-site")

    @pytest.mark.usefixtures("fleet")
    def test_stages_that_overlap(self, call: Any, api: ApiCaller) -> None:
        named = {"sites": ["edge"]}
        response = call(
            api, stages=[{"name": "a", "select": named}, {"name": "b", "select": named}]
        )
        document = assert_problem(response, 422, "stage-invalid")
        assert fields(document) == ["stages[1].select.sites"]
        assert "is named by stage 'a' already" in document["errors"][0]["message"]

        twice = call(api, stages=[{"name": "a"}, {"name": "a", "select": {"tier": "edge"}}])
        assert_problem(twice, 422, "stage-invalid")

    @pytest.mark.usefixtures("fleet")
    def test_a_stage_whose_sites_are_taken_says_by_which(self, call: Any, api: ApiCaller) -> None:
        stages = [{"name": "all"}, {"name": "late", "select": {"tier": "edge"}}]
        document = call(api, stages=stages).json()
        assert any("earlier stages take every site" in text for text in document["warnings"])

    @pytest.mark.parametrize(
        ("strategy", "status", "code"),
        [
            ("none", 422, "strategy-unknown"),
            ("edge-first@7", 422, "strategy-unknown"),
            ("edge-first@", 422, "strategy-invalid"),
            ("edge-first@x", 422, "strategy-invalid"),
            ("edge-first@0", 422, "strategy-invalid"),
            ("edge-first@" + "9" * 30, 422, "strategy-invalid"),
            ("", 422, "invalid-request"),
            (["edge-first"], 422, "invalid-request"),
        ],
    )
    @pytest.mark.usefixtures("fleet")
    def test_a_strategy_that_is_none(
        self, strategy: object, status: int, code: str, call: Any, api: ApiCaller
    ) -> None:
        document = assert_problem(call(api, strategy=strategy), status, code)
        assert fields(document) == ["strategy"]

    @pytest.mark.usefixtures("fleet")
    def test_stages_beside_a_strategy(self, call: Any, api: ApiCaller) -> None:
        response = call(api, strategy="canary", stages=STAGES)
        assert_problem(response, 422, "stages-and-strategy")

    @pytest.mark.parametrize(
        ("exclude", "field"),
        [
            ({"tier": "cloud"}, "exclude.tier"),
            ({"sites": []}, "exclude.sites"),
            ({"sites": "edge"}, "exclude.sites"),
            ({"exclude": ["edge"]}, "exclude.exclude"),
            ({"percent": 5}, "exclude.percent"),
            (["edge"], "exclude"),
            ("edge", "exclude"),
        ],
    )
    @pytest.mark.usefixtures("fleet")
    def test_an_exclusion_that_can_not_be_read(
        self, exclude: object, field: str, call: Any, api: ApiCaller
    ) -> None:
        document = assert_problem(call(api, exclude=exclude), 422, "exclude-invalid")
        assert fields(document) == [field]

    @pytest.mark.usefixtures("fleet")
    def test_a_mistyped_option_is_not_silently_no_option(self, call: Any, api: ApiCaller) -> None:
        document = assert_problem(call(api, stratgy="edge-first"), 422, "invalid-request")
        assert fields(document) == ["stratgy"]
        assert not Rollout.objects.exists()

    @pytest.mark.usefixtures("fleet")
    def test_a_version_that_was_withdrawn(self, call: Any, api: ApiCaller) -> None:
        api.post("models/vad/versions/1/quarantine", {"reason": "leaks memory"})
        document = assert_problem(call(api), 422, "version-quarantined")
        assert fields(document) == ["version"]
        assert "leaks memory" in document["detail"]

    @pytest.mark.usefixtures("fleet")
    def test_a_window_shorter_than_the_poll_interval_is_said(
        self, call: Any, api: ApiCaller
    ) -> None:
        api.patch("sites/edge", {"poll_seconds": 600})
        window = {
            "name": "short", "kind": "download", "selector": {"sites": ["edge"]},
            "days": ["mon"], "start": "02:00", "minutes": 5,
        }  # fmt: skip
        assert api.post("windows", window).status_code == 201
        warnings = call(api).json()["warnings"]
        assert any("short" in text and "poll" in text for text in warnings), warnings
