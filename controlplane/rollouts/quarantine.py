"""Takes a version out of use, everywhere and at once, and pins what runs at a site.

A quarantined version is offered and activated nowhere; sites that serve it go on until somebody
rolls them back, which can be asked for in the same breath."""

from datetime import datetime

from django.db import transaction

from controlplane.audit.services import record_event
from controlplane.catalog.models import Version, VersionState
from controlplane.catalog.queries import find_version
from controlplane.catalog.versions import lead_back, lock_version, move, note, save
from controlplane.domain.decisions import RollBack
from controlplane.domain.errors import Conflict, NotFound
from controlplane.domain.rollout import VERBS, RolloutState
from controlplane.domain.version_states import State
from controlplane.rollouts import effects
from controlplane.rollouts.doorbell import ring_after_commit
from controlplane.rollouts.models import Rollout, SiteModel
from controlplane.rollouts.services import lock_rollout, open_rollout_ids
from controlplane.rollouts.turning_back import require_unfrozen
from controlplane.rollouts.verb_parts import require_reason


def quarantine_version(
    *,
    model_name: str,
    number: int,
    reason: str,
    roll_back: bool,
    actor: str,
    now: datetime,
    may_while_frozen: bool = False,
) -> Version:
    """Stops offers and activations of the version. With `roll_back` its rollout turns back too.

    Raises `NotFound`, `InvalidInput` (`reason-required`), `Conflict` (`version-quarantined`,
    `version-not-registered`), `Forbidden` (`frozen`) as a rollback does.
    """
    require_reason(reason)
    with transaction.atomic():
        if roll_back:
            require_unfrozen(may_while_frozen, now)
        # Rollouts first, as the engine locks them before anything else.
        model_id = find_version(model_name, number).model_id
        rollouts = [lock_rollout(pk, wait=True) for pk in open_rollout_ids(model_id)]
        version = lock_version(find_version(model_name, number))
        if version.state == VersionState.QUARANTINED:
            raise Conflict("version-quarantined", f"{version} is quarantined already.")
        if version.state == VersionState.UPLOADING:
            raise Conflict("version-not-registered", f"{version} is {version.state}.")
        version.state_before = version.state
        move(version, State.QUARANTINED)
        save(version, reason=f"{actor}: {reason}")
        note(version, "quarantined", reason=reason, actor=actor, now=now)
        for rollout in rollouts:
            if rollout is not None and rollout.version_id == version.pk:
                _stop(rollout, roll_back, reason, actor, now)
        return version


def _stop(rollout: Rollout, roll_back: bool, reason: str, actor: str, now: datetime) -> None:
    if roll_back and RolloutState(rollout.state) in VERBS["rollback"]:
        why = f"{rollout.version} was quarantined by {actor}: {reason}"
        decision = RollBack(reason_code="version-withdrawn", reason=why)
        effects.roll_back(rollout, decision, actor=actor, now=now)
    ring_after_commit(rollout.pk)


def release_version(
    *, model_name: str, number: int, reason: str, actor: str, now: datetime
) -> Version:
    """Leads a quarantined version back to where it was before: approved, or on its way there, or
    retired. Raises `Conflict` (`version-not-quarantined`)."""
    require_reason(reason)
    with transaction.atomic():
        version = lock_version(find_version(model_name, number))
        if version.state != VersionState.QUARANTINED:
            raise Conflict("version-not-quarantined", f"{version} is not quarantined.")
        return lead_back(version, "released", reason=reason, actor=actor, now=now)


@transaction.atomic
def pin_model(*, site_name: str, model_name: str, reason: str, actor: str, now: datetime) -> None:
    """Holds what is desired of a model at a site: plans leave the site out, drift is not corrected.

    Raises `NotFound` (`wish-unknown`) when nothing was ever wished of the model there.
    """
    require_reason(reason)
    _set_pin(site_name, model_name, actor, reason)
    _note_pin("pinned", site_name, model_name, reason, actor, now)


@transaction.atomic
def unpin_model(*, site_name: str, model_name: str, reason: str, actor: str, now: datetime) -> None:
    """Lets rollouts reach the site again."""
    _set_pin(site_name, model_name, "", "")
    _note_pin("unpinned", site_name, model_name, reason, actor, now)


def _set_pin(site_name: str, model_name: str, who: str, why: str) -> None:
    rows = SiteModel.objects.filter(site__name=site_name, model__name=model_name)
    if not rows.update(pinned_by=who[:150], pinned_reason=why[:400]):
        raise NotFound("wish-unknown", f"Nothing is wished of {model_name} at {site_name}.")


def _note_pin(
    action: str, site_name: str, model_name: str, reason: str, actor: str, now: datetime
) -> None:
    record_event(
        now=now,
        actor=actor,
        action=f"site.{action}",
        object_type="site",
        object_id=site_name,
        reason=reason,
        data={"model": model_name},
    )
