"""Which CI jobs are trusted to push without a stored secret: rows that say which issuer's identity,
with which claims, may be traded for a short token, and what that token may do.

It decides which rows may be written; it must not know how an identity is checked."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import urlsplit

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from controlplane.accounts.issuers import issuer_rules
from controlplane.accounts.models import ApiToken, TrustedPublisher, User
from controlplane.accounts.services import model_faults, require_grantable, scope_faults
from controlplane.audit.services import record_event
from controlplane.audit.webhooks_target import BadTarget, parse_target
from controlplane.domain.errors import Conflict, FieldError, InvalidInput, NotFound

MAX_MINUTES = 60
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
MAX_CLAIMS = 20
# Everybody can have an identity of these; one of the claims must say whose project it is.
SHARED_ISSUERS: Mapping[str, tuple[str, ...]] = {
    "https://token.actions.githubusercontent.com": (
        "repository",
        "repository_id",
        "sub",
        "repository_owner",
        "repository_owner_id",
    ),
    "https://gitlab.com": (
        "project_path",
        "project_id",
        "sub",
        "namespace_path",
        "namespace_id",
    ),
}


@transaction.atomic
def create_publisher(
    *,
    name: str,
    issuer: str,
    audience: str,
    claims: Mapping[str, object],
    user: User,
    scopes: Sequence[str],
    model_names: Sequence[str] = (),
    minutes: int = 15,
    granted_by: ApiToken | None = None,
    actor: str,
    now: datetime,
) -> TrustedPublisher:
    """Raises `InvalidInput` with every fault, `Conflict`, `Forbidden` where the granting token has
    less itself. It ends with the revocation of that token."""
    faults = [
        *_issuer_faults(issuer),
        *_claim_faults(issuer, claims),
        *scope_faults(scopes),
        *model_faults(model_names),
    ]
    if not _NAME.fullmatch(name):
        message = "must be 1 to 63 small letters, digits and dashes, and begin with no dash"
        faults.append(FieldError(field="name", message=message))
    if not 0 < len(audience) <= 300 or not audience.isprintable():
        faults.append(FieldError(field="audience", message="must be 1 to 300 visible characters"))
    if not 1 <= minutes <= MAX_MINUTES:
        faults.append(FieldError(field="minutes", message=f"must be 1 to {MAX_MINUTES}"))
    if faults:
        detail = "The publisher cannot be trusted as asked."
        raise InvalidInput("publisher-invalid", detail, errors=faults)
    if granted_by is not None:
        require_grantable(granted_by, scopes=scopes, model_names=model_names, until=None)
    try:
        with transaction.atomic():
            publisher = TrustedPublisher.objects.create(
                name=name,
                issuer=issuer,
                audience=audience,
                claims=dict(claims),
                user=user,
                scopes=sorted(set(scopes)),
                model_names=sorted(set(model_names)),
                minutes=minutes,
                granted_by=granted_by,
                created_by=actor[:150],
                created_at=now,
            )
    except IntegrityError as error:
        detail = f"There is a publisher {name!r} already; names are for ever."
        raise Conflict("publisher-exists", detail) from error
    record_event(
        now=now,
        actor=actor,
        action="publisher.created",
        object_type="publisher",
        object_id=name,
        data={
            "issuer": issuer,
            "audience": audience,
            "claims": dict(claims),
            "scopes": publisher.scopes,
            "models": publisher.model_names,
        },
    )
    return publisher


def publishers() -> QuerySet[TrustedPublisher]:
    return TrustedPublisher.objects.select_related("user").order_by("name")


def find_publisher(name: str) -> TrustedPublisher:
    row = publishers().filter(name=name).first() if "\0" not in name else None
    if row is None:
        raise NotFound("publisher-unknown", f"No publisher is called {name!r}.")
    return row


@transaction.atomic
def revoke_publisher(
    *, publisher: TrustedPublisher, reason: str, actor: str, now: datetime
) -> TrustedPublisher:
    """Nothing more is traded in; tokens that were live on to their end, minutes away. A second
    revocation changes nothing."""
    rows = TrustedPublisher.objects.filter(pk=publisher.pk, revoked_at=None)
    if rows.update(revoked_at=now):
        record_event(
            now=now,
            actor=actor,
            action="publisher.revoked",
            object_type="publisher",
            object_id=publisher.name,
            reason=reason,
        )
    return find_publisher(publisher.name)


def _issuer_faults(issuer: str) -> list[FieldError]:
    try:
        parse_target(issuer, issuer_rules(issuer))
        if len(issuer) > 300 or urlsplit(issuer).query:
            raise BadTarget("must be the value of the claim `iss`: an https URL without a query")
    except BadTarget as error:
        return [FieldError(field="issuer", message=str(error))]
    return []


def _claim_faults(issuer: str, claims: Mapping[str, object]) -> list[FieldError]:
    if not 1 <= len(claims) <= MAX_CLAIMS:
        message = f"must name 1 to {MAX_CLAIMS} claims and the exact value of each"
        return [FieldError(field="claims", message=message)]
    faults = [
        FieldError(field=f"claims.{key[:60]}", message="must be 1 to 300 visible characters")
        for key, value in claims.items()
        if not (
            isinstance(value, str)
            and 0 < len(value) <= 300
            and value.isprintable()
            and 0 < len(key) <= 100
            and key.isprintable()
        )
    ]
    narrowing = SHARED_ISSUERS.get(issuer.rstrip("/"))
    if narrowing and not set(narrowing) & set(claims):
        message = f"anybody has an identity of this issuer: name one of {', '.join(narrowing)}"
        faults.append(FieldError(field="claims", message=message))
    return faults
