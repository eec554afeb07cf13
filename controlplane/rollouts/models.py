"""What should run where, what does, and how a rollout gets there. Data and constraints; no verbs.

The words and the legal steps between them stand in `domain/rollout.py`."""

from django.db import models
from django.db.models import Q

from controlplane.catalog.models import Model, Version
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    ACTIVE_ROLLOUT,
    DeploymentState,
    RolloutState,
    StageState,
)
from controlplane.fleet.models import Site


def choices(
    states: type[RolloutState] | type[StageState] | type[DeploymentState],
) -> list[tuple[str, str]]:
    return [(state.value, state.value.replace("_", " ")) for state in states]


class SiteModel(models.Model):
    """Desired and reported state of one model at one site."""

    site = models.ForeignKey(Site, on_delete=models.CASCADE, related_name="models")
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="+")
    desired = models.ForeignKey(Version, on_delete=models.PROTECT, null=True, related_name="+")
    previous = models.ForeignKey(Version, on_delete=models.PROTECT, null=True, related_name="+")
    # The site's generation at which this wish last changed; a report of an older one is history.
    generation = models.PositiveBigIntegerField()
    reported_phase = models.CharField(max_length=16, blank=True)
    reported_serving = models.PositiveIntegerField(null=True)
    reported_healthy = models.BooleanField(null=True)
    reported_reason_code = models.CharField(max_length=60, blank=True)
    reported_reason = models.CharField(max_length=500, blank=True)
    reported_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["site", "model"]
        constraints = [
            models.UniqueConstraint(fields=["site", "model"], name="one_wish_per_site_and_model")
        ]

    def __str__(self) -> str:
        return f"{self.model} at {self.site}"


class Rollout(models.Model):
    """Moving sites to a version, stage by stage. Immutable but for its state."""

    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="rollouts")
    version = models.ForeignKey(Version, on_delete=models.PROTECT, related_name="rollouts")
    state = models.CharField(max_length=24, choices=choices(RolloutState))
    reason_code = models.CharField(max_length=60, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    # Why it left its way: what failed, or who paused, aborted or rolled it back, and why.
    cause = models.CharField(max_length=500, blank=True)
    # Since when the reason is the same: "why not yet, and since when".
    waiting_since = models.DateTimeField()
    # Rises with every change; every write is a compare-and-set on it.
    revision = models.PositiveBigIntegerField(default=1)
    note = models.CharField(max_length=500, blank=True)
    seed = models.CharField(max_length=32)
    plan_digest = models.CharField(max_length=71)
    excluded = models.JSONField(default=list)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                name="rollout_state_known", condition=Q(state__in=[s.value for s in RolloutState])
            ),
            models.UniqueConstraint(
                fields=["model"],
                condition=Q(state__in=sorted(s.value for s in ACTIVE_ROLLOUT)),
                name="one_active_rollout_per_model",
            ),
        ]

    def __str__(self) -> str:
        return f"rollout {self.pk} of {self.version}"


class Stage(models.Model):
    """An ordered group of sites in a rollout."""

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="stages")
    index = models.PositiveIntegerField()
    name = models.CharField(max_length=40)
    select = models.JSONField()
    soak_seconds = models.FloatField()
    state = models.CharField(max_length=16, choices=choices(StageState))
    reason = models.CharField(max_length=500, blank=True)
    started_at = models.DateTimeField(null=True)
    soaked_seconds = models.FloatField(default=0)
    soak_counted_until = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["rollout", "index"]
        constraints = [
            models.UniqueConstraint(fields=["rollout", "index"], name="stage_index_once"),
            models.CheckConstraint(
                name="stage_state_known", condition=Q(state__in=[s.value for s in StageState])
            ),
        ]

    def __str__(self) -> str:
        return f"stage {self.name} of rollout {self.rollout_id}"


class DeploymentKind(models.TextChoices):
    FORWARD = "forward", "forward"
    ROLLBACK = "rollback", "rollback"


class Deployment(models.Model):
    """One site's part of a rollout, there (forward) or back (rollback)."""

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="deployments")
    stage = models.ForeignKey(Stage, on_delete=models.CASCADE, related_name="deployments")
    site = models.ForeignKey(Site, on_delete=models.PROTECT, related_name="deployments")
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="+")
    kind = models.CharField(max_length=16, choices=DeploymentKind)
    # Recorded when offered, since sites may differ in what they ran before.
    from_version = models.ForeignKey(Version, on_delete=models.PROTECT, null=True, related_name="+")
    to_version = models.ForeignKey(Version, on_delete=models.PROTECT, null=True, related_name="+")
    state = models.CharField(max_length=24, choices=choices(DeploymentState))
    generation = models.PositiveBigIntegerField(null=True)
    reason_code = models.CharField(max_length=60, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    offered_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["stage", "site"]
        constraints = [
            models.UniqueConstraint(
                fields=["rollout", "site", "kind"], name="one_deployment_per_rollout_site_kind"
            ),
            models.UniqueConstraint(
                fields=["site", "model"],
                condition=Q(state__in=sorted(s.value for s in ACTIVE_DEPLOYMENT)),
                name="one_active_deployment_per_site_and_model",
            ),
            models.CheckConstraint(
                name="deployment_state_known",
                condition=Q(state__in=[s.value for s in DeploymentState]),
            ),
        ]
        indexes = [models.Index(fields=["stage", "kind", "state"], name="deployment_counts")]

    def __str__(self) -> str:
        return f"{self.kind} of {self.model} at {self.site}"


class EngineBeat(models.Model):
    """When a part of the engine was last alive: `tick`, or `worker`."""

    name = models.CharField(max_length=40, primary_key=True)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} at {self.at:%H:%M:%S}"
