"""Forgets sums that are older than they are kept: a partition at once on PostgreSQL, elsewhere a
minute, hour or day at a time.

Decides how much a call forgets at most; the rest is for the next one. Raw intervals are the
fleet's."""

from datetime import datetime, timedelta

from django.db import connection, models, transaction
from django.db.models import Exists, Min, OuterRef

from controlplane.telemetry.grains import Grain
from controlplane.telemetry.models import SUMS, ModelDay, ModelSeries, Reading
from controlplane.telemetry.partitions import drop_partitions
from controlplane.telemetry.rollups import hold_feeds

# Of a call, for each table.
MOST_STEPS = 200
MOST_SERIES = 1000


def forget(*, now: datetime) -> int:
    """How many partitions, or minutes, hours and days of a table, are gone."""
    if connection.vendor == "postgresql":
        gone = drop_partitions(now=now)
    else:
        gone = sum(
            _forget_rows(table, grain.kept_since(now), "starts_at", grain.length)
            for tables in SUMS
            for grain, table in tables.items()
        )
    _forget_rows(Reading, Grain.MINUTE.kept_since(now), "at", Grain.HOUR.length)
    _forget_series(now)
    return gone


def _forget_rows(table: type[models.Model], since: datetime, column: str, step: timedelta) -> int:
    """A step at a time, from the oldest: a transaction each."""
    rows = table._default_manager
    for gone in range(MOST_STEPS):
        oldest = rows.aggregate(oldest=Min(column))["oldest"]
        if oldest is None or oldest >= since:
            return gone
        rows.filter(**{f"{column}__lt": min(oldest + step, since)}).delete()
    return MOST_STEPS


def _forget_series(now: datetime) -> None:
    """Of which no sum is left: days are kept the longest. Whoever adds up holds the feed."""
    asked = Exists(ModelDay.objects.filter(series_id=OuterRef("pk")))
    old = ModelSeries.objects.filter(~asked, created_at__lt=Grain.DAY.kept_since(now))
    found = list(old.order_by("pk").values_list("pk", "site_id")[:MOST_SERIES])
    if not found:
        return
    with transaction.atomic():
        hold_feeds({site_id for _, site_id in found}, wait=True)
        old.filter(pk__in=[pk for pk, _ in found]).delete()
