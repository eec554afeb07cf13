"""What was measured at the sites, added up by minute, hour and day. Data and constraints; no verbs.

Models are named, not referenced: a Triton may hold some that no catalogue knows."""

from collections.abc import Mapping

from django.db import models

from controlplane.fleet.models import Site
from controlplane.telemetry.columns import SumOfAccelerator, SumOfModel, SumOfReading, SumOfSite
from controlplane.telemetry.grains import Grain


class SiteFeed(models.Model):
    """How far a site's intervals are added up. Its row is also the lock: whoever adds up, or takes
    a reading, holds the rows of the sites it is at."""

    site = models.OneToOneField(
        Site, on_delete=models.CASCADE, primary_key=True, related_name="feed"
    )
    # The end of its newest interval; null while none has come.
    measured_until = models.DateTimeField(null=True)
    received_at = models.DateTimeField(null=True)
    # Of versions for which the site had no room any more.
    left_out = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"feed of {self.site_id}"


class ModelSeries(models.Model):
    """One version in one server of a site, with one set of latency bounds: where they change, a new
    series begins, so that counts between different bounds never meet."""

    site = models.ForeignKey(
        Site, on_delete=models.CASCADE, related_name="model_series", db_index=False
    )
    server = models.CharField(max_length=64, blank=True)
    model = models.CharField(max_length=64)
    version = models.PositiveBigIntegerField()
    # In ms, rising, with spaces between; empty: no histogram was reported.
    bounds = models.TextField(blank=True)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["site", "model", "version", "server", "bounds"], name="model_series_once"
            )
        ]
        indexes = [models.Index(fields=["model", "version"], name="model_series_of_model")]

    def __str__(self) -> str:
        return f"{self.model} {self.version} at {self.site_id}"


class AcceleratorSeries(models.Model):
    """One accelerator of a site."""

    site = models.ForeignKey(
        Site, on_delete=models.CASCADE, related_name="accelerator_series", db_index=False
    )
    uuid = models.CharField(max_length=80)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["site", "uuid"], name="accelerator_series_once")
        ]

    def __str__(self) -> str:
        return f"accelerator {self.uuid} at {self.site_id}"


class Figure(models.TextChoices):
    """What a site tells of itself; the unit is the end of the name."""

    POWER = "power_kw", "power drawn by the building's servers"
    COOLING = "cooling_kw", "heat taken away by cooling"
    WATER = "water_l_per_hour", "water used by cooling"
    ROUND_TRIP = "round_trip_ms", "round trip of the site's link"
    UPLINK = "uplink_mbit_per_s", "throughput out of the site"
    DOWNLINK = "downlink_mbit_per_s", "throughput into the site"


class ReadingSeries(models.Model):
    """One figure that a site tells of itself."""

    site = models.ForeignKey(
        Site, on_delete=models.CASCADE, related_name="reading_series", db_index=False
    )
    figure = models.CharField(max_length=24, choices=Figure)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["site", "figure"], name="reading_series_once")
        ]

    def __str__(self) -> str:
        return f"{self.figure} at {self.site_id}"


class Reading(models.Model):
    """One value, as it was told."""

    pk = models.CompositePrimaryKey("series_id", "at")
    series = models.ForeignKey(
        ReadingSeries, on_delete=models.CASCADE, related_name="readings", db_index=False
    )
    at = models.DateTimeField(db_index=True)
    value = models.FloatField()

    def __str__(self) -> str:
        return f"{self.value:g} in {self.series_id} at {self.at}"


class ModelMinute(SumOfModel):
    pk = models.CompositePrimaryKey("series_id", "starts_at")


class ModelHour(SumOfModel):
    pk = models.CompositePrimaryKey("series_id", "starts_at")


class ModelDay(SumOfModel):
    pk = models.CompositePrimaryKey("series_id", "starts_at")


class AcceleratorMinute(SumOfAccelerator):
    pk = models.CompositePrimaryKey("series_id", "starts_at")


class AcceleratorHour(SumOfAccelerator):
    pk = models.CompositePrimaryKey("series_id", "starts_at")


class AcceleratorDay(SumOfAccelerator):
    pk = models.CompositePrimaryKey("series_id", "starts_at")


class SiteMinute(SumOfSite):
    pk = models.CompositePrimaryKey("site_id", "starts_at")


class SiteHour(SumOfSite):
    pk = models.CompositePrimaryKey("site_id", "starts_at")


class SiteDay(SumOfSite):
    pk = models.CompositePrimaryKey("site_id", "starts_at")


class ReadingMinute(SumOfReading):
    pk = models.CompositePrimaryKey("series_id", "starts_at")


class ReadingHour(SumOfReading):
    pk = models.CompositePrimaryKey("series_id", "starts_at")


class ReadingDay(SumOfReading):
    pk = models.CompositePrimaryKey("series_id", "starts_at")


MODEL_SUMS: dict[Grain, type[SumOfModel]] = {
    Grain.MINUTE: ModelMinute,
    Grain.HOUR: ModelHour,
    Grain.DAY: ModelDay,
}
ACCELERATOR_SUMS: dict[Grain, type[SumOfAccelerator]] = {
    Grain.MINUTE: AcceleratorMinute,
    Grain.HOUR: AcceleratorHour,
    Grain.DAY: AcceleratorDay,
}
SITE_SUMS: dict[Grain, type[SumOfSite]] = {
    Grain.MINUTE: SiteMinute,
    Grain.HOUR: SiteHour,
    Grain.DAY: SiteDay,
}
READING_SUMS: dict[Grain, type[SumOfReading]] = {
    Grain.MINUTE: ReadingMinute,
    Grain.HOUR: ReadingHour,
    Grain.DAY: ReadingDay,
}
SUMS: tuple[Mapping[Grain, type[models.Model]], ...] = (
    MODEL_SUMS,
    ACCELERATOR_SUMS,
    SITE_SUMS,
    READING_SUMS,
)
