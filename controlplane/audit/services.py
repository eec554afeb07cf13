"""The one writer of events."""

from collections.abc import Mapping
from datetime import datetime

import structlog
from django.db import transaction

from controlplane.audit.models import Event
from controlplane.audit.webhooks_outbox import enqueue_matching


def record_event(
    *,
    now: datetime,
    actor: str,
    action: str,
    object_type: str,
    object_id: str,
    reason: str = "",
    data: Mapping[str, object] | None = None,
) -> None:
    """Call it inside the transaction of the change: both stand or neither does, and so do the
    deliveries to the webhooks that want it."""
    # Joins the caller's transaction without a savepoint; alone it makes one.
    with transaction.atomic(savepoint=False):
        event = write_event(
            now=now,
            actor=actor,
            action=action,
            object_type=object_type,
            object_id=object_id,
            reason=reason,
            data=data,
        )
        enqueue_matching(event)


def write_event(
    *,
    now: datetime,
    actor: str,
    action: str,
    object_type: str,
    object_id: str,
    reason: str = "",
    data: Mapping[str, object] | None = None,
) -> Event:
    """The row alone, for an event that is told to nobody or to a webhook of the caller's choice."""
    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
    return Event.objects.create(
        at=now,
        actor=actor[:150],
        action=action,
        object_type=object_type,
        object_id=object_id[:150],
        reason=reason[:500],
        request_id=str(request_id)[:64],
        data=dict(data or {}),
    )
