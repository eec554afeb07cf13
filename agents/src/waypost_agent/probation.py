"""How long a new version answers users on trial, what it may get wrong, and whether it did.

Pure. Knows neither where the counts come from nor what follows from a breach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_SECONDS = 86_400.0
MAX_REQUESTS = 1_000_000_000
MAX_LATENCY_MS = 3_600_000.0
KEYS = ("seconds", "max_error_rate", "min_requests", "max_mean_latency_ms")


@dataclass(frozen=True, kw_only=True)
class Probation:
    """`seconds` 0: none. A bound that is None is not judged; none is judged before `min_requests`
    were answered. Without any bound the version must still be loaded and right at the end."""

    seconds: float = 0.0
    max_error_rate: float | None = None
    min_requests: int = 1
    max_mean_latency_ms: float | None = None

    @property
    def counts(self) -> bool:
        """Whether anything is judged for which requests must be counted."""
        return self.max_error_rate is not None or self.max_mean_latency_ms is not None

    def document(self) -> dict[str, Any]:
        """As the protocol has it: what is not judged is left out."""
        return {key: value for key in KEYS if (value := getattr(self, key)) is not None}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Requests since the probation began; `request_us` is the time of the successful ones."""

    succeeded: int
    failed: int
    request_us: int

    @property
    def requests(self) -> int:
        return self.succeeded + self.failed


def parse_probation(document: object) -> Probation:
    """Raises `ValueError` naming the key and what would be right. Unknown keys are ignored."""
    if not isinstance(document, Mapping):
        raise ValueError("probation must be an object with seconds and the bounds that hold")
    return Probation(
        seconds=_number(document, "seconds", 0, MAX_SECONDS) or 0.0,
        max_error_rate=_number(document, "max_error_rate", 0, 1),
        min_requests=_whole(document, "min_requests", 1, MAX_REQUESTS),
        max_mean_latency_ms=_number(document, "max_mean_latency_ms", 0, MAX_LATENCY_MS),
    )


def breach_of(rules: Probation, counts: Counts) -> str:
    """Which bound is broken, with its numbers; nothing while none is, or too few were counted."""
    if counts.requests < rules.min_requests:
        return ""
    rate = counts.failed / counts.requests
    if rules.max_error_rate is not None and rate > rules.max_error_rate:
        return (
            f"{counts.failed} of {counts.requests} requests failed ({rate:.1%}), "
            f"at most {rules.max_error_rate:.1%} may"
        )
    mean_ms = _mean_ms(counts)
    most_ms = rules.max_mean_latency_ms
    if mean_ms is not None and most_ms is not None and mean_ms > most_ms:
        return (
            f"{counts.succeeded} requests took {mean_ms:.1f} ms on average, "
            f"at most {most_ms:g} ms are allowed"
        )
    return ""


def counted(counts: Counts | None) -> str:
    """What was seen so far, for an operator."""
    if counts is None:
        return "its requests cannot be counted: Triton's metrics cannot be read"
    said = f"{counts.failed} of {counts.requests} requests failed"
    mean_ms = _mean_ms(counts)
    return said if mean_ms is None else f"{said}, {mean_ms:.1f} ms on average"


def _mean_ms(counts: Counts) -> float | None:
    return counts.request_us / counts.succeeded / 1000 if counts.succeeded else None


def _number(document: Mapping[str, Any], key: str, least: float, most: float) -> float | None:
    value = document.get(key)
    if value is None and key != "seconds":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{key} is {value!r:.40}; it must be a number from {least:g} to {most:g}")
    return float(value)


def _whole(document: Mapping[str, Any], key: str, least: int, most: int) -> int:
    value = document.get(key, least)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{key} is {value!r:.40}; it must be a whole number from {least}")
    return value
