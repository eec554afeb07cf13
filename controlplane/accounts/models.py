"""People and the tokens of their machines. Data and constraints; no verbs."""

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    """A person. Own class from the first migration: it cannot be swapped in later."""


class Scope(models.TextChoices):
    """What an API token may do. `read` comes with every other scope."""

    READ = "read", "read everything"
    PUSH = "push", "push model versions"
    APPROVE = "approve", "approve versions, move channels, keep signing keys and policies"
    ROLLOUT = "rollout", "start and steer rollouts"
    FLEET = "fleet", "add sites and enrolment tokens"
    FREEZE = "freeze", "freeze and lift, set the budget, roll back during a freeze"


class ApiToken(models.Model):
    """A token of a CI job or a script. Only its SHA-256 is kept."""

    name = models.CharField(max_length=100)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens"
    )
    digest = models.CharField(max_length=64, unique=True)
    hint = models.CharField(max_length=12, help_text="first characters, to tell tokens apart")
    scopes = models.JSONField(default=list)
    # The models that its writes may concern. Empty: all.
    model_names = models.JSONField(default=list, blank=True)
    # Set where an identity provider vouched for the caller: who, in a sentence.
    exchanged_for = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"


class TrustedPublisher(models.Model):
    """CI jobs that may trade a token of their identity provider (OpenID Connect) for a short-lived
    API token: which issuer, and which claims must hold."""

    name = models.SlugField(max_length=63, unique=True)
    issuer = models.CharField(max_length=300)
    # What the job must have asked its provider to write into `aud`.
    audience = models.CharField(max_length=300)
    # Claim to the exact value it must have, such as {"repository": "acme/vad", "ref": "refs/..."}.
    claims = models.JSONField(default=dict)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="publishers"
    )
    scopes = models.JSONField(default=list)
    model_names = models.JSONField(default=list, blank=True)
    minutes = models.PositiveSmallIntegerField(default=15)
    # The token that vouched for it, none where a person did in the console. Once that is revoked
    # nothing more is traded.
    granted_by = models.ForeignKey(
        ApiToken, on_delete=models.CASCADE, null=True, blank=True, related_name="publishers"
    )
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class SpentIdentity(models.Model):
    """A token of an identity provider that was traded in: it serves once."""

    digest = models.CharField(max_length=64, primary_key=True)
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.digest[:12]


class IdempotentCall(models.Model):
    """A write that was named by its caller (`Idempotency-Key`), and how it was answered."""

    token = models.ForeignKey(ApiToken, on_delete=models.CASCADE, related_name="calls")
    key = models.CharField(max_length=200)
    # SHA-256 over method, path and body.
    request_digest = models.CharField(max_length=64)
    # Null while the call is under way.
    status = models.PositiveSmallIntegerField(null=True)
    headers = models.JSONField(default=dict)
    body = models.BinaryField(default=b"")
    started_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["token", "key"], name="idempotency_key_once_per_token")
        ]

    def __str__(self) -> str:
        return self.key[:40]
