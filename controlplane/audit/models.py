"""What happened, who did it and why: append-only."""

from django.db import models


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
