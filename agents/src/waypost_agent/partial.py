"""The unfinished file of one digest: its chunks arrive in any order, and what is wrong is dropped.

Decides which bytes are known to be right. Knows nothing of where they come from. Chunks may be
filled by several threads at once, each chunk by one.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from waypost_agent.chunk_map import Chunk
from waypost_agent.durable import allocate, begin_writing, clone
from waypost_agent.errors import Paused
from waypost_agent.manifest import ManifestFile

_READ_BYTES = 1 << 20
# A piece of this size is hashed while it is written: hashing alone takes longer than the rest.
_BESIDE_BYTES = 1 << 18
_MOST_THREADS = 8  # one for each connection, begun as they are needed


class Mismatch(Exception):
    """Bytes that are not those of the chunk `index`. `is_all`: it is the whole file, which is left
    as it came, to be looked at; of several chunks the wrong one is forgotten already."""

    def __init__(self, fault: str, *, index: int, is_all: bool = False) -> None:
        super().__init__(fault)
        self.index = index
        self.is_all = is_all


class Partial:
    """`chunks` cover the file. Each is hashed as it arrives and compared as it ends.

    No list of what has arrived is kept beside the file: a new process hashes what lies there, and
    the digests tell. Only unfinished chunks other than the last are lost to it, one for each
    connection. Within a process the state outlives `close`, so that nothing is hashed twice.
    """

    def __init__(self, path: Path, file: ManifestFile, chunks: tuple[Chunk, ...]) -> None:
        self.path = path
        self.file = file
        self.chunks = chunks
        self.unsynced_bytes = 0
        self._descriptor = -1
        self._lock = threading.Lock()
        self._left_as: tuple[int, int] | None = None
        self._forget()

    def _forget(self) -> None:
        self.received = 0
        self._arrived = [0] * len(self.chunks)
        self._hashers: dict[int, hashlib._Hash] = {}
        self._looked_at = 0  # chunks that `catch_up` is through with
        self._whole = hashlib.sha256()
        self._whole_until = 0

    # The file

    def open(self) -> None:
        """Open or make the file, with room for all of it. Raises `OSError`."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        if self.path.is_symlink():
            self.path.unlink()
        self._descriptor = os.open(self.path, flags, 0o644)
        self._threads = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="hash")
        try:
            if self._left_as is not None and self._state() != self._left_as:
                self._forget()  # not as it was left: nothing is known of it any more
            if os.fstat(self._descriptor).st_size > self.file.size:
                self._forget()
                os.ftruncate(self._descriptor, 0)
            allocate(self._descriptor, self.file.size)
        except OSError:
            # What room there was is given back: others must be able to write.
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size)
            self.close()
            raise

    def close(self) -> None:
        self._threads.shutdown()
        self._left_as = self._state()
        os.close(self._descriptor)
        self._descriptor = -1

    def reopen(self) -> None:
        """The file was taken away: begin with an empty one."""
        self.close()
        self._forget()
        self._left_as = None
        self.open()

    def sync(self) -> None:
        """A power cut takes nothing of what is here from now on."""
        with self._lock:
            self.unsynced_bytes = 0
        os.fsync(self._descriptor)

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns

    # What is here

    def arrived(self, index: int) -> int:
        """Bytes of the chunk that are here and hashed."""
        return self._arrived[index]

    def is_missing(self, index: int) -> bool:
        return self._arrived[index] < self.chunks[index].length

    def cut_again(self, chunks: tuple[Chunk, ...]) -> bool:
        """Take over a list of the same chunks, whose patches may be others; False for other
        chunks, of which nothing is known."""
        if [(c.offset, c.sha256) for c in chunks] != [(c.offset, c.sha256) for c in self.chunks]:
            return False
        self.chunks = chunks
        return True

    def catch_up(self, should_pause: Callable[[], bool]) -> None:
        """Hash what lies here from before: a chunk that is not right is to be fetched.

        Raises `Paused`, and `Mismatch` where the whole file is the one chunk."""
        length = os.fstat(self._descriptor).st_size
        while self._looked_at < len(self.chunks):
            index = self._looked_at
            chunk = self.chunks[index]
            at = chunk.offset + self._arrived[index]
            left = chunk.offset + chunk.length - at
            data = os.pread(self._descriptor, min(_READ_BYTES, left), at) if at < length else b""
            if not data:
                if index > 0 and self.is_missing(index - 1):
                    # What was lost before it may reach into it, and only its end would tell.
                    self._drop(index)
                self._looked_at = len(self.chunks)  # behind the end there is nothing
                return
            try:
                self._take(index, memoryview(data))
            except Mismatch as error:
                self._looked_at += 1
                if error.is_all:
                    raise
            else:
                self._looked_at += not self.is_missing(index)
            if self.received < self.file.size and should_pause():
                raise Paused

    def clone_from(self, path: Path) -> bool:
        """Share the blocks of another file as far as the disk can; `catch_up` then reads them."""
        try:
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            shared = clone(source, self._descriptor)
        finally:
            os.close(source)
        if shared:
            self._forget()
        return shared

    # Growing

    def write(self, index: int, data: memoryview) -> None:
        """Add bytes to a chunk, no more than it lacks. Raises `Mismatch` when it ends wrong,
        `OSError`."""
        while data:
            at = self.chunks[index].offset + self._arrived[index]
            hashing = self._hash_beside(index, data)
            written = os.pwrite(self._descriptor, data, at)
            with self._lock:
                self.unsynced_bytes += written
            if hashing is not None and written == len(data):
                self._hashers[index] = hashing.result()
                self._count(index, written)
            else:
                self._take(index, data[:written])
            data = data[written:]

    def check(self, should_pause: Callable[[], bool]) -> None:
        """Read the whole file: chunks from a map that lies may all be right, and the file wrong.

        Raises `Paused`, `Mismatch`."""
        while data := os.pread(self._descriptor, _READ_BYTES, self._whole_until):
            self._whole.update(data)
            self._whole_until += len(data)
            if self._whole_until < self.file.size and should_pause():
                raise Paused
        if (found := self._whole.hexdigest()) != self.file.sha256:
            raise Mismatch(f"has the sha256 {found}, the manifest says {self.file.sha256}", index=0)

    def _hash_beside(self, index: int, data: memoryview) -> Future[hashlib._Hash] | None:
        """The hash of the chunk with these bytes, which may yet fail to be written, so it is of a
        copy; None where it is not worth a thread's turn."""
        if len(data) < _BESIDE_BYTES:
            return None
        return self._threads.submit(_hashed, self._hasher(index).copy(), data)

    def _hasher(self, index: int) -> hashlib._Hash:
        return self._hashers.setdefault(index, hashlib.sha256())

    def _take(self, index: int, data: memoryview) -> None:
        self._hasher(index).update(data)
        self._count(index, len(data))

    def _count(self, index: int, count: int) -> None:
        self._arrived[index] += count
        with self._lock:
            self.received += count
        if not self.is_missing(index):
            self._compare(index, self._hashers.pop(index).hexdigest())

    def _drop(self, index: int) -> None:
        with self._lock:
            self.received -= self._arrived[index]
        self._arrived[index] = 0
        self._hashers.pop(index, None)

    def _compare(self, index: int, found: str) -> None:
        chunk = self.chunks[index]
        if found == chunk.sha256:
            begin_writing(self._descriptor, chunk.offset, chunk.length)
            return
        self._drop(index)
        if len(self.chunks) == 1:
            fault = f"has the sha256 {found}, the manifest says {chunk.sha256}"
            raise Mismatch(fault, index=index, is_all=True)
        raise Mismatch(
            f"has a piece {index} with the sha256 {found}, it should have {chunk.sha256}",
            index=index,
        )


def _hashed(hasher: hashlib._Hash, data: memoryview) -> hashlib._Hash:
    hasher.update(data)
    return hasher
