"""The machine's clock, passed in wherever time is needed so that tests can bring their own."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds from some start; never goes back."""
        ...

    def sleep(self, seconds: float) -> None: ...

    def utc_text(self) -> str:
        """The time of day in RFC 3339, for display only."""
        ...


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def utc_text(self) -> str:
        return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
