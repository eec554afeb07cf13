"""Cases 33 to 42: what a report may change, and what no report can."""

from datetime import datetime, timedelta

import pytest

from controlplane.audit.models import Event
from controlplane.domain.errors import Conflict, Forbidden, Unauthenticated
from controlplane.domain.gates import Verdict
from controlplane.domain.rollout import RolloutState
from controlplane.fleet.keys import unlock_agent
from controlplane.rollouts.approvals import record_verdict
from controlplane.rollouts.models import BadVersion, Rollout, SiteModel
from tests.factories import ACTOR, make_joined_site, make_version
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
    turn,
)


@pytest.fixture
def edge(now: datetime) -> FakeAgent:
    return make_joined_site("edge", now=now)


@pytest.fixture
def rollout(edge: FakeAgent, now: datetime) -> Rollout:
    """One site, which has been offered the version."""
    return running(make_version(now=now), now=now)


def gated(edge: FakeAgent, now: datetime, **policy: object) -> Rollout:
    """A canary that soaks and waits for a gate, with one more stage behind it."""
    make_joined_site("core", tier="regional", now=now)
    stages = canary_then_rest(gates=("latency",), **policy)
    rollout = running(make_version(now=now), stages, now=now)
    turn(rollout, edge, now=now)
    assert stages_of(rollout)["canary"] == "soaking"
    return rollout


def judge(rollout: Rollout, verdict: Verdict, reason: str, fresh: float, now: datetime) -> None:
    record_verdict(
        rollout_id=rollout.pk,
        stage_name="canary",
        gate="latency",
        verdict=verdict,
        reason=reason,
        evidence={},
        fresh_seconds=fresh,
        actor="token:judge",
        now=now,
    )


def test_a_report_of_an_older_generation_is_history(
    edge: FakeAgent, rollout: Rollout, now: datetime
) -> None:
    """Case 33."""
    generation = edge.wishes(now=now)["vad"]["generation"]
    assert isinstance(generation, int)

    receipt = edge.report("vad", "failed", now=now, generation=generation - 1)

    assert list(receipt.superseded) == ["vad"]
    assert parts(rollout) == {"edge": "offered"}
    assert Event.objects.filter(action="report.superseded").count() == 1


def test_a_report_sent_twice_is_taken_once(
    edge: FakeAgent, rollout: Rollout, now: datetime
) -> None:
    """Case 34."""
    edge.report("vad", "staged", now=now)
    events = Event.objects.count()

    assert edge.report("vad", "staged", now=now, seq=edge.seq).duplicate
    assert Event.objects.count() == events


def test_a_report_that_comes_late_never_reopens_an_end(
    edge: FakeAgent, rollout: Rollout, now: datetime
) -> None:
    """Case 35."""
    edge.report("vad", "succeeded", now=now, seq=9)

    assert edge.report("vad", "downloading", now=now, seq=8).duplicate
    edge.report("vad", "downloading", now=now, seq=10)

    assert parts(rollout) == {"edge": "succeeded"}


def test_a_lost_report_is_healed_by_the_next_one(
    edge: FakeAgent, rollout: Rollout, now: datetime
) -> None:
    """Case 36. Each tells the whole state, so what was lost on the way need not be known."""
    for phase in ("downloading", "staged", "proving", "activating"):
        edge.said("vad", phase, now=now)  # made, and lost
    edge.report("vad", "succeeded", now=now, seq=50)
    assert parts(rollout) == {"edge": "succeeded"}


def test_only_the_clock_of_the_centre_decides(
    edge: FakeAgent, rollout: Rollout, now: datetime
) -> None:
    """Case 37. An agent that lives in another year is as fresh as any other."""
    skewed = now + timedelta(days=700)
    edge.send(edge.said("vad", "succeeded", now=now), now=now, sent_at=skewed)

    assert SiteModel.objects.get().reported_at == now
    assert part(rollout, edge).finished_at == now
    assert edge.site.agents.get().clock_skew_seconds == timedelta(days=700).total_seconds()


def test_a_cloned_agent_is_refused_and_noted(
    edge: FakeAgent, rollout: Rollout, now: datetime
) -> None:
    """Case 38. Key and counter were copied with the disk: neither goes on but serving, until an
    operator has looked; then only one of the two can."""
    clone = FakeAgent(site=edge.site, agent_id=edge.agent_id, key=edge.key, counter=edge.counter)
    edge.open_session(now=now)

    clone.counter = edge.counter - 1
    with pytest.raises(Conflict) as caught:
        clone.open_session(now=now)

    assert caught.value.code == "session-counter-stale"
    assert Event.objects.filter(action="agent.counter_stale", object_id="edge").count() == 1
    for either in (edge, clone):
        with pytest.raises(Forbidden):
            either.open_session(now=now)
    unlock_agent(site=edge.site, reason="the copy is gone", actor=ACTOR, now=now)
    clone.open_session(now=now)
    edge.counter = clone.counter - 1
    with pytest.raises(Conflict):
        edge.open_session(now=now)
    with pytest.raises(Unauthenticated):
        edge.send(now=now)


@pytest.mark.parametrize(("serving", "healthy"), [(None, None), (1, True), (2, False), (2, None)])
def test_success_is_believed_only_of_the_version_that_triton_serves(
    serving: int | None, healthy: bool | None, edge: FakeAgent, now: datetime
) -> None:
    """Case 39."""
    first = running(make_version(now=now), now=now)
    turn(first, edge, now=now)
    turn(first, edge, now=now)
    rollout = running(make_version(now=now), now=now)

    edge.report("vad", "succeeded", now=now, serving=serving, healthy=healthy)

    row = part(rollout, edge)
    assert (row.state, row.reason_code) == ("verifying", "success-unproven")
    assert turn(rollout, now=now).state == RolloutState.RUNNING


def test_a_verdict_on_old_data_is_no_pass(edge: FakeAgent, now: datetime) -> None:
    """Case 40."""
    rollout = gated(edge, now)
    judge(rollout, Verdict.PASS, "p99 of 9 ms", 60, now)
    later = now + timedelta(seconds=61)

    turn(rollout, edge, now=later)

    assert stages_of(rollout)["canary"] == "soaking"
    assert "gate latency last spoke at 2026-11-23 12:00 UTC" in rollout.reason
    judge(rollout, Verdict.PASS, "p99 of 9 ms", 60, later)
    turn(rollout, edge, now=later)
    assert stages_of(rollout)["canary"] == "passed"


def test_a_gate_without_enough_requests_asks_a_person_in_the_end(
    edge: FakeAgent, now: datetime
) -> None:
    """Case 41. A night without traffic proves nothing, and is not waited for without end."""
    rollout = gated(edge, now, inconclusive_seconds=120)
    states = []
    for _ in range(5):
        judge(rollout, Verdict.INCONCLUSIVE, "3 requests, 50 are needed", 600, now)
        turn(rollout, edge, now=now)
        states.append(rollout.state)
        now += timedelta(seconds=40)

    assert states == ["running", "running", "running", "paused", "paused"]
    assert rollout.pause_code == "gate-inconclusive"
    assert "3 requests, 50 are needed" in rollout.reason
    assert stages_of(rollout)["rest"] == "pending"


def test_the_time_without_evidence_begins_anew_when_there_is_some(
    edge: FakeAgent, now: datetime
) -> None:
    """Case 41, the limit is of one stretch."""
    rollout = gated(edge, now, inconclusive_seconds=150, soak_seconds=10_000)
    for _ in range(2):
        now += silence()
        turn(rollout, now=now)
    now += timedelta(seconds=5)
    turn(rollout, edge, now=now)
    assert rollout.stages.get(name="canary").inconclusive_seconds == 0
    now += silence()
    assert turn(rollout, now=now).state == RolloutState.RUNNING


@pytest.mark.parametrize("code", ["download-failed", "disk-full", "triton-unreachable"])
def test_trouble_of_the_surroundings_pauses_and_blames_no_version(code: str, now: datetime) -> None:
    """Case 42. Also where the policy would roll back."""
    agents = [make_joined_site(f"s-{number}", now=now) for number in range(2)]
    serving(agents, now=now)
    rollout = running(make_version(now=now), one_stage(max_unavailable=2), now=now)
    for agent in agents:
        agent.report("vad", "failed", now=now, reason_code=code, reason="the registry is down")

    turn(rollout, now=now)

    assert (rollout.state, rollout.pause_code) == ("paused", "infrastructure")
    assert "says nothing of the version" in rollout.reason
    assert not BadVersion.objects.exists()


def test_one_failure_by_the_version_among_them_turns_it_back(now: datetime) -> None:
    """Case 42, the other half."""
    agents = [make_joined_site(f"s-{number}", now=now) for number in range(2)]
    rollout = running(make_version(now=now), one_stage(max_unavailable=2), now=now)
    agents[0].report("vad", "failed", now=now, reason_code="disk-full")
    agents[1].report("vad", "failed", now=now, reason_code="golden-mismatch")
    assert turn(rollout, now=now).state == RolloutState.ROLLING_BACK
