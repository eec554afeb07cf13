"""Celery's doors to the engine. They take ids, hold no rule, and may run any number of times."""

from datetime import UTC, datetime

from celery import shared_task
from django.utils import timezone

from controlplane.rollouts import services
from controlplane.rollouts.channel_moves import handle_moves
from controlplane.rollouts.doorbell import ADVANCE_TASK
from controlplane.rollouts.telling import tell_outcomes


@shared_task(name="rollouts.tick")
def tick() -> None:
    now = timezone.now()
    services.tick(now=now)
    handle_moves(now=now)
    tell_outcomes()


@shared_task(name=ADVANCE_TASK)
def advance(rollout_id: int, rung_at: float | None = None) -> None:
    """`rung_at`: when the bell was rung, in seconds since 1970; None looks in any case."""
    rung = None if rung_at is None else datetime.fromtimestamp(rung_at, tz=UTC)
    services.advance_rollout(rollout_id=rollout_id, now=timezone.now(), rung_at=rung)
