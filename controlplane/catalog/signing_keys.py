"""Which public keys may sign versions. The private halves are never here: whoever takes over this
control plane can choose among signed versions and make none."""

from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet

from controlplane.audit.services import record_event
from controlplane.catalog.models import SigningKey, Version
from controlplane.catalog.trust_chains import PublicKey, parse_public_key
from controlplane.catalog.versions import settle
from controlplane.domain.errors import Conflict, FieldError, InvalidInput, NotFound
from controlplane.domain.manifest import NAME_PATTERN
from controlplane.domain.version_states import PENDING

MAX_NAME = 63


def signing_keys() -> QuerySet[SigningKey]:
    return SigningKey.objects.order_by("name")


def find_signing_key(name: str) -> SigningKey:
    key = SigningKey.objects.filter(name=name).first() if "\0" not in name else None
    if key is None:
        raise NotFound("signing-key-unknown", f"No signing key is called {name!r}.")
    return key


def live_keys() -> list[PublicKey]:
    """Those whose signatures count, oldest first."""
    rows = SigningKey.objects.filter(revoked_at=None).order_by("added_at", "name")
    return [
        PublicKey(pem=row.public_key, key_type=row.key_type, fingerprint=row.fingerprint)
        for row in rows
    ]


@transaction.atomic
def add_signing_key(
    *, name: str, public_key: str, actor: str, now: datetime
) -> tuple[SigningKey, bool]:
    """The key and whether it is new; the same key under the same name again changes nothing.

    Raises `InvalidInput` (`signing-key-invalid`), `Conflict` (`signing-key-exists`: the name or the
    key is taken; `signing-key-revoked`: it does not come back)."""
    key = _parse(name, public_key)
    known = SigningKey.objects.select_for_update()
    same = known.filter(fingerprint=key.fingerprint).first()
    if same is not None and same.revoked_at is not None:
        raise Conflict(
            "signing-key-revoked",
            f"This key was revoked as {same.name}. A revoked key does not come back: make another.",
        )
    if same is not None and same.name == name:
        return same, False
    if same is not None:
        raise Conflict("signing-key-exists", f"This key is kept already, as {same.name}.")
    if known.filter(name=name).exists():
        raise Conflict(
            "signing-key-exists",
            f"Another key is called {name}. Names are for ever, since events use them; choose "
            "another, such as release-2027.",
        )
    row = SigningKey.objects.create(
        name=name,
        public_key=key.pem,
        key_type=key.key_type,
        fingerprint=key.fingerprint,
        added_by=actor[:150],
        added_at=now,
    )
    _record("added", row, actor=actor, now=now)
    return row, True


@transaction.atomic
def revoke_signing_key(*, name: str, reason: str, actor: str, now: datetime) -> SigningKey:
    """Its signatures count no more, here: versions that wait for an approval and stood by it alone
    wait for a signature again. Sites have their own list of keys and are not touched. Again it
    changes nothing."""
    key = SigningKey.objects.select_for_update().filter(pk=find_signing_key(name).pk).get()
    if key.revoked_at is None:
        key.revoked_at, key.revoked_reason = now, reason[:400]
        key.save(update_fields=["revoked_at", "revoked_reason"])
        _record("revoked", key, actor=actor, now=now, reason=reason)
        for version in Version.objects.filter(signatures__key=key, state__in=PENDING).order_by(
            "pk"
        ):
            settle(version, now=now)
    return key


def _parse(name: str, public_key: str) -> PublicKey:
    faults = []
    if len(name) > MAX_NAME or not NAME_PATTERN.fullmatch(name):
        message = f"must be 1 to {MAX_NAME} of A-Z a-z 0-9 _ -, starting with a letter or digit"
        faults.append(FieldError(field="name", message=message))
    key = None
    try:
        key = parse_public_key(public_key)
    except ValueError as error:
        faults.append(FieldError(field="public_key", message=str(error)))
    if faults or key is None:
        raise InvalidInput(
            "signing-key-invalid", "The signing key cannot be kept as given.", errors=faults
        )
    return key


def _record(verb: str, key: SigningKey, *, actor: str, now: datetime, reason: str = "") -> None:
    record_event(
        now=now,
        actor=actor,
        action=f"signing_key.{verb}",
        object_type="signing_key",
        object_id=key.name,
        reason=reason,
        data={"fingerprint": key.fingerprint, "key_type": key.key_type},
    )
