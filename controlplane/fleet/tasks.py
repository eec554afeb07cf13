"""Celery's door to the fleet. It holds no rule and may run any number of times."""

from celery import shared_task
from django.utils import timezone

from controlplane.fleet.measurements import prune_measurements


@shared_task(name="fleet.prune")
def prune() -> None:
    prune_measurements(now=timezone.now())
