"""A dry run names the next step of each model in words, whatever it is."""

from __future__ import annotations

from typing import Any

import pytest

from waypost_agent import decide as d
from waypost_agent.phases import Plan
from waypost_agent.plan_view import plan_document, plan_lines
from waypost_agent.protocol import ModelWish
from waypost_agent.situation import Observed, Record, Target, Wish

TWO = Target(version="2", digest="sha256:2")


def planned(action: d.Action, *, live: bool = True) -> Plan:
    seen = Observed(
        triton_live=live,
        states={"1": "READY"},
        candidate_states={},
        candidate_on_disk=False,
        installed={},
        recorded=frozenset(),
    )
    entry = ModelWish(
        model="vad", generation=7, deployment=None, version="2", previous="1", manifest=None
    )
    wish = Wish(model="vad", epoch=1, generation=7, target=TWO)
    return Plan(entry=entry, wish=wish, record=Record(), seen=seen, action=action, spoken=True)


def action(kind: type[d.Action], **fields: Any) -> d.Action:
    return kind(model="vad", reason="it is so", **fields)


CASES: list[tuple[d.Action, str, str | None]] = [
    (action(d.Wait, reason_code="working"), "wait", None),
    (action(d.Fetch, target=TWO), "fetch version 2", "2"),
    (action(d.AskLease, target=TWO), "ask for a lease for version 2", "2"),
    (action(d.Prove, target=TWO), "prove version 2", "2"),
    (action(d.Switch, target=TWO, restoring=False), "switch version 2", "2"),
    (action(d.Switch, target=TWO, restoring=True), "switch back to version 2", "2"),
    (action(d.Verify, target=TWO), "verify version 2", "2"),
    (action(d.Unload), "unload", None),
    (action(d.Settled, succeeded=True, reason_code="ok"), "nothing, as wished", None),
    (
        action(d.Settled, succeeded=False, reason_code="rolled-back-locally"),
        "nothing, rolled-back-locally",
        None,
    ),
]


@pytest.mark.parametrize(("step", "words", "version"), CASES)
def test_each_step_has_its_words(step: d.Action, words: str, version: str | None) -> None:
    head, line, why = plan_lines([planned(step)])
    assert head.split() == ["MODEL", "WISHED", "SERVING", "NEXT", "STEP"]
    assert line == f"vad    2       1        {words}"
    assert why == "  because it is so"
    document = plan_document(planned(step))
    assert (document["step"], document["version"]) == (type(step).__name__, version)
    assert document["settled"] is isinstance(step, d.Settled)
    assert document["reason"] == "it is so"


def test_no_step_is_without_words() -> None:
    kinds = {
        each
        for each in vars(d).values()
        if isinstance(each, type) and issubclass(each, d.Action) and each is not d.Action
    }
    for kind in kinds:
        bare = object.__new__(kind)
        for name, value in {"model": "vad", "reason": "so", "restoring": False}.items():
            object.__setattr__(bare, name, value)
        object.__setattr__(bare, "succeeded", True)
        assert plan_lines([planned(bare)])[1].split()[3:], kind


def test_what_serves_is_unknown_while_triton_does_not_answer() -> None:
    waiting = planned(action(d.Wait, reason_code="triton-unreachable"), live=False)
    assert plan_lines([waiting])[1].split() == ["vad", "2", "unknown", "wait"]
    assert plan_document(waiting)["serving"] is None
