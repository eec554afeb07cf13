"""The tables of legal steps, as graphs: closed, reachable, and without a way out of an end."""

from collections.abc import Mapping

import pytest

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    ACTIVE_ROLLOUT,
    BEFORE_SWITCH,
    BEGUN,
    FINAL_DEPLOYMENT,
    FINAL_ROLLOUT,
    GOOD_END,
    OPEN_STAGE,
    OUT_OF_STAGE,
    ROLLOUT_TRANSITIONS,
    STAGE_FAILURES,
    STAGE_TRANSITIONS,
    STARTED_STAGE,
    VERBS,
    WaitsFor,
    allowed_verbs,
    waits_for,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S

TABLES = [
    pytest.param(ROLLOUT_TRANSITIONS, R, R.QUEUED, id="rollouts"),
    pytest.param(STAGE_TRANSITIONS, S, S.PENDING, id="stages"),
]
# Verbs that move the rollout itself. The others change what the engine sees.
LEADS_TO = {
    "pause": {R.PAUSED},
    "resume": {R.RUNNING},
    "abort": {R.CANCELLING, R.CANCELLED},  # one that only queues is over at once
    "rollback": {R.ROLLING_BACK},
}


@pytest.mark.parametrize(("table", "states", "first"), TABLES)
def test_the_table_names_every_state_and_no_other(
    table: Mapping[R | S, frozenset[R | S]], states: type[R] | type[S], first: R | S
) -> None:
    assert set(table) == set(states)
    assert {after for afters in table.values() for after in afters} <= set(states)


@pytest.mark.parametrize(("table", "states", "first"), TABLES)
def test_every_state_can_be_reached_and_no_state_leads_to_itself(
    table: Mapping[R | S, frozenset[R | S]], states: type[R] | type[S], first: R | S
) -> None:
    reached, frontier = {first}, [first]
    while frontier:
        for after in table[frontier.pop()] - reached:
            reached.add(after)
            frontier.append(after)

    assert reached == set(states)
    assert not [state for state, afters in table.items() if state in afters]


def test_every_active_rollout_can_reach_an_end() -> None:
    ending = set(FINAL_ROLLOUT)
    for _ in R:
        ending |= {state for state, afters in ROLLOUT_TRANSITIONS.items() if afters & ending}

    assert ending == set(R)


def test_final_rollouts_have_no_exits_and_are_these() -> None:
    assert {
        R.CANCELLED,
        R.ROLLED_BACK,
        R.ROLLBACK_INCOMPLETE,
        R.SUPERSEDED,
        R.SUCCEEDED,
        R.SUCCEEDED_WITH_EXCEPTIONS,
    } == FINAL_ROLLOUT
    assert not any(ROLLOUT_TRANSITIONS[state] for state in FINAL_ROLLOUT)
    assert set(R) == ACTIVE_ROLLOUT | FINAL_ROLLOUT | {R.QUEUED}
    assert GOOD_END < FINAL_ROLLOUT


def test_one_that_queues_is_not_active_and_does_not_run_without_being_planned() -> None:
    assert R.QUEUED not in ACTIVE_ROLLOUT
    assert ROLLOUT_TRANSITIONS[R.QUEUED] == {R.PLANNED, R.CANCELLED}


def test_nothing_turns_from_a_rollback_to_going_on() -> None:
    assert ROLLOUT_TRANSITIONS[R.ROLLING_BACK] == {R.ROLLED_BACK, R.ROLLBACK_INCOMPLETE}


def test_a_stage_that_has_passed_can_only_fail() -> None:
    assert STAGE_TRANSITIONS[S.PASSED] == {S.FAILED}
    assert not any(STAGE_TRANSITIONS[state] for state in (S.FAILED, S.SKIPPED, S.CANCELLED))


def test_stages_are_open_or_over() -> None:
    assert {S.PENDING, S.RUNNING, S.SOAKING} == OPEN_STAGE
    assert {S.RUNNING, S.SOAKING, S.PASSED} == STARTED_STAGE
    assert all(S.CANCELLED in STAGE_TRANSITIONS[state] for state in OPEN_STAGE)
    assert all(S.FAILED in STAGE_TRANSITIONS[state] for state in OPEN_STAGE), "with a barrier"


def test_deployments_are_pending_active_or_final_and_never_two_of_them() -> None:
    kinds = [frozenset({D.PENDING}), ACTIVE_DEPLOYMENT, FINAL_DEPLOYMENT]

    assert sorted(state for kind in kinds for state in kind) == sorted(D)
    assert BEFORE_SWITCH < ACTIVE_DEPLOYMENT
    assert not BEFORE_SWITCH & {D.ACTIVATING, D.VERIFYING}
    assert BEGUN < ACTIVE_DEPLOYMENT
    assert {D.OFFERED, D.STAGING, D.STAGED} == ACTIVE_DEPLOYMENT - BEGUN


def test_who_has_left_a_stage_is_neither_its_success_nor_its_failure() -> None:
    assert not OUT_OF_STAGE & (STAGE_FAILURES | {D.SUCCEEDED} | ACTIVE_DEPLOYMENT | {D.PENDING})
    assert {D.FAILED, D.TIMED_OUT} == STAGE_FAILURES
    assert OUT_OF_STAGE < FINAL_DEPLOYMENT


@pytest.mark.parametrize("verb", LEADS_TO)
def test_a_verb_is_allowed_only_where_the_table_has_its_step(verb: str) -> None:
    for state in VERBS[verb]:
        assert LEADS_TO[verb] & ROLLOUT_TRANSITIONS[state], state


@pytest.mark.parametrize(
    ("state", "verbs"),
    [
        (R.QUEUED, ["approve", "abort"]),
        (R.PLANNED, ["approve", "abort"]),
        (R.RUNNING, ["approve", "pause", "promote", "retry-failed", "abort", "rollback"]),
        (R.PAUSED, ["approve", "resume", "retry-failed", "abort", "rollback"]),
        (R.CANCELLING, ["rollback", "stop-waiting"]),
        (R.ROLLING_BACK, ["stop-waiting"]),
        *((state, []) for state in sorted(FINAL_ROLLOUT)),
    ],
)
def test_allowed_verbs_of(state: R, verbs: list[str]) -> None:
    assert allowed_verbs(state) == verbs


@pytest.mark.parametrize(
    ("state", "code", "who"),
    [
        (R.PAUSED, "anything", WaitsFor.PERSON),
        (R.PLANNED, "approval-pending", WaitsFor.PERSON),
        (R.PLANNED, "version-withdrawn", WaitsFor.PERSON),
        (R.PLANNED, "scheduled", WaitsFor.TIME),
        (R.RUNNING, "soaking", WaitsFor.TIME),
        (R.RUNNING, "penalty-box", WaitsFor.TIME),
        (R.RUNNING, "offers-held", WaitsFor.TIME),
        (R.RUNNING, "held-by-person", WaitsFor.PERSON),
        (R.RUNNING, "unproven-failures", WaitsFor.SITES),
        (R.RUNNING, "deployments-unfinished", WaitsFor.SITES),
        (R.RUNNING, "earlier-site-stale", WaitsFor.SITES),
        (R.ROLLING_BACK, "rollback-unfinished", WaitsFor.SITES),
        (R.CANCELLING, "switching", WaitsFor.SITES),
        (R.RUNNING, "started", WaitsFor.ENGINE),
        *((state, "deployments-unfinished", WaitsFor.NOTHING) for state in sorted(FINAL_ROLLOUT)),
    ],
)
def test_who_can_end_a_wait(state: R, code: str, who: WaitsFor) -> None:
    assert waits_for(state, code) is who
