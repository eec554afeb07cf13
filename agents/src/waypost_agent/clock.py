"""The machine's clock, passed in wherever time is needed so that tests can bring their own."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol


def _read_boot_id() -> str:
    """Linux's own; elsewhere one of this process, which is right for all it is used for: what a
    process held is void when it ends."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(uuid.uuid4())


_BOOT_ID = _read_boot_id()


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds from some start; never goes back."""
        ...

    def boottime(self) -> float:
        """Seconds since the machine started; never goes back and counts while it is suspended."""
        ...

    def boot_id(self) -> str:
        """Which start of the machine `boottime` counts from."""
        ...

    def sleep(self, seconds: float) -> None: ...

    def utc_text(self) -> str:
        """The time of day in RFC 3339, for display only."""
        ...


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        return _BOOT_ID

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def utc_text(self) -> str:
        return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
