"""What happened, who did it and why: append-only; and who else is told of it. Data and constraints;
no verbs."""

import uuid

from django.db import models
from django.db.models import Q


class Event(models.Model):
    """One act or turn of the engine, written in the transaction that made it true."""

    at = models.DateTimeField(db_index=True)
    actor = models.CharField(
        max_length=150, help_text="user:NAME, token:NAME, agent:SITE or engine"
    )
    action = models.CharField(max_length=60, db_index=True)
    object_type = models.CharField(max_length=30)
    object_id = models.CharField(max_length=150)
    reason = models.CharField(max_length=500, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    data = models.JSONField(default=dict)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["object_type", "object_id"], name="event_by_object")]

    def __str__(self) -> str:
        return f"{self.action} {self.object_type} {self.object_id}"


class Webhook(models.Model):
    """A receiver of events over HTTP."""

    name = models.SlugField(max_length=63, unique=True)
    url = models.CharField(max_length=500)
    # Readable, since every delivery is signed with it; shown once and never again.
    secret = models.CharField(max_length=64)
    # Signs beside the new one for a while after a rotation, so that the receiver may change late.
    previous_secret = models.CharField(max_length=64, blank=True)
    previous_secret_until = models.DateTimeField(null=True)
    actions = models.JSONField(help_text='"rollout.paused", "rollout." for all of a kind, or "*"')
    active = models.BooleanField(default=True)
    disabled_reason = models.CharField(max_length=300, blank=True)
    # Attempts in a row that failed; the last outcome of any delivery counts.
    failures = models.PositiveIntegerField(default=0)
    # No worker takes its deliveries before: one is at it, or the receiver failed just now.
    not_before = models.DateTimeField(null=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class DeliveryState(models.TextChoices):
    PENDING = "pending", "pending"
    DELIVERED = "delivered", "delivered"
    FAILED = "failed", "failed"


class Delivery(models.Model):
    """One event on its way to one webhook: a row of the outbox, written with the event."""

    # Also the message's id at the receiver; one id for all attempts, so that it can tell repeats.
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # No constraint in the database: an event that races the removal of a webhook must not fail
    # the change it belongs to. The row is then an orphan, which nobody sees and the sweep prunes.
    webhook = models.ForeignKey(
        Webhook,
        on_delete=models.CASCADE,
        related_name="deliveries",
        db_constraint=False,
        db_index=False,
    )
    event = models.ForeignKey(Event, on_delete=models.CASCADE, related_name="deliveries")
    state = models.CharField(max_length=16, choices=DeliveryState, default=DeliveryState.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField()
    last_status = models.PositiveIntegerField(null=True)
    last_error = models.CharField(max_length=300, blank=True)
    delivered_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ["-event_id"]
        constraints = [
            models.UniqueConstraint(
                fields=["webhook", "event"], name="one_delivery_per_webhook_and_event"
            ),
            models.CheckConstraint(
                name="delivery_state_known", condition=Q(state__in=DeliveryState.values)
            ),
        ]
        indexes = [
            models.Index(
                fields=["webhook", "next_attempt_at"],
                condition=Q(state="pending"),
                name="delivery_due",
            )
        ]

    def __str__(self) -> str:
        return f"event {self.event_id} to webhook {self.webhook_id}"
