"""Takes signatures over versions in, after they were verified. One transaction each; a version that
waited for its signature moves on."""

from datetime import datetime

from django.db import transaction

from controlplane.catalog.models import SigningKey, Version, VersionSignature
from controlplane.catalog.signing_keys import live_keys
from controlplane.catalog.trust_chains import CHAINS, OMS
from controlplane.catalog.versions import lock_version, note, save, settle
from controlplane.domain.errors import FieldError, InvalidInput, NotFound
from controlplane.domain.oms import BundleFault


@transaction.atomic
def attach_signature(
    *, version: Version, bundle: bytes, actor: str, now: datetime
) -> tuple[VersionSignature, bool]:
    """Keeps a signature after it was verified; it and whether it is new. A key counts once for a
    version: another signature by the same key says nothing more and is not kept.

    Raises `InvalidInput` (`signature-invalid` with the fault in `fault`, `signature-unknown-key`,
    `signature-mismatch` with every file that differs), `NotFound` when the version was discarded.
    """
    # Before any lock: it takes a while, and files of a version never change.
    files = dict(_known(version).files.values_list("path", "sha256"))
    try:
        verified = CHAINS[OMS].verify(bundle, live_keys(), files)
    except BundleFault as fault:
        raise _refusal(fault) from fault
    if verified.differences:
        raise InvalidInput(
            "signature-mismatch",
            f"The signature is sound and speaks of other files than {version} has. Sign the very "
            "folder that was pushed, with `waypost sign`.",
            errors=verified.differences,
        )
    # The key before the version, as `revoke_signing_key` does: the other way they wait in a ring.
    key = SigningKey.objects.select_for_update().get(fingerprint=verified.fingerprint)
    if key.revoked_at is not None:  # since it was read
        raise _refusal(BundleFault("key-unknown", "was made by a key that was revoked just now"))
    row = lock_version(version)
    signature, created = VersionSignature.objects.get_or_create(
        version=row,
        key=key,
        defaults={
            "bundle": dict(verified.document),
            "added_by": actor[:150],
            "added_at": now,
        },
    )
    if created:
        data = {"key": key.name, "fingerprint": key.fingerprint, "kind": OMS}
        save(row)
        note(row, "signed", actor=actor, now=now, data=data)
        settle(row, now=now)
    return signature, created


def _known(version: Version) -> Version:
    """The version, unlocked. Raises `NotFound` (`version-unknown`)."""
    found = Version.objects.filter(pk=version.pk).first()
    if found is None:
        raise NotFound("version-unknown", f"{version} was discarded; push it again.")
    return found


def _refusal(fault: BundleFault) -> InvalidInput:
    if fault.code == "key-unknown":
        return InvalidInput(
            "signature-unknown-key",
            "The signature was made by no key that may sign here, or what it covers was changed. "
            "An operator adds the public key with `waypost keys add`.",
        )
    return InvalidInput(
        "signature-invalid",
        f"The bundle cannot be used as a signature: {fault.reason}.",
        errors=[FieldError(field="bundle", message=fault.reason)],
        extra={"fault": fault.code},
    )
