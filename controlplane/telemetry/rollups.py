"""Adds what agents measured into the sums of its minute, hour and day, each interval exactly once.

Decides what an interval counts as: it belongs whole to the minute, hour and day in which it ended.
Late, reordered and repeated deliveries change nothing in that, since the fleet took each interval
once and the mark on it (`rolled_up_at`) is set in the transaction that adds it up."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Count

from controlplane.fleet.models import AcceleratorMeasurement, MeasuredInterval, ModelMeasurement
from controlplane.telemetry.models import AcceleratorSeries, ModelSeries, SiteFeed
from controlplane.telemetry.partitions import make_partitions
from controlplane.telemetry.sums import (
    ACCELERATOR,
    MODEL,
    SITE,
    Line,
    add_up,
    collect,
)

# Of a transaction: it keeps other writers of SQLite waiting.
MOST_INTERVALS = 500
MOST_SITES = 200
# Of a call: the engine's tick waits behind it. The rest is for the next one.
MOST_BATCHES = 10
# A site that invents names gets no more; its requests still count in the site's own sums.
MOST_SERIES_PER_SITE = 2000
MOST_ACCELERATORS_PER_SITE = 500
REASONS = {"REJECTED": "rejected", "CANCELED": "canceled", "BACKEND": "backend"}
TIMES = (
    "batch_executions",
    "request_us",
    "queue_us",
    "compute_input_us",
    "compute_infer_us",
    "compute_output_us",
)
GAUGES = (
    "utilization",
    "memory_used_bytes",
    "memory_total_bytes",
    "power_watts",
    "energy_joules",
    "temperature_celsius",
)

# Server, model, version and bounds of a series within its site.
SeriesName = tuple[str, str, int, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Interval:
    site_id: int
    ended_at: datetime
    seconds: float


def roll_up(*, now: datetime) -> int:
    """How many intervals were added up. Any number may run at once: each takes sites that no other
    has. Raises nothing of its own; what fails is rolled back and comes again."""
    make_partitions(now=now)
    done, after = 0, 0
    for _ in range(MOST_BATCHES):
        count, following = _roll_up_some(after=after, now=now)
        done += count
        if following is None:
            break
        after = following
    return done


@transaction.atomic
def _roll_up_some(*, after: int, now: datetime) -> tuple[int, int | None]:
    """How many of the sites above `after`, and where to go on; None at the end."""
    pending = MeasuredInterval.objects.filter(rolled_up_at=None)
    sites = pending.filter(site_id__gt=after).order_by("site_id").values_list("site_id", flat=True)
    wanted = list(sites.distinct()[:MOST_SITES])
    if not wanted:
        return 0, None
    feeds = hold_feeds(wanted)
    # Asked only now: while another held a site it may have added these up.
    rows = list(
        pending.filter(site_id__in=feeds.keys())
        .order_by("site_id", "pk")
        .values_list("pk", "site_id", "ended_at", "seconds", "dropped", "received_at")[
            :MOST_INTERVALS
        ]
    )
    intervals = {
        pk: _Interval(site_id=site_id, ended_at=ended_at, seconds=seconds)
        for pk, site_id, ended_at, seconds, *_ in rows
    }
    _add_models(intervals, rows, feeds, now)
    _add_accelerators(intervals, now)
    for _, site_id, ended_at, _, _, received_at in rows:
        feed = feeds[site_id]
        feed.measured_until = max(feed.measured_until or ended_at, ended_at)
        feed.received_at = max(feed.received_at or received_at, received_at)
    touched = {site_id for _, site_id, *_ in rows}
    SiteFeed.objects.bulk_create(
        [feeds[site_id] for site_id in sorted(touched)],
        update_conflicts=True,
        unique_fields=["site"],
        update_fields=["measured_until", "received_at", "left_out"],
    )
    MeasuredInterval.objects.filter(pk__in=intervals.keys()).update(rolled_up_at=now)
    # A full batch may have left some of its last site.
    return len(rows), rows[-1][1] - 1 if len(rows) == MOST_INTERVALS else wanted[-1]


def hold_feeds(site_ids: Collection[int], *, wait: bool = False) -> dict[int, SiteFeed]:
    """The locked feeds of those sites that no other transaction holds; of all with `wait`."""
    known = set(SiteFeed.objects.filter(pk__in=site_ids).values_list("pk", flat=True))
    SiteFeed.objects.bulk_create(
        [SiteFeed(pk=pk) for pk in sorted(set(site_ids) - known)], ignore_conflicts=True
    )
    rows = SiteFeed.objects.select_for_update(skip_locked=not wait).filter(pk__in=site_ids)
    return {feed.pk: feed for feed in rows.order_by("pk")}


def _add_models(
    intervals: Mapping[int, _Interval],
    rows: Sequence[tuple[Any, ...]],
    feeds: Mapping[int, SiteFeed],
    now: datetime,
) -> None:
    measured = list(
        ModelMeasurement.objects.filter(interval_id__in=intervals.keys()).values_list(
            "interval_id", "server", "model", "version", "requests", "failures", "latency_ms",
            *TIMES,
        )
    )  # fmt: skip
    names: dict[int, set[SeriesName]] = {}
    told: list[tuple[_Interval, SeriesName, Line]] = []
    for interval_id, server, model, version, requests, failures, latency, *times in measured:
        interval = intervals[interval_id]
        bounds = " ".join(map(repr, map(float, latency["bounds"]))) if latency else ""
        name = (server, model, version, bounds)
        names.setdefault(interval.site_id, set()).add(name)
        counts = latency["counts"] if bounds else []
        told.append((interval, name, _line(interval, requests, failures, counts, times)))
    series = _model_series(names, now)
    lines = []
    for interval, name, line in told:
        if (series_id := series.get((interval.site_id, name))) is None:
            feeds[interval.site_id].left_out += 1
        else:
            lines.append((series_id, interval.ended_at, line))
    add_up(MODEL, collect(lines), now=now)
    add_up(SITE, collect(_of_sites(rows, told)), now=now)


def _line(
    interval: _Interval,
    requests: int,
    failures: Mapping[str, int],
    counts: Sequence[int],
    times: Sequence[int | None],
) -> Line:
    """Times count only where all are known, so that any of their sums may be divided by any."""
    by_reason = Counter[str]()
    for reason, count in failures.items():
        by_reason[REASONS.get(reason, "other")] += count
    known = None not in times
    return Line(
        added=(
            interval.seconds,
            requests,
            by_reason["rejected"],
            by_reason["canceled"],
            by_reason["backend"],
            by_reason["other"],
            requests - by_reason.total() if known else 0,
            *(time or 0 if known else 0 for time in times),
        ),
        latency=counts,
    )


def _of_sites(
    rows: Sequence[tuple[Any, ...]], told: Sequence[tuple[_Interval, SeriesName, Line]]
) -> Iterator[tuple[int, datetime, Line]]:
    for _, site_id, ended_at, seconds, dropped, _ in rows:
        yield site_id, ended_at, Line(added=(seconds, 1, dropped, 0, 0, 0, 0, 0))
    for interval, _, line in told:
        _, requests, rejected, canceled, backend, other, timed, _, request_us, queue_us, *_ = (
            line.added
        )
        failed = rejected + canceled + backend + other
        added = (0, 0, 0, requests, failed, timed, request_us, queue_us)
        yield interval.site_id, interval.ended_at, Line(added=added)


def _model_series(
    names: Mapping[int, Collection[SeriesName]], now: datetime
) -> dict[tuple[int, SeriesName], int]:
    """Ids by site and name; new ones are made while the site has room. The feeds are held."""
    held = ModelSeries.objects.filter(
        site_id__in=names.keys(),
        model__in={model for each in names.values() for _, model, *_ in each},
    )
    found = {
        (site_id, (server, model, version, bounds)): pk
        for pk, site_id, server, model, version, bounds in held.values_list(
            "pk", "site_id", "server", "model", "version", "bounds"
        )
    }
    missing = [
        (site_id, name)
        for site_id, each in sorted(names.items())
        for name in sorted(each)
        if (site_id, name) not in found
    ]
    if not missing:
        return found
    sites = {site_id for site_id, _ in missing}
    counted = ModelSeries.objects.filter(site_id__in=sites).values_list("site_id")
    room = dict.fromkeys(sites, MOST_SERIES_PER_SITE)
    for site_id, count in counted.annotate(count=Count("pk")):
        room[site_id] -= count
    made = []
    for site_id, (server, model, version, bounds) in missing:
        if room[site_id] <= 0:
            continue
        room[site_id] -= 1
        made.append(
            ModelSeries(
                site_id=site_id,
                server=server,
                model=model,
                version=version,
                bounds=bounds,
                created_at=now,
            )
        )
    for row in ModelSeries.objects.bulk_create(made):
        found[row.site_id, (row.server, row.model, row.version, row.bounds)] = row.pk
    return found


def _add_accelerators(intervals: Mapping[int, _Interval], now: datetime) -> None:
    measured = list(
        AcceleratorMeasurement.objects.filter(interval_id__in=intervals.keys()).values_list(
            "interval_id", "uuid", *GAUGES
        )
    )
    names = {(intervals[interval_id].site_id, uuid) for interval_id, uuid, *_ in measured}
    series = _accelerator_series(names, now)
    lines = []
    for interval_id, uuid, *gauges in measured:
        interval = intervals[interval_id]
        if (series_id := series.get((interval.site_id, uuid))) is not None:
            lines.append((series_id, interval.ended_at, _gauge_line(interval.seconds, *gauges)))
    add_up(ACCELERATOR, collect(lines), now=now)


def _gauge_line(
    seconds: float,
    utilization: float | None,
    memory_used: int | None,
    memory_total: int | None,
    watts: float | None,
    joules: float | None,
    celsius: float | None,
) -> Line:
    added: list[float] = [seconds]
    for gauge in (utilization, memory_used, watts):
        added += (0, 0) if gauge is None else (gauge * seconds, seconds)
    added += (0, 0) if joules is None else (joules, seconds)
    return Line(added=added, largest=(utilization, memory_used, memory_total, watts, celsius))


def _accelerator_series(
    names: Collection[tuple[int, str]], now: datetime
) -> dict[tuple[int, str], int]:
    """As `_model_series`."""
    held = AcceleratorSeries.objects.filter(site_id__in={site_id for site_id, _ in names})
    found = {(site_id, uuid): pk for pk, site_id, uuid in held.values_list("pk", "site_id", "uuid")}
    taken = Counter(site_id for site_id, _ in found)
    made = []
    for site_id, uuid in sorted(set(names) - found.keys()):
        taken[site_id] += 1
        if taken[site_id] <= MOST_ACCELERATORS_PER_SITE:
            made.append(AcceleratorSeries(site_id=site_id, uuid=uuid, created_at=now))
    for row in AcceleratorSeries.objects.bulk_create(made):
        found[row.site_id, row.uuid] = row.pk
    return found
