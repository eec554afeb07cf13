"""`waypost-agent rollback MODEL`: gives the order, and shows what becomes of it.

Decides who carries it out: the agent that runs here, or this process where none runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from waypost_agent import decide as d
from waypost_agent import protocol as p
from waypost_agent.agent import Agent
from waypost_agent.clock import Clock
from waypost_agent.errors import ROLLED_BACK
from waypost_agent.journal import Journal
from waypost_agent.rollback import Order, make_order
from waypost_agent.said import read_said

_LOOK_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`done`: it serves what was ordered. `waits`: it will, nobody needs to ask again."""

    done: bool
    waits: bool
    sentence: str


def give_order(agent: Agent, model: str, reason: str) -> Order:
    """Write down, durably, that the model goes back. Raises `Refused`."""
    wishes = {wish.model: wish for wish in agent.loop.wishes()}
    journal = Journal(agent.config.state_dir / "journal")
    order = make_order(wishes.get(model), model, journal.load(model), reason)
    agent.rollbacks.submit(order)
    return order


def carry_out(agent: Agent, order: Order, clock: Clock) -> Outcome:
    """Reconcile here until the model is settled or waits. Nobody else may reconcile meanwhile."""
    busy_seconds = agent.config.timeouts.busy_poll_seconds * 2
    while (rest_seconds := agent.loop.cycle()) < busy_seconds:
        clock.sleep(rest_seconds)
    answer = agent.rollbacks.answer_to(order)
    if answer is not None and not answer.accepted:
        return Outcome(done=False, waits=False, sentence=answer.sentence)
    (plan,) = (plan for plan in agent.loop.plan() if plan.entry.model == order.model)
    if isinstance(plan.action, d.Settled):
        done = plan.action.reason_code == ROLLED_BACK
        return Outcome(done=done, waits=False, sentence=plan.action.reason)
    return Outcome(done=False, waits=True, sentence=plan.action.reason)


def await_agent(
    agent: Agent,
    order: Order,
    clock: Clock,
    *,
    seconds: float,
    tell: Callable[[str], None] = print,
) -> Outcome:
    """Watch the agent that runs here obey, for at most so long."""
    deadline = clock.monotonic() + seconds
    told = "the order waits for the agent that runs here"
    while True:
        answer = agent.rollbacks.answer_to(order)
        if answer is not None and not answer.accepted:
            return Outcome(done=False, waits=False, sentence=answer.sentence)
        if answer is not None:
            sentence, outcome = _progress(agent, order)
            if outcome is not None:
                return outcome
            if sentence != told:
                tell(sentence)
                told = sentence
        if clock.monotonic() >= deadline:
            return Outcome(done=False, waits=True, sentence=told)
        clock.sleep(_LOOK_SECONDS)


def _progress(agent: Agent, order: Order) -> tuple[str, Outcome | None]:
    said = read_said(agent.config.state_dir).get(order.model)
    if said is None:
        # A model that the newest answer of the centre does not name is not spoken of.
        return "", Outcome(done=False, waits=True, sentence="the agent goes back, see status")
    sentence = f"{said['phase']}: {said['reason']}"
    if said["phase"] != p.FAILED:
        return sentence, None
    done = said["reason_code"] == ROLLED_BACK
    return sentence, Outcome(done=done, waits=not done, sentence=said["reason"])
