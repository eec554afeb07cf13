"""Tells a rollout again from its events alone: the states of the rollout, its stages and its sites.

What comes out must be what the rows say; where it is not, an event is missing or a row was changed
behind the engine's back. It must not know the rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

ROLLOUT = "rollout."
DEPLOYMENT = "deployment."


@dataclass(frozen=True, kw_only=True)
class Told:
    """One event, as it was kept: its action and its data."""

    id: int
    action: str
    data: Mapping[str, object]


@dataclass(kw_only=True)
class Replay:
    """What the events make of the rollout. `deployments` by (site, kind, attempt). `faults` are
    places where an event says it began from another state than the ones before had led to."""

    state: str = ""
    stages: dict[int, str] = field(default_factory=dict)
    deployments: dict[tuple[str, str, int], str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def apply(self, event: Told) -> None:
        if event.action.startswith(ROLLOUT):
            self._turn(event)
        elif event.action.startswith(DEPLOYMENT) and "attempt" in event.data:
            self._move(event.id, event.data)

    def _turn(self, event: Told) -> None:
        before, after = str(event.data.get("before", "")), str(event.data["state"])
        self._expect(event.id, "the rollout", self.state, before)
        self.state = after
        for move in _moves(event.data, "stages"):
            index = int(str(move["stage"]))
            self._expect(event.id, f"stage {index}", self.stages.get(index, ""), move["before"])
            self.stages[index] = str(move["after"])
        for move in _moves(event.data, "deployments"):
            self._move(event.id, move)

    def _move(self, event_id: int, move: Mapping[str, object]) -> None:
        key = (str(move["site"]), str(move["kind"]), int(str(move["attempt"])))
        what = f"{key[1]} {key[2]} of {key[0]}"
        self._expect(event_id, what, self.deployments.get(key, ""), move["before"])
        self.deployments[key] = str(move["after"])

    def _expect(self, event_id: int, what: str, was: str, said: object) -> None:
        if was != said:
            self.faults.append(f"event {event_id}: {what} was {was or 'not there'}, not {said}")


def replay(events: Iterable[Told]) -> Replay:
    """Takes the events of one rollout, oldest first."""
    told = Replay()
    for event in events:
        told.apply(event)
    return told


def _moves(data: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    moves = data.get(key, [])
    return [move for move in moves if isinstance(move, Mapping)] if isinstance(moves, list) else []
