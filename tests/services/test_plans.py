"""A plan is what the rollout would do: looked at first, and bound to by its digest."""

from datetime import datetime, timedelta

import pytest

from controlplane.catalog.models import Version
from controlplane.domain.errors import Conflict, InvalidInput
from controlplane.domain.rollout import RolloutState
from controlplane.domain.selection import StageSpec
from controlplane.fleet.models import Lease, Server
from controlplane.rollouts.models import Deployment, Rollout
from controlplane.rollouts.planning import RolloutPlan, plan_rollout
from controlplane.rollouts.services import start_rollout
from controlplane.rollouts.snapshots import PATIENCE, fresh_within
from tests.factories import ACTOR, make_joined_site, make_rollout, make_site, make_version

STAGES = (
    StageSpec(name="canary", percent=30, soak_seconds=10),
    StageSpec(name="rest", soak_seconds=20),
)


def planned(version: Version, *, now: datetime) -> RolloutPlan:
    return plan_rollout(
        model_name=version.model.name, version_number=version.number, stages=STAGES, now=now
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
