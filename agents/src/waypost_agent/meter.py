"""Counts what passes between this agent and its centre, and how long an answer takes.

Decides nothing. What was not measured is None, never 0. Shared by the threads of one process.
"""

from __future__ import annotations

import statistics
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from waypost_agent.centre import Centre, CentreAnswer, CentreSilent
from waypost_agent.clock import Clock

_ROUND_TRIPS_KEPT = 9
_THROUGHPUTS_KEPT = 9
_TELLING_BYTES = 1 << 20  # a shorter download measures the round trip rather than the link


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A moment's reading. Ages and times in seconds; `retries` by model and reason code."""

    contact_age_seconds: float | None
    round_trip_seconds: float | None
    download_bytes_per_second: float | None
    downloaded_bytes: int
    reports: int
    unanswered: int
    retries: Mapping[tuple[str, str], int]


class Meter:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._contact_at: float | None = None
        self._round_trips: deque[float] = deque(maxlen=_ROUND_TRIPS_KEPT)
        self._throughputs: deque[float] = deque(maxlen=_THROUGHPUTS_KEPT)
        self._downloaded_bytes = 0
        self._reports = 0
        self._unanswered = 0
        self._retries: Counter[tuple[str, str]] = Counter()

    def now(self) -> float:
        return self._clock.monotonic()

    def answered(self, path: str, seconds: float) -> None:
        """The centre answered this call, be it with a refusal."""
        with self._lock:
            self._contact_at = self._clock.monotonic()
            if path == "desired":  # a small question: what takes time is the way
                self._round_trips.append(seconds)
            elif path == "report":
                self._reports += 1

    def not_answered(self) -> None:
        with self._lock:
            self._unanswered += 1

    def downloaded(self, size: int, seconds: float) -> None:
        with self._lock:
            self._downloaded_bytes += size
            if size >= _TELLING_BYTES and seconds > 0:
                self._throughputs.append(size / seconds)

    def retried(self, model: str, code: str) -> None:
        """A step of the model did not work out and will be tried again."""
        with self._lock:
            self._retries[model, code] += 1

    def read(self) -> Measured:
        with self._lock:
            contact_at = self._contact_at
            return Measured(
                contact_age_seconds=None
                if contact_at is None
                else self._clock.monotonic() - contact_at,
                round_trip_seconds=_median(self._round_trips),
                download_bytes_per_second=_median(self._throughputs),
                downloaded_bytes=self._downloaded_bytes,
                reports=self._reports,
                unanswered=self._unanswered,
                retries=dict(self._retries),
            )


def _median(values: deque[float]) -> float | None:
    return statistics.median(values) if values else None


class MeasuredCentre(Centre):
    """A centre whose answers are counted and timed."""

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path | None,
        connect_timeout_seconds: float,
        read_timeout_seconds: float,
        meter: Meter,
    ) -> None:
        super().__init__(
            url,
            ca_file=ca_file,
            connect_timeout_seconds=connect_timeout_seconds,
            read_timeout_seconds=read_timeout_seconds,
        )
        self._meter = meter

    def get(self, path: str, *, token: str, headers: Mapping[str, str]) -> CentreAnswer:
        with self._timed(path):
            return super().get(path, token=token, headers=headers)

    def post(
        self, path: str, document: Mapping[str, Any], *, token: str | None = None
    ) -> CentreAnswer:
        with self._timed(path):
            return super().post(path, document, token=token)

    def post_compressed(
        self, path: str, document: Mapping[str, Any], *, token: str
    ) -> CentreAnswer:
        with self._timed(path):
            return super().post_compressed(path, document, token=token)

    @contextmanager
    def stream(
        self, path: str, *, token: str | None, headers: Mapping[str, str]
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        began = self._meter.now()
        with super().stream(path, token=token, headers=headers) as response:
            try:
                yield response
            finally:
                # Bytes that came over the wire, also of a download that was cut.
                self._meter.downloaded(response.tell(), self._meter.now() - began)

    @contextmanager
    def _timed(self, path: str) -> Iterator[None]:
        began = self._meter.now()
        try:
            yield
        except CentreSilent:
            self._meter.not_answered()
            raise
        except Exception:
            self._meter.answered(path, self._meter.now() - began)
            raise
        self._meter.answered(path, self._meter.now() - began)
