"""Downloads over several connections: bounded, each chunk once, nothing lost by cut or crash."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fake_triton import FakeClock
from waypost_agent import partial
from waypost_agent.download import Downloader
from waypost_agent.errors import Paused, Permanent, Retryable
from waypost_agent.held import Held
from waypost_agent.limits import Limits
from waypost_agent.manifest import Manifest, ManifestFile
from waypost_agent.ports import BlobPart

PIECE = 100_000
DATA = random.Random(3).randbytes(1_550_000)
FILE = ManifestFile(
    path="model.onnx",
    size=len(DATA),
    sha256=hashlib.sha256(DATA).hexdigest(),
    chunks=tuple(
        hashlib.sha256(DATA[at : at + PIECE]).hexdigest() for at in range(0, len(DATA), PIECE)
    ),
)


class Source:
    """Ranges of `data`, to any number of threads; remembers each byte that it sent."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.lock = threading.Lock()
        self.sent: list[tuple[int, int]] = []
        self.open_now = 0
        self.most_open = 0
        self.ranges = True
        self.before_piece: Callable[[int], None] = lambda at: None
        # As many wait for each other as should be there at once.
        self.gate: threading.Barrier | None = None

    @contextmanager
    def open_blob(self, sha256: str, offset: int, end: int | None = None) -> Iterator[BlobPart]:
        with self.lock:
            self.open_now += 1
            self.most_open = max(self.most_open, self.open_now)
            gate, start = self.gate, offset if self.ranges else 0
        try:
            if gate is not None:
                gate.wait(10)
                self.gate = None
            until = len(self.data) if end is None or not self.ranges else end
            yield BlobPart(
                offset=start, total_bytes=len(self.data), chunks=self._pieces(start, until)
            )
        finally:
            with self.lock:
                self.open_now -= 1

    def _pieces(self, start: int, until: int) -> Iterator[bytes]:
        for at in range(start, until, 30_000):
            self.before_piece(at)
            piece = self.data[at : min(at + 30_000, until)]
            with self.lock:
                self.sent.append((at, len(piece)))
            yield piece

    @property
    def sent_bytes(self) -> int:
        return sum(length for _, length in self.sent)


class Site:
    def __init__(self, folder: Path) -> None:
        self.partial, self.done = folder / "partial", folder / "done"
        self.limits = Limits()
        self.clock = FakeClock()
        self.link_clock = FakeClock()
        self.should_pause: Callable[[], bool] = lambda: False
        self.refuse: Callable[[], None] = lambda: None
        self.downloader: Downloader | None = None

    def fetch(self, source: Source, connections: int = 2) -> bytes:
        if self.downloader is None:
            self.downloader = Downloader(
                source,
                clock=self.clock,
                limits=self.limits,
                should_pause=lambda: self.should_pause(),
                connections=connections,
                link_clock=self.link_clock,
            )
        self.downloader.fetch(
            FILE,
            partial=self.partial,
            destination=self.done,
            held=Held(Manifest(files=(FILE,), document={}, digest=""), []),
            set_aside=lambda path, why: path.unlink(),
            refuse=self.refuse,
        )
        return self.done.read_bytes()


@pytest.fixture(params=["hashed after", "hashed beside"])
def site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Site]:
    if request.param == "hashed beside":
        monkeypatch.setattr("waypost_agent.partial._BESIDE_BYTES", 0)
    for module in ("pieces", "download"):
        monkeypatch.setattr(f"waypost_agent.{module}.CHUNK_BYTES", PIECE)
    monkeypatch.setattr("waypost_agent.download._LEAST_JOB_BYTES", PIECE)
    monkeypatch.setattr("waypost_agent.download._MOST_JOB_BYTES", 4 * PIECE)
    monkeypatch.setattr("waypost_agent.download._LOOK_SECONDS", 0.0)  # all begin at once
    yield Site(tmp_path)
    names = [each.name for each in threading.enumerate()]
    assert not [name for name in names if name.startswith(("download-", "hash"))]


@pytest.mark.parametrize("connections", [2, 3, 8])
def test_so_many_connections_as_allowed_fetch_each_byte_once(site: Site, connections: int) -> None:
    source = Source()
    source.gate = threading.Barrier(connections)
    assert site.fetch(source, connections) == DATA
    assert source.most_open == connections
    assert source.sent_bytes == len(DATA)


def test_where_one_connection_brings_enough_there_is_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waypost_agent.download._FAST_BYTES", 0)
    source = Source()
    assert site.fetch(source, 8) == DATA
    assert source.most_open == 1
    assert source.sent_bytes == len(DATA)


def test_a_disk_that_takes_less_than_it_is_given_gets_the_rest(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(
        partial.os, "pwrite", lambda descriptor, data, at: pwrite(descriptor, data[:7000], at)
    )
    assert site.fetch(Source()) == DATA


def test_one_connection_asks_for_all_that_is_missing_at_once(site: Site) -> None:
    source = Source()
    assert site.fetch(source, 1) == DATA
    assert source.most_open == 1
    assert source.sent_bytes == len(DATA)


@pytest.mark.parametrize("at", [0, 30_000, 400_000, 800_000, 1_500_000])
def test_what_one_cut_connection_and_the_others_brought_is_kept(site: Site, at: int) -> None:
    source = Source()

    def cut(offset: int) -> None:
        if offset >= at:
            source.before_piece = lambda offset: None
            raise Retryable("download-failed", "the cable was pulled")

    source.before_piece = cut
    with pytest.raises(Retryable, match="cable"):
        site.fetch(source)
    assert site.fetch(source) == DATA
    assert source.sent_bytes == len(DATA)


@pytest.mark.parametrize("seed", range(8))
def test_a_crash_costs_at_most_one_chunk_of_each_connection(site: Site, seed: int) -> None:
    source, dice = Source(), random.Random(seed)
    left = [dice.randrange(1, 45)]

    def crash(offset: int) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Retryable("download-failed", "kill -9")

    source.before_piece = crash
    with pytest.raises(Retryable):
        site.fetch(source)
    source.before_piece = lambda offset: None
    site.downloader = None  # a new process: nothing is known but the file
    assert site.fetch(source) == DATA
    assert source.sent_bytes <= len(DATA) + 2 * PIECE


def test_a_pause_ends_every_connection_and_keeps_what_came(site: Site) -> None:
    source = Source()
    paused = threading.Event()

    def wait(offset: int) -> None:
        if offset >= 300_000:
            assert paused.wait(10)

    def should_pause() -> bool:
        paused.set()
        return True

    source.before_piece = wait
    site.should_pause = should_pause
    with pytest.raises(Paused):
        site.fetch(source)
    site.should_pause = lambda: False
    assert site.fetch(source) == DATA
    assert source.sent_bytes == len(DATA)


def test_a_window_that_closes_lets_chunks_that_began_end(site: Site) -> None:
    source = Source()
    closed = Retryable("window-closed", "it opens at 22:00")

    def refuse() -> None:
        if source.sent_bytes >= 500_000:
            raise closed

    site.refuse = refuse
    with pytest.raises(Retryable, match="22:00"):
        site.fetch(source)
    before = source.sent_bytes
    with pytest.raises(Retryable, match="22:00"):
        site.fetch(source)
    assert source.sent_bytes == before  # not a byte more
    site.refuse = lambda: None
    assert site.fetch(source) == DATA
    assert source.sent_bytes == len(DATA)


def test_a_source_without_ranges_is_asked_by_one_connection(site: Site) -> None:
    source = Source()
    source.ranges = False
    assert site.fetch(source) == DATA
    last = source.sent[-(len(DATA) // 30_000 + 1) :]
    assert [at for at, _ in last] == list(range(0, len(DATA), 30_000))


def test_a_chunk_that_stays_wrong_is_given_up_after_three_times(site: Site) -> None:
    source = Source(DATA[:650_000] + bytes(1) + DATA[650_001:])
    with pytest.raises(Permanent, match="piece 6 with the sha256") as caught:
        site.fetch(source)
    assert caught.value.code == "digest-mismatch"
    # Three times, and once more where the other connection had begun it already.
    assert 3 <= sum(at == 600_000 for at, _ in source.sent) <= 4
    assert not site.partial.exists()


def test_the_cap_is_shared_by_the_connections(site: Site) -> None:
    site.limits = Limits(bytes_per_second=100_000)
    began = site.link_clock.now
    site.fetch(Source())
    # Both threads sleep by this clock, so it may run up to twice as fast as the wall's.
    assert site.link_clock.now - began >= 13.0


def test_each_connection_has_a_watchdog_of_its_own(site: Site) -> None:
    source = Source()

    def trickle(offset: int) -> None:
        if offset >= 600_000:
            site.link_clock.now += 40.0

    source.before_piece = trickle
    site.limits = Limits(stall_bytes_per_second=10_000)
    with pytest.raises(Retryable, match="stalled"):
        site.fetch(source)


def test_a_disk_that_fills_up_under_one_connection_is_said(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def full(descriptor: int, data: bytes, at: int) -> int:
        if at >= 700_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, data, at)

    monkeypatch.setattr(partial.os, "pwrite", full)
    source = Source()
    with pytest.raises(Retryable) as caught:
        site.fetch(source)
    assert caught.value.code == "disk-full"
    monkeypatch.setattr(partial.os, "pwrite", pwrite)
    assert site.fetch(source) == DATA
