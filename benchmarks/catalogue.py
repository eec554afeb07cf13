"""Measures a large catalogue: registering ten thousand versions of one model through the service,
against writing the same rows by hand, and listing them all through the API, against reading them.

python -m benchmarks.catalogue VERSIONS ROUNDS     on the configured database; prints the figures
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.errors import BenchmarkVoid
from benchmarks.measured import Case, on_databases, rounds_of
from benchmarks.options import Options

NAME = "catalogue"
VERSIONS = 10_000
MODEL, PEER_MODEL = "bench", "by-hand"
PAGE = 500
_FILES = ("config.pbtxt", "golden.json", "model.onnx")


def run(options: Options, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """A table and the figures for each database that is there."""
    title = f"registering {VERSIONS:,} versions once, and listing them"
    command = ["-m", "benchmarks.catalogue", str(VERSIONS), str(options.rounds)]
    text, results = on_databases(options, say, title=title, command=command)
    return text, {"versions": VERSIONS, "results": results}


def manifest(number: int) -> dict[str, Any]:
    """Three small files that no other version has."""
    digests = [hashlib.sha256(f"{number} {path}".encode()).hexdigest() for path in _FILES]
    files = [
        {"path": path, "size": 1000, "sha256": digest}
        for path, digest in zip(_FILES, digests, strict=True)
    ]
    return {"schema": "waypost.manifest/1", "files": files}


def _measure(versions: int, rounds: int) -> dict[str, Any]:
    """In a process of its own, on the database that the environment names."""
    import django

    django.setup()

    from django.test import Client
    from django.utils import timezone

    from controlplane.accounts.models import User
    from controlplane.accounts.services import create_api_token
    from controlplane.catalog.models import Version, VersionState
    from controlplane.catalog.services import create_version

    now = timezone.now()
    started = time.perf_counter()
    for number in range(1, versions + 1):
        create_version(
            model_name=MODEL, number=None, manifest=manifest(number), actor="bench", now=now
        )
    registering = (time.perf_counter() - started) * 1000
    by_hand = _by_hand(versions, now)
    # As they are listed for most of their life: of one that is still uploading it is said what is
    # missing, which asks the store.
    Version.objects.update(state=VersionState.APPROVED)
    user = User.objects.create(username="bench")
    _, secret = create_api_token(user=user, name="bench", scopes=("read",), actor="bench", now=now)
    client, headers = Client(SERVER_NAME="localhost"), {"Authorization": f"Bearer {secret}"}

    def listing() -> int:
        path: str | None = f"/api/v1/models/{MODEL}/versions?limit={PAGE}"
        seen = 0
        while path:
            page = client.get(path, headers=headers).json()
            seen += len(page["results"])
            path = page["next"]
        if seen != versions:
            raise BenchmarkVoid(f"the list has {seen} versions, {versions} were registered")
        return seen

    peer = "read the rows"
    rows = Version.objects.filter(model__name=MODEL).defer("manifest")
    cases: list[Case] = [
        (peer, lambda: list(rows.all()), None),
        (f"list in pages of {PAGE}", listing, peer),
    ]
    measured = rounds_of(cases, rounds)
    once = {"write the rows by hand": by_hand, "register them": registering}
    measured["cases"] = {
        **{
            name: {
                "ms": {"median": ms, "min": ms, "max": ms},
                "against_peer": None if name.startswith("write") else ms / by_hand,
            }
            for name, ms in once.items()
        },
        **measured["cases"],
    }
    return measured


def _by_hand(versions: int, now: Any) -> float:
    """Milliseconds for the same rows, a transaction a version, without a check or an event."""
    from django.db import transaction

    from controlplane.catalog.models import Model, Variant, Version, VersionFile

    model = Model.objects.create(name=PEER_MODEL, created_at=now)
    started = time.perf_counter()
    for number in range(1, versions + 1):
        document = manifest(-number)
        build = {
            "manifest": document,
            "manifest_digest": f"sha256:{number:064}",
            "size_bytes": 3000,
        }
        with transaction.atomic():
            version = Version.objects.create(
                model=model, number=number, created_by="bench", created_at=now, **build
            )
            Variant.objects.create(version=version, name="default", **build)
            VersionFile.objects.bulk_create(
                VersionFile(
                    version=version,
                    path=file["path"],
                    size_bytes=file["size"],
                    sha256=file["sha256"],
                )
                for file in document["files"]
            )
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    json.dump(_measure(int(sys.argv[1]), int(sys.argv[2])), sys.stdout)
