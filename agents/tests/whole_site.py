"""One agent whole but for HTTP: the real link and loop on one clock of the test's own.

Link and loop take turns as their threads do; the centre answers as the protocol has it, and what
becomes of an answer on its way is the test's to say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fake_centre import AGENT, GRANTED, SITE
from fake_triton import FakeClock
from versions import make_version, wish
from waypost_agent import protocol as p
from waypost_agent.centre import CentreAnswer, CentreSilent
from waypost_agent.config import Timeouts
from waypost_agent.deliveries import Deliveries
from waypost_agent.identity import Identity, Membership
from waypost_agent.link import Link
from waypost_agent.manifest import digest_of
from waypost_agent.measurement_queue import MeasurementQueue
from world import World

# Above what any answer may bring about: one poll and one report a second, and retries.
MOST_CALLS_A_MINUTE = 150
TWO = make_version("2")


def desired(generation: int) -> dict[str, Any]:
    """All that a wish may say. Its files are nowhere: what is taken goes no further than a try."""
    manifest = {
        **TWO.manifest,
        "requires": {
            "accelerator_memory_bytes": 1 << 30, "memory_bytes": 1, "compute_capability": "8.0",
            "triton": "2.51.0", "backends": ["python"],
        },
    }  # fmt: skip
    for file in manifest["files"]:
        file["chunks"] = [file["sha256"]]
    entry = {
        **wish(TWO, generation=generation, previous="1", lease_required=True),
        "switch": "replace",
        "probation": {
            "seconds": 60, "max_error_rate": 0.05, "min_requests": 20, "max_mean_latency_ms": 250,
        },
        "manifest": manifest,
        "manifest_digest": digest_of(manifest),
    }  # fmt: skip
    return {"epoch": 1, "generation": generation, "site": SITE, "models": [entry]}


NONCE = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
REFUSED = {"granted": False, "reason_code": "frozen", "reason": "not now", "retry_seconds": 15}


class Centre:
    """Answers as the protocol has it and counts what it is asked; `silent`: it does not answer."""

    def __init__(self, clock: FakeClock, identity: Identity) -> None:
        self.clock = clock
        self.identity = identity
        self.generation = 1
        self.silent = False
        self.wishes: Callable[[], dict[str, Any]] = lambda: desired(self.generation)
        # What becomes of the answer to a path on its way; nothing by default.
        self.on_the_way: Callable[[str, Any], Any] = lambda path, answer: answer
        self.known_key = identity.public_key()
        self.asked: list[tuple[float, str]] = []
        self.reports: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {"Waypost-Poll-Seconds": "10"}

    def right_answer(self, path: str, said: Mapping[str, Any]) -> dict[str, Any]:
        match path:
            case "challenge":
                return {"nonce": NONCE, "expires_seconds": 60}
            case "session":
                counter = said["session_counter"]
                by = "2026-12-01T00:00:00Z"
                session = {"token": "wps_x", "expires_seconds": 3600, "session_counter": counter}
                return {**session, "rotate_by": by}
            case "rotate-key":
                return {"agent": AGENT, "public_key": said["public_key"]}
            case "desired":
                return self.wishes()
            case "report":
                return {
                    "epoch": 1, "generation": self.generation, "poll_seconds": 10,
                    "duplicate": False, "superseded": ["echo"],
                }  # fmt: skip
            case "lease-granted":
                return GRANTED
            case "lease-refused":
                return REFUSED
            case _:
                return {"accepted_seq": said["seq"]}

    def post(
        self, path: str, document: Mapping[str, Any], *, token: str | None = None
    ) -> CentreAnswer:
        return self._answer(path, document)

    def post_compressed(
        self, path: str, document: Mapping[str, Any], *, token: str
    ) -> CentreAnswer:
        return self._answer(path, document)

    def get(self, path: str, *, token: str, headers: Mapping[str, str]) -> CentreAnswer:
        return self._answer(path, {})

    def _answer(self, path: str, said: Mapping[str, Any]) -> CentreAnswer:
        self.asked.append((self.clock.now, path))
        if self.silent:
            raise CentreSilent("nobody answers")
        answer = self.on_the_way(path, self.right_answer(path, said))
        if path == "report":
            self.reports.append(dict(said))
        # As it comes over the wire: what is no JSON shows there.
        body = p.parse_json(json.dumps(answer).encode())
        return CentreAnswer(status=200, headers=self.headers, body=body)

    def most_a_minute(self) -> int:
        times = [at for at, _ in self.asked]
        return max((sum(at <= other < at + 60 for other in times) for at in times), default=0)


class Site:
    """One agent, whole but for HTTP, that serves version 1 under a clock of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "a" / "b"
        self.root.mkdir(parents=True)
        self.world = World(self.root)
        self.world.publish(make_version("1"))
        self.world.converge()
        self.loads = list(self.world.triton.loads)
        self.held = self.world.board.desired()

    def start_link(self) -> None:
        """A process that starts anew, as for the talk with the centre."""
        identity = Identity(self.root / "state")
        self.centre = Centre(self.world.clock, identity)
        queue = MeasurementQueue(self.root / "state" / "measurements", self.world.clock)
        queue.put({"boot_id": "boot-1", "seq": 1, "to_uptime": 0.0, "models": []})
        self.link = Link(
            self.centre,  # type: ignore[arg-type]  # answers as one
            identity,
            Membership(
                centre_url="http://x", agent=AGENT, site=SITE, poll_seconds=10.0, token_sha256="0"
            ),
            self.world.board,
            inventory=lambda: {"hostname": "h"},
            clock=self.world.clock,
            uniform=lambda low, high: high,
            timeouts=Timeouts(),
            deliveries=Deliveries(queue, self.world.clock, lambda low, high: high),
        )

    def pass_minutes(self, count: float, *, at_least: float = 0.1) -> None:
        """Link and loop take turns; what serves is looked at all the time. `at_least` seconds pass
        between two turns."""
        until = self.world.clock.now + 60 * count
        link_at = self.world.clock.now
        while self.world.clock.now < until:
            if self.world.clock.now >= link_at:
                link_at = self.world.clock.now + self.link.step()
            rest = self.world.loop.cycle()
            assert self.world.triton.ready("echo") == {"1"}
            self.world.clock.now = min(
                self.world.clock.now + max(rest, at_least), max(link_at, 0.1)
            )

    def check(self) -> None:
        assert self.world.triton.ready("echo") == {"1"}
        assert self.world.triton.loads == self.loads
        assert {path.name for path in self.folder.iterdir()} == {"a"}
        assert {path.name for path in (self.folder / "a").iterdir()} == {"b"}
        assert {path.name for path in self.root.iterdir()} == {"state", "repository"}
        assert {path.name for path in (self.root / "repository").iterdir()} == {"echo"}
        assert self.centre.most_a_minute() <= MOST_CALLS_A_MINUTE
