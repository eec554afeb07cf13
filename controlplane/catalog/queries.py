"""Every read of the catalogue."""

from django.conf import settings
from django.db.models import Max, QuerySet

from controlplane.catalog.models import Blob, Model, Version
from controlplane.catalog.store import BlobStore
from controlplane.domain.errors import NotFound
from controlplane.domain.manifest import Manifest


def blob_store() -> BlobStore:
    return BlobStore(settings.WAYPOST_ARTIFACT_DIR)


def models_with_latest() -> QuerySet[Model]:
    """Models, each with `latest_version` (its highest number, or None)."""
    return Model.objects.annotate(latest_version=Max("versions__number")).order_by("name")


def find_model(name: str) -> Model:
    # PostgreSQL refuses to be asked for NUL, which a path may hold; no name does.
    model = models_with_latest().filter(name=name).first() if "\0" not in name else None
    if model is None:
        raise NotFound("model-unknown", f"No model is called {name!r}.")
    return model


def find_version(model_name: str, number: int) -> Version:
    rows = Version.objects.select_related("model").filter(model__name=model_name, number=number)
    version = rows.first() if "\0" not in model_name else None
    if version is None:
        raise NotFound("version-unknown", f"Model {model_name!r} has no version {number}.")
    return version


def versions_of(model_name: str) -> QuerySet[Version]:
    find_model(model_name)
    return Version.objects.select_related("model").filter(model__name=model_name)


def manifest_of(version: Version) -> Manifest:
    """The stored manifest. It was checked when it came; stricter rules since do not undo it."""
    return Manifest.of_document(version.manifest)


def missing_digests(manifest: Manifest) -> list[str]:
    """Digests of the manifest that are not in the artifact store, sorted. Bytes of another size
    than the manifest states are not the ones it means."""
    rows = Blob.objects.filter(sha256__in=manifest.digests)
    held = set(rows.values_list("sha256", "size_bytes"))
    return sorted({file.sha256 for file in manifest.files if (file.sha256, file.size) not in held})
