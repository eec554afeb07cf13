"""Many agents and one centre that was away: who asks when, by the agents' own link and its jitter.

In virtual time, seeded. `python herd.py` prints the figures as JSON.
"""

from __future__ import annotations

import heapq
import json
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fake_triton import FakeClock
from waypost_agent.board import Board
from waypost_agent.centre import CentreAnswer, CentreSilent
from waypost_agent.config import Timeouts
from waypost_agent.identity import Membership, Rotation
from waypost_agent.link import Link

AGENTS = 200
POLL_SECONDS = 15.0
OUTAGE_SECONDS = 600.0
NONCE = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


class Name:
    """An identity that leaves nothing on the disk."""

    def __init__(self) -> None:
        self.counter = 0

    def next_session_counter(self) -> int:
        self.counter += 1
        return self.counter

    def sign_session(self, *_: object, by_next_key: bool) -> str:
        return ""

    def has_next_key(self) -> bool:
        return False

    def sign_rotation(self, agent: str, nonce: str) -> Rotation:
        raise NotImplementedError


class Door:
    """The centre for all of them. While it is away nobody is answered; `capacity` is how many calls
    it takes in a second before it answers 503 with `retry_after`."""

    def __init__(
        self, clock: FakeClock, *, capacity: int | None = None, retry_after: float = 10.0
    ) -> None:
        self.clock = clock
        self.away = False
        self.capacity = capacity
        self.retry_after = retry_after
        self.calls: Counter[int] = Counter()
        self.refused = 0

    def answer(self, agent: str, path: str, said: Mapping[str, Any]) -> CentreAnswer:
        second = int(self.clock.now)
        if self.away:
            raise CentreSilent("nobody answers")
        self.calls[second] += 1
        if self.capacity is not None and self.calls[second] > self.capacity:
            self.refused += 1
            raise CentreSilent("the centre answers 503", self.retry_after)
        headers = {"Waypost-Poll-Seconds": str(POLL_SECONDS)}
        body: Any = {
            "challenge": {"nonce": NONCE},
            "session": {
                "token": "wps_x", "expires_seconds": 3600,
                "session_counter": said.get("session_counter", 0),
            },
            "desired": {"epoch": 1, "generation": 1, "site": agent, "models": []},
            "report": {
                "epoch": 1, "generation": 1, "poll_seconds": 15, "duplicate": False,
                "superseded": [],
            },
        }[path]  # fmt: skip
        return CentreAnswer(status=200, headers=headers, body=body)


class Wire:
    """One agent's way to the door; `reached` is when it was last told of its wishes."""

    def __init__(self, agent: str, door: Door) -> None:
        self.agent = agent
        self.door = door
        self.reached = -1.0

    def post(self, path: str, document: Mapping[str, Any], *, token: str | None = None) -> Any:
        return self.door.answer(self.agent, path, document)

    def get(self, path: str, *, token: str, headers: Mapping[str, str]) -> Any:
        answer = self.door.answer(self.agent, path, {})
        self.reached = self.door.clock.now
        return answer


class Herd:
    def __init__(self, door: Door, *, agents: int = AGENTS, seed: int = 7) -> None:
        self.door = door
        self.clock = door.clock
        chance = random.Random(seed)
        self.wires = [Wire(f"site-{number}", door) for number in range(agents)]
        self._links = [self._link(wire, chance) for wire in self.wires]
        # All at one moment, as when power comes back: only their own jitter parts them.
        self._due = [(self.clock.now, number) for number in range(agents)]
        heapq.heapify(self._due)

    def _link(self, wire: Wire, chance: random.Random) -> Link:
        return Link(
            wire,  # type: ignore[arg-type]  # answers as a centre
            Name(),  # type: ignore[arg-type]  # signs as an identity
            Membership(
                centre_url="http://x",
                agent=wire.agent,
                site=wire.agent,
                poll_seconds=POLL_SECONDS,
                token_sha256="0",
            ),
            Board(),
            inventory=dict,
            clock=self.clock,
            uniform=chance.uniform,
            timeouts=Timeouts(),
        )

    def pass_seconds(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while self._due[0][0] < until:
            at, number = heapq.heappop(self._due)
            self.clock.now = at
            heapq.heappush(self._due, (at + self._links[number].step(), number))
        self.clock.now = until


def measure(*, capacity: int | None = None, seed: int = 7) -> dict[str, float]:
    """An outage of ten minutes; calls per second before it and after, and how long the last waits.

    `peak` are the most calls in one second after the return, `busiest_ten` the most in ten, by
    second.
    """
    clock = FakeClock()
    door = Door(clock)
    herd = Herd(door, seed=seed)
    herd.pass_seconds(600)
    steady = [door.calls[second] for second in range(int(clock.now) - 300, int(clock.now))]
    door.away = True
    herd.pass_seconds(OUTAGE_SECONDS)
    door.away, door.capacity = False, capacity
    back = clock.now
    firsts: dict[str, float] = {}
    while len(firsts) < len(herd.wires) and clock.now < back + 3600:
        herd.pass_seconds(1)
        for wire in herd.wires:
            if wire.reached >= back:
                firsts.setdefault(wire.agent, wire.reached - back)
    after = [door.calls[second] for second in range(int(back), int(clock.now) + 1)]
    return {
        "agents": len(herd.wires),
        "steady_mean": sum(steady) / len(steady),
        "steady_peak": max(steady),
        "peak": max(after),
        "busiest_ten": max(sum(after[n : n + 10]) / 10 for n in range(len(after))),
        "all_back_seconds": max(firsts.values()) if len(firsts) == len(herd.wires) else -1.0,
        "refused": door.refused,
    }


if __name__ == "__main__":
    print(json.dumps({"free": measure(), "capacity_20": measure(capacity=20)}))
