"""Measures a plan of ten thousand sites: the pure part against the least a repeatable draw can do,
and the whole with its rows against reading the sites alone.

python -m benchmarks.plan SITES ROUNDS     on the configured database; prints the figures
"""

import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks import databases
from benchmarks.databases import Database
from benchmarks.errors import BenchmarkVoid
from benchmarks.options import Options
from benchmarks.servers import run_python, server_environment
from benchmarks.tables import align
from controlplane.domain.selection import Candidate, Plan, plan_stages
from controlplane.domain.selector import TIERS
from controlplane.domain.stages import MAX_STAGES, StageSpec
from controlplane.domain.strategies import BUILT_IN

NAME = "plan"
SITES = 10_000
REGIONS = 20
ACCELERATORS = ("none", "NVIDIA L4", "NVIDIA H100", "NVIDIA Jetson AGX Orin")
MODEL = "bench"
PRODUCT = "controlplane.config.settings"
_CANARY = next(spec for spec in BUILT_IN if spec.name == "canary")
_MANY = tuple(StageSpec(name=f"s{n}", percent=10, soak_seconds=0) for n in range(MAX_STAGES))
_HEADINGS = ("", "ms", "min-max", "x peer")
Case = tuple[str, Callable[[], object], str | None]


def run(options: Options, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """The tables and the document: in memory, then on each database that is there."""
    say(f"in memory: {SITES} sites")
    figures = _rounds(_in_memory(), options.rounds)
    texts, results = [_table("in memory", figures)], {"memory": figures}
    for name, opened in {"sqlite": databases.sqlite, "postgresql": databases.postgresql}.items():
        if name in options.databases:
            text, results[name] = _on_database(opened, options, say)
            texts.append(text)
    return "\n\n".join(texts), {"sites": SITES, "results": results}


def _in_memory() -> list[Case]:
    sites = [
        Candidate(
            name=_name(n),
            tier=TIERS[n % len(TIERS)],
            region=f"region-{n % REGIONS}",
            hardware=ACCELERATORS[n % len(ACCELERATORS)],
        )
        for n in range(SITES)
    ]
    names = [site.name for site in sites]

    def plan(specs: Sequence[StageSpec]) -> Plan:
        made = plan_stages(specs=specs, candidates=sites, seed="seed")
        if made.sites + len(made.excluded) != SITES:
            raise BenchmarkVoid(f"the plan speaks of {made.sites} sites, there are {SITES}")
        return made

    if plan(_CANARY.all_stages) != plan_stages(
        specs=_CANARY.all_stages, candidates=sites[::-1], seed="seed"
    ):
        raise BenchmarkVoid("the same sites in another order gave another plan")
    peer = "hash and sort the names"
    return [
        (peer, lambda: sorted(names, key=lambda n: hashlib.sha256(n.encode()).digest()), None),
        ("plan of 4 stages", lambda: plan(_CANARY.all_stages), peer),
        (f"plan of {MAX_STAGES} stages", lambda: plan(_MANY), peer),
    ]


def _on_database(
    opened: Callable[[Path], AbstractContextManager[Database | str]],
    options: Options,
    say: Callable[[str], None],
) -> tuple[str, dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory(prefix="waypost-bench-") as folder,
        opened(Path(folder)) as database,
    ):
        if isinstance(database, str):
            return f"skipped: {database}", {"skipped": database}
        say(f"{database.described}: {SITES} sites")
        env = server_environment(data_dir=Path(folder) / "data", database_url=database.url)
        run_python(["manage.py", "migrate", "--verbosity=0"], settings=PRODUCT, env=env)
        command = ["-m", "benchmarks.plan", str(SITES), str(options.rounds)]
        figures = json.loads(run_python(command, settings=PRODUCT, env=env))
        return _table(f"{database.described}, {figures['queries']} queries", figures), figures


def _with_rows(sites: int, rounds: int) -> dict[str, Any]:
    """In a process of its own, on the database that the environment names."""
    import django

    django.setup()

    from django.db import connection
    from django.test.utils import CaptureQueriesContext
    from django.utils import timezone

    from controlplane.fleet.models import Site
    from controlplane.rollouts.planning import RolloutPlan, plan_rollout

    now = timezone.now()
    _make_rows(sites, now)

    def plan() -> RolloutPlan:
        return plan_rollout(model_name=MODEL, version_number=1, strategy=_CANARY, now=now)

    with CaptureQueriesContext(connection) as captured:
        digest = plan().digest
    if plan().digest != digest or plan().plan.sites != sites:
        raise BenchmarkVoid("the same rows gave another plan, or one that leaves sites out")
    peer = "read the sites"
    cases: list[Case] = [
        (peer, lambda: list(Site.objects.values_list("pk", "name", "tier", "region")), None),
        ("plan of 4 stages", plan, peer),
    ]
    return {"queries": len(captured), **_rounds(cases, rounds)}


def _make_rows(sites: int, now: Any) -> None:
    """By hand, in bulk: the services make one site at a time, with events."""
    from controlplane.catalog.models import Model, Variant, Version, VersionState
    from controlplane.fleet.models import Accelerator, Agent, Lease, Server, Site

    model = Model.objects.create(name=MODEL, created_at=now)
    build = {"manifest": {}, "manifest_digest": "sha256:0", "size_bytes": 1 << 30}
    version = Version.objects.create(
        model=model,
        number=1,
        state=VersionState.APPROVED,
        **build,
        created_by="bench",
        created_at=now,
    )
    Variant.objects.create(version=version, name="default", **build)
    made = Site.objects.bulk_create(
        Site(
            name=_name(n),
            tier=TIERS[n % len(TIERS)],
            region=f"region-{n % REGIONS}",
            labels={"ring": str(n % 5)},
            created_at=now,
        )
        for n in range(sites)
    )
    agents = Agent.objects.bulk_create(
        Agent(site=site, public_key=site.name.encode().ljust(32)[:32], enrolled_at=now)
        for site in made
    )
    Lease.objects.bulk_create(Lease(agent=agent, last_seen_at=now) for agent in agents)
    servers = Server.objects.bulk_create(
        Server(site=site, hostname="h", disk_free_bytes=1 << 40, reported_at=now) for site in made
    )
    kinds = [ACCELERATORS[n % len(ACCELERATORS)] for n in range(sites)]
    Accelerator.objects.bulk_create(
        Accelerator(server=server, uuid="gpu-0", name=kind)
        for server, kind in zip(servers, kinds, strict=True)
        if kind != "none"
    )


def _name(number: int) -> str:
    return f"site-{number:05}"


def _rounds(cases: Sequence[Case], rounds: int) -> dict[str, Any]:
    """Milliseconds of each case: the order alternates, the first pass is not counted."""
    taken: dict[str, list[float]] = {name: [] for name, _, _ in cases}
    for number in range(rounds + 1):
        for name, work, _ in cases if number % 2 else reversed(cases):
            started = time.perf_counter()
            work()
            if number:
                taken[name].append((time.perf_counter() - started) * 1000)
    median = {name: statistics.median(ms) for name, ms in taken.items()}
    return {
        "cases": {
            name: {
                "ms": {"median": median[name], "min": min(taken[name]), "max": max(taken[name])},
                "against_peer": median[name] / median[peer] if peer else None,
            }
            for name, _, peer in cases
        }
    }


def _table(title: str, figures: Mapping[str, Any]) -> str:
    rows = [_HEADINGS]
    for name, case in figures["cases"].items():
        ms, against = case["ms"], case["against_peer"]
        spread = f"{ms['min']:,.0f}-{ms['max']:,.0f}"
        rows.append((name, f"{ms['median']:,.0f}", spread, f"{against:.1f}" if against else ""))
    return "\n".join([f"{title}: a plan of {SITES:,} sites", *align(rows)])


def main() -> None:
    json.dump(_with_rows(int(sys.argv[1]), int(sys.argv[2])), sys.stdout)


if __name__ == "__main__":
    main()
