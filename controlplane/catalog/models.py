"""Models, their immutable versions and the bytes behind them. Data and constraints; no verbs."""

from django.db import models
from django.db.models import Q


class DriftPolicy(models.TextChoices):
    CORRECT = "correct", "correct"
    HOLD = "hold", "hold"
    ADOPT = "adopt", "adopt"


class Model(models.Model):
    """A named line of versions."""

    name = models.CharField(max_length=64, unique=True)
    # What to do when a site reports another version than is desired, and nobody is at it.
    drift_policy = models.CharField(max_length=16, choices=DriftPolicy, default=DriftPolicy.CORRECT)
    description = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Blob(models.Model):
    """Bytes that are in the artifact store, by their SHA-256."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    size_bytes = models.BigIntegerField()
    stored_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.sha256[:12]


class VersionState(models.TextChoices):
    UPLOADING = "uploading", "uploading"
    REGISTERED = "registered", "registered"
    QUARANTINED = "quarantined", "quarantined"


class Version(models.Model):
    """What a manifest says, under a number that is also Triton's. Never changes once registered."""

    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=VersionState, default=VersionState.UPLOADING)
    # Why it may not be used, while quarantined: who said so, and what they said.
    state_reason = models.CharField(max_length=500, blank=True)
    manifest = models.JSONField()
    manifest_digest = models.CharField(max_length=71)
    size_bytes = models.BigIntegerField()
    labels = models.JSONField(default=dict, blank=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    registered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["model", "-number"]
        constraints = [
            models.UniqueConstraint(fields=["model", "number"], name="version_number_once"),
            models.UniqueConstraint(fields=["model", "manifest_digest"], name="version_bytes_once"),
            models.CheckConstraint(
                name="version_state_known", condition=Q(state__in=VersionState.values)
            ),
            models.CheckConstraint(name="version_number_from_1", condition=Q(number__gte=1)),
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.number}"


class VersionFile(models.Model):
    """One file of a version. Rows beside the manifest, so that a digest finds its versions."""

    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="files")
    path = models.CharField(max_length=515)
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64, db_index=True)

    class Meta:
        ordering = ["path"]
        constraints = [
            models.UniqueConstraint(fields=["version", "path"], name="path_once_per_version")
        ]

    def __str__(self) -> str:
        return self.path
