"""The one writer of events."""

from collections.abc import Mapping
from datetime import datetime

import structlog

from controlplane.audit.models import Event


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
    """Call it inside the transaction of the change: both stand or neither does."""
    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
    Event.objects.create(
        at=now,
        actor=actor[:150],
        action=action,
        object_type=object_type,
        object_id=object_id[:150],
        reason=reason[:500],
        request_id=str(request_id)[:64],
        data=dict(data or {}),
    )
