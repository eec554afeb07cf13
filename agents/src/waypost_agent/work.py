"""What a file still lacks, handed out in jobs so that no chunk is fetched twice at a time.

Decides how much one connection asks for at once, and in whose place a patch is fetched. Knows
nothing of connections; may be asked by several threads at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from waypost_agent.chunk_map import Patch
from waypost_agent.partial import Partial


@dataclass(frozen=True, kw_only=True)
class Job:
    """The chunks from `first` up to `last` (exclusive), or the one that `patch` stands for."""

    first: int
    last: int
    patch: Patch | None = None


class Work:
    """`patch_of` says what is cheaper to fetch than a chunk, None for the chunk itself;
    `most_bytes` bounds what one job asks for, None is no bound."""

    def __init__(
        self,
        growing: Partial,
        *,
        patch_of: Callable[[int], Patch | None],
        most_bytes: int | None,
    ) -> None:
        self._growing = growing
        self._patch_of = patch_of
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._taken: set[int] = set()
        self._raw: set[int] = set()  # chunks whose patch was of no use
        self._next = 0

    def take(self) -> Job | None:
        """The next job, None when everything is there or is being fetched."""
        with self._lock:
            count = len(self._growing.chunks)
            while self._next < count and not self._is_free(self._next):
                self._next += 1
            if self._next == count:
                return None
            first = self._next
            patch = self._patch(first)
            last = first + 1
            if patch is None:
                last = self._end_of_run(first)
            self._taken.update(range(first, last))
            self._next = last
            return Job(first=first, last=last, patch=patch)

    def give_back(self, job: Job) -> None:
        """The job has ended; what it left undone is free for others."""
        with self._lock:
            self._taken.difference_update(range(job.first, job.last))
            self._next = min(self._next, job.first)

    def refuse_patch(self, job: Job) -> None:
        """The patch was of no use: the chunk itself is to be fetched."""
        with self._lock:
            self._raw.add(job.first)

    def _is_free(self, index: int) -> bool:
        return index not in self._taken and self._growing.is_missing(index)

    def _patch(self, index: int) -> Patch | None:
        # Of a chunk that has begun to arrive the rest is fetched.
        if index in self._raw or self._growing.arrived(index) > 0:
            return None
        return self._patch_of(index)

    def _end_of_run(self, first: int) -> int:
        chunks, last = self._growing.chunks, first + 1
        asked = chunks[first].length
        while last < len(chunks) and self._is_free(last) and self._growing.arrived(last) == 0:
            asked += chunks[last].length
            if self._most_bytes is not None and asked > self._most_bytes:
                break
            if self._patch(last) is not None:
                break
            last += 1
        return last
