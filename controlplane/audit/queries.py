"""Every read of the event log."""

from django.db.models import Max, QuerySet

from controlplane.audit.models import Event


def recent_events(*, limit: int) -> QuerySet[Event]:
    return Event.objects.all()[:limit]


def events_of(*, object_type: str, object_id: str, limit: int) -> QuerySet[Event]:
    return Event.objects.filter(object_type=object_type, object_id=object_id)[:limit]


def latest_event_of(*, object_type: str, object_id: str) -> int:
    """The id of the newest event of the object, 0 when there is none."""
    rows = Event.objects.filter(object_type=object_type, object_id=object_id).order_by()
    return int(rows.aggregate(latest=Max("pk"))["latest"] or 0)
