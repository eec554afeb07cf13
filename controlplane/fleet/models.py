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
    disk_free_bytes = models.BigIntegerField(null=True)
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
