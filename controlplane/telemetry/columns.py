"""Columns of the four kinds of sums; each has a table for minutes, hours and days (`models.py`).

Sums are doubles: whole numbers stay exact up to 2**53 (285 years in µs), and no absurd report can
overflow a row. Rows have no constraints in the database but their key: the roll-up alone writes
them, thousands at a time, and holds the site's feed meanwhile."""

from typing import Any

from django.db import models

_BARE: dict[str, Any] = {
    "on_delete": models.DO_NOTHING,
    "db_constraint": False,
    "db_index": False,
    "related_name": "+",
}


class SumOf(models.Model):
    """Of the intervals that ended in the minute, hour or day that began at `starts_at`."""

    starts_at = models.DateTimeField()

    class Meta:
        abstract = True
        indexes = [models.Index(fields=["starts_at"], name="%(class)s_when")]

    def __str__(self) -> str:
        return f"sums of {self.pk}"


class SumOfModel(SumOf):
    """What one version did in the intervals that ended in a minute, hour or day."""

    series = models.ForeignKey("telemetry.ModelSeries", **_BARE)
    # Of the intervals in which it was asked.
    seconds = models.FloatField(default=0)
    # Those that failed counted in, by Triton's own words for why (any other word: other).
    requests = models.FloatField(default=0)
    rejected = models.FloatField(default=0)
    canceled = models.FloatField(default=0)
    backend = models.FloatField(default=0)
    other = models.FloatField(default=0)
    # Requests that succeeded in intervals whose times are all known: the sums below are theirs.
    timed = models.FloatField(default=0)
    executions = models.FloatField(default=0)
    request_us = models.FloatField(default=0)
    queue_us = models.FloatField(default=0)
    input_us = models.FloatField(default=0)
    infer_us = models.FloatField(default=0)
    output_us = models.FloatField(default=0)
    # Counts for the series' bounds and above all, with spaces between.
    latency = models.TextField(blank=True)

    class Meta(SumOf.Meta):
        abstract = True


class SumOfAccelerator(SumOf):
    """How one accelerator fared. Readings at the end of an interval are taken to hold for all of it
    (value x seconds); each has the seconds for which it was known."""

    series = models.ForeignKey("telemetry.AcceleratorSeries", **_BARE)
    seconds = models.FloatField(default=0)
    utilization_seconds = models.FloatField(default=0)
    utilization_known_seconds = models.FloatField(default=0)
    memory_byte_seconds = models.FloatField(default=0)
    memory_known_seconds = models.FloatField(default=0)
    power_joules = models.FloatField(default=0)
    power_known_seconds = models.FloatField(default=0)
    # By its own counter, which needs no reading to hold.
    energy_joules = models.FloatField(default=0)
    energy_known_seconds = models.FloatField(default=0)
    utilization_peak = models.FloatField(null=True)
    memory_peak_bytes = models.FloatField(null=True)
    memory_total_bytes = models.FloatField(null=True)
    power_peak_watts = models.FloatField(null=True)
    temperature_peak_celsius = models.FloatField(null=True)

    class Meta(SumOf.Meta):
        abstract = True


class SumOfSite(SumOf):
    """All models of a site together, and how much of the time it was measured at all."""

    site = models.ForeignKey("fleet.Site", **_BARE)
    seconds = models.FloatField(default=0)
    intervals = models.FloatField(default=0)
    # Intervals that were lost at the site.
    dropped = models.FloatField(default=0)
    requests = models.FloatField(default=0)
    failed = models.FloatField(default=0)
    timed = models.FloatField(default=0)
    request_us = models.FloatField(default=0)
    queue_us = models.FloatField(default=0)

    class Meta(SumOf.Meta):
        abstract = True


class SumOfReading(SumOf):
    """The values of one figure."""

    series = models.ForeignKey("telemetry.ReadingSeries", **_BARE)
    readings = models.FloatField(default=0)
    total = models.FloatField(default=0)
    peak = models.FloatField(null=True)

    class Meta(SumOf.Meta):
        abstract = True
