"""Tells the catalogue how the rollouts of versions that came from a registry go, so that it can
write that back there: calls go down, and the registry is the catalogue's business."""

from django.db.models import F, OuterRef, Q, Subquery
from django.db.models.fields.json import KeyTextTransform

from controlplane.catalog.models import ImportedVersion, ImportState
from controlplane.catalog.registry.telling import ROLLOUT_TAG, note_outcome
from controlplane.rollouts.models import Rollout

_MAX_A_TURN = 500


def tell_outcomes() -> None:
    """Notes the state of each imported version's latest rollout where it is another than was
    noted."""
    latest = Rollout.objects.filter(version=OuterRef("version")).order_by("-pk")
    rows = ImportedVersion.objects.filter(state=ImportState.IMPORTED, version__isnull=False)
    rows = rows.annotate(outcome=Subquery(latest.values("state")[:1]))
    rows = rows.annotate(noted=KeyTextTransform(ROLLOUT_TAG, "to_tell"))
    # The database compares, so that a tick reads the rows that changed and no others.
    changed = rows.exclude(outcome=None).filter(Q(noted__isnull=True) | ~Q(noted=F("outcome")))
    for row in changed.order_by("pk")[:_MAX_A_TURN]:
        note_outcome(row, row.outcome)
