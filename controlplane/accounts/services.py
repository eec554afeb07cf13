"""Makes, checks and revokes API tokens."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from controlplane.accounts.models import ApiToken, Scope, User
from controlplane.accounts.secrets import new_secret, secret_digest
from controlplane.audit.services import record_event
from controlplane.domain.errors import FieldError, InvalidInput, Unauthenticated

TOKEN_PREFIX = "wpt"
MAX_LIFETIME = timedelta(days=365)
USE_RECORDED_EVERY = timedelta(minutes=1)  # spares a write per request


@transaction.atomic
def create_api_token(
    *, user: User, name: str, scopes: Sequence[str], lifetime: timedelta, actor: str, now: datetime
) -> tuple[ApiToken, str]:
    """Returns the row and the secret, which is shown once and never stored."""
    faults = [
        FieldError(field="scopes", message=f"{scope!r} is not one of {', '.join(Scope.values)}")
        for scope in scopes
        if scope not in Scope.values
    ]
    if not scopes:
        faults.append(FieldError(field="scopes", message="name at least one scope"))
    if not timedelta(0) < lifetime <= MAX_LIFETIME:
        message = f"must be more than 0 and at most {MAX_LIFETIME.days} days"
        faults.append(FieldError(field="lifetime", message=message))
    if faults:
        raise InvalidInput("token-invalid", "The token cannot be made as asked.", errors=faults)
    secret = new_secret(TOKEN_PREFIX)
    token = ApiToken.objects.create(
        name=name,
        user=user,
        digest=secret_digest(secret),
        hint=secret[:10],
        scopes=sorted(set(scopes)),
        created_at=now,
        expires_at=now + lifetime,
    )
    record_event(
        now=now,
        actor=actor,
        action="token.created",
        object_type="token",
        object_id=str(token.pk),
        data={"name": name, "scopes": token.scopes, "user": user.username},
    )
    return token, secret


def authenticate_api_token(*, secret: str, now: datetime) -> ApiToken:
    """The live token behind a secret. Raises `Unauthenticated`, not saying which check failed."""
    token = (
        ApiToken.objects.select_related("user").filter(digest=secret_digest(secret)).first()
        if secret.startswith(TOKEN_PREFIX + "_")
        else None
    )
    if token is None or token.revoked_at or token.expires_at <= now or not token.user.is_active:
        raise Unauthenticated(
            "token-invalid", "The API token is unknown, expired or revoked; make a new one."
        )
    ApiToken.objects.filter(
        Q(last_used_at=None) | Q(last_used_at__lt=now - USE_RECORDED_EVERY), pk=token.pk
    ).update(last_used_at=now)
    return token


@transaction.atomic
def revoke_api_token(*, token: ApiToken, actor: str, now: datetime) -> None:
    """Takes effect with the next request; a second revocation changes nothing."""
    if ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now):
        record_event(
            now=now,
            actor=actor,
            action="token.revoked",
            object_type="token",
            object_id=str(token.pk),
            data={"name": token.name},
        )
