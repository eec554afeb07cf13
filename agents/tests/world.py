"""A site in one process: the real loop, store and journal around a fake server and fake files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fake_triton import FakeClock, FakeTriton
from versions import MODEL, Version, wish
from waypost_agent.board import Board
from waypost_agent.config import Timeouts
from waypost_agent.errors import Retryable
from waypost_agent.files import Fetching
from waypost_agent.journal import Journal
from waypost_agent.learned import LearnedBook
from waypost_agent.limits import Limits
from waypost_agent.loop import Loop
from waypost_agent.parts import Parts
from waypost_agent.ports import BlobPart
from waypost_agent.preflight import Machine
from waypost_agent.protocol import (
    LeaseGrant,
    LeaseQuestion,
    LeaseRefusal,
    ModelReport,
    parse_desired,
)
from waypost_agent.rollback import RollbackDesk
from waypost_agent.situation import Attempts, Record
from waypost_agent.store import Store
from waypost_agent.triton import PbtxtCodec
from waypost_agent.trust import Trust


class Died(BaseException):
    """Stands for SIGKILL: nothing in the agent may catch it."""


class FakeBlobs:
    """Files by digest; `reachable` False is a network that is gone."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.reachable = True
        self.opened: list[tuple[str, int]] = []
        self.between_pieces: Callable[[], None] = lambda: None

    @contextmanager
    def open_blob(self, sha256: str, offset: int, end: int | None = None) -> Iterator[BlobPart]:
        if not self.reachable or sha256 not in self.data:
            raise Retryable("download-failed", "the centre does not give the file")
        self.opened.append((sha256, offset))
        data = self.data[sha256]
        yield BlobPart(offset=offset, total_bytes=len(data), chunks=self._pieces(data[offset:end]))

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]
            self.between_pieces()


class FakeLeases:
    """The centre's answers; `fate` is what befalls the next questions.

    `leave` is what this life of the agent was granted: (epoch, generation, digest) to the boot time
    before which it must begin, or None once it began.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.fate = "grant"
        self.refusal = LeaseRefusal(
            reason_code="max-unavailable", reason="1 of 1 may change now", retry_seconds=15.0
        )
        self.begin_within_seconds = 60.0
        self.answer_seconds = 0.1
        self.questions: list[tuple[float, LeaseQuestion]] = []
        self.leave: dict[tuple[int, int, str], float | None] = {}
        self.after_grant: Callable[[], None] = lambda: None

    def ask_lease(self, question: LeaseQuestion) -> LeaseGrant | LeaseRefusal:
        asked_at = self.clock.boottime()
        self.questions.append((self.clock.now, question))
        if self.fate == "die asking":
            self.fate = "grant"
            raise Died
        self.clock.now += self.answer_seconds
        if self.fate == "refuse":
            return self.refusal
        if self.fate == "die granted":
            self.fate = "grant"
            raise Died
        if self.fate == "lose":
            raise Retryable("lease-unreachable", "no lease: the answer was lost")
        if self.fate == "superseded":
            raise Retryable("wish-superseded", "the centre wishes something newer")
        if self.fate == "busy":
            raise Retryable("lease-unreachable", "no lease: 503", after_seconds=300.0)
        key = (question.epoch, question.generation, question.manifest_digest)
        self.leave[key] = asked_at + self.begin_within_seconds
        self.after_grant()
        return LeaseGrant(lease=17, begin_within_seconds=self.begin_within_seconds)

    def begin(self, attempts: Attempts | None) -> None:
        """A step begins; fails the test unless this life of the agent has leave for it."""
        assert attempts is not None
        key = (attempts.epoch, attempts.generation, attempts.target.digest)
        assert key in self.leave, f"{key} began without a lease"
        before = self.leave[key]
        assert before is None or self.clock.boottime() < before, f"{key} began too late"
        self.leave[key] = None


class FakeMachine:
    """What this machine has; nothing is known of it unless a test says so."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.used: tuple[int | None, int | None] = (None, None)

    def look(self) -> Machine:
        return self.machine

    def used_bytes(self) -> tuple[int | None, int | None]:
        return self.used


class World:
    """`agent()` is a process that starts; `die_after` checkpoints later it is gone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "repository").mkdir(exist_ok=True)
        self.clock = FakeClock()
        self.triton = FakeTriton(folder / "repository", self.clock)
        self.blobs = FakeBlobs()
        self.machine = FakeMachine()
        self.corrects_drift = True
        self.allow_executable = True  # the versions of these tests are of the python backend
        self.trust = Trust()
        self.leases = FakeLeases(self.clock)
        self.lease_required = False
        self.said: list[tuple[ModelReport, ...]] = []
        self._begun: dict[str, Attempts | None] = {}
        self.journal = Journal(folder / "state" / "journal")
        self.free_bytes = 1 << 40
        # The pieces of FakeBlobs are small and slow on purpose: no link is that bad.
        self.limits = Limits(reserve_bytes=1000, stall_bytes_per_second=0)
        self.fetching = Fetching()
        self.generation = 0
        self.wishes: dict[str, dict[str, Any]] = {}
        self.passed_checkpoints: list[str] = []
        self.at_checkpoint: Callable[[str], None] = lambda name: None
        self._die_after: int | None = None
        self.start()

    def start(self) -> None:
        """A new agent process over the same disk and server."""
        self.leases.leave.clear()
        self.board = Board()
        self.seat = self.board.seat()
        self.store = Store(
            root=self.folder / "state",
            repository=self.folder / "repository",
            free_bytes=lambda _: self.free_bytes,
            limits=self.limits,
        )
        self.orders = RollbackDesk(
            self.folder / "state", self.journal, self.store, self._checkpoint
        )
        self.loop = Loop(
            Parts(
                triton=self.triton,
                codec=PbtxtCodec(),
                store=self.store,
                journal=self.journal,
                blobs=self.blobs,
                leases=self.leases,
                clock=self.clock,
                timeouts=Timeouts(load_timeout_seconds=5.0, load_deadline_seconds=60.0),
                machine=self.machine,
                learned=LearnedBook(self.folder / "state/journal/learned.json", lambda: "cpu"),
                limits=self.limits,
                fetching=self.fetching,
                scrape=lambda: self.triton.counted,
                corrects_drift=self.corrects_drift,
                allow_executable=self.allow_executable,
                trust=self.trust,
            ),
            board=self.seat,
            belongs_to="edge-1",
            uniform=lambda low, high: high,
            checkpoint=self._checkpoint,
            said=self.said.append,
            orders=self.orders,
        )
        self.loop.prepare()

    def publish(
        self,
        version: Version | None,
        *,
        model: str = MODEL,
        previous: str | None = None,
        lease_required: bool | None = None,
        also: dict[str, Any] | None = None,
    ) -> None:
        """Let the centre wish this and the agent know it."""
        self.generation += 1
        self.wishes[model] = wish(
            version,
            generation=self.generation,
            model=model,
            previous=previous,
            lease_required=self.lease_required if lease_required is None else lease_required,
            also=also,
        )
        if version is not None:
            for data in version.files.values():
                self.blobs.data[hashlib.sha256(data).hexdigest()] = data
        self.poll()

    def poll(self) -> None:
        document = {
            "epoch": 1,
            "generation": self.generation,
            "site": "edge-1",
            "models": list(self.wishes.values()),
        }
        if self.generation:
            self.board.offer(parse_desired(document))

    def cycles(self, count: int, die_after: int | None = None) -> None:
        """Run so many cycles; the agent dies after `die_after` checkpoints and starts anew."""
        self._die_after = die_after
        try:
            for _ in range(count):
                self._cycle()
        except Died:
            self.start()
            self.poll()
        finally:
            self._die_after = None

    def die_now(self) -> None:
        """At a checkpoint: the agent is gone, and `cycles` and `converge` start another."""
        raise Died

    def _cycle(self) -> None:
        seconds = self.loop.cycle()  # time passes inside as well
        self.clock.now += seconds

    def converge(self, limit: int = 2000) -> ModelReport | None:
        """Cycle until every model is settled; the report of the usual model."""
        for _ in range(limit):
            try:
                self._cycle()
            except Died:
                self.start()
                self.poll()
                continue
            reports = self.loop.reports()
            if all(report.phase in ("succeeded", "failed") for report in reports):
                return self.report()
        raise AssertionError(f"still not settled: {self.loop.reports()}")

    def report(self, model: str = MODEL) -> ModelReport | None:
        return next((each for each in self.loop.reports() if each.model == model), None)

    def record(self, model: str = MODEL) -> Record:
        return self.journal.load(model)

    def _check_leave(self, model: str, attempts: Attempts | None) -> None:
        """No step begins without a lease that its wish requires."""
        held = self.journal.load_held("edge-1")
        assert held is not None
        assert attempts is not None
        wishes = [*held.desired.models, *(entry for _, entry in held.absent)]
        (wished,) = (each for each in wishes if each.model == model)
        if wished.lease_required and attempts.target.version not in self.triton.ready(model):
            self.leases.begin(attempts)

    def _checkpoint(self, name: str) -> None:
        self.passed_checkpoints.append(name)
        self.at_checkpoint(name)
        for model in self.journal.models():
            attempts = self.record(model).attempts
            if name == "attempt-journaled" and attempts != self._begun.get(model):
                self._check_leave(model, attempts)
            self._begun[model] = attempts
        if self._die_after is not None:
            self._die_after -= 1
            if self._die_after <= 0:
                raise Died
