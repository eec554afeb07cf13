"""Celery's door to the accounts. It holds no rule and may run any number of times."""

from celery import shared_task
from django.utils import timezone

from controlplane.accounts.pruning import prune_accounts


@shared_task(name="accounts.prune")
def prune() -> None:
    prune_accounts(now=timezone.now())
