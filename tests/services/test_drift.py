"""Drift: what a site serves against what is desired there, while no rollout is at work."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.audit.models import Event
from controlplane.catalog.models import DriftPolicy, Model
from controlplane.fleet.services import create_window, retire_site
from controlplane.rollouts.drift import AGAIN_AFTER, correct_drift
from controlplane.rollouts.freezes import freeze_sites
from controlplane.rollouts.models import BadVersion, SiteModel
from controlplane.rollouts.quarantine import pin_model, quarantine_version
from tests.factories import ACTOR, make_joined_site, make_version
from tests.fake_agent import FakeAgent
from tests.services.steps import BY, running, serving

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
