"""The tables of legal steps, as graphs: closed, reachable, and without a way out of an end."""

from collections.abc import Mapping

import pytest

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    ACTIVE_ROLLOUT,
    BEFORE_SWITCH,
    FINAL_DEPLOYMENT,
    FINAL_ROLLOUT,
    ROLLOUT_TRANSITIONS,
    STAGE_TRANSITIONS,
    VERBS,
    allowed_verbs,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S

TABLES = [
    pytest.param(ROLLOUT_TRANSITIONS, R, R.PLANNED, id="rollouts"),
    pytest.param(STAGE_TRANSITIONS, S, S.PENDING, id="stages"),
]
LEADS_TO = {
    "pause": R.PAUSED,
    "resume": R.RUNNING,
    "abort": R.CANCELLING,
    "rollback": R.ROLLING_BACK,
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
    assert {R.CANCELLED, R.ROLLED_BACK, R.ROLLBACK_INCOMPLETE, R.SUCCEEDED} == FINAL_ROLLOUT
    assert not any(ROLLOUT_TRANSITIONS[state] for state in FINAL_ROLLOUT)
    assert set(R) == ACTIVE_ROLLOUT | FINAL_ROLLOUT


def test_deployments_are_pending_active_or_final_and_never_two_of_them() -> None:
    kinds = [frozenset({D.PENDING}), ACTIVE_DEPLOYMENT, FINAL_DEPLOYMENT]

    assert sorted(state for kind in kinds for state in kind) == sorted(D)
    assert BEFORE_SWITCH < ACTIVE_DEPLOYMENT
    assert not BEFORE_SWITCH & {D.ACTIVATING, D.VERIFYING}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_allowed_only_where_the_table_has_its_step(verb: str) -> None:
    assert all(LEADS_TO[verb] in ROLLOUT_TRANSITIONS[state] for state in VERBS[verb])


@pytest.mark.parametrize(
    ("state", "verbs"),
    [
        (R.PLANNED, ["abort"]),
        (R.RUNNING, ["pause", "abort", "rollback"]),
        (R.PAUSED, ["resume", "abort", "rollback"]),
        (R.CANCELLING, ["rollback"]),
        *((state, []) for state in sorted(FINAL_ROLLOUT)),
    ],
)
def test_allowed_verbs_of(state: R, verbs: list[str]) -> None:
    assert allowed_verbs(state) == verbs
