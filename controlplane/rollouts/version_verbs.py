"""Steps of a version that depend on where it runs: taking an approval back, and retiring it.

Both lock the version, as the start of a rollout does at its end: whichever comes second sees the
other."""

from datetime import datetime

from django.db import transaction

from controlplane.catalog.approvals import take_back_approval
from controlplane.catalog.channels import channels_at
from controlplane.catalog.models import Version
from controlplane.catalog.versions import lock_version, retire, unretire
from controlplane.domain.errors import Conflict
from controlplane.domain.rollout import FINAL_ROLLOUT
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.verb_parts import require_reason


@transaction.atomic
def withdraw_approval(
    *, version: Version, person: str, reason: str, actor: str, now: datetime
) -> Version:
    """Takes this person's yes back, as long as no rollout of the version was started.

    Raises `InvalidInput` (`reason-required`), `Conflict` (`approval-in-use`, `approval-unknown`,
    and what says that the version is not in use).
    """
    require_reason(reason)
    row = lock_version(version)
    begun = Rollout.objects.filter(version=row).exclude(
        state__in=[state.value for state in FINAL_ROLLOUT], started_at=None
    )
    if (rollout := begun.order_by("pk").first()) is not None:
        raise Conflict(
            "approval-in-use",
            f"Rollout {rollout.pk} of {row} rests on the approvals; to take it out of use, "
            "quarantine the version.",
            extra={"rollout": rollout.pk},
        )
    _require_no_channel(row, "approval-in-use")
    return take_back_approval(version=row, person=person, reason=reason, actor=actor, now=now)


@transaction.atomic
def retire_version(*, version: Version, reason: str, actor: str, now: datetime) -> Version:
    """No new rollout brings it anywhere; a rollback to it stays possible.

    Raises `InvalidInput` (`reason-required`), `Conflict` (`version-in-rollout`,
    `version-in-channel`, and what says that it is not in use).
    """
    require_reason(reason)
    row = lock_version(version)
    open_ones = Rollout.objects.filter(version=row).exclude(
        state__in=[state.value for state in FINAL_ROLLOUT]
    )
    if (rollout := open_ones.order_by("pk").first()) is not None:
        raise Conflict(
            "version-in-rollout",
            f"Rollout {rollout.pk} of {row} is not over ({rollout.state}); wait, or abort it.",
            extra={"rollout": rollout.pk},
        )
    _require_no_channel(row, "version-in-channel")
    return retire(version=row, reason=reason, actor=actor, now=now)


def unretire_version(*, version: Version, reason: str, actor: str, now: datetime) -> Version:
    """Leads it back to where it was. Raises `InvalidInput` (`reason-required`) and `Conflict`
    (`version-not-retired`)."""
    require_reason(reason)
    return unretire(version=version, reason=reason, actor=actor, now=now)


def _require_no_channel(row: Version, code: str) -> None:
    if names := channels_at(row):
        raise Conflict(
            code,
            f"{row} is what {', '.join(names)} points at; move that first.",
            extra={"channels": names},
        )
