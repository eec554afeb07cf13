"""The power goes at any moment of a rollout; what comes up again is whole and goes on.

Only what a sync made durable is there afterwards. Needs root; skips with a message elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from power_cut import copy_image, make_disk, mounted, run_until_cut
from versions import Version, make_version
from waypost_agent import durable
from waypost_agent.identity import Identity, Membership
from world import World

OLD = make_version("1", extra={"weights.bin": b"1" * 70_000})
NEW = make_version("2", extra={"weights.bin": b"2" * 70_000})
EVERY = 3  # a cut before every third call that changes the disk, each kind from another start

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk on which version 1 is verified and serves."""
    folder = tmp_path_factory.mktemp("power")
    image = folder / "base.img"
    make_disk(image)
    with mounted(image, folder / "disk") as disk:
        world = World(disk)
        world.publish(OLD)
        world.converge()
    return image


def roll_out(disk: Path, say: Callable[[str], None]) -> None:
    """A life of the agent: Triton started empty, version 2 is wished, until it is verified."""
    world = came_up(disk)
    world.at_checkpoint = say
    world.publish(NEW, previous="1")
    report = world.converge()
    assert report is not None
    assert report.serving == "2"


def came_up(disk: Path) -> World:
    world = World(disk)
    world.publish(OLD)
    return world


def is_whole(disk: Path, version: Version) -> bool:
    folder = disk / "repository/echo" / version.number
    return all(
        (folder / name).is_file()
        and hashlib.sha256((folder / name).read_bytes()).digest() == hashlib.sha256(data).digest()
        for name, data in version.files.items()
        if name not in ("config.pbtxt", "golden.json")
    )


def check_disk(disk: Path, said: list[str], moment: int) -> None:
    """Before anybody has mended anything."""
    assert is_whole(disk, OLD), moment
    world = World(disk)
    committed = world.record().committed
    assert committed is not None, moment
    if "committed" in said:
        assert committed.version == "2", f"{moment}: acknowledged and lost"
    config = (disk / "repository/echo/config.pbtxt").read_text()
    named = "2" if "versions: 2" in config else "1"
    assert is_whole(disk, OLD if named == "1" else NEW), f"{moment}: config names half a version"
    visible = disk / "repository/echo/2"
    if committed.version == "2":
        assert is_whole(disk, NEW), f"{moment}: the journal names half a version"
    if visible.exists():
        assert is_whole(disk, NEW), f"{moment}: a version folder is half there"


def check_goes_on(disk: Path, moment: int) -> None:
    """With the centre gone what was verified serves again; with it back the wish is fulfilled."""
    world = World(disk)
    committed = world.record().committed
    assert committed is not None
    world.blobs.reachable = False
    world.cycles(30)
    # Version 2 too, where it was proven before the cut: it needs nobody.
    assert world.triton.ready("echo") in ({committed.version}, {"2"}), f"{moment}: dark"
    world.blobs.reachable = True
    world.publish(OLD)
    world.publish(NEW, previous="1")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2"), moment
    assert is_whole(disk, NEW), moment


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "first"), [("ordered", 1), ("writeback", 3)])
def test_after_a_power_cut_the_disk_names_only_what_is_whole(
    base: Path, tmp_path: Path, kind: str, first: int
) -> None:
    cuts, moment, was_cut = 0, first, True
    while was_cut:
        image = tmp_path / "site.img"
        copy_image(base, image)
        left, said, was_cut = run_until_cut(image, tmp_path / "disk", kind, roll_out, moment)
        with mounted(left, tmp_path / "after", kind) as disk:
            check_disk(disk, said, moment)
            check_goes_on(disk, moment)
        left.unlink()
        cuts += was_cut
        moment += EVERY
    assert cuts > 10


@pytest.mark.timeout(300)
def test_a_power_cut_while_joining_keeps_the_key_that_the_centre_has_bound(tmp_path: Path) -> None:
    def join(disk: Path, say: Callable[[str], None]) -> None:
        identity = Identity(disk / "state")
        say(f"bound={identity.public_key()}")  # sent to the centre, which binds it
        membership = Membership(
            centre_url="https://centre.example",
            agent="a",
            site="edge-1",
            poll_seconds=15.0,
            token_sha256="",
        )
        identity.save_membership(membership)
        say(f"counter={identity.next_session_counter()}")

    moment, was_cut = 1, True
    empty = tmp_path / "empty.img"
    make_disk(empty)
    while was_cut:
        image = tmp_path / "join.img"
        copy_image(empty, image)
        left, said, was_cut = run_until_cut(image, tmp_path / "disk", "writeback", join, moment)
        words = dict(word.split("=", 1) for word in said)
        with mounted(left, tmp_path / "after", "writeback") as disk:
            if "bound" in words:
                assert Identity(disk / "state").public_key() == words["bound"], moment
            if "counter" in words:
                assert Identity(disk / "state").next_session_counter() > int(words["counter"])
        left.unlink()
        moment += 1
    assert moment > 10


@pytest.mark.timeout(300)
def test_without_syncs_the_power_cut_is_seen(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: files that are renamed before their bytes are durable."""

    def roll_out_unsynced(disk: Path, say: Callable[[str], None]) -> None:
        durable.os.fsync = lambda descriptor: None
        roll_out(disk, say)

    image = tmp_path / "site.img"
    copy_image(base, image)
    left, said, _ = run_until_cut(image, tmp_path / "disk", "writeback", roll_out_unsynced, None)
    with (
        mounted(left, tmp_path / "after", "writeback") as disk,
        pytest.raises((AssertionError, ValueError, OSError)),
    ):
        check_disk(disk, said, 0)
