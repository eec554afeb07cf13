"""What benchmarks of services have in common: a fresh database of each kind, the work in a process
of its own there, and milliseconds of each case in rounds."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks import databases
from benchmarks.databases import Database
from benchmarks.options import Options
from benchmarks.servers import run_python, server_environment
from benchmarks.tables import align

PRODUCT = "controlplane.config.settings"
_HEADINGS = ("", "ms", "min-max", "x peer")
# A name, the work, and the case that it is compared with.
Case = tuple[str, Callable[[], object], str | None]


def on_databases(
    options: Options, say: Callable[[str], None], *, title: str, command: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """Runs `command`, which prints the figures as JSON, on each database that is there."""
    texts, results = [], {}
    for name, opened in {"sqlite": databases.sqlite, "postgresql": databases.postgresql}.items():
        if name in options.databases:
            text, results[name] = _on_one(opened, say, title, command)
            texts.append(text)
    return "\n\n".join(texts), results


def _on_one(
    opened: Callable[[Path], AbstractContextManager[Database | str]],
    say: Callable[[str], None],
    title: str,
    command: Sequence[str],
) -> tuple[str, dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory(prefix="waypost-bench-") as folder,
        opened(Path(folder)) as database,
    ):
        if isinstance(database, str):
            return f"skipped: {database}", {"skipped": database}
        say(f"{database.described}: {title}")
        env = server_environment(data_dir=Path(folder) / "data", database_url=database.url)
        run_python(["manage.py", "migrate", "--verbosity=0"], settings=PRODUCT, env=env)
        figures = json.loads(run_python([*command], settings=PRODUCT, env=env))
        queries = f", {figures['queries']} queries" if "queries" in figures else ""
        return _table(f"{database.described}{queries}: {title}", figures), figures


def rounds_of(cases: Sequence[Case], rounds: int) -> dict[str, Any]:
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
    return "\n".join([title, *align(rows)])
