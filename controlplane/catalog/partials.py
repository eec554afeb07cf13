"""Files on their way to the disk in pieces: one partial per model and digest, appended to by one
writer at a time. Decides what is durable and when a file is whole; it must not know versions or
requests.

A partial is its model's alone: whoever may push another model can name the same digest, and must
not be able to spoil or end it.

The kernel's lock on the partial goes with its holder, so a killed web process blocks nobody; it
holds between hosts on a shared folder as well (NFS since Linux 2.6.12)."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from controlplane.catalog.store import (
    CHUNK_BYTES,
    BlobStore,
    Readable,
    copy_exactly,
    full,
    refuse_other_bytes,
)
from controlplane.domain.errors import Conflict

FOLDER = ".partial"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Bytes `start` to `end` (exclusive) of a file of `total` bytes."""

    start: int
    end: int
    total: int


def offset_of(store: BlobStore, model: int, sha256: str, size_bytes: int) -> int:
    """How many bytes are held of a file that is not whole yet. What a power cut spoilt of them is
    found by the digest of the whole, which then begins anew. 0 when all are there and nobody took
    the file in: any piece then makes that happen."""
    try:
        held = _path(store, model, sha256).stat().st_size
    except FileNotFoundError:
        return 0
    return held if held < size_bytes else 0


def append(store: BlobStore, model: int, sha256: str, piece: Piece, stream: Readable) -> bool:
    """Adds a piece at exactly the end of what is held; whether the file is whole and published.

    Raises `Conflict` (`upload-offset`, with the right `offset`; `upload-busy`), `InvalidInput`
    (`size-mismatch`, and nothing of the piece is kept; `digest-mismatch`, and nothing of the file
    is) or `StoreFull`.
    """
    partial = _path(store, model, sha256)
    try:
        with _locked(partial) as descriptor:
            held = os.fstat(descriptor).st_size
            if held >= piece.total:  # its writer was killed before it took the file in
                _publish(store, partial, sha256, descriptor)
                return True
            if held != piece.start:
                raise _wrong_offset(held)
            _write(descriptor, piece, stream)
            if piece.end < piece.total:
                return False
            _publish(store, partial, sha256, descriptor)
            return True
    except OSError as error:
        raise full(error) from error


def remove(store: BlobStore, model: int, sha256: str) -> None:
    """What is held of a file goes, unless a writer is at it, who looks afterwards whether it is
    still wanted; again it changes nothing."""
    _remove(_path(store, model, sha256))


def forget(store: BlobStore, before: datetime) -> int:
    """Removes partials that nobody added to since; how many."""
    paths = (store.root / FOLDER).glob("*")
    return sum(_remove(path, before=before) for path in paths)


def _path(store: BlobStore, model: int, sha256: str) -> Path:
    return store.root / FOLDER / f"{model}-{sha256}"


def _remove(path: Path, *, before: datetime | None = None) -> bool:
    """Under the lock: the writer of a name that is free again would publish another's bytes."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        touched = os.fstat(descriptor).st_mtime
        if not _is_still(path, descriptor) or (before and touched >= before.timestamp()):
            return False
        path.unlink()
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The partial, open and for this writer alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(
                    "upload-busy",
                    "Another upload is adding to this very file; ask again for where it stands.",
                    extra={"retry_after": 1},
                ) from error
            # Between open and lock the last writer may have published or removed the file.
            if _is_still(path, descriptor):
                try:
                    yield descriptor
                finally:
                    # A refused first piece leaves nothing.
                    if not os.fstat(descriptor).st_size:
                        path.unlink(missing_ok=True)
                return
        finally:
            os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write(descriptor: int, piece: Piece, stream: Readable) -> None:
    """All of the piece, synced, or none of it."""
    with os.fdopen(os.dup(descriptor), "r+b", buffering=0) as file:
        file.seek(piece.start)
        try:
            copy_exactly(stream, file, piece.end - piece.start, hashed=False)
            os.fsync(descriptor)
        except BaseException:
            os.ftruncate(descriptor, piece.start)
            raise


def _publish(store: BlobStore, partial: Path, sha256: str, descriptor: int) -> None:
    digest, at = hashlib.sha256(), 0
    while chunk := os.pread(descriptor, CHUNK_BYTES, at):
        digest.update(chunk)
        at += len(chunk)
    try:
        refuse_other_bytes(digest.hexdigest(), sha256)
    except Exception:
        partial.unlink()
        raise
    store.publish(partial, sha256)


def _wrong_offset(held: int) -> Conflict:
    return Conflict(
        "upload-offset",
        f"{held} bytes of this file are held; go on from there.",
        extra={"offset": held},
    )
