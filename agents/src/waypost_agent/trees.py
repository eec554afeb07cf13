"""Folders of plain files: their sizes, sealing them, removing them. Follows no link.

Knows nothing of models and versions.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from waypost_agent.durable import sync_folder
from waypost_agent.manifest import CACHE_FOLDER

_log = logging.getLogger(__name__)


def entries(folder: Path) -> Iterator[Path]:
    """What lies in a folder; nothing when it is not there."""
    return folder.iterdir() if folder.is_dir() else iter(())


def has_size(path: Path, size: int) -> bool:
    """Whether this is a plain file (no link) of that size in bytes."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def sizes(folder: Path) -> dict[str, int] | None:
    """Sizes by path of a tree of plain files, None when it is anything else. Caches are skipped."""
    sizes: dict[str, int] = {}
    if folder.is_symlink() or not folder.is_dir():
        return None
    for entry in _walk(folder):
        status = entry.lstat()
        if stat.S_ISDIR(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode):
            return None
        sizes[entry.relative_to(folder).as_posix()] = status.st_size
    return sizes


def bytes_in(path: Path) -> int:
    """What a file or the plain files of a tree take, by their lengths."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(bytes_in(entry) for entry in path.iterdir())


def _walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name == CACHE_FOLDER:
            continue
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)


def drop_caches(folder: Path) -> None:
    """Bytecode that no manifest covers must not run in place of the source that one does."""
    for cache in [path for path in folder.rglob(CACHE_FOLDER) if not path.is_symlink()]:
        parent_mode = stat.S_IMODE(cache.parent.stat().st_mode)
        cache.parent.chmod(parent_mode | stat.S_IWUSR)
        try:
            remove(cache)
        except PermissionError:
            # Written by another user: only root or the server itself can, and both run the model.
            _log.warning("cannot remove %s; it belongs to another user", cache)
        finally:
            cache.parent.chmod(parent_mode)


def seal(payload: Path) -> None:
    """Make every file and folder below `payload` read-only and durable; itself stays movable."""
    for entry in sorted(payload.rglob("*"), reverse=True):
        if entry.is_dir():
            entry.chmod(0o555)
            sync_folder(entry)
            continue
        entry.chmod(0o444)
        with open(entry, "rb") as file:
            os.fsync(file.fileno())
    payload.chmod(0o755)
    sync_folder(payload)


def remove(path: Path) -> None:
    """Remove a tree, also a sealed one. Nothing there is fine. Links are not followed."""
    if path.is_symlink() or path.is_file():
        path.unlink()
        return
    if not path.is_dir():
        return
    path.chmod(0o755)
    for entry in path.rglob("*"):
        if entry.is_dir() and not entry.is_symlink():
            entry.chmod(0o755)
    shutil.rmtree(path)
