"""Sites that came after the plan: into the trailing stage when its turn comes, and nowhere else."""

from datetime import datetime, timedelta

import pytest

from controlplane.audit.models import Event
from controlplane.domain.rollout import RolloutState
from controlplane.domain.selector import SiteSelector
from controlplane.domain.stages import StageSpec
from controlplane.fleet.models import Lease, Server
from controlplane.fleet.services import retire_site
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.verbs import pause_rollout
from controlplane.rollouts.waits import TRAILING_DEADLINE_SECONDS
from tests.factories import ACTOR, join, make_joined_site, make_site, make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.steps import BY, part, parts, running, stages_of, turn

STAGES = (
    StageSpec(name="edges", tier="edge", percent=50, soak_seconds=0),
    StageSpec(name="late", soak_seconds=0, trailing=True),
)


@pytest.fixture
def edge(now: datetime) -> FakeAgent:
    return make_joined_site("edge", now=now)


@pytest.fixture
def rollout(edge: FakeAgent, now: datetime) -> Rollout:
    """The first of its two stages runs."""
    return running(make_version(now=now), STAGES, now=now)


def after(now: datetime) -> datetime:
    return now + timedelta(seconds=1)


def test_a_new_site_that_the_stages_speak_of_is_taken(
    edge: FakeAgent, rollout: Rollout, now: datetime
) -> None:
    """Whatever share of such sites the stage drew."""
    new = make_joined_site("new", now=after(now))

    settle(rollout, [edge, new], now=after(now))

    row = part(rollout, new)
    assert (row.stage.name, row.state, row.attempt) == ("late", "succeeded", 1)
    event = Event.objects.get(action="rollout.sites_joined")
    assert event.data["deployments"][0]["site"] == "new"
    assert event.reason == "stage late: 1 joined after the plan was made"


def test_a_site_whose_agent_joined_late_is_taken(edge: FakeAgent, now: datetime) -> None:
    bare = make_site("bare", now=now)
    rollout = running(make_version(now=now), STAGES, now=now)
    agent = join(bare, now=after(now))

    settle(rollout, [edge, agent], now=after(now))

    assert parts(rollout) == {"edge": "succeeded", "bare": "succeeded"}


def test_one_that_the_stages_do_not_speak_of_is_not(
    edge: FakeAgent, rollout: Rollout, now: datetime
) -> None:
    core = make_joined_site("core", tier="regional", now=after(now))
    settle(rollout, [edge, core], now=after(now))
    assert parts(rollout) == {"edge": "succeeded"}
    assert stages_of(rollout)["late"] == "skipped"


def test_one_that_was_there_and_was_not_drawn_is_not(now: datetime) -> None:
    agents = [make_joined_site(f"s-{number}", now=now) for number in range(4)]
    rollout = running(make_version(now=now), STAGES, now=now)
    settle(rollout, agents, now=after(now))
    assert len(parts(rollout)) == 2


def test_one_that_the_request_leaves_out_is_not_even_when_its_agent_joins_anew(
    edge: FakeAgent, now: datetime
) -> None:
    lab = make_joined_site("lab", labels={"lab": "yes"}, now=now)
    rollout = running(
        make_version(now=now), STAGES, exclude=SiteSelector(labels={"lab": "yes"}), now=now
    )
    agents = [join(lab.site, now=after(now))]
    agents.append(make_joined_site("lab-2", labels={"lab": "yes"}, now=after(now)))

    settle(rollout, [edge, *agents], now=after(now))

    assert parts(rollout) == {"edge": "succeeded"}


def test_one_that_cannot_take_part_is_not(edge: FakeAgent, rollout: Rollout, now: datetime) -> None:
    new = make_joined_site("new", now=after(now))
    Server.objects.create(site=new.site, hostname="h", disk_free_bytes=1, reported_at=now)
    settle(rollout, [edge, new], now=after(now))
    assert parts(rollout) == {"edge": "succeeded"}


def test_one_that_was_retired_again_is_not(
    edge: FakeAgent, rollout: Rollout, now: datetime
) -> None:
    new = make_joined_site("new", now=after(now))
    retire_site(site=new.site, reason="a mistake", actor=ACTOR, now=after(now))
    settle(rollout, [edge], now=after(now))
    assert parts(rollout) == {"edge": "succeeded"}


def test_nobody_is_taken_before_the_turn_of_the_stage_nor_twice(
    edge: FakeAgent, rollout: Rollout, now: datetime
) -> None:
    new = make_joined_site("new", now=after(now))
    turn(rollout, now=after(now))
    assert list(parts(rollout)) == ["edge"]
    turn(rollout, edge, now=after(now))
    turn(rollout, edge, now=after(now))
    for _ in range(3):
        turn(rollout, now=after(now))
    assert rollout.deployments.filter(site=new.site).count() == 1
    assert Event.objects.filter(action="rollout.sites_joined").count() == 1


def test_nobody_is_taken_while_it_is_paused(
    edge: FakeAgent, rollout: Rollout, now: datetime
) -> None:
    make_joined_site("new", now=after(now))
    edge.obey(now=after(now))
    pause_rollout(rollout_id=rollout.pk, now=now, **BY)
    turn(rollout, now=after(now))
    assert list(parts(rollout)) == ["edge"]


def test_who_is_silent_in_the_trailing_stage_is_not_waited_for(
    edge: FakeAgent, rollout: Rollout, now: datetime
) -> None:
    make_joined_site("new", now=after(now))
    turn(rollout, edge, now=after(now))
    turn(rollout, edge, now=after(now))
    assert stages_of(rollout)["late"] == "running"

    at = now + timedelta(seconds=TRAILING_DEADLINE_SECONDS + 60)
    turn(rollout, edge, now=at)

    assert parts(rollout)["new"] == "deferred"
    assert rollout.state == RolloutState.SUCCEEDED_WITH_EXCEPTIONS


def test_who_is_long_silent_already_is_not_taken(
    edge: FakeAgent, rollout: Rollout, now: datetime
) -> None:
    new = make_joined_site("new", now=after(now))
    Lease.objects.filter(agent__site=new.site).update(last_seen_at=now - timedelta(days=2))
    settle(rollout, [edge], now=after(now))
    assert parts(rollout) == {"edge": "succeeded"}
