"""How a stage's policy on the switch comes to its sites, and what of it a way back keeps."""

from datetime import datetime

import pytest

from controlplane.domain.policy import Switch
from controlplane.domain.probation import Probation
from controlplane.rollouts.models import SiteModel
from controlplane.rollouts.turning_back import roll_back_rollout
from controlplane.rollouts.verbs import abort_rollout
from tests.factories import make_joined_site, make_version
from tests.fake_agent import FakeAgent
from tests.services.steps import BY, one_stage, running, serving, turn

pytestmark = pytest.mark.django_db

RULES = Probation(seconds=60, max_error_rate=0.05, min_requests=20)


@pytest.fixture
def agent(now: datetime) -> FakeAgent:
    """A site that serves version 1."""
    agent = make_joined_site("s-0", now=now)
    serving([agent], now=now)
    return agent


def test_a_wish_says_how_its_version_takes_over_and_on_what_probation(
    agent: FakeAgent, now: datetime
) -> None:
    stages = one_stage(switch=Switch.REPLACE, probation=RULES)
    turn(running(make_version(now=now), stages, now=now), now=now)

    wish = agent.wishes(now=now)["vad"]

    assert wish["switch"] == "replace"
    assert wish["probation"] == {"seconds": 60, "max_error_rate": 0.05, "min_requests": 20}


def test_a_stage_that_says_nothing_leaves_a_wish_as_agents_of_old_know_it(
    agent: FakeAgent, now: datetime
) -> None:
    turn(running(make_version(now=now), one_stage(), now=now), now=now)

    assert {"switch", "probation"}.isdisjoint(agent.wishes(now=now)["vad"])


@pytest.mark.parametrize("verb", [roll_back_rollout, abort_rollout])
def test_the_way_back_makes_room_as_the_way_there_did_and_is_on_no_probation(
    agent: FakeAgent, now: datetime, verb: object
) -> None:
    """What did not fit beside the other does not either way; what served before was judged."""
    stages = one_stage(switch=Switch.REPLACE, probation=RULES)
    rollout = running(make_version(now=now), stages, now=now)
    turn(rollout, now=now)
    before = agent.wishes(now=now)["vad"]["generation"]

    verb(rollout_id=rollout.pk, now=now, **BY)  # type: ignore[operator]
    turn(rollout, now=now)

    wish = agent.wishes(now=now)["vad"]
    assert wish["version"] == "1"
    assert wish["generation"] > before
    assert (wish["switch"], "probation" in wish) == ("replace", False)


def test_the_next_rollout_decides_anew(agent: FakeAgent, now: datetime) -> None:
    first = running(
        make_version(now=now), one_stage(switch=Switch.REPLACE, probation=RULES), now=now
    )
    turn(first, agent, now=now)
    assert SiteModel.objects.get().switch == "replace"

    assert first.state == "succeeded"
    turn(running(make_version(now=now), one_stage(), now=now), now=now)

    assert {"switch", "probation"}.isdisjoint(agent.wishes(now=now)["vad"])
