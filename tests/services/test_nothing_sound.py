"""What a site had before is quarantined meanwhile: it is wished of no site anew, by nobody; the
site keeps what it serves, and everybody is told."""

from datetime import datetime, timedelta

import pytest

from controlplane.audit.models import Event
from controlplane.domain.admission import BEGIN_WITHIN_SECONDS
from controlplane.domain.errors import Conflict
from controlplane.domain.rollout import NOTHING_SOUND, OnConflict, ResumeChoice, RolloutState
from controlplane.fleet.services import retire_site
from controlplane.rollouts.history import replayed
from controlplane.rollouts.models import Deployment, Rollout, SiteModel
from controlplane.rollouts.quarantine import quarantine_version, release_version
from controlplane.rollouts.turning_back import roll_back_rollout, stop_waiting
from controlplane.rollouts.verbs import abort_rollout, resume_rollout, retry_failed
from controlplane.rollouts.wishes import change_wishes
from tests.factories import make_joined_site, make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.steps import BY, one_stage, part, parts, running, serving, silence, start, turn


@pytest.fixture
def fleet(now: datetime) -> list[FakeAgent]:
    """Two sites that served version 1, then version 2."""
    found = [make_joined_site(name, now=now) for name in ("s-0", "s-1")]
    for _ in range(2):
        serving(found, now=now)
    return found


@pytest.fixture
def rollout(fleet: list[FakeAgent], now: datetime) -> Rollout:
    """Of version 3; s-0 serves it, s-1 was offered it."""
    found = running(make_version(now=now), one_stage(max_unavailable=2), now=now)
    return turn(found, fleet[0], now=now)


def quarantine(number: int, *, now: datetime) -> None:
    quarantine_version(model_name="vad", number=number, roll_back=False, now=now, **BY)


def wished(agent: FakeAgent, *, now: datetime) -> object:
    return agent.wishes(now=now)["vad"]["version"]


class TestRollback:
    def test_leaves_every_site_where_it_is_and_says_what_a_person_can_do(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        quarantine(2, now=now)
        roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)
        turn(rollout, now=now)

        assert rollout.state == RolloutState.ROLLBACK_INCOMPLETE
        assert "nothing sound to return to" in rollout.reason
        assert "s-0 (version 2 is quarantined), s-1 (version 2 is quarantined)" in rollout.reason
        assert parts(rollout, "rollback") == {"s-0": "rollback_failed", "s-1": "rollback_failed"}
        back = part(rollout, fleet[0], "rollback")
        assert (back.reason_code, back.generation) == (NOTHING_SOUND, None)
        assert back.reason == (
            "version 2, which it had before, is quarantined (user:ann: because), so the site keeps "
            "what it serves; release version 2 with a reason, or roll out another version; version "
            "1 was verified here before"
        )
        assert [wished(agent, now=now) for agent in fleet] == ["3", "3"]
        assert replayed(rollout)[1] == []

    def test_a_site_that_had_not_switched_gets_no_lease_for_what_is_left_wished(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        quarantine(2, now=now)
        roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)
        turn(rollout, now=now)

        refused = fleet[1].ask_lease("vad", now=now)

        assert (refused.granted, refused.reason_code) == (False, "failed-here")
        assert fleet[1].serving == {"vad": 2}

    def test_such_a_site_is_free_for_another_model_once_its_lease_is_over(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        agent = fleet[1]
        running(make_version("ocr", now=now), one_stage(max_unavailable=2), now=now)
        agent.report("vad", "staged", now=now)
        assert agent.ask_lease("vad", now=now).granted
        quarantine(2, now=now)
        roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)
        lease = agent.leases.pop("vad")
        in_time = now + timedelta(seconds=BEGIN_WITHIN_SECONDS)
        after = in_time + timedelta(seconds=1)

        def code(at: datetime) -> str:
            return agent.ask_lease("ocr", now=at).reason_code

        agent.report("vad", "staged", now=in_time)
        assert code(in_time) == "site-busy", "it may begin yet"
        agent.report("vad", "staged", now=after, lease=lease)
        assert code(after) == "site-busy", "it says that it holds the lease"
        agent.report("vad", "activating", now=after)
        assert code(after) == "site-busy", "it has begun"
        agent.report("vad", "staged", now=after, serving=3)
        assert code(after) == "site-busy", "it serves the version"
        agent.triton_live = False
        agent.report("vad", "staged", now=after)
        assert code(after) == "site-busy", "nobody knows what it serves"
        agent.triton_live = True

        agent.report("vad", "staged", now=after)

        assert agent.ask_lease("ocr", now=after).granted

    def test_sends_the_others_back(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        other = make_version(number=9, now=now)
        Deployment.objects.filter(rollout=rollout, site=fleet[1].site).update(from_version=other)
        quarantine(2, now=now)
        roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)
        settle(rollout, fleet, now=now)

        assert rollout.state == RolloutState.ROLLBACK_INCOMPLETE
        assert parts(rollout, "rollback") == {"s-0": "rollback_failed", "s-1": "rolled_back"}
        assert [agent.serving["vad"] for agent in fleet] == [3, 9]

    def test_what_failed_here_or_is_quarantined_too_is_not_named_as_verified(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        for number in (1, 2):
            quarantine(number, now=now)
        roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)
        assert part(rollout, fleet[0], "rollback").reason.endswith("or roll out another version")

    def test_by_the_engine_ends_so_too(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        quarantine(2, now=now)
        fleet[1].begin("vad", now=now)
        fleet[1].report("vad", "failed", now=now, reason_code="golden-mismatch")
        for _ in range(2):
            turn(rollout, now=now)
        assert rollout.state == RolloutState.ROLLBACK_INCOMPLETE
        assert [wished(agent, now=now) for agent in fleet] == ["3", "3"]

    def test_by_a_quarantine_of_the_new_version_ends_so_too(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        quarantine(2, now=now)
        quarantine_version(model_name="vad", number=3, roll_back=True, now=now, **BY)
        turn(rollout, now=now)
        assert rollout.state == RolloutState.ROLLBACK_INCOMPLETE


class TestOfAPart:
    def test_is_refused_where_it_would_change_nothing(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        quarantine(2, now=now)
        with pytest.raises(Conflict, match="version 2, which it had before, is quarantined") as no:
            roll_back_rollout(rollout_id=rollout.pk, site_name="s-0", now=now, **BY)
        assert no.value.code == NOTHING_SOUND
        assert parts(rollout) == {"s-0": "succeeded", "s-1": "offered"}

    def test_keeps_the_version_from_those_that_have_not_got_it(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        quarantine(2, now=now)
        roll_back_rollout(rollout_id=rollout.pk, stage_name="all", now=now, **BY)

        assert set(parts(rollout).values()) == {"cancelled"}
        assert part(rollout, fleet[0], "rollback").reason_code == NOTHING_SOUND
        assert fleet[1].serving["vad"] == 2
        with pytest.raises(Conflict, match="poll again"):
            fleet[1].ask_lease("vad", now=now)


class TestCallBack:
    def test_of_an_abort_leaves_the_wish_and_tells_of_it(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        quarantine(2, now=now)
        abort_rollout(rollout_id=rollout.pk, now=now, **BY)
        turn(rollout, now=now)

        assert rollout.state == RolloutState.CANCELLED
        assert wished(fleet[1], now=now) == "3"
        event = Event.objects.get(action="site.not_called_back")
        assert (event.object_id, event.data) == ("s-1", {"model": "vad", "rollout": rollout.pk})
        assert "version 2, which it had before, is quarantined" in event.reason

    def test_of_a_site_that_had_not_switched_after_all(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        fleet[1].begin("vad", now=now)
        abort_rollout(rollout_id=rollout.pk, now=now, **BY)
        quarantine(2, now=now)
        fleet[1].reboot()
        fleet[1].report("vad", "staged", now=now)
        turn(rollout, now=now)

        assert (rollout.state, wished(fleet[1], now=now)) == (RolloutState.CANCELLED, "3")

    def test_of_those_not_waited_for(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        fleet[1].begin("vad", now=now)
        abort_rollout(rollout_id=rollout.pk, now=now, **BY)
        quarantine(2, now=now)
        stop_waiting(rollout_id=rollout.pk, now=now, **BY)
        assert wished(fleet[1], now=now) == "3"

    def test_before_another_try(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        rollout.stages.update(policy={"max_unavailable": 2, "on_failure": "pause"})
        quarantine(2, now=now)
        fleet[1].begin("vad", now=now)
        fleet[1].report("vad", "failed", now=now, reason_code="golden-mismatch")
        turn(rollout, now=now)
        retry_failed(rollout_id=rollout.pk, now=now, **BY)
        assert wished(fleet[1], now=now) == "3"

        resume_rollout(rollout_id=rollout.pk, choice=ResumeChoice.ACCEPT, now=now, **BY)
        settle(rollout, fleet, now=now)
        assert rollout.state == RolloutState.SUCCEEDED

    def test_of_a_retired_site(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        quarantine(2, now=now)
        retire_site(site=fleet[1].site, reason="sold", actor="user:ann", now=now)
        turn(rollout, now=now)
        assert SiteModel.objects.get(site=fleet[1].site).desired_id == rollout.version_id

    def test_of_silent_sites(self, fleet: list[FakeAgent], rollout: Rollout, now: datetime) -> None:
        policy = {"max_unavailable": 2, "progress_deadline_seconds": 60, "on_silent": "count"}
        rollout.stages.update(policy={**policy, "failures_tolerated": 1})
        quarantine(2, now=now)
        later = now + silence() * 5
        turn(rollout, fleet[0], now=later)
        assert parts(rollout)["s-1"] == "timed_out"
        assert SiteModel.objects.get(site=fleet[1].site).desired_id == rollout.version_id


class TestTheNextRollout:
    def test_records_what_the_site_serves_and_not_the_wish_that_was_left(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        quarantine(2, now=now)
        after = start(make_version(now=now), on_conflict=OnConflict.SUPERSEDE, now=now)
        turn(rollout, now=now)
        assert rollout.state == RolloutState.SUPERSEDED
        turn(after, now=now)

        recorded = {agent.site.name: part(after, agent).from_version for agent in fleet}
        assert {name: version and version.number for name, version in recorded.items()} == {
            "s-0": 3,
            "s-1": 2,
        }
        assert [agent.wishes(now=now)["vad"]["previous"] for agent in fleet] == ["3", "2"]
        release_version(model_name="vad", number=2, now=now, **BY)
        roll_back_rollout(rollout_id=after.pk, now=now, **BY)
        settle(after, fleet, now=now)
        assert [agent.serving["vad"] for agent in fleet] == [3, 2]

    def test_records_the_wish_that_was_left_once_the_site_serves_it(
        self, fleet: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        fleet[1].begin("vad", now=now)
        quarantine(2, now=now)
        roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)
        turn(rollout, now=now)
        fleet[1].report("vad", "succeeded", now=now)

        after = running(make_version(now=now), now=now)

        recorded = part(after, fleet[1]).from_version
        assert recorded is not None
        assert recorded.number == 3


def test_a_quarantined_version_never_reaches_a_wish(fleet: list[FakeAgent], now: datetime) -> None:
    quarantine(1, now=now)
    row = SiteModel.objects.get(site=fleet[0].site)
    with pytest.raises(RuntimeError, match="cannot be wished"):
        change_wishes(
            model_id=row.model_id,
            wishes={row.site_id: row.model.versions.get(number=1)},
            keep_previous=True,
        )
