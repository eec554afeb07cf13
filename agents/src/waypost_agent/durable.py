"""Writes that survive a power cut: temp file, fsync, rename, fsync of the folder, in that order.

Also says what an error of the disk means. Knows nothing of what is written.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waypost_agent.errors import DISK_FULL, STORE_FAILED, Retryable

_KEEP_SIZE = 1  # linux/falloc.h
_FICLONE = 0x40049409  # linux/fs.h
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate", None)
_sync_file_range = getattr(_libc, "sync_file_range", None)


@contextmanager
def disk_errors(what: str, *, at: Path | None = None) -> Iterator[None]:
    """Turn errors of the disk into retryable failures that say what was being done.

    `at` is a folder on the disk in question, for the number of bytes that are free there.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise Retryable(
                STORE_FAILED, f"the disk failed while {what}: {error.strerror}"
            ) from error
        free = "" if at is None else f", {free_bytes_at(at)} bytes are free"
        raise Retryable(
            DISK_FULL, f"the disk is full while {what}: {error.strerror}{free}"
        ) from error


def free_bytes_at(folder: Path) -> int:
    """Bytes an ordinary user may still write on the file system of `folder`."""
    usage = os.statvfs(folder)
    return usage.f_bavail * usage.f_frsize


def allocate(descriptor: int, size: int) -> None:
    """Take room for `size` bytes now, so that no other writer can have it; the length stays.

    Nothing happens where the file system cannot. Raises `OSError` when the room is not there.
    """
    # posix_fallocate would set the length as well, and the length says how much has arrived.
    if size == 0 or _fallocate is None:
        return
    if _fallocate(descriptor, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size)) == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise OSError(number, os.strerror(number))


def begin_writing(descriptor: int, offset: int, length: int) -> None:
    """Let the disk begin with these bytes, so that the `fsync` at the end has less to wait for. A
    hint: nothing is durable by it, and nothing is lost where there is none."""
    if _sync_file_range is not None:
        at, count = ctypes.c_int64(offset), ctypes.c_int64(length)
        _sync_file_range(descriptor, at, count, _SYNC_FILE_RANGE_WRITE)


def clone(source: int, destination: int) -> bool:
    """Let `destination` share the blocks of `source` (two descriptors); False where it cannot."""
    try:
        fcntl.ioctl(destination, _FICLONE, source)
    except OSError:
        return False
    return True


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
