"""Many workers, people and agents at one rollout: each stage starts exactly once. The protections
are also taken out, one after the other, to see that these tests would notice."""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.db.models import F

from controlplane.audit.models import Event
from controlplane.domain.errors import Conflict
from controlplane.domain.rollout import FINAL_ROLLOUT, RolloutState, StageState
from controlplane.domain.stages import StageSpec
from controlplane.rollouts import effects, services
from controlplane.rollouts.models import Deployment, Rollout
from controlplane.rollouts.reports import ModelReport
from controlplane.rollouts.services import advance_rollout, start_rollout
from controlplane.rollouts.turning_back import roll_back_rollout
from controlplane.rollouts.verbs import abort_rollout, pause_rollout
from tests.factories import ACTOR, make_joined_site, make_rollout, make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.threads import DEADLINE_SECONDS, at_once, failures

pytestmark = pytest.mark.usefixtures("transactional_db")

ON_SQLITE = settings.DATABASES["default"]["ENGINE"].endswith("sqlite3")
sqlite_only = pytest.mark.skipif(not ON_SQLITE, reason="a protection that SQLite needs")
postgres_only = pytest.mark.skipif(ON_SQLITE, reason="a protection that PostgreSQL needs")

WORKERS = 8
ROLLOUTS = 4
STAGES = tuple(
    StageSpec(name=tier, tier=tier, soak_seconds=0) for tier in ("edge", "regional", "hyperscale")
)
BY = {"actor": "user:ann", "reason": "because"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How often each stage of each rollout was started, and what workers raised meanwhile."""

    starts: list[int]
    generations: list[int]
    errors: list[Exception]

    def assert_right(self) -> None:
        assert self.errors == []
        assert self.starts == [1] * (ROLLOUTS * len(STAGES))
        assert self.generations == [1] * (ROLLOUTS * len(STAGES))


def race(now: datetime, *, prepare: Callable[[], None] = lambda: None) -> Outcome:
    """Eight workers come to each of several rollouts at the moment when a stage is to start.

    `prepare` runs in each worker, with its own connection, before it starts.
    """
    agents = [make_joined_site(spec.name, tier=spec.name, now=now) for spec in STAGES]
    starts, generations, errors = [], [], []
    for turn in range(ROLLOUTS):
        version = make_version(f"model-{turn}", now=now)
        rollout = make_rollout(version=version, agents=agents, stages=STAGES, now=now)
        # The rows as they stand before a start: an earlier write would queue the workers up.
        Rollout.objects.filter(pk=rollout.pk).update(state=RolloutState.RUNNING)
        for spec, agent in zip(STAGES, agents, strict=True):
            before = agent.caller(now=now).generation

            def work(_: int, pk: int = rollout.pk) -> None:
                prepare()
                advance_rollout(rollout_id=pk, now=now)

            errors += failures(at_once(work, range(WORKERS)))
            starts.append(count(rollout, "stage_started", spec.name))
            generations.append(agent.caller(now=now).generation - before)
            agent.obey(now=now)
            rollout.stages.filter(name=spec.name).update(state=StageState.PASSED)
    return Outcome(starts=starts, generations=generations, errors=errors)


def count(rollout: Rollout, action: str, stage: str) -> int:
    events = Event.objects.filter(action=f"rollout.{action}", object_id=str(rollout.pk))
    return events.filter(reason__startswith=f"stage {stage}:").count()


def without_row_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    def lock_nothing(rollout_id: int, *, wait: bool) -> Rollout | None:
        rows = Rollout.objects.select_related("model", "version")
        return rows.filter(pk=rollout_id).first()

    monkeypatch.setattr(services, "lock_rollout", lock_nothing)


def without_compare_and_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_set(rollout: Rollout, **changes: object) -> None:
        Rollout.objects.filter(pk=rollout.pk).update(revision=F("revision") + 1, **changes)
        rollout.revision += 1
        for name, value in changes.items():
            setattr(rollout, name, value)

    monkeypatch.setattr(effects, "compare_and_set", only_set)


def without_stage_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any stage may go anywhere, also from running to running."""
    anywhere = dict.fromkeys(StageState, frozenset(StageState))
    monkeypatch.setattr(effects, "STAGE_TRANSITIONS", anywhere)


def without_immediate() -> None:
    connection.ensure_connection()
    connection.transaction_mode = None  # type: ignore[attr-defined]  # SQLite's wrapper has it


def lost_races(caplog: pytest.LogCaptureFixture) -> int:
    return sum("rollout.lost_race" in record.getMessage() for record in caplog.records)


class TestEachStageStartsOnce:
    def test_with_eight_workers_at_once(
        self, now: datetime, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)

        race(now).assert_right()

        assert lost_races(caplog) == 0

    def test_and_so_does_every_other_turn_of_a_whole_rollout(self, now: datetime) -> None:
        agents = [make_joined_site(spec.name, tier=spec.name, now=now) for spec in STAGES]
        rollout = make_rollout(version=make_version(now=now), agents=agents, stages=STAGES, now=now)
        while rollout.state not in FINAL_ROLLOUT:
            work = partial(advance_rollout, rollout_id=rollout.pk, now=now)
            assert failures(at_once(lambda _, work=work: work(), range(WORKERS))) == []
            for agent in agents:
                agent.obey(now=now)
            rollout.refresh_from_db()
            now += timedelta(seconds=5)

        turns = Event.objects.filter(actor="engine", object_id=str(rollout.pk))
        assert Counter(turns.values_list("action", flat=True)) == {
            "rollout.started": 1,
            "rollout.stage_started": 3,
            "rollout.offered": 3,
            "rollout.soak_started": 3,
            "rollout.stage_passed": 3,
            "rollout.succeeded": 1,
        }

    @postgres_only
    def test_by_the_row_lock_alone_and_nobody_loses_a_race(
        self, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_compare_and_set(monkeypatch)

        race(now).assert_right()

    @postgres_only
    def test_by_compare_and_set_alone_though_workers_then_lose_races(
        self, now: datetime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        without_row_lock(monkeypatch)

        race(now).assert_right()

        assert lost_races(caplog) > 0

    @postgres_only
    def test_by_the_table_of_stages_alone_though_workers_then_fail(
        self, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_row_lock(monkeypatch)
        without_compare_and_set(monkeypatch)

        outcome = race(now)

        assert max(outcome.starts) == 1
        assert any("cannot go to running" in str(error) for error in outcome.errors)

    @postgres_only
    def test_is_seen_to_fail_without_all_three(
        self, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_row_lock(monkeypatch)
        without_compare_and_set(monkeypatch)
        without_stage_table(monkeypatch)

        outcome = race(now)

        assert max(outcome.starts) > 1
        with pytest.raises(AssertionError):
            outcome.assert_right()

    @sqlite_only
    def test_by_immediate_alone(self, now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
        without_compare_and_set(monkeypatch)

        race(now).assert_right()

    @sqlite_only
    def test_is_seen_to_fail_without_immediate_and_compare_and_set(
        self, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SQLite then refuses to upgrade a stale snapshot: workers fail half way."""
        without_compare_and_set(monkeypatch)

        outcome = race(now, prepare=without_immediate)

        assert any("locked" in str(error) for error in outcome.errors)
        with pytest.raises(AssertionError):
            outcome.assert_right()

    @sqlite_only
    def test_is_seen_to_fail_without_transaction_and_compare_and_set(
        self, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_compare_and_set(monkeypatch)
        no_transaction = SimpleNamespace(atomic=contextlib.nullcontext)
        monkeypatch.setattr(services, "transaction", no_transaction)

        outcome = race(now)

        assert max(outcome.starts) > 1
        with pytest.raises(AssertionError):
            outcome.assert_right()


def test_of_starts_that_race_one_wins_and_the_others_are_told(now: datetime) -> None:
    make_joined_site(now=now)
    for turn in range(4):
        version = make_version(f"model-{turn}", now=now)

        results = at_once(
            lambda _, version=version: start_rollout(
                model_name=version.model.name,
                version_number=version.number,
                stages=STAGES,
                actor=ACTOR,
                now=now,
            ),
            range(4),
        )

        refused = failures(results)
        assert [getattr(error, "code", error) for error in refused] == ["rollout-active"] * 3
        active = Rollout.objects.get(model=version.model)
        assert {error.extra["rollout"] for error in refused if isinstance(error, Conflict)} == {
            active.pk
        }


def test_a_pause_that_races_the_engine_leaves_nothing_offered_after_it(now: datetime) -> None:
    edge, core = (make_joined_site(tier=tier, now=now) for tier in ("edge", "regional"))
    for turn in range(8):
        rollout = make_rollout(
            RolloutState.RUNNING,
            version=make_version(f"model-{turn}", now=now),
            agents=[edge, core],
            stages=STAGES[:2],
            now=now,
        )
        edge.obey(now=now)

        def act(what: str, pk: int = rollout.pk) -> object:
            if what == "pause":
                return pause_rollout(rollout_id=pk, now=now, **BY)
            advance_rollout(rollout_id=pk, now=now)
            return None

        assert failures(at_once(act, ["advance", "pause", "advance", "advance"])) == []

        rollout.refresh_from_db()
        assert rollout.state == RolloutState.PAUSED
        actions = list(
            Event.objects.filter(object_id=str(rollout.pk), action__startswith="rollout.")
            .order_by("pk")
            .values_list("action", flat=True)
        )
        assert actions[-1] == "rollout.paused"
        offered = Deployment.objects.get(rollout=rollout, site=core.site).state == "offered"
        assert offered == (actions.count("rollout.stage_started") == 2)


@pytest.mark.parametrize("verb", [abort_rollout, roll_back_rollout])
def test_a_person_who_turns_it_round_while_sites_report_leaves_no_site_behind(
    verb: Callable[..., Rollout], now: datetime
) -> None:
    agents = [make_joined_site(now=now) for _ in range(4)]
    for turn in range(4):
        rollout = make_rollout(
            RolloutState.RUNNING,
            version=make_version(f"model-{turn}", now=now),
            agents=agents,
            now=now,
        )
        said = [agent.said(f"model-{turn}", "activating", now=now) for agent in agents]

        def act(index: int, rollout: Rollout = rollout, said: list[ModelReport] = said) -> object:
            if index == len(agents):
                return verb(rollout_id=rollout.pk, now=now, **BY)
            return agents[index].send(said[index], now=now)

        assert failures(at_once(act, range(len(agents) + 1))) == []

        settle(rollout, agents, now=now)
        assert rollout.state in FINAL_ROLLOUT
        assert_wishes_are_true(rollout, agents, now)


def assert_wishes_are_true(rollout: Rollout, agents: list[FakeAgent], now: datetime) -> None:
    """A site that is said to have succeeded is wished the version; any other is not."""
    for agent in agents:
        wish = agent.wishes(now=now)[rollout.model.name]["version"]
        forward = Deployment.objects.get(rollout=rollout, site=agent.site, kind="forward")
        assert (wish == str(rollout.version.number)) == (
            rollout.state == RolloutState.CANCELLED and forward.state == "succeeded"
        )


@contextlib.contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[list[Exception]]:
    """Runs `work` in another connection; entered once it waits for a lock of ours."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not somebody_waits():
        assert time.monotonic() < deadline, "nobody waits"
        assert thread.is_alive(), f"it did not wait: {errors}"
        time.sleep(0.01)
    yield errors
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()


def somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # a transaction looks only once
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(cursor.fetchone()[0])


@postgres_only
@pytest.mark.parametrize("phase", ["activating", "succeeded", "failed"])
def test_an_abort_that_waits_for_a_report_calls_that_site_back_whole(
    phase: str, now: datetime
) -> None:
    """The abort read the site as not switching; while it waited for the wish the site went on.
    Its wish is called back, so its deployment must not stay as if it were going on."""
    edge = make_joined_site(now=now)
    rollout = make_rollout(
        RolloutState.RUNNING, version=make_version(now=now), agents=[edge], now=now
    )
    with contextlib.ExitStack() as stack, transaction.atomic():
        edge.report("vad", phase, now=now)
        errors = stack.enter_context(
            meanwhile(lambda: abort_rollout(rollout_id=rollout.pk, now=now, **BY))
        )
    assert errors == []

    settle(rollout, [edge], now=now + timedelta(seconds=1))
    assert rollout.state == RolloutState.CANCELLED
    assert_wishes_are_true(rollout, [edge], now)


@postgres_only
def test_rollouts_of_two_models_that_turn_back_at_the_same_sites_do_not_deadlock(
    now: datetime,
) -> None:
    """Each calls back sites that were retired meanwhile, and returns the others: the one from the
    first half and the second, the other from the second half and the first. Taken one set after
    the other, the locks of one rollout's sites would cross with those of the other's."""
    agents = [make_joined_site(now=now) for _ in range(8)]
    halves = agents[:4], agents[4:]
    for turn in range(6):
        rollouts = []
        for name, (removed, reached) in zip(("a", "b"), (halves, halves[::-1]), strict=True):
            version = make_version(f"model-{name}-{turn}", now=now)
            rollout = make_rollout(RolloutState.RUNNING, version=version, agents=agents, now=now)
            rows = Deployment.objects.filter(rollout=rollout)
            rows.filter(site__in=[agent.site for agent in removed]).update(state="removed")
            rows.filter(site=reached[0].site).update(state="failed")
            rollouts.append(rollout)

        results = at_once(
            lambda rollout: advance_rollout(rollout_id=rollout.pk, now=now, wait=True), rollouts
        )

        assert failures(results) == []
        for rollout in rollouts:
            rollout.refresh_from_db()
            assert rollout.state == RolloutState.ROLLING_BACK
            settle(rollout, agents, now=now)
            assert rollout.state == RolloutState.ROLLED_BACK
