"""Makes, checks and revokes API tokens."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q, QuerySet

from controlplane.accounts.models import ApiToken, Scope, TrustedPublisher, User
from controlplane.accounts.secrets import new_secret, secret_digest
from controlplane.audit.services import record_event
from controlplane.domain.errors import (
    FieldError,
    Forbidden,
    InvalidInput,
    NotFound,
    Unauthenticated,
)

TOKEN_PREFIX = "wpt"
MAX_LIFETIME = timedelta(days=365)
USUAL_LIFETIME = timedelta(days=90)
MAX_MODELS = 50
USE_RECORDED_EVERY = timedelta(minutes=1)  # spares a write per request


@transaction.atomic
def create_api_token(
    *,
    user: User,
    name: str,
    scopes: Sequence[str],
    lifetime: timedelta | None = None,
    model_names: Sequence[str] = (),
    exchanged_for: str = "",
    granted_by: ApiToken | None = None,
    actor: str,
    now: datetime,
) -> tuple[ApiToken, str]:
    """Returns the row and the secret, which is shown once and never stored.

    `model_names` narrows its writes to these models, empty: all. `granted_by` is the token that
    asks for it, which can give no more than it has, and for no longer. Without `lifetime` it is 90
    days, or what the granting token has left. Raises `InvalidInput`, `Forbidden`.
    """
    if lifetime is None:
        lifetime = min(USUAL_LIFETIME, granted_by.expires_at - now if granted_by else MAX_LIFETIME)
    faults = [*scope_faults(scopes), *model_faults(model_names)]
    if not name.strip() or len(name) > 100 or not name.isprintable():
        faults.append(FieldError(field="name", message="must be 1 to 100 visible characters"))
    if not timedelta(0) < lifetime <= MAX_LIFETIME:
        message = f"must be more than 0 and at most {MAX_LIFETIME.days} days"
        faults.append(FieldError(field="lifetime", message=message))
    if faults:
        raise InvalidInput("token-invalid", "The token cannot be made as asked.", errors=faults)
    if granted_by is not None:
        require_grantable(granted_by, scopes=scopes, model_names=model_names, until=now + lifetime)
    secret = new_secret(TOKEN_PREFIX)
    token = ApiToken.objects.create(
        name=name,
        user=user,
        digest=secret_digest(secret),
        hint=secret[:10],
        scopes=sorted(set(scopes)),
        model_names=sorted(set(model_names)),
        exchanged_for=exchanged_for[:500],
        created_at=now,
        expires_at=now + lifetime,
    )
    record_event(
        now=now,
        actor=actor,
        action="token.created",
        object_type="token",
        object_id=str(token.pk),
        data={
            "name": name,
            "scopes": token.scopes,
            "models": token.model_names,
            "user": user.username,
            "exchanged_for": token.exchanged_for,
        },
    )
    return token, secret


def scope_faults(scopes: Sequence[str]) -> list[FieldError]:
    faults = [
        FieldError(field="scopes", message=f"{scope!r} is not one of {', '.join(Scope.values)}")
        for scope in scopes
        if scope not in Scope.values
    ]
    if not scopes:
        faults.append(FieldError(field="scopes", message="name at least one scope"))
    return faults


def model_faults(names: Sequence[str]) -> list[FieldError]:
    """The models need not exist yet: a token may be made before the first push."""
    if len(names) > MAX_MODELS:
        return [FieldError(field="models", message=f"at most {MAX_MODELS} models can be named")]
    message = "must be the name of a model: 1 to 64 visible characters"
    return [
        FieldError(field=f"models[{index}]", message=message)
        for index, name in enumerate(names)
        if not 0 < len(name) <= 64 or not name.isprintable() or name != name.strip()
    ]


def require_grantable(
    giver: ApiToken, *, scopes: Sequence[str], model_names: Sequence[str], until: datetime | None
) -> None:
    """Raises `Forbidden` where the giver would give what it does not have itself. `until` None: the
    gift has no end."""
    if giver.exchanged_for:
        raise Forbidden(
            "token-cannot-grant",
            "This token was traded for an identity of a CI job and cannot make others.",
        )
    faults = []
    beyond = sorted(set(scopes) - {*giver.scopes, Scope.READ})
    if beyond:
        message = f"{', '.join(beyond)}: this token does not have it itself"
        faults.append(FieldError(field="scopes", message=message))
    own = set(giver.model_names)
    if own and not (model_names and set(model_names) <= own):
        message = f"must be some of {', '.join(sorted(own))}, as of the token that asks"
        faults.append(FieldError(field="models", message=message))
    if until is not None and until > giver.expires_at:
        message = f"ends after the token that asks for it ({giver.expires_at:%Y-%m-%d %H:%M} UTC)"
        faults.append(FieldError(field="lifetime", message=message))
    if faults:
        raise Forbidden(
            "token-grants-too-much", "A token can give no more than it has.", errors=faults
        )


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


def tokens_of(user: User) -> QuerySet[ApiToken]:
    """Newest first."""
    return ApiToken.objects.filter(user=user).select_related("user").order_by("-pk")


def find_token(user: User, token_id: int) -> ApiToken:
    """Of this person alone: that another has a token of that number is nobody's business."""
    token = tokens_of(user).filter(pk=token_id).first()
    if token is None:
        raise NotFound("token-unknown", f"You have no token {token_id}.")
    return token


def require_revocable(token: ApiToken, *, by: ApiToken) -> None:
    """A token can end itself, and what it could have made. Raises `Forbidden`."""
    wider = set(token.scopes) - {*by.scopes, Scope.READ}
    own = set(by.model_names)
    elsewhere = own and not (token.model_names and set(token.model_names) <= own)
    if token.pk != by.pk and (wider or elsewhere):
        raise Forbidden("token-not-yours-to-end", "That token may do what this one may not.")


@transaction.atomic
def revoke_api_token(*, token: ApiToken, reason: str = "", actor: str, now: datetime) -> None:
    """Takes effect with the next request, and ends the publishers that the token made; a second
    revocation changes nothing."""
    if ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now):
        _end_publishers(token, actor=actor, now=now)
        record_event(
            now=now,
            actor=actor,
            action="token.revoked",
            object_type="token",
            object_id=str(token.pk),
            reason=reason,
            data={"name": token.name},
        )


def _end_publishers(token: ApiToken, *, actor: str, now: datetime) -> None:
    rows = TrustedPublisher.objects.select_for_update().filter(granted_by=token, revoked_at=None)
    for row in rows:
        row.revoked_at = now
        row.save(update_fields=["revoked_at"])
        record_event(
            now=now,
            actor=actor,
            action="publisher.revoked",
            object_type="publisher",
            object_id=row.name,
            reason=f"The token that made it ({token.name}) was revoked.",
        )
