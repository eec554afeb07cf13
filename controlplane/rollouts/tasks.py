"""Celery's doors to the engine. They take ids, hold no rule, and may run any number of times."""

from celery import shared_task
from django.utils import timezone

from controlplane.rollouts import services
from controlplane.rollouts.doorbell import ADVANCE_TASK


@shared_task(name="rollouts.tick")
def tick() -> None:
    services.tick(now=timezone.now())


@shared_task(name=ADVANCE_TASK)
def advance(rollout_id: int) -> None:
    services.advance_rollout(rollout_id=rollout_id, now=timezone.now())
