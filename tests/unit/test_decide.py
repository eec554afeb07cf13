"""Every state of a rollout, and what `decide` makes of it: one row each."""

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from controlplane.domain.rollout import (
    FINAL_ROLLOUT,
    Begin,
    BeginSoak,
    CountSoak,
    Decision,
    Finish,
    PassStage,
    RollBack,
    RolloutView,
    SkipStage,
    StartStage,
    Wait,
    decide,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from tests.unit.views import FRESH_WITHIN, NOW, note, stage, view


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
