"""A rollout can be told again from its events: they hold every step of every site."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from controlplane.audit.models import Event
from controlplane.domain.policy import OnSilent, StagePolicy
from controlplane.domain.replay import Told, replay
from controlplane.domain.rollout import ResumeChoice, RolloutState
from controlplane.domain.stages import StageSpec
from controlplane.fleet.services import retire_site
from controlplane.rollouts.history import replayed
from controlplane.rollouts.models import Deployment, Rollout
from controlplane.rollouts.services import advance_rollout
from controlplane.rollouts.turning_back import roll_back_rollout
from controlplane.rollouts.verbs import abort_rollout, pause_rollout, resume_rollout
from tests.factories import ACTOR, make_joined_site, make_rollout, make_version, settle
from tests.fake_agent import FakeAgent

BY = {"reason": "the test wants it", "actor": ACTOR}
TWO_STAGES = (
    StageSpec(name="canary", soak_seconds=5, count=1),
    StageSpec(name="rest", soak_seconds=0),
)


def assert_told_right(rollout: Rollout) -> None:
    rollout.refresh_from_db()
    told, differences = replayed(rollout)
    assert differences == []
    assert told.state == rollout.state


def fleet(now: datetime) -> list[FakeAgent]:
    return [make_joined_site(name, now=now) for name in ("a", "b", "c")]


@pytest.mark.parametrize("broken", [(), ("a",), ("a", "b", "c")], ids=["well", "one", "all"])
def test_a_rollout_that_went_its_way(broken: Sequence[str], now: datetime) -> None:
    agents = fleet(now)
    version = make_version(now=now)
    for agent in agents:
        if agent.site.name in broken:
            agent.broken.add(("vad", version.number))
    rollout = make_rollout(version=version, agents=agents, stages=TWO_STAGES, now=now)
    settle(rollout, agents, now=now)
    assert_told_right(rollout)


def test_one_with_every_kind_of_trouble(now: datetime) -> None:
    agents = fleet(now)
    policy = StagePolicy(
        failures_tolerated=1,
        retries=1,
        retry_after_seconds=5,
        progress_deadline_seconds=30,
        on_silent=OnSilent.DEFER,
    )
    stages = (
        StageSpec(name="most", soak_seconds=0, policy=policy),
        StageSpec(name="stragglers", soak_seconds=0, trailing=True),
    )
    version = make_version(now=now)
    agents[0].broken.add(("vad", version.number))
    rollout = make_rollout(version=version, agents=agents, stages=stages, now=now)
    advance_rollout(rollout_id=rollout.pk, now=now)
    pause_rollout(rollout_id=rollout.pk, now=now, **BY)
    resume_rollout(rollout_id=rollout.pk, now=now, **BY)
    for _ in range(60):  # c stays silent all the time
        for agent in agents[:2]:
            agent.obey(now=now)
        now += timedelta(seconds=40)
        advance_rollout(rollout_id=rollout.pk, now=now)
        assert_told_right(rollout)
    assert rollout.state == RolloutState.SUCCEEDED_WITH_EXCEPTIONS, rollout.reason
    states = Deployment.objects.filter(rollout=rollout).values_list("state", flat=True)
    assert {"failed", "deferred", "succeeded"} <= set(states)


@pytest.mark.parametrize("verb", [abort_rollout, roll_back_rollout])
def test_one_that_a_person_stopped(verb: object, now: datetime) -> None:
    agents = fleet(now)
    rollout = make_rollout(RolloutState.RUNNING, agents=agents, stages=TWO_STAGES, now=now)
    canary = Deployment.objects.get(rollout=rollout, stage__index=0).site
    first = next(agent for agent in agents if agent.site == canary)
    first.report("vad", "activating", now=now)
    verb(rollout_id=rollout.pk, now=now, **BY)  # type: ignore[operator]  # one of the verbs above
    assert_told_right(rollout)
    settle(rollout, agents, now=now)
    assert_told_right(rollout)


def test_one_that_lost_a_site_and_was_accepted_as_it_is(now: datetime) -> None:
    agents = fleet(now)
    rollout = make_rollout(RolloutState.RUNNING, agents=agents, stages=TWO_STAGES, now=now)
    canary = Deployment.objects.get(rollout=rollout, stage__index=0).site
    retire_site(site=canary, reason="sold", actor=ACTOR, now=now)
    advance_rollout(rollout_id=rollout.pk, now=now)
    assert_told_right(rollout)
    assert rollout.pause_code == "canary-empty"
    resume_rollout(rollout_id=rollout.pk, now=now, choice=ResumeChoice.ACCEPT, **BY)
    settle(rollout, [a for a in agents if a.site != canary], now=now)
    assert_told_right(rollout)


def test_says_which_row_was_changed_behind_the_engines_back(now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, agents=fleet(now), now=now)
    Deployment.objects.filter(site__name="b").update(state="succeeded")
    _, differences = replayed(rollout)
    assert differences == ["forward 1 of b is succeeded, the events say offered"]
    with pytest.raises(CommandError, match="forward 1 of b is succeeded"):
        call_command("replay", str(rollout.pk), stdout=StringIO())


def test_says_that_an_event_is_missing(now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, agents=fleet(now), now=now)
    Event.objects.filter(action="rollout.stage_started").delete()
    _, differences = replayed(rollout)
    assert differences == ["stage all is running, the events say pending"]


def test_the_command_tells_what_the_rows_say(now: datetime) -> None:
    agents = fleet(now)
    rollout = make_rollout(RolloutState.SUCCEEDED, agents=agents, now=now)
    out = StringIO()
    call_command("replay", str(rollout.pk), stdout=out)
    assert "b: forward, attempt 1: succeeded" in out.getvalue()
    assert "the rows say the same" in out.getvalue()
    with pytest.raises(CommandError, match="no rollout 999"):
        call_command("replay", "999")


def test_a_step_from_another_state_than_the_last_is_a_fault() -> None:
    data = {"before": "running", "state": "paused"}
    told = replay([Told(id=7, action="rollout.paused", data=data)])
    assert told.faults == ["event 7: the rollout was not there, not running"]
