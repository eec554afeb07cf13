"""What a simulated agent keeps in mind of a model between two steps. Values; no clock, no dice."""

from __future__ import annotations

from dataclasses import dataclass

from waypost_agent import decide as d
from waypost_agent import situation as sit

from controlplane.ops.simulation.rows import Said

Step = tuple[str, type[d.Action], sit.Target | None]

_URGENCY: dict[type[d.Action], int] = {
    d.Switch: 0,
    d.Verify: 0,
    d.GiveUp: 0,
    d.Unload: 1,
    d.UnloadCandidate: 1,
    d.Retire: 1,
    d.Prove: 2,
    d.AskLease: 3,
    d.Fetch: 4,
    d.Prune: 5,
}


@dataclass(frozen=True, kw_only=True)
class Held:
    """A lease, and the uptime from which it can no longer begin."""

    lease: sit.Lease
    begin_before: float
    begun: bool = False


class Look:
    """What was seen of one model, what follows from it and how urgent that is; `said`, what was
    last reported of it, and whether it rested."""

    __slots__ = ("action", "record", "said", "seen", "sight", "step", "urgency", "wish")

    def __init__(
        self,
        *,
        sight: object,
        wish: sit.Wish,
        record: sit.Record,
        seen: sit.Observed,
        action: d.Action,
    ) -> None:
        self.sight, self.wish, self.record, self.seen = sight, wish, record, seen
        self.action, self.step = action, step_of(action)
        self.urgency = _URGENCY.get(type(action))
        self.said: tuple[bool, Said] | None = None


def step_of(action: d.Action) -> Step:
    return (action.model, type(action), getattr(action, "target", None))
