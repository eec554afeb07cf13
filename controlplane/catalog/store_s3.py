"""The artifact store in a bucket: bytes under `PREFIX/sha256/ab/cd/DIGEST`, written once.

It decides keys, calls and what a failure is called; it must not know models, versions or requests.
Nothing stands under its digest that was not hashed here: S3 offers no SHA-256 of an object that
came in parts (its checksum of those is one of the parts' checksums, AWS S3 User Guide, "Checking
object integrity"), and compatible servers ignore the header where there is one. What comes by
presigned URLs therefore lands below `incoming/`, is read once and copied within the bucket."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar, cast

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from controlplane.catalog.s3_settings import NoSuchUpload, Part, PartsRefused, S3Settings
from controlplane.catalog.store import (
    CHUNK_BYTES,
    Readable,
    ReadAt,
    StoreUnavailable,
    copy_exactly,
    refuse_other_bytes,
)

# A reader of many small pieces (tensors' headers) asks for this much at a time.
READ_AHEAD_BYTES = 1 << 20
# In one thread: what is held of a file does not depend on its size.
_TRANSFER = TransferConfig(
    use_threads=False, multipart_threshold=64 << 20, multipart_chunksize=64 << 20
)
# S3 copies up to 5 GiB in one call.
_COPY = TransferConfig(use_threads=False, multipart_threshold=4 << 30, multipart_chunksize=1 << 30)
_MISSING = ("404", "NoSuchKey", "NotFound")
T = TypeVar("T")


class S3Store:
    """An `ArtifactStore` in a bucket, and the multipart uploads into it. Safe to share between
    threads, as boto3's clients are."""

    def __init__(self, settings: S3Settings, client: Any = None) -> None:
        self.settings = settings
        self._client = client or _client(settings)

    def below(self, folder: str) -> "S3Store":
        """The same bucket, for other blobs."""
        prefix = f"{self.settings.prefix}/{folder}".strip("/")
        return S3Store(replace(self.settings, prefix=prefix), self._client)

    def key(self, sha256: str) -> str:
        return self._key(f"sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}")

    def incoming_key(self, sha256: str, nonce: str) -> str:
        """Of an upload that nobody has looked at. Each has its own: two of the same digest never
        write over each other."""
        return self._key(f"incoming/{sha256}/{nonce}")

    def check(self) -> None:
        """Raises `StoreUnavailable`, saying what is wrong with the bucket or the way to it."""
        self._ask("head_bucket")

    # --- ArtifactStore ---

    def holds(self, sha256: str, size_bytes: int) -> bool:
        return self.size_of(self.key(sha256)) == size_bytes

    def open(self, sha256: str, offset: int = 0) -> BinaryIO:
        # An empty object has no range at all.
        ranged = {"Range": f"bytes={offset}-"} if offset else {}
        return cast(BinaryIO, self._get(self.key(sha256), **ranged))

    @contextmanager
    def reader(self, sha256: str) -> Iterator[ReadAt]:
        yield _ReadAhead(self, self.key(sha256))

    @contextmanager
    def local(self, sha256: str) -> Iterator[Path]:
        with tempfile.NamedTemporaryFile(prefix="waypost-blob-") as copy:
            with self.open(sha256) as body:
                _pour(body, copy.write)
            copy.flush()
            yield Path(copy.name)

    def put(self, *, stream: Readable, sha256: str, size_bytes: int) -> None:
        with tempfile.TemporaryFile(prefix="waypost-incoming-") as spool:
            refuse_other_bytes(copy_exactly(stream, spool, size_bytes), sha256)
            spool.seek(0)
            self._asking(
                lambda: self._client.upload_fileobj(
                    spool, self.settings.bucket, self.key(sha256), Config=_TRANSFER
                )
            )

    def remove(self, sha256: str) -> None:
        self.remove_key(self.key(sha256))

    def has_room(self, size_bytes: int) -> bool:
        return True

    # --- Uploads that go past us ---

    def begin(self, key: str) -> str:
        """The upload's id."""
        return str(self._ask("create_multipart_upload", Key=key)["UploadId"])

    def presign_part(
        self, key: str, upload_id: str, number: int, size_bytes: int, *, seconds: int
    ) -> str:
        """A URL that takes exactly `size_bytes` bytes as that part, for so long."""
        params = {
            "Bucket": self.settings.bucket, "Key": key, "UploadId": upload_id,
            "PartNumber": number, "ContentLength": size_bytes,
        }  # fmt: skip
        return str(
            self._asking(
                lambda: self._client.generate_presigned_url(
                    "upload_part", Params=params, ExpiresIn=seconds
                )
            )
        )

    def parts(self, key: str, upload_id: str) -> list[Part]:
        """Raises `NoSuchUpload`."""
        found: list[Part] = []
        after: dict[str, int] = {}
        while True:
            page = self._ask("list_parts", Key=key, UploadId=upload_id, **after)
            for part in page.get("Parts", ()):
                row = Part(number=part["PartNumber"], etag=part["ETag"], size_bytes=part["Size"])
                found.append(row)
            if not page.get("IsTruncated"):
                return found
            after = {"PartNumberMarker": page["NextPartNumberMarker"]}

    def complete(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        """Raises `NoSuchUpload`, `PartsRefused`."""
        listed = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        self._ask(
            "complete_multipart_upload",
            Key=key,
            UploadId=upload_id,
            MultipartUpload={"Parts": listed},
        )

    def abort(self, key: str, upload_id: str) -> None:
        """Again it changes nothing."""
        try:
            self._ask("abort_multipart_upload", Key=key, UploadId=upload_id)
        except NoSuchUpload:
            return

    def size_of(self, key: str) -> int | None:
        """In bytes; None where there is no such object."""
        try:
            return int(self._ask("head_object", Key=key)["ContentLength"])
        except FileNotFoundError:
            return None

    def digest_of(self, key: str) -> tuple[str, int]:
        """SHA-256 and size of what is really there, read once."""
        digest, size = hashlib.sha256(), 0
        with self._get(key) as body:
            for chunk in _chunks(body):
                digest.update(chunk)
                size += len(chunk)
        return digest.hexdigest(), size

    def adopt(self, key: str, sha256: str) -> None:
        """Copies a hashed object under its digest, within the bucket."""
        source = {"Bucket": self.settings.bucket, "Key": key}
        self._asking(
            lambda: self._client.copy(source, self.settings.bucket, self.key(sha256), Config=_COPY)
        )

    def remove_key(self, key: str) -> None:
        self._ask("delete_object", Key=key)

    def forget_incoming(self, before: datetime) -> int:
        """Ends uploads that were begun, and removes objects that came, before; how many."""
        prefix, gone = self._key("incoming/"), 0
        for upload in self._ask("list_multipart_uploads", Prefix=prefix).get("Uploads", ()):
            if upload["Initiated"] < before:
                self.abort(upload["Key"], upload["UploadId"])
                gone += 1
        for entry in self._ask("list_objects_v2", Prefix=prefix).get("Contents", ()):
            if entry["LastModified"] < before:
                self.remove_key(entry["Key"])
                gone += 1
        return gone

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Fewer bytes at the end of the object."""
        if length <= 0:
            return b""
        try:
            with self._get(key, Range=f"bytes={offset}-{offset + length - 1}") as body:
                return b"".join(_chunks(body))
        except _BeyondTheEnd:
            return b""

    def _key(self, path: str) -> str:
        prefix = self.settings.prefix.strip("/")
        return f"{prefix}/{path}" if prefix else path

    def _get(self, key: str, **more: str) -> IO[bytes]:
        return cast(IO[bytes], self._ask("get_object", Key=key, **more)["Body"])

    def _ask(self, call: str, **arguments: Any) -> Any:
        return self._asking(
            lambda: getattr(self._client, call)(Bucket=self.settings.bucket, **arguments)
        )

    def _asking(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except ClientError as error:
            raise self._meant(error) from error
        except BotoCoreError as error:
            raise self._unavailable(str(error)) from error

    def _meant(self, error: ClientError) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code == "NoSuchUpload":
            return NoSuchUpload()
        if code in ("InvalidPart", "InvalidPartOrder", "EntityTooSmall"):
            return PartsRefused(code)
        if code in ("416", "InvalidRange", "RequestedRangeNotSatisfiable"):
            return _BeyondTheEnd()
        if code in _MISSING and error.operation_name in ("GetObject", "HeadObject", "CopyObject"):
            return FileNotFoundError(code)
        if code in (*_MISSING, "NoSuchBucket"):
            return self._unavailable(f"there is no bucket {self.settings.bucket}")
        if code in ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            return self._unavailable(f"it refuses our keys ({code})")
        return self._unavailable(code)

    def _unavailable(self, why: str) -> StoreUnavailable:
        return StoreUnavailable(
            "store-unavailable",
            f"The artifact store cannot be used: {why[:200]}. Try again; if it stays so, see the"
            " WAYPOST_S3_* settings.",
            extra={"retry_after": 5},
        )


class _BeyondTheEnd(Exception):
    """The range begins behind the last byte."""


class _ReadAhead:
    """Reads by ranges, at least `READ_AHEAD_BYTES` at a time, and keeps the last answer."""

    def __init__(self, store: S3Store, key: str) -> None:
        self._store, self._key = store, key
        self._start, self._held = 0, b""

    def __call__(self, offset: int, length: int) -> bytes:
        if not (self._start <= offset and offset + length <= self._start + len(self._held)):
            wanted = max(length, READ_AHEAD_BYTES)
            self._held = self._store.read_range(self._key, offset, wanted)
            self._start = offset
        at = offset - self._start
        return self._held[at : at + length]


def _client(settings: S3Settings) -> Any:
    keys: dict[str, str] = {}
    if settings.access_key:
        keys = {
            "aws_access_key_id": settings.access_key,
            "aws_secret_access_key": settings.secret_key,
        }
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.endpoint or None,
        region_name=settings.region,
        config=Config(
            signature_version="s3v4",
            # A bucket in the host's name needs DNS that servers of one's own do not have.
            s3={"addressing_style": "path" if settings.endpoint else "auto"},
            connect_timeout=5,
            read_timeout=60,
            retries={"max_attempts": 3, "mode": "standard"},
            # Checksums of the SDK's own choice are refused by many compatible servers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
        **keys,
    )


def _chunks(body: IO[bytes]) -> Iterator[bytes]:
    try:
        while chunk := body.read(CHUNK_BYTES):
            yield chunk
    except BotoCoreError as error:
        raise StoreUnavailable(
            "store-unavailable", f"The artifact store broke off: {error}", extra={"retry_after": 5}
        ) from error


def _pour(body: IO[bytes], write: Callable[[bytes], object]) -> None:
    for chunk in _chunks(body):
        write(chunk)
