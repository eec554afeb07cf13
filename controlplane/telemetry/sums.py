"""Adds lines of figures to the rows of their minute, hour and day.

Decides how two lines become one: most columns add up, of some the largest counts, and latency
counts add up bucket by bucket. It must not know what the figures mean. Callers hold the lock."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import models

from controlplane.telemetry.grains import Grain
from controlplane.telemetry.models import (
    ACCELERATOR_SUMS,
    MODEL_SUMS,
    READING_SUMS,
    SITE_SUMS,
)

BATCH = 1000


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The tables of one kind of sum, `key` the column that names whose sums they are. The last of
    `columns` is `latency` where it has one."""

    tables: Mapping[Grain, type[models.Model]]
    key: str
    added: tuple[str, ...]
    largest: tuple[str, ...] = ()
    has_latency: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.added, *self.largest, *(("latency",) if self.has_latency else ()))


@dataclass(kw_only=True, slots=True)
class Line:
    """Figures in the order of the columns of their kind; None is unknown."""

    added: Sequence[float]
    largest: Sequence[float | None] = ()
    latency: Sequence[float] = ()

    def take(self, other: "Line") -> None:
        """Both histograms have the same bounds, or one of them is empty."""
        self.added = [a + b for a, b in zip(self.added, other.added, strict=True)]
        self.largest = [_larger(a, b) for a, b in zip(self.largest, other.largest, strict=True)]
        if self.latency and other.latency:
            self.latency = [a + b for a, b in zip(self.latency, other.latency, strict=True)]
        else:
            self.latency = self.latency or other.latency


# Whose, and when its minute, hour or day begins.
Lines = dict[tuple[int, datetime], Line]

MODEL = Kind(
    tables=MODEL_SUMS,
    key="series_id",
    added=(
        "seconds",
        "requests",
        "rejected",
        "canceled",
        "backend",
        "other",
        "timed",
        "executions",
        "request_us",
        "queue_us",
        "input_us",
        "infer_us",
        "output_us",
    ),
    has_latency=True,
)
ACCELERATOR = Kind(
    tables=ACCELERATOR_SUMS,
    key="series_id",
    added=(
        "seconds",
        "utilization_seconds",
        "utilization_known_seconds",
        "memory_byte_seconds",
        "memory_known_seconds",
        "power_joules",
        "power_known_seconds",
        "energy_joules",
        "energy_known_seconds",
    ),
    largest=(
        "utilization_peak",
        "memory_peak_bytes",
        "memory_total_bytes",
        "power_peak_watts",
        "temperature_peak_celsius",
    ),
)
SITE = Kind(
    tables=SITE_SUMS,
    key="site_id",
    added=(
        "seconds",
        "intervals",
        "dropped",
        "requests",
        "failed",
        "timed",
        "request_us",
        "queue_us",
    ),
)
READING = Kind(tables=READING_SUMS, key="series_id", added=("readings", "total"), largest=("peak",))


def collect(pairs: Iterable[tuple[int, datetime, Line]]) -> Lines:
    """Lines by whose they are and the minute of their moment."""
    lines: Lines = {}
    for key, moment, line in pairs:
        _put(lines, (key, Grain.MINUTE.floor(moment)), line)
    return lines


def add_up(kind: Kind, lines: Lines, *, now: datetime) -> None:
    """Adds the lines of minutes to the sums of each grain, but those that are not kept any more."""
    for grain in Grain:
        since = grain.kept_since(now)
        coarser: Lines = {}
        for (key, start), line in lines.items():
            _put(coarser, (key, grain.floor(start)), line)
        lines = coarser
        kept = {named: line for named, line in lines.items() if named[1] >= since}
        _write(kind, kind.tables[grain], kept)


def counts_text(counts: Iterable[float]) -> str:
    """As they are kept."""
    return " ".join(map(str, counts))


def counts_of(text: str) -> list[int]:
    return [int(count) for count in text.split()]


def _put(lines: Lines, name: tuple[int, datetime], line: Line) -> None:
    """The line given stays as it is: it may stand in other sums too."""
    if (held := lines.get(name)) is None:
        lines[name] = Line(added=line.added, largest=line.largest, latency=line.latency)
    else:
        held.take(line)


def _write(kind: Kind, table: type[models.Model], lines: Lines) -> None:
    """Leaves the lines as they are: coarser sums are made of them."""
    by_start: defaultdict[datetime, list[int]] = defaultdict(list)
    for key, start in lines:
        by_start[start].append(key)
    rows: models.Manager[Any] = table._default_manager
    sums = lines.copy()
    for start, keys in by_start.items():
        held = rows.filter(**{f"{kind.key}__in": keys}, starts_at=start)
        for key, *values in held.values_list(kind.key, *kind.columns):
            sums[key, start] = _line(kind, values)
            sums[key, start].take(lines[key, start])
    rows.bulk_create(
        (
            table(**{kind.key: key, "starts_at": start}, **_values(kind, line))
            for (key, start), line in sorted(sums.items())
        ),
        batch_size=BATCH,
        update_conflicts=True,
        unique_fields=[kind.key.removesuffix("_id"), "starts_at"],
        update_fields=kind.columns,
    )


def _line(kind: Kind, values: Sequence[Any]) -> Line:
    count = len(kind.added)
    return Line(
        added=values[:count],
        largest=values[count : count + len(kind.largest)],
        latency=counts_of(values[-1]) if kind.has_latency else [],
    )


def _values(kind: Kind, line: Line) -> dict[str, Any]:
    values: dict[str, Any] = dict(zip(kind.added, line.added, strict=True))
    values |= zip(kind.largest, line.largest, strict=True)
    return {**values, "latency": counts_text(line.latency)} if kind.has_latency else values


def _larger(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)
