"""Writes back into the registry what became of its versions, as tags: `waypost.version`,
`waypost.state`, `waypost.reason` and `waypost.rollout`. Rows say what is to be told and what was;
a tag that could not be written is written by a later turn."""

from datetime import datetime, timedelta

import structlog
from django.db.models import Q

from controlplane.catalog.models import ImportedVersion, ImportState
from controlplane.catalog.registry import Away, Refused, RegistrySource, Unavailable
from controlplane.catalog.registry.fetching import KeepGoing

_log = structlog.get_logger(__name__)

PREFIX = "waypost."
ROLLOUT_TAG = "waypost.rollout"
_MAX_A_TURN = 100
_PAUSE = timedelta(minutes=10)
_DONE = (ImportState.IMPORTED, ImportState.FAILED)


def note_outcome(row: ImportedVersion, outcome: str) -> None:
    """What the rollouts say of a version, such as `running` or `succeeded`. The same again changes
    nothing."""
    if row.to_tell.get(ROLLOUT_TAG) != outcome:
        row.to_tell = {**row.to_tell, ROLLOUT_TAG: outcome}
        row.save(update_fields=["to_tell"])


def note_states() -> None:
    """Notes which versions are in another state than was told."""
    rows = ImportedVersion.objects.filter(state=ImportState.IMPORTED)
    for row in rows.select_related("version").order_by("pk"):
        state = row.version.state if row.version else "removed"
        if row.to_tell.get("waypost.state") != state:
            row.to_tell = {**row.to_tell, "waypost.state": state}
            row.save(update_fields=["to_tell"])


def tell_registry(*, source: RegistrySource, now: datetime, keep_going: KeepGoing) -> None:
    """Writes what was not told yet. A registry that cannot be reached ends the turn; a version
    that it does not let us write at waits a while, and the others go on."""
    due = Q(not_before=None) | Q(not_before__lte=now)
    rows = ImportedVersion.objects.filter(due).exclude(to_tell={})
    rows = rows.select_related("link").order_by("pk")
    told = 0
    for row in rows.iterator():
        tags = _untold(row)
        if not tags:
            continue
        if told >= _MAX_A_TURN or not keep_going():
            return
        told += 1
        try:
            source.tell(row.link.remote_name, row.remote_version, tags)
        except Away as error:
            _log.warning("registry_not_told", row=row.pk, error=str(error))
            return
        except Unavailable as error:
            _log.warning("registry_not_told", row=row.pk, error=str(error))
            # Of one that is being brought in, `not_before` means the import.
            same = ImportedVersion.objects.filter(pk=row.pk, state__in=_DONE)
            same.update(not_before=now + _PAUSE)
            continue
        except Refused as error:  # it is no longer there: nobody is left to be told
            _log.info("registry_version_gone", row=row.pk, error=str(error))
        same = ImportedVersion.objects.filter(pk=row.pk)
        same.update(told={**row.told, **tags})


def _untold(row: ImportedVersion) -> dict[str, str]:
    return {
        key: str(value)
        for key, value in row.to_tell.items()
        if key.startswith(PREFIX) and row.told.get(key) != value
    }
