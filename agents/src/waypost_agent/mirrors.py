"""Asks neighbours for files before the centre: in order, each put off while it is of no use.

Decides whom to ask next. Believes nobody: what a mirror gives is hashed like anything else, and one
that lies costs a chunk. A mirror gets the site's mirror secret, never its session.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from waypost_agent.centre import Centre, CentreSilent, part_of, unanswered
from waypost_agent.clock import Clock
from waypost_agent.errors import BlobUnknown, Retryable
from waypost_agent.ports import BlobPart, BlobSource

_log = logging.getLogger(__name__)

HEADER = "Waypost-Mirror"
_FIRST_SECONDS = 60.0
_LONGEST_SECONDS = 900.0
_MOST_UNKNOWN = 10_000


class MirrorBlobs:
    """Files by digest from one neighbour, to whom `secret` is shown."""

    def __init__(self, line: Centre, secret: str) -> None:
        self._line = line
        self._secret = secret

    @contextmanager
    def open_blob(self, sha256: str, offset: int, end: int | None = None) -> Iterator[BlobPart]:
        headers = {HEADER: self._secret}
        if offset > 0 or end is not None:
            last = "" if end is None else str(end - 1)
            headers |= {"Range": f"bytes={offset}-{last}", "If-Range": f'"{sha256}"'}
        try:
            with self._line.stream(f"blobs/{sha256}", token=None, headers=headers) as response:
                yield part_of(response, sha256, offset, self._line.name)
        except CentreSilent as error:
            raise unanswered(error) from error


class Mirror:
    """One source that others come after, and since when it is of no use."""

    def __init__(self, name: str, source: BlobSource, clock: Clock) -> None:
        self.name = name
        self.source = source
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._off_until: float | None = None
        self._unknown: dict[str, float] = {}

    def may_have(self, sha256: str) -> bool:
        with self._lock:
            now = self._clock.monotonic()
            if self._off_until is not None and now < self._off_until:
                return False
            return now >= self._unknown.get(sha256, now)

    def has_not(self, sha256: str) -> None:
        """It answered well, and has no such file; it may get it."""
        with self._lock:
            if len(self._unknown) >= _MOST_UNKNOWN:
                self._unknown.clear()
            self._unknown[sha256] = self._clock.monotonic() + _FIRST_SECONDS

    def put_off(self, fault: str) -> bool:
        """Ask it no more for a while, longer each time. True, as another can be asked."""
        with self._lock:
            seconds = min(_FIRST_SECONDS * 2 ** min(self._failures, 10), _LONGEST_SECONDS)
            self._failures += 1
            self._off_until = self._clock.monotonic() + seconds
        _log.warning(
            "the mirror %s is not asked for %.0f s: what it gave %s", self.name, seconds, fault
        )
        return True

    def served(self) -> None:
        with self._lock:
            self._failures = 0


class MirroredBlobs:
    """Files by digest from the first of the mirrors that gives them, else from the centre."""

    def __init__(self, centre: BlobSource, mirrors: Sequence[Mirror]) -> None:
        self._centre = centre
        self._mirrors = tuple(mirrors)

    @contextmanager
    def open_blob(self, sha256: str, offset: int, end: int | None = None) -> Iterator[BlobPart]:
        for mirror in self._mirrors:
            if not mirror.may_have(sha256):
                continue
            with ExitStack() as stack:
                try:
                    part = stack.enter_context(mirror.source.open_blob(sha256, offset, end))
                except BlobUnknown:
                    mirror.has_not(sha256)
                    continue
                except Retryable as error:
                    mirror.put_off(f"is no file: {error.reason}")
                    continue
                if part.offset != offset:
                    mirror.put_off(f"begins at {part.offset}, asked was from {offset}")
                    continue
                blamed: list[str] = []

                def blame(fault: str, mirror: Mirror = mirror, blamed: list[str] = blamed) -> bool:
                    blamed.append(fault)
                    return mirror.put_off(fault)

                yield replace(part, blame=blame)
                if not blamed:
                    mirror.served()
                return
        with self._centre.open_blob(sha256, offset, end) as part:
            yield part
