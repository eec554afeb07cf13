"""Whose an import is: one worker's at a time, for as long as it goes on. Two that wrote the same
waiting files would mix their bytes.

It must not know what an import consists of."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q

from controlplane.catalog.models import ImportedVersion, ImportState
from controlplane.catalog.store import Readable

# A worker that died leaves its import to others after this; a conversion is shorter.
CLAIM = timedelta(minutes=30)
_RENEW_AFTER = timedelta(minutes=1)
OPEN = (ImportState.PENDING, ImportState.IMPORTING)

# Says that the worker is at work still. Raises `Taken`.
Renew = Callable[[], None]


class Taken(Exception):
    """The claim had ended, and another worker has the import now."""


def claim(now: datetime) -> ImportedVersion | None:
    """The import that was asked for first and that nobody works on. It is this worker's until the
    claim ends."""
    free = Q(claimed_until=None) | Q(claimed_until__lt=now)
    due = Q(not_before=None) | Q(not_before__lte=now)
    rows = ImportedVersion.objects.filter(free, due, state__in=OPEN)
    for row in rows.select_related("link__model").order_by("asked_at", "pk")[:10]:
        same = ImportedVersion.objects.filter(
            pk=row.pk, state=row.state, claimed_until=row.claimed_until
        )
        if same.update(claimed_until=now + CLAIM, state=ImportState.IMPORTING):
            row.claimed_until, row.state = now + CLAIM, ImportState.IMPORTING
            return row
    return None


def renew(row: ImportedVersion, now: datetime) -> None:
    """Claims it for as long again, a minute after the last time: it may be called with every piece.
    Raises `Taken`, also for an import that was taken back."""
    held = row.claimed_until
    assert held is not None
    if now < held - CLAIM + _RENEW_AFTER:
        return
    same = ImportedVersion.objects.filter(pk=row.pk, claimed_until=held)
    if not same.update(claimed_until=now + CLAIM):
        raise Taken
    row.claimed_until = now + CLAIM


def release(row: ImportedVersion) -> None:
    """For the next turn, behind those that have waited longer."""
    row.claimed_until = None
    row.save(update_fields=["claimed_until"])


@dataclass(frozen=True, kw_only=True)
class Renewing:
    """A stream that renews the claim as it is read."""

    stream: Readable
    renew: Renew

    def read(self, size: int, /) -> bytes:
        self.renew()
        return self.stream.read(size)
