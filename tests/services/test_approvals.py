"""A yes to a plan or a stage, and the word of a gate: whose counts, and for how long."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.domain.errors import Conflict, Forbidden, NotFound
from controlplane.domain.gates import Verdict
from controlplane.domain.rollout import RolloutState
from controlplane.domain.strategies import StrategySpec
from controlplane.rollouts.approvals import approve_rollout
from controlplane.rollouts.models import GateVerdict, Rollout
from tests.factories import ACTOR, make_rollout, make_version
from tests.fake_agent import FakeAgent
from tests.services.steps import (
    BY,
    approve,
    canary_then_rest,
    judge,
    one_stage,
    running,
    stages_of,
    start,
    turn,
)


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
