"""Versions whose files lie in S3-compatible storage of the registry's own. The client is the one
that the settings make; no endpoint and no credential comes from an address that a registry names,
and only the buckets that the settings list are read.

It must not know versions."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from controlplane.catalog.registry import MAX_FILES, Changed, Refused, RemoteFile, Unavailable
from controlplane.catalog.s3_settings import S3Settings

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,62}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class S3Folder:
    """A folder of a bucket. `client` is a boto3 client of the service `s3`."""

    client: Any
    bucket: str
    prefix: str

    def files(self) -> list[RemoteFile]:
        """All objects below the folder, at most one more than `MAX_FILES`."""
        found: list[RemoteFile] = []
        token: dict[str, str] = {}
        for _ in range(MAX_FILES):
            page = self._ask("list_objects_v2", Prefix=self.prefix, MaxKeys=1000, **token)
            for entry in page.get("Contents", []):
                path = str(entry["Key"])[len(self.prefix) :]
                if path and not path.endswith("/"):  # a key with a slash is a folder's marker
                    found.append(RemoteFile(path=path, size=int(entry["Size"])))
            if len(found) > MAX_FILES or not page.get("IsTruncated"):
                break
            token = {"ContinuationToken": page["NextContinuationToken"]}
        return found

    def open(self, path: str, *, size: int, offset: int, etag: str) -> "S3Stream":
        asked: dict[str, str] = {}
        if offset:
            asked["Range"] = f"bytes={offset}-"
        if etag:
            asked["IfMatch"] = etag
        answer = self._ask("get_object", Key=self.prefix + path, **asked)
        stream = S3Stream(body=answer["Body"], etag=str(answer.get("ETag", ""))[:200])
        fault = ""
        if etag and stream.etag != etag:  # not every server heeds If-Match
            fault = "changed while it was being read; it is read anew"
        elif answer.get("ContentLength") != size - offset:
            fault = "is no longer as long as it was listed"
        if fault:
            stream.close()
            raise Changed(f"{path[:128]} {fault}.")
        return stream

    def _ask(self, call: str, **arguments: Any) -> Any:
        try:
            return getattr(self.client, call)(Bucket=self.bucket, **arguments)
        except Exception as error:  # botocore makes its classes as it runs
            code = str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))[:40]
            if code in ("412", "PreconditionFailed", "InvalidRange"):
                raise Changed("A file changed while it was being read; it is read anew.") from error
            if code == "NoSuchKey":
                name = str(arguments["Key"]).rsplit("/", 1)[-1][:128]
                raise Refused(f"The bucket lists {name} and does not have it.") from error
            said = code or type(error).__name__
            raise Unavailable(f"The bucket {self.bucket} cannot be read: {said}.") from error


def s3_client(settings: S3Settings) -> Any:
    """A client with the address and the keys of the settings. boto3 is loaded here and not before:
    most installations never need it."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=settings.endpoint or None,
        region_name=settings.region,
        aws_access_key_id=settings.access_key or None,
        aws_secret_access_key=settings.secret_key or None,
        config=Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 2}),
    )


@dataclass(kw_only=True)
class S3Stream:
    """An object's bytes as they come. Only each read is bounded in time, by the client: the storage
    is the operator's own, unlike what a registry names."""

    body: Any
    etag: str

    def read(self, size: int, /) -> bytes:
        try:
            chunk: bytes = self.body.read(size)
        except Exception as error:
            raise Unavailable("The download from S3 broke off.") from error
        return chunk

    def close(self) -> None:
        self.body.close()


def open_s3_folder(
    location: str,
    *,
    client: Any,
    buckets: Collection[str],
    own: tuple[str, str] = ("", ""),
) -> S3Folder:
    """The folder behind `s3://BUCKET/PATH`. Raises `Refused` for a bucket that is not listed: the
    credentials may be able to read more than models; and for a folder that overlaps the artifact
    store, whose bucket and prefix are `own`: versions of other people's models lie there."""
    parts = urlsplit(location)
    bucket, prefix = parts.netloc, parts.path.strip("/")
    if not _BUCKET.fullmatch(bucket) or not prefix:
        raise Refused(f"{location[:120]!r} is no folder of a bucket.")
    if bucket not in buckets:
        raise Refused(
            f"The version lies in the bucket {bucket}, which is not among those that may be read; "
            "add it to WAYPOST_MLFLOW_S3_BUCKETS."
        )
    mine = f"{own[1].strip('/')}/".lstrip("/")
    if bucket == own[0] and (f"{prefix}/".startswith(mine) or mine.startswith(f"{prefix}/")):
        raise Refused(
            f"{location[:120]!r} lies in the artifact store of this control plane, which is not "
            "read as a registry's; give MLflow a bucket, or a prefix, of its own."
        )
    return S3Folder(client=client, bucket=bucket, prefix=f"{prefix}/")
