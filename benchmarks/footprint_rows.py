"""One site and two versions of a small model that a real Triton serves, made by the product's own
services; runs in a process of its own.

python -m benchmarks.footprint_rows make     prints the site's enrolment token
python -m benchmarks.footprint_rows wish N   the site shall serve version N
"""

import hashlib
import io
import json
import sys

import django

from benchmarks import fleet_rows

MODEL = "echo"
SITE = "footprint"
_CONFIG = f"""name: "{MODEL}"
backend: "python"
max_batch_size: 0
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 1 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""
_SOURCE = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        value = np.array([{number}.0], dtype=np.float32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", value)]) for _ in requests]
"""


def files_of(number: int) -> dict[str, bytes]:
    tensor = {"datatype": "FP32", "shape": [1]}
    golden = {
        "schema": "waypost.golden/1",
        "requests": [
            {
                "name": "constant",
                "inputs": [{"name": "x", **tensor, "data": [0.0]}],
                "outputs": [{"name": "y", **tensor, "data": [float(number)]}],
            }
        ],
    }
    return {
        "config.pbtxt": _CONFIG.encode(),
        "golden.json": json.dumps(golden).encode(),
        "model.py": _SOURCE.format(number=number).encode(),
    }


def make() -> str:
    """The versions, and a site that wishes for nothing yet."""
    from django.utils import timezone

    from controlplane.catalog.services import create_version, store_blob
    from controlplane.fleet.services import create_enrolment_token, create_site

    now = timezone.now()
    for number in (1, 2):
        files = files_of(number)
        digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
        manifest = {
            "schema": "waypost.manifest/1",
            "files": [
                {"path": path, "size": len(data), "sha256": digests[path]}
                for path, data in files.items()
            ],
        }
        version, _ = create_version(
            model_name=MODEL, number=number, manifest=manifest, actor="bench", now=now
        )
        for path, data in files.items():
            store_blob(version=version, sha256=digests[path], stream=io.BytesIO(data), now=now)
        fleet_rows.let_in(version, now)
    fields = {"name": SITE, "tier": "edge", "region": "bench"}
    site = create_site(fields=fields, actor="bench", now=now)
    return create_enrolment_token(site=site, actor="bench", now=now)[1]


def wish(number: int) -> None:
    from django.db import transaction

    from controlplane.catalog.models import Version
    from controlplane.fleet.models import Site
    from controlplane.rollouts.wishes import change_wishes

    version = Version.objects.get(model__name=MODEL, number=number)
    site = Site.objects.get(name=SITE)
    with transaction.atomic():
        change_wishes(model_id=version.model_id, wishes={site.pk: version}, keep_previous=True)


def main() -> None:
    django.setup()
    if sys.argv[1] == "make":
        sys.stdout.write(make())
    else:
        wish(int(sys.argv[2]))


if __name__ == "__main__":
    main()
