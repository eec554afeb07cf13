"""Trying again undoes no failure: while more sites are unproven than a stage bears, none begins
that has not been tried."""

from datetime import datetime, timedelta

import pytest

from controlplane.api.v1.rollout_documents import rollout_document
from controlplane.domain.rollout import RolloutState
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.verbs import retry_failed
from tests.factories import make_joined_site, make_version
from tests.fake_agent import FakeAgent
from tests.services.steps import BY, one_stage, part, parts, running, serving, turn

pytestmark = pytest.mark.django_db

REST = timedelta(seconds=20)


@pytest.fixture
def agents(now: datetime) -> list[FakeAgent]:
    found = [make_joined_site(f"s-{n}", now=now) for n in range(5)]
    serving(found, now=now)
    return found


def go(now: datetime, **policy: object) -> Rollout:
    stages = one_stage(**{"retries": 1, "retry_after_seconds": 20, "max_concurrent": 2, **policy})
    return running(make_version(now=now), stages, now=now)


def fail(agent: FakeAgent, now: datetime) -> None:
    agent.report("vad", "failed", now=now, reason_code="golden-mismatch")


def test_nobody_else_is_offered_the_version_or_begins_until_it_is_proven(
    agents: list[FakeAgent], now: datetime
) -> None:
    rollout = go(now)
    agents[1].report("vad", "staged", now=now)
    fail(agents[0], now)
    turn(rollout, now=now)

    assert (rollout.state, rollout.reason_code) == ("running", "unproven-failures")
    assert rollout.reason.startswith(
        "stage all: 0 of 5 verified; 1 failed and not proven since, 0 tolerated; no other site "
        "begins until they are"
    )
    assert sorted(parts(rollout).values()) == ["pending"] * 4 + ["staged"]
    answer = agents[1].ask_lease("vad", now=now)
    assert answer.reason_code == "unproven-failures"
    said = rollout_document(rollout.pk)["stages"][0]["deployments"]
    assert "no other site begins" in said[2]["why"]

    later = now + REST
    turn(rollout, now=later)
    assert parts(rollout)["s-0"] == "offered"
    assert agents[0].ask_lease("vad", now=later).granted  # it is the one that is waited for
    assert not agents[1].ask_lease("vad", now=later).granted

    turn(rollout, agents[0], now=later)
    assert parts(rollout) == {
        "s-0": "succeeded", "s-1": "staged", "s-2": "offered", "s-3": "pending", "s-4": "pending",
    }  # fmt: skip
    assert agents[1].ask_lease("vad", now=later).granted


def test_it_stops_when_the_second_try_fails_too(agents: list[FakeAgent], now: datetime) -> None:
    rollout = go(now)
    for agent in agents:
        agent.broken.add(("vad", 2))
    later = now
    for _ in range(6):
        if rollout.state == RolloutState.RUNNING:
            turn(rollout, *agents, now=later)
        later += REST

    assert rollout.state == RolloutState.ROLLING_BACK
    tried = rollout.deployments.filter(kind="forward", lease__gt=0)
    assert set(tried.values_list("site__name", "attempt")) == {("s-0", 1), ("s-0", 2)}


def test_as_many_as_are_tolerated_hold_nobody(agents: list[FakeAgent], now: datetime) -> None:
    rollout = go(now, failures_tolerated=1)
    fail(agents[0], now)
    turn(rollout, now=now)

    assert rollout.reason_code == "deployments-unfinished"
    assert parts(rollout)["s-2"] == "offered"
    assert agents[1].ask_lease("vad", now=now).granted


def test_a_failure_over_the_limit_holds_leases_before_the_engine_has_looked(
    agents: list[FakeAgent], now: datetime
) -> None:
    go(now, retries=0)
    fail(agents[0], now)

    assert agents[1].ask_lease("vad", now=now).reason_code == "unproven-failures"


def test_a_try_that_a_person_asked_for_proves_no_more_than_one_of_the_policy(
    agents: list[FakeAgent], now: datetime
) -> None:
    rollout = go(now, retries=0, on_failure="pause", max_concurrent=1)
    fail(agents[0], now)
    assert turn(rollout, now=now).pause_code == "stage-failed"
    retry_failed(rollout_id=rollout.pk, now=now, **BY)

    again = part(rollout, agents[0])
    assert (again.state, again.attempt, again.failed_before) == ("pending", 2, True)


def test_who_waits_does_not_keep_those_out_for_whom_it_waits(
    agents: list[FakeAgent], now: datetime
) -> None:
    """The limit fell while others had taken every place: they go on, or nobody ever would."""
    rollout = go(now, failures_tolerated=1, max_concurrent=1)
    fail(agents[0], now)
    turn(rollout, now=now)
    agents[1].report("vad", "staged", now=now)
    policy = {**rollout.stages.get().policy, "failures_tolerated": 0}
    rollout.stages.update(policy=policy)
    turn(rollout, now=now + REST)

    assert rollout.reason_code == "unproven-failures"
    assert agents[1].ask_lease("vad", now=now + REST).granted


def test_a_site_that_failed_and_fell_silent_is_a_failure_and_not_put_off(
    agents: list[FakeAgent], now: datetime
) -> None:
    stages = one_stage(
        retries=1, retry_after_seconds=0, max_concurrent=1,
        on_silent="defer", progress_deadline_seconds=600,
    )  # fmt: skip
    rollout = running(make_version(now=now), stages, now=now)
    fail(agents[0], now)
    turn(rollout, now=now)
    assert parts(rollout)["s-0"] == "offered"

    turn(rollout, *agents[1:], now=now + timedelta(hours=1))
    assert parts(rollout)["s-0"] == "timed_out"
    assert rollout.state == RolloutState.ROLLBACK_INCOMPLETE
