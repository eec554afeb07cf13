"""Keeps what loading each version took on this hardware: one small file beside the journal.

Decides how two measurements become one. A file that cannot be read or written costs only this
knowledge.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from waypost_agent.durable import write_durably
from waypost_agent.preflight import Learned

_log = logging.getLogger(__name__)

MAX_VERSIONS = 500  # the oldest are forgotten

_Book = dict[str, dict[str, dict[str, Any]]]  # digest, hardware, measurement


class LearnedBook:
    """`hardware` names what this machine's loads are measured on."""

    def __init__(self, path: Path, hardware: Callable[[], str]) -> None:
        self._path = path
        self._hardware = hardware
        self._book: _Book | None = None

    def of(self, digest: str) -> Learned:
        """What is known of a version here; nothing, for one that was never loaded."""
        known = self._read().get(digest)
        if not known:
            return Learned()
        try:
            return Learned(**known.get(self._hardware(), {}))
        except TypeError:
            return Learned()

    def note(self, digest: str, measured: Learned) -> None:
        """Remember a load: its time, and the least of memory that any load was seen to take."""
        before = self.of(digest)
        kept = Learned(
            load_seconds=measured.load_seconds,
            memory_bytes=_least(before.memory_bytes, measured.memory_bytes),
            accelerator_memory_bytes=_least(
                before.accelerator_memory_bytes, measured.accelerator_memory_bytes
            ),
        )
        book = self._read()
        versions = book.pop(digest, {})
        book[digest] = {**versions, self._hardware(): asdict(kept)}
        for oldest in list(book)[:-MAX_VERSIONS]:
            del book[oldest]
        try:
            write_durably(self._path, json.dumps(book, indent=1).encode())
        except OSError as error:
            _log.warning("what was learned of a load cannot be kept: %s", error)

    def _read(self) -> _Book:
        if self._book is None:
            self._book = _load(self._path)
        return self._book


def _load(path: Path) -> _Book:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _log.warning("%s cannot be read (%s); loads are measured anew", path, error)
        return {}
    if not isinstance(document, dict):
        return {}
    return {digest: known for digest, known in document.items() if isinstance(known, dict)}


def _least(before: int | None, now: int | None) -> int | None:
    known = [each for each in (before, now) if each is not None]
    return min(known, default=None)
