"""What stands above rollouts and holds them: freeze, budget, windows, quarantine and pins."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.audit.models import Event
from controlplane.catalog.models import Version
from controlplane.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from controlplane.domain.rollout import ResumeChoice, RolloutState, WaitsFor, waits_for
from controlplane.fleet.services import create_window
from controlplane.rollouts.freezes import freeze_sites, lift_freeze, set_budget
from controlplane.rollouts.planning import plan_rollout
from controlplane.rollouts.quarantine import (
    pin_model,
    quarantine_version,
    release_version,
    unpin_model,
)
from controlplane.rollouts.turning_back import roll_back_rollout
from controlplane.rollouts.verbs import resume_rollout
from tests.factories import make_joined_site, make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.steps import (
    BY,
    canary_then_rest,
    one_stage,
    parts,
    running,
    serving,
    start,
    turn,
)


@pytest.fixture
def edge(now: datetime) -> FakeAgent:
    return make_joined_site("edge", now=now)


@pytest.fixture
def core(now: datetime) -> FakeAgent:
    return make_joined_site("core", tier="regional", now=now)


class TestFreeze:
    def test_holds_offers_and_says_who_since_when_and_until_when(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        until = now + timedelta(hours=1)
        freeze_sites(selector={}, until=until, now=now, **BY)
        rollout = running(make_version(now=now), now=now)

        assert rollout.reason_code == "offers-held"
        assert (
            "edge (frozen by user:ann since 2026-11-23 12:00 UTC until 2026-11-23 13:00 UTC: "
            "because)" in rollout.reason
        )
        assert edge.wishes(now=now) == {}
        assert turn(rollout, now=until).reason_code != "offers-held"
        assert "vad" in edge.wishes(now=until)

    def test_without_an_end_it_waits_for_a_person_and_so_does_a_pin(
        self, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        until = now + timedelta(hours=1)
        freeze_sites(selector={}, until=until, now=now, **BY)
        freeze_sites(selector={"tier": "edge"}, until=None, now=now, **BY)
        rollout = running(make_version(now=now), now=now)
        assert rollout.reason_code == "offers-held"  # core's passes by itself

        turn(rollout, now=until)
        turn(rollout, core, now=until)
        turn(rollout, now=until)
        assert rollout.reason_code == "held-by-person"
        assert waits_for(RolloutState.RUNNING, rollout.reason_code) is WaitsFor.PERSON

    def test_holds_only_the_sites_it_selects(
        self, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        freeze_sites(selector={"tier": "edge"}, until=None, now=now, **BY)
        rollout = running(make_version(now=now), now=now)
        assert parts(rollout) == {"core": "offered", "edge": "pending"}

    def test_lets_a_site_that_is_switching_finish(self, edge: FakeAgent, now: datetime) -> None:
        rollout = running(make_version(now=now), now=now)
        edge.begin("vad", now=now)
        freeze_sites(selector={}, until=None, now=now, **BY)
        turn(rollout, edge, now=now)
        assert parts(rollout) == {"edge": "succeeded"}

    def test_when_lifted_lets_everything_go_on(self, edge: FakeAgent, now: datetime) -> None:
        freeze = freeze_sites(selector={}, until=None, now=now, **BY)
        rollout = running(make_version(now=now), now=now)
        lift_freeze(freeze_id=freeze.pk, now=now, **BY)
        assert turn(rollout, now=now).reason_code == "deployments-unfinished"
        with pytest.raises(Conflict, match="over already"):
            lift_freeze(freeze_id=freeze.pk, now=now, **BY)

    def test_unknown_is_said_to_be_unknown(self, now: datetime) -> None:
        with pytest.raises(NotFound):
            lift_freeze(freeze_id=404, now=now, **BY)

    @pytest.mark.parametrize(
        ("asked", "code", "field"),
        [
            ({"reason": " "}, "reason-required", "reason"),
            ({"until": timedelta(0)}, "freeze-invalid", "until"),
            ({"selector": {"moon": 1}}, "freeze-invalid", "selector.moon"),
        ],
    )
    def test_bad_input_names_the_field(
        self, asked: dict[str, Any], code: str, field: str, now: datetime
    ) -> None:
        facts: dict[str, Any] = {"selector": {}, "until": None, **BY, **asked}
        if facts["until"] is not None:
            facts["until"] = now + facts["until"]
        with pytest.raises(InvalidInput) as caught:
            freeze_sites(now=now, **facts)
        assert caught.value.code == code
        assert field in [error.field for error in caught.value.errors]

    @pytest.mark.parametrize("part", [{}, {"site_name": "edge"}, {"stage_name": "all"}])
    def test_lets_roll_back_only_who_may(
        self, part: dict[str, str], edge: FakeAgent, now: datetime
    ) -> None:
        rollout = running(make_version(now=now), now=now)
        freeze_sites(selector={}, until=None, now=now, **BY)

        with pytest.raises(Forbidden) as caught:
            roll_back_rollout(rollout_id=rollout.pk, now=now, **part, **BY)
        assert caught.value.code == "frozen"
        assert parts(rollout, "rollback") == {}

        roll_back_rollout(rollout_id=rollout.pk, may_while_frozen=True, now=now, **part, **BY)
        assert parts(rollout, "rollback") == {"edge": "offered"}

    def test_never_holds_a_rollback_by_the_engine(self, edge: FakeAgent, now: datetime) -> None:
        rollout = running(make_version(now=now), now=now)
        edge.begin("vad", now=now)
        freeze_sites(selector={}, until=None, now=now, **BY)
        edge.report("vad", "failed", now=now)
        assert turn(rollout, now=now).state == RolloutState.ROLLING_BACK


class TestBudget:
    @pytest.mark.parametrize("percent", [0, 101, -1])
    def test_that_is_no_share_is_refused(self, percent: int, now: datetime) -> None:
        with pytest.raises(InvalidInput) as caught:
            set_budget(changing_percent=percent, now=now, **BY)
        assert caught.value.errors[0].field == "changing_percent"

    def test_is_kept_with_what_it_was(self, now: datetime) -> None:
        set_budget(changing_percent=10, now=now, **BY)
        assert set_budget(changing_percent=None, now=now, **BY).changing_percent is None
        event = Event.objects.latest("pk")
        assert event.data == {"changing_percent": {"before": 10, "after": None}}


class TestWindows:
    def window(self, kind: str, start: str, now: datetime) -> None:
        fields = {"name": kind, "kind": kind, "days": ["mon"], "start": start, "minutes": 60}
        create_window(fields=fields, actor="user:ann", now=now)

    def test_nothing_is_offered_while_the_download_window_is_closed(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        self.window("download", "14:00", now)
        rollout = running(make_version(now=now), now=now)
        assert rollout.reason_code == "offers-held"
        assert "its download window is closed until 2026-11-23 14:00 UTC" in rollout.reason

        turn(rollout, now=now + timedelta(hours=2))
        assert parts(rollout) == {"edge": "offered"}

    def test_bytes_move_and_nothing_is_activated_outside_the_activation_window(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        self.window("activation", "14:00", now)
        rollout = running(make_version(now=now), now=now)
        turn(rollout, edge, now=now)
        assert parts(rollout) == {"edge": "staged"}

        turn(rollout, edge, now=now + timedelta(hours=2))
        assert parts(rollout) == {"edge": "succeeded"}


class TestQuarantine:
    @pytest.fixture
    def version(self, edge: FakeAgent, core: FakeAgent, now: datetime) -> Version:
        serving([edge, core], now=now)
        return make_version(now=now)

    def quarantine(self, version: Version, *, now: datetime, **asked: Any) -> Version:
        facts = {"roll_back": False, **BY, **asked}
        return quarantine_version(model_name="vad", number=version.number, now=now, **facts)

    def test_pauses_its_rollout_and_no_resume_gets_past_it(
        self, version: Version, edge: FakeAgent, now: datetime
    ) -> None:
        rollout = running(version, canary_then_rest(), now=now)
        edge.report("vad", "staged", now=now)
        self.quarantine(version, now=now)
        turn(rollout, now=now)
        assert (rollout.state, rollout.pause_code) == ("paused", "version-withdrawn")
        assert edge.ask_lease("vad", now=now).reason_code == "version-withdrawn"

        for choice in (ResumeChoice.RETRY, ResumeChoice.ACCEPT):
            with pytest.raises(Conflict, match="or release the version first") as caught:
                resume_rollout(rollout_id=rollout.pk, choice=choice, now=now, **BY)
            assert caught.value.extra["choices"] == ["rollback"]
            assert edge.ask_lease("vad", now=now).reason_code == "version-withdrawn"

    def test_rolls_back_where_asked_to(
        self, version: Version, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        rollout = running(version, canary_then_rest(soak_seconds=600), now=now)
        turn(rollout, edge, now=now)
        self.quarantine(version, roll_back=True, now=now)
        settle(rollout, [edge, core], now=now)
        assert rollout.state == RolloutState.ROLLED_BACK
        assert edge.serving["vad"] == 1

    def test_rolls_back_during_a_freeze_only_for_who_may(
        self, version: Version, edge: FakeAgent, now: datetime
    ) -> None:
        running(version, now=now)
        freeze_sites(selector={}, until=None, now=now, **BY)
        with pytest.raises(Forbidden):
            self.quarantine(version, roll_back=True, now=now)
        version.refresh_from_db()
        assert version.state == "approved", "half of it is not done"
        self.quarantine(version, now=now)

    def test_holds_a_planned_rollout_until_it_is_released(
        self, version: Version, edge: FakeAgent, now: datetime
    ) -> None:
        rollout = start(version, now=now)
        self.quarantine(version, now=now)
        assert turn(rollout, now=now).reason_code == "version-withdrawn"
        release_version(model_name="vad", number=version.number, now=now, **BY)
        assert turn(rollout, now=now).state == RolloutState.RUNNING

    def test_no_plan_takes_it(self, version: Version, now: datetime) -> None:
        self.quarantine(version, now=now)
        with pytest.raises(InvalidInput, match="is quarantined: user:ann: because"):
            start(version, now=now)

    def test_twice_or_of_what_is_not_is_refused(self, version: Version, now: datetime) -> None:
        by: dict[str, Any] = {"model_name": "vad", "number": version.number, "now": now, **BY}
        with pytest.raises(Conflict, match="not quarantined"):
            release_version(**by)
        self.quarantine(version, now=now)
        with pytest.raises(Conflict, match="already"):
            self.quarantine(version, now=now)

    def test_wants_a_reason(self, version: Version, now: datetime) -> None:
        with pytest.raises(InvalidInput, match="reason"):
            self.quarantine(version, reason="", now=now)

    def test_a_site_may_not_even_mend_itself_with_it(
        self, version: Version, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        rollout = running(version, now=now)
        settle(rollout, [edge, core], now=now)
        self.quarantine(version, now=now)
        assert not edge.ask_lease("vad", now=now).granted


class TestPins:
    def test_a_pinned_site_is_left_out_of_plans_and_comes_back_when_let_go(
        self, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        serving([edge, core], now=now)
        version = make_version(now=now)
        asked: dict[str, Any] = {"site_name": "edge", "model_name": "vad", "now": now, **BY}

        def planned() -> tuple[dict[str, str], list[tuple[str, ...]]]:
            plan = plan_rollout(
                model_name="vad", version_number=version.number, stages=one_stage(), now=now
            ).plan
            return dict(plan.excluded), [names for _, names in plan.stages]

        pin_model(**asked)
        assert planned() == (
            {"edge": "pinned to version 1 by user:ann: because"},
            [("core",)],
        )
        unpin_model(**asked)
        assert planned() == ({}, [("core", "edge")])

    def test_of_what_was_never_wished_is_said_to_be_unknown(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        with pytest.raises(NotFound):
            pin_model(site_name="edge", model_name="vad", now=now, **BY)
