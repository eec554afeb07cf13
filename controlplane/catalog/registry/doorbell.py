"""Rings the worker of imports. A lost ring costs one sweep, so none may fail a request."""

import structlog
from celery import current_app
from django.conf import settings
from django.db import transaction
from kombu.exceptions import OperationalError

from controlplane.audit.doorbell import ONE_TRY

REGISTRY_TASK = "catalog.look_at_registries"
_log = structlog.get_logger(__name__)


def ring_after_commit() -> None:
    """Asks for a look as soon as this transaction's rows can be seen: once, however many ask."""
    callbacks = [entry[1] for entry in transaction.get_connection().run_on_commit]
    if ring not in callbacks:
        transaction.on_commit(ring)


def ring() -> None:
    if not settings.WAYPOST_MLFLOW_URL:
        return  # nobody would take it from the queue
    try:
        with current_app.connection_for_write(transport_options=ONE_TRY) as connection:
            current_app.send_task(REGISTRY_TASK, connection=connection, retry=False)
    except (OperationalError, OSError) as error:
        _log.warning("doorbell.unheard", task=REGISTRY_TASK, error=str(error))
