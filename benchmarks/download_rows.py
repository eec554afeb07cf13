"""A site that wishes for a version with large files, made by the product's own services.

python -m benchmarks.download_rows FOLDER   pushes its files; prints {site: enrolment token}
"""

import hashlib
import io
import json
import sys
from pathlib import Path

import django

from benchmarks import fleet_rows
from benchmarks.sites import MODEL

_SMALL = {"config.pbtxt": b'backend: "python"\n', "golden.json": b"{}\n"}


def make(folder: Path) -> dict[str, str]:
    """As a push would: the manifest, each file, the last word."""
    from django.db import transaction
    from django.utils import timezone

    from controlplane.catalog.services import create_version, store_blob
    from controlplane.fleet.services import create_enrolment_token, create_site
    from controlplane.rollouts.wishes import change_wishes

    now = timezone.now()
    large = {path.name: path for path in sorted(folder.iterdir())}
    files = [
        {"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in _SMALL.items()
    ] + [
        {"path": name, "size": path.stat().st_size, "sha256": _sha256(path)}
        for name, path in large.items()
    ]
    manifest = {"schema": "waypost.manifest/1", "files": files}
    version, _ = create_version(
        model_name=MODEL, number=1, manifest=manifest, actor="bench", now=now
    )
    for data in _SMALL.values():
        digest = hashlib.sha256(data).hexdigest()
        store_blob(version=version, sha256=digest, stream=io.BytesIO(data), now=now)
    for path in large.values():
        with path.open("rb") as stream:
            store_blob(version=version, sha256=_sha256(path), stream=stream, now=now)
    fleet_rows.let_in(version, now)
    fields = {"name": "site-0", "tier": "edge", "region": "bench"}
    site = create_site(fields=fields, actor="bench", now=now)
    token = create_enrolment_token(site=site, actor="bench", now=now)[1]
    with transaction.atomic():
        change_wishes(model_id=version.model_id, wishes={site.pk: version}, keep_previous=False)
    return {site.name: token}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    django.setup()
    json.dump(make(Path(sys.argv[1])), sys.stdout)
