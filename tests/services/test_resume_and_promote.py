"""Going on after a pause, and past a soak: what a person must say, and what no word can beat."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.domain.errors import Conflict, Forbidden, InvalidInput
from controlplane.domain.gates import Verdict
from controlplane.domain.rollout import ResumeChoice, RolloutState
from controlplane.domain.stages import StageSpec
from controlplane.fleet.services import retire_site
from controlplane.rollouts.freezes import freeze_sites
from controlplane.rollouts.history import replayed
from controlplane.rollouts.models import Deployment, Rollout
from controlplane.rollouts.verbs import (
    pause_rollout,
    promote_rollout,
    resume_rollout,
    retry_failed,
)
from tests.factories import ACTOR, make_joined_site, make_rollout, make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.steps import (
    BY,
    canary_then_rest,
    fail,
    judge,
    one_stage,
    part,
    parts,
    running,
    serving,
    silence,
    stages_of,
    turn,
)


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

    def test_accepted_and_verified_nowhere_it_is_no_success(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        rollout = running(make_version(now=now), one_stage(on_failure="pause"), now=now)
        fail(edge, now=now)
        turn(rollout, now=now)
        resume_rollout(rollout_id=rollout.pk, choice=ResumeChoice.ACCEPT, now=now, **BY)
        turn(rollout, now=now)

        assert rollout.state == RolloutState.CANCELLED
        assert rollout.reason == "version 1 is verified at no site: 1 site failed"
        assert replayed(rollout)[1] == []
        assert edge.wishes(now=now)["vad"]["version"] is None

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

    def test_accepts_the_unwell_sites_of_that_moment_and_no_more(
        self, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        other = make_joined_site("other", now=now)
        everybody = [edge, core, other]
        stages = (
            StageSpec(name="canary", soak_seconds=0, count=2),
            StageSpec(name="rest", soak_seconds=0),
        )
        serving(everybody, now=now)
        rollout = running(make_version(now=now), stages, now=now)
        first = [a for a in everybody if part(rollout, a).stage.name == "canary"]
        for agent in first:
            agent.obey(now=now)
        first[0].report("vad", "succeeded", now=now, healthy=False, reason="answers are wrong")
        turn(rollout, now=now)
        assert stages_of(rollout)["rest"] == "pending"

        pause_rollout(rollout_id=rollout.pk, now=now, **BY)
        resume_rollout(rollout_id=rollout.pk, choice=ResumeChoice.ACCEPT, now=now, **BY)
        first[1].report("vad", "succeeded", now=now, healthy=False, reason="no answer")
        turn(rollout, now=now)
        assert stages_of(rollout)["rest"] == "pending"
        first[1].report("vad", "succeeded", now=now)
        turn(rollout, now=now)

        assert stages_of(rollout)["rest"] == "running"

    def test_what_was_soaked_is_void_when_the_site_that_soaked_has_left(
        self, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        serving([edge, core], now=now)
        stages = one_stage(soak_seconds=60, failures_tolerated=1)
        rollout = running(make_version(now=now), stages, now=now)
        fail(edge, now=now)
        turn(rollout, core, now=now)
        now += timedelta(seconds=20)
        turn(rollout, core, now=now)
        assert rollout.stages.get().soaked_seconds == 20

        retry_failed(rollout_id=rollout.pk, now=now, **BY)
        retire_site(site=core.site, reason="the shop closed", actor=ACTOR, now=now)
        now += timedelta(seconds=20)
        turn(rollout, now=now)
        assert rollout.reason_code == "deployments-unfinished"
        stage = rollout.stages.get()
        assert (stage.state, stage.soaked_seconds) == ("soaking", 0)

        now += timedelta(seconds=5)
        turn(rollout, edge, now=now)
        assert rollout.stages.get().soaked_seconds == 0
        turn(rollout, edge, now=now + timedelta(seconds=5))
        assert rollout.stages.get().soaked_seconds == 5


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
