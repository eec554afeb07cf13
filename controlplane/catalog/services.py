"""Every write of the catalogue: a version goes in whole and never changes."""

from collections.abc import Mapping
from datetime import datetime

from django.db import IntegrityError, transaction
from django.db.models import Max

from controlplane.audit.services import record_event
from controlplane.catalog.models import (
    Blob,
    DriftPolicy,
    Model,
    Version,
    VersionFile,
    VersionState,
)
from controlplane.catalog.queries import blob_store, manifest_of, missing_digests
from controlplane.catalog.store import Readable
from controlplane.domain.errors import Conflict, FieldError, InvalidInput, NotFound
from controlplane.domain.manifest import NAME_PATTERN, Manifest, parse_manifest

MAX_NUMBER = 2**31 - 1  # the column's limit, and more than Triton needs
MAX_LABELS = 50
MAX_LABEL_LENGTH = 200


@transaction.atomic
def create_model(
    *, name: str, description: str = "", actor: str, now: datetime
) -> tuple[Model, bool]:
    """The model and whether it is new. An existing one is left as it is."""
    if not NAME_PATTERN.fullmatch(name):
        message = "must be 1 to 64 of A-Z a-z 0-9 _ -, starting with a letter or digit"
        raise InvalidInput(
            "model-name-invalid",
            f"{name[:80]!r} cannot name a model.",
            errors=[FieldError(field="name", message=message)],
        )
    model, created = Model.objects.get_or_create(
        name=name, defaults={"description": description, "created_at": now}
    )
    if created:
        record_event(
            now=now, actor=actor, action="model.created", object_type="model", object_id=name
        )
    return model, created


def create_version(
    *,
    model_name: str,
    number: int | None,
    manifest: object,
    labels: Mapping[str, str] | None = None,
    actor: str,
    now: datetime,
) -> tuple[Version, bool]:
    """Reserves a number for a manifest; the version and whether it is new.

    The same manifest again is the same version. Raises `InvalidInput` (`manifest-invalid`),
    `Conflict` (`version-exists`: other bytes under that number; `version-bytes-exist`: these bytes
    under another number).
    """
    parsed = parse_manifest(manifest)
    checked_labels = _check_labels(labels or {})
    for _ in range(5):  # two jobs may reserve the same next number; the loser looks again
        try:
            with transaction.atomic():
                return _create_version(
                    model_name, number, parsed, checked_labels, actor=actor, now=now
                )
        except IntegrityError:
            continue
    raise Conflict("version-contended", "Other pushes took the number each time; push again.")


def _create_version(
    model_name: str,
    number: int | None,
    manifest: Manifest,
    labels: dict[str, str],
    *,
    actor: str,
    now: datetime,
) -> tuple[Version, bool]:
    model, _ = create_model(name=model_name, actor=actor, now=now)
    same_bytes = model.versions.filter(manifest_digest=manifest.digest).first()
    if same_bytes and number in (None, same_bytes.number):
        return same_bytes, False
    if number is not None and model.versions.filter(number=number).exists():
        raise Conflict(
            "version-exists",
            f"Version {number} of {model_name} exists with other bytes; a version never changes. "
            "Push under a new number, or leave the number out.",
        )
    if same_bytes:
        raise Conflict(
            "version-bytes-exist",
            f"These very bytes are version {same_bytes.number} of {model_name} already.",
            extra={"version": str(same_bytes.number)},
        )
    if number is None:
        number = (model.versions.aggregate(top=Max("number"))["top"] or 0) + 1
        if number > MAX_NUMBER:
            raise Conflict(
                "version-numbers-used-up",
                f"Version {MAX_NUMBER} of {model_name} exists, and no number is higher; name a "
                "free one.",
            )
    version = Version.objects.create(
        model=model,
        number=number,
        manifest=manifest.document(),
        manifest_digest=manifest.digest,
        size_bytes=manifest.size_bytes,
        labels=labels,
        created_by=actor,
        created_at=now,
    )
    VersionFile.objects.bulk_create(
        VersionFile(version=version, path=f.path, size_bytes=f.size, sha256=f.sha256)
        for f in manifest.files
    )
    record_event(
        now=now,
        actor=actor,
        action="version.created",
        object_type="version",
        object_id=f"{model_name}/{number}",
        data={"manifest_digest": manifest.digest},
    )
    return version, True


def _check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    good = len(labels) <= MAX_LABELS and all(
        isinstance(k, str) and isinstance(v, str) and len(k) + len(v) <= MAX_LABEL_LENGTH
        for k, v in labels.items()
    )
    if not good:
        message = f"at most {MAX_LABELS} names to values, {MAX_LABEL_LENGTH} characters a pair"
        raise InvalidInput(
            "labels-invalid",
            "The labels cannot be kept as given.",
            errors=[FieldError(field="labels", message=message)],
        )
    return dict(labels)


def store_blob(*, version: Version, sha256: str, stream: Readable, now: datetime) -> bool:
    """Takes one file of the version; whether its bytes are new to the store.

    Raises `NotFound` (`blob-not-in-manifest`) and what `BlobStore.put` raises.
    """
    file = version.files.filter(sha256=sha256).first()
    if file is None:
        raise NotFound("blob-not-in-manifest", f"{version} names no file with SHA-256 {sha256}.")
    store = blob_store()
    if Blob.objects.filter(sha256=sha256).exists() and store.holds(sha256, file.size_bytes):
        return False
    store.put(stream=stream, sha256=sha256, size_bytes=file.size_bytes)
    Blob.objects.get_or_create(
        sha256=sha256, defaults={"size_bytes": file.size_bytes, "stored_at": now}
    )
    return True


@transaction.atomic
def finalise_version(*, version: Version, actor: str, now: datetime) -> Version:
    """Registers the version once every byte is held; again it changes nothing.

    Raises `Conflict` (`blobs-missing`, with the digests), `NotFound` when it was discarded.
    """
    version = _lock_version(version)
    manifest = manifest_of(version)
    missing = missing_digests(manifest)
    if missing:
        raise Conflict(
            "blobs-missing",
            f"{len(missing)} of {len(manifest.digests)} files are not uploaded yet.",
            extra={"missing": missing},
        )
    if version.state == VersionState.UPLOADING:
        version.state, version.registered_at = VersionState.REGISTERED, now
        version.save(update_fields=["state", "registered_at"])
        record_event(
            now=now,
            actor=actor,
            action="version.registered",
            object_type="version",
            object_id=f"{version.model.name}/{version.number}",
            data={"manifest_digest": version.manifest_digest, "size_bytes": version.size_bytes},
        )
    return version


@transaction.atomic
def discard_upload(*, version: Version, actor: str, now: datetime) -> None:
    """Frees the number of a push that will not be finished. Raises `Conflict` once registered."""
    version = _lock_version(version)
    if version.state != VersionState.UPLOADING:
        raise Conflict("version-registered", f"{version} is registered; a version never changes.")
    version.delete()
    record_event(
        now=now,
        actor=actor,
        action="version.discarded",
        object_type="version",
        object_id=f"{version.model.name}/{version.number}",
    )


@transaction.atomic
def set_drift_policy(
    *, model: Model, policy: DriftPolicy, reason: str, actor: str, now: datetime
) -> None:
    """What is done when a site serves another version than is desired. The same again changes
    nothing and is no event."""
    row = Model.objects.select_for_update().get(pk=model.pk)
    if row.drift_policy == policy:
        return
    before, row.drift_policy = row.drift_policy, policy
    row.save(update_fields=["drift_policy"])
    record_event(
        now=now,
        actor=actor,
        action="model.drift_policy_changed",
        object_type="model",
        object_id=model.name,
        reason=reason,
        data={"drift_policy": {"before": before, "after": policy.value}},
    )


def _lock_version(version: Version) -> Version:
    """The row as it is now, held until the end: a job may discard what another finalises."""
    rows = Version.objects.select_for_update(of=("self",)).select_related("model")
    row = rows.filter(pk=version.pk).first()
    if row is None:
        raise NotFound("version-unknown", f"{version} was discarded; push it again.")
    return row
