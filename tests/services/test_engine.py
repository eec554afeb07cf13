"""The tick, its sign of life, the doorbell, and what one transaction holds."""

import time
from contextlib import nullcontext
from datetime import datetime, timedelta

import pytest
from celery import Celery, current_app
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from controlplane.audit.models import Event
from controlplane.catalog.services import create_model
from controlplane.domain.rollout import RolloutState
from controlplane.fleet.models import Generation, Site
from controlplane.rollouts import effects, services, site_effects
from controlplane.rollouts.history import replayed
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
        spoil(bad, now=now)

        tick(now=now)

        bad.refresh_from_db()
        good.refresh_from_db()
        assert (bad.state, good.state) == ("running", "running")
        assert (bad.reason_code, good.reason_code) == ("engine-error", "deployments-unfinished")
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


def spoil(rollout: Rollout, *, now: datetime) -> Site:
    """A row that no code writes: the engine finds it impossible."""
    orphan = make_joined_site("orphan", now=now).site
    orphan.generation.delete()
    Deployment.objects.create(
        rollout=rollout,
        stage=rollout.stages.get(),
        site=orphan,
        model=rollout.model,
        kind="forward",
        to_version=rollout.version,
        state="pending",
    )
    return orphan


class TestATurnThatFails:
    """What an operator reads at a rollout that the engine cannot move."""

    def test_is_told_with_the_kind_of_error_and_where_to_look(self, now: datetime) -> None:
        rollout = make_rollout(now=now)
        spoil(rollout, now=now)

        with pytest.raises(KeyError):
            advance_rollout(rollout_id=rollout.pk, now=now)

        rollout.refresh_from_db()
        assert rollout.reason_code == "engine-error"
        assert rollout.waiting_since == now
        for words in (
            "a turn of the engine failed (KeyError in change_wishes)",
            "tries again at every tick",
            f"the engine's log under rollout.advance_failed, rollout {rollout.pk}",
        ):
            assert words in rollout.reason

    def test_holds_no_word_of_the_error_itself(
        self, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("token wpa_secret")

        monkeypatch.setattr(site_effects, "change_wishes", fail)
        rollout = make_rollout(now=now)
        tick(now=now)

        rollout.refresh_from_db()
        assert "RuntimeError in fail" in rollout.reason or "RuntimeError in offer" in rollout.reason
        assert "secret" not in rollout.reason

    def test_says_since_when_it_fails_and_writes_it_once(self, now: datetime) -> None:
        rollout = make_rollout(now=now)
        spoil(rollout, now=now)
        tick(now=now)
        rollout.refresh_from_db()
        revision = rollout.revision

        tick(now=now + timedelta(minutes=5))

        rollout.refresh_from_db()
        assert (rollout.waiting_since, rollout.revision) == (now, revision)

    def test_is_forgotten_with_the_next_good_turn(self, now: datetime) -> None:
        edge = make_joined_site(now=now)
        rollout = make_rollout(version=make_version(now=now), agents=[edge], now=now)
        orphan = spoil(rollout, now=now)
        tick(now=now)
        later = now + timedelta(minutes=5)

        Generation.objects.create(site=orphan)
        tick(now=later)

        rollout.refresh_from_db()
        assert rollout.reason_code == "deployments-unfinished"
        assert rollout.waiting_since == later
        assert "vad" in edge.wishes(now=later)

    def test_of_a_rollout_that_is_over_changes_nothing(
        self, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It ended between the failure and the telling of it."""
        rollout = make_rollout(now=now)

        def end_and_fail(*_: object) -> None:
            Rollout.objects.filter(pk=rollout.pk).update(state="succeeded", reason="done")
            raise RuntimeError("after the end")

        monkeypatch.setattr(services, "add_late_joiners", end_and_fail)
        monkeypatch.setattr(services.transaction, "atomic", lambda: nullcontext())
        with pytest.raises(RuntimeError, match="after the end"):
            advance_rollout(rollout_id=rollout.pk, now=now)

        rollout.refresh_from_db()
        assert (rollout.state, rollout.reason) == ("succeeded", "done")


def test_a_turn_that_is_too_long_is_left_to_the_next(
    now: datetime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The other rollouts get their turn; nothing is lost and nothing is an error."""
    monkeypatch.setattr(services, "DECISIONS_PER_TURN", 2)
    edge = make_joined_site(now=now)
    rollout = make_rollout(version=make_version(now=now), agents=[edge], now=now)

    tick(now=now)
    rollout.refresh_from_db()
    assert (rollout.reason_code, rollout.advanced_at) == ("stage-started", None)
    assert any("rollout.turn_unfinished" in record.getMessage() for record in caplog.records)

    tick(now=now + timedelta(seconds=5))
    rollout.refresh_from_db()
    assert rollout.reason_code == "deployments-unfinished"
    assert "vad" in edge.wishes(now=now)


def test_a_ring_from_before_the_last_look_is_passed_over(now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    agent_done = Deployment.objects.filter(rollout=rollout)
    agent_done.update(state="succeeded")
    ring = {"rollout_id": rollout.pk, "now": now + timedelta(seconds=2)}
    Rollout.objects.filter(pk=rollout.pk).update(advanced_at=now)

    advance_rollout(**ring, rung_at=now - timedelta(seconds=1))
    rollout.refresh_from_db()
    assert rollout.stages.get().state == "running"

    advance_rollout(**ring, rung_at=now + timedelta(seconds=1))
    assert rollout.stages.get().state != "running"
    rollout.refresh_from_db()
    assert rollout.advanced_at == ring["now"]


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
    def test_a_decision_that_breaks_half_way_leaves_nothing_of_itself(
        self, broken: tuple[object, str], now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was decided before it stands, with its event, and is gone on from."""
        rollout = make_rollout(now=now)

        def fail(*args: object, **kwargs: object) -> None:
            raise RuntimeError("cut off here")

        with monkeypatch.context() as patch:
            patch.setattr(*broken, fail)
            with pytest.raises(RuntimeError, match="cut off here"):
                advance_rollout(rollout_id=rollout.pk, now=now)

        rollout.refresh_from_db()
        assert replayed(rollout)[1] == []
        assert not SiteModel.objects.exists()
        assert set(Deployment.objects.values_list("state", flat=True)) == {"pending"}

        advance_rollout(rollout_id=rollout.pk, now=now)
        rollout.refresh_from_db()
        assert replayed(rollout)[1] == []
        assert set(Deployment.objects.values_list("state", flat=True)) == {"offered"}

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
    # Seven of them read what the choice of a build rests on.
    assert max(few) < 75
