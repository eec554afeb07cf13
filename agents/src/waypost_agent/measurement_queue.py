"""Measurements that wait for the centre, on disk, one file each, the oldest thrown away first.

Decides how much may wait. A power cut may take the newest: nothing is decided by them, so no write
is synced. One thread puts, another takes.
"""

from __future__ import annotations

import gzip
import json
import logging
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from waypost_agent.clock import Clock
from waypost_agent.durable import make_folder

_log = logging.getLogger(__name__)

MAX_WAITING = 1440  # a day of minutes
MAX_BYTES = 8 << 20
_SUFFIX = ".json.gz"
_DROPPED = "dropped"  # the file with how many are gone and not told of yet


class MeasurementQueue:
    """`folder` is this queue's own."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        *,
        max_waiting: int = MAX_WAITING,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._dropped = _read_count(folder / _DROPPED)
        self._last_name = ""

    def put(self, interval: dict[str, Any]) -> None:
        """Keep it until it is taken. Raises `OSError`."""
        make_folder(self._folder, mode=0o700)
        text = json.dumps({**interval, "at": self._clock.utc_text()}, separators=(",", ":"))
        name = self._next_name()
        new = self._folder / f".{name}.new"
        try:
            new.write_bytes(gzip.compress(text.encode(), mtime=0))
            new.rename(self._folder / name)
        except OSError:
            new.unlink(missing_ok=True)
            self._count(1)
            raise
        self._make_room()

    def first(self) -> tuple[str, dict[str, Any]] | None:
        """The oldest that can be told, with the name to take it by: `age_seconds` says how old it
        is, `dropped` how many are gone since the one before."""
        for path in self._waiting():
            if (interval := self._read(path)) is None:
                self.drop(path.name)
                continue
            return path.name, {**interval, "dropped": self._dropped}
        return None

    def take(self, name: str, *, dropped: int) -> None:
        """The centre has it, and was told that so many were dropped."""
        (self._folder / name).unlink(missing_ok=True)
        self._count(-dropped)

    def drop(self, name: str) -> None:
        """It will never be told."""
        (self._folder / name).unlink(missing_ok=True)
        self._count(1)

    def _count(self, dropped: int) -> None:
        if dropped == 0:
            return
        with self._lock:
            self._dropped = max(self._dropped + dropped, 0)
            new = self._folder / f".{_DROPPED}.new"
            try:
                new.write_text(str(self._dropped))
                new.rename(self._folder / _DROPPED)
            except OSError as error:
                _log.warning("how many measurements were dropped is not kept: %s", error)

    def __len__(self) -> int:
        return len(self._waiting())

    def _next_name(self) -> str:
        """Names count up, whatever any clock says: their order is the order of the intervals."""
        last = max([self._last_name, *(path.name for path in self._waiting()[-1:])])
        number = int(last.removesuffix(_SUFFIX)) if last else 0
        self._last_name = f"{number + 1:012}{_SUFFIX}"
        return self._last_name

    def _waiting(self) -> list[Path]:
        return sorted(
            path
            for path in self._folder.glob("*" + _SUFFIX)
            if path.name.removesuffix(_SUFFIX).isdigit()
        )

    def _make_room(self) -> None:
        paths = self._waiting()
        sizes = [_size(path) for path in paths]
        total, over = sum(sizes), len(paths) - self._max_waiting
        for path, size in zip(paths[:-1], sizes, strict=False):
            if over <= 0 and total <= self._max_bytes:
                return
            self.drop(path.name)
            over, total = over - 1, total - size

    def _read(self, path: Path) -> dict[str, Any] | None:
        """None for one that a power cut or rot has spoiled, or that cannot be placed in time."""
        try:
            interval = json.loads(gzip.decompress(path.read_bytes()))
            made = datetime.fromisoformat(interval.pop("at"))
            age = self._age(interval, made)
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("a measurement cannot be read back: %s: %s", path.name, error)
            return None
        if age is None:
            _log.warning("a measurement from before a restart of the machine cannot be dated")
            return None
        return {**interval, "age_seconds": round(age, 3)}

    def _age(self, interval: dict[str, Any], made: datetime) -> float | None:
        """By the clock since boot; over a restart of the machine by the time of day, where that
        went on."""
        if interval["boot_id"] == self._clock.boot_id():
            return max(self._clock.boottime() - float(interval["to_uptime"]), 0.0)
        seconds = (datetime.fromisoformat(self._clock.utc_text()) - made).total_seconds()
        return seconds if seconds >= 0 else None


def _read_count(path: Path) -> int:
    """0 where there is none that can be read: it is a figure to show, nothing more."""
    try:
        return max(int(path.read_text()), 0)
    except (OSError, ValueError):
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # taken meanwhile
        return 0
