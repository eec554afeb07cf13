"""The life of a version, by its rules alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.catalog.models import VersionState
from controlplane.domain.version_states import (
    APPROVABLE,
    PENDING,
    SOUND,
    TRANSITIONS,
    Rule,
    State,
    after_withdrawal,
    approval_rule,
    next_state,
    standing,
)

ONE, TWO = Rule(needed=1, by_others=False), Rule(needed=2, by_others=True)
PEOPLE = st.lists(st.sampled_from(["ana", "bo", "cem", "dia"]), max_size=6)


def test_the_rows_know_the_same_states() -> None:
    assert {state.value for state in State} == set(VersionState.values)
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize(
    ("content_class", "signed", "asked", "needed", "by_others"),
    [
        ("data", False, 0, 0, False),
        ("data", False, 1, 1, False),
        ("data", False, 2, 2, True),
        ("data", True, 3, 3, True),
        ("opaque", True, 0, 0, False),
        ("opaque", True, 1, 1, False),
        ("opaque", False, 0, 2, True),
        ("executable", False, 0, 2, True),
        ("executable", True, 1, 2, True),
        ("executable", True, 5, 5, True),
        ("", True, 0, 2, True),
        ("what else", True, 1, 2, True),
    ],
)
def test_how_many_people_a_version_needs(
    content_class: str, signed: bool, asked: int, needed: int, by_others: bool
) -> None:
    rule = approval_rule(content_class, signed=signed, approvals_needed=asked)
    assert rule == Rule(needed=needed, by_others=by_others)


@pytest.mark.parametrize(
    ("rule", "people", "author", "missing", "says"),
    [
        (ONE, [], "ana", 1, "needs 1 approval; has none"),
        (ONE, ["ana"], "ana", 0, "needs 1 approval; has 1 (ana)"),
        (TWO, ["bo"], "ana", 1, "needs 2 approvals by others than ana; has 1 (bo)"),
        (TWO, ["ana", "bo"], "ana", 1, "needs 2 approvals by others than ana; has 1 (bo)"),
        (TWO, ["bo", "bo"], "ana", 1, "needs 2 approvals by others than ana; has 1 (bo)"),
        (TWO, ["bo", "cem"], "", 0, "needs 2 approvals; has 2 (bo, cem)"),
        (TWO, ["", "bo"], "", 0, "needs 2 approvals; has 2 (, bo)"),
        (Rule(needed=0, by_others=False), [], "ana", 0, "the model's policy asks for no approval"),
    ],
)
def test_whose_yes_counts(
    rule: Rule, people: list[str], author: str, missing: int, says: str
) -> None:
    found = standing(rule, people, author=author)
    assert (found.missing, found.met, found.sentence) == (missing, missing == 0, says)


def test_the_authors_own_yes_is_named_where_it_is_passed_over() -> None:
    assert standing(TWO, ["bo", "ana"], author="ana").passed_over == ("ana",)
    assert standing(ONE, ["bo", "ana"], author="ana").passed_over == ()


@given(people=PEOPLE, needed=st.integers(0, 4), by_others=st.booleans())
def test_nobody_counts_twice_and_one_more_yes_never_takes_one_away(
    people: list[str], needed: int, by_others: bool
) -> None:
    rule = Rule(needed=needed, by_others=by_others)
    found = standing(rule, people, author="ana")
    assert len(set(found.counted)) == len(found.counted)
    assert set(found.counted) | set(found.passed_over) == set(people)
    assert not (by_others and "ana" in found.counted)
    assert standing(rule, [*people, "eve"], author="ana").missing <= found.missing


@given(state=st.sampled_from(State), met=st.booleans(), people=PEOPLE, needed=st.integers(0, 3))
def test_the_catalogue_moves_only_what_waits_and_only_where_a_rule_leads(
    state: State, met: bool, people: list[str], needed: int
) -> None:
    who = standing(Rule(needed=needed, by_others=True), people, author="ana")
    to = next_state(state, signature_met=met, people=who)
    if state not in PENDING:
        assert to is state
    elif not met:
        assert to is State.REGISTERED
    else:
        assert to is (State.APPROVED if who.met else State.VALIDATED)
    # From registered to approved it goes by validated.
    steps = TRANSITIONS[state] | TRANSITIONS[State.VALIDATED]
    assert to is state or to in (steps if state in PENDING else ())


@pytest.mark.parametrize("state", sorted(APPROVABLE))
def test_a_yes_too_few_is_not_approved_any_more(state: State) -> None:
    few, enough = standing(TWO, ["bo"], author=""), standing(TWO, ["bo", "cem"], author="")
    assert after_withdrawal(state, enough) is state
    assert after_withdrawal(state, few) is (State.VALIDATED if state is State.APPROVED else state)


def test_nothing_leads_to_approved_but_what_was_validated_or_led_back() -> None:
    before = {state for state, follow in TRANSITIONS.items() if State.APPROVED in follow}
    assert before == {State.VALIDATED, State.QUARANTINED, State.RETIRED}
    assert State.UPLOADING not in {to for follow in TRANSITIONS.values() for to in follow}
    assert {*APPROVABLE, State.RETIRED} == SOUND
