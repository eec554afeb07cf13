"""Writes that survive a power cut: temp file, fsync, rename, fsync of the folder, in that order.

Also says what an error of the disk means. Knows nothing of what is written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waypost_agent.errors import DISK_FULL, STORE_FAILED, Retryable


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn errors of the disk into retryable failures that say what was being done."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Retryable(
            DISK_FULL if full else STORE_FAILED,
            f"{'the disk is full' if full else 'the disk failed'} while {what}: {error.strerror}",
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names inside `folder` durable; a rename alone is not until its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(
    path: Path, data: bytes, *, mode: int = 0o644, temporary_in: Path | None = None
) -> None:
    """Replace `path` by `data` as one step: a reader and a power cut see the old or the new bytes.

    `temporary_in` is a folder on the same file system for the unfinished file; give one where a
    stray file beside `path` would do harm (Triton reloads a model whose folder changes).
    """
    temporary = (temporary_in or path.parent) / f".{path.parent.name}.{path.name}.new"
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask took away
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_folder(folder: Path, *, mode: int = 0o755) -> None:
    """Create `folder` and its parents where missing, each name durable."""
    if folder.is_dir():
        return
    make_folder(folder.parent, mode=mode)
    folder.mkdir(exist_ok=True)
    folder.chmod(mode)  # whatever the umask took away: Triton's user must get in
    sync_folder(folder.parent)
