"""Every read of the catalogue."""

from collections.abc import Collection

from django.db.models import Max, Q, QuerySet

from controlplane.catalog.models import Blob, ChunkMap, Model, Version, VersionFile, VersionState
from controlplane.catalog.store import ArtifactStore
from controlplane.catalog.stores import artifact_store, patches
from controlplane.domain.errors import NotFound
from controlplane.domain.manifest import Manifest


def blob_store() -> ArtifactStore:
    return artifact_store()


def patch_store() -> ArtifactStore:
    return patches()


def chunk_map_document(sha256: str) -> tuple[bytes, str] | None:
    """A file's chunk map as agents get it, gzipped, and its digest; None while there is none."""
    rows = ChunkMap.objects.filter(sha256=sha256).exclude(document_digest="")
    found = rows.values_list("document", "document_digest").first()
    return None if found is None else (bytes(found[0]), found[1])


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


def sent_for(model_id: int, digests: Collection[str]) -> set[tuple[str, int]]:
    """Those of the digests, each with its size, that pushes of this model have sent. A registered
    version sent all that it names."""
    rows = VersionFile.objects.filter(version__model=model_id, sha256__in=digests)
    sent = rows.filter(Q(sent_at__isnull=False) | ~Q(version__state=VersionState.UPLOADING))
    return set(sent.order_by().values_list("sha256", "size_bytes"))


def missing_digests(manifest: Manifest, model: Model | None) -> list[str]:
    """Digests of the manifest that are still to be sent for this model (None: a new one), sorted.

    Bytes of another size than the manifest states are not the ones it means. Bytes that only
    another model brought are missing: who knows a digest need not have what it names.
    """
    if model is None:
        return sorted(manifest.digests)
    rows = Blob.objects.filter(sha256__in=manifest.digests)
    held = set(rows.values_list("sha256", "size_bytes")) & sent_for(model.pk, manifest.digests)
    return sorted({file.sha256 for file in manifest.files if (file.sha256, file.size) not in held})
