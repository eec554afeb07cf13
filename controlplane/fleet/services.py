"""Every write of the fleet that people ask for: sites and enrolment tokens; and the generations."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F

from controlplane.accounts.secrets import new_secret, secret_digest
from controlplane.audit.services import record_event
from controlplane.domain.errors import Conflict, FieldError, InvalidInput
from controlplane.fleet.models import EnrolmentToken, Generation, Site

ENROLMENT_PREFIX = "wpe"
ENROLMENT_LIFETIME = timedelta(hours=24)


@transaction.atomic
def create_site(*, fields: Mapping[str, object], actor: str, now: datetime) -> Site:
    """Adds a site with its first generation. Raises `InvalidInput`, `Conflict` (`site-exists`)."""
    site = Site(**fields, created_at=now)
    taken = Conflict("site-exists", f"A site called {site.name!r} exists already.")
    if Site.objects.filter(name=site.name).exists():
        raise taken
    _check(site)
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
    """Changes what people state about a site. The name is for ever: reports and events use it."""
    before = {key: getattr(site, key) for key in fields}
    for key, value in fields.items():
        setattr(site, key, value)
    _check(site)
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


def _check(site: Site) -> None:
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
    """A one-time token for the site's agent; the secret is shown once."""
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


def raise_generations(site_ids: Iterable[int]) -> dict[int, int]:
    """Raises the generation of each site by one and returns the new ones, by site id.

    Call it inside the transaction that changes the wishes. Rows are locked in the order of their
    ids, so that two rollouts that meet at the same sites wait for each other and never deadlock.
    """
    rows = Generation.objects.filter(site_id__in=list(site_ids))
    ids = list(rows.select_for_update().order_by("site_id").values_list("site_id", flat=True))
    Generation.objects.filter(site_id__in=ids).update(generation=F("generation") + 1)
    return dict(Generation.objects.filter(site_id__in=ids).values_list("site_id", "generation"))
