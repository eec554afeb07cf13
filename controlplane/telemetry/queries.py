"""What was measured over a window of time, added up: what gates, pages and advice rest on.

Windows are [start, end). Totals read as few rows as they can (whole days, then hours, then
minutes) and say which window they answer for: where only hours or days are kept its ends move
inwards. Each function is at most four queries, however much there is. `gauges.py` has accelerators
and readings."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy
from django.db.models import (
    Aggregate,
    Count,
    DateTimeField,
    Model,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    TextField,
)

from controlplane.domain.distribution import from_counts
from controlplane.telemetry.grains import Grain, Window, cover, within_kept
from controlplane.telemetry.models import MODEL_SUMS, SITE_SUMS, ModelMinute, ModelSeries, SiteFeed
from controlplane.telemetry.sums import MODEL, SITE, Line, counts_of
from controlplane.telemetry.values import (
    TIMES,
    Freshness,
    ModelSums,
    SiteSums,
    VersionSums,
    together,
)

_REASONS = ("rejected", "canceled", "backend", "other")


@dataclass(frozen=True, kw_only=True)
class Totals:
    """One row for each version at each site that was asked anything in `window`."""

    window: Window
    rows: tuple[VersionSums, ...]

    def sums(
        self,
        *,
        model: str | None = None,
        version: int | None = None,
        site_ids: Collection[int] | None = None,
    ) -> ModelSums:
        """Of the rows that match, as one."""
        return together(
            row.sums
            for row in self.rows
            if (model is None or row.model == model)
            and (version is None or row.version == version)
            and (site_ids is None or row.site_id in site_ids)
        )


def model_totals(
    *,
    start: datetime,
    end: datetime,
    now: datetime,
    models: Collection[str] | None = None,
    versions: Collection[int] | None = None,
    site_ids: Collection[int] | None = None,
) -> Totals:
    """Per site, model and version; None for `models`, `versions` or `site_ids` is all of them."""
    window = within_kept(Window(start=start, end=end), now)
    which = _series_filter(models, versions, site_ids)
    series = _series(which)
    lines: dict[int, Line] = {}
    for rows in kept_rows(MODEL_SUMS, window):
        for series_id, line in _added_up(rows.filter(_rows_filter(which, series)), series):
            if series_id in lines:
                lines[series_id].take(line)
            else:
                lines[series_id] = line
    parts: defaultdict[tuple[int, str, int], list[ModelSums]] = defaultdict(list)
    for series_id, line in lines.items():
        site_id, model, version, bounds = series[series_id]
        parts[site_id, model, version].append(_model_sums(line, bounds))
    return Totals(
        window=window,
        rows=tuple(
            VersionSums(site_id=site_id, model=model, version=version, sums=_as_one(each))
            for (site_id, model, version), each in sorted(parts.items())
        ),
    )


def model_sums_by(
    grain: Grain,
    *,
    start: datetime,
    end: datetime,
    models: Collection[str] | None = None,
    versions: Collection[int] | None = None,
    site_ids: Collection[int] | None = None,
) -> tuple[VersionSums, ...]:
    """The sums of each minute, hour or day that begins in the window, oldest first: for each site,
    model and version one by one. One in which nothing was asked has none."""
    which = _series_filter(models, versions, site_ids)
    series = _series(which)
    rows = MODEL_SUMS[grain]._default_manager.filter(
        _rows_filter(which, series), starts_at__gte=start, starts_at__lt=end
    )
    parts: defaultdict[tuple[datetime, int, str, int], list[ModelSums]] = defaultdict(list)
    for starts_at, series_id, *values, latency in rows.values_list(
        "starts_at", "series_id", *MODEL.columns
    ):
        if series_id in series:
            site_id, model, version, bounds = series[series_id]
            line = Line(added=values, latency=counts_of(latency))
            parts[starts_at, site_id, model, version].append(_model_sums(line, bounds))
    return tuple(
        VersionSums(
            starts_at=starts_at, site_id=site_id, model=model, version=version, sums=_as_one(each)
        )
        for (starts_at, site_id, model, version), each in sorted(parts.items(), key=_by_name)
    )


def site_totals(
    *, start: datetime, end: datetime, now: datetime, site_ids: Collection[int] | None = None
) -> tuple[Window, Mapping[int, SiteSums]]:
    """All models together, by site, and the window that this is of."""
    window = within_kept(Window(start=start, end=end), now)
    sums: defaultdict[int, list[float]] = defaultdict(lambda: [0.0] * len(SITE.added))
    for rows in kept_rows(SITE_SUMS, window):
        wanted = rows if site_ids is None else rows.filter(site_id__in=site_ids)
        each = wanted.values_list("site_id").annotate(*(Sum(name) for name in SITE.added))
        for site_id, *values in each.order_by():
            sums[site_id] = [a + b for a, b in zip(sums[site_id], values, strict=True)]
    return window, {site_id: _site_sums(1, values) for site_id, values in sums.items()}


def fleet_by(
    grain: Grain, *, start: datetime, end: datetime
) -> tuple[tuple[datetime, SiteSums], ...]:
    """All models of all sites, for each minute, hour or day that begins in the window, oldest
    first."""
    rows = SITE_SUMS[grain]._default_manager.filter(starts_at__gte=start, starts_at__lt=end)
    each = rows.values_list("starts_at").annotate(
        Count("site_id"), *(Sum(name) for name in SITE.added)
    )
    return tuple(
        (starts_at, _site_sums(sites, values))
        for starts_at, sites, *values in each.order_by("starts_at")
    )


def freshness(site_ids: Collection[int] | None = None) -> dict[int, Freshness]:
    """By site; one of which nothing ever came is not in it."""
    rows = SiteFeed.objects.exclude(measured_until=None)
    if site_ids is not None:
        rows = rows.filter(pk__in=site_ids)
    return {
        feed.pk: Freshness(measured_until=feed.measured_until, received_at=feed.received_at)
        for feed in rows
    }


def last_asked(
    *,
    model: str,
    versions: Collection[int] | None = None,
    site_ids: Collection[int] | None = None,
) -> dict[tuple[int, int], datetime]:
    """When the last minute began in which a version (site, version) was asked anything, as far back
    as minutes are kept."""
    of_series = ModelMinute.objects.filter(series_id=OuterRef("pk")).order_by("-starts_at")
    newest = Subquery(of_series.values("starts_at")[:1], output_field=DateTimeField())
    rows = ModelSeries.objects.filter(_series_filter([model], versions, site_ids))
    found: dict[tuple[int, int], datetime] = {}
    for site_id, version, at in rows.values_list("site_id", "version", newest):
        if at is not None:
            found[site_id, version] = max(at, found.get((site_id, version), at))
    return found


def kept_rows(tables: Mapping[Grain, type[Model]], window: Window) -> Iterator[QuerySet[Any]]:
    """The rows of each grain that cover the window together, at most three query sets."""
    spans: dict[Grain, Q] = {}
    for piece in cover(window):
        span = Q(starts_at__gte=piece.window.start, starts_at__lt=piece.window.end)
        spans[piece.grain] = spans.get(piece.grain, Q()) | span
    for grain, span in spans.items():
        yield tables[grain]._default_manager.filter(span)


class _Joined(Aggregate):
    """Texts of all rows, with spaces between."""

    function = "STRING_AGG"
    name = "Joined"
    template = "%(function)s(%(expressions)s, ' ')"
    output_field = TextField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, function="GROUP_CONCAT", **context)


def _series_filter(
    models: Collection[str] | None,
    versions: Collection[int] | None,
    site_ids: Collection[int] | None,
) -> Q:
    asked = {"model": models, "version": versions, "site_id": site_ids}
    return Q(**{f"{name}__in": each for name, each in asked.items() if each is not None})


# Site, model, version and bounds.
SeriesNames = Mapping[int, tuple[int, str, int, str]]


def _series(which: Q) -> SeriesNames:
    rows = ModelSeries.objects.filter(which)
    names = rows.values_list("pk", "site_id", "model", "version", "bounds")
    return {pk: (site_id, model, version, bounds) for pk, site_id, model, version, bounds in names}


def _rows_filter(which: Q, series: SeriesNames) -> Q:
    """Of all series there may be more than a query can name; one that came meanwhile is not among
    `series`, and is passed over by its readers."""
    return Q(series_id__in=series.keys()) if which else Q()


def _added_up(rows: QuerySet[Any], series: SeriesNames) -> Iterator[tuple[int, Line]]:
    """By the database, for each series."""
    sums = (Sum(name) for name in MODEL.added)
    each = rows.values_list("series_id").annotate(*sums, _Joined("latency"))
    for series_id, *values, latency in each.order_by():
        if series_id in series:
            yield series_id, Line(added=values, latency=_folded(latency, series[series_id][-1]))


def _folded(latency: str, bounds: str) -> list[float]:
    """The counts of any number of rows behind each other, added up by bucket."""
    if not bounds:
        return []
    counts = numpy.fromstring(latency, dtype=numpy.float64, sep=" ")
    buckets: list[float] = counts.reshape(-1, bounds.count(" ") + 2).sum(axis=0).tolist()
    return buckets


def _as_one(parts: Sequence[ModelSums]) -> ModelSums:
    return parts[0] if len(parts) == 1 else together(parts)


def _model_sums(line: Line, bounds: str) -> ModelSums:
    known = dict(zip(MODEL.added, line.added, strict=True))
    timed = round(known["timed"])
    limits = [float(bound) for bound in bounds.split()]
    return ModelSums(
        seconds=known["seconds"],
        requests=round(known["requests"]),
        failures={name: round(known[name]) for name in _REASONS if known[name]},
        timed=timed,
        latency=(from_counts(limits, line.latency),) if limits else (),
        **({name: round(known[name]) for name in TIMES} if timed else {}),
    )


def _site_sums(sites: int, values: Iterable[float]) -> SiteSums:
    known = dict(zip(SITE.added, values, strict=True))
    timed = round(known["timed"])
    return SiteSums(
        sites=sites,
        measured_seconds=known["seconds"],
        intervals=round(known["intervals"]),
        dropped=round(known["dropped"]),
        requests=round(known["requests"]),
        failed=round(known["failed"]),
        timed=timed,
        request_us=round(known["request_us"]) if timed else None,
        queue_us=round(known["queue_us"]) if timed else None,
    )


def _by_name(item: tuple[tuple[datetime, int, str, int], Any]) -> tuple[datetime, int, str, int]:
    return item[0]
