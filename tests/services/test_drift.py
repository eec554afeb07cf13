"""Drift: what a site serves against what is desired there, while no rollout is at work."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.audit.models import Event
from controlplane.catalog.models import DriftPolicy, Model
from controlplane.domain.rollout import RolloutState
from controlplane.fleet.models import Site
from controlplane.fleet.services import create_window, retire_site
from controlplane.rollouts import drift
from controlplane.rollouts.availability import AGAIN_AFTER, BUDGET_WINDOW
from controlplane.rollouts.corrections import holds_of
from controlplane.rollouts.drift import correct_drift, drifting
from controlplane.rollouts.freezes import freeze_sites, set_budget
from controlplane.rollouts.models import BadVersion, Deployment, SiteModel
from controlplane.rollouts.quarantine import pin_model, quarantine_version
from controlplane.rollouts.turning_back import roll_back_rollout
from tests.factories import ACTOR, make_joined_site, make_version
from tests.fake_agent import FakeAgent
from tests.services.steps import BY, one_stage, running, serving, turn

PATIENCE = timedelta(seconds=300)


@pytest.fixture(autouse=True)
def _patience(settings: Any) -> None:
    settings.WAYPOST_DRIFT_SECONDS = PATIENCE.total_seconds()


@pytest.fixture
def edge(now: datetime) -> FakeAgent:
    """It serves version 2, after version 1."""
    agent = make_joined_site("edge", now=now)
    for _ in range(2):
        serving([agent], now=now)
    return agent


def policy(choice: DriftPolicy) -> None:
    Model.objects.update(drift_policy=choice)


def drifts_to(edge: FakeAgent, version: int | None, *, now: datetime) -> None:
    """Somebody changed the site by hand; the engine looks once."""
    edge.report("vad", "succeeded", now=now, serving=version)
    correct_drift(now=now)


def later(edge: FakeAgent, at: datetime, version: int | None = 1) -> datetime:
    edge.report("vad", "succeeded", now=at, serving=version)
    correct_drift(now=at)
    return at


def wish(edge: FakeAgent, now: datetime) -> tuple[object, object]:
    found = edge.wishes(now=now)["vad"]
    return found["version"], found["generation"]


def test_is_noted_at_once_and_forgotten_when_it_is_over(edge: FakeAgent, now: datetime) -> None:
    drifts_to(edge, 1, now=now)
    assert SiteModel.objects.get().drifted_since == now

    drifts_to(edge, 2, now=now + timedelta(seconds=30))
    assert SiteModel.objects.get().drifted_since is None


def test_is_corrected_after_a_while_by_the_same_wish_anew(edge: FakeAgent, now: datetime) -> None:
    policy(DriftPolicy.CORRECT)
    drifts_to(edge, 1, now=now)
    before = wish(edge, now)
    later(edge, now + PATIENCE - timedelta(seconds=1))
    assert wish(edge, now) == before

    at = later(edge, now + PATIENCE)

    version, generation = wish(edge, at)
    assert (version, generation) == ("2", int(str(before[1])) + 1)
    event = Event.objects.get(action="drift.corrected")
    assert event.reason == "vad served version 1, desired was version 2"


def test_is_not_corrected_at_every_tick(edge: FakeAgent, now: datetime) -> None:
    policy(DriftPolicy.CORRECT)
    drifts_to(edge, 1, now=now)
    at = later(edge, now + PATIENCE)
    for minutes in range(1, 10):
        later(edge, at + timedelta(minutes=minutes))
    assert Event.objects.filter(action="drift.corrected").count() == 1

    later(edge, at + AGAIN_AFTER + timedelta(seconds=1))
    assert Event.objects.filter(action="drift.corrected").count() == 2


def test_is_left_alone_where_it_is_to_be_held(edge: FakeAgent, now: datetime) -> None:
    policy(DriftPolicy.HOLD)
    drifts_to(edge, 1, now=now)
    before = wish(edge, now)
    at = later(edge, now + 10 * PATIENCE)
    assert wish(edge, at) == before
    assert SiteModel.objects.get().drifted_since == now, "it is still told"


def test_is_adopted_where_the_site_is_right(edge: FakeAgent, now: datetime) -> None:
    policy(DriftPolicy.ADOPT)
    drifts_to(edge, 1, now=now)
    at = later(edge, now + PATIENCE)
    assert wish(edge, at)[0] == "1"
    assert Event.objects.filter(action="drift.adopted").count() == 1


def test_what_is_no_version_of_the_catalogue_is_corrected_not_adopted(
    edge: FakeAgent, now: datetime
) -> None:
    policy(DriftPolicy.ADOPT)
    drifts_to(edge, 77, now=now)
    at = later(edge, now + PATIENCE, version=77)
    assert wish(edge, at)[0] == "2"


def test_a_version_that_failed_there_is_never_pushed_again(edge: FakeAgent, now: datetime) -> None:
    policy(DriftPolicy.CORRECT)
    version = SiteModel.objects.get().desired
    assert version
    BadVersion.objects.create(site=edge.site, version=version, reason="it failed", at=now)
    drifts_to(edge, 1, now=now)
    before = wish(edge, now)
    at = later(edge, now + 10 * PATIENCE)
    assert wish(edge, at) == before


def test_nor_one_that_is_quarantined(edge: FakeAgent, now: datetime) -> None:
    policy(DriftPolicy.CORRECT)
    quarantine_version(model_name="vad", number=2, roll_back=False, now=now, **BY)
    drifts_to(edge, 1, now=now)
    before = wish(edge, now)
    assert wish(edge, later(edge, now + 10 * PATIENCE)) == before


def test_a_pinned_model_is_left_alone(edge: FakeAgent, now: datetime) -> None:
    policy(DriftPolicy.CORRECT)
    pin_model(site_name="edge", model_name="vad", now=now, **BY)
    drifts_to(edge, 1, now=now)
    before = wish(edge, now)
    assert wish(edge, later(edge, now + 10 * PATIENCE)) == before


def test_a_frozen_site_is_left_alone_until_the_freeze_is_over(
    edge: FakeAgent, now: datetime
) -> None:
    policy(DriftPolicy.CORRECT)
    freeze_sites(selector={}, until=now + 2 * PATIENCE, now=now, **BY)
    drifts_to(edge, 1, now=now)
    before = wish(edge, now)
    assert wish(edge, later(edge, now + PATIENCE)) == before
    assert wish(edge, later(edge, now + 2 * PATIENCE)) != before


def test_a_site_outside_its_activation_window_is_left_alone(edge: FakeAgent, now: datetime) -> None:
    policy(DriftPolicy.CORRECT)
    fields = {"name": "w", "kind": "activation", "days": ["mon"], "start": "14:00", "minutes": 60}
    create_window(fields=fields, actor=ACTOR, now=now)
    drifts_to(edge, 1, now=now)
    before = wish(edge, now)
    assert wish(edge, later(edge, now + PATIENCE)) == before
    assert wish(edge, later(edge, now + timedelta(hours=2))) != before


def test_a_site_under_way_to_its_wish_has_not_drifted(edge: FakeAgent, now: datetime) -> None:
    running(make_version(now=now), now=now)
    edge.report("vad", "staged", now=now)
    correct_drift(now=now)
    assert SiteModel.objects.get().drifted_since is None


def test_a_retired_site_drifts_no_more(edge: FakeAgent, now: datetime) -> None:
    policy(DriftPolicy.CORRECT)
    drifts_to(edge, 1, now=now)
    retire_site(site=edge.site, reason="sold", actor=ACTOR, now=now)
    correct_drift(now=now + 2 * PATIENCE)
    row = SiteModel.objects.get()
    assert (row.drifted_since, row.corrected_at) == (None, None)


def test_costs_the_same_queries_while_nothing_drifts_however_many_sites(now: datetime) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as captured:
            correct_drift(now=now)
        return len(captured)

    agents = [make_joined_site("a", now=now)]
    serving(agents, now=now)
    few = cost()
    agents += [make_joined_site(name, now=now) for name in ("b", "c")]
    serving(agents, now=now, model="ocr")
    assert cost() == few <= 4


def test_what_somebody_took_back_at_the_site_is_not_brought_back(
    edge: FakeAgent, now: datetime
) -> None:
    policy(DriftPolicy.CORRECT)
    before = wish(edge, now)

    def says(at: datetime) -> None:
        edge.report(
            "vad",
            "failed",
            now=at,
            serving=1,
            reason_code="rolled-back-locally",
            reason="rolled back at the site: smoke",
        )
        correct_drift(now=at)

    says(now)
    says(now + 2 * PATIENCE)

    assert wish(edge, now) == before
    assert BadVersion.objects.get().reason == "rolled back at the site: smoke"
    assert Event.objects.filter(action="site.rolled_back_locally").count() == 1


class TestBesideOthers:
    """A correction changes a site as a rollout does."""

    @pytest.fixture
    def fleet(self, now: datetime) -> list[FakeAgent]:
        """Twins of a redundancy group and a third; they serve version 2, after version 1."""
        found = [make_joined_site(name, now=now) for name in ("s-0", "s-1", "s-2")]
        Site.objects.filter(name__in=["s-0", "s-1"]).update(redundancy_group="twins")
        for agent in found:
            agent.site.refresh_from_db()
        for _ in range(2):
            serving(found, now=now)
        policy(DriftPolicy.CORRECT)
        return found

    def ripe(self, *agents: FakeAgent, now: datetime) -> datetime:
        """These serve version 1, and have for long enough; nobody changed anything in the hour."""
        for at in (now, now + BUDGET_WINDOW):
            for agent in agents:
                agent.report("vad", "succeeded", now=at, serving=1)
            if at == now:
                correct_drift(now=at)
        return now + BUDGET_WINDOW

    def corrected(self) -> list[str]:
        events = Event.objects.filter(action="drift.corrected").order_by("pk")
        return list(events.values_list("object_id", flat=True))

    def hold(self, agent: FakeAgent, now: datetime) -> str:
        row = drifting().select_related("site", "model", "desired").get(site=agent.site)
        return holds_of([row], now)[row.pk]

    def test_is_not_corrected_once_the_budget_of_the_hour_is_spent(
        self, fleet: list[FakeAgent], now: datetime
    ) -> None:
        at = self.ripe(fleet[2], now=now)
        set_budget(changing_percent=1, now=at, **BY)
        Deployment.objects.filter(site=fleet[0].site).update(leased_at=at)
        for agent in fleet[:2]:
            agent.report("vad", "succeeded", now=at)

        correct_drift(now=at)

        assert self.corrected() == []
        assert self.hold(fleet[2], at).startswith(
            "1 sites changed within an hour, the fleet's budget is 1"
        )
        correct_drift(now=at + BUDGET_WINDOW)
        assert self.corrected() == ["s-2"]

    def test_spends_the_budget_of_the_hour(self, fleet: list[FakeAgent], now: datetime) -> None:
        at = self.ripe(fleet[2], now=now)
        set_budget(changing_percent=1, now=at, **BY)
        correct_drift(now=at)
        assert self.corrected() == ["s-2"]
        fleet[2].obey(now=at)
        for agent in fleet[:2]:
            agent.report("vad", "succeeded", now=at)
        running(make_version("ocr", now=at), now=at)

        refused = fleet[0].ask_lease("ocr", now=at)
        assert (refused.granted, refused.reason_code) == (False, "budget-spent")
        later = at + BUDGET_WINDOW
        for agent in fleet:
            agent.report("vad", "succeeded", now=later)
        assert fleet[0].ask_lease("ocr", now=later).granted

    def test_leaves_a_site_whose_partner_is_away(
        self, fleet: list[FakeAgent], now: datetime
    ) -> None:
        at = self.ripe(fleet[0], now=now)
        fleet[1].report("vad", "succeeded", now=at, healthy=False)

        correct_drift(now=at)

        assert self.corrected() == []
        expected = "s-1 of the same redundancy group is not well or is changing"
        assert self.hold(fleet[0], at) == expected
        fleet[1].report("vad", "succeeded", now=at)
        correct_drift(now=at)
        assert self.corrected() == ["s-0"]

    def test_keeps_the_partner_of_a_site_under_correction_from_changing(
        self, fleet: list[FakeAgent], now: datetime
    ) -> None:
        at = self.ripe(fleet[0], now=now)
        fleet[1].report("vad", "succeeded", now=at)
        correct_drift(now=at)
        assert self.corrected() == ["s-0"]
        running(make_version("ocr", now=at), now=at)

        refused = fleet[1].ask_lease("ocr", now=at)
        assert (refused.granted, refused.reason_code) == (False, "redundancy-group")
        fleet[0].obey(now=at)
        assert fleet[1].ask_lease("ocr", now=at).granted

    def test_one_that_no_correction_may_touch_does_not_hold_up_the_next(
        self, fleet: list[FakeAgent], now: datetime
    ) -> None:
        at = self.ripe(fleet[0], fleet[2], now=now)
        fleet[1].report("vad", "succeeded", now=at)
        version = SiteModel.objects.get(site=fleet[0].site).desired
        assert version
        BadVersion.objects.create(site=fleet[0].site, version=version, reason="smoke", at=now)

        correct_drift(now=at)

        assert self.corrected() == ["s-2"]
        assert self.hold(fleet[0], at) == "version 2 failed here before: smoke"

    def test_a_wish_that_a_rollout_had_to_leave_is_not_pushed(
        self, fleet: list[FakeAgent], now: datetime
    ) -> None:
        rollout = running(make_version(now=now), one_stage(max_unavailable=3), now=now)
        quarantine_version(model_name="vad", number=2, roll_back=False, now=now, **BY)
        roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)
        turn(rollout, now=now)
        assert rollout.state == RolloutState.ROLLBACK_INCOMPLETE
        for at in (now, now + PATIENCE):
            fleet[0].report("vad", "failed", now=at, serving=2, reason_code="disk-full")
            correct_drift(now=at)

        assert self.corrected() == []
        assert self.hold(fleet[0], at) == "the rollout of version 3 ended here without success"

    @pytest.mark.parametrize(
        ("hold", "words"),
        [
            ({"pinned_by": "ann", "pinned_reason": "a demo"}, "pinned by ann: a demo"),
            ({"drifted_since": None}, "acted on if it lasts until 13:05:00 UTC"),
        ],
    )
    def test_says_why_it_waits(
        self, hold: dict[str, Any], words: str, fleet: list[FakeAgent], now: datetime
    ) -> None:
        at = self.ripe(fleet[2], now=now)
        SiteModel.objects.filter(site=fleet[2].site).update(**hold)
        assert self.hold(fleet[2], at) == words

    def test_says_nothing_where_it_is_next(self, fleet: list[FakeAgent], now: datetime) -> None:
        assert self.hold(fleet[2], self.ripe(fleet[2], now=now)) == ""


def freeze_all(now: datetime) -> None:
    freeze_sites(selector={}, until=None, now=now, **BY)


def pin(now: datetime) -> None:
    pin_model(site_name="edge", model_name="vad", now=now, **BY)


def leave_to_a_person(now: datetime) -> None:
    policy(DriftPolicy.HOLD)


@pytest.mark.parametrize("meanwhile", [freeze_all, pin, leave_to_a_person])
def test_what_was_said_while_it_waited_for_the_locks_holds_a_correction(
    meanwhile: Callable[[datetime], None],
    edge: FakeAgent,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy(DriftPolicy.CORRECT)
    drifts_to(edge, 1, now=now)
    before = wish(edge, now)
    act = drift._act

    def act_late(pk: int, now: datetime) -> None:
        meanwhile(now)
        act(pk, now)

    monkeypatch.setattr(drift, "_act", act_late)
    assert wish(edge, later(edge, now + PATIENCE)) == before
