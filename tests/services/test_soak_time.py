"""The time that a soak counts: each second once, whoever comes late."""

from datetime import datetime, timedelta

from tests.factories import make_version
from tests.fake_agent import FakeAgent
from tests.services.steps import one_stage, running, turn


def test_a_turn_that_comes_late_does_not_make_time_count_twice(
    edge: FakeAgent, now: datetime
) -> None:
    rollout = running(make_version(now=now), one_stage(soak_seconds=60), now=now)
    turn(rollout, edge, now=now)
    for seconds in (5, 2, 7):  # the second waited for the lock while the first had it
        turn(rollout, edge, now=now + timedelta(seconds=seconds))

    stage = rollout.stages.get()
    assert stage.state == "soaking"
    assert stage.soaked_seconds == 7
    assert stage.soak_counted_until == now + timedelta(seconds=7)
