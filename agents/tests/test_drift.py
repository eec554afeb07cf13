"""What somebody did by hand at the site: undone, or left and told, by the site's own rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fake_triton import Loaded
from versions import make_version
from waypost_agent.protocol import ModelReport
from world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Version 2 serves, version 1 is on disk."""
    world = World(tmp_path)
    for number in ("1", "2"):
        world.publish(make_version(number), previous="1")
        world.converge()
    world.lease_required = True
    world.leases.fate = "lose"
    return world


@pytest.fixture
def reporting(world: World) -> World:
    """The same at a site whose rule is to leave such things and tell."""
    world.corrects_drift = False
    world.start()
    world.poll()
    world.converge()
    return world


def load_by_hand(world: World, number: str, *, alone: bool = True) -> None:
    versions = world.triton.models["echo"]
    source = (world.folder / "repository/echo" / "1" / "model.py").read_text()
    versions[number] = Loaded("READY", source=source)
    if alone:
        unload_by_hand(world, "2")


def unload_by_hand(world: World, number: str) -> None:
    world.triton.models["echo"][number] = Loaded("UNAVAILABLE", reason="unloaded")


def edit_config(world: World) -> None:
    path = world.folder / "repository/echo/config.pbtxt"
    path.write_text(path.read_text().replace("versions: 2", "versions: 1"))


def settle(world: World) -> ModelReport:
    world.cycles(30)
    report = world.report()
    assert report is not None
    return report


BY_HAND: dict[str, Callable[[World], None]] = {
    "another version in its place": lambda world: load_by_hand(world, "1"),
    "an older version beside it": lambda world: load_by_hand(world, "1", alone=False),
    "a newer one beside it": lambda world: load_by_hand(world, "9", alone=False),
    "unloaded": lambda world: unload_by_hand(world, "2"),
    "the configuration edited": edit_config,
    "the configuration deleted": lambda world: (
        world.folder / "repository/echo/config.pbtxt"
    ).unlink(),
}


@pytest.mark.parametrize("act", BY_HAND.values(), ids=BY_HAND)
def test_it_is_undone_also_without_the_centre(world: World, act: Callable[[World], None]) -> None:
    world.blobs.reachable = False
    act(world)
    report = settle(world)
    assert (report.phase, report.serving, report.healthy) == ("succeeded", "2", True)
    assert world.triton.ready("echo") == {"2"}
    assert "versions: 2" in (world.folder / "repository/echo/config.pbtxt").read_text()


@pytest.mark.parametrize(
    ("name", "serving", "said"),
    [
        ("another version in its place", "1", "version 1 was loaded by hand, version 2 is wished"),
        ("a newer one beside it", "9", "version 9 was loaded by hand, version 2 is wished"),
        ("unloaded", None, "version 2 was unloaded by hand"),
    ],
)
def test_where_the_rule_says_so_it_is_left_and_told(
    reporting: World, name: str, serving: str | None, said: str
) -> None:
    BY_HAND[name](reporting)
    before = reporting.triton.ready("echo")
    loads = list(reporting.triton.loads)
    report = settle(reporting)
    assert (report.phase, report.reason_code, report.serving) == ("failed", "drift", serving)
    assert report.reason == said
    assert (reporting.triton.ready("echo"), reporting.triton.loads) == (before, loads)


@pytest.mark.parametrize("name", ["an older version beside it", "the configuration edited"])
def test_what_does_not_change_who_answers_is_left_and_no_failure(
    reporting: World, name: str
) -> None:
    BY_HAND[name](reporting)
    report = settle(reporting)
    assert (report.phase, report.serving, report.healthy) == ("succeeded", "2", True)
    assert "by hand" in report.reason


def test_a_restarted_server_is_nobodys_hand(reporting: World) -> None:
    reporting.triton.restart()
    report = settle(reporting)
    assert (report.phase, report.serving) == ("succeeded", "2")


def test_a_newer_wish_ends_what_was_done_by_hand(reporting: World) -> None:
    load_by_hand(reporting, "1")
    settle(reporting)
    reporting.leases.fate = "grant"
    reporting.publish(make_version("3"), previous="2")
    report = reporting.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "3")


def test_a_switch_that_a_wish_back_cut_short_is_nobodys_hand(reporting: World) -> None:
    reporting.leases.fate = "grant"
    reporting.publish(make_version("3"), previous="2")
    while reporting.triton.ready("echo") != {"3"}:
        reporting.cycles(1)
    reporting.publish(make_version("2"), previous="1", lease_required=False)
    report = reporting.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")


@pytest.mark.parametrize("corrects", [True, False])
def test_a_version_directory_that_was_deleted_is_fetched_again_by_either_rule(
    world: World, corrects: bool
) -> None:
    """It is what the next load needs; a lost file looks the same as one that somebody removed."""
    world.corrects_drift = corrects
    world.start()
    world.poll()
    for path in (world.folder / "repository/echo/2").iterdir():
        path.unlink()
    (world.folder / "repository/echo/2").rmdir()
    report = settle(world)
    assert (report.phase, report.serving, report.healthy) == ("succeeded", "2", True)
    assert (world.folder / "repository/echo/2/model.py").is_file()


def test_a_rule_that_is_changed_later_holds_for_what_was_left(reporting: World) -> None:
    load_by_hand(reporting, "1")
    assert settle(reporting).reason_code == "drift"
    reporting.corrects_drift = True
    reporting.start()
    reporting.poll()
    report = settle(reporting)
    assert (report.phase, report.serving) == ("succeeded", "2")
