"""Finds the processes a test started, by a mark in their environment or their command line."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def command_line(pid: int) -> str:
    """Empty for a process that is gone or a zombie."""
    with contextlib.suppress(OSError):
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    return ""


def marked(mark: str) -> dict[int, str]:
    """Live processes that carry `mark`, with their command lines; this one is left out."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes()
            line = command_line(int(entry.name))
            if line and (mark.encode() in environment or mark in line):
                found[int(entry.name)] = line
    return found


def children_of(pid: int) -> dict[int, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in parentheses may hold blanks; the parent is the second field after it.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == pid:
                    found[int(entry.name)] = command_line(int(entry.name))
    return found


def wait_until(
    look: Callable[[], T], *, seconds: float, what: str, end: Callable[[], str] = lambda: ""
) -> T:
    """What `look` returns as soon as it is true. Fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s. {end()}")
        time.sleep(0.1)
    return seen


def what_stays(look: Callable[[], dict[int, str]], *, seconds: float = 5) -> dict[int, str]:
    """What `look` still finds after a moment: the kernel closes the sockets of a process that ends
    before it takes the process off its list, and who waited for the socket is faster."""
    deadline = time.monotonic() + seconds
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def end_all(pids: dict[int, str]) -> None:
    """For the clean-up after a failed test only."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
