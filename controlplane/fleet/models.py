"""Sites, what stands there, and the agents that speak for them. Data and constraints; no verbs.

Figures that nobody reported are null, never 0."""

import uuid

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from controlplane.domain.windows import MAX_MINUTES, WindowKind, zone_fault

NOT_NEGATIVE = [MinValueValidator(0)]


def validate_zone(name: str) -> None:
    if fault := zone_fault(name):
        raise ValidationError(fault)


class Tier(models.TextChoices):
    HYPERSCALE = "hyperscale", "hyperscale"
    REGIONAL = "regional", "regional"
    EDGE = "edge", "edge"


class Site(models.Model):
    """A place with servers and one agent."""

    name = models.SlugField(max_length=63, unique=True)
    tier = models.CharField(max_length=16, choices=Tier)
    region = models.CharField(max_length=63)
    latitude = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(-90), MaxValueValidator(90)]
    )
    longitude = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(-180), MaxValueValidator(180)]
    )
    labels = models.JSONField(default=dict, blank=True)
    timezone = models.CharField(max_length=64, default="UTC", validators=[validate_zone])
    # Sites that stand in for each other; never two of a group are changed at once.
    redundancy_group = models.SlugField(max_length=63, blank=True, db_index=False)
    # How often its agent asks; null is the fleet's default.
    poll_seconds = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(5), MaxValueValidator(86_400)]
    )
    # Why executable versions may go to it though its Triton is below the security floor, and who
    # said so. Empty: they may not.
    floor_waiver = models.CharField(max_length=400, blank=True)
    floor_waiver_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField()
    # Retired sites keep their name, since events use it, and take part in nothing.
    retired_at = models.DateTimeField(null=True, blank=True)

    # Envelope: what the building allows and what a kilowatt-hour costs there.
    power_limit_kw = models.FloatField(null=True, blank=True, validators=NOT_NEGATIVE)
    cooling_limit_kw = models.FloatField(null=True, blank=True, validators=NOT_NEGATIVE)
    water_limit_l_per_hour = models.FloatField(null=True, blank=True, validators=NOT_NEGATIVE)
    power_usage_effectiveness = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(1)]
    )
    water_usage_l_per_kwh = models.FloatField(null=True, blank=True, validators=NOT_NEGATIVE)
    energy_price_per_kwh = models.FloatField(null=True, blank=True)
    carbon_g_per_kwh = models.FloatField(null=True, blank=True, validators=NOT_NEGATIVE)
    uplink_mbit_per_s = models.FloatField(null=True, blank=True, validators=NOT_NEGATIVE)
    downlink_mbit_per_s = models.FloatField(null=True, blank=True, validators=NOT_NEGATIVE)
    egress_price_per_gb = models.FloatField(null=True, blank=True, validators=NOT_NEGATIVE)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(name="site_tier_known", condition=Q(tier__in=Tier.values))
        ]

    def __str__(self) -> str:
        return self.name


class MaintenanceWindow(models.Model):
    """When the sites that `selector` matches may be changed (`domain/windows.py`)."""

    name = models.SlugField(max_length=63, unique=True)
    kind = models.CharField(
        max_length=16, choices=[(kind.value, kind.value) for kind in WindowKind]
    )
    selector = models.JSONField(default=dict, blank=True)
    days = models.JSONField(help_text='such as ["mon", "tue"]')
    start = models.TimeField()
    minutes = models.PositiveIntegerField(
        validators=[MinValueValidator(1), MaxValueValidator(MAX_MINUTES)]
    )
    timezone = models.CharField(
        max_length=64,
        blank=True,
        validators=[validate_zone],
        help_text="blank: the site's own",
    )
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                name="window_kind_known", condition=Q(kind__in=[kind.value for kind in WindowKind])
            ),
            models.CheckConstraint(
                name="window_length_possible",
                condition=Q(minutes__gte=1) & Q(minutes__lte=MAX_MINUTES),
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Server(models.Model):
    """A machine that runs Triton, as its agent reported it."""

    site = models.ForeignKey(Site, on_delete=models.CASCADE, related_name="servers")
    hostname = models.CharField(max_length=253)
    cpu_count = models.PositiveIntegerField(null=True)
    memory_bytes = models.BigIntegerField(null=True)
    disk_total_bytes = models.BigIntegerField(null=True)
    disk_free_bytes = models.BigIntegerField(null=True)
    # By the machine's own clock of the day, for display only.
    booted_at = models.DateTimeField(null=True)
    # Of its link to here, as it measured them.
    download_bytes_per_second = models.FloatField(null=True)
    round_trip_seconds = models.FloatField(null=True)
    # How many there are; null: nobody could look.
    accelerator_count = models.PositiveIntegerField(null=True)
    # Each Triton of the machine: name, live, version, http_url, models, extensions, backends.
    tritons = models.JSONField(null=True)
    python_version = models.CharField(max_length=32, blank=True)
    triton_version = models.CharField(max_length=32, blank=True)
    triton_live = models.BooleanField(null=True)
    triton_http_url = models.CharField(max_length=200, blank=True)
    reported_at = models.DateTimeField()

    class Meta:
        ordering = ["site", "hostname"]
        constraints = [
            models.UniqueConstraint(fields=["site", "hostname"], name="server_once_per_site")
        ]

    def __str__(self) -> str:
        return f"{self.hostname} at {self.site}"


class Accelerator(models.Model):
    """One accelerator of a server."""

    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="accelerators")
    uuid = models.CharField(max_length=80)
    name = models.CharField(max_length=120)
    memory_bytes = models.BigIntegerField(null=True)
    compute_capability = models.CharField(max_length=16, blank=True)
    driver_version = models.CharField(max_length=32, blank=True)
    power_limit_watts = models.FloatField(null=True)

    class Meta:
        ordering = ["server", "uuid"]
        constraints = [
            models.UniqueConstraint(fields=["server", "uuid"], name="accelerator_once_per_server")
        ]

    def __str__(self) -> str:
        return f"{self.name} in {self.server}"


class Generation(models.Model):
    """The edition of a site's desired state. Rises in the transaction that changes a wish, and
    alone answers an agent's unchanged poll."""

    site = models.OneToOneField(Site, on_delete=models.CASCADE, primary_key=True)
    epoch = models.PositiveIntegerField(default=1)
    generation = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.epoch}.{self.generation}"


class Agent(models.Model):
    """The daemon of a site, known by its own key."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    site = models.ForeignKey(Site, on_delete=models.CASCADE, related_name="agents")
    public_key = models.BinaryField(max_length=32)
    enrolled_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    hostname = models.CharField(max_length=253, blank=True)
    agent_version = models.CharField(max_length=32, blank=True)
    # Both are accepted only when they rise: a copied disk or a late report shows itself.
    session_counter = models.PositiveBigIntegerField(default=0)
    report_seq = models.PositiveBigIntegerField(default=0)
    observed_generation = models.PositiveBigIntegerField(null=True)
    clock_skew_seconds = models.FloatField(null=True)
    # Two agents held its key: neither is answered until an operator unlocks it.
    locked_at = models.DateTimeField(null=True, blank=True)
    # An operator asks for a new key, to be there by then.
    rotate_by = models.DateTimeField(null=True, blank=True)
    key_changed_at = models.DateTimeField(null=True, blank=True)
    # What its own configuration allows, which nobody can change from here. Null: not reported.
    executable_allowed = models.BooleanField(null=True)
    # Fingerprints of the release keys it trusts, and what it does with unsigned versions.
    trust = models.JSONField(null=True)
    # The protocol version of its last call, where that was refused for it.
    refused_protocol = models.CharField(max_length=20, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["site"], condition=Q(revoked_at=None), name="one_active_agent_per_site"
            )
        ]

    def __str__(self) -> str:
        return f"agent of {self.site}"


class Lease(models.Model):
    """Liveness alone, kept apart from status: a narrow row that every poll may touch."""

    agent = models.OneToOneField(Agent, on_delete=models.CASCADE, primary_key=True)
    last_seen_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"lease of {self.agent_id}"


class EnrolmentToken(models.Model):
    """Binds one key to one site, once. Only its SHA-256 is kept."""

    site = models.ForeignKey(Site, on_delete=models.CASCADE, related_name="enrolment_tokens")
    digest = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)
    agent = models.ForeignKey(Agent, on_delete=models.SET_NULL, null=True, blank=True)

    def __str__(self) -> str:
        return f"enrolment token for {self.site}"


class Challenge(models.Model):
    """A nonce waiting to be signed; it serves once."""

    nonce = models.CharField(max_length=64, primary_key=True)
    agent = models.ForeignKey(Agent, on_delete=models.CASCADE)
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"challenge for {self.agent_id}"


class AgentSession(models.Model):
    """The one session of an agent. Only its token's SHA-256 is kept; revoking is deleting."""

    agent = models.OneToOneField(Agent, on_delete=models.CASCADE, primary_key=True)
    digest = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"session of {self.agent_id}"


class MeasuredInterval(models.Model):
    """A stretch of time in which an agent measured its site. Rows below it live and die with it."""

    site = models.ForeignKey(
        Site, on_delete=models.CASCADE, related_name="measured", db_index=False
    )
    # By the agent's clock since boot, which makes a repeated delivery show.
    boot_id = models.CharField(max_length=64)
    seq = models.PositiveBigIntegerField()
    # By the centre's clock: when it ended, from how old it was when it came.
    ended_at = models.DateTimeField()
    received_at = models.DateTimeField(db_index=True)
    seconds = models.FloatField()
    # Intervals that were lost at the site since the one before: its queue was full.
    dropped = models.PositiveIntegerField(default=0)
    # What was loaded and had no request at all: [server, model, version] each.
    idle = models.JSONField(default=list)
    # When it was added into the sums of its minute, hour and day; null: not yet.
    rolled_up_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["site", "boot_id", "seq"], name="interval_measured_once"
            )
        ]
        indexes = [
            models.Index(fields=["site", "-ended_at"], name="interval_newest_of_site"),
            models.Index(
                fields=["site", "id"],
                condition=Q(rolled_up_at=None),
                name="interval_not_rolled_up",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.seconds:g} s at {self.site_id} until {self.ended_at}"


class ModelMeasurement(models.Model):
    """What one version did in an interval: differences of Triton's counters, times in µs."""

    interval = models.ForeignKey(MeasuredInterval, on_delete=models.CASCADE, related_name="models")
    server = models.CharField(max_length=64, blank=True)
    model = models.CharField(max_length=64)
    version = models.PositiveBigIntegerField()
    requests = models.PositiveBigIntegerField()
    failed = models.PositiveBigIntegerField()
    # Failed requests by Triton's own word for why.
    failures = models.JSONField(default=dict)
    batch_executions = models.PositiveBigIntegerField(null=True)
    request_us = models.PositiveBigIntegerField(null=True)
    queue_us = models.PositiveBigIntegerField(null=True)
    compute_input_us = models.PositiveBigIntegerField(null=True)
    compute_infer_us = models.PositiveBigIntegerField(null=True)
    compute_output_us = models.PositiveBigIntegerField(null=True)
    # {"bounds": [ms, ...], "counts": [requests up to each bound, then all above]}
    latency_ms = models.JSONField(null=True)

    def __str__(self) -> str:
        return f"{self.model} {self.version} in interval {self.interval_id}"


class AcceleratorMeasurement(models.Model):
    """What one accelerator did in an interval. What it does not tell is null."""

    interval = models.ForeignKey(
        MeasuredInterval, on_delete=models.CASCADE, related_name="accelerators"
    )
    uuid = models.CharField(max_length=80)
    utilization = models.FloatField(null=True)
    memory_used_bytes = models.BigIntegerField(null=True)
    memory_total_bytes = models.BigIntegerField(null=True)
    power_watts = models.FloatField(null=True)
    energy_joules = models.FloatField(null=True)
    temperature_celsius = models.FloatField(null=True)

    def __str__(self) -> str:
        return f"accelerator {self.uuid} in interval {self.interval_id}"
