"""Celery's door to the sums. It holds no rule and may run any number of times."""

from celery import shared_task
from django.utils import timezone

from controlplane.telemetry import retention, rollups


@shared_task(name="telemetry.roll_up")
def roll_up() -> None:
    rollups.roll_up(now=timezone.now())


@shared_task(name="telemetry.forget")
def forget() -> None:
    retention.forget(now=timezone.now())
