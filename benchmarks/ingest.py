"""Measures what a fleet's measurements cost: taking them in, adding them up, reading the sums, and
the room they take; against the rate that 1,000 sites of 10 models at 15 s need.

python -m benchmarks.ingest SITES DAYS ROUNDS TITLE     on the configured database; prints figures
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks import databases
from benchmarks.costs import Cost, Meter
from benchmarks.databases import Database
from benchmarks.errors import BenchmarkVoid
from benchmarks.measured import PRODUCT, Case, rounds_of
from benchmarks.options import FULL_SIZE, Options
from benchmarks.servers import run_python, server_environment
from benchmarks.tables import align

NAME = "ingest"
SITES, MODELS, EVERY_SECONDS = 1000, 10, 15
NEEDED = SITES / EVERY_SECONDS
# Hours of hourly sums that are made: a month takes minutes, so `--full` alone makes it.
FEW_DAYS, ALL_DAYS = 2, 30
LOOKS = 2
BOUNDS = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 250.0, 500.0, 1000.0]
COUNTS = [0, 0, 3, 118, 402, 71, 9, 2, 0, 0, 0]
MEASURED_DAY = datetime(2026, 11, 23, tzinfo=UTC)


def run(options: Options, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """Tables and figures for each database that is there."""
    days = ALL_DAYS if FULL_SIZE in options.sizes else FEW_DAYS
    texts, results = [], {}
    for name, opened in {"sqlite": databases.sqlite, "postgresql": databases.postgresql}.items():
        if name in options.databases:
            text, results[name] = _on(opened, options, days, say)
            texts.append(text)
    return "\n\n".join(texts), {"sites": SITES, "models": MODELS, "days": days, "results": results}


def _on(
    opened: Callable[[Path], AbstractContextManager[Database | str]],
    options: Options,
    days: int,
    say: Callable[[str], None],
) -> tuple[str, dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory(prefix="waypost-bench-") as folder,
        opened(Path(folder)) as database,
    ):
        if isinstance(database, str):
            return f"skipped: {database}", {"skipped": database}
        say(f"{database.described}: {SITES} sites x {MODELS} models, {days} days of hourly sums")
        env = server_environment(data_dir=Path(folder) / "data", database_url=database.url)
        run_python(["manage.py", "migrate", "--verbosity=0"], settings=PRODUCT, env=env)
        command = ["-m", "benchmarks.ingest", str(SITES), str(days), str(options.rounds)]
        command += [database.title or ""]
        figures = json.loads(run_python(command, settings=PRODUCT, env=env))
        return _text(database.described, days, figures), figures


def _text(described: str, days: int, figures: Mapping[str, Any]) -> str:
    rates = [("", "intervals/s", "x needed", "cpu ms each", "db cpu ms each", "cores needed")]
    for name, each in figures["rates"].items():
        rate, cpu = each["per_second"], (each["cpu_ms"], each["database_cpu_ms"])
        spent = (*(f"{ms:.1f}" for ms in cpu), f"{sum(cpu) * NEEDED / 1000:.2f}")
        rates.append((name, f"{rate:,.0f}", f"{rate / NEEDED:.1f}", *spent))
    rates.append(("needed", f"{NEEDED:,.0f}", "1.0", "", "", ""))
    queries = [("", "ms", "min-max", "x peer")]
    for name, case in figures["cases"].items():
        ms, against = case["ms"], case["against_peer"]
        spread = f"{ms['min']:,.0f}-{ms['max']:,.0f}"
        queries.append((name, f"{ms['median']:,.0f}", spread, f"{against:.2f}" if against else ""))
    room = [("", "bytes each", "MB a site and day", "kept days", "GB of 1,000", "GB of 10,000")]
    for name, each in figures["room"].items():
        daily, held = each["daily"], each["daily"] * each["kept_days"]
        sizes = (f"{held * 1e3 / 1e9:,.1f}", f"{held * 1e4 / 1e9:,.0f}")
        room.append(
            (name, f"{each['bytes']:,.0f}", f"{daily / 1e6:.2f}", f"{each['kept_days']:g}", *sizes)
        )
    title = f"{described}: {SITES:,} sites x {MODELS} models every {EVERY_SECONDS} s"
    parts = (title, *align(rates), "", f"reads over {days} days of hourly sums", *align(queries))
    return "\n".join([*parts, "", *align(room)])


def _measure(sites: int, days: int, rounds: int, title: str) -> dict[str, Any]:
    """In a process of its own, on the database that the environment names."""
    import django

    django.setup()

    from benchmarks.fleet_rows import gather_statistics, make_fleet, session_secret
    from controlplane.telemetry.partitions import make_partitions

    now = MEASURED_DAY + timedelta(hours=12, minutes=30)
    secrets = [session_secret(site) for site in make_fleet(sites, now)]
    make_partitions(now=now)
    size = _bytes()
    taking, adding = Meter(title=title), Meter(title=title)
    taken = len(secrets) * LOOKS
    with taking.running():
        for look in range(LOOKS):
            _take(secrets, look, now + timedelta(seconds=EVERY_SECONDS * look))
    raw = (_bytes() - size) / taken
    with adding.running():
        _add_up(taken, now + timedelta(minutes=1))
    rates = {
        "taken in": _rate(taking.total, taken),
        "added up": _rate(adding.total, taken),
        "both": _rate(taking.total + adding.total, taken),
    }
    size = _bytes()
    rows = _make_hours(days)
    gather_statistics()
    row = (_bytes() - size) / rows
    cases = _reads(days, rounds)
    return {"rates": rates, **cases, "room": _room(raw, row)}


def _take(secrets: list[str], look: int, now: datetime) -> None:
    """As the agents' plane does, without HTTP: session, JSON, every field, one transaction."""
    from controlplane.api import strict_json
    from controlplane.api.agent_v1.measurement_body import parse_measurement
    from controlplane.fleet.identity import authenticate_agent
    from controlplane.fleet.measurements import record_measurement

    body = json.dumps(_document(look)).encode()
    for secret in secrets:
        caller = authenticate_agent(secret=secret, now=now)
        measurement = parse_measurement(strict_json.loads(body))
        record_measurement(caller=caller, measurement=measurement, now=now)


def _document(look: int) -> dict[str, Any]:
    times = {
        name: 4_912_000 + index
        for index, name in enumerate(
            ("request_us", "queue_us", "compute_input_us", "compute_infer_us", "compute_output_us")
        )
    }
    models = [
        {
            "server": "",
            "model": f"model-{number}",
            "version": "2",
            "requests": 605,
            "failures": {},
            "batch_executions": 588,
            **times,
            "latency_ms": {"bounds": BOUNDS, "counts": COUNTS},
        }
        for number in range(MODELS)
    ]
    gauges = {"utilization": 0.6, "memory_used_bytes": 3 << 30, "power_watts": 51.5}
    return {
        "boot_id": "boot",
        "seq": look,
        "seconds": EVERY_SECONDS,
        "age_seconds": 0.1,
        "models": models,
        "accelerators": [{"uuid": "GPU-1", "energy_joules": 770.0, **gauges}],
    }


def _add_up(taken: int, now: datetime) -> None:
    from controlplane.telemetry.rollups import roll_up

    done = 0
    while count := roll_up(now=now):
        done += count
    if done != taken:
        raise BenchmarkVoid(f"{done} of {taken} intervals were added up")


def _rate(cost: Cost, count: int) -> dict[str, float]:
    return {
        "per_second": count / cost.wall,
        "cpu_ms": cost.cpu / count * 1000,
        "database_cpu_ms": cost.database / count * 1000,
    }


def _make_hours(days: int) -> int:
    """Copies of the sums that are there, an hour and a day each, back in time. How many rows."""
    from controlplane.telemetry.grains import Grain
    from controlplane.telemetry.models import MODEL_SUMS, SITE_SUMS
    from controlplane.telemetry.partitions import make_partitions

    made = 0
    for back in range(days, 0, -1):
        make_partitions(now=MEASURED_DAY - timedelta(days=back))
    for tables in (MODEL_SUMS, SITE_SUMS):
        for grain, hours in ((Grain.HOUR, 1), (Grain.DAY, 24)):
            for back in range(hours, 24 * days + 1, hours):
                start = MEASURED_DAY - timedelta(hours=back)
                made += _copy(tables[grain]._meta, start, hours)
    return made


def _copy(table: Any, start: datetime, hours: int) -> int:
    """With figures as of so many hours."""
    from django.db import connection, models

    fields = table.local_concrete_fields
    named = [field.column for field in fields]
    chosen = [
        f"{field.column} * {hours}" if isinstance(field, models.FloatField) else field.column
        for field in fields
    ]
    chosen[named.index("starts_at")] = "%s"
    given = [connection.ops.adapt_datetimefield_value(each) for each in (start, MEASURED_DAY)]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table.db_table} ({', '.join(named)}) SELECT {', '.join(chosen)} "
            f"FROM {table.db_table} WHERE starts_at >= %s",
            given,
        )
        return int(cursor.rowcount)


def _reads(days: int, rounds: int) -> dict[str, Any]:
    from django.db.models import Sum

    from controlplane.fleet.models import Site
    from controlplane.telemetry.gauges import accelerator_totals
    from controlplane.telemetry.grains import Grain
    from controlplane.telemetry.models import ModelHour
    from controlplane.telemetry.queries import fleet_by, model_sums_by, model_totals

    end = MEASURED_DAY + timedelta(hours=13)
    start = end - timedelta(days=days)
    window: dict[str, Any] = {"start": start, "end": end, "now": end}
    whole = model_totals(**window).sums().requests
    hours = ModelHour.objects.filter(starts_at__gte=start, starts_at__lt=end)
    if whole != hours.aggregate(all=Sum("requests"))["all"]:
        raise BenchmarkVoid("the totals are not the sum of the hours")
    site = Site.objects.order_by("pk").values_list("pk", flat=True)[0]
    recent = {**window, "start": end - timedelta(hours=2)}
    peer = "peer: add up the hours"
    cases: list[Case] = [
        (peer, lambda: hours.aggregate(all=Sum("requests")), None),
        ("all models, by site", lambda: model_totals(**window), peer),
        ("one model, by site", lambda: model_totals(**window, models=["model-3"]), peer),
        ("the fleet by the hour", lambda: fleet_by(Grain.HOUR, start=start, end=end), peer),
        (
            "one model of one site by the hour",
            lambda: model_sums_by(
                Grain.HOUR, start=start, end=end, models=["model-3"], site_ids=[site]
            ),
            peer,
        ),
        (
            "one model by the minute, 2 hours",
            lambda: model_sums_by(Grain.MINUTE, start=recent["start"], end=end, models=["model-3"]),
            peer,
        ),
        ("accelerators", lambda: accelerator_totals(**window), peer),
    ]
    return rounds_of(cases, rounds)


def _room(raw: float, row: float) -> dict[str, dict[str, float]]:
    """Bytes each, bytes that a site adds in a day, and how many days are kept."""
    intervals = 86_400 / EVERY_SECONDS
    rows = MODELS + 1  # with the site's own
    return {
        "raw interval": {"bytes": raw, "daily": raw * intervals, "kept_days": 1},
        "minute": {"bytes": row, "daily": row * rows * 1440, "kept_days": 2},
        "hour": {"bytes": row, "daily": row * rows * 24, "kept_days": 35},
        "day": {"bytes": row, "daily": row * rows, "kept_days": 400},
    }


def _bytes() -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_database_size(current_database())")
        else:
            cursor.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        return int(cursor.fetchone()[0])


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[1:4]]
    json.dump(_measure(given[0], given[1], given[2], sys.argv[4]), sys.stdout)
