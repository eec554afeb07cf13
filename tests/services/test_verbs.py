"""What people may do to a rollout: each verb, where it is allowed, what it can never override."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.audit.models import Event
from controlplane.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from controlplane.domain.gates import Verdict
from controlplane.domain.policy import StagePolicy
from controlplane.domain.rollout import OnConflict, ResumeChoice, RolloutState, allowed_verbs
from controlplane.domain.stages import DEFAULT_STAGES, StageSpec
from controlplane.domain.strategies import StrategySpec
from controlplane.fleet.services import retire_site
from controlplane.rollouts.freezes import freeze_sites
from controlplane.rollouts.models import Deployment, GateVerdict, Rollout
from controlplane.rollouts.services import tick
from controlplane.rollouts.verbs import (
    abort_rollout,
    approve_rollout,
    pause_rollout,
    promote_rollout,
    record_verdict,
    resume_rollout,
    retry_failed,
    roll_back_rollout,
)
from tests.factories import ACTOR, make_joined_site, make_rollout, make_version, settle
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

Verb = Callable[..., Rollout]


def approve(*, rollout_id: int, **by: Any) -> Rollout:
    rollout = Rollout.objects.get(pk=rollout_id)
    return approve_rollout(rollout_id=rollout_id, plan_digest=rollout.plan_digest, **by)


VERBS: dict[str, Verb] = {
    "approve": approve,
    "pause": pause_rollout,
    "resume": resume_rollout,
    "promote": promote_rollout,
    "retry-failed": retry_failed,
    "abort": abort_rollout,
    "rollback": roll_back_rollout,
}


@pytest.mark.parametrize("state", RolloutState)
def test_a_verb_in_the_wrong_state_is_refused_with_what_is_possible_now(
    state: RolloutState, now: datetime
) -> None:
    rollout = make_rollout(state, now=now)
    before = Rollout.objects.values().get(pk=rollout.pk), Event.objects.count()

    for verb in set(VERBS) - set(allowed_verbs(state)):
        with pytest.raises(Conflict) as caught:
            VERBS[verb](rollout_id=rollout.pk, now=now, **BY)
        assert caught.value.code == "verb-not-allowed"
        assert caught.value.extra == {"allowed_verbs": allowed_verbs(state)}

    assert (Rollout.objects.values().get(pk=rollout.pk), Event.objects.count()) == before


@pytest.mark.parametrize("verb", ["abort", "rollback", "promote"])
@pytest.mark.parametrize("reason", ["", "  \n"])
def test_a_grave_verb_wants_a_reason(verb: str, reason: str, now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)

    with pytest.raises(InvalidInput) as caught:
        VERBS[verb](rollout_id=rollout.pk, reason=reason, actor=ACTOR, now=now)

    assert caught.value.code == "reason-required"
    rollout.refresh_from_db()
    assert rollout.state == RolloutState.RUNNING


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_rollout_is_said_to_be_unknown(verb: str, now: datetime) -> None:
    by = {**BY, "plan_digest": "x"} if verb == "approve" else BY
    service = approve_rollout if verb == "approve" else VERBS[verb]
    with pytest.raises(NotFound, match="no rollout 404"):
        service(rollout_id=404, now=now, **by)


@pytest.fixture
def edge(now: datetime) -> FakeAgent:
    return make_joined_site("edge", now=now)


@pytest.fixture
def core(now: datetime) -> FakeAgent:
    return make_joined_site("core", tier="regional", now=now)


def fail(agent: FakeAgent, *, now: datetime, code: str = "golden-mismatch") -> None:
    agent.begin("vad", now=now)
    agent.report("vad", "failed", now=now, reason_code=code, reason=f"{code} it is")


class TestResume:
    """After a pause by the engine a person must say what is to become of what made it pause."""

    @pytest.fixture
    def stopped(self, edge: FakeAgent, core: FakeAgent, now: datetime) -> Rollout:
        serving([edge, core], now=now)
        rollout = running(make_version(now=now), canary_then_rest(on_failure="pause"), now=now)
        fail(edge, now=now)
        turn(rollout, now=now)
        assert (rollout.state, rollout.pause_code) == ("paused", "stage-failed")
        return rollout

    def test_without_a_choice_it_says_which_there_are(
        self, stopped: Rollout, now: datetime
    ) -> None:
        with pytest.raises(Conflict) as caught:
            resume_rollout(rollout_id=stopped.pk, now=now, **BY)

        assert caught.value.code == "choice-required"
        assert caught.value.extra == {
            "choices": ["retry", "accept", "rollback"],
            "pause_code": "stage-failed",
        }
        assert "golden-mismatch" in caught.value.detail

    @pytest.mark.parametrize("choice", ResumeChoice)
    def test_a_choice_wants_a_reason(
        self, choice: ResumeChoice, stopped: Rollout, now: datetime
    ) -> None:
        with pytest.raises(InvalidInput, match="reason"):
            resume_rollout(rollout_id=stopped.pk, reason=" ", actor=ACTOR, choice=choice, now=now)

    @pytest.mark.parametrize("choice", ResumeChoice)
    def test_so_does_a_choice_after_a_pause_by_a_person(
        self, choice: ResumeChoice, now: datetime
    ) -> None:
        rollout = make_rollout(RolloutState.PAUSED, now=now)
        with pytest.raises(InvalidInput, match="reason"):
            resume_rollout(rollout_id=rollout.pk, reason="", actor=ACTOR, choice=choice, now=now)

    def test_retry_tries_the_failed_again_and_no_next_stage_starts(
        self, stopped: Rollout, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        resume_rollout(rollout_id=stopped.pk, choice=ResumeChoice.RETRY, now=now, **BY)
        turn(stopped, now=now)

        assert stages_of(stopped) == {"canary": "running", "rest": "pending"}
        again = part(stopped, edge)
        assert (again.state, again.attempt, again.from_version_id is not None) == (
            "offered",
            2,
            True,
        )
        settle(stopped, [edge, core], now=now)
        assert stopped.state == RolloutState.SUCCEEDED

    def test_accept_goes_on_without_what_failed_and_never_holds_it_against_the_stage_again(
        self, core: FakeAgent, edge: FakeAgent, now: datetime
    ) -> None:
        other = make_joined_site("other", now=now)
        everybody = [edge, core, other]
        serving(everybody, now=now)
        rollout = running(make_version(now=now), canary_then_rest(on_failure="pause"), now=now)
        fail(edge, now=now)
        turn(rollout, now=now)

        resume_rollout(rollout_id=rollout.pk, choice=ResumeChoice.ACCEPT, now=now, **BY)
        edge.broken.add(("vad", rollout.version.number))
        settle(rollout, everybody, now=now)

        assert rollout.state == RolloutState.SUCCEEDED_WITH_EXCEPTIONS
        assert parts(rollout) == {"edge": "failed", "core": "succeeded", "other": "succeeded"}
        assert edge.wishes(now=now)["vad"]["version"] == "1"

    def test_a_failure_after_the_acceptance_stops_it_again(
        self, core: FakeAgent, edge: FakeAgent, now: datetime
    ) -> None:
        other = make_joined_site("other", now=now)
        serving([edge, core, other], now=now)
        rollout = running(make_version(now=now), canary_then_rest(on_failure="pause"), now=now)
        fail(edge, now=now)
        turn(rollout, now=now)
        resume_rollout(rollout_id=rollout.pk, choice=ResumeChoice.ACCEPT, now=now, **BY)

        fail(other, now=now)
        turn(rollout, now=now)

        assert (rollout.state, rollout.pause_code) == ("paused", "stage-failed")

    def test_rollback_returns_every_site(
        self, stopped: Rollout, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        resume_rollout(rollout_id=stopped.pk, choice=ResumeChoice.ROLLBACK, now=now, **BY)
        settle(stopped, [edge, core], now=now)

        assert stopped.state == RolloutState.ROLLED_BACK
        assert edge.serving["vad"] == 1

    def test_rollback_needs_the_right_to_it_during_a_freeze(
        self, stopped: Rollout, now: datetime
    ) -> None:
        freeze_sites(selector={}, until=None, now=now, **BY)
        ask: dict[str, Any] = {"choice": ResumeChoice.ROLLBACK, "now": now, **BY}

        with pytest.raises(Forbidden, match="right to freeze"):
            resume_rollout(rollout_id=stopped.pk, **ask)

        resumed = resume_rollout(rollout_id=stopped.pk, may_while_frozen=True, **ask)
        assert resumed.state == RolloutState.ROLLING_BACK

    def test_a_pause_by_a_person_needs_no_choice(self, now: datetime) -> None:
        rollout = make_rollout(RolloutState.PAUSED, now=now)
        resumed = resume_rollout(rollout_id=rollout.pk, now=now, **BY)
        assert resumed.state == RolloutState.RUNNING

    def test_a_failed_gate_does_not_stop_the_retry_at_once_and_must_speak_again(
        self, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        stages = canary_then_rest(on_failure="pause", gates=("latency",))
        rollout = running(make_version(now=now), stages, now=now)
        turn(rollout, edge, now=now)
        judge(rollout, Verdict.FAIL, now=now)
        turn(rollout, edge, now=now)
        assert (rollout.state, rollout.pause_code) == ("paused", "gate-failed")

        resume_rollout(rollout_id=rollout.pk, choice=ResumeChoice.RETRY, now=now, **BY)
        turn(rollout, edge, now=now)

        assert (rollout.state, stages_of(rollout)["canary"]) == ("running", "soaking")
        assert "gate latency is inconclusive" in rollout.reason
        judge(rollout, Verdict.PASS, now=now)
        turn(rollout, edge, now=now)
        assert stages_of(rollout)["canary"] == "passed"

    def test_accepting_that_the_evidence_stays_away_goes_on_without_it(
        self, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        stages = canary_then_rest(inconclusive_seconds=100, soak_seconds=60)
        rollout = running(make_version(now=now), stages, now=now)
        turn(rollout, edge, now=now)
        for _ in range(4):
            now += silence()
            turn(rollout, now=now)
        assert (rollout.state, rollout.pause_code) == ("paused", "gate-inconclusive")

        resume_rollout(rollout_id=rollout.pk, choice=ResumeChoice.ACCEPT, now=now, **BY)
        turn(rollout, now=now)

        assert stages_of(rollout) == {"canary": "passed", "rest": "running"}


def judge(
    rollout: Rollout,
    verdict: Verdict,
    *,
    now: datetime,
    stage: str = "canary",
    gate: str = "latency",
    fresh_seconds: float | None = None,
    reason: str = "p99 of 80 ms",
) -> GateVerdict:
    return record_verdict(
        rollout_id=rollout.pk,
        stage_name=stage,
        gate=gate,
        verdict=verdict,
        reason=reason,
        evidence={"requests": 5000},
        fresh_seconds=fresh_seconds,
        actor="token:judge",
        now=now,
    )


class TestPromote:
    @pytest.fixture
    def soaking(self, edge: FakeAgent, core: FakeAgent, now: datetime) -> Rollout:
        serving([edge, core], now=now)
        stages = canary_then_rest(soak_seconds=3600, gates=("latency",))
        rollout = running(make_version(now=now), stages, now=now)
        turn(rollout, edge, now=now)
        assert stages_of(rollout)["canary"] == "soaking"
        return rollout

    def test_ends_the_soak_without_its_gates(
        self, soaking: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        promote_rollout(rollout_id=soaking.pk, now=now, **BY)
        turn(soaking, edge, now=now)
        assert stages_of(soaking) == {"canary": "passed", "rest": "running"}

    def test_is_no_approval(self, edge: FakeAgent, core: FakeAgent, now: datetime) -> None:
        serving([edge, core], now=now)
        stages = canary_then_rest(soak_seconds=3600, approval=True)
        rollout = running(make_version(now=now), stages, now=now)
        turn(rollout, edge, now=now)
        promote_rollout(rollout_id=rollout.pk, now=now, **BY)
        turn(rollout, edge, now=now)
        assert (rollout.reason_code, stages_of(rollout)["canary"]) == (
            "approval-pending",
            "soaking",
        )

    def test_is_refused_when_nothing_soaks(self, edge: FakeAgent, now: datetime) -> None:
        rollout = running(make_version(now=now), now=now)
        with pytest.raises(Conflict) as caught:
            promote_rollout(rollout_id=rollout.pk, now=now, **BY)
        assert caught.value.code == "nothing-soaks"

    def test_never_beats_a_failing_gate(
        self, soaking: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        judge(soaking, Verdict.FAIL, now=now)
        promote_rollout(rollout_id=soaking.pk, now=now, **BY)
        turn(soaking, edge, now=now)
        assert (soaking.state, stages_of(soaking)["canary"]) == ("rolling_back", "failed")
        assert "gate latency fails: p99 of 80 ms" in soaking.reason

    def test_never_beats_a_site_that_failed(
        self, soaking: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        Deployment.objects.filter(rollout=soaking, site=edge.site).update(state="failed")
        promote_rollout(rollout_id=soaking.pk, now=now, **BY)
        turn(soaking, now=now)
        assert soaking.state == RolloutState.ROLLING_BACK

    def test_never_beats_a_site_that_says_it_does_not_serve_well(
        self, soaking: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        edge.report("vad", "succeeded", now=now, healthy=False, reason="answers are wrong")
        promote_rollout(rollout_id=soaking.pk, now=now, **BY)
        turn(soaking, now=now)
        assert stages_of(soaking) == {"canary": "soaking", "rest": "pending"}
        assert "answers are wrong" in soaking.reason

    def test_overrides_evidence_that_is_missing(
        self, soaking: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        promote_rollout(rollout_id=soaking.pk, now=now, **BY)
        turn(soaking, now=now + silence())
        assert stages_of(soaking)["canary"] == "passed"


class TestApprove:
    """A yes binds to the plan, expires, and is not the author's."""

    STRATEGY = StrategySpec(
        name="careful",
        version=1,
        stages=one_stage(),
        approval_required=True,
        approval_by_other=True,
    )

    @pytest.fixture
    def planned(self, edge: FakeAgent, now: datetime) -> Rollout:
        rollout = running(make_version(now=now), strategy=self.STRATEGY, now=now)
        assert (rollout.state, rollout.reason_code) == ("planned", "approval-pending")
        return rollout

    def test_lets_the_rollout_begin(self, planned: Rollout, edge: FakeAgent, now: datetime) -> None:
        approve(rollout_id=planned.pk, now=now, **BY)
        turn(planned, now=now)
        assert planned.state == RolloutState.RUNNING
        assert planned.approvals.get().plan_digest == planned.plan_digest

    def test_of_another_plan_is_refused_and_told_the_present_one(
        self, planned: Rollout, now: datetime
    ) -> None:
        with pytest.raises(Conflict) as caught:
            approve_rollout(rollout_id=planned.pk, plan_digest="sha256:old", now=now, **BY)
        assert caught.value.code == "plan-changed"
        assert caught.value.extra == {"plan_digest": planned.plan_digest}
        turn(planned, now=now)
        assert planned.state == RolloutState.PLANNED

    def test_kept_for_another_plan_does_not_count(self, planned: Rollout, now: datetime) -> None:
        approve(rollout_id=planned.pk, now=now, **BY)
        planned.approvals.update(plan_digest="sha256:old")
        turn(planned, now=now)
        assert planned.reason_code == "approval-pending"

    def test_expires(self, edge: FakeAgent, settings: Any, now: datetime) -> None:
        later = now + timedelta(hours=settings.WAYPOST_APPROVAL_HOURS)
        rollout = running(make_version(now=now), strategy=self.STRATEGY, start_at=later, now=now)
        approve(rollout_id=rollout.pk, now=now, **BY)
        turn(rollout, now=now)
        assert rollout.reason_code == "scheduled"

        turn(rollout, now=later)

        assert (rollout.state, rollout.reason_code) == ("planned", "approval-pending")

    def test_by_the_author_is_refused_where_another_is_asked_for(
        self, planned: Rollout, now: datetime
    ) -> None:
        with pytest.raises(Forbidden) as caught:
            approve(rollout_id=planned.pk, actor=ACTOR, reason="mine", now=now)
        assert caught.value.code == "approver-is-author"

    def test_by_the_author_is_taken_where_the_strategy_allows_it(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        alone = StrategySpec(
            name="alone",
            version=1,
            stages=one_stage(),
            approval_required=True,
            approval_by_other=False,
        )
        rollout = start(make_version(now=now), strategy=alone, now=now)
        approve(rollout_id=rollout.pk, actor=ACTOR, reason="mine", now=now)
        assert turn(rollout, now=now).state == RolloutState.RUNNING

    def test_is_refused_where_none_is_waited_for(self, edge: FakeAgent, now: datetime) -> None:
        rollout = start(make_version(now=now), now=now)
        with pytest.raises(Conflict) as caught:
            approve(rollout_id=rollout.pk, now=now, **BY)
        assert caught.value.code == "approval-not-needed"

    def test_of_a_stage_lets_the_rollout_leave_it(
        self, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        rollout = running(make_version(now=now), canary_then_rest(approval=True), now=now)
        turn(rollout, edge, now=now)
        assert (rollout.reason_code, stages_of(rollout)["canary"]) == (
            "approval-pending",
            "soaking",
        )
        approve(rollout_id=rollout.pk, stage_name="canary", now=now, **BY)
        turn(rollout, edge, now=now)
        assert stages_of(rollout) == {"canary": "passed", "rest": "running"}

    def test_of_an_unknown_stage_names_those_there_are(
        self, planned: Rollout, now: datetime
    ) -> None:
        with pytest.raises(NotFound, match="no stage 'moon': all"):
            approve(rollout_id=planned.pk, stage_name="moon", now=now, **BY)

    def test_failing_evidence_beats_an_approval_that_is_pending_or_given(
        self, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        rollout = running(make_version(now=now), canary_then_rest(approval=True), now=now)
        turn(rollout, edge, now=now)
        approve(rollout_id=rollout.pk, stage_name="canary", now=now, **BY)
        judge(rollout, Verdict.FAIL, gate="errors", now=now)
        turn(rollout, edge, now=now)
        assert rollout.state == RolloutState.ROLLING_BACK


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


class TestRetryFailed:
    def test_gives_every_failed_site_another_attempt_at_once(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        rollout = running(make_version(now=now), one_stage(on_failure="pause"), now=now)
        fail(edge, now=now)
        turn(rollout, now=now)

        retry_failed(rollout_id=rollout.pk, now=now, **BY)

        assert rollout.state == RolloutState.PAUSED
        again = part(rollout, edge)
        assert (again.state, again.attempt, again.not_before) == ("pending", 2, None)
        assert edge.wishes(now=now)["vad"]["version"] is None

    def test_without_a_failure_is_refused(self, now: datetime) -> None:
        rollout = make_rollout(RolloutState.RUNNING, now=now)
        with pytest.raises(Conflict) as caught:
            retry_failed(rollout_id=rollout.pk, now=now, **BY)
        assert caught.value.code == "nothing-failed"


class TestAbort:
    def test_a_site_that_had_not_switched_after_all_is_called_back(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        """Its machine restarted in the middle of it: the lease is gone and none will be granted."""
        serving([edge], now=now)
        rollout = running(make_version(now=now), now=now)
        edge.begin("vad", now=now)
        abort_rollout(rollout_id=rollout.pk, now=now, **BY)
        turn(rollout, now=now)
        assert rollout.state == RolloutState.CANCELLING
        edge.reboot()
        edge.report("vad", "staged", now=now)

        turn(rollout, now=now)

        assert rollout.state == RolloutState.CANCELLED
        assert parts(rollout) == {"edge": "cancelled"}
        assert edge.wishes(now=now)["vad"]["version"] == "1"

    def test_of_a_queued_rollout_ends_it_at_once(self, now: datetime) -> None:
        rollout = make_rollout(RolloutState.QUEUED, now=now)
        abort_rollout(rollout_id=rollout.pk, now=now, **BY)
        rollout.refresh_from_db()
        assert rollout.state == RolloutState.CANCELLED
        assert rollout.finished_at == now
        assert set(parts(rollout).values()) == {"cancelled"}


class TestAnotherRolloutOfTheModel:
    @pytest.fixture
    def first(self, edge: FakeAgent, now: datetime) -> Rollout:
        return running(make_version(now=now), now=now)

    def test_is_refused(self, first: Rollout, now: datetime) -> None:
        with pytest.raises(Conflict, match="not finished"):
            start(make_version(now=now), now=now)

    def test_queues_behind_the_first_and_begins_when_it_is_over(
        self, first: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        second = running(make_version(now=now), on_conflict=OnConflict.QUEUE, now=now)
        assert (second.state, second.reason_code) == ("queued", "queued")
        assert f"rollout {first.pk} of vad goes first" in second.reason
        assert edge.wishes(now=now)["vad"]["version"] == "1"

        settle(first, [edge], now=now)
        turn(second, now=now)

        assert second.state == RolloutState.RUNNING
        assert edge.wishes(now=now)["vad"]["version"] == "2"

    def test_those_that_queue_go_in_their_order(
        self, first: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        second, third = (
            start(make_version(now=now), on_conflict=OnConflict.QUEUE, now=now) for _ in range(2)
        )
        settle(first, [edge], now=now)
        turn(third, now=now)
        assert third.state == RolloutState.QUEUED
        assert f"rollout {second.pk}" in third.reason

        settle(second, [edge], now=now)
        assert turn(third, now=now).state == RolloutState.RUNNING

    def test_takes_the_place_of_the_first_once_that_has_let_go(
        self, first: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        edge.begin("vad", now=now)
        second = running(make_version(now=now), on_conflict=OnConflict.SUPERSEDE, now=now)
        first.refresh_from_db()
        assert (first.state, first.superseded_by_id) == ("cancelling", second.pk)
        assert second.state == RolloutState.QUEUED, "a site is switching still"

        edge.report("vad", "succeeded", now=now)
        turn(first, now=now)
        settle(second, [edge], now=now)

        assert first.state == RolloutState.SUPERSEDED
        assert f"superseded by rollout {second.pk}" in first.reason
        assert second.state == RolloutState.SUCCEEDED
        assert edge.serving == {"vad": 2}

    def test_does_not_supersede_one_that_is_turning_back(
        self, first: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        roll_back_rollout(rollout_id=first.pk, now=now, **BY)
        second = start(make_version(now=now), on_conflict=OnConflict.SUPERSEDE, now=now)
        settle(first, [edge], now=now)

        assert first.state == RolloutState.ROLLED_BACK
        assert turn(second, now=now).state == RolloutState.RUNNING


class TestSchedule:
    def test_begins_at_its_time_and_says_so_before(self, edge: FakeAgent, now: datetime) -> None:
        later = now + timedelta(hours=3)
        rollout = running(make_version(now=now), start_at=later, now=now)
        assert (rollout.state, rollout.reason_code) == ("planned", "scheduled")
        assert "starts at 2026-11-23 15:00 UTC" in rollout.reason
        assert edge.wishes(now=now) == {}

        assert turn(rollout, now=later).state == RolloutState.RUNNING

    def test_in_the_past_is_refused(self, edge: FakeAgent, now: datetime) -> None:
        with pytest.raises(InvalidInput) as caught:
            start(make_version(now=now), start_at=now, now=now)
        assert caught.value.code == "start-in-the-past"


class TestVerdicts:
    @pytest.fixture
    def rollout(self, edge: FakeAgent, core: FakeAgent, now: datetime) -> Rollout:
        stages = canary_then_rest(gates=("latency",), on_failure="pause")
        rollout = running(make_version(now=now), stages, now=now)
        turn(rollout, edge, now=now)
        assert stages_of(rollout)["canary"] == "soaking"
        return rollout

    def test_a_pass_lets_the_stage_go_on(
        self, rollout: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        judge(rollout, Verdict.PASS, now=now)
        assert stages_of(turn(rollout, edge, now=now))["canary"] == "passed"

    @pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.ERROR, None])
    def test_anything_less_holds_it(
        self, verdict: Verdict | None, rollout: Rollout, edge: FakeAgent, now: datetime
    ) -> None:
        if verdict:
            judge(rollout, verdict, now=now)
        turn(rollout, edge, now=now)
        assert stages_of(rollout)["canary"] == "soaking"
        assert "gate latency" in rollout.reason

    def test_the_newest_word_counts(self, rollout: Rollout, edge: FakeAgent, now: datetime) -> None:
        judge(rollout, Verdict.PASS, now=now)
        judge(rollout, Verdict.FAIL, now=now)
        assert turn(rollout, edge, now=now).pause_code == "gate-failed"
        assert GateVerdict.objects.count() == 1

    def test_of_a_stage_that_is_over_is_refused(self, now: datetime) -> None:
        rollout = make_rollout(RolloutState.CANCELLED, now=now)
        with pytest.raises(Conflict) as caught:
            judge(rollout, Verdict.PASS, stage="all", now=now)
        assert caught.value.code == "stage-over"


def test_every_verb_leaves_one_event_with_actor_reason_and_states(
    edge: FakeAgent, core: FakeAgent, now: datetime
) -> None:
    rollout = running(make_version(now=now), canary_then_rest(soak_seconds=600), now=now)
    turn(rollout, edge, now=now)
    done: list[tuple[str, Callable[..., Rollout]]] = [
        ("paused", pause_rollout),
        ("resumed", resume_rollout),
        ("promoted", promote_rollout),
        ("rolling_back", roll_back_rollout),
    ]
    for action, verb in done:
        revision = Rollout.objects.get(pk=rollout.pk).revision
        verb(rollout_id=rollout.pk, now=now, **BY)
        event = Event.objects.filter(object_type="rollout").latest("pk")
        assert (event.action, event.actor) == (f"rollout.{action}", "user:ann")
        assert "because" in event.reason
        assert event.data["revision"] == revision + 1
        assert {"before", "state", "stages", "deployments"} <= set(event.data)


def test_a_retired_site_leaves_and_the_tick_goes_on(edge: FakeAgent, now: datetime) -> None:
    other = make_joined_site("other", now=now)
    rollout = running(make_version(now=now), now=now)
    retire_site(site=other.site, reason="sold", actor=ACTOR, now=now)
    tick(now=now)
    settle(rollout, [edge], now=now)
    assert rollout.state == RolloutState.SUCCEEDED_WITH_EXCEPTIONS
    assert parts(rollout) == {"edge": "succeeded", "other": "removed"}


def test_the_default_stages_go_all_the_way(now: datetime) -> None:
    agents = [make_joined_site(now=now) for _ in range(10)]
    rollout = running(make_version(now=now), DEFAULT_STAGES, now=now)
    settle(rollout, agents, now=now, turns=200)
    assert rollout.state == RolloutState.SUCCEEDED
    assert stages_of(rollout) == {"canary": "passed", "half": "passed", "rest": "passed"}


def test_a_rest_stage_offers_within_its_cap(now: datetime) -> None:
    agents = [make_joined_site(now=now) for _ in range(5)]
    policy = StagePolicy(max_concurrent=2)
    stages = (StageSpec(name="all", soak_seconds=0, policy=policy),)
    rollout = running(make_version(now=now), stages, now=now)
    for _ in range(6):
        assert list(parts(rollout).values()).count("offered") <= 2
        turn(rollout, *agents, now=now)
    settle(rollout, agents, now=now)
    assert rollout.state == RolloutState.SUCCEEDED
