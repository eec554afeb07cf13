"""Large files straight into the bucket: the centre signs a URL for each part, the pusher sends the
parts there, and the centre looks at every byte before it counts. It must not know requests.

An upload belongs to a model and a digest: each push of the model that names the file joins it, and
none of another model can spoil or end it. What arrives lands under a key of the upload's own, so
that two uploads of one digest never write over each other."""

import math
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import QuerySet

from controlplane.catalog.models import MultipartUpload, Version, VersionFile
from controlplane.catalog.s3_settings import NoSuchUpload, Part, PartsRefused
from controlplane.catalog.store import refuse_other_bytes
from controlplane.catalog.stores import s3_store
from controlplane.catalog.uploads import file_of, is_held, keep_row, unwanted
from controlplane.catalog.versions import lock_version
from controlplane.domain.errors import Conflict, FieldError, InvalidInput, NotFound

if TYPE_CHECKING:
    from controlplane.catalog.store_s3 import S3Store

PART_BYTES = 16 << 20
MAX_PARTS = 10_000  # S3's own limit, as the least size of a part (5 MiB) is
URLS_A_PAGE = 100
URLS_LIVE_FOR = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class PartUrl:
    """Where to PUT exactly `size_bytes` bytes from `offset` on."""

    number: int
    offset: int
    size_bytes: int
    url: str
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class Multipart:
    """An upload. `parts`: a page of those still to send, from `first` on; `next` begins the next
    page. `held`: parts that are there. `done`: nothing is to be sent at all."""

    upload: str
    size_bytes: int
    part_bytes: int
    parts: tuple[PartUrl, ...] = ()
    held: tuple[Part, ...] = ()
    next: int | None = None
    done: bool = False


def begin_multipart(
    *, version: Version, sha256: str, size_bytes: int, first: int = 1, now: datetime
) -> Multipart:
    """Begins the upload of one file of the version, or joins it.

    Raises `NotFound` (`blob-not-in-manifest`; `version-unknown`: it was discarded meanwhile),
    `InvalidInput` (`size-mismatch`), `Conflict` (`upload-not-in-parts`: files are kept on disk
    here), `StoreUnavailable`.
    """
    file, store = file_of(version, sha256), _store()
    if size_bytes != file.size_bytes or not size_bytes:
        message = f"the manifest names {file.size_bytes} bytes"
        raise InvalidInput(
            "size-mismatch",
            f"A file of {size_bytes} bytes cannot be uploaded in parts here: {message}.",
            errors=[FieldError(field="size", message=message)],
        )
    if is_held(file):
        return Multipart(upload="", size_bytes=size_bytes, part_bytes=size_bytes, done=True)
    row, new = _row_of(store, version, file, now=now)
    if new:
        return _page(store, row, [], first, now=now)
    try:
        return _page(store, row, store.parts(*_place(store, row)), first, now=now)
    except NoSuchUpload:
        pass
    if store.size_of(_place(store, row)[0]) is not None:
        # Put together, and cut before anybody looked: what is left is to complete it again.
        return _page(store, row, None, first, now=now)
    _rows(row).delete()  # it ended behind our back
    row, _ = _row_of(store, version, file, now=now)
    return _page(store, row, [], first, now=now)


def complete_multipart(
    *, version: Version, sha256: str, upload: str, parts: Mapping[int, str], now: datetime
) -> bool:
    """Puts the parts together, reads the whole, and takes it in; whether its bytes are new.

    Called again, it goes on where it was cut. `parts`: ETags by number. Raises `NotFound`
    (`upload-unknown`), `Conflict` (`parts-missing`, with their `numbers`; `parts-changed`),
    `InvalidInput` (`size-mismatch`, `digest-mismatch`: nothing is kept), `StoreUnavailable`.
    """
    file, store = file_of(version, sha256), _store()
    if is_held(file):
        return False
    row = _find(version, sha256, upload)
    key = _put_together(store, row, parts)
    try:
        _refuse_what_it_is_not(store, key, file)
        store.adopt(key, sha256)
    except InvalidInput:
        _forget(store, row, key)
        raise
    except FileNotFoundError:  # another call took it in meanwhile, or threw it away
        if is_held(file):
            return False
        raise _unknown() from None
    keep_row(file, now=now)
    _forget(store, row, key)
    return True


def abort_multipart(*, version: Version, sha256: str, upload: str) -> None:
    """Ends the upload and removes its parts. Raises `NotFound` (`upload-unknown`)."""
    file_of(version, sha256)
    store = _store()
    _end(store, _find(version, sha256, upload))


def forget_uploads(model: int, digests: Collection[str]) -> None:
    """Ends the uploads of files that no unfinished version of the model names any more."""
    store = s3_store()
    if store is None:
        return
    rows = MultipartUpload.objects.filter(model=model, sha256__in=unwanted(model, digests))
    for row in rows:
        _end(store, row)


def _store() -> "S3Store":
    store = s3_store()
    if store is None:
        raise Conflict(
            "upload-not-in-parts",
            "This control plane keeps files on disk: PUT them in pieces with Content-Range.",
        )
    return store


def _row_of(
    store: "S3Store", version: Version, file: VersionFile, *, now: datetime
) -> tuple[MultipartUpload, bool]:
    """The upload and whether it is new."""
    row = _uploads(version, file.sha256).first()
    if row is not None:
        return row, False
    nonce = secrets.token_hex(8)
    key = store.incoming_key(file.sha256, nonce)
    upload_id = store.begin(key)
    least_mib = math.ceil(file.size_bytes / MAX_PARTS / (1 << 20))
    try:
        with transaction.atomic():
            lock_version(version)  # who discards it ends the uploads that are there by then
            row, made = MultipartUpload.objects.get_or_create(
                model_id=version.model_id,
                sha256=file.sha256,
                defaults={
                    "upload_id": f"{nonce}:{upload_id}",
                    "size_bytes": file.size_bytes,
                    "part_bytes": max(PART_BYTES, least_mib << 20),
                    "started_at": now,
                },
            )
    except NotFound:
        store.abort(key, upload_id)
        raise
    if not made:  # another push of the same file was first
        store.abort(key, upload_id)
    return row, made


def _uploads(version: Version, sha256: str) -> QuerySet[MultipartUpload]:
    return MultipartUpload.objects.filter(model=version.model_id, sha256=sha256)


def _rows(row: MultipartUpload) -> QuerySet[MultipartUpload]:
    """The row, unless another upload took its place."""
    return MultipartUpload.objects.filter(pk=row.pk, upload_id=row.upload_id)


def _place(store: "S3Store", row: MultipartUpload) -> tuple[str, str]:
    """Key and id at the bucket."""
    nonce, _, upload_id = row.upload_id.partition(":")
    return store.incoming_key(row.sha256, nonce), upload_id


def _name(row: MultipartUpload) -> str:
    return row.upload_id.partition(":")[0]


def _find(version: Version, sha256: str, upload: str) -> MultipartUpload:
    row = _uploads(version, sha256).first()
    if row is None or _name(row) != upload:
        raise _unknown()
    return row


def _unknown() -> NotFound:
    return NotFound("upload-unknown", "There is no such upload any more; begin it again.")


def _count(row: MultipartUpload) -> int:
    return math.ceil(row.size_bytes / row.part_bytes)


def _size_of_part(row: MultipartUpload, number: int) -> int:
    return min(row.part_bytes, row.size_bytes - (number - 1) * row.part_bytes)


def _page(
    store: "S3Store", row: MultipartUpload, held: list[Part] | None, first: int, *, now: datetime
) -> Multipart:
    """`held` None: all of them."""
    key, upload_id = _place(store, row)
    sound = tuple(part for part in held or () if part.size_bytes == _size_of_part(row, part.number))
    have = {part.number for part in sound}
    numbers = range(max(first, 1), _count(row) + 1) if held is not None else ()
    wanted = [number for number in numbers if number not in have]
    seconds = int(URLS_LIVE_FOR.total_seconds())
    parts = []
    for number in wanted[:URLS_A_PAGE]:
        size = _size_of_part(row, number)
        part = PartUrl(
            number=number,
            offset=(number - 1) * row.part_bytes,
            size_bytes=size,
            url=store.presign_part(key, upload_id, number, size, seconds=seconds),
            expires_at=now + URLS_LIVE_FOR,
        )
        parts.append(part)
    return Multipart(
        upload=_name(row),
        size_bytes=row.size_bytes,
        part_bytes=row.part_bytes,
        parts=tuple(parts),
        held=sound,
        next=wanted[URLS_A_PAGE] if len(wanted) > URLS_A_PAGE else None,
    )


def _put_together(store: "S3Store", row: MultipartUpload, named: Mapping[int, str]) -> str:
    """The key where the whole lies, whether now or since an earlier call."""
    key, upload_id = _place(store, row)
    try:
        held = store.parts(key, upload_id)
        _require_parts(row, held, named)
        store.complete(key, upload_id, sorted(held, key=lambda part: part.number))
    except PartsRefused:
        raise _changed([]) from None
    except NoSuchUpload:
        if store.size_of(key) is None:
            _rows(row).delete()
            raise _unknown() from None
    return key


def _require_parts(row: MultipartUpload, held: list[Part], named: Mapping[int, str]) -> None:
    sizes = {part.number: part.size_bytes for part in held}
    missing = [n for n in range(1, _count(row) + 1) if sizes.get(n) != _size_of_part(row, n)]
    if missing:
        raise Conflict(
            "parts-missing",
            f"{len(missing)} of {_count(row)} parts are not there yet.",
            extra={"numbers": missing[:1000]},
        )
    changed = [
        part.number
        for part in held
        if part.number > _count(row)
        or named.get(part.number, part.etag).strip('"') != part.etag.strip('"')
    ]
    if changed:
        raise _changed(changed)


def _changed(numbers: list[int]) -> Conflict:
    return Conflict(
        "parts-changed",
        "Parts are not the ones that were sent; abort the upload and begin it again.",
        extra={"numbers": numbers[:1000]},
    )


def _refuse_what_it_is_not(store: "S3Store", key: str, file: VersionFile) -> None:
    found, size = store.digest_of(key)
    if size != file.size_bytes:
        message = f"{size} bytes arrived, the manifest names {file.size_bytes}"
        raise InvalidInput(
            "size-mismatch",
            f"{message}; nothing was kept.",
            errors=[FieldError(field="parts", message=message)],
        )
    refuse_other_bytes(found, file.sha256)


def _end(store: "S3Store", row: MultipartUpload) -> None:
    key, upload_id = _place(store, row)
    store.abort(key, upload_id)
    _forget(store, row, key)


def _forget(store: "S3Store", row: MultipartUpload, key: str) -> None:
    _rows(row).delete()
    store.remove_key(key)
