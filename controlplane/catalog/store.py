"""The artifact store on disk: bytes under their SHA-256, written once.

It must not know models, versions or requests. A file stands under its digest only when its bytes
were hashed, synced and renamed there; the caller writes its row afterwards."""

import errno
import hashlib
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Protocol

from controlplane.domain.errors import FieldError, InvalidInput, WaypostError

CHUNK_BYTES = 1 << 20


class Readable(Protocol):
    """Anything with `read(n)`: a request, a file."""

    def read(self, size: int, /) -> bytes: ...


class StoreFull(WaypostError):
    """No room for the bytes; nothing was kept."""


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

    def open(self, sha256: str) -> BinaryIO:
        """Raises `FileNotFoundError` when the row outlived the file."""
        return self.path(sha256).open("rb")

    def put(self, *, stream: Readable, sha256: str, size_bytes: int) -> None:
        """Stores exactly `size_bytes` bytes whose SHA-256 is `sha256`, or keeps nothing.

        Raises `InvalidInput` (`size-mismatch`, `digest-mismatch`) or `StoreFull`.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            descriptor, name = tempfile.mkstemp(prefix=".incoming-", dir=self.root)
        except OSError as error:
            raise _full(error) from error
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                found = _copy(stream, file, size_bytes)
                _refuse_other_bytes(found, sha256)
                file.flush()
                os.fsync(file.fileno())
            self._publish(temporary, self.path(sha256))
        except OSError as error:
            raise _full(error) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _publish(self, temporary: Path, final: Path) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.chmod(0o644)
        temporary.replace(final)
        for folder in (final.parent, final.parent.parent, self.root):
            _sync_folder(folder)


def _copy(stream: Readable, file: BinaryIO, size_bytes: int) -> str:
    digest, left = hashlib.sha256(), size_bytes
    while chunk := stream.read(CHUNK_BYTES):
        left -= len(chunk)
        if left < 0:
            raise _wrong_size(f"more than the {size_bytes} bytes that the manifest names")
        digest.update(chunk)
        file.write(chunk)
    if left:
        raise _wrong_size(f"{size_bytes - left} of the {size_bytes} bytes that the manifest names")
    return digest.hexdigest()


def _wrong_size(got: str) -> InvalidInput:
    return InvalidInput(
        "size-mismatch",
        f"The body held {got}; nothing was kept. Send the file again.",
        errors=[FieldError(field="body", message=f"held {got}")],
    )


def _refuse_other_bytes(found: str, sha256: str) -> None:
    if found != sha256:
        raise InvalidInput(
            "digest-mismatch",
            f"The bytes have SHA-256 {found}, the manifest names {sha256}; nothing was kept. "
            "Did the file change after it was hashed?",
            errors=[FieldError(field="body", message=f"SHA-256 is {found}")],
        )


def _full(error: OSError) -> WaypostError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull("store-full", "The artifact store has no room left; nothing was kept.")
    raise error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
