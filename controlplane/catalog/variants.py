"""The builds of a version, as rows: written with the version and never changed.

What is known of them when their files were looked at (class, backend) is written by who looks."""

from collections.abc import Iterable

from controlplane.catalog.models import Variant, Version
from controlplane.domain.manifest import Manifest


def create_variants(version: Version, manifest: Manifest) -> list[Variant]:
    """One row a build, in the transaction that makes the version; `default` of a single one."""
    return Variant.objects.bulk_create(
        Variant(
            version=version,
            name=build.name,
            priority=build.priority,
            manifest=build.manifest.document(),
            manifest_digest=build.manifest.digest,
            size_bytes=build.manifest.size_bytes,
        )
        for build in manifest.all_builds()
    )


def variants_by_version(version_ids: Iterable[int]) -> dict[int, list[Variant]]:
    """The builds by version id, in the order in which they are preferred; one query."""
    found: dict[int, list[Variant]] = {}
    for row in Variant.objects.filter(version__in=set(version_ids)).order_by(
        "version", "-priority", "name"
    ):
        found.setdefault(row.version_id, []).append(row)
    return found
