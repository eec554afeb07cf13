"""The way back of a part of a rollout, and the end of waiting for who does not come."""

from datetime import datetime, timedelta

import pytest

from controlplane.audit.models import Event
from controlplane.domain.errors import Conflict
from controlplane.domain.rollout import RolloutState
from controlplane.rollouts.history import replayed
from controlplane.rollouts.turning_back import roll_back_rollout, stop_waiting
from controlplane.rollouts.verbs import abort_rollout
from tests.factories import make_joined_site, make_rollout, make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.steps import (
    BY,
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


class TestRollBackAPart:
    @pytest.fixture
    def fleet(self, now: datetime) -> list[FakeAgent]:
        found = [make_joined_site(f"s-{n}", now=now) for n in range(3)]
        serving(found, now=now)
        return found

    def test_of_one_site_returns_it_and_the_rest_goes_on(
        self, fleet: list[FakeAgent], now: datetime
    ) -> None:
        rollout = running(make_version(now=now), now=now)
        fleet[0].obey(now=now)

        roll_back_rollout(rollout_id=rollout.pk, site_name="s-0", now=now, **BY)
        later = settle(rollout, fleet, now=now)

        assert rollout.state == RolloutState.SUCCEEDED_WITH_EXCEPTIONS
        assert parts(rollout) == {"s-0": "cancelled", "s-1": "succeeded", "s-2": "succeeded"}
        assert parts(rollout, "rollback") == {"s-0": "rolled_back"}
        assert fleet[0].wishes(now=later)["vad"]["version"] == "1"
        assert [agent.serving["vad"] for agent in fleet] == [1, 2, 2]

    def test_the_rollout_does_not_end_before_the_site_has_returned(
        self, fleet: list[FakeAgent], now: datetime
    ) -> None:
        rollout = running(make_version(now=now), now=now)
        fleet[0].obey(now=now)
        roll_back_rollout(rollout_id=rollout.pk, site_name="s-0", now=now, **BY)
        fleet[0].report("vad", "activating", now=now)
        rollout.stages.update(policy={"max_unavailable": 3})
        for _ in range(3):
            turn(rollout, *fleet[1:], now=now)

        assert rollout.state == RolloutState.RUNNING
        assert "all stages passed; waiting for s-0" in rollout.reason
        assert parts(rollout, "rollback") == {"s-0": "activating"}
        settle(rollout, fleet, now=now)
        assert parts(rollout, "rollback") == {"s-0": "rolled_back"}

    def test_of_one_stage_returns_its_sites_and_offers_it_to_no_other_of_them(
        self, fleet: list[FakeAgent], core: FakeAgent, now: datetime
    ) -> None:
        rollout = running(make_version(now=now), canary_then_rest(max_concurrent=1), now=now)
        first = next(agent for agent in fleet if part(rollout, agent).state == "offered")
        first.obey(now=now)

        roll_back_rollout(rollout_id=rollout.pk, stage_name="canary", now=now, **BY)
        turn(rollout, now=now)

        assert {name: parts(rollout)[name] for name in ("s-0", "s-1", "s-2")} == {
            "s-0": "cancelled",
            "s-1": "cancelled",
            "s-2": "cancelled",
        }
        assert list(parts(rollout, "rollback")) == [first.site.name]

    def test_of_a_canary_that_was_the_only_evidence_asks_a_person(
        self, fleet: list[FakeAgent], core: FakeAgent, now: datetime
    ) -> None:
        rollout = running(
            make_version(now=now), canary_then_rest(soak_seconds=60, max_unavailable=3), now=now
        )
        turn(rollout, *fleet, now=now)
        assert stages_of(rollout)["canary"] == "soaking"

        roll_back_rollout(rollout_id=rollout.pk, stage_name="canary", now=now, **BY)
        turn(rollout, now=now)

        assert (rollout.state, rollout.pause_code) == ("paused", "canary-empty")

    def test_where_nothing_was_reached_is_refused(
        self, fleet: list[FakeAgent], core: FakeAgent, now: datetime
    ) -> None:
        rollout = running(make_version(now=now), canary_then_rest(), now=now)
        roll_back_rollout(rollout_id=rollout.pk, stage_name="canary", now=now, **BY)
        with pytest.raises(Conflict) as caught:
            roll_back_rollout(rollout_id=rollout.pk, stage_name="canary", now=now, **BY)
        assert caught.value.code == "nothing-to-return"

    def test_a_silent_site_that_is_to_return_does_not_hold_the_end_for_ever(
        self, fleet: list[FakeAgent], now: datetime
    ) -> None:
        rollout = running(make_version(now=now), one_stage(max_unavailable=3), now=now)
        fleet[0].obey(now=now)
        roll_back_rollout(rollout_id=rollout.pk, site_name="s-0", now=now, **BY)
        later = now + 11 * silence()
        for step in range(4):
            turn(rollout, *fleet[1:], now=later + timedelta(seconds=step))

        assert rollout.state == RolloutState.SUCCEEDED_WITH_EXCEPTIONS
        assert parts(rollout, "rollback") == {"s-0": "rollback_failed"}
        assert part(rollout, fleet[0], "rollback").reason_code == "site-silent"


class TestStopWaiting:
    """For a site that goes on talking and never ends."""

    @pytest.fixture
    def fleet(self, now: datetime) -> list[FakeAgent]:
        found = [make_joined_site(f"s-{n}", now=now) for n in range(3)]
        serving(found, now=now)
        return found

    def test_ends_a_rollback_and_says_without_whom_by_whom_and_why(
        self, fleet: list[FakeAgent], now: datetime
    ) -> None:
        rollout = running(make_version(now=now), one_stage(max_unavailable=4), now=now)
        turn(rollout, *fleet[:2], now=now)
        roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)
        for agent in fleet[1:]:
            agent.obey(now=now)
        fleet[0].report("vad", "verifying", now=now)
        assert turn(rollout, now=now).reason_code == "rollback-unfinished"

        stop_waiting(rollout_id=rollout.pk, reason="it loops", actor="user:bo", now=now)
        turn(rollout, now=now)

        assert rollout.state == RolloutState.ROLLBACK_INCOMPLETE
        assert "not waited for 1 site (s-0): by user:bo: it loops" in rollout.reason
        assert part(rollout, fleet[0], "rollback").reason_code == "not-waited-for"
        event = Event.objects.get(action="rollout.stopped_waiting")
        assert (event.actor, event.reason, event.data["sites"]) == ("user:bo", "it loops", ["s-0"])
        assert replayed(rollout)[1] == []
        wish = fleet[0].wishes(now=now)["vad"]
        assert wish["version"] == "1"
        assert wish["lease_required"] is False

    def test_who_is_not_waited_for_counts_as_changing_until_it_has_settled(
        self, fleet: list[FakeAgent], now: datetime
    ) -> None:
        """The way back asks nobody: it may switch at any moment."""
        rollout = running(make_version(now=now), one_stage(max_unavailable=4), now=now)
        turn(rollout, *fleet[:2], now=now)
        roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)
        for agent in fleet[1:]:
            agent.obey(now=now)
        fleet[0].report("vad", "verifying", now=now, healthy=True)
        stop_waiting(rollout_id=rollout.pk, now=now, **BY)
        turn(rollout, now=now)
        running(make_version(now=now), one_stage(max_unavailable=1), now=now)

        refused = fleet[1].ask_lease("vad", now=now)
        assert (refused.reason_code, "s-0" in refused.reason) == ("max-unavailable", True)
        fleet[0].report("vad", "staged", now=now)  # of the newer wish
        assert fleet[1].ask_lease("vad", now=now).granted

    def test_a_site_that_has_returned_after_all_no_longer_counts_as_changing(
        self, fleet: list[FakeAgent], now: datetime
    ) -> None:
        rollout = running(make_version(now=now), one_stage(max_unavailable=4), now=now)
        turn(rollout, *fleet[:2], now=now)
        roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)
        stop_waiting(rollout_id=rollout.pk, now=now, **BY)

        fleet[0].report("vad", "verifying", now=now)
        assert part(rollout, fleet[0], "rollback").may_still_begin
        fleet[0].obey(now=now)
        back = part(rollout, fleet[0], "rollback")
        assert (back.state, back.may_still_begin) == ("rollback_failed", False)
        assert fleet[0].serving == {"vad": 1}

    def test_ends_an_abort_and_calls_back_who_was_let_finish(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        serving([edge], now=now)
        rollout = running(make_version(now=now), now=now)
        edge.begin("vad", now=now)
        abort_rollout(rollout_id=rollout.pk, now=now, **BY)
        assert turn(rollout, now=now).reason_code == "switching"

        stop_waiting(rollout_id=rollout.pk, now=now, **BY)
        left = part(rollout, edge)
        assert (left.state, left.holds_lease, left.may_still_begin) == ("cancelled", False, True)
        turn(rollout, now=now)

        assert rollout.state == RolloutState.CANCELLED
        assert "not waited for 1 site (edge): by user:ann: because" in rollout.reason
        assert edge.wishes(now=now)["vad"]["version"] == "1"
        edge.report("vad", "staged", now=now)  # of the newer wish
        assert not part(rollout, edge).may_still_begin

    def test_where_nobody_is_waited_for_is_refused(self, now: datetime) -> None:
        rollout = make_rollout(RolloutState.RUNNING, now=now)
        abort_rollout(rollout_id=rollout.pk, now=now, **BY)
        with pytest.raises(Conflict) as caught:
            stop_waiting(rollout_id=rollout.pk, now=now, **BY)
        assert caught.value.code == "nothing-waited-for"
