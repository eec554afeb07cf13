"""Fetches one file by its digest, from where the last attempt was cut, and checks every byte.

Decides what to do with wrong lengths and wrong bytes. Knows nothing of models or of HTTP.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from waypost_agent.durable import disk_errors, sync_folder
from waypost_agent.errors import DIGEST_MISMATCH, Paused, Permanent
from waypost_agent.manifest import ManifestFile
from waypost_agent.ports import BlobPart, BlobSource

# A digest that does not match is either a cut cable's work or a wrong file; the first heals.
MAX_MISMATCHES = 3
_CHUNK_BYTES = 1 << 20

OpenFile = Callable[[Path, str], BinaryIO]


class _Mismatch(Exception):
    """The whole file is here and is not the one that was asked for."""


def open_file(path: Path, mode: str) -> BinaryIO:
    return open(path, mode)  # type: ignore[return-value]  # only binary modes are passed


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(
    source: BlobSource,
    file: ManifestFile,
    *,
    partial: Path,
    destination: Path,
    should_pause: Callable[[], bool],
    opener: OpenFile = open_file,
) -> None:
    """Put the verified bytes of `file` at `destination`, durably.

    `partial` keeps what arrived for the next attempt, whatever happens. Raises `Retryable`,
    `Permanent` (`digest-mismatch`) after `MAX_MISMATCHES`, and `Paused`.
    """
    for attempt in range(1, MAX_MISMATCHES + 1):
        try:
            _download_once(source, file, partial, should_pause, opener)
            break
        except _Mismatch as error:
            partial.unlink(missing_ok=True)
            if attempt == MAX_MISMATCHES:
                raise Permanent(
                    DIGEST_MISMATCH, f"{file.path}: {error}, {MAX_MISMATCHES} times in a row"
                ) from error
    with disk_errors(f"keeping {file.path}"):
        os.rename(partial, destination)
        sync_folder(destination.parent)


def _download_once(
    source: BlobSource,
    file: ManifestFile,
    partial: Path,
    should_pause: Callable[[], bool],
    opener: OpenFile,
) -> None:
    with disk_errors(f"writing {file.path}"):
        hasher, received = _hash_partial(partial, file.size)
        with opener(partial, "ab") as output:
            if received < file.size:
                hasher, received = _receive(source, file, output, hasher, received, should_pause)
            output.flush()
            os.fsync(output.fileno())
    if received != file.size:
        raise _Mismatch(f"has {received} bytes where the manifest says {file.size}")
    if hasher.hexdigest() != file.sha256:
        raise _Mismatch(f"has the sha256 {hasher.hexdigest()}, the manifest says {file.sha256}")


def _hash_partial(partial: Path, size: int) -> tuple[hashlib._Hash, int]:
    hasher = hashlib.sha256()
    if not partial.exists():
        return hasher, 0
    if partial.is_symlink() or partial.stat().st_size > size:
        partial.unlink()
        return hasher, 0
    received = 0
    with open(partial, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
            received += len(chunk)
    return hasher, received


def _receive(
    source: BlobSource,
    file: ManifestFile,
    output: BinaryIO,
    hasher: hashlib._Hash,
    received: int,
    should_pause: Callable[[], bool],
) -> tuple[hashlib._Hash, int]:
    with source.open_blob(file.sha256, received) as part:
        if part.total_bytes != file.size:
            raise _Mismatch(f"has {part.total_bytes} bytes where the manifest says {file.size}")
        if part.offset != received:
            # A server without ranges sends the whole again: what is here is of no use.
            output.truncate(0)
            hasher, received = hashlib.sha256(), 0
        for chunk in _bounded(part, file.size - received):
            output.write(chunk)
            hasher.update(chunk)
            received += len(chunk)
            if received < file.size and should_pause():
                raise Paused
    return hasher, received


def _bounded(part: BlobPart, limit: int) -> Iterator[bytes]:
    """The chunks, refusing one byte more than was declared: a lying length must not fill a disk."""
    for chunk in part.chunks:
        limit -= len(chunk)
        if limit < 0:
            raise _Mismatch("has more bytes than the manifest says")
        yield chunk
