"""What an artifact store is, and the one on disk: bytes under their SHA-256, written once.

It must not know models, versions or requests. A file stands under its digest only when its bytes
were hashed, synced and renamed there; the caller writes its row afterwards."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from controlplane.domain.errors import FieldError, InvalidInput, WaypostError

CHUNK_BYTES = 1 << 20


class Readable(Protocol):
    """Anything with `read(n)`: a request, a file."""

    def read(self, size: int, /) -> bytes: ...


# Bytes of a blob by (offset, length); fewer only at its end.
ReadAt = Callable[[int, int], bytes]


class Writable(Protocol):
    """Anything with `write(data)` that says how much it took."""

    def write(self, data: memoryview, /) -> int: ...


class StoreFull(WaypostError):
    """No room for the bytes; nothing was kept."""


class StoreUnavailable(WaypostError):
    """The store does not answer, or refuses us. The same call may work later."""


class ArtifactStore(Protocol):
    """Blobs by their SHA-256, on disk or elsewhere. A missing one is `FileNotFoundError`; each call
    may raise `StoreUnavailable`."""

    def holds(self, sha256: str, size_bytes: int) -> bool: ...

    def open(self, sha256: str, offset: int = 0) -> BinaryIO:
        """The bytes from `offset` on, to be read in order and closed."""

    def reader(self, sha256: str) -> AbstractContextManager[ReadAt]:
        """Any bytes of the blob in any order, without a copy of the whole."""

    def local(self, sha256: str) -> AbstractContextManager[Path]:
        """The whole blob as a file, to be read only; where it is a copy it goes at the end."""

    def put(self, *, stream: Readable, sha256: str, size_bytes: int) -> None:
        """Stores exactly `size_bytes` bytes whose SHA-256 is `sha256`, or keeps nothing.

        Raises `InvalidInput` (`size-mismatch`, `digest-mismatch`) or `StoreFull`.
        """

    def remove(self, sha256: str) -> None:
        """Only for bytes that can be made again; again it changes nothing."""

    def has_room(self, size_bytes: int) -> bool:
        """Whether so many bytes would be left free."""


class BlobStore:
    """Blobs below `root`, as `ab/cd/abcd…`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256[2:4] / sha256

    def holds(self, sha256: str, size_bytes: int) -> bool:
        try:
            return self.path(sha256).stat().st_size == size_bytes
        except FileNotFoundError:
            return False

    def open(self, sha256: str, offset: int = 0) -> BinaryIO:
        file = self.path(sha256).open("rb")
        file.seek(offset)
        return file

    @contextmanager
    def reader(self, sha256: str) -> Iterator[ReadAt]:
        with self.open(sha256) as file:
            descriptor = file.fileno()
            yield lambda offset, length: os.pread(descriptor, length, offset)

    @contextmanager
    def local(self, sha256: str) -> Iterator[Path]:
        path = self.path(sha256)
        path.stat()
        yield path

    def put(self, *, stream: Readable, sha256: str, size_bytes: int) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            descriptor, name = tempfile.mkstemp(prefix=".incoming-", dir=self.root)
        except OSError as error:
            raise full(error) from error
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                found = copy_exactly(stream, file, size_bytes)
                refuse_other_bytes(found, sha256)
                file.flush()
                os.fsync(file.fileno())
            self._publish(temporary, self.path(sha256))
        except OSError as error:
            raise full(error) from error
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, sha256: str) -> None:
        self.path(sha256).unlink(missing_ok=True)

    def has_room(self, size_bytes: int) -> bool:
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free > size_bytes

    def publish(self, temporary: Path, sha256: str) -> None:
        """Puts a file of this disk, hashed and synced by the caller, under its digest."""
        self._publish(temporary, self.path(sha256))

    def _publish(self, temporary: Path, final: Path) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.chmod(0o644)
        temporary.replace(final)
        for folder in (final.parent, final.parent.parent, self.root):
            _sync_folder(folder)


def copy_exactly(stream: Readable, file: Writable, size_bytes: int, *, hashed: bool = True) -> str:
    """Copies, and returns the SHA-256 if asked. Raises `InvalidInput` (`size-mismatch`)."""
    digest, left = hashlib.sha256(), size_bytes
    while chunk := stream.read(CHUNK_BYTES):
        left -= len(chunk)
        if left < 0:
            raise _wrong_size(f"more than the {size_bytes} bytes that were announced")
        if hashed:
            digest.update(chunk)
        rest = memoryview(chunk)
        while rest:  # an unbuffered file may take less than it is given
            rest = rest[file.write(rest) :]
    if left:
        raise _wrong_size(f"{size_bytes - left} of the {size_bytes} bytes that were announced")
    return digest.hexdigest()


def _wrong_size(got: str) -> InvalidInput:
    return InvalidInput(
        "size-mismatch",
        f"The body held {got}; nothing was kept. Send the file again.",
        errors=[FieldError(field="body", message=f"held {got}")],
    )


def refuse_other_bytes(found: str, sha256: str) -> None:
    """Raises `InvalidInput` (`digest-mismatch`)."""
    if found != sha256:
        raise InvalidInput(
            "digest-mismatch",
            f"The bytes have SHA-256 {found}, the manifest names {sha256}; nothing was kept. "
            "Did the file change after it was hashed?",
            errors=[FieldError(field="body", message=f"SHA-256 is {found}")],
        )


def full(error: OSError) -> WaypostError:
    """`StoreFull` for a full disk; any other error is raised as it is."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull("store-full", "The artifact store has no room left; nothing was kept.")
    raise error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
