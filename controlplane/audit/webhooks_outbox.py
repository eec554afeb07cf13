"""Which webhooks are told of an event. Writes rows of the outbox and knows nothing of sending."""

from collections.abc import Iterable, Sequence

from controlplane.audit.doorbell import ring_after_commit
from controlplane.audit.models import Delivery, Event, Webhook

ALL = "*"


def wants(actions: Sequence[str], action: str) -> bool:
    """Whether an entry of a webhook covers the action: itself, its kind ("rollout.") or all."""
    return any(
        entry in (ALL, action) or (entry.endswith(".") and action.startswith(entry))
        for entry in actions
    )


def enqueue_matching(event: Event) -> None:
    """Call it in the transaction of the event. One query, and a second if anybody is told."""
    active = Webhook.objects.filter(active=True).order_by().values_list("pk", "actions")
    ids = [pk for pk, actions in active if wants(actions, event.action)]
    if ids:
        enqueue(event, ids)


def enqueue(event: Event, webhook_ids: Iterable[int]) -> list[Delivery]:
    """Writes the deliveries, due at once, and rings when they are committed."""
    rows = [
        Delivery(webhook_id=pk, event=event, next_attempt_at=event.at, created_at=event.at)
        for pk in webhook_ids
    ]
    ring_after_commit()
    return Delivery.objects.bulk_create(rows)
