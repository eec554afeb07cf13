"""Which artifact store the settings name: a folder, or a bucket of S3-compatible storage."""

from functools import lru_cache
from typing import TYPE_CHECKING

import structlog
from django.conf import settings

from controlplane.catalog.s3_settings import S3Settings
from controlplane.catalog.store import ArtifactStore, BlobStore, StoreUnavailable

if TYPE_CHECKING:
    from controlplane.catalog.store_s3 import S3Store

_log = structlog.get_logger(__name__)


def artifact_store() -> ArtifactStore:
    return s3_store() or disk_store()


def disk_store() -> BlobStore:
    return BlobStore(settings.WAYPOST_ARTIFACT_DIR)


def s3_store() -> "S3Store | None":
    """None where versions are kept on disk."""
    configured: S3Settings | None = settings.WAYPOST_S3
    return None if configured is None else _s3(configured)


def patches() -> ArtifactStore:
    """Apart from the artifacts: patches are made here, can be made again, and are removed."""
    s3 = s3_store()
    return (
        BlobStore(settings.WAYPOST_ARTIFACT_DIR / "patches") if s3 is None else s3.below("patches")
    )


def say_if_unusable() -> None:
    """At the start: a bucket that is not there, or keys that it refuses, are told in the log at
    once. It does not stop the start, since a bucket that is away comes back."""
    s3 = s3_store()
    if s3 is None:
        return
    try:
        s3.check()
    except StoreUnavailable as error:
        _log.error("artifact_store_unusable", detail=error.detail)


@lru_cache(maxsize=4)
def _s3(configured: S3Settings) -> "S3Store":
    # boto3 costs a second and 30 MiB; a client a tenth of a second, once.
    from controlplane.catalog.store_s3 import S3Store

    return S3Store(configured)
