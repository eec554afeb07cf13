"""Downloads from a source that lies: cuts, wrong bytes, stalls, full disks, bytes already here."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fake_triton import FakeClock
from waypost_agent import durable, partial
from waypost_agent.connection import MAX_MISMATCHES
from waypost_agent.download import Downloader
from waypost_agent.errors import Paused, Permanent, RangeRefused, Retryable
from waypost_agent.held import Held, Place
from waypost_agent.limits import Limits
from waypost_agent.manifest import Manifest, ManifestFile
from waypost_agent.ports import BlobPart

DATA = random.Random(1).randbytes(300_000)
FILE = ManifestFile(path="model.onnx", size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())


class Source:
    """Serves `data` from the asked offset, or whole; `cut` bytes in, it breaks off."""

    def __init__(
        self, data: bytes = DATA, *, ranges: bool = True, total: int | None = None
    ) -> None:
        self.data = data
        self.ranges = ranges
        self.total = len(data) if total is None else total
        self.cut: int | None = None
        self.asked: list[tuple[int, int | None]] = []
        self.sent = 0
        self.before_piece: Callable[[], None] = lambda: None

    @property
    def offsets(self) -> list[int]:
        return [offset for offset, _ in self.asked]

    @contextmanager
    def open_blob(self, sha256: str, offset: int, end: int | None = None) -> Iterator[BlobPart]:
        self.asked.append((offset, end))
        start = offset if self.ranges else 0
        until = len(self.data) if end is None or not self.ranges else end
        yield BlobPart(offset=start, total_bytes=self.total, chunks=self._chunks(start, until))

    def _chunks(self, start: int, until: int) -> Iterator[bytes]:
        end = until if self.cut is None else self.cut
        for at in range(start, end, 64_000):
            self.before_piece()
            piece = self.data[at : min(at + 64_000, end)]
            self.sent += len(piece)
            yield piece
        if self.cut is not None:
            self.cut = None
            raise Retryable("download-failed", "the cable was pulled")


def manifest_of(*files: ManifestFile) -> Manifest:
    return Manifest(files=files, document={}, digest="sha256:" + "0" * 64)


class Site:
    """One downloader and a folder; `set_aside` is what was found to be another file."""

    def __init__(self, folder: Path) -> None:
        self.partial = folder / "partial"
        self.done = folder / "done"
        self.clock = FakeClock()
        self.limits = Limits()
        self.places: list[Place] = []
        self.set_aside: list[tuple[bytes, str]] = []
        self.told: list[int] = []
        self.should_pause: Callable[[], bool] = lambda: False
        self.downloader: Downloader | None = None

    def restart(self) -> None:
        self.downloader = None

    def fetch(self, source: object, file: ManifestFile = FILE) -> bytes:
        if self.downloader is None:
            self.downloader = Downloader(
                source,  # type: ignore[arg-type]  # any source of the right shape
                clock=self.clock,
                limits=self.limits,
                should_pause=lambda: self.should_pause(),
            )
        self.downloader.fetch(
            file,
            partial=self.partial,
            destination=self.done,
            held=Held(manifest_of(file), self.places),
            set_aside=self._set_aside,
            progress=self.told.append,
        )
        assert not self.partial.exists()
        return self.done.read_bytes()

    def hold(self, path: Path, data: bytes, file: ManifestFile) -> None:
        """Let the disk already have `data` where a manifest says that `file` lies."""
        path.write_bytes(data)
        self.places.append(Place(manifest=manifest_of(file), locate=lambda _: path))

    def _set_aside(self, path: Path, reason: str) -> None:
        self.set_aside.append((path.read_bytes(), reason))
        path.unlink()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces of 100 kB instead of 16 MiB: three of them make the file."""
    for module in ("pieces", "download"):
        monkeypatch.setattr(f"waypost_agent.{module}.CHUNK_BYTES", 100_000)
    return 100_000


def with_chunks(data: bytes = DATA, size: int = 100_000) -> ManifestFile:
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    return ManifestFile(
        path="model.onnx",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        chunks=tuple(hashlib.sha256(piece).hexdigest() for piece in pieces),
    )


# Cuts


@pytest.mark.parametrize("cut", [0, 1, 63_999, 64_000, 64_001, len(DATA) - 1])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_cut_download_goes_on_where_it_was_cut(site: Site, cut: int, restarted: bool) -> None:
    source = Source()
    source.cut = cut
    with pytest.raises(Retryable, match="cable"):
        site.fetch(source)
    if restarted:
        site.restart()
    assert site.fetch(source) == DATA
    assert source.offsets == [0, cut]
    assert source.sent == len(DATA)


def test_what_was_hashed_before_a_cut_is_not_read_again_by_the_same_process(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source()
    source.cut = 200_000
    with pytest.raises(Retryable):
        site.fetch(source)
    read = []
    pread = os.pread
    monkeypatch.setattr(partial.os, "pread", lambda fd, n, at: read.append(at) or pread(fd, n, at))
    assert site.fetch(source) == DATA
    assert read == []


def test_a_partial_that_somebody_touched_meanwhile_is_hashed_anew(site: Site) -> None:
    source = Source()
    source.cut = 200_000
    with pytest.raises(Retryable):
        site.fetch(source)
    site.partial.write_bytes(b"x" * 200_000)
    os.utime(site.partial, ns=(1, 1))
    assert site.fetch(source) == DATA
    assert [data[:1] for data, _ in site.set_aside] == [b"x"]


def test_a_source_that_ends_early_without_a_word_is_retryable(site: Site) -> None:
    class Short(Source):
        def _chunks(self, start: int, until: int) -> Iterator[bytes]:
            yield self.data[start : start + 1000]

    with pytest.raises(Retryable, match="broke off after 1000 of 300000"):
        site.fetch(Short())


def test_a_source_without_ranges_sends_the_whole_again_and_loses_nothing(site: Site) -> None:
    source = Source(ranges=False)
    source.cut = 200_000
    with pytest.raises(Retryable):
        site.fetch(source)
    source.cut = 100_000  # less than is here already
    with pytest.raises(Retryable):
        site.fetch(source)
    assert site.partial.stat().st_size == 200_000
    assert site.fetch(source) == DATA


def test_a_source_that_refuses_the_range_is_asked_for_the_whole(site: Site) -> None:
    class Refusing(Source):
        def open_blob(self, sha256: str, offset: int, end: int | None = None):  # type: ignore[no-untyped-def]
            if offset > 0:
                raise RangeRefused("download-failed", "416")
            return super().open_blob(sha256, offset, end)

    site.partial.write_bytes(DATA[:1000])
    assert site.fetch(Refusing()) == DATA


# Wrong bytes


def test_wrong_bytes_are_set_aside_and_given_up_after_three_times(
    site: Site, tmp_path: Path
) -> None:
    source = Source(b"x" * len(DATA))
    with pytest.raises(Permanent, match="sha256") as caught:
        site.fetch(source)
    assert caught.value.code == "digest-mismatch"
    assert source.offsets == [0] * MAX_MISMATCHES
    assert len(site.set_aside) == MAX_MISMATCHES
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_beginning_on_disk_heals(site: Site) -> None:
    site.partial.write_bytes(b"y" * 1000)
    source = Source()
    assert site.fetch(source) == DATA
    assert source.offsets == [1000, 0]


def test_a_partial_of_the_right_length_and_the_wrong_bytes_costs_no_attempt(site: Site) -> None:
    site.partial.write_bytes(b"y" * len(DATA))
    source = Source()
    assert site.fetch(source) == DATA
    assert source.offsets == [0]


def test_a_partial_that_is_a_link_or_too_long_is_begun_anew(site: Site, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"kept")
    site.partial.symlink_to(theirs)
    assert site.fetch(Source()) == DATA
    assert theirs.read_bytes() == b"kept"
    site.restart()
    site.partial.write_bytes(DATA + b"1")
    assert site.fetch(Source()) == DATA


@pytest.mark.parametrize("extra", [-1, 1, 5_000_000])
def test_an_answer_of_another_length_touches_nothing_and_is_asked_for_again(
    site: Site, extra: int
) -> None:
    """A captive portal answers everything: it must not make a version fail for good."""
    data = DATA[:extra] if extra < 0 else DATA + bytes(extra)
    site.partial.write_bytes(DATA[:1000])
    with pytest.raises(Retryable, match="in the answer, 300000 in the manifest"):
        site.fetch(Source(data))
    assert site.partial.read_bytes() == DATA[:1000]
    assert not site.done.exists()


def test_more_bytes_than_declared_never_reach_the_disk(site: Site, tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="more bytes than the manifest says"):
        site.fetch(Source(DATA + bytes(5_000_000), total=len(DATA)))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_needs_no_request(site: Site) -> None:
    empty = ManifestFile(path="empty", size=0, sha256=hashlib.sha256(b"").hexdigest())
    source = Source(b"")
    assert site.fetch(source, empty) == b""
    assert source.offsets == []


# Pieces with a digest of their own


def test_a_wrong_piece_is_found_as_it_ends_and_only_it_is_fetched_again(
    site: Site, small_pieces: int
) -> None:
    class OnceWrong(Source):
        def _chunks(self, start: int, until: int) -> Iterator[bytes]:
            for number, piece in enumerate(super()._chunks(start, until)):
                wrong = len(self.asked) == 1 and number == 2  # bytes 128000 to 192000
                yield bytes(len(piece)) if wrong else piece

    source = OnceWrong()
    assert site.fetch(source, with_chunks()) == DATA
    assert source.offsets == [0, 100_000]
    assert site.set_aside == []


def test_a_piece_that_stays_wrong_is_given_up_after_three_times(
    site: Site, small_pieces: int
) -> None:
    source = Source(DATA[:150_000] + bytes(len(DATA) - 150_000))
    with pytest.raises(Permanent, match="piece 1 with the sha256") as caught:
        site.fetch(source, with_chunks())
    assert caught.value.code == "digest-mismatch"
    assert source.offsets == [0, 100_000, 100_000]


@pytest.mark.parametrize("cut", [0, 1, 99_999, 100_000, 100_001, 250_000, len(DATA) - 1])
def test_after_a_power_cut_that_spoilt_the_end_at_most_one_piece_is_fetched_again(
    site: Site, small_pieces: int, cut: int
) -> None:
    source = Source()
    source.cut = cut
    with pytest.raises(Retryable):
        site.fetch(source, with_chunks())
    spoilt = bytearray(site.partial.read_bytes())
    spoilt[-10:] = bytes(min(10, len(spoilt)))
    site.partial.write_bytes(spoilt)
    site.restart()
    assert site.fetch(source, with_chunks()) == DATA
    # And what came with the read in which the piece ended.
    assert source.sent <= len(DATA) + small_pieces + 64_000
    assert site.set_aside == []


# Bytes already here


def test_a_file_that_this_disk_holds_is_not_fetched(site: Site, tmp_path: Path) -> None:
    site.hold(tmp_path / "held", DATA, FILE)
    source = Source()
    assert site.fetch(source) == DATA
    assert source.asked == []
    assert site.done.stat().st_nlink == 1
    assert site.done.stat().st_ino != (tmp_path / "held").stat().st_ino


def test_a_held_file_that_rotted_is_found_out_and_the_next_one_is_taken(
    site: Site, tmp_path: Path
) -> None:
    site.hold(tmp_path / "sound", DATA, FILE)
    site.hold(tmp_path / "rotten", b"x" + DATA[1:], FILE)
    source = Source()
    assert site.fetch(source) == DATA
    assert source.asked == []
    assert len(site.set_aside) == 1


def test_only_rotten_copies_cost_one_fetch_and_no_attempt(site: Site, tmp_path: Path) -> None:
    for number in range(MAX_MISMATCHES + 1):
        site.hold(tmp_path / f"rotten-{number}", bytes(len(DATA)), FILE)
    source = Source()
    assert site.fetch(source) == DATA
    assert source.offsets == [0]


def test_a_held_file_that_cannot_be_read_to_its_end_is_completed_by_the_network(
    site: Site, tmp_path: Path
) -> None:
    site.hold(tmp_path / "held", DATA, FILE)
    held = Held(manifest_of(FILE), site.places)
    os.truncate(tmp_path / "held", 120_000)
    source = Source()
    downloader = Downloader(
        source, clock=site.clock, limits=site.limits, should_pause=lambda: False
    )
    downloader.fetch(
        FILE,
        partial=site.partial,
        destination=site.done,
        held=held,
        set_aside=lambda path, reason: path.unlink(),
    )
    assert site.done.read_bytes() == DATA
    assert source.offsets == [120_000]


def test_a_disk_that_can_share_blocks_copies_nothing_and_hashes_all(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloned = []

    def share(source: int, destination: int) -> bool:
        os.pwrite(destination, os.pread(source, 1 << 20, 0), 0)
        cloned.append(destination)
        return True

    monkeypatch.setattr(partial, "clone", share)
    site.hold(tmp_path / "held", DATA, FILE)
    site.hold(tmp_path / "rotten", bytes(len(DATA)), FILE)
    assert site.fetch(Source()) == DATA
    assert len(cloned) == 2


def test_only_pieces_that_are_not_held_are_fetched(
    site: Site, small_pieces: int, tmp_path: Path
) -> None:
    other = DATA[:100_000] + bytes(100_000) + DATA[200_000:] + b"grown"
    site.hold(tmp_path / "old", other, with_chunks(other))
    source = Source()
    assert site.fetch(source, with_chunks()) == DATA
    assert source.asked == [(100_000, 200_000)]
    assert source.sent == 100_000


def test_a_held_piece_that_rotted_is_fetched(site: Site, small_pieces: int, tmp_path: Path) -> None:
    rotten = DATA[:150_000] + bytes(1) + DATA[150_001:]
    site.hold(tmp_path / "old", rotten + b"2", with_chunks(DATA + b"2"))
    source = Source()
    assert site.fetch(source, with_chunks()) == DATA
    assert source.asked == [(100_000, 200_000)]


def test_a_source_that_ignores_the_end_of_a_range_is_stopped_there(
    site: Site, small_pieces: int, tmp_path: Path
) -> None:
    site.hold(tmp_path / "tail", DATA[100_000:200_000], with_chunks(DATA[100_000:200_000]))
    source = Source(ranges=False)
    assert site.fetch(source, with_chunks()) == DATA
    assert source.asked == [(0, 100_000), (200_000, None)]


# Making way


def test_a_pause_keeps_what_arrived(site: Site) -> None:
    source = Source()
    site.should_pause = lambda: True
    with pytest.raises(Paused):
        site.fetch(source)
    assert site.partial.stat().st_size == 64_000
    site.should_pause = lambda: False
    assert site.fetch(source) == DATA
    assert source.offsets == [0, 64_000]


def test_reading_what_is_here_makes_way_too_and_is_not_begun_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "_READ_BYTES", 50_000)
    site.partial.write_bytes(DATA[:200_000])
    source = Source()
    site.should_pause = lambda: True
    for _ in range(4):
        with pytest.raises(Paused):
            site.fetch(source)
    site.should_pause = lambda: False
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr(partial.os, "pread", lambda fd, n, at: read.append(at) or pread(fd, n, at))
    assert site.fetch(source) == DATA
    assert read == []


# Time


def test_a_trickle_is_dropped_after_a_minute_and_what_came_is_kept(site: Site) -> None:
    class Trickle(Source):
        def _chunks(self, start: int, until: int) -> Iterator[bytes]:
            for at in range(start, until, 1000):
                site.clock.now += 1.0
                yield self.data[at : at + 1000]

    with pytest.raises(Retryable, match="stalled: 60000 bytes in 60 s") as caught:
        site.fetch(Trickle())
    assert caught.value.code == "download-failed"
    assert site.partial.stat().st_size == 60_000


def test_what_is_just_fast_enough_is_not_dropped(site: Site) -> None:
    class Slow(Source):
        def _chunks(self, start: int, until: int) -> Iterator[bytes]:
            for at in range(start, until, 1024):
                site.clock.now += 1.0
                yield self.data[at : at + 1024]

    assert site.fetch(Slow()) == DATA


def test_time_that_the_agent_takes_itself_is_not_the_links_fault(site: Site) -> None:
    def think() -> bool:
        site.clock.now += 600.0
        return False

    site.should_pause = think
    assert site.fetch(Source()) == DATA


def test_the_cap_holds_over_the_whole_download_and_over_the_next(site: Site) -> None:
    site.limits = Limits(bytes_per_second=10_000)
    began = site.clock.now
    site.fetch(Source())
    # A second's worth may come at once, and the last piece is paid for by whoever comes next.
    assert 20.0 <= site.clock.now - began <= 30.0
    site.fetch(Source())
    assert 50.0 <= site.clock.now - began <= 60.0


def test_a_capped_download_makes_way_while_it_waits(site: Site) -> None:
    site.limits = Limits(bytes_per_second=1000)
    source = Source()
    asked: list[float] = []

    def should_pause() -> bool:
        asked.append(site.clock.now)
        return len(asked) == 3

    site.should_pause = should_pause
    with pytest.raises(Paused):
        site.fetch(source)
    assert max(b - a for a, b in itertools.pairwise(asked)) <= 0.25


def test_progress_is_told_now_and_then(site: Site) -> None:
    source = Source()
    source.before_piece = lambda: setattr(site.clock, "now", site.clock.now + 6.0)
    site.fetch(source)
    assert site.told == [128_000, 256_000]


# The disk


def test_a_disk_that_fills_up_is_a_retryable_failure_with_numbers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [100_000]
    pwrite = os.pwrite

    def full(descriptor: int, data: bytes, at: int) -> int:
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, data, at)

    monkeypatch.setattr(partial.os, "pwrite", full)
    monkeypatch.setattr(durable, "free_bytes_at", lambda folder: 12)
    source = Source()
    with pytest.raises(Retryable) as caught:
        site.fetch(source)
    assert caught.value.code == "disk-full"
    assert "model.onnx of 300000 bytes" in caught.value.reason
    assert "12 bytes are free" in caught.value.reason
    room[0] = 1 << 30
    assert site.fetch(source) == DATA
    assert source.offsets == [0, 64_000]


def test_a_write_that_takes_less_than_it_was_given_loses_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(partial.os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7777], at))
    assert site.fetch(Source()) == DATA


def test_room_for_the_whole_is_taken_before_the_first_byte_and_the_length_says_what_came(
    site: Site,
) -> None:
    source = Source()
    seen: list[tuple[int, int]] = []

    def look() -> None:
        status = site.partial.stat()
        seen.append((status.st_size, status.st_blocks * 512))

    source.before_piece = look
    site.fetch(source)
    if seen[0][1] == 0:
        pytest.skip("this file system cannot take room in advance")
    assert seen[0][0] == 0
    assert seen[0][1] >= len(DATA)


def test_bytes_are_durable_before_the_file_gets_its_name(
    site: Site, monkeypatch: pytest.MonkeyPatch, small_pieces: int
) -> None:
    order: list[str] = []

    def note(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def call(first: object, *rest: object) -> object:
            target = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else first
            order.append(f"{name} {Path(str(target)).name}")
            return real(first, *rest)

        return call

    for name in ("fsync", "rename", "pwrite"):
        monkeypatch.setattr(os, name, note(name))
    source = Source()
    source.before_piece = lambda: setattr(site.clock, "now", site.clock.now + 1.0)
    site.fetch(source, with_chunks())
    wrote = "pwrite partial"
    assert order[-3:] == ["fsync partial", "rename partial", f"fsync {site.done.parent.name}"]
    # And on the way, at most a piece and what came with it is ever not yet durable.
    unsynced = [0]
    for step in order:
        unsynced.append(unsynced[-1] + 1 if step == wrote else 0)
    assert max(unsynced) <= 5  # 64 kB each, split at the ends of the pieces


def test_the_disk_begins_with_each_piece_as_it_ends(
    site: Site, monkeypatch: pytest.MonkeyPatch, small_pieces: int
) -> None:
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr(
        partial, "begin_writing", lambda descriptor, at, length: begun.append((at, length))
    )
    assert site.fetch(Source(), with_chunks()) == DATA
    assert begun == [(0, 100_000), (100_000, 100_000), (200_000, 100_000)]


@pytest.mark.parametrize("has_it", [True, False])
def test_a_system_that_cannot_begin_early_loses_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, has_it: bool
) -> None:
    if not has_it:
        monkeypatch.setattr(durable, "_sync_file_range", None)
    assert site.fetch(Source()) == DATA


def test_memory_does_not_grow_with_the_file(site: Site) -> None:
    class Endless(Source):
        def __init__(self, size: int) -> None:
            super().__init__(b"", total=size)

        def _chunks(self, start: int, until: int) -> Iterator[bytes]:
            piece = bytes(64_000)
            for at in range(start, self.total, 64_000):
                yield piece[: self.total - at]

    def peak(size: int) -> int:
        hasher = hashlib.sha256()
        for _ in range(size // 1_000_000):
            hasher.update(bytes(1_000_000))
        file = ManifestFile(path="big", size=size, sha256=hasher.hexdigest())
        site.restart()
        tracemalloc.start()
        try:
            site.downloader = Downloader(
                Endless(size), clock=site.clock, limits=site.limits, should_pause=lambda: False
            )
            site.downloader.fetch(
                file,
                partial=site.partial,
                destination=site.done,
                held=Held(manifest_of(file), []),
                set_aside=lambda path, reason: None,
            )
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1_000_000)
    assert peak(80_000_000) < 2 * peak(8_000_000) < 4_000_000
