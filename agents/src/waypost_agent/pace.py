"""How fast bytes may come and how slow they must not: the cap and the watchdog of a download.

Arithmetic over the caller's clock; sleeps and raises nothing.
"""

from __future__ import annotations

import threading


class Bucket:
    """A cap of so many bytes a second (0: none); a second's worth may come at once. Several
    connections, each in a thread of its own, may share it."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._paid_until: float | None = None

    def take(self, count: int, now: float) -> None:
        if self._rate == 0:
            return
        with self._lock:
            before = now - 1.0 if self._paid_until is None else max(self._paid_until, now - 1.0)
            self._paid_until = before + count / self._rate

    def seconds_to_wait(self, now: float) -> float:
        paid_until = self._paid_until
        return 0.0 if paid_until is None else max(0.0, paid_until - now)


class Watchdog:
    """Sees a connection that brings next to nothing. Only time spent waiting for it counts: a
    slow disk, a cap or a pause is not the link's fault."""

    def __init__(self, *, bytes_per_second: int, seconds: float) -> None:
        self._rate = bytes_per_second
        self._seconds = seconds
        self.waited = 0.0
        self.received = 0

    def is_stalled(self, waited: float, count: int) -> bool:
        """Note `count` bytes after so many seconds of waiting; True when that is too little."""
        self.waited += waited
        self.received += count
        if self.waited < self._seconds:
            return False
        if self.received < self._rate * self.waited:
            return True
        self.waited, self.received = 0.0, 0
        return False
