"""Every state of a rollout, and what `decide` makes of it: one row each."""

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from controlplane.domain.decide import decide
from controlplane.domain.decisions import (
    Begin,
    BeginSoak,
    CallBack,
    CountSoak,
    Decision,
    EndOverdue,
    Finish,
    OfferSites,
    PassStage,
    Pause,
    Release,
    RemoveRetired,
    RetryFailed,
    RollBack,
    SkipStage,
    StartStage,
    Wait,
)
from controlplane.domain.gates import GateResult, Verdict
from controlplane.domain.policy import OnFailure, OnSilent, StagePolicy
from controlplane.domain.rollout import FINAL_ROLLOUT, INFRASTRUCTURE_CODES
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.domain.views import RolloutView
from tests.unit.views import FRESH_WITHIN, NOW, note, stage, view

LATER = NOW + timedelta(hours=3)
PAUSES = StagePolicy(on_failure=OnFailure.PAUSE)
GATED = StagePolicy(gates=("latency",))
SOAKED = {"forward": {D.SUCCEEDED: 1}, "soaked_seconds": 60, "counted_seconds_ago": 1}


def spoke(verdict: Verdict, *, seconds_ago: float = 10) -> tuple[GateResult, ...]:
    at = NOW - timedelta(seconds=seconds_ago)
    return (GateResult(gate="latency", verdict=verdict, reason="p99 of 80 ms", judged_at=at),)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A view, the kind of decision and its members that matter, and words its reason must hold."""

    says: str
    view: RolloutView
    decision: type[Decision]
    members: dict[str, object]
    reason: tuple[str, ...] = ()


PASSED = stage(0, S.PASSED, forward={D.SUCCEEDED: 1})

CASES = [
    Case(
        says="a planned rollout begins",
        view=view(R.PLANNED, stage()),
        decision=Begin,
        members={},
        reason=("2", "vad"),
    ),
    Case(
        says="a running rollout starts its first stage",
        view=view(R.RUNNING, stage(), stage(1)),
        decision=StartStage,
        members={"stage": 0},
        reason=("canary", "2 sites"),
    ),
    Case(
        says="the next stage starts once the one before passed",
        view=view(R.RUNNING, PASSED, stage(1, forward={D.PENDING: 1})),
        decision=StartStage,
        members={"stage": 1},
        reason=("half", "1 site"),
    ),
    Case(
        says="an empty stage is skipped",
        view=view(R.RUNNING, stage(forward={}), stage(1)),
        decision=SkipStage,
        members={"stage": 0},
        reason=("no site",),
    ),
    Case(
        says="a skipped stage does not hold the next one",
        view=view(R.RUNNING, stage(0, S.SKIPPED, forward={}), stage(1)),
        decision=StartStage,
        members={"stage": 1},
    ),
    Case(
        says="a running stage waits for unfinished deployments and names them",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.SUCCEEDED: 1, D.STAGING: 1},
                unfinished=(note("edge-1", "staging"),),
            ),
        ),
        decision=Wait,
        members={"reason_code": "deployments-unfinished"},
        reason=("1 of 2", "edge-1 (staging)"),
    ),
    Case(
        says="a reason names three sites and counts the others",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.OFFERED: 9},
                unfinished=tuple(note(f"edge-{n}") for n in range(9)),
            ),
        ),
        decision=Wait,
        members={"reason_code": "deployments-unfinished"},
        reason=("edge-0, edge-1, edge-2 and 6 more",),
    ),
    Case(
        says="a stage whose sites are all verified begins to soak",
        view=view(R.RUNNING, stage(0, S.RUNNING, forward={D.SUCCEEDED: 3})),
        decision=BeginSoak,
        members={"stage": 0},
        reason=("3 sites",),
    ),
    Case(
        says="a fresh interval counts as soaked",
        view=view(
            R.RUNNING,
            stage(0, S.SOAKING, forward={D.SUCCEEDED: 1}, soaked_seconds=10, counted_seconds_ago=5),
        ),
        decision=CountSoak,
        members={"stage": 0, "seconds": 5.0},
        reason=("soaked 15 of 60",),
    ),
    Case(
        says="an interval with a silent site counts nothing",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 2},
                soaked_seconds=59,
                counted_seconds_ago=30,
                stale=(note("edge-1", "last report 90 s ago"),),
            ),
        ),
        decision=CountSoak,
        members={"seconds": 0.0},
        reason=("not counting", "no fresh report", "edge-1 (last report 90 s ago)"),
    ),
    Case(
        says="an interval with an unhealthy site counts nothing",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 2},
                soaked_seconds=59,
                counted_seconds_ago=30,
                unhealthy=(note("edge-1", "serves version 1"),),
            ),
        ),
        decision=CountSoak,
        members={"seconds": 0.0},
        reason=("not counting", "edge-1 (serves version 1)"),
    ),
    Case(
        says="a long outage of the engine adds at most the freshness limit",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 1},
                soak_seconds=3600,
                counted_seconds_ago=86_400,
            ),
        ),
        decision=CountSoak,
        members={"seconds": FRESH_WITHIN.total_seconds()},
    ),
    Case(
        says="a clock that jumped back counts nothing",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 1},
                soaked_seconds=10,
                counted_seconds_ago=-3600,
            ),
        ),
        decision=CountSoak,
        members={"seconds": 0.0},
    ),
    Case(
        says="a soaked stage passes",
        view=view(
            R.RUNNING,
            stage(0, S.SOAKING, forward={D.SUCCEEDED: 1}, soaked_seconds=56, counted_seconds_ago=5),
        ),
        decision=PassStage,
        members={"stage": 0, "seconds": 5.0},
        reason=("healthy for 60 s",),
    ),
    Case(
        says="a stage without soak passes at once on fresh reports",
        view=view(
            R.RUNNING,
            stage(0, S.SOAKING, forward={D.SUCCEEDED: 1}, soak_seconds=0, counted_seconds_ago=0),
        ),
        decision=PassStage,
        members={"stage": 0, "seconds": 0.0},
    ),
    Case(
        says="a stage without soak still waits for a silent site",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 1},
                soak_seconds=0,
                counted_seconds_ago=9,
                stale=(note("edge-1"),),
            ),
        ),
        decision=CountSoak,
        members={"seconds": 0.0},
    ),
    Case(
        says="an early site gone bad holds the start of the next stage",
        view=view(
            R.RUNNING,
            replace(PASSED, unhealthy=(note("edge-1", "serves nothing"),), unhealthy_count=1),
            stage(1),
        ),
        decision=Wait,
        members={"reason_code": "earlier-site-unhealthy"},
        reason=("canary", "edge-1 (serves nothing)", "roll back"),
    ),
    Case(
        says="an early site fallen silent holds the start of the next stage",
        view=view(
            R.RUNNING,
            replace(PASSED, stale=(note("edge-1", "last report 90 s ago"),), stale_count=1),
            stage(1),
        ),
        decision=Wait,
        members={"reason_code": "earlier-site-stale"},
        reason=("canary", "edge-1 (last report 90 s ago)", "roll back"),
    ),
    Case(
        says="a rollback does not wait for sites that are long silent",
        view=view(
            R.ROLLING_BACK,
            replace(
                stage(0, S.FAILED, rollback={D.ROLLED_BACK: 2, D.OFFERED: 1}),
                silent=1,
                unfinished=(note("edge-3"),),
            ),
        ),
        decision=Finish,
        members={"state": R.ROLLBACK_INCOMPLETE},
        reason=("1 site long silent",),
    ),
    Case(
        says="a rollback waits while one of the open sites was heard of lately",
        view=view(
            R.ROLLING_BACK,
            replace(
                stage(0, S.FAILED, rollback={D.OFFERED: 2}), silent=1, unfinished=(note("edge-3"),)
            ),
        ),
        decision=Wait,
        members={"reason_code": "rollback-unfinished"},
    ),
    Case(
        says="an early site gone bad holds the pass of a soaked stage",
        view=view(
            R.RUNNING,
            replace(PASSED, unhealthy=(note("edge-1"),), unhealthy_count=1),
            stage(1, S.SOAKING, forward={D.SUCCEEDED: 1}, soaked_seconds=60, counted_seconds_ago=1),
        ),
        decision=Wait,
        members={"reason_code": "earlier-site-unhealthy"},
    ),
    Case(
        says="an early site gone bad does not stop the count of a later soak",
        view=view(
            R.RUNNING,
            replace(PASSED, unhealthy=(note("edge-1"),), unhealthy_count=1),
            stage(1, S.SOAKING, forward={D.SUCCEEDED: 1}, soaked_seconds=0, counted_seconds_ago=1),
        ),
        decision=CountSoak,
        members={"stage": 1, "seconds": 1.0},
    ),
    Case(
        says="a failed site in the running stage turns the rollout back",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.FAILED: 1, D.OFFERED: 1},
                failed=(note("edge-1", "golden-mismatch"),),
            ),
            stage(1),
        ),
        decision=RollBack,
        members={"reason_code": "deployment-failed", "failed_stages": (0,)},
        reason=("canary", "edge-1 (golden-mismatch)"),
    ),
    Case(
        says="a failed site in a soaking stage turns the rollout back",
        view=view(R.RUNNING, stage(0, S.SOAKING, forward={D.FAILED: 1}, counted_seconds_ago=0)),
        decision=RollBack,
        members={"failed_stages": (0,)},
    ),
    Case(
        says="a site that fails late in a passed stage turns the rollout back",
        view=view(
            R.RUNNING,
            stage(0, S.PASSED, forward={D.FAILED: 1}),
            stage(1, S.RUNNING, forward={D.FAILED: 1}),
        ),
        decision=RollBack,
        members={"failed_stages": (0, 1)},
    ),
    Case(
        says="a failed site turns the rollout back also while a person has paused it",
        view=view(R.PAUSED, stage(0, S.RUNNING, forward={D.FAILED: 1})),
        decision=RollBack,
        members={"reason_code": "deployment-failed"},
    ),
    Case(
        says="a paused rollout offers nothing",
        view=view(R.PAUSED, stage(), cause="paused by ann: look at it"),
        decision=Wait,
        members={"reason_code": "paused", "reason": "paused by ann: look at it"},
    ),
    Case(
        says="a paused rollout does not pass a soaked stage",
        view=view(
            R.PAUSED,
            stage(0, S.SOAKING, forward={D.SUCCEEDED: 1}, soaked_seconds=60, counted_seconds_ago=9),
        ),
        decision=Wait,
        members={"reason_code": "paused"},
    ),
    Case(
        says="a rollout whose stages all passed succeeds",
        view=view(
            R.RUNNING,
            PASSED,
            stage(1, S.SKIPPED, forward={}),
            stage(2, S.PASSED, forward={D.SUCCEEDED: 2}),
        ),
        decision=Finish,
        members={"state": R.SUCCEEDED},
        reason=("3 sites", "version 2"),
    ),
    Case(
        says="an aborted rollout waits for sites that are switching",
        view=view(
            R.CANCELLING,
            stage(
                0,
                S.CANCELLED,
                forward={D.ACTIVATING: 1, D.CANCELLED: 1},
                unfinished=(note("edge-1", "activating"),),
            ),
        ),
        decision=Wait,
        members={"reason_code": "switching"},
        reason=("edge-1 (activating)",),
    ),
    Case(
        says="an aborted rollout ends when nobody is switching any more",
        view=view(
            R.CANCELLING,
            stage(0, S.CANCELLED, forward={D.SUCCEEDED: 1, D.CANCELLED: 1}),
            cause="aborted by ann: enough",
        ),
        decision=Finish,
        members={"state": R.CANCELLED},
        reason=("aborted by ann: enough",),
    ),
    Case(
        says="an aborted rollout does not turn back by itself when a switching site fails",
        view=view(R.CANCELLING, stage(0, S.CANCELLED, forward={D.FAILED: 1})),
        decision=Finish,
        members={"state": R.CANCELLED},
    ),
    Case(
        says="a rollback waits for the sites that have not returned",
        view=view(
            R.ROLLING_BACK,
            stage(
                0,
                S.FAILED,
                forward={D.FAILED: 1},
                rollback={D.OFFERED: 1, D.ROLLED_BACK: 1},
                unfinished=(note("edge-1", "offered"),),
            ),
            cause="stage canary: edge-1",
        ),
        decision=Wait,
        members={"reason_code": "rollback-unfinished"},
        reason=("stage canary: edge-1", "waiting for edge-1 (offered) to return"),
    ),
    Case(
        says="a rollback ends when every site returned",
        view=view(
            R.ROLLING_BACK, stage(0, S.FAILED, rollback={D.ROLLED_BACK: 2}), cause="it failed"
        ),
        decision=Finish,
        members={"state": R.ROLLED_BACK},
        reason=("it failed", "2 sites returned"),
    ),
    Case(
        says="a rollback with a site that could not return ends incomplete",
        view=view(
            R.ROLLING_BACK,
            stage(0, S.FAILED, rollback={D.ROLLED_BACK: 2, D.ROLLBACK_FAILED: 1}),
        ),
        decision=Finish,
        members={"state": R.ROLLBACK_INCOMPLETE},
        reason=("1 site could not return",),
    ),
    Case(
        says="those given up by a person are in the cause, and not counted once more",
        view=view(
            R.ROLLING_BACK,
            stage(0, S.FAILED, rollback={D.ROLLED_BACK: 2, D.ROLLBACK_FAILED: 3}, unwaited=2),
            cause="it failed; not waited for 2 sites",
        ),
        decision=Finish,
        members={
            "state": R.ROLLBACK_INCOMPLETE,
            "reason": "it failed; not waited for 2 sites; 1 site could not return",
        },
    ),
    Case(
        says="none of them but those given up is incomplete still",
        view=view(
            R.ROLLING_BACK,
            stage(0, S.FAILED, rollback={D.ROLLBACK_FAILED: 2}, unwaited=2),
            cause="it failed; not waited for 2 sites",
        ),
        decision=Finish,
        members={"state": R.ROLLBACK_INCOMPLETE, "reason": "it failed; not waited for 2 sites"},
    ),
    Case(
        says="a site whose version from before is quarantined is told apart from one that failed",
        view=view(
            R.ROLLING_BACK,
            stage(
                0,
                S.FAILED,
                rollback={D.ROLLBACK_FAILED: 2},
                unsound=1,
                unsound_notes=(note("edge-1", "version 1 is quarantined"),),
            ),
            cause="it failed",
        ),
        decision=Finish,
        members={
            "state": R.ROLLBACK_INCOMPLETE,
            "reason": "it failed; 1 site could not return; nothing sound to return to, so it keeps "
            "what it serves: edge-1 (version 1 is quarantined); release that version with a "
            "reason, or roll out another",
        },
    ),
    Case(
        says="a rollback does not end incomplete while another site is on its way",
        view=view(
            R.ROLLING_BACK,
            stage(0, S.FAILED, rollback={D.ROLLBACK_FAILED: 1}),
            stage(1, S.CANCELLED, rollback={D.VERIFYING: 1}),
        ),
        decision=Wait,
        members={"reason_code": "rollback-unfinished"},
    ),
    Case(
        says="a rollback that reached no site ends at once",
        view=view(R.ROLLING_BACK, stage(0, S.CANCELLED, forward={D.CANCELLED: 2})),
        decision=Finish,
        members={"state": R.ROLLED_BACK},
        reason=("0 sites",),
    ),
    # Before it runs
    Case(
        says="a queued rollout waits for the one before it",
        view=view(R.QUEUED, stage(), blocked_by=7),
        decision=Wait,
        members={"reason_code": "queued"},
        reason=("rollout 7 of vad goes first",),
    ),
    Case(
        says="a queued rollout is let go when nothing is before it",
        view=view(R.QUEUED, stage()),
        decision=Release,
        members={},
    ),
    Case(
        says="a planned rollout waits for its approval",
        view=view(R.PLANNED, stage(), approval_required=True),
        decision=Wait,
        members={"reason_code": "approval-pending"},
        reason=("approve it, or abort",),
    ),
    Case(
        says="an approved rollout begins",
        view=view(R.PLANNED, stage(), approval_required=True, approved=True),
        decision=Begin,
        members={},
    ),
    Case(
        says="a scheduled rollout waits for its time",
        view=view(R.PLANNED, stage(), start_at=LATER),
        decision=Wait,
        members={"reason_code": "scheduled"},
        reason=("2026-11-23 15:00 UTC",),
    ),
    Case(
        says="a scheduled rollout begins on the dot",
        view=view(R.PLANNED, stage(), start_at=NOW),
        decision=Begin,
        members={},
    ),
    Case(
        says="the approval is asked for before the time has come",
        view=view(R.PLANNED, stage(), start_at=LATER, approval_required=True),
        decision=Wait,
        members={"reason_code": "approval-pending"},
    ),
    Case(
        says="a planned rollout of a withdrawn version waits for a person",
        view=view(R.PLANNED, stage(), withdrawn="it leaks", approved=True),
        decision=Wait,
        members={"reason_code": "version-withdrawn"},
        reason=("it leaks", "abort"),
    ),
    # What speaks against the version
    Case(
        says="a running rollout of a withdrawn version is paused",
        view=view(R.RUNNING, stage(0, S.RUNNING), withdrawn="it leaks"),
        decision=Pause,
        members={"code": "version-withdrawn"},
        reason=("it leaks",),
    ),
    Case(
        says="a withdrawn version is not offered to one more site",
        view=view(R.RUNNING, PASSED, stage(1), withdrawn="it leaks"),
        decision=Pause,
        members={"code": "version-withdrawn"},
    ),
    Case(
        says="a failed site with attempts left is tried again",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.FAILED: 1, D.SUCCEEDED: 1},
                failed=(note("edge-1", "golden-mismatch"),),
                retryable=1,
                policy=StagePolicy(retries=1, retry_after_seconds=90),
            ),
        ),
        decision=RetryFailed,
        members={"stage": 0},
        reason=("edge-1 (golden-mismatch)", "in 90 s"),
    ),
    Case(
        says="a failed site without attempts left counts",
        view=view(
            R.RUNNING,
            stage(0, S.RUNNING, forward={D.FAILED: 1}, policy=StagePolicy(retries=1)),
        ),
        decision=RollBack,
        members={},
    ),
    Case(
        says="nothing is tried again while it is paused",
        view=view(
            R.PAUSED,
            stage(0, S.RUNNING, forward={D.FAILED: 1}, retryable=1, policy=PAUSES),
            cause="paused by ann",
        ),
        decision=Wait,
        members={"reason_code": "paused"},
    ),
    Case(
        says="failures within the tolerated ones do not stop a stage",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.FAILED: 1, D.SUCCEEDED: 3},
                policy=StagePolicy(failures_tolerated="25%"),
            ),
        ),
        decision=BeginSoak,
        members={},
    ),
    Case(
        says="one failure more than tolerated stops it and says of how many",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.FAILED: 2, D.SUCCEEDED: 2},
                policy=StagePolicy(failures_tolerated="25%"),
            ),
        ),
        decision=RollBack,
        members={"failed_stages": (0,)},
        reason=("2 of 4 failed, 1 tolerated",),
    ),
    Case(
        says="who has left the stage is not of those that failures are counted of",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.FAILED: 1, D.SUCCEEDED: 2, D.REMOVED: 1},
                policy=StagePolicy(failures_tolerated="25%"),
            ),
        ),
        decision=RollBack,
        members={},
    ),
    Case(
        says="a silent site that was counted is a failure",
        view=view(R.RUNNING, stage(0, S.RUNNING, forward={D.TIMED_OUT: 1, D.SUCCEEDED: 9})),
        decision=RollBack,
        members={},
    ),
    Case(
        says="by its policy a failed stage asks a person",
        view=view(R.RUNNING, stage(0, S.RUNNING, forward={D.FAILED: 1}, policy=PAUSES)),
        decision=Pause,
        members={"code": "stage-failed"},
        reason=("retry, accept or rollback",),
    ),
    Case(
        says="a person is not asked twice",
        view=view(
            R.PAUSED, stage(0, S.RUNNING, forward={D.FAILED: 1}, policy=PAUSES), cause="asked"
        ),
        decision=Wait,
        members={"reason_code": "paused", "reason": "asked"},
    ),
    Case(
        says="a stage that asks a person does not hide a later one that turns back while paused",
        view=view(
            R.PAUSED,
            stage(0, S.PASSED, forward={D.FAILED: 1}, policy=PAUSES),
            stage(1, S.RUNNING, forward={D.FAILED: 1}, failed=(note("edge-2"),)),
            cause="asked",
        ),
        decision=RollBack,
        members={"reason_code": "deployment-failed", "failed_stages": (0, 1)},
        reason=("stage half: edge-2",),
    ),
    Case(
        says="a stage that asks a person does not hide a gate that turns back while paused",
        view=view(
            R.PAUSED,
            stage(0, S.PASSED, forward={D.FAILED: 1}, policy=PAUSES),
            stage(1, S.SOAKING, gates=spoke(Verdict.FAIL), **SOAKED),
            cause="asked",
        ),
        decision=RollBack,
        members={"reason_code": "gate-failed", "failed_stages": (1,)},
    ),
    Case(
        says="a gate that asks a person does not hide a later one that turns back while paused",
        view=view(
            R.PAUSED,
            replace(PASSED, gates=spoke(Verdict.FAIL), policy=PAUSES),
            stage(1, S.SOAKING, gates=spoke(Verdict.FAIL), **SOAKED),
            cause="asked",
        ),
        decision=RollBack,
        members={"reason_code": "gate-failed", "failed_stages": (1,)},
    ),
    Case(
        says="what was accepted does not stop it again",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.FAILED: 1, D.SUCCEEDED: 1},
                accepted_at=NOW,
                accepted_failures=1,
                policy=PAUSES,
            ),
        ),
        decision=BeginSoak,
        members={},
    ),
    Case(
        says="one failure more than was accepted does",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.FAILED: 2, D.SUCCEEDED: 1},
                accepted_at=NOW,
                accepted_failures=1,
                policy=PAUSES,
            ),
        ),
        decision=Pause,
        members={"code": "stage-failed"},
    ),
    Case(
        says="trouble of the surroundings alone pauses, whatever the policy",
        view=view(R.RUNNING, stage(0, S.RUNNING, forward={D.FAILED: 2}, infrastructure=2)),
        decision=Pause,
        members={"code": "infrastructure"},
        reason=("says nothing of the version",),
    ),
    Case(
        says="trouble of the surroundings beside a failure by the version turns it back",
        view=view(R.RUNNING, stage(0, S.RUNNING, forward={D.FAILED: 2}, infrastructure=1)),
        decision=RollBack,
        members={},
    ),
    Case(
        says="with a barrier a site that fails before its stage has begun stops it",
        view=view(
            R.RUNNING,
            stage(0, S.RUNNING, forward={D.OFFERED: 1}),
            stage(1, forward={D.FAILED: 1}),
            barrier=True,
        ),
        decision=RollBack,
        members={"failed_stages": (1,)},
    ),
    Case(
        says="a failing gate turns a soaking stage back",
        view=view(
            R.RUNNING, stage(0, S.SOAKING, gates=spoke(Verdict.FAIL), policy=GATED, **SOAKED)
        ),
        decision=RollBack,
        members={"reason_code": "gate-failed", "failed_stages": (0,)},
        reason=("gate latency fails: p99 of 80 ms",),
    ),
    Case(
        says="a failing gate of a stage that has passed turns it back",
        view=view(R.RUNNING, replace(PASSED, gates=spoke(Verdict.FAIL)), stage(1, S.RUNNING)),
        decision=RollBack,
        members={"reason_code": "gate-failed", "failed_stages": (0,)},
    ),
    Case(
        says="a failing gate turns it back also while it is paused",
        view=view(R.PAUSED, stage(0, S.SOAKING, gates=spoke(Verdict.FAIL), **SOAKED)),
        decision=RollBack,
        members={"reason_code": "gate-failed"},
    ),
    Case(
        says="a failing gate asks a person where the policy does",
        view=view(
            R.RUNNING, stage(0, S.SOAKING, gates=spoke(Verdict.FAIL), policy=PAUSES, **SOAKED)
        ),
        decision=Pause,
        members={"code": "gate-failed"},
    ),
    Case(
        says="a failing gate is never taken for trouble of the surroundings",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.FAILED: 1, D.SUCCEEDED: 3},
                infrastructure=1,
                gates=spoke(Verdict.FAIL),
                policy=StagePolicy(failures_tolerated=1),
            ),
        ),
        decision=RollBack,
        members={"reason_code": "gate-failed"},
    ),
    Case(
        says="failing evidence beats a promotion and an approval",
        view=view(
            R.RUNNING,
            stage(0, S.SOAKING, gates=spoke(Verdict.FAIL), promoted=True, approved=True, **SOAKED),
        ),
        decision=RollBack,
        members={},
    ),
    # Who has left, and who is silent
    Case(
        says="a retired site leaves its stage",
        view=view(R.RUNNING, stage(0, S.RUNNING, retired=1)),
        decision=RemoveRetired,
        members={"stage": 0},
        reason=("1 site retired",),
    ),
    Case(
        says="a retired site leaves also a rollout that is turning back",
        view=view(R.ROLLING_BACK, stage(0, S.FAILED, rollback={D.OFFERED: 1}, retired=1)),
        decision=RemoveRetired,
        members={},
    ),
    Case(
        says="a site that is too long silent is waited for without end where that is asked",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.OFFERED: 1},
                overdue=1,
                policy=StagePolicy(progress_deadline_seconds=60),
            ),
        ),
        decision=Wait,
        members={"reason_code": "deployments-unfinished"},
    ),
    *(
        Case(
            says=f"a site that is too long silent is ended: {silent}",
            view=view(
                R.RUNNING,
                stage(
                    0,
                    S.RUNNING,
                    forward={D.OFFERED: 1},
                    overdue=1,
                    overdue_notes=(note("edge-1", "silent since noon"),),
                    policy=StagePolicy(progress_deadline_seconds=60, on_silent=silent),
                ),
            ),
            decision=EndOverdue,
            members={"stage": 0, "defer": silent is OnSilent.DEFER},
            reason=("edge-1 (silent since noon)",),
        )
        for silent in (OnSilent.COUNT, OnSilent.DEFER)
    ),
    Case(
        says="a site silent too long in a stage that soaks already is ended too",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 3, D.OFFERED: 1},
                overdue=1,
                policy=StagePolicy(progress_deadline_seconds=60, on_silent=OnSilent.COUNT),
            ),
        ),
        decision=EndOverdue,
        members={},
    ),
    Case(
        says="in the trailing stage nobody silent is waited for",
        view=view(
            R.RUNNING,
            PASSED,
            stage(1, S.RUNNING, forward={D.OFFERED: 1}, overdue=1, trailing=True),
        ),
        decision=EndOverdue,
        members={"stage": 1, "defer": True},
    ),
    # Offers
    Case(
        says="a running stage offers to all at once",
        view=view(R.RUNNING, stage(0, S.RUNNING, forward={D.PENDING: 5})),
        decision=OfferSites,
        members={"stage": 0, "count": 5},
        reason=("5 sites",),
    ),
    Case(
        says="a running stage offers within its cap",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.PENDING: 5, D.STAGED: 1, D.SUCCEEDED: 2},
                policy=StagePolicy(max_concurrent=3),
            ),
        ),
        decision=OfferSites,
        members={"count": 2},
    ),
    Case(
        says="a stage whose cap is reached offers nothing",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.PENDING: 5, D.STAGED: 2, D.VERIFYING: 1},
                policy=StagePolicy(max_concurrent=3),
            ),
        ),
        decision=Wait,
        members={"reason_code": "deployments-unfinished"},
    ),
    Case(
        says="held and resting sites are not offered",
        view=view(R.RUNNING, stage(0, S.RUNNING, forward={D.PENDING: 5}, held=2, penalised=2)),
        decision=OfferSites,
        members={"count": 1},
    ),
    Case(
        says="a stage whose sites are all held says what holds them",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.PENDING: 1, D.SUCCEEDED: 1},
                held=1,
                held_notes=(note("edge-1", "frozen by ann"),),
            ),
        ),
        decision=Wait,
        members={"reason_code": "offers-held"},
        reason=("1 of 2 verified", "edge-1 (frozen by ann)"),
    ),
    Case(
        says="a stage whose sites all rest says until when",
        view=view(
            R.RUNNING,
            stage(0, S.RUNNING, forward={D.PENDING: 1}, penalised=1, penalty_until=LATER),
        ),
        decision=Wait,
        members={"reason_code": "penalty-box"},
        reason=("1 site failed and rest until 15:00:00 UTC",),
    ),
    Case(
        says="sites tried again after their stage passed are offered while a later one runs",
        view=view(
            R.RUNNING,
            stage(0, S.PASSED, forward={D.SUCCEEDED: 1, D.PENDING: 1}),
            stage(1, S.RUNNING, forward={D.OFFERED: 1}),
        ),
        decision=OfferSites,
        members={"stage": 0},
    ),
    Case(
        says="with a barrier a later stage gets its bytes while the first runs",
        view=view(
            R.RUNNING,
            stage(0, S.RUNNING, forward={D.OFFERED: 1}),
            stage(1, forward={D.PENDING: 4}),
            barrier=True,
        ),
        decision=OfferSites,
        members={"stage": 1, "count": 4},
    ),
    Case(
        says="without a barrier a later stage gets nothing while the first runs",
        view=view(
            R.RUNNING,
            stage(0, S.RUNNING, forward={D.OFFERED: 1}),
            stage(1, forward={D.PENDING: 4}),
        ),
        decision=Wait,
        members={"reason_code": "deployments-unfinished"},
    ),
    # Trying again undoes no failure
    Case(
        says="while more failed once than are tolerated nobody else is offered the version",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.PENDING: 18, D.SUCCEEDED: 2},
                penalised=2,
                penalty_until=LATER,
                retrying=2,
                policy=StagePolicy(failures_tolerated=1, retries=1, max_concurrent=4),
            ),
        ),
        decision=Wait,
        members={"reason_code": "unproven-failures"},
        reason=(
            "2 of 20 verified",
            "2 failed and not proven since, 1 tolerated; no other site begins until they are",
            "2 sites failed and rest until 15:00:00 UTC",
        ),
    ),
    Case(
        says="as many failed once as are tolerated, and the others go on",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.PENDING: 18, D.SUCCEEDED: 2},
                penalised=1,
                retrying=1,
                policy=StagePolicy(failures_tolerated=1, retries=1, max_concurrent=4),
            ),
        ),
        decision=OfferSites,
        members={"count": 4, "retries_only": False},
    ),
    Case(
        says="those that failed count together, whether they are tried again or not",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.PENDING: 18, D.SUCCEEDED: 1, D.FAILED: 1},
                penalised=1,
                retrying=1,
                policy=StagePolicy(failures_tolerated=1, retries=1),
            ),
        ),
        decision=Wait,
        members={"reason_code": "unproven-failures"},
    ),
    Case(
        says="those that failed are tried again before others begin",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.PENDING: 20},
                penalised=1,
                retrying=3,
                retries_ready=2,
                policy=StagePolicy(failures_tolerated=1, retries=1),
            ),
        ),
        decision=OfferSites,
        members={"count": 2, "retries_only": True},
        reason=("offered again to 2 sites",),
    ),
    Case(
        says="the others wait too while those that failed are under way again",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.PENDING: 17, D.STAGED: 2, D.OFFERED: 1},
                retrying=1,
                unfinished=(note("edge-1", "offered"),),
            ),
        ),
        decision=Wait,
        members={"reason_code": "unproven-failures"},
        reason=("1 failed and not proven since, 0 tolerated", "waiting for edge-1 (offered)"),
    ),
    Case(
        says="nobody else waits where all that are left failed before",
        view=view(
            R.RUNNING, stage(0, S.RUNNING, forward={D.SUCCEEDED: 1, D.OFFERED: 1}, retrying=1)
        ),
        decision=Wait,
        members={"reason_code": "deployments-unfinished"},
    ),
    Case(
        says="as many as somebody accepted may fail before the others wait",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.FAILED: 1, D.PENDING: 3},
                penalised=1,
                retrying=1,
                accepted_at=NOW,
                accepted_failures=2,
            ),
        ),
        decision=OfferSites,
        members={"count": 2, "retries_only": False},
    ),
    Case(
        says="what only a person lets go says so",
        view=view(
            R.RUNNING,
            stage(0, S.RUNNING, forward={D.PENDING: 2}, held=2, held_by_person=2),
        ),
        decision=Wait,
        members={"reason_code": "held-by-person"},
    ),
    Case(
        says="what some wait for passes by itself",
        view=view(
            R.RUNNING,
            stage(0, S.RUNNING, forward={D.PENDING: 2}, held=2, held_by_person=1),
        ),
        decision=Wait,
        members={"reason_code": "offers-held"},
    ),
    # Nothing came of it
    Case(
        says="a rollout that is verified nowhere is no success",
        view=view(
            R.RUNNING,
            stage(0, S.SKIPPED, forward={D.FAILED: 1, D.DEFERRED: 2}, accepted_failures=1),
            stage(1, S.SKIPPED, forward={D.REJECTED: 1}),
        ),
        decision=Finish,
        members={"state": R.CANCELLED},
        reason=("version 2 is verified at no site: 1 site failed and 3 sites left the plan",),
    ),
    # Enough evidence
    *(
        Case(
            says=f"a soaked stage without a verified site waits for one that is {state}, and soaks "
            "anew",
            view=view(
                R.RUNNING,
                stage(
                    0,
                    S.SOAKING,
                    forward={state: 1, D.REMOVED: 1},
                    held=held,
                    held_notes=(note("edge-2", "pinned"),) * held,
                    held_by_person=held,
                    soaked_seconds=60,
                    counted_seconds_ago=1,
                    promoted=promoted,
                    policy=StagePolicy(failures_tolerated=1, max_concurrent=1),
                ),
            ),
            decision=Wait,
            members={"reason_code": code, "soak_anew": 0},
            reason=("0 of 1 verified",),
        )
        for state, held, code in (
            (D.PENDING, 1, "held-by-person"),
            (D.OFFERED, 0, "deployments-unfinished"),
            (D.VERIFYING, 0, "deployments-unfinished"),
        )
        for promoted in (False, True)
    ),
    Case(
        says="a stage that ended with too few successes has failed",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.RUNNING,
                forward={D.SUCCEEDED: 1, D.FAILED: 1},
                policy=StagePolicy(failures_tolerated=1, successes_required=2),
            ),
        ),
        decision=RollBack,
        members={"failed_stages": (0,)},
    ),
    Case(
        says="a running stage that was accepted with no success is skipped",
        view=view(
            R.RUNNING,
            stage(0, S.RUNNING, forward={D.FAILED: 1}, accepted_at=NOW, accepted_failures=1),
            stage(1),
        ),
        decision=SkipStage,
        members={"stage": 0},
        reason=("no site verified",),
    ),
    *(
        Case(
            says=f"a canary that has lost its sites asks a person while {state}",
            view=view(R.RUNNING, stage(0, state, forward={D.REMOVED: 1}), stage(1)),
            decision=Pause,
            members={"code": "canary-empty"},
            reason=("lost all of its 1 site", "accept"),
        )
        for state in (S.PENDING, S.RUNNING, S.SOAKING)
    ),
    Case(
        says="a canary that has lost its sites is skipped once that was accepted",
        view=view(R.RUNNING, stage(0, forward={D.REMOVED: 1}, accepted_at=NOW), stage(1)),
        decision=SkipStage,
        members={"stage": 0},
    ),
    Case(
        says="a later stage that has lost its sites is skipped",
        view=view(R.RUNNING, PASSED, stage(1, forward={D.REMOVED: 1}), stage(2)),
        decision=SkipStage,
        members={"stage": 1},
        reason=("every site has left the stage",),
    ),
    Case(
        says="an only stage that has lost its sites is skipped",
        view=view(R.RUNNING, stage(0, forward={D.REMOVED: 1})),
        decision=SkipStage,
        members={},
    ),
    Case(
        says="a silent site within the tolerated ones does not stop the soak",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 10},
                counted_seconds_ago=5,
                stale=(note("edge-1"),),
            ),
        ),
        decision=CountSoak,
        members={"seconds": 5.0, "inconclusive": 0.0},
    ),
    Case(
        says="an unwell site within the tolerated failures does not stop the soak",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 4},
                counted_seconds_ago=5,
                unhealthy=(note("edge-1"),),
                policy=StagePolicy(failures_tolerated=1),
            ),
        ),
        decision=CountSoak,
        members={"seconds": 5.0},
    ),
    Case(
        says="a site that failed uses up what may be unwell",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 3, D.FAILED: 1},
                counted_seconds_ago=5,
                unhealthy=(note("edge-1"),),
                policy=StagePolicy(failures_tolerated=1),
            ),
        ),
        decision=CountSoak,
        members={"seconds": 0.0, "inconclusive": 5.0},
    ),
    Case(
        says="evidence that stays away is not waited for without end",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 1},
                counted_seconds_ago=5,
                stale=(note("edge-1"),),
                inconclusive_seconds=3595,
            ),
        ),
        decision=Pause,
        members={"code": "gate-inconclusive"},
        reason=("no fresh report: edge-1", "no good evidence for 3600 s"),
    ),
    *(
        Case(
            says=f"a soaked stage does not pass a required gate that {what}",
            view=view(R.RUNNING, stage(0, S.SOAKING, gates=gates, policy=GATED, **SOAKED)),
            decision=CountSoak,
            members={"seconds": 0.0, "inconclusive": 1.0},
            reason=("gate latency",),
        )
        for what, gates in (
            ("has not spoken", ()),
            ("is inconclusive", spoke(Verdict.INCONCLUSIVE)),
            ("could not measure", spoke(Verdict.ERROR)),
        )
    ),
    Case(
        says="a soaked stage passes a required gate that passes",
        view=view(
            R.RUNNING, stage(0, S.SOAKING, gates=spoke(Verdict.PASS), policy=GATED, **SOAKED)
        ),
        decision=PassStage,
        members={},
    ),
    Case(
        says="a promoted stage passes without its soak and its gates",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 1},
                counted_seconds_ago=1,
                stale=(note("edge-1"),),
                promoted=True,
                policy=StagePolicy(gates=("latency",)),
            ),
        ),
        decision=PassStage,
        members={"seconds": 0.0},
        reason=("promoted by a person",),
    ),
    Case(
        says="a promotion is no approval",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 1},
                counted_seconds_ago=1,
                promoted=True,
                policy=StagePolicy(approval=True),
            ),
        ),
        decision=Wait,
        members={"reason_code": "approval-pending"},
        reason=("waits for an approval",),
    ),
    Case(
        says="a promotion does not get past a site that says it is unwell",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 1},
                counted_seconds_ago=1,
                unhealthy=(note("edge-1"),),
                promoted=True,
            ),
        ),
        decision=CountSoak,
        members={"seconds": 0.0},
    ),
    Case(
        says="a soaked stage waits for its approval",
        view=view(R.RUNNING, stage(0, S.SOAKING, policy=StagePolicy(approval=True), **SOAKED)),
        decision=Wait,
        members={"reason_code": "approval-pending"},
        reason=("approve the stage",),
    ),
    Case(
        says="an approved stage passes",
        view=view(
            R.RUNNING,
            stage(0, S.SOAKING, policy=StagePolicy(approval=True), approved=True, **SOAKED),
        ),
        decision=PassStage,
        members={},
    ),
    Case(
        says="an approval is no soak",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 1},
                counted_seconds_ago=1,
                policy=StagePolicy(approval=True),
                approved=True,
            ),
        ),
        decision=CountSoak,
        members={"seconds": 1.0},
    ),
    Case(
        says="what was accepted of an early stage does not hold a later one",
        view=view(
            R.RUNNING,
            replace(
                PASSED,
                unhealthy=(note("edge-1"),),
                unhealthy_count=1,
                accepted_at=NOW,
                accepted_failures=1,
            ),
            stage(1),
        ),
        decision=StartStage,
        members={"stage": 1},
    ),
    Case(
        says="one more unwell than was accepted of an early stage holds a later one",
        view=view(
            R.RUNNING,
            replace(
                PASSED,
                unhealthy=(note("edge-1"), note("edge-2")),
                unhealthy_count=2,
                accepted_at=NOW,
                accepted_failures=1,
            ),
            stage(1),
        ),
        decision=Wait,
        members={"reason_code": "earlier-site-unhealthy"},
        reason=("edge-1, edge-2",),
    ),
    Case(
        says="silence that was accepted of an early stage does not hold a later one",
        view=view(
            R.RUNNING,
            replace(PASSED, stale=(note("edge-1"),), stale_count=1, accepted_at=NOW),
            stage(1),
        ),
        decision=StartStage,
        members={"stage": 1},
    ),
    Case(
        says="a promotion does not get past more unwell sites than somebody accepted",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 2},
                counted_seconds_ago=1,
                unhealthy=(note("edge-1"), note("edge-2")),
                promoted=True,
                accepted_at=NOW,
                accepted_failures=1,
            ),
        ),
        decision=CountSoak,
        members={"seconds": 0.0},
    ),
    Case(
        says="a promotion gets past the unwell sites that somebody accepted",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 2},
                counted_seconds_ago=1,
                unhealthy=(note("edge-1"),),
                promoted=True,
                accepted_at=NOW,
                accepted_failures=1,
            ),
        ),
        decision=PassStage,
        members={},
    ),
    # Ends
    *(
        Case(
            says=f"a rollout that left a site behind ends with exceptions: {state}",
            view=view(R.RUNNING, stage(0, S.PASSED, forward={D.SUCCEEDED: 2, state: 1})),
            decision=Finish,
            members={"state": R.SUCCEEDED_WITH_EXCEPTIONS},
            reason=("verified at 2 sites; not at 1 site",),
        )
        for state in (D.DEFERRED, D.REMOVED, D.REJECTED, D.CANCELLED)
    ),
    Case(
        says="a rollout does not end while a site is tried again",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.PASSED,
                forward={D.SUCCEEDED: 2, D.STAGED: 1},
                unfinished=(note("edge-1", "staged"),),
            ),
        ),
        decision=Wait,
        members={"reason_code": "deployments-unfinished"},
        reason=("all stages passed; waiting for edge-1 (staged)",),
    ),
    *(
        Case(
            says=f"all stages passed, it says why a site is not tried again yet: {code}",
            view=view(
                R.RUNNING,
                stage(0, S.PASSED, forward={D.SUCCEEDED: 2, D.PENDING: 1}, **why),
                stage(1, S.PASSED, forward={D.SUCCEEDED: 1}),
            ),
            decision=Wait,
            members={"reason_code": code},
            reason=("stage canary", words),
        )
        for code, why, words in (
            (
                "held-by-person",
                {"held": 1, "held_by_person": 1, "held_notes": (note("edge-1", "pinned"),)},
                "held: edge-1 (pinned)",
            ),
            (
                "offers-held",
                {"held": 1, "held_notes": (note("edge-1", "frozen"),)},
                "held: edge-1 (frozen)",
            ),
            ("penalty-box", {"penalised": 1, "penalty_until": LATER}, "until 15:00:00 UTC"),
        )
    ),
    Case(
        says="a rollout does not end while a site is on its way back",
        view=view(
            R.RUNNING,
            stage(0, S.PASSED, forward={D.SUCCEEDED: 2, D.CANCELLED: 1}, rollback={D.OFFERED: 1}),
        ),
        decision=Wait,
        members={"reason_code": "deployments-unfinished"},
    ),
    Case(
        says="a rollout ends without a site that is long silent on its way back",
        view=view(
            R.RUNNING,
            stage(
                0,
                S.PASSED,
                forward={D.SUCCEEDED: 2, D.CANCELLED: 1},
                rollback={D.OFFERED: 1},
                silent=1,
            ),
        ),
        decision=Finish,
        members={"state": R.SUCCEEDED_WITH_EXCEPTIONS},
    ),
    Case(
        says="a superseded rollout ends as such",
        view=view(R.CANCELLING, stage(0, S.CANCELLED, forward={D.CANCELLED: 1}), superseded_by=9),
        decision=Finish,
        members={"state": R.SUPERSEDED},
    ),
    *(
        Case(
            says=f"an aborted rollout calls back a site that fell back to {state}",
            view=view(
                R.CANCELLING,
                stage(0, S.CANCELLED, forward={state: 1, D.VERIFYING: 1}),
                cause="aborted by ann",
            ),
            decision=CallBack,
            members={},
            reason=("aborted by ann", "1 site had not switched"),
        )
        for state in (D.OFFERED, D.STAGING, D.STAGED, D.PROVING)
    ),
    Case(
        says="an aborted rollout does not wait for a site that is long silent",
        view=view(R.CANCELLING, stage(0, S.CANCELLED, forward={D.ACTIVATING: 1}, silent=1)),
        decision=Finish,
        members={"state": R.CANCELLED},
        reason=("not waited for 1 site long silent",),
    ),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.says) for case in CASES])
def test_decision(case: Case) -> None:
    decision = decide(case.view, NOW)

    assert type(decision) is case.decision
    assert {name: getattr(decision, name) for name in case.members} == case.members
    for words in case.reason:
        assert words in decision.reason


@pytest.mark.parametrize("state", sorted(FINAL_ROLLOUT))
def test_a_final_rollout_stays_as_it_is_whatever_its_stages_say(state: R) -> None:
    late = view(state, stage(0, S.PASSED, forward={D.FAILED: 1}), stage(1), cause="it is over")

    assert decide(late, NOW) == Wait(reason_code="final", reason="it is over")


@pytest.mark.parametrize("state", sorted(set(R) - FINAL_ROLLOUT))
def test_every_active_state_gives_a_reason_for_a_person(state: R) -> None:
    decision = decide(view(state, stage(), cause="because"), NOW)

    assert decision.reason.strip()


def test_the_same_view_at_the_same_time_gives_the_same_decision() -> None:
    for case in CASES:
        assert decide(case.view, NOW) == decide(case.view, NOW)


def test_soak_needs_as_many_turns_as_the_freshness_limit_allows() -> None:
    """However seldom the engine turns, an hour of soak is at least an hour of evidence."""
    soaked, turns = 0.0, 0
    while True:
        now_view = view(
            R.RUNNING,
            stage(
                0,
                S.SOAKING,
                forward={D.SUCCEEDED: 1},
                soak_seconds=3600,
                soaked_seconds=soaked,
                counted_seconds_ago=timedelta(days=1).total_seconds(),
            ),
        )
        turns += 1
        decision = decide(now_view, NOW)
        assert isinstance(decision, CountSoak | PassStage)
        soaked += decision.seconds
        if isinstance(decision, PassStage):
            break

    assert turns == 3600 / FRESH_WITHIN.total_seconds()


def test_infrastructure_codes_are_never_those_of_a_failed_proof() -> None:
    assert "golden-mismatch" not in INFRASTRUCTURE_CODES
