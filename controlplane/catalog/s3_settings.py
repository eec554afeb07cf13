"""Where a bucket is, from settings, and the words of multipart uploads. Decides what makes no
sense; without boto3, which a control plane that keeps its versions on disk never loads."""

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

# General purpose buckets, AWS S3 User Guide, "Bucket naming rules".
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """Without keys boto3 looks for them as it always does: environment, files, the machine's role.
    `endpoint` empty: AWS."""

    bucket: str
    endpoint: str = ""
    prefix: str = ""
    region: str = "us-east-1"
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)

    def faults(self) -> list[str]:
        """Sentences; none when they can be used."""
        found = []
        if not _BUCKET.fullmatch(self.bucket):
            found.append(
                f"WAYPOST_S3_BUCKET is {self.bucket!r}; it must be a bucket's name: 3 to 63 of"
                " a-z 0-9 . -"
            )
        parts = urlsplit(self.endpoint)
        if self.endpoint and (parts.scheme not in ("http", "https") or not parts.hostname):
            found.append(
                f"WAYPOST_S3_ENDPOINT is {self.endpoint!r}; it must be a URL such as"
                " https://s3.example.com"
            )
        if bool(self.access_key) != bool(self.secret_key):
            found.append(
                "WAYPOST_S3_ACCESS_KEY and WAYPOST_S3_SECRET_KEY go together or not at all"
            )
        return found


def s3_settings(
    *, bucket: str, endpoint: str, prefix: str, region: str, access_key: str, secret_key: str
) -> S3Settings | None:
    """None without a bucket: versions are kept on disk. Raises `ValueError` with every fault."""
    if not bucket:
        said = {"WAYPOST_S3_ENDPOINT": endpoint, "WAYPOST_S3_PREFIX": prefix}
        if given := [name for name, value in said.items() if value]:
            raise ValueError(
                f"{' and '.join(given)} without WAYPOST_S3_BUCKET: which bucket is meant?"
            )
        return None
    made = S3Settings(
        bucket=bucket,
        endpoint=endpoint.rstrip("/"),
        prefix=prefix.strip("/"),
        region=region,
        access_key=access_key,
        secret_key=secret_key,
    )
    if faults := made.faults():
        raise ValueError("; ".join(faults))
    return made


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part that S3 holds: numbered from 1, its ETag with quotes."""

    number: int
    etag: str
    size_bytes: int


class NoSuchUpload(Exception):
    """The multipart upload was completed, aborted or never begun."""


class PartsRefused(Exception):
    """A part is not the one that was named."""
