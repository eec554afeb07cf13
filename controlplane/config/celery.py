"""The Celery app, and the worker's sign of life."""

import os
from typing import Any

from celery import Celery
from celery.signals import heartbeat_sent

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.config.settings")

app = Celery("waypost")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

# Celery sends its heartbeat every 2 s; a row every fifth time is enough to see a dead worker.
_BEATS_PER_ROW = 5
_beats = 0


@heartbeat_sent.connect
def note_worker_alive(**_: Any) -> None:
    """Writes the worker's beat from its main process, which lives also when no task comes in: so
    a silent beat scheduler and a dead worker can be told apart."""
    global _beats
    _beats += 1
    if _beats % _BEATS_PER_ROW != 1:
        return
    from django.db import Error, close_old_connections
    from django.utils import timezone

    from controlplane.rollouts.services import record_beat

    close_old_connections()
    try:
        record_beat(name="worker", now=timezone.now())
    except Error:
        app.log.get_default_logger().warning("the worker's beat could not be written")
    finally:
        close_old_connections()
