"""The unfinished file of one digest: it grows, is hashed as it grows, and loses what is wrong.

Decides up to where the bytes are known to be right. Knows nothing of where they come from.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from waypost_agent.durable import allocate, clone
from waypost_agent.errors import Paused
from waypost_agent.manifest import CHUNK_BYTES, ManifestFile

_READ_BYTES = 1 << 20


class Mismatch(Exception):
    """Bytes that are not those of the manifest; they are gone from the file already."""


class Partial:
    """`received` bytes are here and hashed: where the manifest has the digests of the pieces each
    piece as it ends (the whole is hashed before a load, as always), else the whole.

    Stays usable between `close` and the next `open`, so that what was hashed need not be again.
    """

    def __init__(self, path: Path, file: ManifestFile) -> None:
        self.path = path
        self.file = file
        self.received = 0
        self.unsynced_bytes = 0
        self._descriptor = -1
        self._hasher = hashlib.sha256()
        self._right_until = 0
        self._left_as: tuple[int, int] | None = None

    # The file

    def open(self) -> None:
        """Open or make the file, with room for all of it. Raises `OSError`."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        if self.path.is_symlink():
            self.path.unlink()
        self._descriptor = os.open(self.path, flags, 0o644)
        try:
            if self._left_as is not None and self._state() != self._left_as:
                self._forget()  # not as it was left: nothing is known of it any more
            if os.fstat(self._descriptor).st_size > self.file.size:
                self.drop()
            allocate(self._descriptor, self.file.size)
        except OSError:
            # What room there was is given back: others must be able to write.
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size)
            self.close()
            raise

    def close(self) -> None:
        self._left_as = self._state()
        os.close(self._descriptor)
        self._descriptor = -1

    def sync(self) -> None:
        """A power cut takes nothing of what is here from now on."""
        os.fsync(self._descriptor)
        self.unsynced_bytes = 0

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns

    # Growing

    def catch_up(self, should_pause: Callable[[], bool]) -> None:
        """Hash what lies here from before, up to its end or to the first piece that is wrong."""
        try:
            while data := os.pread(self._descriptor, _READ_BYTES, self.received):
                self._take(memoryview(data))
                if self.received < self.file.size and should_pause():
                    raise Paused
        except Mismatch:
            return  # cut off: it is fetched like anything else that is not here

    def write(self, data: bytes) -> None:
        """Add bytes at the end. Raises `Mismatch` when a piece ends wrong, `OSError`."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view[: self._room()], self.received)
            self.unsynced_bytes += written
            self._take(view[:written])
            view = view[written:]

    def clone_from(self, path: Path) -> bool:
        """Share the blocks of another file as far as the disk can; `catch_up` then reads them."""
        try:
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return clone(source, self._descriptor)
        finally:
            os.close(source)

    def check(self) -> None:
        """Raises `Mismatch` unless the whole is what the manifest says."""
        if self.received != self.file.size:
            raise Mismatch(f"has {self.received} bytes where the manifest says {self.file.size}")
        if self.file.chunks:
            return  # each was right
        if (found := self._hasher.hexdigest()) != self.file.sha256:
            raise Mismatch(f"has the sha256 {found}, the manifest says {self.file.sha256}")

    def drop(self) -> None:
        """Forget every byte."""
        self._forget()
        os.ftruncate(self._descriptor, 0)

    def _forget(self) -> None:
        self.received = self._right_until = 0
        self._hasher = hashlib.sha256()

    def _room(self) -> int:
        """Bytes up to the end of the piece."""
        return CHUNK_BYTES - self.received % CHUNK_BYTES

    def _take(self, data: memoryview) -> None:
        while data:
            part = data[: self._room()]
            self._hasher.update(part)
            self.received += len(part)
            if self.received % CHUNK_BYTES == 0 or self.received == self.file.size:
                self._end_piece()
            data = data[len(part) :]

    def _end_piece(self) -> None:
        if not self.file.chunks:
            return
        index = (self.received - 1) // CHUNK_BYTES
        wanted = self.file.chunks[index]
        found, self._hasher = self._hasher.hexdigest(), hashlib.sha256()
        if found == wanted:
            self._right_until = self.received
            return
        self.received = self._right_until
        os.ftruncate(self._descriptor, self.received)
        raise Mismatch(f"has a piece {index} with the sha256 {found}, the manifest says {wanted}")
