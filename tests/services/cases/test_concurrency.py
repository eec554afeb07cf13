"""Cases 14 to 32: many workers, people and rollouts at once, and what stands above them all."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.audit.models import Event
from controlplane.catalog.services import create_version
from controlplane.domain.decisions import Decision
from controlplane.domain.errors import Conflict, Forbidden
from controlplane.domain.rollout import OnConflict, ResumeChoice, RolloutState
from controlplane.domain.strategies import StrategySpec
from controlplane.domain.windows import LONGEST_WAIT
from controlplane.fleet.services import create_window
from controlplane.rollouts import effects
from controlplane.rollouts.approvals import approve_rollout
from controlplane.rollouts.freezes import freeze_sites
from controlplane.rollouts.history import replayed
from controlplane.rollouts.models import Deployment, EngineBeat, Rollout, SiteModel
from controlplane.rollouts.planning import plan_rollout
from controlplane.rollouts.quarantine import quarantine_version
from controlplane.rollouts.services import advance_rollout, tick
from controlplane.rollouts.strategies import create_strategy, find_strategy
from controlplane.rollouts.turning_back import roll_back_rollout
from controlplane.rollouts.verbs import pause_rollout, resume_rollout
from tests.factories import (
    ACTOR,
    make_joined_site,
    make_version,
    manifest_of,
    settle,
    version_files,
)
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
    start,
    turn,
)
from tests.services.threads import at_once, failures

CAREFUL = StrategySpec(name="careful", version=1, stages=one_stage(), approval_required=True)


@pytest.fixture
def edge(now: datetime) -> FakeAgent:
    return make_joined_site("edge", now=now)


@pytest.fixture
def core(now: datetime) -> FakeAgent:
    return make_joined_site("core", tier="regional", now=now)


def window(kind: str, start: str, minutes: int = 60, *, now: datetime) -> None:
    fields = {"name": kind, "kind": kind, "days": ["mon"], "start": start, "minutes": minutes}
    create_window(fields=fields, actor=ACTOR, now=now)


@pytest.mark.usefixtures("transactional_db")
def test_workers_that_come_at_once_start_a_stage_once(edge: FakeAgent, now: datetime) -> None:
    """Case 14."""
    rollout = start(make_version(now=now), now=now)
    before = edge.caller(now=now).generation

    def work(_: int) -> None:
        advance_rollout(rollout_id=rollout.pk, now=now)

    assert failures(at_once(work, range(6))) == []

    actions = list(Event.objects.filter(object_type="rollout").values_list("action", flat=True))
    for action in ("rollout.started", "rollout.stage_started", "rollout.offered"):
        assert actions.count(action) == 1
    assert edge.caller(now=now).generation == before + 1


@pytest.mark.usefixtures("transactional_db")
def test_nothing_is_offered_after_a_pause(edge: FakeAgent, core: FakeAgent, now: datetime) -> None:
    """Case 15. Whoever of the two comes first, no offer follows the pause."""
    for name in ("a", "b", "c"):
        rollout = running(make_version(name, now=now), canary_then_rest(), now=now)
        edge.obey(now=now)

        def act(what: str, pk: int = rollout.pk) -> object:
            if what == "pause":
                return pause_rollout(rollout_id=pk, now=now, **BY)
            return advance_rollout(rollout_id=pk, now=now)

        assert failures(at_once(act, ["advance", "pause", "advance"])) == []

        events = Event.objects.filter(object_type="rollout", object_id=str(rollout.pk))
        actions = list(events.order_by("pk").values_list("action", flat=True))
        assert "rollout.offered" not in actions[actions.index("rollout.paused") :]


def test_a_resume_after_an_error_demands_a_choice(
    edge: FakeAgent, core: FakeAgent, now: datetime
) -> None:
    """Case 16. And `retry` does not jump to the next stage."""
    rollout = running(make_version(now=now), canary_then_rest(on_failure="pause"), now=now)
    edge.report("vad", "failed", now=now, reason_code="golden-mismatch")
    turn(rollout, now=now)

    with pytest.raises(Conflict) as caught:
        resume_rollout(rollout_id=rollout.pk, now=now, **BY)
    assert caught.value.extra == {
        "choices": ["retry", "accept", "rollback"],
        "pause_code": "stage-failed",
    }

    resume_rollout(rollout_id=rollout.pk, choice=ResumeChoice.RETRY, now=now, **BY)
    turn(rollout, now=now)
    assert stages_of(rollout) == {"canary": "running", "rest": "pending"}
    event = Event.objects.get(action="rollout.resumed")
    assert (event.reason, event.data["choice"]) == ("because", "retry")


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_worker_that_is_killed_before_a_commit_leaves_what_the_next_goes_on_from(
    before: int, edge: FakeAgent, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 17. All that the engine knows stands in rows, whole decision by whole decision."""
    rollout = start(make_version(now=now), now=now)
    left = [rollout.state]
    apply = effects.apply

    def killed(rollout: Rollout, decision: Decision, now: datetime) -> None:
        apply(rollout, decision, now)
        if len(left) > before:
            raise SystemExit("killed before the commit")
        left.append(rollout.state)

    with monkeypatch.context() as patch:
        patch.setattr(effects, "apply", killed)
        with pytest.raises(SystemExit):
            advance_rollout(rollout_id=rollout.pk, now=now)

    rollout.refresh_from_db()
    assert rollout.state == left[-1]
    assert rollout.advanced_at is None, "a ring for what is left must not be passed over"
    assert Event.objects.filter(actor="engine").count() == before
    assert parts(rollout) == {"edge": "pending"}
    assert replayed(rollout)[1] == []

    assert turn(rollout, now=now).state == RolloutState.RUNNING
    assert parts(rollout) == {"edge": "offered"}
    actions = list(Event.objects.filter(actor="engine").order_by("pk").values_list("action"))
    assert actions == [("rollout.started",), ("rollout.stage_started",), ("rollout.offered",)]


def rows() -> list[object]:
    kinds = (Rollout, Deployment, SiteModel, Event)
    return [list(kind.objects.order_by("pk").values()) for kind in kinds]


def test_turns_may_be_lost_and_doubled(edge: FakeAgent, core: FakeAgent, now: datetime) -> None:
    """Case 18."""
    rollout = running(make_version(now=now), canary_then_rest(), now=now)
    for _ in range(5):
        turn(rollout, now=now)
    quiet = rows()
    for _ in range(5):
        tick(now=now)
    assert rows() == quiet

    edge.obey(now=now)
    later = now + timedelta(seconds=40)  # eight ticks were lost
    edge.obey(now=later)
    tick(now=later)
    assert stages_of(rollout) == {"canary": "passed", "rest": "running"}


@pytest.mark.usefixtures("transactional_db")
def test_two_beats_are_one(edge: FakeAgent, now: datetime) -> None:
    """Case 19."""
    rollout = start(make_version(now=now), now=now)

    assert failures(at_once(lambda _: tick(now=now), range(2))) == []

    assert parts(rollout) == {"edge": "offered"}
    assert Event.objects.filter(action="rollout.offered").count() == 1
    assert EngineBeat.objects.get(name="tick").at == now


def test_an_outage_is_no_soak(edge: FakeAgent, core: FakeAgent, now: datetime) -> None:
    """Case 20. Nobody measured, so nothing was soaked, however late it is."""
    rollout = running(make_version(now=now), canary_then_rest(soak_seconds=600), now=now)
    turn(rollout, edge, now=now)
    later = now + timedelta(hours=8)

    turn(rollout, now=later)

    canary = rollout.stages.get(name="canary")
    assert (canary.state, canary.soaked_seconds) == ("soaking", 0)
    assert canary.inconclusive_seconds > 0
    assert "not counting: no fresh report: edge" in rollout.reason

    # The engine alone was away: at most one interval of evidence is believed.
    turn(rollout, edge, now=later + timedelta(hours=1))
    canary.refresh_from_db()
    assert (canary.state, canary.soaked_seconds <= silence().total_seconds()) == ("soaking", True)


def test_a_herd_is_paced_by_the_answers_and_the_cap(settings: Any, now: datetime) -> None:
    """Case 21. After a pause or an outage not more are under way than the stage allows."""
    agents = [make_joined_site(f"s-{number}", now=now) for number in range(6)]
    serving(agents, now=now)
    rollout = running(
        make_version(now=now), one_stage(max_concurrent=2, max_unavailable=1), now=now
    )
    pause_rollout(rollout_id=rollout.pk, now=now, **BY)
    later = now + timedelta(minutes=20)
    resume_rollout(rollout_id=rollout.pk, now=later, **BY)
    turn(rollout, now=later)

    assert list(parts(rollout).values()).count("offered") == 2
    offered = [agent for agent in agents if part(rollout, agent).state == "offered"]
    for agent in agents:  # all come back at once
        agent.report("vad", "staged", now=later)
    answers = [agent.ask_lease("vad", now=later) for agent in offered]
    assert sorted(answer.granted for answer in answers) == [False, True]
    refused = next(answer for answer in answers if not answer.granted)
    assert refused.retry_seconds == settings.WAYPOST_POLL_SECONDS
    assert all(agent.caller(now=later).poll_seconds > 0 for agent in agents)


def test_a_rollback_never_touches_what_a_newer_rollout_owns(edge: FakeAgent, now: datetime) -> None:
    """Case 22. One that turns back goes first; one that is over can be turned back no more."""
    serving([edge], now=now)
    first = running(make_version(now=now), now=now)
    second = start(make_version(now=now), on_conflict=OnConflict.SUPERSEDE, now=now)
    roll_back_rollout(rollout_id=first.pk, now=now, **BY)
    assert turn(second, now=now).state == RolloutState.QUEUED
    settle(first, [edge], now=now)
    assert (first.state, edge.serving["vad"]) == ("rolled_back", 1)

    settle(second, [edge], now=now)
    with pytest.raises(Conflict) as caught:
        roll_back_rollout(rollout_id=first.pk, now=now, **BY)

    assert caught.value.code == "verb-not-allowed"
    assert edge.wishes(now=now)["vad"]["version"] == "3"
    active = Deployment.objects.filter(site=edge.site, state__in=["offered", "staging", "staged"])
    assert not active.exists()


@pytest.mark.parametrize("choice", OnConflict)
def test_a_newer_rollout_does_what_was_chosen_while_another_is_under_way(
    choice: OnConflict, edge: FakeAgent, now: datetime
) -> None:
    """Case 23. Also in the middle of a download."""
    first = running(make_version(now=now), now=now)
    edge.report("vad", "downloading", now=now)
    version = make_version(now=now)
    if choice is OnConflict.REFUSE:
        with pytest.raises(Conflict) as caught:
            start(version, now=now)
        assert caught.value.extra == {"rollout": first.pk}
        return

    second = start(version, on_conflict=choice, now=now)
    turn(first, now=now)
    turn(second, now=now)

    if choice is OnConflict.SUPERSEDE:
        assert (first.state, second.state) == ("superseded", "running")
        assert edge.wishes(now=now)["vad"]["version"] == "2"
    else:
        assert (first.state, second.state) == ("running", "queued")
        assert edge.wishes(now=now)["vad"]["version"] == "1"


def test_one_model_at_a_time_is_activated_at_a_site(edge: FakeAgent, now: datetime) -> None:
    """Case 24. Both may be fetched; the second activates when the first has ended."""
    for name in ("ocr", "vad"):
        running(make_version(name, now=now), now=now)
    assert edge.begin("vad", now=now).granted
    edge.report("ocr", "staged", now=now)

    assert edge.ask_lease("ocr", now=now).reason_code == "site-busy"
    edge.report("vad", "succeeded", now=now)
    assert edge.ask_lease("ocr", now=now).granted


@pytest.mark.parametrize("roll_back", [False, True])
def test_a_withdrawn_version_is_offered_nowhere_and_can_turn_back(
    roll_back: bool, edge: FakeAgent, core: FakeAgent, now: datetime
) -> None:
    """Case 25."""
    serving([edge, core], now=now)
    version = make_version(now=now)
    rollout = running(version, canary_then_rest(soak_seconds=60), now=now)
    turn(rollout, edge, now=now)

    quarantine_version(model_name="vad", number=version.number, roll_back=roll_back, now=now, **BY)
    later = now + timedelta(seconds=50)
    for _ in range(4):
        turn(rollout, edge, now=later)
        later += timedelta(seconds=50)

    assert rollout.state == (RolloutState.ROLLED_BACK if roll_back else RolloutState.PAUSED)
    assert core.wishes(now=later)["vad"]["version"] == "1"
    assert edge.serving["vad"] == (1 if roll_back else 2)


def test_other_bytes_under_the_same_number_are_refused(now: datetime) -> None:
    """Case 26. A version in use cannot go away either."""
    version = make_version(now=now)
    with pytest.raises(Conflict) as caught:
        create_version(
            model_name="vad",
            number=version.number,
            manifest=manifest_of(version_files("other bytes")),
            actor=ACTOR,
            now=now,
        )
    assert caught.value.code == "version-exists"


def test_a_rollout_stays_as_planned_when_its_strategy_is_edited(
    edge: FakeAgent, core: FakeAgent, now: datetime
) -> None:
    """Case 27. Rows of a strategy never change; an edit is its next version."""
    stage = {"name": "edges", "select": {"tier": "edge"}, "soak_seconds": 0}
    create_strategy(document={"name": "mine", "stages": [stage]}, actor=ACTOR, now=now)
    rollout = running(make_version(now=now), strategy=find_strategy("mine"), now=now)

    everybody = {"name": "all", "soak_seconds": 0}
    create_strategy(document={"name": "mine", "stages": [everybody]}, actor=ACTOR, now=now)
    settle(rollout, [edge, core], now=now)

    assert (rollout.strategy_name, rollout.strategy_version) == ("mine", 1)
    assert stages_of(rollout) == {"edges": "passed"}
    assert parts(rollout) == {"edge": "succeeded"}
    assert find_strategy("mine").version == 2


def test_an_approval_binds_to_its_plan_and_expires(
    edge: FakeAgent, settings: Any, now: datetime
) -> None:
    """Case 28."""
    lifetime = timedelta(hours=settings.WAYPOST_APPROVAL_HOURS)
    rollout = running(make_version(now=now), strategy=CAREFUL, start_at=now + lifetime, now=now)
    with pytest.raises(Conflict) as caught:
        approve_rollout(rollout_id=rollout.pk, plan_digest="sha256:other", now=now, **BY)
    assert caught.value.code == "plan-changed"

    approve_rollout(rollout_id=rollout.pk, plan_digest=rollout.plan_digest, now=now, **BY)
    turn(rollout, now=now + lifetime)
    assert (rollout.state, rollout.reason_code) == ("planned", "approval-pending")
    again = now + lifetime
    approve_rollout(rollout_id=rollout.pk, plan_digest=rollout.plan_digest, now=again, **BY)
    assert turn(rollout, now=again).state == RolloutState.RUNNING


def test_the_author_cannot_approve_where_another_must(edge: FakeAgent, now: datetime) -> None:
    """Case 29."""
    rollout = running(make_version(now=now), strategy=CAREFUL, now=now)
    with pytest.raises(Forbidden) as caught:
        approve_rollout(
            rollout_id=rollout.pk,
            plan_digest=rollout.plan_digest,
            reason="mine",
            actor=ACTOR,
            now=now,
        )
    assert caught.value.code == "approver-is-author"
    assert turn(rollout, now=now).state == RolloutState.PLANNED


def test_a_freeze_blocks_offers_and_activations_and_lets_who_switches_finish(
    now: datetime,
) -> None:
    """Case 30. Rolling back meanwhile is for those who may."""
    agents = [make_joined_site(f"s-{number}", now=now) for number in range(3)]
    serving(agents, now=now)
    rollout = running(
        make_version(now=now), one_stage(max_concurrent=2, max_unavailable=3), now=now
    )
    first, second = (agent for agent in agents if part(rollout, agent).state == "offered")
    (third,) = (agent for agent in agents if part(rollout, agent).state == "pending")
    first.begin("vad", now=now)
    second.report("vad", "staged", now=now)

    freeze_sites(selector={}, until=None, now=now, **BY)
    first.obey(now=now)
    turn(rollout, now=now)

    assert part(rollout, first).state == "succeeded"
    assert second.ask_lease("vad", now=now).reason_code == "frozen"
    assert part(rollout, third).state == "pending"
    with pytest.raises(Forbidden):
        roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)
    roll_back_rollout(rollout_id=rollout.pk, may_while_frozen=True, now=now, **BY)
    settle(rollout, agents, now=now)
    assert rollout.state == RolloutState.ROLLED_BACK


def test_outside_its_windows_a_site_waits_and_its_deadline_stands_still(
    edge: FakeAgent, core: FakeAgent, now: datetime
) -> None:
    """Case 31. Open from 12 to 13 only, with a deadline of two hours: it is never late today."""
    window("download", "12:00", now=now)
    window("activation", "14:00", now=now)
    policy: dict[str, Any] = {"on_silent": "count", "progress_deadline_seconds": 7200}
    rollout = running(make_version(now=now), one_stage(**policy), now=now)
    edge.report("vad", "staged", now=now)
    assert edge.ask_lease("vad", now=now).reason_code == "window-closed"

    evening = now + timedelta(hours=8)
    turn(rollout, now=evening)
    assert set(parts(rollout).values()) == {"offered", "staged"}, "one hour of two was open"

    open_again = now + timedelta(hours=2)
    edge.open_session(now=open_again)
    assert edge.ask_lease("vad", now=open_again).granted

    next_weeks = now + timedelta(days=14, hours=1)
    turn(rollout, now=next_weeks)
    assert set(parts(rollout).values()) == {"timed_out"}


def test_a_window_shorter_than_the_poll_interval_is_warned_of_and_met(
    edge: FakeAgent, now: datetime
) -> None:
    """Case 32."""
    edge.site.poll_seconds = 3600
    edge.site.save()
    window("activation", "12:30", minutes=5, now=now)

    plan = plan_rollout(
        model_name="vad",
        version_number=make_version(now=now).number,
        stages=one_stage(),
        now=now,
    )

    assert any("is open for 5 min, less than edge may wait" in said for said in plan.warnings)
    opening = now + timedelta(minutes=30)
    for stretch in (1.0, LONGEST_WAIT):  # an agent waits up to so much longer than it is told
        asks = now
        while asks < opening:
            asks += timedelta(seconds=edge.caller(now=asks).poll_seconds * stretch)
        assert asks < opening + timedelta(minutes=5)
