"""A site in one process: the real loop, store and journal around a fake server and fake files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fake_triton import FakeClock, FakeTriton
from versions import MODEL, Version, wish
from waypost_agent.act import Parts
from waypost_agent.board import Board
from waypost_agent.config import Timeouts
from waypost_agent.errors import Retryable
from waypost_agent.journal import Journal
from waypost_agent.loop import Loop
from waypost_agent.ports import BlobPart
from waypost_agent.protocol import ModelReport, parse_desired
from waypost_agent.situation import Record
from waypost_agent.store import Store
from waypost_agent.triton import PbtxtCodec


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
    def open_blob(self, sha256: str, offset: int) -> Iterator[BlobPart]:
        if not self.reachable or sha256 not in self.data:
            raise Retryable("download-failed", "the centre does not give the file")
        self.opened.append((sha256, offset))
        data = self.data[sha256]
        yield BlobPart(offset=offset, total_bytes=len(data), chunks=self._pieces(data[offset:]))

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]
            self.between_pieces()


class World:
    """`agent()` is a process that starts; `die_after` checkpoints later it is gone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "repository").mkdir()
        self.clock = FakeClock()
        self.triton = FakeTriton(folder / "repository", self.clock)
        self.blobs = FakeBlobs()
        self.journal = Journal(folder / "state" / "journal")
        self.free_bytes = 1 << 40
        self.generation = 0
        self.wishes: dict[str, dict[str, Any]] = {}
        self.passed_checkpoints: list[str] = []
        self.at_checkpoint: Callable[[str], None] = lambda name: None
        self._die_after: int | None = None
        self.start()

    def start(self) -> None:
        """A new agent process over the same disk and server."""
        self.board = Board()
        self.store = Store(
            root=self.folder / "state",
            repository=self.folder / "repository",
            reserve_bytes=1000,
            free_bytes=lambda _: self.free_bytes,
        )
        self.loop = Loop(
            Parts(
                triton=self.triton,
                codec=PbtxtCodec(),
                store=self.store,
                journal=self.journal,
                blobs=self.blobs,
                clock=self.clock,
                timeouts=Timeouts(load_timeout_seconds=5.0, load_deadline_seconds=60.0),
            ),
            board=self.board,
            belongs_to="edge-1",
            uniform=lambda low, high: high,
            checkpoint=self._checkpoint,
        )
        self.loop.prepare()

    def publish(
        self, version: Version | None, *, model: str = MODEL, previous: str | None = None
    ) -> None:
        """Let the centre wish this and the agent know it."""
        self.generation += 1
        self.wishes[model] = wish(
            version, generation=self.generation, model=model, previous=previous
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
                self.clock.now += self.loop.cycle()
        except Died:
            self.start()
            self.poll()
        finally:
            self._die_after = None

    def converge(self, limit: int = 2000) -> ModelReport | None:
        """Cycle until every model is settled; the report of the usual model."""
        for _ in range(limit):
            self.clock.now += self.loop.cycle()
            reports = self.loop.reports()
            if all(report.phase in ("succeeded", "failed") for report in reports):
                return self.report()
        raise AssertionError(f"still not settled: {self.loop.reports()}")

    def report(self, model: str = MODEL) -> ModelReport | None:
        return next((each for each in self.loop.reports() if each.model == model), None)

    def record(self, model: str = MODEL) -> Record:
        return self.journal.load(model)

    def _checkpoint(self, name: str) -> None:
        self.passed_checkpoints.append(name)
        self.at_checkpoint(name)
        if self._die_after is not None:
            self._die_after -= 1
            if self._die_after <= 0:
                raise Died
