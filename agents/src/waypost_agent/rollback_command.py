"""`waypost-agent rollback MODEL`: gives the order, and shows what becomes of it.

Decides who carries it out: the agent that runs here, or this process where none runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from waypost_agent import decide as d
from waypost_agent import protocol as p
from waypost_agent.clock import Clock
from waypost_agent.errors import ROLLED_BACK
from waypost_agent.rollback import Order, make_order
from waypost_agent.said import read_said
from waypost_agent.server import Server

_LOOK_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`done`: it serves what was ordered. `waits`: it will, nobody needs to ask again."""

    done: bool
    waits: bool
    sentence: str


def give_order(server: Server, model: str, reason: str) -> Order:
    """Write down, durably, that the model goes back. Raises `Refused`."""
    wishes = {wish.model: wish for wish in server.loop.wishes()}
    order = make_order(wishes.get(model), model, server.journal.load(model), reason)
    server.rollbacks.submit(order)
    return order


def carry_out(server: Server, order: Order, clock: Clock, *, busy_seconds: float) -> Outcome:
    """Reconcile here until the model is settled or waits; a rest under `busy_seconds` is the midst
    of a step. Nobody else may reconcile meanwhile."""
    while (rest_seconds := server.loop.cycle()) < busy_seconds:
        clock.sleep(rest_seconds)
    answer = server.rollbacks.answer_to(order)
    if answer is not None and not answer.accepted:
        return Outcome(done=False, waits=False, sentence=answer.sentence)
    (plan,) = (plan for plan in server.loop.plan() if plan.entry.model == order.model)
    if isinstance(plan.action, d.Settled):
        done = plan.action.reason_code == ROLLED_BACK
        return Outcome(done=done, waits=False, sentence=plan.action.reason)
    return Outcome(done=False, waits=True, sentence=plan.action.reason)


def await_agent(
    server: Server,
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
        answer = server.rollbacks.answer_to(order)
        if answer is not None and not answer.accepted:
            return Outcome(done=False, waits=False, sentence=answer.sentence)
        if answer is not None:
            sentence, outcome = _progress(server, order)
            if outcome is not None:
                return outcome
            if sentence != told:
                tell(sentence)
                told = sentence
        if clock.monotonic() >= deadline:
            return Outcome(done=False, waits=True, sentence=told)
        clock.sleep(_LOOK_SECONDS)


def _progress(server: Server, order: Order) -> tuple[str, Outcome | None]:
    said = read_said(server.config.state_dir).get(order.model)
    if said is None:
        # A model that the newest answer of the centre does not name is not spoken of.
        return "", Outcome(done=False, waits=True, sentence="the agent goes back, see status")
    sentence = f"{said['phase']}: {said['reason']}"
    if said["phase"] != p.FAILED:
        return sentence, None
    done = said["reason_code"] == ROLLED_BACK
    return sentence, Outcome(done=done, waits=not done, sentence=said["reason"])
