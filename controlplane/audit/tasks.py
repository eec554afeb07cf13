"""Celery's door to the outbox. It holds no rule and may run any number of times."""

from celery import shared_task
from django.utils import timezone

from controlplane.audit.doorbell import DELIVER_TASK
from controlplane.audit.webhooks import target_rules
from controlplane.audit.webhooks_delivery import deliver_due, prune_deliveries
from controlplane.audit.webhooks_http import HttpSender


@shared_task(name=DELIVER_TASK)  # type: ignore[untyped-decorator]  # Celery's carry no types
def deliver() -> None:
    now = timezone.now()
    deliver_due(now=now, send=HttpSender(rules=target_rules()))
    prune_deliveries(now=now)
