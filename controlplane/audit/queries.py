"""Every read of the event log, of webhooks and of their deliveries."""

from django.db.models import Max, QuerySet

from controlplane.audit.models import Delivery, Event, Webhook
from controlplane.audit.webhooks_message import parse_message_id
from controlplane.domain.errors import NotFound


def recent_events(*, limit: int) -> QuerySet[Event]:
    return Event.objects.all()[:limit]


def events_of(*, object_type: str, object_id: str, limit: int) -> QuerySet[Event]:
    return Event.objects.filter(object_type=object_type, object_id=object_id)[:limit]


def latest_event_of(*, object_type: str, object_id: str) -> int:
    """The id of the newest event of the object, 0 when there is none."""
    rows = Event.objects.filter(object_type=object_type, object_id=object_id).order_by()
    return int(rows.aggregate(latest=Max("pk"))["latest"] or 0)


def webhooks() -> QuerySet[Webhook]:
    return Webhook.objects.all()


def find_webhook(name: str, *, lock: bool = False) -> Webhook:
    """With `lock` inside a transaction, held until it ends."""
    rows = Webhook.objects.select_for_update() if lock else Webhook.objects.all()
    # PostgreSQL refuses to be asked for NUL, which a path may hold; no name does.
    webhook = rows.filter(name=name).first() if "\0" not in name else None
    if webhook is None:
        raise NotFound("webhook-unknown", f"No webhook is called {name!r}.")
    return webhook


def deliveries_of(webhook: Webhook) -> QuerySet[Delivery]:
    """Newest first."""
    return Delivery.objects.filter(webhook=webhook).select_related("event").order_by("-event_id")


def find_delivery(webhook: Webhook, message_id: str) -> Delivery:
    """By the id that its receiver got as `webhook-id`."""
    pk = parse_message_id(message_id)
    delivery = deliveries_of(webhook).filter(pk=pk).first() if pk else None
    if delivery is None:
        raise NotFound(
            "delivery-unknown",
            f"Webhook {webhook.name!r} has no delivery {message_id[:60]!r}; "
            "those older than 30 days are forgotten.",
        )
    return delivery
