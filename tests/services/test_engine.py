"""The tick, its sign of life, the doorbell, and what one transaction holds."""

import time
from datetime import datetime, timedelta

import pytest
from celery import Celery, current_app
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from controlplane.audit.models import Event
from controlplane.catalog.services import create_model
from controlplane.domain.rollout import RolloutState
from controlplane.rollouts import effects, site_effects
from controlplane.rollouts.models import Deployment, EngineBeat, Rollout, SiteModel
from controlplane.rollouts.queries import engine_status
from controlplane.rollouts.services import (
    advance_rollout,
    record_beat,
    start_rollout,
    tick,
)
from controlplane.rollouts.tasks import advance
from controlplane.rollouts.tasks import tick as tick_task
from controlplane.rollouts.verbs import pause_rollout
from tests.factories import (
    ACTOR,
    ALL_AT_ONCE,
    make_joined_site,
    make_rollout,
    make_site,
    make_version,
)

BY = {"actor": "user:ann", "reason": "because"}


class TestTick:
    def test_advances_every_active_rollout(self, now: datetime) -> None:
        edge = make_joined_site(now=now)
        for name in ("vad", "ocr"):
            make_rollout(version=make_version(name, now=now), agents=[edge], now=now)

        tick(now=now)

        assert set(Rollout.objects.values_list("state", flat=True)) == {"running"}
        assert sorted(edge.wishes(now=now)) == ["ocr", "vad"]

    def test_one_rollout_that_cannot_be_advanced_does_not_hold_up_the_others(
        self, now: datetime, caplog: pytest.LogCaptureFixture
    ) -> None:
        edge = make_joined_site(now=now)
        bad = make_rollout(version=make_version("vad", now=now), agents=[edge], now=now)
        good = make_rollout(version=make_version("ocr", now=now), agents=[edge], now=now)
        # A row that no code writes: the engine finds it impossible.
        orphan = make_site("orphan", now=now)
        orphan.generation.delete()
        Deployment.objects.create(
            rollout=bad,
            stage=bad.stages.get(),
            site=orphan,
            model=bad.model,
            kind="forward",
            to_version=bad.version,
            state="pending",
        )

        tick(now=now)

        bad.refresh_from_db()
        good.refresh_from_db()
        assert (bad.state, good.state) == ("planned", "running")
        assert sorted(edge.wishes(now=now)) == ["ocr"]
        assert any("rollout.advance_failed" in record.getMessage() for record in caplog.records)
        assert EngineBeat.objects.get(name="tick").at == now

    def test_leaves_final_rollouts_alone(self, now: datetime) -> None:
        rollout = make_rollout(RolloutState.SUCCEEDED, now=now)
        before = Rollout.objects.values().get()

        tick(now=now + timedelta(days=1))
        advance_rollout(rollout_id=rollout.pk, now=now + timedelta(days=1))

        assert Rollout.objects.values().get() == before

    def test_ten_times_is_once(self, now: datetime) -> None:
        make_rollout(RolloutState.RUNNING, now=now)
        rows = Rollout.objects.values().get(), list(Deployment.objects.values())
        events = Event.objects.count()
        tick(now=now)
        rows = Rollout.objects.values().get(), list(Deployment.objects.values())

        for _ in range(10):
            tick(now=now)

        assert (Rollout.objects.values().get(), list(Deployment.objects.values())) == rows
        assert Event.objects.count() == events

    def test_a_rollout_that_is_gone_is_no_error(self, now: datetime) -> None:
        advance_rollout(rollout_id=404, now=now)
        advance(404)
        tick_task()
        assert EngineBeat.objects.filter(name="tick").exists()


def test_a_ring_from_before_the_last_look_is_passed_over(now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    agent_done = Deployment.objects.filter(rollout=rollout)
    agent_done.update(state="succeeded")
    ring = {"rollout_id": rollout.pk, "now": now + timedelta(seconds=2)}

    advance_rollout(**ring, rung_at=now - timedelta(seconds=1))
    rollout.refresh_from_db()
    assert rollout.stages.get().state == "running"

    advance_rollout(**ring, rung_at=now + timedelta(seconds=1))
    assert rollout.stages.get().state != "running"


def test_waiting_since_stays_while_the_cause_is_the_same(now: datetime) -> None:
    agents = [make_joined_site(name, now=now) for name in ("a", "b")]
    rollout = make_rollout(
        RolloutState.RUNNING, version=make_version(now=now), agents=agents, now=now
    )
    advance_rollout(rollout_id=rollout.pk, now=now)
    later = now + timedelta(minutes=5)
    agents[0].report("vad", "staged", now=later)

    advance_rollout(rollout_id=rollout.pk, now=later)

    before, (rollout.reason, rollout.waiting_since) = rollout.reason, ("", now)
    rollout.refresh_from_db()
    assert "staged" in rollout.reason
    assert rollout.reason != before
    assert rollout.waiting_since == now


class TestEngineStatus:
    def test_nothing_was_ever_seen(self, now: datetime) -> None:
        status = engine_status(now=now)
        assert not status.alive
        assert status.reason == "no worker was ever seen; no tick was ever seen"

    @pytest.mark.parametrize(
        ("worker_ago", "tick_ago", "alive", "words"),
        [
            (0, 0, True, "ticking"),
            (60, 60, True, "ticking"),
            (61, 0, False, "no worker for 61 s"),
            (0, 61, False, "no tick for 61 s"),
        ],
    )
    def test_both_must_have_been_seen_within_a_minute(
        self, worker_ago: int, tick_ago: int, alive: bool, words: str, now: datetime
    ) -> None:
        record_beat(name="worker", now=now - timedelta(seconds=worker_ago))
        record_beat(name="tick", now=now - timedelta(seconds=tick_ago))

        status = engine_status(now=now)

        assert (status.alive, status.reason) == (alive, words)


@pytest.mark.usefixtures("transactional_db")
class TestDoorbell:
    @pytest.fixture
    def _dead_broker(self) -> object:
        """An app whose broker nobody answers for, as the one that services find."""
        before = current_app._get_current_object()
        dead = Celery("dead", broker="redis://127.0.0.1:1/0")
        dead.set_current()
        yield dead
        before.set_current()
        dead.close()

    @pytest.mark.usefixtures("_dead_broker")
    def test_a_dead_broker_fails_no_request_and_holds_none_up(
        self, now: datetime, caplog: pytest.LogCaptureFixture
    ) -> None:
        edge = make_joined_site(now=now)
        version = make_version(now=now)
        began = time.monotonic()

        rollout = start_rollout(
            model_name="vad",
            version_number=version.number,
            stages=ALL_AT_ONCE,
            actor=ACTOR,
            now=now,
        )

        assert time.monotonic() - began < 4
        assert any("doorbell.unheard" in record.getMessage() for record in caplog.records)
        tick(now=now)
        rollout.refresh_from_db()
        assert rollout.state == "running"
        assert "vad" in edge.wishes(now=now)

    def test_rings_only_once_the_rows_can_be_seen(self, now: datetime) -> None:
        rung: list[tuple[bool, int]] = []

        class Listener(Celery):
            def send_task(self, name: str, args: list[int], **options: object) -> None:
                rung.append((connection.in_atomic_block, args[0]))

        before = current_app._get_current_object()
        listener = Listener("listener", broker="memory://")
        listener.set_current()
        try:
            rollout = make_rollout(now=now)
        finally:
            before.set_current()
            listener.close()

        assert rung == [(False, rollout.pk)]


class TestOneTransaction:
    def test_an_event_goes_with_the_change_that_it_tells_of(self, now: datetime) -> None:
        events = Event.objects.count()
        with transaction.atomic():
            create_model(name="vad", actor=ACTOR, now=now)
            assert Event.objects.count() == events + 1
            transaction.set_rollback(True)

        assert Event.objects.count() == events

    @pytest.mark.parametrize(
        "broken",
        [
            (effects, "_turn_stage"),
            (effects, "record"),
            (site_effects, "change_wishes"),
            (site_effects, "move_of"),
        ],
        ids=lambda broken: broken[1],
    )
    def test_a_turn_that_breaks_half_way_leaves_nothing(
        self, broken: tuple[object, str], now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rollout = make_rollout(now=now)
        before = self.rows()

        def fail(*args: object, **kwargs: object) -> None:
            raise RuntimeError("cut off here")

        monkeypatch.setattr(*broken, fail)
        with pytest.raises(RuntimeError, match="cut off here"):
            advance_rollout(rollout_id=rollout.pk, now=now)

        assert self.rows() == before
        assert not SiteModel.objects.exists()

    def test_a_verb_writes_its_event_with_actor_and_reason(self, now: datetime) -> None:
        rollout = make_rollout(RolloutState.RUNNING, now=now)
        pause_rollout(rollout_id=rollout.pk, now=now, **BY)
        event = Event.objects.latest("pk")
        assert (event.action, event.actor, event.reason) == (
            "rollout.paused",
            "user:ann",
            "because",
        )
        assert (event.object_id, event.at) == (str(rollout.pk), now)

    @staticmethod
    def rows() -> list[object]:
        kinds = (Rollout, Deployment, Event)
        return [list(kind.objects.order_by("pk").values()) for kind in kinds]


def test_a_turn_costs_the_same_queries_however_many_sites(now: datetime) -> None:
    def cost(sites: int, name: str) -> list[int]:
        agents = [make_joined_site(now=now) for _ in range(sites)]
        rollout = make_rollout(version=make_version(name, now=now), agents=agents, now=now)
        costs = []
        for _ in range(2):
            with CaptureQueriesContext(connection) as captured:
                advance_rollout(rollout_id=rollout.pk, now=now)
            costs.append(len(captured))
        return costs

    few = cost(2, "vad")
    assert cost(20, "ocr") == few
    assert max(few) < 70
