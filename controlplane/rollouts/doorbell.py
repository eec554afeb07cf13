"""Rings the engine through the broker. A lost ring costs one tick, so none may fail a request."""

import structlog
from celery import current_app
from django.db import transaction
from django.utils import timezone
from kombu.exceptions import OperationalError

ADVANCE_TASK = "rollouts.advance"

# `retry=False` alone does not cover connecting, which kombu tries for 6 s: too long for the request
# that waits here. A broker that hangs may hold it up for as long as these timeouts.
ONE_TRY = {"max_retries": 0, "socket_connect_timeout": 1, "socket_timeout": 2}

log = structlog.get_logger(__name__)


def ring_after_commit(rollout_id: int) -> None:
    """Asks for an advance as soon as this transaction's rows can be seen."""
    transaction.on_commit(lambda: _ring(rollout_id))


def _ring(rollout_id: int) -> None:
    rung_at = timezone.now().timestamp()
    try:
        with current_app.connection_for_write(transport_options=ONE_TRY) as connection:
            current_app.send_task(
                ADVANCE_TASK, args=[rollout_id, rung_at], connection=connection, retry=False
            )
    except (OperationalError, OSError) as error:
        log.warning("doorbell.unheard", rollout=rollout_id, error=str(error))
