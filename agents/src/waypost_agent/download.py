"""Fetches one file by its digest, from where the last attempt was cut, and checks every byte.

Decides from where the next bytes come (this disk before the network), over how many connections,
and when a file is given up. Knows nothing of models or of HTTP.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from waypost_agent.chunk_map import Chunk, Patch, cheapest
from waypost_agent.clock import Clock, SystemClock
from waypost_agent.connection import (
    MAX_MISMATCHES,
    Connection,
    Faults,
    NoRanges,
    fill,
    read_span,
)
from waypost_agent.durable import disk_errors, sync_folder
from waypost_agent.errors import DIGEST_MISMATCH, Paused, Permanent, Retryable
from waypost_agent.held import Held, Span
from waypost_agent.limits import Limits
from waypost_agent.manifest import CHUNK_BYTES, ManifestFile
from waypost_agent.pace import Bucket
from waypost_agent.partial import Mismatch, Partial
from waypost_agent.pieces import pieces_of
from waypost_agent.ports import BlobSource
from waypost_agent.work import Work

_log = logging.getLogger(__name__)

# What one request of several connections asks for: long enough to be worth it, short enough that
# they end together.
_LEAST_JOB_BYTES = CHUNK_BYTES
_MOST_JOB_BYTES = 4 * CHUNK_BYTES
_LOOK_SECONDS = 0.1  # how often a download over several connections is looked after
_FAST_BYTES = 2_000_000  # for each look: 160 Mbit/s, where one connection is no hindrance


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Downloader:
    """`source` gives what the disk does not hold; `should_pause` is asked between two pieces, in
    the caller's thread. `bucket` is the cap, which several downloaders may share; `link_clock` is
    the one of the connections' threads, as that of the caller's may be a sign of its life."""

    def __init__(
        self,
        source: BlobSource,
        *,
        clock: Clock,
        limits: Limits,
        should_pause: Callable[[], bool],
        connections: int = 1,
        bucket: Bucket | None = None,
        link_clock: Clock | None = None,
    ) -> None:
        self._source = source
        self._clock = clock
        self._limits = limits
        self._should_pause = should_pause
        self._connections = connections
        self._bucket = bucket or Bucket(limits.bytes_per_second)
        self._link_clock = link_clock or SystemClock()
        self._interrupted: Partial | None = None
        self._unranged: str | None = None
        self._synced_at = clock.monotonic()
        self._told_at = clock.monotonic()

    def fetch(
        self,
        file: ManifestFile,
        *,
        partial: Path,
        destination: Path,
        held: Held,
        set_aside: Callable[[Path, str], None],
        progress: Callable[[int], None] = lambda received: None,
        chunk_map: tuple[Chunk, ...] = (),
        refuse: Callable[[], None] = lambda: None,
    ) -> None:
        """Put the verified bytes of `file` at `destination`, durably.

        `partial` keeps what arrived for the next attempt, whatever happens; `set_aside` takes a
        whole file away that is not the right one, with the reason. `chunk_map` is a hint: when it
        does not lead to the file, the manifest alone does. `refuse` is called before the network
        is used and as each chunk ends, in any thread, and may raise `Retryable`. Raises that,
        `Paused`, and `Permanent` (`digest-mismatch`) after `MAX_MISMATCHES`.
        """
        task = _Task(
            file=file,
            path=partial,
            held=held,
            set_aside=set_aside,
            progress=progress,
            refuse=refuse,
        )
        with disk_errors(f"writing {file.path} of {file.size} bytes", at=partial.parent):
            if not chunk_map or not self._complete_by_map(task, chunk_map):
                self._complete_by_manifest(task)
            os.rename(partial, destination)
            sync_folder(destination.parent)

    def _complete_by_map(self, task: _Task, chunks: tuple[Chunk, ...]) -> bool:
        try:
            # One less: what the map says may be at fault, and the manifest is tried after it.
            self._complete(task, chunks, MAX_MISMATCHES - 1, is_trusted=False)
        except Mismatch as error:
            _log.warning("the chunk map of %s is of no use: it %s", task.file.path, error)
            return False
        return True

    def _complete_by_manifest(self, task: _Task) -> None:
        file = task.file
        if file.size == 0 and file.sha256 != hashlib.sha256(b"").hexdigest():
            raise Permanent(DIGEST_MISMATCH, f"{file.path} is empty, {file.sha256} is not")
        try:
            self._complete(task, pieces_of(file), MAX_MISMATCHES, is_trusted=True)
        except Mismatch as error:
            task.path.unlink(missing_ok=True)
            raise Permanent(
                DIGEST_MISMATCH, f"{file.path}: {error}, {MAX_MISMATCHES} times in a row"
            ) from error

    def _complete(
        self, task: _Task, chunks: tuple[Chunk, ...], most_mismatches: int, *, is_trusted: bool
    ) -> None:
        """Raises `Mismatch` when a chunk came wrong so often, or the file is wrong in the end."""
        growing = self._open(task, chunks)
        try:
            self._catch_up(task, growing)
            self._take_held(task, growing)
            self._take_rest(task, growing, Faults(most_mismatches))
            growing.sync()
            if not is_trusted:
                growing.check(self._should_pause)
        except (Paused, Retryable):
            self._interrupted = growing
            raise
        finally:
            growing.close()

    def _open(self, task: _Task, chunks: tuple[Chunk, ...]) -> Partial:
        growing, self._interrupted = self._interrupted, None
        same = growing is not None and (growing.path, growing.file) == (task.path, task.file)
        if growing is None or not same or not growing.cut_again(chunks):
            growing = Partial(task.path, task.file, chunks)
        growing.open()
        return growing

    # What this disk has

    def _catch_up(self, task: _Task, growing: Partial) -> None:
        try:
            growing.catch_up(self._should_pause)
        except Mismatch as error:
            task.put_aside(growing, error)

    def _take_held(self, task: _Task, growing: Partial) -> None:
        """A file like it, and pieces like its own."""
        held, file = task.held, task.file
        while growing.received < file.size and (path := held.take_file(file)) is not None:
            if growing.received == 0 and growing.clone_from(path):
                self._catch_up(task, growing)
                continue
            for index, chunk in enumerate(growing.chunks):
                span = Span(path=path, offset=chunk.offset, length=chunk.length)
                self._copy(task, growing, index, span)
        if growing.received == file.size or len(growing.chunks) == 1:
            return
        held.look_for(growing.chunks)
        for index, chunk in enumerate(growing.chunks):
            while growing.is_missing(index) and (found := held.find(chunk.sha256)) is not None:
                self._copy(task, growing, index, found)
                if growing.is_missing(index):
                    held.forget(chunk.sha256)

    def _copy(self, task: _Task, growing: Partial, index: int, span: Span) -> None:
        """As much of a chunk as is missing and can be read; nothing when it is wrong."""
        arrived = growing.arrived(index)
        left = growing.chunks[index].length - arrived
        rest = Span(path=span.path, offset=span.offset + arrived, length=left)
        try:
            fill(growing, index, read_span(rest), lambda _: self._tend(task, growing))
        except Mismatch as error:
            _log.warning("what is held in %s is of no use: it %s", span.path, error)
            task.put_aside(growing, error)

    # What it has not

    def _take_rest(self, task: _Task, growing: Partial, faults: Faults) -> None:
        file = task.file
        if growing.received == file.size:
            return
        task.refuse()
        missing = file.size - growing.received
        count = min(self._connections, -(-missing // _LEAST_JOB_BYTES), len(growing.chunks))
        if count > 1 and self._unranged != file.sha256:
            try:
                self._fetch_over(count, task, growing, faults)
            except NoRanges:
                self._unranged = file.sha256
        if growing.received < file.size:
            alone = self._connection(task, growing, faults, lambda: self._tend(task, growing))
            try:
                alone.carry_out(self._work(task, growing, None))
            finally:
                self._unranged = file.sha256 if alone.is_unranged else None

    def _fetch_over(self, count: int, task: _Task, growing: Partial, faults: Faults) -> None:
        """Over up to so many connections, each with a thread of its own: one more as long as those
        that are there bring little, since on a fast link more of them only cost time. What one of
        them raises ends the others at their next piece; nothing that came is lost."""
        missing = task.file.size - growing.received
        most_bytes = min(max(missing // (2 * count), _LEAST_JOB_BYTES), _MOST_JOB_BYTES)
        work = self._work(task, growing, most_bytes)
        stopping = threading.Event()
        ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

        def between() -> None:
            if stopping.is_set():
                raise Paused

        def run() -> None:
            try:
                self._connection(task, growing, faults, between, self._link_clock).carry_out(work)
            except BaseException as error:
                ended.put(error)
            else:
                ended.put(None)

        threads = list[threading.Thread]()

        def begin() -> None:
            name = f"download-{len(threads) + 1}"
            threads.append(threading.Thread(target=run, name=name, daemon=True))
            threads[-1].start()

        begin()
        before, looks, running = growing.received, 0, 1
        try:
            while running > 0:
                try:
                    error = ended.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    self._tend(task, growing)
                    looks += 1
                    is_slow = growing.received - before < looks * _FAST_BYTES
                    if is_slow and len(threads) < count:
                        begin()
                        running += 1
                    continue
                running -= 1
                if error is not None:
                    raise error
        finally:
            stopping.set()
            for thread in threads:
                thread.join()

    def _work(self, task: _Task, growing: Partial, most_bytes: int | None) -> Work:
        def holds(sha256: str) -> bool:
            return task.held.find(sha256) is not None

        def patch_of(index: int) -> Patch | None:
            return cheapest(growing.chunks[index], holds)

        return Work(growing, patch_of=patch_of, most_bytes=most_bytes)

    def _connection(
        self,
        task: _Task,
        growing: Partial,
        faults: Faults,
        between: Callable[[], None],
        clock: Clock | None = None,
    ) -> Connection:
        """`clock` for one of several; without it, the only one, in the caller's thread."""
        return Connection(
            self._source,
            growing,
            clock=clock or self._clock,
            limits=self._limits,
            bucket=self._bucket,
            faults=faults,
            between=between,
            refuse=task.refuse,
            base_of=task.held.find,
            set_aside=lambda error: task.put_aside(growing, error),
            is_alone=clock is None,
            is_unranged=self._unranged == task.file.sha256,
        )

    def _tend(self, task: _Task, growing: Partial) -> None:
        """Make durable what came, say how far it is, and make way."""
        now = self._clock.monotonic()
        if (
            growing.unsynced_bytes >= CHUNK_BYTES
            and now - self._synced_at >= self._limits.sync_seconds
        ):
            growing.sync()
            self._synced_at = now
        if now - self._told_at >= self._limits.progress_seconds:
            self._told_at = now
            task.progress(growing.received)
        if growing.received < task.file.size and self._should_pause():
            raise Paused


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One call of `fetch`."""

    file: ManifestFile
    path: Path
    held: Held
    set_aside: Callable[[Path, str], None]
    progress: Callable[[int], None]
    refuse: Callable[[], None]

    def put_aside(self, growing: Partial, error: Mismatch) -> None:
        """Begin anew when the file came whole and is another."""
        if error.is_all:
            self.set_aside(self.path, f"{self.file.path} {error}")
            growing.reopen()
