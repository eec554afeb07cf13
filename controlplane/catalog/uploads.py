"""How the bytes of a version arrive: whole, or in pieces that go on where they stopped. Bytes count
only once they were hashed here. It must not know requests; `multipart.py` has the way past us.

What is not whole yet needs no quota of its own: an unfinished version counts with all the bytes
that it names (`model_settings.py`), and with the last one that names a file its pieces go."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from controlplane.catalog import partials
from controlplane.catalog.models import (
    Blob,
    MultipartUpload,
    Version,
    VersionFile,
    VersionState,
)
from controlplane.catalog.partials import Piece
from controlplane.catalog.queries import sent_for
from controlplane.catalog.store import Readable
from controlplane.catalog.stores import artifact_store, disk_store, s3_store
from controlplane.catalog.versions import lock_version
from controlplane.domain.errors import Conflict, FieldError, InvalidInput, NotFound

# An abandoned push leaves its pieces this long.
KEPT_FOR = timedelta(hours=24)


@dataclass(frozen=True, kw_only=True)
class UploadState:
    """How far a file is. `in_parts`: a large one goes straight to the bucket (`multipart.py`)."""

    size_bytes: int
    offset: int
    done: bool
    in_parts: bool = False


def upload_state(*, version: Version, sha256: str) -> UploadState:
    """Raises `NotFound` (`blob-not-in-manifest`)."""
    file = file_of(version, sha256)
    if is_held(file):
        return UploadState(size_bytes=file.size_bytes, offset=file.size_bytes, done=True)
    if s3_store() is not None:
        return UploadState(size_bytes=file.size_bytes, offset=0, done=False, in_parts=True)
    offset = partials.offset_of(disk_store(), version.model_id, sha256, file.size_bytes)
    return UploadState(size_bytes=file.size_bytes, offset=offset, done=False)


def store_blob(*, version: Version, sha256: str, stream: Readable, now: datetime) -> bool:
    """Takes one file of the version whole; whether its bytes are new to the store.

    Raises `NotFound` (`blob-not-in-manifest`) and what `ArtifactStore.put` raises.
    """
    file = file_of(version, sha256)
    if is_held(file):
        return False
    # Bytes that another model brought are sent, hashed, and put in their own place again.
    new = not artifact_store().holds(sha256, file.size_bytes)
    artifact_store().put(stream=stream, sha256=sha256, size_bytes=file.size_bytes)
    keep_row(file, now=now)
    if s3_store() is None:
        partials.remove(disk_store(), version.model_id, sha256)  # pieces of a push before
    return new


def append_piece(
    *, version: Version, sha256: str, piece: Piece, stream: Readable, now: datetime
) -> UploadState:
    """Takes the next bytes of one file of the version.

    Raises `NotFound` (`blob-not-in-manifest`; `version-unknown`: it was discarded meanwhile),
    `InvalidInput` (`content-range-invalid`, `size-mismatch`, `digest-mismatch`), `Conflict`
    (`upload-offset`, `upload-busy`, `upload-in-parts`: this control plane keeps its files in a
    bucket), `StoreFull`.
    """
    file = file_of(version, sha256)
    if piece.total != file.size_bytes or not 0 <= piece.start < piece.end <= piece.total:
        message = f"the file has {file.size_bytes} bytes; give START-END/{file.size_bytes}"
        raise InvalidInput(
            "content-range-invalid",
            f"The range does not fit the file: {message}.",
            errors=[FieldError(field="Content-Range", message=message)],
        )
    if is_held(file):
        return UploadState(size_bytes=file.size_bytes, offset=file.size_bytes, done=True)
    if s3_store() is not None:
        raise Conflict(
            "upload-in-parts",
            "This control plane keeps files in a bucket: POST to multipart below this address.",
        )
    # What lies there already proves nothing about whoever sends this.
    try:
        done = partials.append(disk_store(), version.model_id, sha256, piece, stream)
    finally:
        _clear_if_discarded(version, sha256)
    if done:
        keep_row(file, now=now)
    return UploadState(size_bytes=file.size_bytes, offset=piece.end, done=done)


def _clear_if_discarded(version: Version, sha256: str) -> None:
    """Whoever discards a push leaves the file that a piece is being added to, to whom adds it."""
    try:
        with transaction.atomic():
            lock_version(version)
    except NotFound:
        forget_pieces(version.model_id, [sha256])
        raise


def forget_pieces(model: int, digests: Collection[str]) -> None:
    """Of files that no unfinished version of the model names any more, no piece stays."""
    if s3_store() is None:
        for sha256 in unwanted(model, digests):
            partials.remove(disk_store(), model, sha256)


def unwanted(model: int, digests: Collection[str]) -> set[str]:
    """Those of the digests that no unfinished version of the model names."""
    rows = VersionFile.objects.filter(version__model=model, sha256__in=digests)
    wanted = rows.filter(version__state=VersionState.UPLOADING).order_by()
    return set(digests) - set(wanted.values_list("sha256", flat=True))


def drop_stale_uploads(*, now: datetime) -> int:
    """Removes what abandoned pushes left; how many files. What a push still adds to stays."""
    before = now - KEPT_FOR
    s3 = s3_store()
    if s3 is None:
        return partials.forget(disk_store(), before)
    MultipartUpload.objects.filter(started_at__lt=before).delete()
    return s3.forget_incoming(before)


def missing_files() -> QuerySet[VersionFile]:
    """Files of unfinished versions that are still to be sent: what `queries.missing_digests` finds
    for one version, for any number of them in one query."""
    same = {"sha256": OuterRef("sha256"), "size_bytes": OuterRef("size_bytes")}
    sent = VersionFile.objects.filter(
        Q(sent_at__isnull=False) | ~Q(version__state=VersionState.UPLOADING),
        version__model=OuterRef("version__model"),
        **same,
    )
    held = Exists(Blob.objects.filter(**same)) & Exists(sent)
    return VersionFile.objects.filter(~held, version__state=VersionState.UPLOADING)


def file_of(version: Version, sha256: str) -> VersionFile:
    """Raises `NotFound` (`blob-not-in-manifest`)."""
    file = version.files.filter(sha256=sha256).first()
    if file is None:
        raise NotFound("blob-not-in-manifest", f"{version} names no file with SHA-256 {sha256}.")
    return file


def is_held(file: VersionFile) -> bool:
    """Whether its bytes were sent for this model, and are in the store, not only in its books."""
    sent = sent_for(file.version.model_id, [file.sha256])
    named = Blob.objects.filter(sha256=file.sha256).exists()
    if not named or (file.sha256, file.size_bytes) not in sent:
        return False
    return artifact_store().holds(file.sha256, file.size_bytes)


def keep_row(file: VersionFile, *, now: datetime) -> None:
    """Only after the bytes were hashed and are durable."""
    same = VersionFile.objects.filter(version=file.version_id, sha256=file.sha256)
    same.filter(size_bytes=file.size_bytes).update(sent_at=now)
    Blob.objects.get_or_create(
        sha256=file.sha256, defaults={"size_bytes": file.size_bytes, "stored_at": now}
    )
