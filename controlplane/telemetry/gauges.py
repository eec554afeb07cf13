"""What accelerators and sites told of themselves over a window of time: means and peaks.

As `queries.py`: [start, end), at most three queries, unknown is None."""

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.db.models import Max, QuerySet, Sum

from controlplane.telemetry.grains import Window, within_kept
from controlplane.telemetry.models import ACCELERATOR_SUMS, READING_SUMS
from controlplane.telemetry.queries import kept_rows
from controlplane.telemetry.sums import ACCELERATOR, READING, Kind, Line
from controlplane.telemetry.values import AcceleratorFigures, ReadingFigures


def accelerator_totals(
    *, start: datetime, end: datetime, now: datetime, site_ids: Collection[int] | None = None
) -> tuple[Window, tuple[AcceleratorFigures, ...]]:
    """Of each accelerator that was seen, and the window that this is of."""
    window = within_kept(Window(start=start, end=end), now)
    lines: dict[tuple[int, str], Line] = defaultdict(lambda: _empty(ACCELERATOR))
    for rows in kept_rows(ACCELERATOR_SUMS, window):
        for site_id, uuid, *values in _grouped(ACCELERATOR, rows, site_ids, "uuid"):
            lines[site_id, uuid].take(_line(ACCELERATOR, values))
    return window, tuple(_figures(*name, line) for name, line in sorted(lines.items(), key=_name))


def reading_totals(
    *, start: datetime, end: datetime, now: datetime, site_ids: Collection[int] | None = None
) -> tuple[Window, tuple[ReadingFigures, ...]]:
    """Of each figure that a site told, and the window that this is of."""
    window = within_kept(Window(start=start, end=end), now)
    lines: dict[tuple[int, str], Line] = defaultdict(lambda: _empty(READING))
    for rows in kept_rows(READING_SUMS, window):
        for site_id, figure, *values in _grouped(READING, rows, site_ids, "figure"):
            lines[site_id, figure].take(_line(READING, values))
    found = []
    for (site_id, figure), line in sorted(lines.items(), key=_name):
        (readings, total), (peak,) = line.added, line.largest
        found.append(
            ReadingFigures(
                site_id=site_id,
                figure=figure,
                readings=round(readings),
                mean=total / readings,
                peak=total / readings if peak is None else peak,
            )
        )
    return window, tuple(found)


def _grouped(
    kind: Kind, rows: QuerySet[Any], site_ids: Collection[int] | None, name: str
) -> QuerySet[Any, Any]:
    wanted = rows if site_ids is None else rows.filter(series__site_id__in=site_ids)
    sums = (Sum(column) for column in kind.added)
    peaks = (Max(column) for column in kind.largest)
    named = wanted.values_list("series__site_id", f"series__{name}")
    found: QuerySet[Any, Any] = named.annotate(*sums, *peaks).order_by()
    return found


def _empty(kind: Kind) -> Line:
    return Line(added=[0.0] * len(kind.added), largest=[None] * len(kind.largest))


def _line(kind: Kind, values: list[Any]) -> Line:
    return Line(added=values[: len(kind.added)], largest=values[len(kind.added) :])


def _figures(site_id: int, uuid: str, line: Line) -> AcceleratorFigures:
    sums = dict(zip(ACCELERATOR.added, line.added, strict=True))
    peaks = dict(zip(ACCELERATOR.largest, line.largest, strict=True))

    def mean(total: str, known: str) -> float | None:
        return sums[total] / sums[known] if sums[known] else None

    return AcceleratorFigures(
        site_id=site_id,
        uuid=uuid,
        seconds=sums["seconds"],
        utilization_mean=mean("utilization_seconds", "utilization_known_seconds"),
        utilization_peak=peaks["utilization_peak"],
        memory_mean_bytes=mean("memory_byte_seconds", "memory_known_seconds"),
        memory_peak_bytes=_whole(peaks["memory_peak_bytes"]),
        memory_total_bytes=_whole(peaks["memory_total_bytes"]),
        power_mean_watts=mean("power_joules", "power_known_seconds"),
        power_peak_watts=peaks["power_peak_watts"],
        energy_joules=sums["energy_joules"] if sums["energy_known_seconds"] else None,
        energy_known_seconds=sums["energy_known_seconds"],
        temperature_peak_celsius=peaks["temperature_peak_celsius"],
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _name(item: tuple[tuple[int, str], Line]) -> tuple[int, str]:
    return item[0]
