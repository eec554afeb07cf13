"""One connection's part of a download: carries out jobs, paced, watched, never past their ends.

Decides what to believe of an answer and what a fault in it costs. Knows nothing of other
connections nor of HTTP. `between` is called after each piece and `refuse` as chunks end; both may
raise to end it there.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator

from waypost_agent import patches
from waypost_agent.chunk_map import Patch
from waypost_agent.clock import Clock
from waypost_agent.errors import (
    DOWNLOAD_FAILED,
    BlobUnknown,
    RangeRefused,
    Retryable,
    WindowClosed,
)
from waypost_agent.held import Span
from waypost_agent.limits import Limits
from waypost_agent.manifest import CHUNK_BYTES
from waypost_agent.pace import Bucket, Watchdog
from waypost_agent.partial import Mismatch, Partial
from waypost_agent.ports import BlobPart, BlobSource
from waypost_agent.work import Job, Work

_log = logging.getLogger(__name__)

# Bytes that do not match are either a bad link's work or a wrong file; the first heals.
MAX_MISMATCHES = 3
_READ_BYTES = 1 << 20
_LONGEST_SLEEP = 0.25  # between two questions whether something more urgent waits


class NoRanges(Exception):
    """The source sends the whole whatever is asked for: one connection has to do."""


class Faults:
    """How often each chunk came wrong from the source of last resort, over all connections."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._counts: dict[int, int] = {}

    def is_too_often(self, index: int) -> bool:
        """Note one more."""
        with self._lock:
            self._counts[index] = self._counts.get(index, 0) + 1
            return self._counts[index] >= self._most


class Connection:
    """`is_alone` when no other connection fetches for the same file; `base_of` is where a chunk
    lies on this disk; `set_aside` takes a whole file away that is not the right one."""

    def __init__(
        self,
        source: BlobSource,
        growing: Partial,
        *,
        clock: Clock,
        limits: Limits,
        bucket: Bucket,
        faults: Faults,
        between: Callable[[], None],
        refuse: Callable[[], None],
        base_of: Callable[[str], Span | None],
        set_aside: Callable[[Mismatch], None],
        is_alone: bool,
        is_unranged: bool,
    ) -> None:
        self._source = source
        self._growing = growing
        self._clock = clock
        self._limits = limits
        self._bucket = bucket
        self._faults = faults
        self._between = between
        self._refuse = refuse
        self._base_of = base_of
        self._set_aside = set_aside
        self._is_alone = is_alone
        self.is_unranged = is_unranged

    def carry_out(self, work: Work) -> None:
        """Jobs until there are none. Raises `Retryable`, `Mismatch` for a chunk that was wrong
        too often, `NoRanges`, what `between` raises, `OSError`."""
        while (job := work.take()) is not None:
            try:
                if job.patch is None:
                    self._fetch(job)
                elif not self._patch(job.first, job.patch):
                    work.refuse_patch(job)
            except Mismatch as error:
                if error.is_all:
                    self._set_aside(error)
                if self._faults.is_too_often(error.index):
                    raise
                _log.warning("%s %s", self._growing.file.path, error)
            finally:
                work.give_back(job)

    def _after_piece(self, ended: bool) -> None:
        self._between()
        # A file without digests of its pieces is one chunk, however long.
        if ended or (self._growing.file.size > CHUNK_BYTES and len(self._growing.chunks) == 1):
            self._refuse()

    # The chunks themselves

    def _fetch(self, job: Job) -> None:
        growing = self._growing
        file = growing.file
        first, final = growing.chunks[job.first], growing.chunks[job.last - 1]
        at, end = first.offset + growing.arrived(job.first), final.offset + final.length
        offset = 0 if self.is_unranged else at
        until = None if end == file.size or offset < at else end
        part: BlobPart | None = None
        try:
            with self._source.open_blob(file.sha256, offset, until) as part:
                self._check_size(part, file.size, file.path)
                if part.offset < at and not self._is_alone:
                    raise NoRanges
                # A source without ranges sends the whole again: what is here is read past.
                arriving = _without_first(at - part.offset, self._paced(part.chunks))
                bounded = _bounded(arriving, end - at, job.last - 1, is_all=end == file.size)
                if fill(growing, job.first, bounded, self._after_piece) < job.last:
                    raise Retryable(
                        DOWNLOAD_FAILED,
                        f"{file.path} broke off after {growing.received} of {file.size}",
                    )
        except RangeRefused:
            if offset == 0:
                raise
            self.is_unranged = True
            if not self._is_alone:
                raise NoRanges from None
        except WindowClosed:
            raise  # the site's own rule: whoever sent the bytes is not to blame
        except (Retryable, Mismatch) as error:
            if part is None or not part.blame(str(error)):
                raise

    def _check_size(self, part: BlobPart, size: int, name: str) -> None:
        if part.total_bytes != size:
            raise Retryable(
                DOWNLOAD_FAILED,
                f"{name} has {part.total_bytes} bytes in the answer, {size} in the manifest",
            )

    # What stands for a chunk

    def _patch(self, index: int, patch: Patch) -> bool:
        """False when the chunk itself has to be fetched."""
        chunk = self._growing.chunks[index]
        try:
            base = None if patch.base is None else self._read_base(patch.base)
            encoded = self._read_blob(patch)
            if encoded is not None:
                data = patches.apply(patch.codec, encoded, base, chunk.length)
                self._growing.write(index, memoryview(data))
        except (ValueError, BlobUnknown) as error:
            fault = str(error)
        except Mismatch as error:
            fault = f"it {error}"
        else:
            self._after_piece(ended=True)
            return True
        _log.warning("a patch of %s is of no use: %s", self._growing.file.path, fault)
        return False

    def _read_base(self, sha256: str) -> bytes:
        span = self._base_of(sha256)
        if span is None:
            raise ValueError(f"its base {sha256} is no longer held")
        return b"".join(read_span(span))

    def _read_blob(self, patch: Patch) -> bytes | None:
        """The bytes of a patch; None when they are to be asked for again, from another source."""
        encoded = bytearray()
        part: BlobPart | None = None
        try:
            with self._source.open_blob(patch.blob, 0) as part:
                self._check_size(part, patch.size, "a patch")
                for data in self._paced(part.chunks):
                    encoded += data
                    if len(encoded) > patch.size:
                        raise ValueError(f"the answer has more than {patch.size} bytes")
                    self._between()
            if len(encoded) < patch.size:
                raise Retryable(
                    DOWNLOAD_FAILED, f"a patch broke off after {len(encoded)} of {patch.size} bytes"
                )
            if hashlib.sha256(encoded).hexdigest() != patch.blob:
                raise ValueError("its bytes are not those of its digest")
        except (Retryable, ValueError) as error:
            if part is None or not part.blame(str(error)):
                raise
            return None
        return bytes(encoded)

    def _paced(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same, no faster than the cap. Raises `Retryable` when next to nothing comes."""
        limits, clock = self._limits, self._clock
        watchdog = Watchdog(
            bytes_per_second=limits.stall_bytes_per_second, seconds=limits.stall_seconds
        )
        while True:
            while (wait := self._bucket.seconds_to_wait(clock.monotonic())) > 0:
                clock.sleep(min(wait, _LONGEST_SLEEP))
                self._between()
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


def fill(
    growing: Partial, index: int, pieces: Iterator[bytes], between: Callable[[bool], None]
) -> int:
    """Write what comes into the chunks from `index` on; the first that is not full. `between` is
    told after each piece whether it ended a chunk. Raises `Mismatch`, `OSError`."""
    for data in pieces:
        view, begun = memoryview(data), index
        while view:
            room = growing.chunks[index].length - growing.arrived(index)
            growing.write(index, view[:room])
            view = view[room:]
            index += not growing.is_missing(index)
        between(index > begun)
    return index


def read_span(span: Span) -> Iterator[bytes]:
    """Bytes of a file on this disk; fewer when it cannot be read."""
    left = span.length
    try:
        with open(span.path, "rb") as file:
            file.seek(span.offset)
            while left > 0 and (data := file.read(min(left, _READ_BYTES))):
                left -= len(data)
                yield data
    except OSError as error:
        _log.warning("%s cannot be read: %s", span.path, error.strerror)


def _without_first(count: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for data in pieces:
        if len(data) > count:
            yield data[count:]
        count = max(count - len(data), 0)


def _bounded(pieces: Iterator[bytes], limit: int, index: int, *, is_all: bool) -> Iterator[bytes]:
    """At most `limit` bytes. When the file ends there, one more is a lie: it must not fill a disk,
    nor be dropped in silence."""
    for data in pieces:
        if len(data) > limit and is_all:
            raise Mismatch("has more bytes than the manifest says", index=index)
        yield data[:limit]
        limit -= len(data)
        if limit <= 0 and not is_all:
            return
