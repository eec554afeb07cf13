"""Measures the question "which of my sites can take this version": ten thousand sites, two builds,
against reading the sites alone.

python -m benchmarks.fit SITES ROUNDS     on the configured database; prints the figures
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.errors import BenchmarkVoid
from benchmarks.measured import Case, on_databases, rounds_of
from benchmarks.options import Options

NAME = "fit"
SITES = 10_000
MODEL = "bench"
_CAPABILITIES = ("8.9", "8.6", "9.0", "")


def run(options: Options, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """A table and the figures for each database that is there."""
    title = f"fit of one version over {SITES:,} sites"
    command = ["-m", "benchmarks.fit", str(SITES), str(options.rounds)]
    text, results = on_databases(options, say, title=title, command=command)
    return text, {"sites": SITES, "results": results}


def _measure(sites: int, rounds: int) -> dict[str, Any]:
    """In a process of its own, on the database that the environment names."""
    import django

    django.setup()

    from django.db import connection
    from django.test.utils import CaptureQueriesContext
    from django.utils import timezone

    from controlplane.catalog.models import Version
    from controlplane.fleet.models import Site
    from controlplane.rollouts.planning import RolloutPlan, plan_rollout
    from controlplane.rollouts.site_fits import SiteFit, site_fits

    now = timezone.now()
    _make_rows(sites, now)
    version = Version.objects.select_related("model").get()

    def fit() -> list[SiteFit]:
        return site_fits(version, lambda traits: True)

    def plan() -> RolloutPlan:
        return plan_rollout(model_name=MODEL, version_number=1, now=now)

    with CaptureQueriesContext(connection) as captured:
        found = fit()
    wanted = {"trt-8.9": sites // 4, "onnx": sites - sites // 4}
    given = {name: sum(each.choice.variant == name for each in found) for name in wanted}
    if given != wanted:
        raise BenchmarkVoid(f"the sites get {given}, not {wanted}")
    peer = "read the sites"
    cases: list[Case] = [
        (peer, lambda: list(Site.objects.values_list("pk", "name", "tier", "region")), None),
        ("fit of 2 builds", fit, peer),
        ("plan of 2 builds", plan, peer),
    ]
    return {"queries": len(captured), **rounds_of(cases, rounds)}


def _make_rows(sites: int, now: Any) -> None:
    from benchmarks.fleet_rows import make_fleet
    from controlplane.catalog.models import LearnedFootprint, Model, Variant, Version, VersionState
    from controlplane.fleet.models import Accelerator, Agent, Server

    entries = {"trt-8.9": {"compute_capability_exact": "8.9", "driver": "550.54"}, "onnx": {}}
    model = Model.objects.create(name=MODEL, created_at=now)
    version = Version.objects.create(
        model=model,
        number=1,
        state=VersionState.APPROVED,
        manifest={"schema": "waypost.manifest/2", "variants": []},
        manifest_digest="sha256:0",
        size_bytes=2 << 30,
        created_by="bench",
        created_at=now,
    )
    for priority, (name, requires) in enumerate(reversed(entries.items())):
        Variant.objects.create(
            version=version,
            name=name,
            priority=priority,
            manifest={"schema": "waypost.manifest/1", "files": [], "requires": requires},
            manifest_digest=f"sha256:{name}",
            size_bytes=1 << 30,
            content_class="executable",
        )
    LearnedFootprint.objects.create(
        manifest_digest="sha256:trt-8.9",
        hardware="GPU 8.9",
        accelerator_memory_bytes=6 << 30,
        learned_at=now,
    )
    make_fleet(sites, now)
    Agent.objects.update(executable_allowed=True)
    tritons = [{"name": "", "version": "2.70.0", "models": None, "backends": ["onnxruntime"]}]
    Server.objects.update(tritons=tritons, memory_bytes=64 << 30, disk_total_bytes=1 << 41)
    servers = list(Server.objects.order_by("pk").values_list("pk", flat=True))
    Accelerator.objects.bulk_create(
        Accelerator(
            server_id=pk,
            uuid="gpu-0",
            name=f"GPU {_CAPABILITIES[n % 4]}",
            memory_bytes=24 << 30,
            compute_capability=_CAPABILITIES[n % 4],
            driver_version="550.54.15",
        )
        for n, pk in enumerate(servers)
        if _CAPABILITIES[n % 4]
    )
    Server.objects.filter(accelerators=None).update(accelerator_count=0)


if __name__ == "__main__":
    json.dump(_measure(int(sys.argv[1]), int(sys.argv[2])), sys.stdout)
