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
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"
