"""The version that a registry's version becomes: under the same number where that is free, by the
same service as a push. It must not know where the bytes come from."""

from datetime import datetime

from controlplane.catalog.models import ImportedVersion, Version
from controlplane.catalog.registry import RemoteVersion
from controlplane.catalog.services import MAX_NUMBER, create_version
from controlplane.domain.errors import Conflict
from controlplane.domain.manifest import parse_manifest

ACTOR = "registry:mlflow"


def create_imported(
    row: ImportedVersion, document: object, remote: RemoteVersion, now: datetime
) -> Version:
    """The version for these bytes: under MLflow's number where that is free, else the next one.
    The same bytes may be a version already, brought by an earlier turn or by anybody."""
    link = row.link
    number: int | None = int(row.remote_version) if row.remote_version.isdigit() else None
    if number is not None and number > MAX_NUMBER:
        number = None
    digest = parse_manifest(document).digest
    known = link.model.versions.filter(manifest_digest=digest).first()
    if known is not None:
        return known
    label = f"{link.remote_name}/{row.remote_version}"
    labels = {"mlflow": label} if len(label) < 190 else {}
    author = row.person or link.person
    try:
        return _created(link.model.name, number, document, labels, remote, author, now)
    except Conflict as error:
        if error.code != "version-exists":
            raise
        return _created(link.model.name, None, document, labels, remote, author, now)


def _created(
    model_name: str,
    number: int | None,
    document: object,
    labels: dict[str, str],
    remote: RemoteVersion,
    author: str,
    now: datetime,
) -> Version:
    version, _ = create_version(
        model_name=model_name,
        number=number,
        manifest=document,
        labels=labels,
        lineage=dict(remote.lineage) or None,
        actor=ACTOR,
        author=author,
        now=now,
    )
    return version
