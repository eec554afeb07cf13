"""Rings the task that empties the outbox. A lost ring costs one sweep, so none may fail a request.

It must not know what is in the outbox."""

import structlog
from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

DELIVER_TASK = "audit.deliver"

# `retry=False` alone does not cover connecting, which kombu tries for 6 s: too long for the request
# that waits here. A broker that hangs may hold it up for as long as these timeouts.
ONE_TRY = {"max_retries": 0, "socket_connect_timeout": 1, "socket_timeout": 2}

log = structlog.get_logger(__name__)


def ring_after_commit() -> None:
    """Asks for a delivery as soon as this transaction's rows can be seen: once, however many events
    it records. The list is Django's own, which forgets what a rolled back savepoint asked for."""
    callbacks = [entry[1] for entry in transaction.get_connection().run_on_commit]
    if ring not in callbacks:
        transaction.on_commit(ring)


def ring() -> None:
    try:
        with current_app.connection_for_write(transport_options=ONE_TRY) as connection:
            current_app.send_task(DELIVER_TASK, connection=connection, retry=False)
    except (OperationalError, OSError) as error:
        log.warning("doorbell.unheard", task=DELIVER_TASK, error=str(error))
