"""Measures the engine's tick over a hundred running rollouts against as many bare round trips to
the database, and that the number of its queries does not depend on the number of sites.

python -m benchmarks.tick SITES ROLLOUTS ROUNDS TITLE    on the configured database
"""

import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import databases, fleet_rows
from benchmarks.costs import Cost, Meter, foreign_share
from benchmarks.databases import Database
from benchmarks.errors import BenchmarkVoid
from benchmarks.options import Options
from benchmarks.rounds import NOISY_SHARE
from benchmarks.servers import run_python, server_environment
from benchmarks.tables import align

if TYPE_CHECKING:
    from django.db.models import Model

    from controlplane.fleet.models import Site
    from controlplane.rollouts.models import Stage

NAME = "tick"
PRODUCT = "controlplane.config.settings"
TICK = timedelta(seconds=5)
_HEADINGS = ("", "ms", "min-max", "cpu ms", "db cpu ms", "queries", "x peer")
_TRIPS, _COUNT = "peer: bare round trips", "peer: count all deployments"
# What the rollouts are doing, in turn, and the reason code that says so.
_DOING = {
    "waits for sites": "deployments-unfinished",
    "soaks": "soaking",
    "is capped": "deployments-unfinished",
    "soaks with failures": "soaking",
}


def run(options: Options, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """The tables and the document: a tenth of the sites for the number of queries, then all."""
    texts, results = [], {}
    for name, opened in {"sqlite": databases.sqlite, "postgresql": databases.postgresql}.items():
        if name in options.databases:
            text, results[name] = _on_database(opened, options, say)
            texts.append(text)
    sizes = {"sites": options.tick_sites, "rollouts": options.tick_rollouts}
    return "\n\n".join(texts), {**sizes, "results": results}


def _on_database(
    opened: Callable[[Path], AbstractContextManager[Database | str]],
    options: Options,
    say: Callable[[str], None],
) -> tuple[str, dict[str, Any]]:
    figures: dict[int, dict[str, Any]] = {}
    for sites in (options.tick_sites // 10, options.tick_sites):
        with (
            tempfile.TemporaryDirectory(prefix="waypost-bench-") as folder,
            opened(Path(folder)) as database,
        ):
            if isinstance(database, str):
                return f"skipped: {database}", {"skipped": database}
            say(f"{database.described}: {options.tick_rollouts} rollouts of {sites} sites")
            env = server_environment(data_dir=Path(folder) / "data", database_url=database.url)
            run_python(["manage.py", "migrate", "--verbosity=0"], settings=PRODUCT, env=env)
            command = ["-m", "benchmarks.tick", str(sites), str(options.tick_rollouts)]
            command += [str(options.rounds), database.title or ""]
            figures[sites] = json.loads(run_python(command, settings=PRODUCT, env=env))
            described = database.described
    few, many = figures.values()
    if few["queries"] != many["queries"]:
        raise BenchmarkVoid(
            f"{described}: a tick takes {few['queries']} over {min(figures)} sites a rollout, and "
            f"{many['queries']} over {max(figures)}"
        )
    document = {"database": described, "by_sites": figures}
    return "\n\n".join(_table(described, sites, each) for sites, each in figures.items()), document


def _measure(sites: int, rollouts: int, rounds: int, title: str) -> dict[str, Any]:
    """In a process of its own, on the database that the environment names."""
    import django

    django.setup()

    from django.utils import timezone

    from controlplane.rollouts import services

    now = timezone.now()
    _make_rows(sites, rollouts, now)
    fleet_rows.gather_statistics()
    services.tick(now=now)  # writes the reasons; from now on they stand
    now += TICK
    with _counted() as queries:
        services.tick(now=now)
    ids = services.open_rollout_ids()
    work: dict[str, Callable[[], object]] = {
        _TRIPS: lambda: _round_trips(ids, queries),
        _COUNT: _count_deployments,
        "tick": lambda: services.tick(now=now),
    }
    meters = {name: Meter(title=title) for name in work}
    for number in range(2 * rounds + 1):
        now += TICK
        fleet_rows.hear_of_all(now)
        for name in work if number % 2 else reversed(work):
            with meters[name].running():
                work[name]()
    _check(rollouts, ticks=2 * rounds + 2)
    return {
        "queries": dict(queries),
        "queries_per_rollout": queries.total() / rollouts,
        "foreign_share": foreign_share(list(meters.values())),
        "cases": {name: _case(meter.each[1:]) for name, meter in meters.items()},
    }


def _case(costs: Sequence[Cost]) -> dict[str, Any]:
    wall = [cost.wall * 1000 for cost in costs]
    median = {
        key: statistics.median(asdict(cost)[key] * 1000 for cost in costs)
        for key in ("cpu", "database")
    }
    return {
        "ms": {"median": statistics.median(wall), "min": min(wall), "max": max(wall)},
        "cpu_ms": median["cpu"],
        "database_cpu_ms": median["database"],
    }


@contextmanager
def _counted() -> Iterator[Counter[str]]:
    """What is asked of the database, by the first word; transactions are not counted."""
    from django.db import connection

    seen: Counter[str] = Counter()

    def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        word = sql.split(maxsplit=1)[0].upper()
        if word in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            seen["reads" if word == "SELECT" else "writes"] += 1
        return execute(sql, params, many, context)

    with connection.execute_wrapper(count):
        yield seen


def _round_trips(ids: Sequence[int], queries: Mapping[str, int]) -> None:
    """As many transactions, reads and writes as the tick takes, each of one row by its key."""
    from django.db import transaction
    from django.db.models import F

    from controlplane.rollouts.models import Rollout

    for number, pk in enumerate(ids):
        reads, writes = (
            queries[kind] * (number + 1) // len(ids) - queries[kind] * number // len(ids)
            for kind in ("reads", "writes")
        )
        row = Rollout.objects.filter(pk=pk)
        with transaction.atomic():
            for _ in range(reads):
                row.values_list("state", "reason", "revision").get()
            for _ in range(writes):
                row.update(expected_seconds=F("expected_seconds"))


def _count_deployments() -> None:
    """Reading once, in one query, what the facts of all rollouts are made from."""
    from django.db.models import Count

    from controlplane.rollouts.models import Deployment

    rows = Deployment.objects.order_by().values_list("rollout_id", "stage_id", "kind", "state")
    list(rows.annotate(count=Count("pk")))


def _check(rollouts: int, *, ticks: int) -> None:
    """A tick goes on over a rollout that it cannot advance, so what it left is looked at."""
    from controlplane.rollouts.models import Rollout

    codes = list(_DOING.values())
    for number, row in enumerate(Rollout.objects.order_by("pk")):
        wanted = codes[number % len(codes)]
        if (row.state, row.reason_code) != ("running", wanted):
            raise BenchmarkVoid(f"rollout {row.pk} is {row.state}, not {wanted}: {row.reason}")
        soaked = row.stages.get(index=1).soaked_seconds
        if wanted == "soaking" and soaked != ticks * TICK.total_seconds():
            raise BenchmarkVoid(f"rollout {row.pk} counted {soaked} s of soak in {ticks} ticks")
    if number + 1 != rollouts:
        raise BenchmarkVoid(f"{number + 1} rollouts are there instead of {rollouts}")


def _make_rows(sites: int, rollouts: int, now: datetime) -> None:
    """One model per rollout, all at the same sites. The first of each kind is made row by row, the
    others are copies of it."""
    fleet = fleet_rows.make_fleet(sites, now)
    made = [_make_rollout(number, now) for number in range(rollouts)]
    for number, stages in enumerate(made):
        if number < len(_DOING):
            _fill(stages, list(_DOING)[number], fleet, now)
        else:
            _copy(made[number % len(_DOING)], stages)


def _make_rollout(number: int, now: datetime) -> "list[Stage]":
    """The first stage has passed, the second runs or soaks."""
    from controlplane.domain.policy import StagePolicy
    from controlplane.rollouts.models import Rollout, Stage

    doing = list(_DOING)[number % len(_DOING)]
    _, new = (fleet_rows.make_version(f"model-{number:03}", n, now) for n in (1, 2))
    rollout = Rollout.objects.create(
        model=new.model,
        version=new,
        state="running",
        waiting_since=now,
        seed="seed",
        plan_digest="sha256:0",
        expected_seconds=0,
        created_by="bench",
        created_at=now - timedelta(hours=1),
    )
    policy = StagePolicy(
        failures_tolerated="50%", max_concurrent="10%" if doing == "is capped" else None
    )
    states = {"canary": "passed", "rest": "soaking" if doing.startswith("soaks") else "running"}
    return [
        Stage.objects.create(
            rollout=rollout,
            index=index,
            name=name,
            select={},
            policy=policy.document(),
            soak_seconds=3600,
            state=state,
            started_at=now,
            soak_counted_until=now,
        )
        for index, (name, state) in enumerate(states.items())
    ]


def _fill(stages: "Sequence[Stage]", doing: str, fleet: "Sequence[Site]", now: datetime) -> None:
    """The first tenth has succeeded; what the others are at is what the rollout is doing."""
    from controlplane.rollouts.models import Deployment, SiteModel

    rollout = stages[0].rollout
    old, new = rollout.model.versions.order_by("number")
    deployments, wishes = [], []
    canary = len(fleet) // 10
    for number, site in enumerate(fleet):
        state = "succeeded" if number < canary else _state(doing, number)
        arrived = state == "succeeded"
        wished = state not in ("pending", "failed")
        deployments.append(
            Deployment(
                rollout=rollout,
                stage=stages[number >= canary],
                site=site,
                model_id=rollout.model_id,
                kind="forward",
                from_version=old,
                to_version=new,
                state=state,
                generation=1,
                offered_at=None if state == "pending" else now,
                holds_lease=state in ("proving", "verifying"),
                leased_at=now,
            )
        )
        wishes.append(
            SiteModel(
                site=site,
                model_id=rollout.model_id,
                desired=new if wished else old,
                generation=1,
                reported_phase="staged" if wished and not arrived else "succeeded",
                reported_serving=2 if arrived else 1,
                reported_healthy=True,
                reported_at=now,
            )
        )
    Deployment.objects.bulk_create(deployments)
    SiteModel.objects.bulk_create(wishes)


def _copy(stages: "Sequence[Stage]", into: "Sequence[Stage]") -> None:
    """The same deployments and wishes for another rollout of another model."""
    from controlplane.rollouts.models import Deployment, SiteModel

    target = into[0].rollout
    versions = [
        list(stage.rollout.model.versions.order_by("number")) for stage in (stages[0], into[0])
    ]
    for stage, other in zip(stages, into, strict=True):
        _insert(
            Deployment,
            {"stage_id": stage.pk},
            rollout_id=target.pk,
            stage_id=other.pk,
            model_id=target.model_id,
            from_version_id=versions[1][0].pk,
            to_version_id=versions[1][1].pk,
        )
    for version, other_version in zip(*versions, strict=True):
        _insert(
            SiteModel,
            {"desired_id": version.pk},
            model_id=target.model_id,
            desired_id=other_version.pk,
        )


def _insert(table: "type[Model]", where: Mapping[str, int], **changes: int) -> None:
    """Copies the rows of a table that are as `where` says, with other values in some columns."""
    from django.db import connection

    fields = [str(f.column) for f in table._meta.concrete_fields if not f.primary_key]
    values = [str(changes.get(column, f'"{column}"')) for column in fields]
    columns = ", ".join(f'"{column}"' for column in fields)
    chosen = " AND ".join(f'"{column}" = {value}' for column, value in where.items())
    name = table._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f'INSERT INTO "{name}" ({columns}) SELECT {", ".join(values)} FROM "{name}" '
            f"WHERE {chosen}"
        )


def _state(doing: str, number: int) -> str:
    match doing:
        case "waits for sites":
            return ("succeeded", "staged", "staged", "proving", "verifying")[number % 5]
        case "is capped":
            return "staging" if number % 10 == 1 else "pending"
        case "soaks with failures":
            return "failed" if number % 50 == 1 else "succeeded"
        case _:
            return "succeeded"


def _table(described: str, sites: int, figures: Mapping[str, Any]) -> str:
    cases, queries = figures["cases"], sum(figures["queries"].values())
    peer, rows = cases[_TRIPS], [_HEADINGS]
    for name, case in cases.items():
        ms = case["ms"]
        spread = f"{ms['min']:,.0f}-{ms['max']:,.0f}"
        cpu, database = case["cpu_ms"], case["database_cpu_ms"]
        against = (cpu + database) / (peer["cpu_ms"] + peer["database_cpu_ms"])
        rows.append(
            (
                name,
                f"{ms['median']:,.0f}",
                spread,
                f"{cpu:,.0f}",
                f"{database:,.0f}",
                "1" if name == _COUNT else f"{queries:,}",
                "" if name == _TRIPS else f"{against:.2f}",
            )
        )
    noise = f"others used {figures['foreign_share']:.0%} of the machine"
    noisy = "NOISY, " if figures["foreign_share"] > NOISY_SHARE else ""
    title = (
        f"{described}: rollouts of {sites:,} sites, {figures['queries_per_rollout']:.1f} queries"
    )
    return "\n".join([f"{title} per rollout; {noisy}{noise}", *align(rows)])


def main() -> None:
    sites, rollouts, rounds = map(int, sys.argv[1:4])
    json.dump(_measure(sites, rollouts, rounds, sys.argv[4]), sys.stdout)


if __name__ == "__main__":
    main()
