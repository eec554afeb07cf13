"""A disk that is really full: a small tmpfs, for root only; nothing crashes, nothing is half."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from versions import make_version
from waypost_agent import partial
from waypost_agent.clock import SystemClock
from waypost_agent.download import Downloader
from waypost_agent.errors import Retryable
from waypost_agent.held import Held
from waypost_agent.limits import Limits
from waypost_agent.manifest import Manifest, ManifestFile
from world import FakeBlobs, World

SIZE = 6 << 20
BIG = {"weights.bin": os.urandom(2 << 20)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk to fill it")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "waypost-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def world(disk: Path) -> World:
    world = World(disk)
    world.publish(make_version("1"))
    world.converge()
    return world


def fill(disk: Path, leave: int) -> Path:
    """Somebody else's file takes all but `leave` bytes."""
    filler = disk / "filler"
    status = os.statvfs(disk)
    count = status.f_bavail * status.f_frsize - leave
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(count, 1))
    return filler


def report_of(world: World) -> tuple[str, str | None, str, str]:
    report = world.report()
    assert report is not None
    return report.phase, report.serving, report.reason_code, report.reason


def test_without_room_for_the_whole_no_byte_is_asked_for(world: World, disk: Path) -> None:
    world.free_bytes = 1 << 40  # the look lies; the disk does not
    filler = fill(disk, 1 << 20)
    opened = len(world.blobs.opened)
    world.publish(make_version("2", extra=BIG), previous="1")
    world.cycles(20)
    phase, serving, code, reason = report_of(world)
    assert (phase, serving, code) == ("pending", "1", "disk-full")
    assert "weights.bin of 2097152 bytes" in reason
    assert "bytes are free" in reason
    small = [sha for sha, _ in world.blobs.opened[opened:]]
    assert len(small) <= 3  # the small files; of the big one nothing
    filler.unlink()
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")


def test_room_once_taken_cannot_be_had_by_others(world: World, disk: Path) -> None:
    fillers: list[Path] = []

    def grab() -> None:
        partials = disk.glob("state/staging/*/*/partial/*")
        if not fillers and any(path.stat().st_blocks * 512 >= 2 << 20 for path in partials):
            fillers.append(fill(disk, 64 << 10))

    world.blobs.between_pieces = grab
    world.publish(make_version("2", extra=BIG), previous="1")
    world.cycles(3)
    assert fillers
    staged = list(disk.glob("state/staging/echo/*/payload/weights.bin"))
    installed = list(disk.glob("repository/echo/2/weights.bin"))
    assert [path.stat().st_size for path in staged + installed] == [2 << 20]


def test_a_disk_that_fills_up_in_mid_file_waits_and_goes_on_where_it_was(
    world: World, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "allocate", lambda descriptor, size: None)  # as on NFS
    pieces = 0
    fillers: list[Path] = []

    def grab() -> None:
        nonlocal pieces
        pieces += 1
        if pieces == 1000:
            fillers.append(fill(disk, 128 << 10))

    world.blobs.between_pieces = grab
    world.publish(make_version("2", extra=BIG), previous="1")
    world.cycles(10)
    assert report_of(world)[:3] == ("pending", "1", "disk-full")
    assert "0 bytes are free" in report_of(world)[3]
    (unfinished,) = (
        path for path in disk.glob("state/staging/*/*/partial/*") if path.stat().st_size > 900_000
    )
    here = unfinished.stat().st_size
    fillers[0].unlink()
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")
    assert any(offset == here for _, offset in world.blobs.opened)


@pytest.mark.parametrize("leave", [0, 4096, 8192, 16384, 32768, 65536])
def test_a_disk_that_is_full_at_any_point_neither_crashes_nor_touches_what_serves(
    world: World, disk: Path, leave: int
) -> None:
    filler = fill(disk, leave)
    world.publish(make_version("2"), previous="1")
    for _ in range(30):
        world.cycles(1)
        assert world.triton.ready("echo") in ({"1"}, {"2"})
    world.start()
    world.poll()
    world.cycles(10)
    filler.unlink()
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving, report.healthy) == ("succeeded", "2", True)
    assert world.triton.unproven == []


def test_a_disk_that_fills_up_under_two_connections_costs_a_chunk_of_each_at_most(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "allocate", lambda descriptor, size: None)  # as on NFS
    for name in ("pieces.CHUNK_BYTES", "download.CHUNK_BYTES", "download._LEAST_JOB_BYTES"):
        monkeypatch.setattr(f"waypost_agent.{name}", 100_000)
    data = BIG["weights.bin"]
    file = ManifestFile(
        path="weights.bin",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        chunks=tuple(
            hashlib.sha256(data[at : at + 100_000]).hexdigest()
            for at in range(0, len(data), 100_000)
        ),
    )
    blobs, lock, fillers = FakeBlobs(), threading.Lock(), list[Path]()
    blobs.data[file.sha256] = data
    pieces = 0

    def grab() -> None:
        nonlocal pieces
        with lock:
            pieces += 1
            if pieces == 800:
                fillers.append(fill(disk, 64 << 10))

    blobs.between_pieces = grab
    downloader = Downloader(
        blobs,
        clock=SystemClock(),
        limits=Limits(stall_bytes_per_second=0),
        should_pause=lambda: False,
        connections=2,
    )

    def fetch() -> None:
        downloader.fetch(
            file,
            partial=disk / "partial",
            destination=disk / "done",
            held=Held(Manifest(files=(file,), document={}, digest=""), []),
            set_aside=lambda path, why: None,
        )

    with pytest.raises(Retryable) as caught:
        fetch()
    assert caught.value.code == "disk-full"
    assert "0 bytes are free" in caught.value.reason
    fillers[0].unlink()
    fetch()
    assert (disk / "done").read_bytes() == data
    # Of 1,000 bytes. After an error of the disk all is hashed anew, as nobody knows what it lost.
    assert pieces <= len(data) // 1000 + 2 * 100 + 20
