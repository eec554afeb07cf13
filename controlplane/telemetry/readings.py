"""What a site tells of itself: power, cooling, water and its link. Taken once, added up at once,
and held against the site's envelope.

Decides what a repetition changes (nothing) and which limit belongs to which figure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import OuterRef, Subquery

from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.fleet.models import Site
from controlplane.telemetry.models import Figure, Reading, ReadingSeries
from controlplane.telemetry.partitions import make_partitions
from controlplane.telemetry.rollups import hold_feeds
from controlplane.telemetry.sums import READING, Line, add_up, collect

# As late as an agent's intervals; clocks of machines differ by seconds, not minutes.
OLDEST = timedelta(hours=24)
AHEAD = timedelta(minutes=1)
LIMITS = {
    Figure.POWER: "power_limit_kw",
    Figure.COOLING: "cooling_limit_kw",
    Figure.WATER: "water_limit_l_per_hour",
    Figure.UPLINK: "uplink_mbit_per_s",
    Figure.DOWNLINK: "downlink_mbit_per_s",
}


@dataclass(frozen=True, kw_only=True)
class Live:
    """The newest value of a figure; `limit` is what the site's envelope allows, None where it names
    none, and `share` the value's part of it."""

    figure: str
    value: float
    at: datetime
    limit: float | None
    share: float | None


def record_readings(
    *, site: Site, figures: Mapping[str, float], at: datetime, now: datetime
) -> frozenset[str]:
    """The figures that were new: of one moment a figure is taken once, and stays as it was told
    first. Raises `InvalidInput` (`reading-too-old`, `reading-ahead`)."""
    if at > now + AHEAD:
        raise _refused("reading-ahead", "is ahead of the centre's clock by more than a minute")
    if at <= now - OLDEST:
        raise _refused("reading-too-old", "is more than 24 hours ago; sums take nothing so late")
    make_partitions(now=now)
    with transaction.atomic():
        hold_feeds([site.pk], wait=True)
        series = _series(site, figures, now)
        known = Reading.objects.filter(series_id__in=series.values(), at=at)
        taken = set(known.values_list("series_id", flat=True))
        fresh = {name: pk for name, pk in series.items() if pk not in taken}
        Reading.objects.bulk_create(
            Reading(series_id=pk, at=at, value=figures[name]) for name, pk in fresh.items()
        )
        lines = (
            (pk, at, Line(added=(1, figures[name]), largest=(figures[name],)))
            for name, pk in fresh.items()
        )
        add_up(READING, collect(lines), now=now)
    return frozenset(fresh)


def live_readings(site: Site) -> tuple[Live, ...]:
    """The newest of each figure that the site told in the last two days. One query."""
    newest = Reading.objects.filter(series=OuterRef("pk")).order_by("-at")
    rows = ReadingSeries.objects.filter(site=site).order_by("figure")
    found = rows.values_list(
        "figure", Subquery(newest.values("value")[:1]), Subquery(newest.values("at")[:1])
    )
    return tuple(_live(site, *row) for row in found if row[2] is not None)


def _live(site: Site, figure: str, value: float, at: datetime) -> Live:
    named = LIMITS.get(Figure(figure))
    limit = getattr(site, named) if named else None
    share = value / limit if limit else None
    return Live(figure=figure, value=value, at=at, limit=limit, share=share)


def _series(site: Site, figures: Mapping[str, float], now: datetime) -> dict[str, int]:
    """The feed is held."""
    rows = ReadingSeries.objects.filter(site=site, figure__in=figures)
    found = dict(rows.values_list("figure", "pk"))
    made = ReadingSeries.objects.bulk_create(
        ReadingSeries(site=site, figure=name, created_at=now)
        for name in sorted(figures.keys() - found.keys())
    )
    return found | {row.figure: row.pk for row in made}


def _refused(code: str, message: str) -> InvalidInput:
    fault = FieldError(field="at", message=message)
    return InvalidInput(code, f"The readings cannot be taken: `at` {message}.", errors=[fault])
