"""How a version takes over, as a table: beside the one before it or in its place, on probation or
not, and what is refused before anything moves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from test_decide import (
    FAILED_TWO,
    ONE,
    PASSED_ONE,
    PASSED_TWO,
    PROVED_TWO,
    READY_ONE,
    READY_TWO,
    SERVES_ONE,
    SERVES_TWO,
    TWO,
    Seen,
    lease,
    leased,
    wish,
)
from waypost_agent import decide as d
from waypost_agent import situation as sit
from waypost_agent.probation import Probation

BOTH = (ONE, TWO)
REPLACE = replace(wish(TWO), switch=sit.REPLACE)
LEASED = replace(leased(TWO), switch=sit.REPLACE)
HELD = lease(TWO)


def room(target: sit.Target = TWO, count: int = 1, generation: int = 5) -> sit.Room:
    return sit.Room(
        epoch=1, generation=generation, target=target, count=count, boot_id="b", since=1.0
    )


ROTTEN_ONE = {"1": "model.py does not have the bytes of its manifest"}
MADE = replace(SERVES_ONE, room=room())
MADE_AND_PROVEN = replace(PROVED_TWO, room=room())

ROOM_TABLE = [
    ("not on disk yet", REPLACE, SERVES_ONE, Seen(READY_ONE, (ONE,)), d.Fetch),
    ("unproven, one serves", REPLACE, SERVES_ONE, Seen(READY_ONE, BOTH), d.MakeRoom),
    ("unproven, room made", REPLACE, MADE, Seen({}, BOTH), d.Prove),
    ("unproven, another wish's room", REPLACE, replace(SERVES_ONE, room=room(generation=4)),
     Seen({}, BOTH), d.Switch),
    ("unproven, room made, put back by hand", REPLACE, MADE, Seen(READY_ONE, BOTH), d.MakeRoom),
    ("unproven, room made too often", REPLACE, replace(SERVES_ONE, room=room(count=5)),
     Seen(READY_ONE, BOTH), d.GiveUp),
    ("proven, one serves", REPLACE, PROVED_TWO, Seen(READY_ONE, BOTH), d.MakeRoom),
    ("proven, room made", REPLACE, MADE_AND_PROVEN, Seen({}, BOTH), d.Switch),
    ("both loaded", REPLACE, PROVED_TWO, Seen({**READY_ONE, **READY_TWO}, BOTH), d.Switch),
    ("first version", REPLACE, sit.Record(), Seen({}, BOTH), d.Prove),
    ("failed, nothing serves", REPLACE, replace(FAILED_TWO, room=room()), Seen({}, BOTH), d.Switch),
    ("failed while serving", REPLACE, FAILED_TWO, Seen(READY_TWO, BOTH), d.MakeRoom),
    ("going back", replace(wish(ONE), switch=sit.REPLACE), SERVES_TWO, Seen(READY_TWO, BOTH),
     d.MakeRoom),
    ("leased, unheard", LEASED, SERVES_ONE, Seen(READY_ONE, BOTH), d.Verify),
    ("leased, no lease", LEASED, SERVES_ONE, Seen(READY_ONE, BOTH, verdict=PASSED_ONE), d.AskLease),
    ("leased, held", LEASED, SERVES_ONE, Seen(READY_ONE, BOTH, lease=HELD), d.MakeRoom),
    ("leased, room made, held", LEASED, MADE, Seen({}, BOTH, lease=HELD), d.Prove),
    ("leased, room made, lost", LEASED, MADE, Seen({}, BOTH), d.Switch),
    ("leased, proven, lost", LEASED, MADE_AND_PROVEN, Seen({}, BOTH), d.Switch),
    ("leased, failed while serving", LEASED, FAILED_TWO, Seen(READY_TWO, BOTH), d.MakeRoom),
    ("surge", wish(TWO), SERVES_ONE, Seen(READY_ONE, BOTH), d.Prove),
    ("room made, its files went bad", REPLACE, MADE, Seen({}, (ONE,)), d.Switch),
    ("room made and leased, its files went bad", LEASED, MADE, Seen({}, (ONE,), lease=HELD),
     d.Switch),
    ("the old one is not on disk", REPLACE, SERVES_ONE,
     Seen(READY_ONE, (TWO,), recorded=frozenset({"1", "2"})), d.Fetch),
    ("the old one rotted", REPLACE, SERVES_ONE, Seen(READY_ONE, BOTH, damaged=ROTTEN_ONE,
     unmended=frozenset({"1"})), d.Fetch),
    ("the old one rotted, a sound copy lies beside", REPLACE, SERVES_ONE,
     Seen(READY_ONE, BOTH, damaged=ROTTEN_ONE), d.MakeRoom),
    ("the old one is lost without a trace", REPLACE, SERVES_ONE, Seen(READY_ONE, (TWO,)),
     d.GiveUp),
    ("a stranger serves", REPLACE, sit.Record(), Seen({"9": "READY"}, (TWO,)), d.GiveUp),
    ("failed while serving, a candidate's folder stays", REPLACE, FAILED_TWO,
     Seen(READY_TWO, BOTH, candidate_on_disk=True), d.MakeRoom),
    ("failed, nothing serves, a candidate's folder stays", REPLACE, replace(FAILED_TWO,
     room=room()), Seen({}, BOTH, candidate_on_disk=True), d.Switch),
    ("failed, nothing serves, a candidate is loaded", REPLACE, replace(FAILED_TWO, room=room()),
     Seen({}, BOTH, candidate=READY_TWO, candidate_on_disk=True), d.UnloadCandidate),
    ("unproven, a candidate's folder stays", REPLACE, SERVES_ONE,
     Seen(READY_ONE, BOTH, candidate_on_disk=True), d.UnloadCandidate),
    ("failed, it does not unload", REPLACE, replace(FAILED_TWO, room=room(ONE)),
     Seen({"2": "UNLOADING"}, BOTH), d.Switch),
    ("failed, it does not unload, the old one loads", REPLACE,
     replace(FAILED_TWO, room=room(ONE)), Seen({"1": "LOADING", "2": "UNLOADING"}, BOTH), d.Wait),
    ("the old one does not unload", REPLACE, MADE, Seen({"1": "UNLOADING"}, BOTH), d.Wait),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wished", "record", "seen", "expected"),
    [case[1:] for case in ROOM_TABLE],
    ids=[case[0] for case in ROOM_TABLE],
)
def test_where_two_do_not_fit_the_next_step_is(
    wished: sit.Wish, record: sit.Record, seen: Seen, expected: type[d.Action]
) -> None:
    action = d.decide(wished, record, seen.observed())
    assert type(action) is expected
    assert action.reason


def test_without_its_lease_only_the_committed_version_comes_back() -> None:
    for record in (MADE, MADE_AND_PROVEN):
        action = d.decide(LEASED, record, Seen({}, BOTH).observed())
        assert isinstance(action, d.Switch)
        assert (action.target, action.restoring) == (ONE, True)


@pytest.mark.parametrize(
    ("beside", "expected"), [(True, d.Prove), (None, d.Prove), (False, d.MakeRoom)]
)
def test_auto_replaces_only_where_the_numbers_say_that_two_do_not_fit(
    beside: bool | None, expected: type[d.Action]
) -> None:
    seen = replace(Seen(READY_ONE, BOTH).observed(), fit=sit.Fit(beside=beside))
    assert type(d.decide(replace(wish(TWO), switch=sit.AUTO), SERVES_ONE, seen)) is expected


def test_auto_keeps_to_its_choice_once_there_is_room() -> None:
    """With the old one unloaded memory looks ample; the way back must not load both."""
    record = replace(FAILED_TWO, room=room())
    seen = replace(Seen(READY_TWO, BOTH).observed(), fit=sit.Fit(beside=True))
    action = d.decide(replace(wish(TWO), switch=sit.AUTO), record, seen)
    assert isinstance(action, d.MakeRoom)
    assert action.target == ONE


TRIED = replace(wish(TWO), probation=Probation(seconds=60))
UNDER_WAY = sit.Watch(sentence="so far so good")
BREACHED = sit.Watch(sentence="bad", breach="9 of 10 requests failed")
OVER = sit.Watch(sentence="it went well", is_over=True)
LATE = sit.Watch(sentence="bad", breach="9 of 10 requests failed", is_over=True)

WATCH_TABLE = [
    ("not replayed yet", None, None, d.Verify),
    ("replayed, no trial on record", PASSED_TWO, None, d.Verify),
    ("under way", PASSED_TWO, UNDER_WAY, d.Wait),
    ("under way, this agent is new", None, UNDER_WAY, d.Verify),
    ("breached", PASSED_TWO, BREACHED, d.GiveUp),
    ("breached at the end", PASSED_TWO, LATE, d.GiveUp),
    ("over", PASSED_TWO, OVER, d.Verify),
]


@pytest.mark.parametrize(
    ("verdict", "watch", "expected"),
    [case[1:] for case in WATCH_TABLE],
    ids=[case[0] for case in WATCH_TABLE],
)
def test_on_probation_the_next_step_is(
    verdict: sit.Verdict | None, watch: sit.Watch | None, expected: type[d.Action]
) -> None:
    seen = replace(Seen(READY_TWO, BOTH, verdict=verdict).observed(), watch=watch)
    action = d.decide(TRIED, PROVED_TWO, seen)
    assert type(action) is expected
    if isinstance(action, d.Verify):
        assert action.commits is (watch == OVER)
    if isinstance(action, d.GiveUp):
        assert action.reason_code == "probation-failed"
        assert "9 of 10" in action.reason


def test_a_version_that_served_before_its_probation_was_wished_is_not_put_on_trial() -> None:
    seen = Seen(READY_TWO, BOTH, verdict=PASSED_TWO).observed()
    assert isinstance(d.decide(TRIED, SERVES_TWO, seen), d.Settled)


REFUSED = sit.Fit(reason_code="triton-too-old", reason="it is 2.51.0, 2.60.0 is required")


@pytest.mark.parametrize("disk", [(ONE,), BOTH], ids=["before any byte", "before any load"])
def test_a_version_that_this_machine_cannot_bear_is_refused(disk: tuple[sit.Target, ...]) -> None:
    seen = replace(Seen(READY_ONE, disk).observed(), fit=REFUSED)
    action = d.decide(leased(TWO), SERVES_ONE, seen)
    assert isinstance(action, d.GiveUp)
    assert (action.reason_code, action.reason) == (REFUSED.reason_code, REFUSED.reason)


def test_what_was_proven_here_is_not_refused_by_a_sentence_about_memory() -> None:
    seen = replace(Seen(READY_ONE, BOTH).observed(), fit=REFUSED)
    assert isinstance(d.decide(wish(TWO), PROVED_TWO, seen), d.Switch)


def test_users_come_before_a_refusal() -> None:
    seen = replace(Seen({}, (ONE,)).observed(), fit=REFUSED)
    action = d.decide(wish(TWO), SERVES_ONE, seen)
    assert isinstance(action, d.Switch)
    assert action.target == ONE
