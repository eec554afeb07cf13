"""Channels: one row that moves, and the rollout that a move starts, once."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.audit.models import Event
from controlplane.catalog.channels import find_channel, move_channel, remove_channel
from controlplane.catalog.models import Channel, Version, VersionState
from controlplane.domain.errors import Conflict, InvalidInput, NotFound
from controlplane.domain.rollout import FINAL_ROLLOUT, RolloutState
from controlplane.rollouts import tasks
from controlplane.rollouts.channel_moves import handle_move, handle_moves
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.quarantine import quarantine_version
from controlplane.rollouts.strategies import create_strategy
from controlplane.rollouts.version_verbs import retire_version, withdraw_approval
from tests.factories import make_joined_site, make_rollout, make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.threads import at_once, failures

BY: dict[str, Any] = {"actor": "token:ci", "person": "ana"}
LATER = timedelta(seconds=5)


def point(
    version: Version, name: str = "stable", *, now: datetime, strategy: str | None = "at-once"
) -> Channel:
    channel, _ = move_channel(
        model=version.model, name=name, version=version, strategy=strategy, reason="it is good",
        **BY, now=now,
    )  # fmt: skip
    return channel


def fresh(channel: Channel) -> Channel:
    channel.refresh_from_db()
    return channel


def rollouts() -> list[tuple[int, str]]:
    return list(Rollout.objects.order_by("pk").values_list("version__number", "state"))


def events(action: str) -> list[dict[str, Any]]:
    rows = Event.objects.filter(action=f"channel.{action}", object_type="channel")
    return list(rows.order_by("pk").values_list("data", flat=True))


class TestMoving:
    def test_points_at_a_version_and_then_at_the_next(self, now: datetime) -> None:
        first, second = make_version(now=now), make_version(now=now)
        channel = point(first, now=now)
        assert (channel.version, channel.moved_by, channel.person) == (first, "token:ci", "ana")
        channel = point(second, strategy=None, now=now + LATER)

        assert (channel.version, channel.strategy, channel.revision) == (second, "at-once", 2)
        assert channel.moved_at == now + LATER
        assert events("moved")[1] == {
            "version": {"before": 1, "after": 2},
            "strategy": {"before": "at-once", "after": "at-once"},
        }
        assert Event.objects.filter(object_id="vad@stable").count() == 2

    def test_to_where_it_is_changes_nothing(self, now: datetime) -> None:
        version = make_version(now=now)
        channel = point(version, now=now)
        again = point(version, now=now + LATER)
        assert (again.revision, again.moved_at) == (channel.revision, now)
        assert len(events("moved")) == 1

    def test_of_the_strategy_alone_starts_nothing(self, edge: FakeAgent, now: datetime) -> None:
        version = make_version(now=now)
        point(version, strategy=None, now=now)
        channel = point(version, strategy="at-once", now=now + LATER)
        assert (channel.strategy, channel.moved_at) == ("at-once", now)
        handle_moves(now=now + LATER)
        assert rollouts() == []
        assert (len(events("moved")), len(events("changed"))) == (1, 1)

    @pytest.mark.parametrize("state", [s for s in VersionState if s is not VersionState.APPROVED])
    def test_only_to_what_is_approved(self, state: VersionState, now: datetime) -> None:
        version = make_version(state=state, now=now)
        with pytest.raises(InvalidInput) as caught:
            point(version, now=now)
        assert caught.value.code == "version-not-approved"
        assert not Channel.objects.exists()

    def test_only_to_a_version_of_its_model(self, now: datetime) -> None:
        other = make_version("ocr", now=now)
        with pytest.raises(InvalidInput):
            move_channel(
                model=make_version(now=now).model, name="stable", version=other, reason="x",
                **BY, now=now,
            )  # fmt: skip

    @pytest.mark.parametrize("name", ["", "Stable", "-x", "a b", "x" * 41, "a/b", "\0", "st\u00e4"])
    def test_a_name_that_is_none(self, name: str, now: datetime) -> None:
        with pytest.raises(InvalidInput) as caught:
            point(make_version(now=now), name, now=now)
        assert caught.value.code == "channel-name-invalid"

    def test_wants_a_reason(self, now: datetime) -> None:
        version = make_version(now=now)
        with pytest.raises(InvalidInput):
            move_channel(
                model=version.model, name="stable", version=version, reason=" ", **BY, now=now
            )

    def test_holds_its_version_in_use(self, now: datetime) -> None:
        version = make_version(now=now)
        point(version, now=now)
        why: dict[str, Any] = {"reason": "x", "actor": "user:bo", "now": now}
        with pytest.raises(Conflict) as caught:
            retire_version(version=version, **why)
        assert (caught.value.code, caught.value.extra) == (
            "version-in-channel", {"channels": ["stable"]},
        )  # fmt: skip
        with pytest.raises(Conflict) as caught:
            withdraw_approval(version=version, person="bo", **why)
        assert caught.value.code == "approval-in-use"

        remove_channel(model=version.model, name="stable", reason="", actor="user:bo", now=now)
        assert retire_version(version=version, **why).state == VersionState.RETIRED
        assert len(events("removed")) == 1
        with pytest.raises(NotFound):
            find_channel(version.model, "stable")

    @pytest.mark.usefixtures("transactional_db")
    def test_two_at_once_are_one_after_the_other(self, now: datetime) -> None:
        versions = [make_version(now=now) for _ in range(2)]
        results = at_once(lambda version: point(version, now=now), versions)
        assert failures(results) == []
        assert Channel.objects.get().revision == 2
        assert len(events("moved")) == 2


class TestRollingOut:
    def test_a_move_starts_one_rollout_by_the_stored_strategy(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        version = make_version(now=now)
        channel = point(version, now=now)
        for _ in range(3):
            handle_moves(now=now + LATER)

        rollout = Rollout.objects.get()
        assert (rollout.version, rollout.strategy_name) == (version, "at-once")
        assert (rollout.created_by, rollout.author) == ("token:ci", "ana")
        assert rollout.note == "channel stable moved to version 1"
        assert (fresh(channel).handled_at, channel.outcome) == (
            now + LATER, f"rollout {rollout.pk} was started by strategy at-once",
        )  # fmt: skip
        assert events("rolled_out") == [
            {"version": 1, "strategy": "at-once", "rollout": rollout.pk}
        ]
        settle(rollout, [edge], now=now + LATER)
        assert edge.serving == {"vad": 1}

    def test_without_a_strategy_it_starts_nothing(self, edge: FakeAgent, now: datetime) -> None:
        channel = point(make_version(now=now), strategy=None, now=now)
        handle_moves(now=now)
        assert rollouts() == []
        assert channel.handled_at == now
        assert channel.outcome == "no strategy is stored, so nothing was started"

    def test_moved_twice_before_the_engine_looked_the_newest_counts(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        first, second = make_version(now=now), make_version(now=now)
        point(first, now=now)
        point(second, now=now + LATER)
        handle_moves(now=now + 2 * LATER)
        assert rollouts() == [(second.number, "planned")]

    def test_during_a_rollout_it_waits_says_for_what_and_goes_on(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        running = make_rollout(RolloutState.RUNNING, agents=[edge], now=now)
        second, third = make_version(now=now), make_version(now=now)
        channel = point(second, now=now)
        handle_moves(now=now + LATER)
        assert fresh(channel).handled_at is None
        assert channel.outcome == f"waits for the end of rollout {running.pk} (running)"

        channel = point(third, now=now + LATER)
        assert channel.outcome == "", "of the newer move nothing is known yet"
        handle_moves(now=now + 2 * LATER)
        later = settle(running, [edge], now=now + 2 * LATER)
        handle_moves(now=later)

        assert rollouts() == [(1, "succeeded"), (third.number, "planned")]
        assert fresh(channel).handled_at == later

    def test_a_version_quarantined_meanwhile_is_refused_and_not_tried_again(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        version = make_version(now=now)
        channel = point(version, now=now)
        quarantine_version(
            model_name="vad", number=1, roll_back=False, reason="it leaks", actor="user:bo", now=now
        )
        handle_moves(now=now + LATER)
        handle_moves(now=now + 2 * LATER)

        assert rollouts() == []
        assert fresh(channel).handled_at == now + LATER
        assert "refused: vad 1 is quarantined: user:bo: it leaks" in channel.outcome
        assert [each["code"] for each in events("refused")] == ["version-quarantined"]

    def test_a_strategy_that_is_gone_and_a_fleet_without_sites_are_refusals(
        self, now: datetime
    ) -> None:
        point(make_version(now=now), strategy="gone", now=now)
        point(make_version("ocr", now=now), strategy="at-once@99", now=now)
        point(make_version("asr", now=now), strategy="x@y", now=now)
        point(make_version("kws", now=now), now=now)
        handle_moves(now=now)
        assert [each["code"] for each in events("refused")] == [
            "strategy-unknown", "strategy-unknown", "strategy-invalid", "rollout-selects-no-site",
        ]  # fmt: skip

    def test_a_strategy_that_asks_for_an_approval_waits_for_it(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        document = {
            "name": "careful", "stages": [{"name": "all", "soak_seconds": 0}],
            "approval": {"required": True},
        }  # fmt: skip
        create_strategy(document=document, actor="user:bo", now=now)
        point(make_version(now=now), strategy="careful@1", now=now)
        handle_moves(now=now)
        assert (Rollout.objects.get().approval_required, Rollout.objects.get().author) == (
            True, "ana",
        )  # fmt: skip

    def test_one_that_fails_does_not_hold_up_the_others(
        self, edge: FakeAgent, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = point(make_version(now=now), now=now)
        point(make_version("ocr", now=now), now=now + LATER)

        def handle(pk: int, *, now: datetime) -> None:
            if pk == broken.pk:
                raise OSError("the disk is gone")
            handle_move(pk, now=now)

        monkeypatch.setattr("controlplane.rollouts.channel_moves.handle_move", handle)
        handle_moves(now=now + LATER)
        assert Rollout.objects.get().model.name == "ocr"
        assert fresh(broken).handled_at is None
        assert "could not act on it yet (OSError" in broken.outcome

    @pytest.mark.usefixtures("transactional_db")
    def test_two_engines_at_once_start_one(self, now: datetime) -> None:
        make_joined_site(now=now)
        point(make_version(now=now), now=now)
        at_once(lambda _: handle_moves(now=now), range(3))
        handle_moves(now=now)
        assert len(rollouts()) == 1

    def test_two_channels_of_a_model_go_one_after_the_other(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        first, second = make_version(now=now), make_version(now=now)
        point(first, "candidate", now=now)
        point(second, "stable", now=now + LATER)
        for _ in range(2):
            handle_moves(now=now)
            rollout = Rollout.objects.exclude(state__in=FINAL_ROLLOUT).get()
            now = settle(rollout, [edge], now=now)
        assert [number for number, _ in rollouts()] == [1, 2]

    def test_the_tick_looks_for_moves(self, now: datetime) -> None:
        channel = point(make_version(now=now), now=now)
        tasks.tick()
        assert fresh(channel).handled_at is not None
