"""Reads what is installed again and again, a little at a time, and says what has rotted.

Decides what is read next and how much of it. Changes nothing; knows nothing of servers or wishes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from waypost_agent.clock import Clock
from waypost_agent.limits import Limits
from waypost_agent.manifest import ManifestFile
from waypost_agent.store import Store

_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A version whose files are not what its manifest says, and in what way."""

    model: str
    version: str
    reason: str


class Scrub:
    """`turn` is called whenever there is nothing better to do; most calls do nothing."""

    def __init__(self, store: Store, *, clock: Clock, limits: Limits) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._next = clock.monotonic() + limits.scrub_first_seconds
        self._pass: Iterator[Damage | None] | None = None

    def turn(self) -> Damage | None:
        """Read at most `scrub_turn_bytes`, when it is time; what was found wrong, or None."""
        now = self._clock.monotonic()
        if now < self._next:
            return None
        if self._pass is None:
            self._pass = self._read_all()
        self._next = now + self._limits.scrub_turn_seconds
        for found in self._pass:
            return found
        self._pass = None
        self._next = now + self._limits.scrub_every_seconds
        return None

    def _read_all(self) -> Iterator[Damage | None]:
        """One pass; gives None each time the turn's bytes are read."""
        left = [self._limits.scrub_turn_bytes]
        for model in sorted(self._store.known_models()):
            for version in sorted(self._store.installed(model), key=int):
                yield from self._read_version(model, version, left)

    def _read_version(self, model: str, version: str, left: list[int]) -> Iterator[Damage | None]:
        manifest = self._store.manifest(model, version)
        if manifest is None or version in self._store.damaged(model):
            return  # gone meanwhile, or known already
        for file in manifest.payload:
            try:
                fault = yield from self._read_file(model, version, file, left)
            except FileNotFoundError:
                return  # taken away meanwhile: no longer installed, which the next look sees
            except OSError as error:
                fault = f"{file.path} cannot be read: {error.strerror}"
            if fault is not None:
                yield Damage(model=model, version=version, reason=fault)
                left[0] = self._limits.scrub_turn_bytes
                return

    def _read_file(
        self, model: str, version: str, file: ManifestFile, left: list[int]
    ) -> Generator[None, None, str | None]:
        """Ends with what is wrong with the file, or None."""
        hasher = hashlib.sha256()
        path = self._store.version_folder(model, version) / file.path
        with open(path, "rb", buffering=0) as opened:
            # What lies in memory says nothing of the disk.
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while data := opened.read(min(_READ_BYTES, left[0])):
                hasher.update(data)
                left[0] -= len(data)
                if left[0] <= 0:
                    yield
                    left[0] = self._limits.scrub_turn_bytes
            if not os.path.samestat(os.fstat(opened.fileno()), path.stat()):
                return None  # another file by now: it was verified when it was put there
        if hasher.hexdigest() == file.sha256:
            return None
        return f"{file.path} does not have the bytes of its manifest"
