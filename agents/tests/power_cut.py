"""A disk that loses its power: an ext4 image, copied while the one who writes to it stands still.

What the kernel holds in memory for the mounted file system is not in the copy, as it would not be
on the platter; mounting the copy replays the file system's own journal. Two things are not shown:
a drive that loses its own cache, and a cut in the middle of one sector. Needs root and a loop.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

IMAGE_BYTES = 24 << 20
# The default hides the worst mistake (a name that is durable before its bytes are); the other does
# not: what it keeps in order, it keeps because somebody asked.
KIND = {"ordered": "data=ordered", "writeback": "data=writeback,noauto_da_alloc"}
# Every call that changes the disk or makes a change durable: a cut falls between two of them.
CALLS = ("rename", "mkdir", "unlink", "rmdir", "pwrite", "fsync")


def make_disk(image: Path) -> None:
    """An empty ext4 file system in a file. Skips the test where one cannot be made or mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount an image to cut its power")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is missing: install e2fsprogs")
    with open(image, "wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-J", "size=4", str(image)], check=True)


@contextmanager
def mounted(image: Path, at: Path, kind: str = "ordered") -> Iterator[Path]:
    """The file system of `image` at the folder `at`."""
    at.mkdir(exist_ok=True)
    mount = ["mount", "-o", f"loop,{KIND[kind]}", str(image), str(at)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"an image cannot be mounted here: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def copy_image(image: Path, to: Path) -> None:
    subprocess.run(["cp", "--sparse=always", str(image), str(to)], check=True)


def run_until_cut(
    image: Path,
    at: Path,
    kind: str,
    body: Callable[[Path, Callable[[str], None]], None],
    cut_at: int | None,
) -> tuple[Path, list[str], bool]:
    """Run `body(folder, say)` in a process of its own; the power goes before its `cut_at`th call.

    Returns the disk as the cut left it, what `body` had said by then, and whether it was cut at
    all (False: it had ended before).
    """
    left = image.with_name(f"{image.stem}-after-{cut_at}.img")
    reader, writer = os.pipe()
    with mounted(image, at, kind) as folder:
        child = os.fork()
        if child == 0:
            os.close(reader)
            _run_and_stop(folder, body, cut_at, writer)
        os.close(writer)
        _, status = os.waitpid(child, os.WUNTRACED)
        stopped = os.WIFSTOPPED(status)
        copy_image(image, left)
        if stopped:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        else:
            assert os.waitstatus_to_exitcode(status) == 0, "the workload failed by itself"
        with os.fdopen(reader) as said:
            words = said.read().split()
    return left, words, stopped


def _run_and_stop(
    folder: Path,
    body: Callable[[Path, Callable[[str], None]], None],
    cut_at: int | None,
    writer: int,
) -> None:
    count = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal count
            count += 1
            if count == cut_at:
                os.kill(os.getpid(), signal.SIGSTOP)
            return real(*arguments, **named)

        return call

    status = 7
    try:
        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        body(folder, lambda word: void(os.write(writer, f"{word}\n".encode())))
        status = 0
    finally:
        os._exit(status)


def void(_: object) -> None:
    """Drops a value."""
