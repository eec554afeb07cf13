"""The second gate: each rule that can say no, their order, and what frees a slot."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controlplane.domain.admission import (
    BEGIN_WITHIN_SECONDS,
    Granted,
    Instant,
    LeaseFacts,
    Refused,
    admit,
    slot_is_free,
)
from controlplane.domain.rollout import RolloutState, StageState
from tests.unit.views import NOW

WELL = LeaseFacts(
    rollout_state=RolloutState.RUNNING,
    cause="",
    stage="canary",
    stage_state=StageState.RUNNING,
    stage_sites=8,
    unavailable=1,
    max_unavailable=2,
)
# In the order in which they are told: what stops everything comes first.
AGAINST: list[tuple[str, dict[str, Any], str]] = [
    ("version-withdrawn", {"withdrawn": "it leaks"}, "quarantined: it leaks"),
    (
        "rollout-not-running",
        {"rollout_state": RolloutState.PAUSED, "cause": "paused by ann"},
        "paused by ann; activates when it runs again",
    ),
    (
        "stage-not-started",
        {"stage_state": StageState.PENDING},
        "the files are ready; stage canary has not started",
    ),
    (
        "gate-failed",
        {"gate_fails": "stage canary: gate latency fails: p99 of 80 ms"},
        "stage canary: gate latency fails: p99 of 80 ms; nothing begins until somebody decides "
        "about that",
    ),
    (
        "earlier-stage-unwell",
        {"earlier_unwell": "in stage first, edge-1 (no answer)"},
        "stage canary waits: in stage first, edge-1 (no answer); it goes on when they are healthy, "
        "or when somebody decides about that",
    ),
    ("frozen", {"frozen": "frozen by ann: sale"}, "frozen by ann: sale"),
    (
        "window-closed",
        {"closed": True, "opens_at": NOW + timedelta(hours=2)},
        "the activation window is closed until 2026-11-23 14:00 UTC",
    ),
    (
        "unproven-failures",
        {"untried": True, "unproven": 3, "failures_tolerated": 2},
        "in stage canary 3 failed and are not proven since, 2 tolerated; no other site begins "
        "until they are",
    ),
    ("site-busy", {"busy_with": "ocr"}, "ocr is being activated here; one at a time"),
    (
        "max-unavailable",
        {"unavailable": 2, "unavailable_names": ("a", "b")},
        "at most 2 of 8 may be unavailable in stage canary, 2 are: a, b",
    ),
    (
        "redundancy-group",
        {"peer_unavailable": "twin"},
        "twin of the same redundancy group is not well or is changing; one member at a time",
    ),
    (
        "budget-spent",
        {"changing": 5, "changing_limit": 5},
        "5 sites changed within an hour, the fleet's budget is 5; goes on as the hour moves",
    ),
]


def test_nothing_against_it_is_a_yes() -> None:
    assert admit(WELL) == Granted()


@pytest.mark.parametrize(("code", "facts", "reason"), AGAINST, ids=[code for code, _, _ in AGAINST])
def test_each_rule_alone_says_no_and_why(code: str, facts: dict[str, Any], reason: str) -> None:
    assert admit(replace(WELL, **facts)) == Refused(code=code, reason=reason)


@pytest.mark.parametrize("first", range(len(AGAINST)))
def test_of_several_the_first_in_this_order_is_told(first: int) -> None:
    everything: dict[str, Any] = {}
    for _, facts, _ in AGAINST[first:]:
        everything |= facts
    answer = admit(replace(WELL, **everything))
    assert isinstance(answer, Refused)
    assert answer.code == AGAINST[first][0]


@pytest.mark.parametrize("state", sorted(set(RolloutState) - {RolloutState.RUNNING}))
def test_only_a_running_rollout_activates(state: RolloutState) -> None:
    answer = admit(replace(WELL, rollout_state=state))
    assert isinstance(answer, Refused)
    assert "_" not in answer.reason


@pytest.mark.parametrize("state", StageState)
def test_only_a_stage_that_has_started_activates(state: StageState) -> None:
    started = state in (StageState.RUNNING, StageState.SOAKING, StageState.PASSED)
    assert isinstance(admit(replace(WELL, stage_state=state)), Granted) is started


@pytest.mark.parametrize(
    ("unavailable", "most", "granted"), [(0, 1, True), (1, 1, False), (1, 2, True), (3, 2, False)]
)
def test_the_asking_site_is_the_one_more(unavailable: int, most: int, granted: bool) -> None:
    answer = admit(replace(WELL, unavailable=unavailable, max_unavailable=most))
    assert isinstance(answer, Granted) is granted


@pytest.mark.parametrize(
    ("changing", "limit", "granted"), [(0, 1, True), (1, 1, False), (99, None, True)]
)
def test_the_budget(changing: int, limit: int | None, granted: bool) -> None:
    answer = admit(replace(WELL, changing=changing, changing_limit=limit))
    assert isinstance(answer, Granted) is granted


@pytest.mark.parametrize(
    ("facts", "granted"),
    [
        ({"untried": True, "unproven": 2, "failures_tolerated": 2}, True),
        ({"untried": True, "unproven": 1, "failures_tolerated": 0}, False),
        ({"untried": False, "unproven": 9, "failures_tolerated": 0}, True),  # itself tried again
        # Who waits has every place that those need for whom it waits.
        ({"untried": True, "unproven": 3, "retries_blocked": True}, True),
    ],
)
def test_no_site_begins_before_those_that_failed_are_proven(
    facts: dict[str, Any], granted: bool
) -> None:
    assert isinstance(admit(replace(WELL, **facts)), Granted) is granted


class TestASlot:
    ASKED = Instant(boot="b1", uptime=1000.0)
    LAST = 1000.0 + BEGIN_WITHIN_SECONDS

    @pytest.mark.parametrize(
        ("said", "free"),
        [
            (Instant(boot="b1", uptime=LAST), False),
            (Instant(boot="b1", uptime=LAST + 0.001), True),
            (Instant(boot="b1", uptime=1000.0), False),
            # Made before the question, and long under way: it cannot know of the lease.
            (Instant(boot="b1", uptime=999.0), False),
            (Instant(boot="b2", uptime=3.0), True),
        ],
    )
    def test_is_free_only_by_what_was_said_after_the_lease_could_begin(
        self, said: Instant, free: bool
    ) -> None:
        assert slot_is_free(asked=self.ASKED, said=said, begun=False, holds=False) is free

    @pytest.mark.parametrize(("begun", "holds"), [(True, False), (False, True), (True, True)])
    @pytest.mark.parametrize("boot", ["b1", "b2"])
    def test_is_never_free_while_it_is_used_or_held(
        self, begun: bool, holds: bool, boot: str
    ) -> None:
        said = Instant(boot=boot, uptime=9_999.0)
        assert not slot_is_free(asked=self.ASKED, said=said, begun=begun, holds=holds)
