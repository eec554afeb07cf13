"""Forgets what nobody can ask for any more: answers of named calls, identities that were spent and
have expired by themselves, and short tokens that ended long ago (the events keep who had them)."""

from datetime import datetime, timedelta

from controlplane.accounts.models import ApiToken, IdempotentCall, SpentIdentity

CALLS_KEPT_FOR = timedelta(hours=24)
EXCHANGED_KEPT_FOR = timedelta(days=30)


def prune_accounts(*, now: datetime) -> int:
    """How many rows went."""
    calls = IdempotentCall.objects.filter(started_at__lte=now - CALLS_KEPT_FOR)
    spent = SpentIdentity.objects.filter(expires_at__lte=now)
    ended = ApiToken.objects.filter(expires_at__lte=now - EXCHANGED_KEPT_FOR)
    exchanged = ended.exclude(exchanged_for="")
    return sum(rows.delete()[0] for rows in (calls, spent, exchanged))
