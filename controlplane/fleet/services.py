"""Every write of the fleet that people ask for: sites, enrolment tokens, maintenance windows; and
the generations."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F

from controlplane.accounts.secrets import new_secret, secret_digest
from controlplane.audit.services import record_event
from controlplane.domain.errors import Conflict, FieldError, InvalidInput
from controlplane.domain.selector import parse_selector
from controlplane.domain.windows import DAYS
from controlplane.fleet.identity import revoke_agent
from controlplane.fleet.models import EnrolmentToken, Generation, MaintenanceWindow, Site
from controlplane.fleet.polling import forget_windows
from controlplane.fleet.queries import active_agent, find_window

ENROLMENT_PREFIX = "wpe"
ENROLMENT_LIFETIME = timedelta(hours=24)


@transaction.atomic
def create_site(*, fields: Mapping[str, object], actor: str, now: datetime) -> Site:
    """Adds a site with its first generation. Raises `InvalidInput`, `Conflict` (`site-exists`, also
    for the name of a retired one)."""
    site = Site(**fields, created_at=now)
    taken = Conflict("site-exists", f"A site called {site.name!r} exists already.")
    if namesake := Site.objects.filter(name=site.name).first():
        if namesake.retired_at is None:
            raise taken
        raise Conflict(
            "site-exists",
            f"{site.name!r} is the name of a site that was retired on "
            f"{namesake.retired_at:%Y-%m-%d}, and its history keeps it: restore that site, or "
            "choose another name.",
        )
    _check_site(site)
    try:
        with transaction.atomic():
            site.save()
    except IntegrityError as error:  # somebody took the name since we looked
        raise taken from error
    Generation.objects.create(site=site)
    record_event(
        now=now,
        actor=actor,
        action="site.created",
        object_type="site",
        object_id=site.name,
        data={"tier": site.tier, "region": site.region},
    )
    return site


@transaction.atomic
def update_site(*, site: Site, fields: Mapping[str, object], actor: str, now: datetime) -> Site:
    """Changes what people state about a site. The name is for ever: reports and events use it.

    Raises `InvalidInput`, `Conflict` (`site-retired`).
    """
    _refuse_retired(site)
    before = {key: getattr(site, key) for key in fields}
    for key, value in fields.items():
        setattr(site, key, value)
    _check_site(site)
    changed = {k: {"before": before[k], "after": v} for k, v in fields.items() if before[k] != v}
    if changed:
        site.save(update_fields=sorted(changed))
        record_event(
            now=now,
            actor=actor,
            action="site.changed",
            object_type="site",
            object_id=site.name,
            data=changed,
        )
    return site


@transaction.atomic
def retire_site(*, site: Site, reason: str, actor: str, now: datetime) -> Site:
    """Takes a site out of the fleet, and its agent with it; the name stays taken. What the site
    serves is not touched. Asking again changes nothing. Raises `InvalidInput` (`reason-required`).
    """
    if not reason.strip():
        fault = FieldError(field="reason", message="say why; it is kept with the site")
        raise InvalidInput("reason-required", "A reason is required.", errors=[fault])
    # Locked against an agent that joins at this moment: it joins before, or is refused after.
    site = Site.objects.select_for_update(no_key=True).get(pk=site.pk)
    if site.retired_at:
        return site
    site.retired_at = now
    site.save(update_fields=["retired_at"])
    if agent := active_agent(site):
        revoke_agent(agent=agent, reason=f"the site is retired: {reason}", actor=actor, now=now)
    _record(site, "site.retired", reason=reason, actor=actor, now=now)
    return site


@transaction.atomic
def restore_site(*, site: Site, reason: str = "", actor: str, now: datetime) -> Site:
    """Takes a retired site back; its agent joins anew. Any other site stays as it is."""
    if site.retired_at:
        # Tokens of its former life stay dead. Before the site's lock, as when an agent joins.
        tokens = EnrolmentToken.objects.filter(site=site, used_at=None, expires_at__gt=now)
        tokens.update(expires_at=now)
    site = Site.objects.select_for_update(no_key=True).get(pk=site.pk)
    if site.retired_at:
        site.retired_at = None
        site.save(update_fields=["retired_at"])
        _record(site, "site.restored", reason=reason, actor=actor, now=now)
    return site


def _record(site: Site, action: str, *, reason: str, actor: str, now: datetime) -> None:
    record_event(
        now=now,
        actor=actor,
        action=action,
        object_type="site",
        object_id=site.name,
        reason=reason,
    )


def _refuse_retired(site: Site) -> None:
    if site.retired_at:
        raise Conflict(
            "site-retired",
            f"Site {site.name!r} was retired on {site.retired_at:%Y-%m-%d}; restore it first.",
        )


def _check_site(site: Site) -> None:
    try:
        site.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        faults = [
            FieldError(field=field, message=" ".join(messages))
            for field, messages in error.message_dict.items()
        ]
        raise InvalidInput(
            "site-invalid", "The site cannot be kept as given.", errors=faults
        ) from error
    labels = site.labels
    if not isinstance(labels, dict) or not all(
        isinstance(k, str) and isinstance(v, str) for k, v in labels.items()
    ):
        fault = FieldError(field="labels", message='must map names to values, as {"ring": "0"}')
        raise InvalidInput("site-invalid", "The site cannot be kept as given.", errors=[fault])


@transaction.atomic
def create_enrolment_token(*, site: Site, actor: str, now: datetime) -> tuple[EnrolmentToken, str]:
    """A one-time token for the site's agent; the secret is shown once. Raises `Conflict`
    (`site-retired`)."""
    _refuse_retired(site)
    secret = new_secret(ENROLMENT_PREFIX)
    token = EnrolmentToken.objects.create(
        site=site,
        digest=secret_digest(secret),
        created_at=now,
        expires_at=now + ENROLMENT_LIFETIME,
    )
    record_event(
        now=now,
        actor=actor,
        action="enrolment_token.created",
        object_type="site",
        object_id=site.name,
    )
    return token, secret


@transaction.atomic
def create_window(*, fields: Mapping[str, object], actor: str, now: datetime) -> MaintenanceWindow:
    """Adds a window; `days` are names as in `DAYS`. One that selects no site is kept, since sites
    may come later, and `window_warnings` says so. Raises `InvalidInput` (`window-invalid`),
    `Conflict` (`window-exists`).
    """
    window = MaintenanceWindow(**fields, created_by=actor[:150], created_at=now)
    _check_window(window)
    try:
        with transaction.atomic():
            window.save(force_insert=True)
    except IntegrityError as error:
        raise Conflict(
            "window-exists", f"A window called {window.name!r} exists already; delete it first."
        ) from error
    record_event(
        now=now,
        actor=actor,
        action="window.created",
        object_type="window",
        object_id=window.name,
        data=_document(window),
    )
    forget_windows()
    return window


@transaction.atomic
def delete_window(*, name: str, actor: str, now: datetime) -> None:
    """Raises `NotFound` (`window-unknown`)."""
    window = find_window(name)
    document = _document(window)
    gone, _ = MaintenanceWindow.objects.filter(pk=window.pk).delete()
    if gone:  # of two that delete it at once, one is written down
        record_event(
            now=now,
            actor=actor,
            action="window.deleted",
            object_type="window",
            object_id=name,
            data=document,
        )
    forget_windows()


def _check_window(window: MaintenanceWindow) -> None:
    faults: list[FieldError] = []
    try:
        window.full_clean(["selector", "days"], validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        faults += [
            FieldError(field=field, message=" ".join(messages))
            for field, messages in error.message_dict.items()
        ]
    parse_selector(window.selector, "selector", faults)
    days = window.days
    if isinstance(days, list) and days and all(day in DAYS for day in days):
        window.days = sorted(set(days), key=DAYS.index)
    else:
        faults.append(FieldError(field="days", message=f"must be some of {', '.join(DAYS)}"))
    if faults:
        raise InvalidInput("window-invalid", "The window cannot be kept as given.", errors=faults)


def _document(window: MaintenanceWindow) -> dict[str, object]:
    return {
        "kind": window.kind,
        "selector": window.selector,
        "days": window.days,
        "start": f"{window.start:%H:%M}",
        "minutes": window.minutes,
        "timezone": window.timezone,
    }


def raise_generations(site_ids: Iterable[int]) -> dict[int, int]:
    """Raises the generation of each site by one and returns the new ones, by site id.

    Call it inside the transaction that changes the wishes. Rows are locked in the order of their
    ids, so that two rollouts that meet at the same sites wait for each other and never deadlock.
    """
    ids = lock_generations(site_ids)
    Generation.objects.filter(site_id__in=ids).update(generation=F("generation") + 1)
    return dict(Generation.objects.filter(site_id__in=ids).values_list("site_id", "generation"))


def lock_generations(site_ids: Iterable[int]) -> list[int]:
    """Locks the generations of these sites, always in the order of their ids; the ids."""
    rows = Generation.objects.filter(site_id__in=list(site_ids)).select_for_update()
    return list(rows.order_by("site_id").values_list("site_id", flat=True))
