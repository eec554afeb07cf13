"""A rollout beside another one of its model, and one that is to begin later."""

from datetime import datetime, timedelta

import pytest

from controlplane.domain.errors import Conflict, InvalidInput
from controlplane.domain.rollout import OnConflict, RolloutState
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.turning_back import roll_back_rollout
from tests.factories import make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.steps import BY, running, start, turn


class TestAnotherRolloutOfTheModel:
    @pytest.fixture
    def first(self, edge: FakeAgent, now: datetime) -> Rollout:
        return running(make_version(now=now), now=now)

    def test_is_refused(self, first: Rollout, now: datetime) -> None:
        with pytest.raises(Conflict, match="not finished"):
            start(make_version(now=now), now=now)

    def test_queues_behind_the_first_and_begins_when_it_is_over(
        self, first: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        second = running(make_version(now=now), on_conflict=OnConflict.QUEUE, now=now)
        assert (second.state, second.reason_code) == ("queued", "queued")
        assert f"rollout {first.pk} of vad goes first" in second.reason
        assert edge.wishes(now=now)["vad"]["version"] == "1"

        settle(first, [edge], now=now)
        turn(second, now=now)

        assert second.state == RolloutState.RUNNING
        assert edge.wishes(now=now)["vad"]["version"] == "2"

    def test_those_that_queue_go_in_their_order(
        self, first: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        second, third = (
            start(make_version(now=now), on_conflict=OnConflict.QUEUE, now=now) for _ in range(2)
        )
        settle(first, [edge], now=now)
        turn(third, now=now)
        assert third.state == RolloutState.QUEUED
        assert f"rollout {second.pk}" in third.reason

        settle(second, [edge], now=now)
        assert turn(third, now=now).state == RolloutState.RUNNING

    def test_takes_the_place_of_the_first_once_that_has_let_go(
        self, first: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        edge.begin("vad", now=now)
        second = running(make_version(now=now), on_conflict=OnConflict.SUPERSEDE, now=now)
        first.refresh_from_db()
        assert (first.state, first.superseded_by_id) == ("cancelling", second.pk)
        assert second.state == RolloutState.QUEUED, "a site is switching still"

        edge.report("vad", "succeeded", now=now)
        turn(first, now=now)
        settle(second, [edge], now=now)

        assert first.state == RolloutState.SUPERSEDED
        assert f"superseded by rollout {second.pk}" in first.reason
        assert second.state == RolloutState.SUCCEEDED
        assert edge.serving == {"vad": 2}

    def test_does_not_supersede_one_that_is_turning_back(
        self, first: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        roll_back_rollout(rollout_id=first.pk, now=now, **BY)
        second = start(make_version(now=now), on_conflict=OnConflict.SUPERSEDE, now=now)
        settle(first, [edge], now=now)

        assert first.state == RolloutState.ROLLED_BACK
        assert turn(second, now=now).state == RolloutState.RUNNING


class TestSchedule:
    def test_begins_at_its_time_and_says_so_before(self, edge: FakeAgent, now: datetime) -> None:
        later = now + timedelta(hours=3)
        rollout = running(make_version(now=now), start_at=later, now=now)
        assert (rollout.state, rollout.reason_code) == ("planned", "scheduled")
        assert "starts at 2026-11-23 15:00 UTC" in rollout.reason
        assert edge.wishes(now=now) == {}

        assert turn(rollout, now=later).state == RolloutState.RUNNING

    def test_in_the_past_is_refused(self, edge: FakeAgent, now: datetime) -> None:
        with pytest.raises(InvalidInput) as caught:
            start(make_version(now=now), start_at=now, now=now)
        assert caught.value.code == "start-in-the-past"
