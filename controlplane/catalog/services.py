"""How a version comes into the catalogue: whole, checked, and never changed afterwards. What may
become of it then stands in `versions.py` and `approvals.py`."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from django.db import IntegrityError, transaction
from django.db.models import Max

from controlplane.audit.services import record_event
from controlplane.catalog.builds import Build, check_builds, faults_in, strictest, warnings_in
from controlplane.catalog.model_settings import lock_model, require_quota
from controlplane.catalog.models import (
    Blob,
    Model,
    Version,
    VersionFile,
    VersionState,
)
from controlplane.catalog.multipart import forget_uploads
from controlplane.catalog.queries import blob_store, manifest_of, missing_digests
from controlplane.catalog.store import StoreUnavailable
from controlplane.catalog.uploads import forget_pieces
from controlplane.catalog.uploads import store_blob as store_blob  # the middle step of a push
from controlplane.catalog.variants import create_variants
from controlplane.catalog.versions import check_labels, lock_version, move, note, save, settle
from controlplane.domain.errors import Conflict, FieldError, InvalidInput
from controlplane.domain.findings import findings_error
from controlplane.domain.lineage import parse_lineage
from controlplane.domain.manifest import NAME_PATTERN, Manifest, parse_manifest
from controlplane.domain.version_states import State

MAX_NUMBER = 2**31 - 1  # the column's limit, and more than Triton needs


@transaction.atomic
def create_model(
    *, name: str, description: str = "", actor: str, now: datetime
) -> tuple[Model, bool]:
    """The model and whether it is new. An existing one is left as it is."""
    require_model_name(name)
    model, created = Model.objects.get_or_create(
        name=name, defaults={"description": description, "created_at": now}
    )
    if created:
        record_event(
            now=now, actor=actor, action="model.created", object_type="model", object_id=name
        )
    return model, created


def require_model_name(name: str) -> None:
    """Raises `InvalidInput` (`model-name-invalid`)."""
    if not NAME_PATTERN.fullmatch(name):
        message = "must be 1 to 64 of A-Z a-z 0-9 _ -, starting with a letter or digit"
        raise InvalidInput(
            "model-name-invalid",
            f"{name[:80]!r} cannot name a model.",
            errors=[FieldError(field="name", message=message)],
        )


def create_version(
    *,
    model_name: str,
    number: int | None,
    manifest: object,
    labels: Mapping[str, str] | None = None,
    lineage: object = None,
    actor: str,
    author: str = "",
    now: datetime,
) -> tuple[Version, bool]:
    """Reserves a number for a manifest; the version and whether it is new. `author` is the person
    behind the actor, whose own approval is not another's.

    The same manifest again is the same version. Raises `InvalidInput` (`manifest-invalid`,
    `labels-invalid`, `lineage-invalid`), `Conflict` (`version-exists`: other bytes under that
    number; `version-bytes-exist`: these bytes under another number; `quota-exceeded`).
    """
    parsed = parse_manifest(manifest)
    given = {"labels": check_labels(labels or {}), "lineage": parse_lineage(lineage)}
    for _ in range(5):  # two jobs may reserve the same next number; the loser looks again
        try:
            with transaction.atomic():
                return _create_version(
                    model_name, number, parsed, given, actor=actor, author=author, now=now
                )
        except IntegrityError:
            continue
    raise Conflict("version-contended", "Other pushes took the number each time; push again.")


def existing_version(model: Model, number: int | None, manifest: Manifest) -> Version | None:
    """The version that this push would be again. Raises `Conflict` as `create_version` does."""
    same_bytes = model.versions.filter(manifest_digest=manifest.digest).first()
    if same_bytes and number in (None, same_bytes.number):
        return same_bytes
    if number is not None and model.versions.filter(number=number).exists():
        raise Conflict(
            "version-exists",
            f"Version {number} of {model} exists with other bytes; a version never changes. "
            "Push under a new number, or leave the number out.",
        )
    if same_bytes:
        raise Conflict(
            "version-bytes-exist",
            f"These very bytes are version {same_bytes.number} of {model} already.",
            extra={"version": str(same_bytes.number)},
        )
    return None


def _create_version(
    model_name: str,
    number: int | None,
    manifest: Manifest,
    given: Mapping[str, object],
    *,
    actor: str,
    author: str,
    now: datetime,
) -> tuple[Version, bool]:
    model, _ = create_model(name=model_name, actor=actor, now=now)
    if existing := existing_version(model, number, manifest):
        return existing, False
    model = lock_model(model)
    require_quota(model, manifest.size_bytes)
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
        **given,
        created_by=actor,
        author=author[:150],
        created_at=now,
    )
    create_variants(version, manifest)
    VersionFile.objects.bulk_create(
        VersionFile(version=version, path=f.path, size_bytes=f.size, sha256=f.sha256)
        for f in manifest.files
    )
    note(version, "created", actor=actor, now=now)
    return version, True


def finalise_version(*, version: Version, actor: str, now: datetime) -> Version:
    """Takes the version in once every byte is held and every file is what it claims to be, and
    moves it on as far as signature and approvals go; again it changes nothing.

    Raises `Conflict` (`blobs-missing`, with the digests), `InvalidInput` (`version-invalid`, with
    every fault; the upload is discarded whole), `NotFound` when it was discarded.
    """
    checks = _looked_at(version)
    with transaction.atomic():
        row = lock_version(version)
        if row.state != VersionState.UPLOADING:
            return row
        _hold_blobs(row)
        _require_bytes(row)
        faults = faults_in(checks)
        if not faults:
            return _register(row, checks, actor=actor, now=now)
        reason = f"{len(faults)} faults, the first: {faults[0].place}: {faults[0].message}"
        _discard(row, reason=reason[:500], actor=actor, now=now)
    raise findings_error(faults)


def _looked_at(version: Version) -> Sequence[Build]:
    """Outside of any transaction: reading a large model takes its time, and bytes do not change.

    What discards the version meanwhile takes its bytes away under our eyes: then `NotFound`, not
    `blobs-missing`, whose cure is to send them.
    """
    try:
        _require_bytes(version)
        return check_builds(version) if version.state == VersionState.UPLOADING else ()
    except (Conflict, FileNotFoundError) as error:
        with transaction.atomic():
            _require_bytes(lock_version(version))
        if isinstance(error, Conflict):  # they arrived just now; told all the same
            raise
        raise StoreUnavailable(
            "store-unavailable",
            "A file of the version could not be read a moment ago. Try again.",
            extra={"retry_after": 1},
        ) from error


def _register(row: Version, checks: Sequence[Build], *, actor: str, now: datetime) -> Version:
    for check in checks:
        row.variants.filter(name=check.variant).update(
            content_class=check.content_class, backend=check.backend[:64]
        )
    row.content_class = strictest(check.content_class for check in checks)
    row.warnings = warnings_in(checks)
    row.registered_at = now
    move(row, State.REGISTERED)
    save(row, "registered_at", "content_class", "warnings")
    data = {"size_bytes": row.size_bytes, "content_class": row.content_class}
    note(row, "registered", actor=actor, now=now, data=data)
    return settle(row, now=now, actor=actor)


def _require_bytes(version: Version) -> None:
    """Raises `Conflict` (`blobs-missing`). Bytes that the store has lost are missing too."""
    manifest, store = manifest_of(version), blob_store()
    missing = set(missing_digests(manifest, version.model))
    missing |= {
        file.sha256
        for file in manifest.files
        if file.sha256 not in missing and not store.holds(file.sha256, file.size)
    }
    if missing:
        raise Conflict(
            "blobs-missing",
            f"{len(missing)} of {len(manifest.digests)} files are not uploaded yet.",
            extra={"missing": sorted(missing)},
        )


@transaction.atomic
def discard_upload(*, version: Version, actor: str, now: datetime) -> None:
    """Frees the number of a push that will not be finished, and the bytes that nothing else names.
    Raises `Conflict` (`version-registered`) once it is registered."""
    row = lock_version(version)
    if row.state != VersionState.UPLOADING:
        raise Conflict("version-registered", f"{row} is registered; a version never changes.")
    _discard(row, actor=actor, now=now)


def _discard(row: Version, *, reason: str = "", actor: str, now: datetime) -> None:
    """Of a locked upload leaves nothing. Bytes go before the commit, while the rows of their blobs
    are locked: who takes in another version that names them waits for this, and finds them gone."""
    named_here = list(row.files.values_list("sha256", flat=True))
    digests = set(_hold_blobs(row))
    _bequeath(row)
    row.files.all().delete()
    named = VersionFile.objects.filter(sha256__in=digests)
    orphans = digests - set(named.order_by().values_list("sha256", flat=True))
    note(row, "discarded", reason=reason, actor=actor, now=now)
    row.delete()
    forget_pieces(row.model_id, named_here)
    forget_uploads(row.model_id, named_here)
    Blob.objects.filter(sha256__in=orphans).delete()
    store = blob_store()
    for digest in orphans:
        store.remove(digest)


def _bequeath(row: Version) -> None:
    """Other pushes of the model were told not to send what this one had sent already."""
    others = VersionFile.objects.filter(version__model=row.model_id, sent_at=None)
    for file in row.files.exclude(sent_at=None):
        same = others.filter(sha256=file.sha256, size_bytes=file.size_bytes)
        same.exclude(version=row.pk).update(sent_at=file.sent_at)


def _hold_blobs(version: Version) -> list[str]:
    """Locks the blobs of a version that are here; their digests."""
    named = VersionFile.objects.filter(version=version.pk).order_by().values("sha256")
    rows = Blob.objects.select_for_update().filter(sha256__in=named)
    return list(rows.order_by("sha256").values_list("sha256", flat=True))
