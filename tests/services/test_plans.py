"""A plan is what the rollout would do: looked at first, and bound to by its digest."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.catalog.models import ContentClass, Variant, Version, VersionState
from controlplane.domain.errors import Conflict, InvalidInput
from controlplane.domain.estimate import ACTIVATION_SECONDS
from controlplane.domain.policy import StagePolicy
from controlplane.domain.rollout import RolloutState
from controlplane.domain.selector import SiteSelector
from controlplane.domain.stages import StageSpec
from controlplane.domain.strategies import BUILT_IN, STRAGGLERS, StrategySpec
from controlplane.fleet.models import Accelerator, Lease, Server, Site
from controlplane.rollouts.evidence import PATIENCE, fresh_within
from controlplane.rollouts.models import BadVersion, Deployment, Rollout, SiteModel
from controlplane.rollouts.planning import RolloutPlan, plan_rollout
from controlplane.rollouts.services import advance_rollout, start_rollout
from tests.factories import ACTOR, make_joined_site, make_rollout, make_site, make_version

STAGES = (
    StageSpec(name="canary", percent=30, soak_seconds=10),
    StageSpec(name="rest", soak_seconds=20),
)


def planned(version: Version, *, now: datetime, **asked: Any) -> RolloutPlan:
    """By `STAGES`, unless it is asked for otherwise."""
    if "strategy" not in asked:
        asked.setdefault("stages", STAGES)
    return plan_rollout(
        model_name=version.model.name, version_number=version.number, now=now, **asked
    )


def started(version: Version, *, expect_plan: str | None, now: datetime) -> Rollout:
    return start_rollout(
        model_name=version.model.name,
        version_number=version.number,
        stages=STAGES,
        expect_plan=expect_plan,
        actor=ACTOR,
        now=now,
    )


def test_a_plan_changes_nothing_and_the_run_is_what_was_planned(now: datetime) -> None:
    for number in range(10):
        make_joined_site(f"s-{number}", now=now)
    version = make_version(now=now)

    preview = planned(version, now=now)
    assert Rollout.objects.count() == 0
    assert [len(names) for _, names in preview.plan.stages] == [3, 7]
    assert preview.plan.soak_seconds == 30
    assert preview.bytes_to_move == 10 * version.size_bytes

    rollout = started(version, expect_plan=preview.digest, now=now)
    assert rollout.plan_digest == preview.digest
    for stage, (_, names) in zip(rollout.stages.all(), preview.plan.stages, strict=True):
        rows = Deployment.objects.filter(stage=stage).values_list("site__name", flat=True)
        assert sorted(rows) == list(names)


def test_a_start_bound_to_a_plan_is_refused_when_a_site_has_joined_since(now: datetime) -> None:
    make_joined_site("first", now=now)
    version = make_version(now=now)
    preview = planned(version, now=now)
    make_joined_site("second", now=now)
    with pytest.raises(Conflict) as caught:
        started(version, expect_plan=preview.digest, now=now)
    assert caught.value.code == "plan-changed"
    assert caught.value.extra == {"plan_digest": planned(version, now=now).digest}
    assert Rollout.objects.count() == 0


def test_who_is_left_out_may_change_without_harm(now: datetime) -> None:
    make_joined_site("first", now=now)
    version = make_version(now=now)
    preview = planned(version, now=now)
    make_site("not-joined", now=now)
    assert started(version, expect_plan=preview.digest, now=now).state == RolloutState.PLANNED


def test_a_site_that_cannot_take_part_is_left_out_with_the_reason(now: datetime) -> None:
    make_joined_site("fine", now=now)
    make_site("new", now=now)
    make_joined_site("gone", now=now)
    full = make_joined_site("full", now=now)
    version = make_version(now=now)
    gone_for = PATIENCE * fresh_within() + timedelta(days=3)
    Lease.objects.filter(agent__site__name="gone").update(last_seen_at=now - gone_for)
    Server.objects.create(site=full.site, hostname="h", disk_free_bytes=1, reported_at=now)

    preview = planned(version, now=now)

    assert [names for _, names in preview.plan.stages] == [("fine",), ()]
    reasons = dict(preview.plan.excluded)
    assert set(reasons) == {"new", "gone", "full"}
    assert reasons["new"] == "no agent has joined"
    assert reasons["gone"] == "not heard of for 3 d"
    assert "of disk, 1 bytes are free" in reasons["full"]


def test_a_site_that_is_silent_a_little_takes_part(now: datetime) -> None:
    make_joined_site("slow", now=now)
    Lease.objects.update(last_seen_at=now - 2 * fresh_within())
    assert planned(make_version(now=now), now=now).plan.sites == 1


def test_no_plan_while_another_rollout_of_the_model_runs(now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    with pytest.raises(Conflict) as caught:
        planned(rollout.version, now=now)
    assert caught.value.code == "rollout-active"


def test_a_plan_without_a_site_says_why_each_is_left_out(now: datetime) -> None:
    make_site("new", now=now)
    with pytest.raises(InvalidInput, match="new: no agent has joined"):
        planned(make_version(now=now), now=now)


def reasons(plan: RolloutPlan) -> dict[str, str]:
    return {entry["site"]: entry["reason"] for entry in plan.excluded_document()}


def give_accelerator(site: Site, name: str, *, now: datetime) -> None:
    server, _ = Server.objects.get_or_create(site=site, hostname="h", reported_at=now)
    Accelerator.objects.create(server=server, uuid=f"gpu-{name}", name=name)


def test_hardware_that_the_agents_report_is_what_a_plan_goes_by(now: datetime) -> None:
    for number in range(8):
        site = make_joined_site(f"s-{number}", now=now).site
        if number < 4:
            give_accelerator(site, "NVIDIA L4", now=now)
    stages = (
        StageSpec(name="share", percent=25, soak_seconds=0),
        StageSpec(name="l4", hardware="NVIDIA L4", soak_seconds=0),
        StageSpec(name="rest", soak_seconds=0),
    )
    preview = planned(make_version(now=now), stages=stages, now=now)
    kinds = [
        sorted(preview.plan.hardware[name] for name in stage.sites) for stage in preview.stages
    ]

    assert kinds == [["NVIDIA L4", "none"], ["NVIDIA L4"] * 3, ["none"] * 3]


def test_a_pinned_site_is_left_out_and_says_by_whom(now: datetime) -> None:
    version = make_version(now=now)
    make_joined_site("free", now=now)
    for name, desired, why in (("kept", version, "audit"), ("bare", None, "")):
        SiteModel.objects.create(
            site=make_joined_site(name, now=now).site,
            model=version.model,
            desired=desired,
            generation=1,
            pinned_by="user:olga",
            pinned_reason=why,
        )
    other = make_version("other", now=now)

    assert reasons(planned(version, now=now)) == {
        "kept": "pinned to version 1 by user:olga: audit",
        "bare": "pinned to no version by user:olga",
    }
    assert planned(other, now=now).plan.sites == 3


def test_a_site_that_the_request_leaves_out_is_left_out(now: datetime) -> None:
    make_joined_site("a", now=now)
    make_joined_site("b", labels={"ring": "9"}, now=now)
    make_joined_site("c", now=now)
    version = make_version(now=now)
    exclude = SiteSelector(sites=frozenset({"a"}), labels={"ring": "9"})

    preview = planned(version, exclude=exclude, now=now)

    assert reasons(preview) == dict.fromkeys("ab", "excluded by the request")
    with pytest.raises(InvalidInput) as caught:
        planned(version, exclude=SiteSelector(sites=frozenset({"d"})), now=now)
    assert caught.value.code == "site-unknown"


def test_a_site_that_asks_rarely_is_given_more_time(now: datetime) -> None:
    rare = make_joined_site("rare", now=now)
    make_joined_site("often", now=now)
    Site.objects.filter(pk=rare.site.pk).update(poll_seconds=3600)
    Lease.objects.update(last_seen_at=now - 2 * PATIENCE * fresh_within())

    preview = planned(make_version(now=now), now=now)

    assert [names for _, names in preview.plan.stages] == [("rare",), ()]
    assert set(reasons(preview)) == {"often"}


def test_a_retired_site_is_in_no_plan(now: datetime) -> None:
    make_joined_site("here", now=now)
    gone = make_joined_site("gone", now=now)
    Site.objects.filter(pk=gone.site.pk).update(retired_at=now)
    version = make_version(now=now)
    named = (StageSpec(name="x", sites=frozenset({"gone"}), soak_seconds=0),)

    preview = planned(version, now=now)

    assert preview.plan.sites == 1
    assert reasons(preview) == {}
    with pytest.raises(InvalidInput, match="No site in service is called gone"):
        planned(version, stages=named, now=now)


@pytest.mark.parametrize(
    ("state", "code", "says"),
    [
        (VersionState.QUARANTINED, "version-quarantined", "leaks memory"),
        (VersionState.UPLOADING, "version-not-registered", "not registered"),
    ],
)
def test_a_version_that_may_not_be_used_is_not_planned(
    state: VersionState, code: str, says: str, now: datetime
) -> None:
    make_joined_site(now=now)
    version = make_version(now=now)
    Version.objects.filter(pk=version.pk).update(state=state, state_reason="leaks memory")

    with pytest.raises(InvalidInput, match=says) as caught:
        planned(version, now=now)

    assert caught.value.code == code
    assert [fault.field for fault in caught.value.errors] == ["version"]


def test_for_one_that_waits_or_takes_over_the_plan_is_made_beside_the_running_one(
    now: datetime,
) -> None:
    agents = [make_joined_site(now=now) for _ in range(3)]
    rollout = make_rollout(RolloutState.RUNNING, agents=agents, now=now)
    following = make_version(rollout.model.name, now=now)

    preview = planned(following, while_active=True, now=now)

    assert preview.plan.sites == 3
    assert reasons(preview) == {}


def test_a_site_whose_part_in_an_older_rollout_is_not_over_is_left_out(now: datetime) -> None:
    agents = [make_joined_site(name, now=now) for name in ("a", "b")]
    rollout = make_rollout(RolloutState.RUNNING, agents=agents, now=now)
    Deployment.objects.filter(site__name="a").update(state="cancelled")
    Rollout.objects.filter(pk=rollout.pk).update(state=RolloutState.CANCELLED)

    preview = planned(make_version(rollout.model.name, now=now), now=now)

    assert reasons(preview) == {"b": f"its part in rollout {rollout.pk} is not over"}


def test_limits_are_whole_numbers_and_cautions_are_said(now: datetime) -> None:
    for number in range(4):
        make_joined_site(f"s-{number}", now=now)
    policy = StagePolicy(failures_tolerated="25%", max_concurrent=9)
    version = make_version(now=now)
    BadVersion.objects.create(
        site=Site.objects.get(name="s-2"), version=version, reason="crashed", at=now
    )
    (stage,) = planned(
        version, stages=(StageSpec(name="all", soak_seconds=0, policy=policy),), now=now
    ).stages
    preview = planned(version, stages=(replace(STAGES[1], policy=policy),), now=now)

    assert stage.limits.failures_tolerated == 1
    assert stage.limit_sentences[:2] == (
        "stops at 2 failed of 4 and rolls back",
        "at most 1 of 4 unavailable",
    )
    assert preview.warnings == (
        "stage rest: max_concurrent is 9, but the stage has 4 sites; 4 holds",
        f"{version} failed before at s-2",
    )


def test_bytes_and_the_expected_end_come_from_the_links_that_are_stated(now: datetime) -> None:
    slow = make_joined_site("slow", now=now)
    make_joined_site("unknown", now=now)
    Site.objects.filter(pk=slow.site.pk).update(downlink_mbit_per_s=1)
    version = make_version(now=now)
    Variant.objects.filter(version=version).update(size_bytes=10_000_000)
    stages = (
        StageSpec(name="slow", sites=frozenset({"slow"}), soak_seconds=5),
        StageSpec(name="rest", soak_seconds=7),
    )
    later = now + timedelta(days=1)
    preview = planned(version, stages=stages, now=now)
    slow_seconds, fast_seconds = 80 + ACTIVATION_SECONDS + 5, 0.8 + ACTIVATION_SECONDS + 7

    assert [stage.bytes_to_move for stage in preview.stages] == [10_000_000, 10_000_000]
    assert [stage.expected_seconds for stage in preview.stages] == [slow_seconds, fast_seconds]
    assert preview.expected_seconds == slow_seconds + fast_seconds
    assert preview.expected_end == now + timedelta(seconds=preview.expected_seconds)
    assert preview.assumptions[-1] == "1 site states no downlink; 100 Mbit/s is assumed"
    scheduled = planned(version, stages=stages, start_at=later, now=now)
    assert scheduled.expected_end - preview.expected_end == timedelta(days=1)
    assert scheduled.digest == preview.digest


def strategy(name: str) -> StrategySpec:
    return next(spec for spec in BUILT_IN if spec.name == name)


def test_a_strategy_brings_its_stages_its_barrier_and_its_approval(now: datetime) -> None:
    for _ in range(10):
        make_joined_site(now=now)
    version = make_version(now=now)
    asked = replace(strategy("stage-everywhere"), approval_required=True, approval_by_other=False)

    preview = planned(version, strategy=asked, now=now)

    assert [stage.spec.name for stage in preview.stages] == ["canary", "half", "rest", STRAGGLERS]
    assert [len(stage.sites) for stage in preview.stages] == [1, 4, 5, 0]
    assert (preview.strategy_name, preview.strategy_version) == ("stage-everywhere", 1)
    assert (preview.barrier, preview.approval_required, preview.approval_by_other) == (
        True,
        True,
        False,
    )
    assert not planned(version, strategy=asked, barrier=False, now=now).barrier


def test_a_rollout_by_its_own_stages_has_no_strategy(now: datetime) -> None:
    make_joined_site(now=now)
    version = make_version(now=now)
    own, plain = planned(version, now=now), planned(version, stages=None, now=now)

    assert (own.strategy_name, own.strategy_version, own.barrier) == ("", None, False)
    assert (own.approval_required, own.approval_by_other) == (False, True)
    assert [stage.spec.name for stage in plain.stages] == ["canary", "half", "rest", "stragglers"]
    assert planned(version, barrier=True, now=now).barrier


def test_a_retired_strategy_and_two_ways_at_once_are_refused(now: datetime) -> None:
    make_joined_site(now=now)
    version = make_version(now=now)
    with pytest.raises(Conflict) as retired:
        planned(version, strategy=replace(strategy("canary"), retired=True), now=now)
    with pytest.raises(InvalidInput) as both:
        planned(version, strategy=strategy("canary"), stages=STAGES, now=now)

    assert retired.value.code == "strategy-retired"
    assert both.value.code == "stages-and-strategy"


def test_the_digest_binds_all_that_is_agreed_to(now: datetime) -> None:
    for _ in range(4):
        make_joined_site(now=now)
    version = make_version(now=now)
    canary = strategy("canary")
    policy = StagePolicy(failures_tolerated=1)
    digests = {
        planned(version, now=now, **asked).digest
        for asked in (
            {},
            {"barrier": True},
            {"exclude": SiteSelector(region="atlantis")},
            {"stages": (STAGES[0], replace(STAGES[1], policy=policy))},
            {"stages": (STAGES[0], replace(STAGES[1], trailing=True, percent=100))},
            {"strategy": canary},
            {"strategy": replace(canary, version=2)},
            {"strategy": replace(canary, late_joiners=False)},
        )
    }
    assert len(digests) == 8
    assert planned(version, now=now).digest in digests


def test_the_run_has_the_sites_of_the_preview_also_by_a_strategy(now: datetime) -> None:
    for number in range(9):
        make_joined_site(f"s-{number}", now=now)
    version = make_version(now=now)
    asked = {
        "model_name": version.model.name,
        "version_number": version.number,
        "strategy": strategy("one-per-region"),
    }
    preview = plan_rollout(**asked, now=now)
    later = now + timedelta(seconds=20)
    rollout = start_rollout(**asked, expect_plan=preview.digest, actor=ACTOR, now=later)
    advance_rollout(rollout_id=rollout.pk, now=later)

    rows = Deployment.objects.filter(rollout=rollout).order_by("stage__index", "site__name")
    placed = [(row.stage.name, row.site.name) for row in rows]
    assert placed == [(stage.spec.name, name) for stage in preview.stages for name in stage.sites]


def test_a_plan_takes_as_many_queries_for_many_sites_as_for_few(
    now: datetime, django_assert_num_queries: Any
) -> None:
    version = make_version(now=now)
    make_joined_site(now=now)
    with django_assert_num_queries(21):
        planned(version, now=now)
    for _ in range(5):
        give_accelerator(make_joined_site(now=now).site, "NVIDIA L4", now=now)
    with django_assert_num_queries(21):
        planned(version, now=now)


def test_machine_code_whose_signature_counts_no_more_takes_the_people_that_code_takes(
    now: datetime,
) -> None:
    version = make_version(now=now)
    make_joined_site(now=now)
    Version.objects.filter(pk=version.pk).update(content_class=ContentClass.OPAQUE)
    version.approvals.all()[0].delete()

    with pytest.raises(InvalidInput) as refused:
        plan_rollout(model_name="vad", version_number=version.number, now=now)

    assert refused.value.code == "version-not-approved"
    assert "needs 2 approvals" in refused.value.errors[0].message
