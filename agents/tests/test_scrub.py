"""What rots on disk while it serves: found a little at a time, reported, mended beside."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fake_triton import FakeClock
from versions import Version, make_version
from waypost_agent.limits import Limits
from waypost_agent.scrub import Scrub
from world import World

FIRST, WEEK = 100.0, 7 * 86_400.0
READ = ("model.py", "weights.bin")
BIG = {"weights.bin": bytes(100_000)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.limits = Limits(
        reserve_bytes=1000,
        stall_bytes_per_second=0,
        scrub_first_seconds=FIRST,
        scrub_every_seconds=WEEK,
        scrub_turn_bytes=30_000,
        scrub_turn_seconds=5.0,
    )
    world.start()
    return world


def rot(world: World, version: str, *, name: str = "weights.bin") -> Path:
    """One bit of the file flips; its length and its time stay."""
    file = world.folder / "repository/echo" / version / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    file.chmod(0o444)
    return file


def pass_time(world: World, seconds: float) -> None:
    until = world.clock.now + seconds
    while world.clock.now < until:
        world.cycles(1)


def serve(world: World, *numbers: str) -> None:
    for number in numbers:
        previous = str(int(number) - 1) if number != numbers[0] else None
        world.publish(make_version(number, extra=BIG), previous=previous)
        world.converge()


def test_a_pass_reads_every_byte_in_turns_of_a_bounded_size(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(world, "1", "2")
    clock = FakeClock()
    scrub = Scrub(world.store, clock=clock, limits=world.limits)
    read: list[int] = []

    class Counting:
        def __init__(self) -> None:
            self.real = hashlib.sha256()
            self.hexdigest = self.real.hexdigest

        def update(self, data: bytes) -> None:
            read.append(len(data))
            self.real.update(data)

    monkeypatch.setattr("waypost_agent.scrub.hashlib", SimpleNamespace(sha256=Counting))
    clock.now += FIRST - 1
    assert scrub.turn() is None
    assert read == []
    clock.now += 1
    turns = []
    while not turns or turns[-1]:
        read.clear()
        assert scrub.turn() is None
        assert scrub.turn() is None  # not its time yet: reads nothing
        turns.append(sum(read))
        clock.now += 5.0
    payload = [d for v in "12" for n, d in make_version(v, extra=BIG).files.items() if n in READ]
    assert sum(turns) == sum(map(len, payload))
    assert set(turns[:-2]) == {30_000}
    # The next pass begins a week later.
    clock.now += WEEK - 11.0
    scrub.turn()
    assert read == []
    clock.now += 1.0
    scrub.turn()
    assert sum(read) == 30_000


def test_what_serves_goes_on_serving_is_reported_and_a_sound_copy_lies_beside(
    world: World,
) -> None:
    serve(world, "1")
    file = rot(world, "1")
    rotten = file.read_bytes()
    fetched = len(world.blobs.opened)
    pass_time(world, 300.0)
    report = world.report()
    assert report is not None
    assert (report.phase, report.serving, report.healthy) == ("succeeded", "1", True)
    assert report.reason_code == "digest-mismatch"
    assert "weights.bin does not have the bytes" in report.reason
    assert "a sound copy lies beside" in report.reason
    # Not touched under the loaded model; only the file that rotted was fetched.
    assert file.read_bytes() == rotten
    assert world.triton.loads == [("echo", "1")]
    assert len(world.blobs.opened) == fetched + 1


def test_the_copy_is_taken_before_the_next_load_without_the_network(world: World) -> None:
    serve(world, "1")
    file = rot(world, "1")
    pass_time(world, 300.0)
    world.blobs.reachable = False
    world.triton.restart()
    pass_time(world, 60.0)
    report = world.report()
    assert report is not None
    assert (report.phase, report.serving, report.reason_code) == ("succeeded", "1", "ok")
    assert file.read_bytes() == BIG["weights.bin"]
    assert world.triton.unproven == []


def test_while_there_is_no_network_the_damage_is_said_and_nothing_is_worse(world: World) -> None:
    serve(world, "1")
    rot(world, "1")
    world.blobs.reachable = False
    pass_time(world, 300.0)
    report = world.report()
    assert report is not None
    assert (report.phase, report.healthy, report.reason_code) == (
        "succeeded",
        True,
        "digest-mismatch",
    )
    assert "is fetched beside" in report.reason
    world.blobs.reachable = True
    pass_time(world, 100.0)
    assert world.store.unmended("echo") == frozenset()


def test_a_rotten_previous_version_is_put_right_at_once(world: World) -> None:
    serve(world, "1", "2")
    file = rot(world, "1", name="model.py")
    pass_time(world, 300.0)
    assert file.read_bytes() == make_version("1", extra=BIG).files["model.py"]
    assert world.store.damaged("echo") == {}
    report = world.report()
    assert report is not None
    assert (report.phase, report.serving, report.reason_code) == ("succeeded", "2", "ok")


def test_a_file_that_cannot_be_read_is_damage_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(world, "1")
    scrub = Scrub(world.store, clock=world.clock, limits=world.limits)
    world.clock.now += FIRST

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("waypost_agent.scrub.os.posix_fadvise", fail)
    found = scrub.turn()
    assert found is not None
    assert "cannot be read: Input/output error" in found.reason


def test_a_version_that_is_replaced_or_removed_in_the_middle_of_a_pass_is_no_damage(
    world: World,
) -> None:
    serve(world, "1", "2")
    clock = FakeClock()
    scrub = Scrub(world.store, clock=clock, limits=world.limits)
    clock.now += FIRST
    file = rot(world, "1")
    for _ in range(2):
        assert scrub.turn() is None
        clock.now += 5.0
    file.parent.chmod(0o755)
    file.rename(world.folder / "elsewhere")
    file.write_bytes(BIG["weights.bin"])
    world.store.remove_version("echo", "2")
    for _ in range(10):
        assert scrub.turn() is None
        clock.now += 5.0


CHECKPOINTS = ("damage-noted", "mended", "download-started", "file-verified")


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_killed_while_mending_what_serves_the_copy_is_still_made(
    world: World, checkpoint: str
) -> None:
    serve(world, "1")
    file = rot(world, "1")
    rotten = file.read_bytes()
    kill_at(world, checkpoint)
    pass_time(world, 300.0)
    assert world.store.unmended("echo") == frozenset()
    assert set(world.store.damaged("echo")) == {"1"}
    assert file.read_bytes() == rotten
    assert world.triton.loads == [("echo", "1")]
    world.triton.restart()
    pass_time(world, 60.0)
    assert file.read_bytes() == BIG["weights.bin"]
    assert world.triton.ready("echo") == {"1"}


@pytest.mark.parametrize("checkpoint", [*CHECKPOINTS, "recorded", "installed"])
def test_killed_while_mending_what_does_not_serve_it_is_still_put_right(
    world: World, checkpoint: str
) -> None:
    serve(world, "1", "2")
    file = rot(world, "1")
    kill_at(world, checkpoint)
    pass_time(world, 300.0)
    assert file.read_bytes() == BIG["weights.bin"]
    assert world.store.damaged("echo") == {}
    assert world.triton.ready("echo") == {"2"}


@pytest.mark.parametrize("checkpoint", ["set-aside", "recorded", "installed"])
def test_killed_while_a_damaged_version_is_set_aside_it_is_still_fetched_and_served(
    world: World, checkpoint: str
) -> None:
    serve(world, "1")
    rot(world, "1")
    world.triton.restart()
    kill_at(world, checkpoint)
    world.converge()
    assert world.triton.ready("echo") == {"1"}
    assert world.triton.unproven == []


def kill_at(world: World, checkpoint: str) -> None:
    """Run until the agent dies at the checkpoint; a new one is started."""
    passed = len(world.passed_checkpoints)

    def count_down(name: str) -> None:
        if name == checkpoint:
            world._die_after = 1  # the world dies right after this call

    world.at_checkpoint = count_down
    for _ in range(5000):
        world.cycles(1, die_after=1 << 30)
        if checkpoint in world.passed_checkpoints[passed:]:
            world.at_checkpoint = lambda name: None
            return
    raise AssertionError(f"never came to {checkpoint}")


# A disk that spoils whatever is written to it


def test_a_version_damaged_each_time_it_was_fetched_fails_with_a_code_of_its_own(
    world: World,
) -> None:
    serve(world, "1")

    def spoil(name: str) -> None:
        if name == "installed":
            rot(world, "2")

    world.at_checkpoint = spoil
    world.publish(make_version("2", extra=BIG), previous="1")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "digest-mismatch")
    assert "4 times in a row" in report.reason
    assert (report.serving, report.healthy) == ("1", True)
    assert world.passed_checkpoints.count("set-aside") == 4
    # The sound bytes were on this disk all the time: each file crossed the network once.
    assert len([sha for sha, _ in world.blobs.opened]) == len(set(world.blobs.opened))


def test_pieces_that_are_right_one_by_one_do_not_stand_for_a_whole_that_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a manifest at odds with itself has that: it must end in words, with nothing loaded."""
    for module in ("manifest", "pieces", "download"):
        monkeypatch.setattr(f"waypost_agent.{module}.CHUNK_BYTES", 60_000)
    serve(world, "1")
    data, pieces = b"c" * 100_000, [b"a" * 60_000, b"b" * 40_000]

    class AtOdds(Version):
        @property
        def manifest(self) -> dict[str, Any]:
            document = super().manifest
            (entry,) = (each for each in document["files"] if each["path"] == "weights.bin")
            entry["chunks"] = [hashlib.sha256(piece).hexdigest() for piece in pieces]
            return document

    world.publish(
        AtOdds(number="2", files=make_version("2", extra={"weights.bin": data}).files), previous="1"
    )
    world.blobs.data[hashlib.sha256(data).hexdigest()] = b"".join(pieces)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "digest-mismatch")
    assert (report.serving, report.healthy) == ("1", True)


def test_more_versions_are_kept_where_the_site_says_so(world: World) -> None:
    world.limits = replace(world.limits, keep_versions=4)
    world.start()
    serve(world, "1", "2", "3", "4", "5")
    world.cycles(5)
    folder = world.folder / "repository/echo"
    assert {entry.name for entry in folder.iterdir()} == {"2", "3", "4", "5", "config.pbtxt"}


def test_how_far_a_download_is_is_said_now_and_then(world: World) -> None:
    world.blobs.between_pieces = lambda: setattr(world.clock, "now", world.clock.now + 1.0)
    said: list[str] = []
    world.seat.show = lambda **shown: said.extend(m.reason for m in shown["models"])  # type: ignore[method-assign]
    world.publish(make_version("1", extra=BIG))
    world.converge()
    told = [reason for reason in said if "are on this server" in reason]
    assert 5 <= len(told) <= 12
    assert told[0].partition(" ")[0] < told[-1].partition(" ")[0]
