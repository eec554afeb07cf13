"""What a rollout may leave behind or overlook: each of these once happened, or nearly did."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.domain.policy import OnFailure, OnSilent
from controlplane.domain.rollout import ResumeChoice, RolloutState
from controlplane.fleet.services import restore_site, retire_site
from controlplane.rollouts.drift import correct_drift
from controlplane.rollouts.models import SiteModel
from controlplane.rollouts.quarantine import pin_model, unpin_model
from controlplane.rollouts.turning_back import roll_back_rollout
from controlplane.rollouts.verbs import abort_rollout, pause_rollout, resume_rollout
from tests.factories import ACTOR, make_joined_site, make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.steps import (
    BY,
    canary_then_rest,
    one_stage,
    parts,
    running,
    serving,
    silence,
    stages_of,
    turn,
)


@pytest.fixture
def agents(now: datetime) -> list[FakeAgent]:
    """One at the edge, two in the core; all serve version 1."""
    found = [make_joined_site("edge", now=now)]
    found += [make_joined_site(f"core-{n}", tier="regional", now=now) for n in range(2)]
    serving(found, now=now)
    return found


def desired(agent: FakeAgent) -> Any:
    return SiteModel.objects.get(site=agent.site).desired


def test_a_lease_of_one_model_that_was_called_off_keeps_another_model_waiting(
    agents: list[FakeAgent], now: datetime
) -> None:
    vad = running(make_version(now=now), one_stage(), now=now)
    running(make_version("ocr", now=now), one_stage(), now=now)
    agents[0].ask_lease("vad", now=now)
    abort_rollout(rollout_id=vad.pk, now=now, **BY)

    assert agents[0].ask_lease("ocr", now=now).reason_code == "site-busy"

    agents[0].report("vad", "staged", now=now)
    assert agents[0].ask_lease("ocr", now=now).granted


def test_a_deadline_runs_from_the_last_sign_of_life_and_not_from_the_offer(
    agents: list[FakeAgent], now: datetime
) -> None:
    policy = one_stage(progress_deadline_seconds=600, on_silent=OnSilent.COUNT)
    rollout = running(make_version(now=now), policy, now=now)
    late = now + timedelta(hours=1)
    for agent in agents:
        agent.report("vad", "staged", now=late)  # it waited for its lease all the time

    turn(rollout, now=late + silence())
    assert set(parts(rollout).values()) == {"staged"}

    turn(rollout, now=late + timedelta(seconds=660))
    assert set(parts(rollout).values()) & {"timed_out", "cancelled"}


def test_accepting_lets_a_rollout_go_on_past_a_passed_stage_that_fell_silent(
    agents: list[FakeAgent], now: datetime
) -> None:
    edge, *core = agents
    rollout = running(make_version(now=now), canary_then_rest(), now=now)
    turn(rollout, edge, now=now)
    later = now + silence()
    turn(rollout, *core, now=later)
    assert rollout.reason_code == "earlier-site-stale"
    assert "resume with accept" in rollout.reason

    pause_rollout(rollout_id=rollout.pk, now=later, **BY)
    resume_rollout(rollout_id=rollout.pk, choice=ResumeChoice.ACCEPT, now=later, **BY)
    turn(rollout, *core, now=later)
    turn(rollout, *core, now=later)

    assert stages_of(rollout)["rest"] == "passed"


def test_drift_is_not_corrected_behind_a_rollout_that_is_paused(
    agents: list[FakeAgent], settings: Any, now: datetime
) -> None:
    settings.WAYPOST_DRIFT_SECONDS = 60
    rollout = running(make_version(now=now), one_stage(on_failure=OnFailure.PAUSE), now=now)
    for agent in agents:
        agent.report("vad", "failed", now=now, reason_code="download-failed")
    turn(rollout, now=now)
    assert (rollout.state, rollout.pause_code) == ("paused", "infrastructure")
    before = [agent.wishes(now=now)["vad"]["generation"] for agent in agents]

    for minutes in (5, 10, 20):
        correct_drift(now=now + timedelta(minutes=minutes))

    assert [agent.wishes(now=now)["vad"]["generation"] for agent in agents] == before


def test_drift_is_corrected_at_one_site_of_a_model_after_the_other(
    agents: list[FakeAgent], settings: Any, now: datetime
) -> None:
    settings.WAYPOST_DRIFT_SECONDS = 60
    serving(agents, now=now)
    before = {agent.site.name: agent.wishes(now=now)["vad"]["generation"] for agent in agents}

    def corrected(at: datetime) -> set[str]:
        correct_drift(now=at)
        return {
            agent.site.name
            for agent in agents
            if agent.wishes(now=at)["vad"]["generation"] != before[agent.site.name]
        }

    for agent in agents:
        agent.report("vad", "succeeded", now=now, serving=1)
    correct_drift(now=now)
    at = now + timedelta(seconds=90)
    first = corrected(at)
    assert len(first) == 1
    assert corrected(at + timedelta(seconds=30)) == first

    next(agent for agent in agents if agent.site.name in first).obey(now=at)
    assert len(corrected(at + timedelta(seconds=60))) == 2


@pytest.mark.parametrize("had_succeeded", [False, True])
def test_a_site_that_comes_back_does_not_find_the_wish_of_a_rollout_that_turned_back(
    had_succeeded: bool, agents: list[FakeAgent], now: datetime
) -> None:
    edge = agents[0]
    old = desired(edge)
    rollout = running(make_version(now=now), one_stage(soak_seconds=600), now=now)
    if had_succeeded:
        edge.obey(now=now)
    retire_site(site=edge.site, reason="moved", actor=ACTOR, now=now)
    turn(rollout, now=now)
    roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)
    settle(rollout, agents[1:], now=now)
    assert rollout.state == RolloutState.ROLLED_BACK

    restore_site(site=edge.site, actor=ACTOR, now=now)
    assert desired(edge) == old


def test_a_pin_holds_its_site_also_in_a_rollout_that_runs(
    agents: list[FakeAgent], now: datetime
) -> None:
    pinned = agents[1]
    rollout = running(make_version(now=now), canary_then_rest(), now=now)
    pin_model(site_name=pinned.site.name, model_name="vad", now=now, **BY)

    turn(rollout, agents[0], now=now)
    turn(rollout, agents[0], agents[2], now=now)
    assert parts(rollout)[pinned.site.name] == "pending"
    assert "pinned by user:ann: because; unpin it, or roll the site back" in rollout.reason

    unpin_model(site_name=pinned.site.name, model_name="vad", now=now, **BY)
    turn(rollout, now=now)
    assert parts(rollout)[pinned.site.name] == "offered"
