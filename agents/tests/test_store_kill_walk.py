"""SIGKILL at every call that changes the disk, from the first folder to the installed version.

A real process dies before each call in turn; the next one must converge, and what served before
must never be touched.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from versions import Version, make_version
from world import World

CALLS = ("rename", "mkdir", "unlink", "rmdir", "pwrite")  # what the next process can see
OLD = make_version("1", extra={"shared.bin": b"in both", "old.bin": b"1" * 3000})
NEW = make_version("2", extra={"shared.bin": b"in both", "deep/new.bin": b"2" * 3000})


def run_until_installed(world: World, die_at: int | None) -> int:
    """Fetch and install what is wished; the number of changing calls, of which `die_at` is the one
    to die at."""
    count = 0

    def wrap(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal count
            count += 1
            if count == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, wrap(getattr(os, name)))
        while "installed" not in world.passed_checkpoints:
            world.cycles(1)
    return count


def prepared(folder: Path) -> World:
    folder.mkdir()
    world = World(folder)
    world.publish(OLD)
    world.converge()
    world.passed_checkpoints.clear()
    world.publish(NEW, previous="1")
    return world


def killed(world: World, die_at: int) -> None:
    child = os.fork()
    if child == 0:
        try:
            run_until_installed(world, die_at)
        finally:
            os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def is_whole(world: World, version: Version) -> bool:
    folder = world.folder / "repository/echo" / version.number
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    return found == {
        name: data
        for name, data in version.files.items()
        if name not in ("config.pbtxt", "golden.json")
    }


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child runs no thread
def test_killed_at_any_call_the_next_process_installs_the_version(tmp_path: Path) -> None:
    calls = run_until_installed(prepared(tmp_path / "whole"), None)
    assert calls > 30
    for moment in range(1, calls + 1):
        world = prepared(tmp_path / f"at{moment}")
        killed(world, moment)
        assert is_whole(world, OLD), moment
        visible = world.folder / "repository/echo/2"
        assert not visible.exists() or is_whole(world, NEW), moment
        world.start()
        world.poll()
        report = world.converge()
        assert report is not None
        assert (report.phase, report.serving) == ("succeeded", "2"), moment
        assert is_whole(world, NEW), moment
        assert world.triton.unproven == [], moment
        world.cycles(3)
        assert not list((world.folder / "state/staging").glob("*/*")), moment
        links = [path.stat().st_nlink for path in visible.rglob("*") if path.is_file()]
        assert set(links) == {1}, moment
