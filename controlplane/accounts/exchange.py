"""Trades the identity of a CI job (a signed token of its OpenID Connect provider) for a short API
token, so that no secret has to be stored there.

Who may is what `TrustedPublisher` rows say: issuer, audience and every claim exactly. An identity
serves once. Only RS256 and ES256 count: `none` signs nothing, and HS256 would take the issuer's
public key for a shared secret (RFC 8725, 3.1 and 3.2)."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from django.db import IntegrityError, transaction
from django.db.models import Q

from controlplane.accounts.issuers import ISSUER_KEYS, IssuerKeys
from controlplane.accounts.models import ApiToken, SpentIdentity, TrustedPublisher
from controlplane.accounts.services import create_api_token
from controlplane.audit.services import record_event
from controlplane.domain.errors import Forbidden, InvalidInput, Unauthenticated

ALGORITHMS = ("RS256", "ES256")
MAX_LENGTH = 16 * 1024
LEEWAY = timedelta(seconds=30)
# An identity that claims to live longer is none of a CI job.
LONGEST_LIFE = timedelta(days=2)
MIN_RSA_BITS = 2048
# What of an identity the token's row and the event say, where it is there.
_TOLD = (
    "repository",
    "project_path",
    "ref",
    "sha",
    "workflow_ref",
    "environment",
    "run_id",
    "pipeline_id",
    "job_id",
    "actor",
    "user_login",
    "sub",
)


def exchange_identity(
    *, identity: str, publisher_name: str | None, now: datetime, keys: IssuerKeys = ISSUER_KEYS
) -> tuple[ApiToken, str, TrustedPublisher]:
    """The short token, its secret, and who vouched. Raises `InvalidInput` for what is no token of
    an identity provider, `Unauthenticated` for one that proves nothing, `Forbidden` for one that
    nobody trusts."""
    header, said = _unverified(identity)
    trusted = _trusted(said.get("iss"))
    claims = _verified(identity, header, trusted[0].issuer, keys, now)
    publisher = _matching(trusted, claims, publisher_name)
    return _trade(identity, claims, publisher, now)


def _unverified(identity: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    try:
        if len(identity) > MAX_LENGTH or not identity.isascii():
            raise jwt.DecodeError
        header = jwt.get_unverified_header(identity)
        said = jwt.decode(identity, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        detail = "That is no token of an identity provider (a JSON Web Token)."
        raise InvalidInput("identity-malformed", detail) from error
    if header.get("alg") not in ALGORITHMS:
        raise _invalid(f"it must be signed with {' or '.join(ALGORITHMS)}")
    return header, said


def _trusted(issuer: object) -> list[TrustedPublisher]:
    vouched = Q(granted_by=None) | Q(granted_by__revoked_at=None)
    rows = TrustedPublisher.objects.filter(vouched, revoked_at=None, user__is_active=True)
    usable = isinstance(issuer, str) and len(issuer) <= 300 and "\0" not in issuer
    found = list(rows.filter(issuer=issuer).select_related("user")) if usable else []
    if not found:
        raise _untrusted("nobody trusts its issuer here")
    return found


def _verified(
    identity: str, header: Mapping[str, Any], issuer: str, keys: IssuerKeys, now: datetime
) -> Mapping[str, Any]:
    key_id = header.get("kid")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= 300:
        raise _invalid("it does not name the key that signed it")
    key = keys.find(issuer, key_id)
    if getattr(key.key, "key_size", MIN_RSA_BITS) < MIN_RSA_BITS and key.key_type == "RSA":
        raise _invalid(f"its key has less than {MIN_RSA_BITS} bits")
    try:
        claims: Mapping[str, Any] = jwt.decode(
            identity,
            key,
            algorithms=list(ALGORITHMS),
            issuer=issuer,
            # Times are compared below, with the time of this call; audiences with each publisher.
            options={
                "require": ["exp", "iat", "aud", "iss"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_aud": False,
            },
        )
    except (jwt.PyJWTError, ValueError) as error:
        raise _invalid("its signature or its form is wrong") from error
    _require_now(claims, now)
    return claims


def _require_now(claims: Mapping[str, Any], now: datetime) -> None:
    ends, made = _moment(claims["exp"]), _moment(claims["iat"])
    starts = _moment(claims["nbf"]) if "nbf" in claims else made
    if ends + LEEWAY <= now:
        raise _invalid("it has expired; a job must trade it in soon after it asked for it")
    if starts - LEEWAY > now or made - LEEWAY > now:
        raise _invalid("it is not valid yet; the clocks of its issuer and of this server differ")
    if ends - made > LONGEST_LIFE:
        raise _invalid(f"it lives longer than {LONGEST_LIFE.days} days")


def _moment(value: object) -> datetime:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        try:
            return datetime.fromtimestamp(value, tz=UTC)
        except (ValueError, OverflowError, OSError):
            pass
    raise _invalid("its times are no times")


def _matching(
    trusted: Sequence[TrustedPublisher], claims: Mapping[str, Any], name: str | None
) -> TrustedPublisher:
    asked = [row for row in trusted if name is None or row.name == name]
    audience = claims["aud"]
    if isinstance(audience, list) and len(audience) == 1:
        audience = audience[0]
    heard = [row for row in asked if row.audience == audience]
    if not heard:
        raise _untrusted("it was made for another audience, or for a publisher of another name")
    found = [row for row in heard if all(claims.get(k) == v for k, v in row.claims.items())]
    if not found:
        raise _untrusted("no publisher trusts a job with its claims")
    if len(found) > 1:
        names = ", ".join(row.name for row in found)
        detail = f"Several publishers trust this job: {names}. Name one as `publisher`."
        raise InvalidInput("publisher-ambiguous", detail)
    return found[0]


@transaction.atomic
def _trade(
    identity: str, claims: Mapping[str, Any], publisher: TrustedPublisher, now: datetime
) -> tuple[ApiToken, str, TrustedPublisher]:
    try:
        with transaction.atomic():
            SpentIdentity.objects.create(
                digest=_name_of(identity, claims),
                expires_at=_moment(claims["exp"]) + LEEWAY,
            )
    except IntegrityError as error:
        detail = "This identity was traded in before; have the job ask its provider for another."
        raise Unauthenticated("identity-spent", detail) from error
    told = {key: str(claims[key])[:120] for key in _TOLD if isinstance(claims.get(key), str | int)}
    token, secret = create_api_token(
        user=publisher.user,
        name=publisher.name,
        scopes=publisher.scopes,
        lifetime=timedelta(minutes=publisher.minutes),
        model_names=publisher.model_names,
        exchanged_for=", ".join(f"{key} {value}" for key, value in told.items()) or "a CI job",
        actor=f"publisher:{publisher.name}",
        now=now,
    )
    TrustedPublisher.objects.filter(pk=publisher.pk).update(last_used_at=now)
    record_event(
        now=now,
        actor=f"publisher:{publisher.name}",
        action="token.exchanged",
        object_type="publisher",
        object_id=publisher.name,
        data={"token": token.pk, **told},
    )
    return token, secret, publisher


def _name_of(identity: str, claims: Mapping[str, Any]) -> str:
    """One name for each identity. What is signed is hashed, not the signature: ECDSA has two for
    the same text."""
    unique = claims.get("jti")
    if not isinstance(unique, str) or not unique:
        unique = identity.rpartition(".")[0]
    return hashlib.sha256(f"{claims['iss']}\n{unique}".encode()).hexdigest()


def _invalid(why: str) -> Unauthenticated:
    return Unauthenticated("identity-invalid", f"The identity proves nothing: {why}.")


def _untrusted(why: str) -> Forbidden:
    return Forbidden("identity-not-trusted", f"The identity gets no token: {why}.")
