"""Who lets versions that run code go to a site though its Triton is below the security floor.

Each is one transaction with its event. It must not know versions."""

from datetime import datetime

from django.db import transaction

from controlplane.audit.services import record_event
from controlplane.domain.errors import Conflict, FieldError, InvalidInput
from controlplane.fleet.models import Site

MAX_REASON = 400


@transaction.atomic
def waive_triton_floor(*, site: Site, reason: str, actor: str, now: datetime) -> Site:
    """Waives the floor for a site until it is taken back; again it replaces the reason.

    Raises `InvalidInput` (`reason-required`, `reason-too-long`), `Conflict` (`site-retired`)."""
    reason = reason.strip()
    if not reason:
        fault = FieldError(field="reason", message="say why; it is kept with the site")
        raise InvalidInput("reason-required", "A reason is required.", errors=[fault])
    if len(reason) > MAX_REASON:
        fault = FieldError(field="reason", message=f"has at most {MAX_REASON} characters")
        raise InvalidInput("reason-too-long", "The reason is too long.", errors=[fault])
    return _set(site, reason, actor, now)


@transaction.atomic
def restore_triton_floor(*, site: Site, reason: str = "", actor: str, now: datetime) -> Site:
    """The floor holds again; where it holds nothing changes. What serves goes on."""
    return _set(site, "", actor, now, said=reason.strip()[:MAX_REASON])


def _set(site: Site, waiver: str, actor: str, now: datetime, said: str = "") -> Site:
    site = Site.objects.select_for_update(no_key=True).get(pk=site.pk)
    if site.retired_at:
        raise Conflict("site-retired", f"Site {site.name!r} is retired; restore it first.")
    if site.floor_waiver == waiver and (not waiver or site.floor_waiver_by == actor[:150]):
        return site
    site.floor_waiver, site.floor_waiver_by = waiver, actor[:150] if waiver else ""
    site.save(update_fields=["floor_waiver", "floor_waiver_by"])
    record_event(
        now=now,
        actor=actor,
        action="site.triton_floor_waived" if waiver else "site.triton_floor_restored",
        object_type="site",
        object_id=site.name,
        reason=waiver or said,
    )
    return site
