"""Empties the outbox: takes what is due, sends it, writes down what came of it, tries again later.

At least once: a process that dies between sending and writing down leaves the delivery pending, and
it is sent again under the same id. One batch takes several webhooks side by side, each in a lane of
its own, so that a slow receiver holds up its own deliveries and no other's. Inside a lane they go
in the order of their events; over retries the order is not kept.

It must not know what an event means, nor how a message travels: `send` does that."""

import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from queue import SimpleQueue

import structlog
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from controlplane.audit.models import Delivery, DeliveryState, Webhook
from controlplane.audit.services import record_event
from controlplane.audit.webhooks_http import Answer
from controlplane.audit.webhooks_message import Message, signed_message

# After the attempt of that number; one more attempt than delays, over 45 hours.
RETRY_AFTER = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 60, 5 * 60, 30 * 60, 2 * 3600, 6 * 3600, 12 * 3600, 24 * 3600)
)
# For so long nothing is sent to a webhook after its first failure, and after each later one in a
# row: a dead receiver may cost a worker one timeout a minute, not one for every event.
REST = (timedelta(seconds=5), timedelta(seconds=60))
# A worker's hold on a webhook. Celery kills a task at 90 s, so whoever held it sends no more then.
HOLD = timedelta(seconds=90)
KEEP = timedelta(days=30)
LANES = 8
LANE_LENGTH = 50
PRUNE_BATCH = 500
GONE = 410

Send = Callable[[Message], Answer]
log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Lane:
    """What one worker sends to one webhook, one after the other."""

    webhook_id: int
    held_until: datetime
    deliveries: Sequence[tuple[Delivery, Message]]


def deliver_due(*, now: datetime, send: Send, lane_seconds: float = 5.0) -> int:
    """One bounded batch; the number of attempts made. Safe from any number of workers at once.

    A lane ends with its first failure, and starts nothing new after `lane_seconds`."""
    lanes = claim_lanes(now=now)
    if not lanes:
        return 0
    # The threads send and touch no row; the rows are written here, in the caller's connection.
    outcomes: SimpleQueue[tuple[Lane, Delivery | None, Answer | None]] = SimpleQueue()
    attempts, running = 0, len(lanes)
    failed: set[int] = set()
    with ThreadPoolExecutor(len(lanes), thread_name_prefix="webhook") as pool:
        for lane in lanes:
            pool.submit(_send_lane, lane, send, time.monotonic() + lane_seconds, outcomes.put)
        while running:
            lane, delivery, answer = outcomes.get()
            if delivery is None or answer is None:
                running -= 1
                release(lane, failed=lane.webhook_id in failed, now=now)
                continue
            attempts += 1
            if not answer.ok:
                failed.add(lane.webhook_id)
            record_answer(delivery_id=delivery.pk, answer=answer, now=now)
    return attempts


def _send_lane(
    lane: Lane,
    send: Send,
    deadline: float,
    tell: Callable[[tuple[Lane, Delivery | None, Answer | None]], None],
) -> None:
    try:
        for delivery, message in lane.deliveries:
            try:
                answer = send(message)
            except Exception as error:  # a fault of ours must not stop the other lanes
                log.exception("webhook.send_broke", webhook=lane.webhook_id)
                answer = Answer(status=None, error=f"{type(error).__name__}: {error}")
            tell((lane, delivery, answer))
            if not answer.ok or time.monotonic() >= deadline:
                return
    finally:
        tell((lane, None, None))


def claim_lanes(*, now: datetime) -> list[Lane]:
    """Takes hold of webhooks that have something due, those not served for longest first.

    One short transaction: PostgreSQL passes over rows that another worker is taking; on SQLite the
    transaction is exclusive."""
    if not _due_webhooks(now).exists():  # spares SQLite the write lock of every idle sweep
        return []
    with transaction.atomic():
        webhooks = list(
            _due_webhooks(now)
            .order_by(F("not_before").asc(nulls_first=True), "pk")
            .select_for_update(skip_locked=True)[:LANES]
        )
        held_until = now + HOLD
        ids = [webhook.pk for webhook in webhooks]
        Webhook.objects.filter(pk__in=ids).update(not_before=held_until)
        return [_lane(webhook, held_until, now) for webhook in webhooks]


def _due(now: datetime) -> QuerySet[Delivery]:
    return Delivery.objects.filter(state=DeliveryState.PENDING, next_attempt_at__lte=now)


def _due_webhooks(now: datetime) -> QuerySet[Webhook]:
    return Webhook.objects.filter(
        Q(not_before=None) | Q(not_before__lte=now),
        Exists(_due(now).filter(webhook=OuterRef("pk"))),
        active=True,
    )


def _lane(webhook: Webhook, held_until: datetime, now: datetime) -> Lane:
    keys = [webhook.secret]
    if webhook.previous_secret_until and now < webhook.previous_secret_until:
        keys.append(webhook.previous_secret)
    due = _due(now).filter(webhook=webhook).select_related("event").order_by("event_id")
    return Lane(
        webhook_id=webhook.pk,
        held_until=held_until,
        deliveries=[
            (
                delivery,
                signed_message(
                    url=webhook.url,
                    keys=keys,
                    delivery_id=delivery.pk,
                    event=delivery.event,
                    now=now,
                ),
            )
            for delivery in due[:LANE_LENGTH]
        ],
    )


def record_answer(*, delivery_id: uuid.UUID, answer: Answer, now: datetime) -> None:
    """Writes down one attempt. What was removed or delivered meanwhile stays as it is."""
    with transaction.atomic():
        delivery = (
            Delivery.objects.select_for_update(of=("self",))
            .select_related("webhook", "event")
            .filter(pk=delivery_id, state=DeliveryState.PENDING)
            .first()
        )
        if delivery is None:
            return
        delivery.attempts += 1
        delivery.last_status = answer.status
        delivery.last_error = answer.error[:300]
        if answer.ok:
            delivery.state = DeliveryState.DELIVERED
            delivery.delivered_at = now
        elif answer.status == GONE or delivery.attempts > len(RETRY_AFTER):
            delivery.state = DeliveryState.FAILED
        else:
            delivery.next_attempt_at = now + RETRY_AFTER[delivery.attempts - 1]
        delivery.save()
        if delivery.state == DeliveryState.FAILED and answer.status != GONE:
            _report_failure(delivery, now)
    # Apart: people's verbs lock the webhook before its deliveries. Without it the next 410 does it.
    if answer.status == GONE:
        _disable(delivery.webhook, now)


@transaction.atomic
def _disable(webhook: Webhook, now: datetime) -> None:
    """The receiver said that it wants no more. Itself inactive, it is not told of that event."""
    reason = "the receiver answered 410 Gone"
    if Webhook.objects.filter(pk=webhook.pk, active=True).update(
        active=False, disabled_reason=reason
    ):
        record_event(
            now=now,
            actor="engine",
            action="webhook.disabled",
            object_type="webhook",
            object_id=webhook.name,
            reason=reason,
        )


def _report_failure(delivery: Delivery, now: datetime) -> None:
    """Not for events about webhooks: two dead receivers would tell each other of it for ever."""
    if delivery.event.action.startswith("webhook."):
        return
    record_event(
        now=now,
        actor="engine",
        action="webhook.delivery_failed",
        object_type="webhook",
        object_id=delivery.webhook.name,
        reason=f"given up after {delivery.attempts} attempts: {delivery.last_error}",
        data={"event": delivery.event_id, "action": delivery.event.action},
    )


def release(lane: Lane, *, failed: bool, now: datetime) -> None:
    """Gives the webhook back, at once or after a rest. A hold that ran out is somebody else's."""
    held = Webhook.objects.filter(pk=lane.webhook_id, not_before=lane.held_until)
    if not failed:
        held.update(not_before=now, failures=0)
        return
    # Two updates in turn, as the rest follows from the count: the first failure, or a later one.
    if not held.filter(failures=0).update(not_before=now + REST[0], failures=1):
        held.update(not_before=now + REST[1], failures=F("failures") + 1)


def prune_deliveries(*, now: datetime) -> int:
    """Forgets deliveries 30 days after their events, but for what may still be sent. The events
    stay."""
    old = Delivery.objects.filter(created_at__lt=now - KEEP).exclude(
        state=DeliveryState.PENDING, webhook__in=Webhook.objects.filter(active=True)
    )
    ids = list(old.order_by("created_at").values_list("pk", flat=True)[:PRUNE_BATCH])
    if ids:
        Delivery.objects.filter(pk__in=ids).delete()
    return len(ids)
