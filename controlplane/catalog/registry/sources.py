"""The registry and the converter that the settings name. The one place that reads them: nothing
that a user or a registry says decides what is spoken to."""

import base64
from pathlib import Path

from django.conf import settings

from controlplane.catalog.registry import RegistrySource
from controlplane.catalog.registry.conversion import Converter
from controlplane.catalog.registry.http import READ_SECONDS, RegistryHttp, check_url
from controlplane.catalog.registry.mlflow_source import MlflowSource, OpenS3
from controlplane.catalog.registry.s3 import S3Folder, open_s3_folder, s3_client
from controlplane.catalog.registry.walls import Walls
from controlplane.domain.errors import Conflict

MLFLOW = "mlflow"


def is_set_up() -> bool:
    return bool(settings.WAYPOST_MLFLOW_URL)


def mlflow_source(*, read_seconds: float = READ_SECONDS) -> RegistrySource:
    """`read_seconds` is the longest silence that is waited out. Raises `Conflict`
    (`registry-not-set-up`) where no server is named, or a wrong one."""
    url = settings.WAYPOST_MLFLOW_URL
    if not url:
        raise Conflict(
            "registry-not-set-up",
            "No MLflow server is named here; set WAYPOST_MLFLOW_URL for the web and the workers.",
        )
    if fault := check_url(url):
        raise Conflict("registry-not-set-up", f"WAYPOST_MLFLOW_URL {fault}.")
    http = RegistryHttp(url=url, authorization=_authorization(), read_seconds=read_seconds)
    return MlflowSource(http, open_s3=_open_s3())


def converter() -> Converter:
    """Turned off unless the settings name its interpreter."""
    hidden = (settings.DATA_DIR, settings.WAYPOST_ARTIFACT_DIR, settings.BASE_DIR / ".env")
    return Converter(
        python=settings.WAYPOST_CONVERTER_PYTHON,
        walls=Walls(hidden=tuple(Path(each) for each in hidden if each)),
        unwalled=settings.WAYPOST_CONVERTER_UNWALLED,
    )


def import_dir() -> Path:
    """Where files wait on their way into the artifact store; what a turn left is gone on with."""
    return Path(settings.DATA_DIR) / "imports"


def _open_s3() -> OpenS3 | None:
    """By the client that the artifact store has, where that is S3 and buckets are named."""
    storage, buckets = settings.WAYPOST_S3, frozenset(settings.WAYPOST_MLFLOW_S3_BUCKETS)
    if storage is None or not buckets:
        return None
    own = (storage.bucket, storage.prefix)

    def open_folder(location: str) -> S3Folder:
        return open_s3_folder(location, client=s3_client(storage), buckets=buckets, own=own)

    return open_folder


def _authorization() -> str:
    if settings.WAYPOST_MLFLOW_TOKEN:
        return f"Bearer {settings.WAYPOST_MLFLOW_TOKEN}"
    if settings.WAYPOST_MLFLOW_USERNAME:
        pair = f"{settings.WAYPOST_MLFLOW_USERNAME}:{settings.WAYPOST_MLFLOW_PASSWORD}"
        return "Basic " + base64.b64encode(pair.encode()).decode()
    return ""
