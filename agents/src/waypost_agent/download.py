"""Fetches one file by its digest, from where the last attempt was cut, and checks every byte.

Decides from where the next bytes come (this disk before the network) and what to do with too few,
too many or wrong ones. Knows nothing of models or of HTTP. One connection, in the caller's thread.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from waypost_agent.clock import Clock
from waypost_agent.durable import disk_errors, sync_folder
from waypost_agent.errors import (
    DIGEST_MISMATCH,
    DOWNLOAD_FAILED,
    Paused,
    Permanent,
    RangeRefused,
    Retryable,
)
from waypost_agent.held import Held
from waypost_agent.limits import Limits
from waypost_agent.manifest import CHUNK_BYTES, ManifestFile
from waypost_agent.pace import Bucket, Watchdog
from waypost_agent.partial import Mismatch, Partial
from waypost_agent.ports import BlobSource

_log = logging.getLogger(__name__)

# Bytes that do not match are either a bad link's work or a wrong file; the first heals.
MAX_MISMATCHES = 3
_READ_BYTES = 1 << 20
_LONGEST_SLEEP = 0.25  # between two questions whether something more urgent waits


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Downloader:
    """`source` gives what the disk does not hold; `should_pause` is asked between two pieces."""

    def __init__(
        self,
        source: BlobSource,
        *,
        clock: Clock,
        limits: Limits,
        should_pause: Callable[[], bool],
    ) -> None:
        self._source = source
        self._clock = clock
        self._limits = limits
        self._should_pause = should_pause
        self._bucket = Bucket(limits.bytes_per_second)
        self._interrupted: Partial | None = None
        self._unranged: str | None = None
        self._synced_at = clock.monotonic()
        self._told_at = clock.monotonic()
        self._asked_network = False

    def fetch(
        self,
        file: ManifestFile,
        *,
        partial: Path,
        destination: Path,
        held: Held,
        set_aside: Callable[[Path, str], None],
        progress: Callable[[int], None] = lambda received: None,
    ) -> None:
        """Put the verified bytes of `file` at `destination`, durably.

        `partial` keeps what arrived for the next attempt, whatever happens; `set_aside` takes a
        whole file away that is not the right one, with the reason. Raises `Retryable`, `Paused`,
        and `Permanent` (`digest-mismatch`) after `MAX_MISMATCHES`.
        """
        with disk_errors(f"writing {file.path} of {file.size} bytes", at=partial.parent):
            for attempt in range(1, MAX_MISMATCHES + 1):
                try:
                    self._complete(partial, file, held, set_aside, progress)
                    break
                except Mismatch as error:
                    _log.warning("%s %s", file.path, error)
                    if attempt == MAX_MISMATCHES:
                        partial.unlink(missing_ok=True)
                        raise Permanent(
                            DIGEST_MISMATCH,
                            f"{file.path}: {error}, {MAX_MISMATCHES} times in a row",
                        ) from error
            os.rename(partial, destination)
            sync_folder(destination.parent)

    def _complete(
        self,
        path: Path,
        file: ManifestFile,
        held: Held,
        set_aside: Callable[[Path, str], None],
        progress: Callable[[int], None],
    ) -> None:
        """Raises `Mismatch` when bytes from the network were wrong; those of this disk only cost
        the question to the network."""
        self._asked_network = False
        growing = self._open(path, file)
        try:
            growing.catch_up(self._should_pause)
            while growing.received < file.size:
                self._fill(growing, held, progress)
            growing.sync()
            growing.check()
        except (Paused, Retryable):
            self._interrupted = growing
            raise
        except Mismatch as error:
            if growing.received == file.size:
                set_aside(path, f"{file.path} {error}")
            if self._asked_network:
                raise
        else:
            return
        finally:
            growing.close()
        self._complete(path, file, held, set_aside, progress)

    def _open(self, path: Path, file: ManifestFile) -> Partial:
        growing, self._interrupted = self._interrupted, None
        if growing is None or (growing.path, growing.file) != (path, file):
            growing = Partial(path, file)
        growing.open()
        return growing

    def _fill(self, growing: Partial, held: Held, progress: Callable[[int], None]) -> None:
        """Some more bytes: from a file like it, from a piece like it, else from the network."""
        file, at = growing.file, growing.received
        if (path := held.take_file(file)) is not None:
            if at == 0 and growing.clone_from(path):
                growing.catch_up(self._should_pause)
                return
            self._add(growing, _read(path, at, file.size - at), progress)
        elif (span := held.find_chunk(file, at)) is not None:
            try:
                self._add(growing, _read(span.path, span.offset, span.length), progress)
            except Mismatch as error:
                _log.warning("a piece held in %s is of no use: it %s", span.path, error)
            if growing.received <= at:
                held.forget_chunk(file, at)
        else:
            self._receive(growing, held.end_of_gap(file, at), progress)

    def _receive(self, growing: Partial, end: int, progress: Callable[[int], None]) -> None:
        """The bytes up to `end` from the source."""
        file, at = growing.file, growing.received
        self._asked_network = True
        offset = 0 if self._unranged == file.sha256 else at
        until = None if end == file.size or offset < at else end
        try:
            with self._source.open_blob(file.sha256, offset, until) as part:
                if part.total_bytes != file.size:
                    raise Retryable(
                        DOWNLOAD_FAILED,
                        f"{file.path} has {part.total_bytes} bytes in the answer, "
                        f"{file.size} in the manifest",
                    )
                # A source without ranges sends the whole again: what is here is read past.
                arriving = _without_first(at - part.offset, self._paced(part.chunks))
                self._add(growing, _bounded(arriving, end - at, is_all=end == file.size), progress)
        except RangeRefused:
            if offset == 0:
                raise
            self._unranged = file.sha256
            return
        if growing.received < end:
            raise Retryable(
                DOWNLOAD_FAILED, f"{file.path} broke off after {growing.received} of {file.size}"
            )

    def _add(
        self, growing: Partial, pieces: Iterator[bytes], progress: Callable[[int], None]
    ) -> None:
        for data in pieces:
            growing.write(data)
            now = self._clock.monotonic()
            if (
                growing.unsynced_bytes >= CHUNK_BYTES
                and now - self._synced_at >= self._limits.sync_seconds
            ):
                growing.sync()
                self._synced_at = now
            if now - self._told_at >= self._limits.progress_seconds:
                self._told_at = now
                progress(growing.received)
            if growing.received < growing.file.size and self._should_pause():
                raise Paused

    def _paced(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same, no faster than the cap. Raises `Retryable` when next to nothing comes."""
        limits, clock = self._limits, self._clock
        watchdog = Watchdog(
            bytes_per_second=limits.stall_bytes_per_second, seconds=limits.stall_seconds
        )
        while True:
            while (wait := self._bucket.seconds_to_wait(clock.monotonic())) > 0:
                clock.sleep(min(wait, _LONGEST_SLEEP))
                if self._should_pause():
                    raise Paused
            before = clock.monotonic()
            if (data := next(chunks, None)) is None:
                return
            now = clock.monotonic()
            self._bucket.take(len(data), now)
            yield data
            if watchdog.is_stalled(now - before, len(data)):
                raise Retryable(
                    DOWNLOAD_FAILED,
                    f"the connection stalled: {watchdog.received} bytes in "
                    f"{watchdog.waited:.0f} s; it is dropped and made anew",
                )


def _read(path: Path, offset: int, length: int) -> Iterator[bytes]:
    """Bytes of a file on this disk; fewer when it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            while length > 0 and (data := file.read(min(length, _READ_BYTES))):
                length -= len(data)
                yield data
    except OSError as error:
        _log.warning("%s cannot be read: %s", path, error.strerror)


def _without_first(count: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for data in pieces:
        if len(data) > count:
            yield data[count:]
        count = max(count - len(data), 0)


def _bounded(pieces: Iterator[bytes], limit: int, *, is_all: bool) -> Iterator[bytes]:
    """At most `limit` bytes. When the file ends there, one more is a lie: it must not fill a disk,
    nor be dropped in silence."""
    for data in pieces:
        if len(data) > limit and is_all:
            raise Mismatch("has more bytes than the manifest says")
        yield data[:limit]
        limit -= len(data)
        if limit <= 0 and not is_all:
            return
