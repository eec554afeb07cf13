"""Rows of a small fleet, made by the product's own services; runs in a process of its own.

python -m benchmarks.sites make N     prints {site: enrolment token}
python -m benchmarks.sites reported   prints {agent: [sequence, reason]} as stored
"""

import hashlib
import io
import json
import sys

import django

from benchmarks import fleet_rows

MODEL = "bench"
_FILES = {"config.pbtxt": b'backend: "python"\n', "golden.json": b"{}\n", "model.py": b"pass\n"}


def make(count: int) -> dict[str, str]:
    """`count` sites, each wishing for the same version of one model."""
    from django.db import transaction
    from django.utils import timezone

    from controlplane.catalog.services import create_version, store_blob
    from controlplane.fleet.services import create_enrolment_token, create_site
    from controlplane.rollouts.wishes import change_wishes

    now = timezone.now()
    manifest = {
        "schema": "waypost.manifest/1",
        "files": [
            {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in _FILES.items()
        ],
    }
    version, _ = create_version(
        model_name=MODEL, number=1, manifest=manifest, actor="bench", now=now
    )
    for data in _FILES.values():
        digest = hashlib.sha256(data).hexdigest()
        store_blob(version=version, sha256=digest, stream=io.BytesIO(data), now=now)
    fleet_rows.let_in(version, now)
    tokens, ids = {}, []
    for number in range(count):
        fields = {"name": f"site-{number}", "tier": "edge", "region": "bench"}
        site = create_site(fields=fields, actor="bench", now=now)
        tokens[site.name] = create_enrolment_token(site=site, actor="bench", now=now)[1]
        ids.append(site.pk)
    with transaction.atomic():
        change_wishes(
            model_id=version.model_id, wishes=dict.fromkeys(ids, version), keep_previous=False
        )
    return tokens


def reported() -> dict[str, list[object]]:
    """What the reports left behind: the last sequence of each agent and its model's reason."""
    from controlplane.fleet.models import Agent
    from controlplane.rollouts.models import SiteModel

    reasons = dict(SiteModel.objects.values_list("site_id", "reported_reason"))
    return {
        str(pk): [seq, reasons[site_id]]
        for pk, seq, site_id in Agent.objects.values_list("pk", "report_seq", "site_id")
    }


def main() -> None:
    django.setup()
    result: object = make(int(sys.argv[2])) if sys.argv[1] == "make" else reported()
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
