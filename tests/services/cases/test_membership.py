"""Cases 1 to 13: which sites a stage has, and what their loss does to it."""

from datetime import datetime, timedelta

import pytest

from controlplane.domain.policy import StagePolicy
from controlplane.domain.rollout import RolloutState
from controlplane.domain.stages import StageSpec
from controlplane.fleet.inventory import AcceleratorFacts, MachineFacts
from controlplane.fleet.models import Lease
from controlplane.fleet.services import retire_site
from controlplane.rollouts.evidence import PATIENCE, fresh_within
from controlplane.rollouts.models import Deployment
from controlplane.rollouts.planning import RolloutPlan, plan_rollout
from tests.factories import ACTOR, join, make_joined_site, make_site, make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.steps import (
    canary_then_rest,
    one_stage,
    part,
    parts,
    running,
    serving,
    silence,
    stages_of,
    start,
    turn,
)

DEADLINE = 60.0


def plan_of(*stages: StageSpec, now: datetime, model: str = "vad") -> RolloutPlan:
    version = make_version(model, now=now)
    return plan_rollout(
        model_name=model, version_number=version.number, stages=stages or one_stage(), now=now
    )


def fleet(count: int, *, now: datetime) -> list[FakeAgent]:
    return [make_joined_site(f"s-{number}", now=now) for number in range(count)]


@pytest.mark.parametrize(
    ("on_silent", "begun", "expected", "state"),
    [
        ("wait", False, "offered", "running"),
        ("wait", True, "activating", "running"),
        ("count", False, "timed_out", "rolling_back"),
        ("defer", False, "deferred", "succeeded_with_exceptions"),
        # The version itself may have silenced it.
        ("defer", True, "timed_out", "rolling_back"),
    ],
)
def test_a_site_that_falls_silent_mid_stage_is_not_failed_and_the_policy_says_what_follows(
    on_silent: str, begun: bool, expected: str, state: str, now: datetime
) -> None:
    """Case 1."""
    gone, *others = fleet(4, now=now)
    serving([gone, *others], now=now)
    policy = {"on_silent": on_silent, "max_unavailable": 4}
    if on_silent != "wait":
        policy["progress_deadline_seconds"] = DEADLINE
    rollout = running(make_version(now=now), one_stage(**policy), now=now)
    if begun:
        gone.begin("vad", now=now)

    later = now + silence()
    turn(rollout, *others, now=later)

    assert parts(rollout)["s-0"] == expected
    assert rollout.state == state
    if expected == "offered":
        assert "s-0 (offered; silent since 2026-11-23 12:00 UTC" in rollout.reason
    if expected in ("deferred", "timed_out"):
        again = later + silence()
        assert gone.wishes(now=again)["vad"]["version"] == "1", "what is over is not caught up on"


def test_a_deferred_site_gets_the_version_from_the_trailing_stage(now: datetime) -> None:
    """Case 1, the straggler stage."""
    gone, other = fleet(2, now=now)
    policy = StagePolicy(on_silent="defer", progress_deadline_seconds=DEADLINE, max_unavailable=2)
    stages = (
        StageSpec(name="all", soak_seconds=0, policy=policy),
        StageSpec(name="late", soak_seconds=0, trailing=True),
    )
    rollout = running(make_version(now=now), stages, now=now)
    later = now + silence()
    turn(rollout, other, now=later)
    assert (part(rollout, gone).stage.name, part(rollout, gone).attempt) == ("late", 2)

    settle(rollout, [gone, other], now=later)

    assert rollout.state == RolloutState.SUCCEEDED
    assert parts(rollout) == {"s-0": "succeeded", "s-1": "succeeded"}


def test_a_site_silent_before_the_start_is_left_out_and_counts_nowhere(now: datetime) -> None:
    """Case 2."""
    gone, *_ = fleet(4, now=now)
    long_ago = now - PATIENCE * fresh_within() - timedelta(hours=1)
    Lease.objects.filter(agent__site=gone.site).update(last_seen_at=long_ago)

    plan = plan_of(now=now)

    ((name, why),) = plan.plan.excluded
    assert (name, why[:17]) == ("s-0", "not heard of for ")
    assert plan.stages[0].limits.sites == 3
    assert "stops at 1 failed of 3 and rolls back" in plan.stages[0].limit_sentences


@pytest.mark.parametrize("tolerated", [0, 1, "50%", "99%"])
def test_a_stage_of_one_has_limits_that_can_trip(tolerated: int | str, now: datetime) -> None:
    """Case 3."""
    (edge,) = fleet(1, now=now)
    stages = one_stage(failures_tolerated=tolerated)
    assert (
        "stops at 1 failed of 1 and rolls back"
        in plan_of(*stages, now=now).stages[0].limit_sentences
    )
    rollout = running(make_version(now=now), stages, now=now)
    edge.report("vad", "failed", now=now, reason_code="golden-mismatch")
    assert turn(rollout, now=now).state == RolloutState.ROLLING_BACK


def test_shares_become_whole_sites_rounded_to_the_safe_side_and_the_plan_shows_them(
    now: datetime,
) -> None:
    """Case 4."""
    fleet(9, now=now)
    (stage,) = plan_of(
        *one_stage(
            max_concurrent="10%",
            max_unavailable="30%",
            failures_tolerated="30%",
            successes_required="60%",
            stale_tolerated="10%",
        ),
        now=now,
    ).stages

    limits = stage.limits
    assert (limits.max_concurrent, limits.max_unavailable) == (1, 2)
    assert (limits.failures_tolerated, limits.successes_required) == (2, 6)
    assert limits.stale_tolerated == 0
    for sentence in (
        "stops at 3 failed of 9 and rolls back",
        "at most 2 of 9 unavailable",
        "at most 1 of 9 under way at once",
        "needs 6 of 9 verified",
    ):
        assert sentence in stage.limit_sentences
    drawn = plan_of(StageSpec(name="canary", percent=10, soak_seconds=0), now=now, model="ocr")
    assert [len(names) for _, names in drawn.plan.stages] == [1]


def test_a_limit_larger_than_the_stage_is_cut_to_it_with_a_warning(now: datetime) -> None:
    """Case 5."""
    fleet(2, now=now)
    plan = plan_of(*one_stage(max_concurrent=10, failures_tolerated=10), now=now)

    assert (plan.stages[0].limits.max_concurrent, plan.stages[0].limits.failures_tolerated) == (
        2,
        1,
    )
    assert any("max_concurrent is 10, but the stage has 2 sites" in said for said in plan.warnings)
    assert any("could never trip" in said for said in plan.warnings)


def test_a_stage_that_the_plan_left_empty_is_skipped(now: datetime) -> None:
    """Case 6. Its gates and its approval are not waited for."""
    core = make_joined_site("core", tier="regional", now=now)
    stages = canary_then_rest(approval=True, gates=("latency",), soak_seconds=600)

    rollout = running(make_version(now=now), stages, now=now)

    assert stages_of(rollout) == {"canary": "skipped", "rest": "running"}
    settle(rollout, [core], now=now)
    assert rollout.state == RolloutState.SUCCEEDED


@pytest.mark.parametrize("when", ["pending", "running", "soaking"])
def test_a_canary_that_has_lost_its_sites_asks_a_person(when: str, now: datetime) -> None:
    """Case 7."""
    edge = make_joined_site("edge", now=now)
    core = make_joined_site("core", tier="regional", now=now)
    rollout = start(make_version(now=now), canary_then_rest(soak_seconds=600), now=now)
    if when != "pending":
        turn(rollout, now=now)
    if when == "soaking":
        turn(rollout, edge, now=now)
        assert stages_of(rollout)["canary"] == "soaking"
    retire_site(site=edge.site, reason="sold", actor=ACTOR, now=now)

    turn(rollout, now=now)

    assert (rollout.state, rollout.pause_code) == ("paused", "canary-empty")
    assert "proves nothing" in rollout.reason
    assert stages_of(rollout)["rest"] == "pending"
    assert core.wishes(now=now) == {}


def test_a_stage_that_ended_without_enough_successes_has_failed(now: datetime) -> None:
    """Case 8. Two of three fail, which is tolerated; one success is too few."""
    agents = fleet(3, now=now)
    stages = one_stage(failures_tolerated=2, successes_required=2, on_failure="pause")
    rollout = running(make_version(now=now), stages, now=now)
    # Both limits together would leave room for one failure; here it is the second that decides.
    agents[0].report("vad", "succeeded", now=now)
    for agent in agents[1:]:
        agent.report("vad", "failed", now=now, reason_code="golden-mismatch")

    turn(rollout, now=now)

    assert (rollout.state, rollout.pause_code) == ("paused", "stage-failed")
    assert stages_of(rollout)["all"] == "running"


def test_a_site_goes_into_the_first_stage_that_selects_it_and_who_is_in_none_is_listed(
    now: datetime,
) -> None:
    """Case 9."""
    make_joined_site("both", labels={"early": "yes"}, now=now)
    make_joined_site("second", now=now)
    make_joined_site("none", tier="regional", now=now)
    plan = plan_of(
        StageSpec(name="early", labels={"early": "yes"}, soak_seconds=0),
        StageSpec(name="edge", tier="edge", soak_seconds=0),
        now=now,
    )

    assert [names for _, names in plan.plan.stages] == [("both",), ("second",)]
    assert plan.plan.excluded == (("none", "no stage selects it"),)


def test_a_site_that_joins_late_goes_into_the_trailing_stage(now: datetime) -> None:
    """Case 10. Never into a stage that has passed, nor into one that runs."""
    (edge,) = fleet(1, now=now)
    stages = (
        StageSpec(name="all", soak_seconds=60),
        StageSpec(name="late", soak_seconds=0, trailing=True),
    )
    rollout = running(make_version(now=now), stages, now=now)
    late = join(make_site("s-late", now=now + timedelta(seconds=1)), now=now + timedelta(seconds=1))
    turn(rollout, edge, now=now)
    assert list(parts(rollout)) == ["s-0"]

    settle(rollout, [edge, late], now=now + timedelta(seconds=2))

    assert part(rollout, late).stage.name == "late"
    assert part(rollout, late).reason != ""
    assert rollout.state == RolloutState.SUCCEEDED
    assert late.serving == {"vad": 1}


def test_a_site_with_other_hardware_than_planned_is_rejected_at_its_offer(now: datetime) -> None:
    """Case 11."""

    def has(agent: FakeAgent, name: str) -> None:
        card = AcceleratorFacts(uuid=f"{agent.site.name}-{name}", name=name)
        agent.send(machine=MachineFacts(hostname="h", accelerators=(card,)), now=now)

    changed, same = fleet(2, now=now)
    for agent in (changed, same):
        has(agent, "NVIDIA L4")
    rollout = start(make_version(now=now), now=now)
    has(changed, "NVIDIA T4")

    turn(rollout, now=now)

    row = part(rollout, changed)
    assert (row.state, row.reason_code) == ("rejected", "hardware-changed")
    assert row.reason == "planned for NVIDIA L4, it has NVIDIA T4 now"
    assert changed.wishes(now=now) == {}
    settle(rollout, [same], now=now)
    assert rollout.state == RolloutState.SUCCEEDED_WITH_EXCEPTIONS


def test_a_site_retired_while_it_activates_leaves_the_denominator(now: datetime) -> None:
    """Case 12. Of four, one failure is tolerated at 25 %; of three, none is."""
    agents = fleet(4, now=now)
    rollout = running(
        make_version(now=now), one_stage(failures_tolerated="25%", max_unavailable=4), now=now
    )
    agents[0].begin("vad", now=now)
    agents[1].begin("vad", now=now)
    agents[1].report("vad", "failed", now=now, reason_code="golden-mismatch")
    turn(rollout, now=now)
    assert rollout.state == RolloutState.RUNNING

    retire_site(site=agents[0].site, reason="sold", actor=ACTOR, now=now)
    turn(rollout, now=now)

    assert parts(rollout)["s-0"] == "removed"
    assert not Deployment.objects.filter(site=agents[0].site, holds_lease=True).exists()
    assert rollout.state == RolloutState.ROLLING_BACK, "the limits are of three sites now"


def test_a_canary_is_drawn_from_every_kind_and_the_preview_is_the_run(now: datetime) -> None:
    """Case 13."""
    for tier in ("edge", "regional"):
        for number in range(10):
            make_joined_site(f"{tier}-{number}", tier=tier, now=now)
    canary = StageSpec(name="canary", percent=20, soak_seconds=0)
    version = make_version(now=now)

    preview = plan_rollout(
        model_name="vad", version_number=version.number, stages=(canary,), now=now
    )
    rollout = start(version, (canary,), expect_plan=preview.digest, now=now)

    ((_, names),) = preview.plan.stages
    assert sorted(name.split("-")[0] for name in names) == ["edge"] * 2 + ["regional"] * 2
    assert tuple(sorted(parts(rollout))) == names
    assert rollout.seed == preview.seed
