"""What agents measured at their sites: taken in once, kept for a day, read newest first.

Decides what a late or doubled delivery changes: nothing. Roll-ups are another's business."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Count, Q, QuerySet

from controlplane.domain.figures import Counted, Figures, figures_of
from controlplane.fleet.identity import Caller
from controlplane.fleet.models import (
    AcceleratorMeasurement,
    MeasuredInterval,
    ModelMeasurement,
    Site,
)

KEEP = timedelta(hours=24)
# What nobody added up waits for that for another day: longer would fill the disk.
KEEP_UNCOUNTED = 2 * KEEP
# More than a day's intervals of the shortest length that an agent can be set to, 10 s.
MOST_PER_SITE = 10_000
PRUNE_BATCH = 2000
PRUNE_BATCHES = 25


@dataclass(frozen=True, kw_only=True)
class ModelCounts:
    """One version of one server; times in µs, unknown ones None."""

    server: str
    model: str
    version: int
    requests: int
    failures: Mapping[str, int]
    batch_executions: int | None = None
    request_us: int | None = None
    queue_us: int | None = None
    compute_input_us: int | None = None
    compute_infer_us: int | None = None
    compute_output_us: int | None = None
    latency_ms: Mapping[str, Sequence[float]] | None = None


@dataclass(frozen=True, kw_only=True)
class AcceleratorGauges:
    """`energy_joules` is what it took in the interval, the others as they were at its end."""

    uuid: str
    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    energy_joules: float | None = None
    temperature_celsius: float | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """An interval as an agent sent it; (`boot_id`, `seq`) names it for good."""

    boot_id: str
    seq: int
    seconds: float
    age_seconds: float
    dropped: int
    models: tuple[ModelCounts, ...]
    accelerators: tuple[AcceleratorGauges, ...]


@transaction.atomic
def record_measurement(*, caller: Caller, measurement: Measurement, now: datetime) -> bool:
    """Whether it was new. One that is older than what is kept is taken and forgotten: the agent
    need not keep it either."""
    age = timedelta(seconds=measurement.age_seconds)
    if age >= KEEP:
        return False
    interval, is_new = MeasuredInterval.objects.get_or_create(
        site_id=caller.site_id,
        boot_id=measurement.boot_id,
        seq=measurement.seq,
        defaults={
            "ended_at": now - age,
            "received_at": now,
            "seconds": measurement.seconds,
            "dropped": measurement.dropped,
            "idle": [
                [entry.server, entry.model, str(entry.version)]
                for entry in measurement.models
                if not entry.requests
            ],
        },
    )
    if not is_new:
        return False
    ModelMeasurement.objects.bulk_create(
        ModelMeasurement(
            interval=interval,
            failed=sum(entry.failures.values()),
            **{key: value for key, value in vars(entry).items() if key != "failures"},
            failures=dict(entry.failures),
        )
        for entry in measurement.models
        if entry.requests
    )
    AcceleratorMeasurement.objects.bulk_create(
        AcceleratorMeasurement(interval=interval, **vars(gauges))
        for gauges in measurement.accelerators
    )
    return True


def prune_measurements(*, now: datetime) -> int:
    """Forgets what came more than a day ago and is added up, and of each site all but the newest
    intervals. A batch to a transaction, and only so many batches: the rest is for the next time."""
    forgotten = 0
    for _ in range(PRUNE_BATCHES):
        ids = _outdated(now) or _surplus()
        if not ids:
            break
        MeasuredInterval.objects.filter(pk__in=ids).delete()
        forgotten += len(ids)
    return forgotten


def _outdated(now: datetime) -> list[int]:
    old = MeasuredInterval.objects.filter(received_at__lt=now - KEEP).filter(
        Q(rolled_up_at__isnull=False) | Q(received_at__lt=now - KEEP_UNCOUNTED)
    )
    return list(old.order_by("received_at").values_list("pk", flat=True)[:PRUNE_BATCH])


def _surplus() -> list[int]:
    """Of the site that keeps the most, where that is too many."""
    sites = MeasuredInterval.objects.values("site").annotate(kept=Count("pk")).order_by("-kept")
    crowded = sites.filter(kept__gt=MOST_PER_SITE).first()
    if crowded is None:
        return []
    of_site = MeasuredInterval.objects.filter(site=crowded["site"])
    newest_first = of_site.order_by("-ended_at", "-pk").values_list("pk", flat=True)
    return list(newest_first[MOST_PER_SITE : MOST_PER_SITE + PRUNE_BATCH])


def measured_intervals(site: Site) -> QuerySet[MeasuredInterval]:
    """Newest first, with all that was measured: three queries a page."""
    return (
        MeasuredInterval.objects.filter(site=site)
        .prefetch_related("models", "accelerators")
        .order_by("-ended_at", "-pk")
    )


def model_figures(interval: MeasuredInterval, row: ModelMeasurement) -> Figures:
    latency = row.latency_ms or {"bounds": [], "counts": []}
    return figures_of(
        Counted(
            seconds=interval.seconds,
            requests=row.requests,
            failed=row.failed,
            request_us=row.request_us,
            bounds=latency["bounds"],
            counts=latency["counts"],
        )
    )
